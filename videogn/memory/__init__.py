"""Memory of a training step, counted without computing anything and without a GPU."""

from .count import (
    ActivationMemory,
    StepMemory,
    TrainingMemory,
    count_activations,
    count_batch,
    count_longest_clip,
    count_training,
)
from .evaluation import count_evaluation
from .report import Setting, measured_line, peak_line, saved_line
from .units import format_bytes, parse_memory

__all__ = [
    "ActivationMemory",
    "Setting",
    "StepMemory",
    "TrainingMemory",
    "count_activations",
    "count_batch",
    "count_evaluation",
    "count_longest_clip",
    "count_training",
    "format_bytes",
    "measured_line",
    "parse_memory",
    "peak_line",
    "saved_line",
]

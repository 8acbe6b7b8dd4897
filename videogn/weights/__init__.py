"""Checkpoints from elsewhere into this network, and this network out to others."""

from .read import FORMATS, read_source
from .source import Source

__all__ = ["FORMATS", "Source", "read_source"]

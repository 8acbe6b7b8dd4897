"""What the GPU suite ran on."""

from __future__ import annotations

import datetime
import importlib.metadata
import platform
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch


def environment(device: torch.device) -> dict[str, Any]:
    """Device, driver, versions, settings, command and date."""
    found: dict[str, Any] = {
        "command": _command(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": _output(["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]),
        "device": str(device),
        "python": platform.python_version(),
        "threads": torch.get_num_threads(),
        "versions": {name: _version(name) for name in ("torch", "triton", "torchvision", "pytorchvideo")},
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "settings": {
            "tf32": "off in convolutions and matrix products",
            "cudnn.benchmark": "off in correctness and sites, on in steps and evaluation",
            "clocks": "as found",
        },
    }
    if device.type != "cuda":
        return found
    properties = torch.cuda.get_device_properties(device)
    fields = ("driver_version", "power.limit", "clocks.max.sm", "clocks.max.mem")
    chosen = f"GPU-{properties.uuid}" if hasattr(properties, "uuid") else "0"
    query = ["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader"]
    values = (_output([*query, "-i", chosen]) or _output([*query, "-i", "0"]) or "").split(", ")
    return found | {
        "gpu": properties.name,
        "capability": f"{properties.major}.{properties.minor}",
        "multiprocessors": properties.multi_processor_count,
        "memory_mib": properties.total_memory // 2**20,
        "l2_mib": getattr(properties, "L2_cache_size", 0) / 2**20 or None,
        "nvidia_smi": dict(zip(fields, values, strict=True)) if len(values) == len(fields) else None,
    }


def use_settings() -> None:
    """TF32 off, so that float32 is float32; cuDNN's search off until the sections that turn it on."""
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.benchmark = False


def _command() -> str:
    """The command line, with absolute paths cut to their names."""
    words = [Path(word).name if word.startswith("/") else word for word in sys.argv[1:]]
    return shlex.join(["python", "scripts/gpu_suite.py", *words])


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _output(command: list[str]) -> str | None:
    """What a program prints, or None if there is no such program or it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None

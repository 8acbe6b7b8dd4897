"""Amounts of memory as users write and read them."""

from __future__ import annotations

import re

_POWERS = {"": 3, "K": 1, "M": 2, "G": 3, "T": 4}


def parse_memory(text: str) -> int:
    """Bytes of an amount such as ``24GB``, ``24GiB``, ``80G``, ``23034MiB`` or ``24``, which is in GB.

    GB and GiB are both 2^30 bytes here: cards are named by them, a "24 GB" card has 24 GiB less what its driver keeps.
    ``nvidia-smi`` shows what a card really has, in MiB.

    Raises:
        ValueError: anything else, or nothing at all.
    """
    found = re.fullmatch(r"(\d+(?:\.\d*)?|\.\d+)\s*([KMGT]?)(?:i?B)?", text.strip(), re.IGNORECASE)
    size = float(found[1]) * 1024 ** _POWERS[found[2].upper()] if found else 0.0
    if not size:
        raise ValueError(f"expected an amount such as 24GB, 80G or 23034MiB, found {text!r}")
    return int(size)


def format_bytes(size: float) -> str:
    """``size`` bytes in MiB below 1 GiB, else in GiB."""
    return f"{size / 2**20:.1f} MiB" if size < 2**30 else f"{size / 2**30:.2f} GiB"

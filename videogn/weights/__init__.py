"""Checkpoints from elsewhere into this network, and this network out to others."""

from .inflate import Inflation, inflate
from .read import FORMATS, read_source
from .report import Report
from .source import Source
from .transfer import transfer

__all__ = ["FORMATS", "Inflation", "Report", "Source", "inflate", "read_source", "transfer"]

"""The parser of the training commands."""

from __future__ import annotations

import argparse
import difflib
import re
from typing import Any, NoReturn

from lightning.pytorch.cli import LightningArgumentParser


class VideoParser(LightningArgumentParser):
    """Names the nearest option when one is misspelled."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        unknown = re.search(r"unrecognized arguments: (--[\w.+-]+)", message)
        if unknown:
            options = [option for parser in self._all_parsers() for option in parser._option_string_actions]
            near = difflib.get_close_matches(unknown[1], options, n=1)
            message += f"; nearest: {near[0]}" if near else ""
        super().error(message, ex)

    def _all_parsers(self) -> list[Any]:
        return [self, *(getattr(self, "_subcommands_action", None) or argparse.Namespace(choices={})).choices.values()]

"""Class names: their order, and how the names on disk are matched to them. Imports no torch."""

from __future__ import annotations

import difflib
import os
import re
import unicodedata
from collections.abc import Iterable, Sequence
from functools import cache
from importlib import resources

from videogn.errors import UsageError

_OWN_CLASSES_SHARE = 0.5


@cache
def kinetics400_names() -> tuple[str, ...]:
    """The 400 class names of Kinetics-400 in the official order: name i is class i of published weights."""
    text = resources.files("videogn.data").joinpath("kinetics400.txt").read_text(encoding="utf-8")
    return tuple(text.splitlines())


def name_key(name: str) -> str:
    """What spellings of one class have in common: letters and digits, folded in case, words separated by one space.

    ``punching person (boxing)``, ``punching_person_boxing`` and ``Punching Person Boxing`` have the same key.
    """
    text = unicodedata.normalize("NFC", name).casefold().replace("'", "")
    return re.sub(r"[\W_]+", " ", text).strip()


class ClassList:
    """Class names in the order of the labels, with a lookup that forgives spaces, underscores, case and brackets.

    Args:
        names: the class names; name i is label i.

    Raises:
        UsageError: a name is there twice, or there are no names.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        if not self.names:
            raise UsageError("class names: expected at least one, found none")
        self._exact = {name: i for i, name in enumerate(self.names)}
        if len(self._exact) < len(self.names):
            twice = sorted({name for name in self.names if self.names.count(name) > 1})
            raise UsageError(f"class names: expected every name once, found {twice[:5]} more than once")
        self._by_key: dict[str, int | None] = {}
        for i, name in enumerate(self.names):
            key = name_key(name)
            # None: two names differ in nothing but spelling, so only the exact spelling says which one is meant.
            self._by_key[key] = None if key in self._by_key or not key else i

    def __len__(self) -> int:
        return len(self.names)

    def find(self, name: str) -> int | None:
        """Label of the class, or None when there is no such class."""
        found = self._exact.get(name)
        return found if found is not None else self._by_key.get(name_key(name))

    def number(self, label: str | int | None, where: str) -> int:
        """The label as an integer; ``where`` is the file or folder that holds it, for messages.

        Raises:
            UsageError: no label, a name that is not in the list, or an integer outside it.
        """
        if label is None:
            raise UsageError(
                f"{where}: expected a label for every video, found none. Only prediction does without labels."
            )
        if isinstance(label, str):
            found = self.find(label)
            if found is None:
                raise self.unknown(label, where)
            return found
        if not 0 <= label < len(self):
            hint = " Do the labels count from 1? They must count from 0." if label == len(self) else ""
            raise UsageError(f"{where}: expected a label in 0..{len(self) - 1}, found {label}.{hint}")
        return label

    def nearest(self, name: str, count: int = 3) -> list[str]:
        """Up to ``count`` class names that look like ``name``, the most similar first."""
        keys = {name_key(known): known for known in self.names}
        return [keys[key] for key in difflib.get_close_matches(name_key(name), list(keys), count, 0.5)]

    def unknown(self, name: str, where: str) -> UsageError:
        """The error for a name that is not in the list; ``where`` is the file or folder that holds it."""
        near = self.nearest(name)
        hint = (
            f"did you mean {' or '.join(repr(n) for n in near)}?" if near else f"the first ones are {self.names[:3]}."
        )
        return UsageError(
            f"{where}: expected one of the {len(self)} class names, found {name!r}; {hint} "
            "The list of classes comes from the training split unless class_names says otherwise."
        )


def read_class_names(option: str) -> tuple[str, ...]:
    """Class names from the option ``class_names``.

    Args:
        option: ``"kinetics400"``, or the path of a UTF-8 text file with one name per line (line i is label i; lines may
            also read ``i name`` with i counted from 0 in steps of 1; empty lines are skipped).

    Raises:
        UsageError: no such file, or a file without names.
    """
    if option == "kinetics400":
        return kinetics400_names()
    if not os.path.isfile(option):
        raise UsageError(
            f"data.class_names: expected 'kinetics400' or a text file with one class name per line, found {option!r}, "
            "which does not exist."
        )
    with open(option, encoding="utf-8-sig") as file:
        names = [line.strip() for line in file if line.strip()]
    numbered = [re.fullmatch(r"(\d+)[\s,]+(.+)", name) for name in names]
    if all(match and int(match[1]) == i for i, match in enumerate(numbered)):
        names = [match[2] for match in numbered if match]
    if not names:
        raise UsageError(f"data.class_names: expected one class name per line, found none in {option}")
    return tuple(names)


def order_class_names(found: Iterable[str]) -> tuple[tuple[str, ...], str | None]:
    """The order of classes when no option gives it: from the names that the *training* split has.

    At least half of Kinetics-400's names and no other name make Kinetics-400, with all 400 labels in the official
    order, whatever is missing on this disk. Anything else is a data set of its own: its names sorted by code point.

    Args:
        found: class names of the training split, in any order, repeats allowed.

    Returns:
        The names in order, and a remark for the user or None.
    """
    names = sorted(set(found))
    official = ClassList(kinetics400_names())
    labels = {official.find(name) for name in names}
    if None in labels or not names:
        return tuple(names), None
    if len(labels) >= _OWN_CLASSES_SHARE * len(official):
        return official.names, None
    return tuple(names), (
        f"all {len(names)} class names are Kinetics-400's; labels count these {len(names)} alone. "
        "For the 400 official labels set data.class_names to kinetics400"
    )

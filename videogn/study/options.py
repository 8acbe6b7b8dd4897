"""Configurations of `videogn fit` as nested dictionaries: read, merged in order, named by a digest.

Imports no torch.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from typing import Any

import yaml

from videogn.errors import UsageError

Options = dict[str, Any]


def read_yaml(path: str | os.PathLike[str]) -> Options:
    """A YAML file that holds a mapping.

    Raises:
        UsageError: no such file, or another content.
    """
    try:
        with open(path, encoding="utf-8") as file:
            found = yaml.safe_load(file)
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror or error})") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: is not YAML ({' '.join(str(error).split())})") from error
    if not isinstance(found, dict):
        raise UsageError(f"{path}: expected a mapping of options, found {type(found).__name__}")
    return found


def nested(options: Mapping[str, Any]) -> Options:
    """Options whose names may be dotted, as on the command line: ``{"data.batch_size": 4}`` is a batch size in data."""
    out: Options = {}
    for name, value in options.items():
        value = nested(value) if isinstance(value, Mapping) else value
        for part in reversed(str(name).split(".")[1:]):
            value = {part: value}
        out = merged(out, {str(name).split(".")[0]: value})
    return out


def merged(first: Mapping[str, Any], second: Mapping[str, Any]) -> Options:
    """``second`` on top of ``first``, as `videogn fit -c FIRST -c SECOND` takes them.

    Mappings are merged, so that null is what removes one; the lists of ``name+`` are joined; all else is replaced.
    """
    out = dict(first)
    for name, value in second.items():
        before = out.get(name)
        if isinstance(before, Mapping) and isinstance(value, Mapping):
            out[name] = merged(before, value)
        elif name.endswith("+") and isinstance(before, list) and isinstance(value, list):
            out[name] = [*before, *value]
        else:
            out[name] = value
    return out


def option(options: Mapping[str, Any], name: str, default: Any = None) -> Any:
    """The value of a dotted name; ``default`` where it is not set."""
    value: Any = options
    for part in name.split("."):
        if not isinstance(value, Mapping) or part not in value:
            return default
        value = value[part]
    return value


def digest(options: Mapping[str, Any]) -> str:
    """Eight characters that two configurations share only if they say the same."""
    text = json.dumps(options, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:8]

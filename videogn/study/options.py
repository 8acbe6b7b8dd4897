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


class _Loader(yaml.SafeLoader):
    """Refuses a name that stands twice in a mapping: the first, such as a whole cell of a study, would be lost."""

    def compose_mapping_node(self, anchor: str | None) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        names = [key.value for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
        twice = [name for i, name in enumerate(names) if isinstance(name, str) and name in names[:i]]
        if twice:
            raise yaml.composer.ComposerError(None, None, f"{twice[0]} stands twice", node.start_mark)
        return node


def read_yaml(path: str | os.PathLike[str]) -> Options:
    """A YAML file that holds a mapping.

    Raises:
        UsageError: no such file, or another content.
    """
    try:
        with open(path, encoding="utf-8") as file:
            found = _Loader(file).get_single_data()
        json.dumps(found, default=str)  # an anchor may hold itself
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror or error})") from error
    except (yaml.YAMLError, ValueError, TypeError) as error:
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

    Mappings are merged, so that null is what removes one; those of another ``class_path`` are replaced, since
    ``init_args`` belong to their class. What ``name+`` gives is joined to the list of ``name``; all else is replaced.
    Unlike there, ``model.norm_kwargs`` is a mapping like the others: an axis sets one of them and leaves the rest.
    """
    out = dict(first)
    for name, value in second.items():
        if str(name).endswith("+") and value is not None:
            added = value if isinstance(value, list) else [value]
            # Beside `name`, in one file, `name+` would stand for it.
            onto = name[:-1] if name[:-1] in out else name
            out[onto] = [*(out.get(onto) or []), *added]
            continue
        name = str(name).removesuffix("+")  # null for the list of `name+` is null for that of `name`
        out.pop(f"{name}+", None)
        before = out.get(name)
        if isinstance(before, Mapping) and isinstance(value, Mapping) and not _of_another_class(before, value):
            out[name] = merged(before, value)
        else:
            out[name] = value
    return out


def _of_another_class(first: Mapping[str, Any], second: Mapping[str, Any]) -> bool:
    return "class_path" in first and second.get("class_path", first["class_path"]) != first["class_path"]


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

"""The project's YAML files, changed in place: comments and layout stay, a killed command leaves the old file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.errors import UsageError


def read(path: Path, remedy: str) -> Any:
    """The file's content as nested mappings that remember their comments; an empty file is an empty mapping.

    Raises:
        UsageError: no such file; `remedy` says what to do.
    """
    if not path.is_file():
        raise UsageError(f"{path}: no such file; {remedy}")
    return _yaml().load(path.read_text()) or {}


def write(path: Path, content: Any) -> None:
    """Write back what `read` gave."""
    partial = path.with_suffix(".partial")
    with partial.open("w") as stream:
        _yaml().dump(content, stream)
    partial.replace(path)


def flow_list(values: list[Any]) -> Any:
    """A list that is written on one line: [6, 7, 8]."""
    from ruamel.yaml.comments import CommentedSeq

    result = CommentedSeq(values)
    result.fa.set_flow_style()
    return result


def _yaml() -> Any:
    from ruamel.yaml import YAML

    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 200
    return yaml

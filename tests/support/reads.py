"""Which files this process opens for reading and which folders it lists, in any thread, while someone listens."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_heard: set[str] | None = None
_installed = False


@contextmanager
def recorded(root: Path) -> Iterator[set[Path]]:
    """The absolute paths below `root` that are read meanwhile; links are not followed, as DVC sees them.

    Libraries that open files without Python, like those of videos and of safetensors, are not heard.
    """
    global _heard, _installed
    if not _installed:  # for good: Python removes no audit hooks
        sys.addaudithook(_hear)
        _installed = True
    found: set[Path] = set()
    heard: set[str] = set()
    _heard = heard
    try:
        yield found
    finally:
        _heard = None
        found |= {path for name in heard if (path := Path(name)).is_relative_to(root)}


def _hear(event: str, details: tuple[object, ...]) -> None:
    if _heard is None or event not in ("open", "os.listdir", "os.scandir"):
        return
    place = details[0]
    if event == "open" and isinstance(details[2], int) and details[2] & (os.O_WRONLY | os.O_RDWR):
        return
    if isinstance(place, str | os.PathLike):
        _heard.add(os.path.abspath(os.fspath(place)))  # noqa: PTH100

"""JSON files with a list that is too long for the memory: its entries are written as they come."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any


def write_with_list(path: Path, head: Mapping[str, Any], name: str, entries: Iterable[Iterable[str]]) -> None:
    """Write an object with the members of `head`, and one more: a list of entries, each as pieces of JSON."""
    with path.open("w", encoding="utf-8") as stream:
        text = json.dumps(head, ensure_ascii=False)
        stream.write(f"{text[:-1]}{', ' if head else ''}{json.dumps(name)}: [")
        for number, entry in enumerate(entries):
            stream.write(",\n" if number else "\n")
            stream.writelines(entry)
        stream.write("\n]}\n")

"""The project's YAML files: read safely and within bounds; changed in place, so that comments and layout stay."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from pipeline.errors import UsageError
from pipeline.files import replacing

#: What a file may hold, in characters, and what its aliases may stand for, in values: a few lines of aliases of
#: aliases would otherwise fill the memory. And how deep it may be nested: the reader in C ends with its process.
MOST_CHARACTERS = 10_000_000
MOST_ALIASED = 100_000
MOST_NESTED = 50


def load(path: Path, remedy: str) -> Any:
    """The file's content as plain values, None when it is empty.

    Raises:
        UsageError: no such file (`remedy` says what to do), or as `parse`.
    """
    return parse(text_of(path, remedy), str(path))


def parse(text: str, what: str) -> Any:
    """Plain values of YAML 1.2, as DVC reads it: in YAML 1.1 the frame range 10:28 is the number 628.

    Args:
        what: names the text in messages.

    Raises:
        UsageError: it is not YAML, is nested too deeply, or its aliases stand for too much.
    """
    return _parsed(_safe(), text, what)


def read(path: Path, remedy: str) -> Any:
    """The file's content as nested mappings that remember their comments; an empty file is an empty mapping.

    Raises:
        UsageError: as `load`, or the file holds no mapping.
    """
    content = _parsed(_yaml(), text_of(path, remedy), str(path)) or {}
    if not isinstance(content, dict):
        raise UsageError(f"{path}: expected a mapping of names to values")
    return content


def write(path: Path, content: Any) -> None:
    """Write back what `read` gave."""
    with replacing(path) as temporary, temporary.open("w") as stream:
        _yaml().dump(content, stream)


def put(content: Any, values: Mapping[str, Any]) -> None:
    """Set values by whole names, like `upsample.fast.steps`, in a mapping that `read` gave; what is equal stays."""
    for name, value in values.items():
        *path, last = name.split(".")
        inner = content
        for part in path:
            if inner.get(part) is None:  # the bare name `extract:` stands for an empty section
                inner[part] = {}
            inner = inner[part]
        if last not in inner or inner[last] != value:
            inner[last] = flow_list(value) if isinstance(value, list) else value


def settle_comments(content: Any) -> None:
    """Move the comments between two keys of a mapping that `read` gave to the second, in place.

    They hang on the last value before them, however deep it lies: what is added behind that value would get between
    the comments and what they are about.
    """
    for key, following in pairwise(list(content)):
        if found := _comments_behind(content, key):
            slots = content.ca.items.setdefault(following, [None] * 4)
            slots[1] = [*found, *(slots[1] or ())]


def _comments_behind(holder: Any, last: Any) -> list[Any]:
    """The comments behind a value of a mapping or list, taken off it; one in its own line stays."""
    value = holder[last]
    is_filled = isinstance(value, dict | list) and bool(value)
    if is_filled and not value.fa.flow_style():
        found = _comments_behind(value, next(reversed(value)) if isinstance(value, dict) else len(value) - 1)
        ending, value.ca.end = value.ca.end, []
        return [*found, *(ending or ())]
    slots, place = holder.ca.items.get(last), 2 if isinstance(holder, dict) else 0
    if slots is None or slots[place] is None:
        return []
    beside, _, behind = slots[place].value.partition("\n")
    if not behind:
        return []
    slots[place].value = f"{beside}\n"
    return [_comment_token(behind, 0)]


def flow_list(values: list[Any]) -> Any:
    """A list that is written on one line: [6, 7, 8]."""
    from ruamel.yaml.comments import CommentedSeq

    result = CommentedSeq(values)
    result.fa.set_flow_style()
    return result


@dataclass
class _Entry:
    """A key of a mapping or of a mapping in it, and the comments in its line and in the lines before it."""

    path: tuple[str, ...]
    value: Any
    beside: str = ""
    column: int = 0
    before: str = ""


def rename_keys(section: Any, names: Mapping[str, str]) -> None:
    """Rename keys of a mapping that `read` gave, in place; comments stay with their keys.

    Args:
        names: key -> new name; `group.key` moves it into the mapping `group` of this one, which is made if need be.

    Raises:
        UsageError: a new name is there already.
    """
    entries, after = _entries(section)
    for entry in entries:
        entry.path = tuple(names.get(".".join(entry.path), ".".join(entry.path)).split("."))
    groups = dict.fromkeys(entry.path[0] for entry in entries)
    entries = [entry for group in groups for entry in entries if entry.path[0] == group]
    for entry in entries:
        if sum(other.path == entry.path for other in entries) > 1:
            raise UsageError(f"{'.'.join(entry.path)} is there by its old and its new name; delete one")
    flow = section.fa.flow_style()
    section.clear()
    section.ca.items.clear()
    for entry, following in zip(entries, [*(entry.before for entry in entries[1:]), after], strict=True):
        inner = section
        for group in entry.path[:-1]:
            inner = inner.setdefault(group, _mapping(flow))
        inner[entry.path[-1]] = entry.value
        _comment(inner, entry, following)


def _entries(mapping: Any, within: tuple[str, ...] = ()) -> tuple[list[_Entry], str]:
    """The entries of a mapping and of those in it, and the comment after the last."""
    found: list[_Entry] = []
    before = ""
    for key, value in mapping.items():
        if isinstance(value, dict) and value:
            inner, after = _entries(value, (*within, str(key)))
            inner[0].before = before + inner[0].before
            found += inner
            before = after
            continue
        token = (mapping.ca.items.get(key) or (None, None, None))[2]
        beside, _, after = (token.value if token else "").partition("\n")
        found.append(_Entry((*within, str(key)), value, beside, token.start_mark.column if token else 0, before))
        before = after
    return found, before


def _comment(mapping: Any, entry: _Entry, following: str) -> None:
    if entry.beside or following:
        token = _comment_token(f"{entry.beside}\n{following}", entry.column)
        mapping.ca.items[entry.path[-1]] = [None, None, token, None]


def _comment_token(text: str, column: int) -> Any:
    from ruamel.yaml.error import CommentMark
    from ruamel.yaml.tokens import CommentToken

    return CommentToken(text, CommentMark(column))


def _mapping(flow: bool | None) -> Any:
    from ruamel.yaml.comments import CommentedMap

    made = CommentedMap()
    if flow:
        made.fa.set_flow_style()
    return made


def text_of(path: Path, remedy: str) -> str:
    """A file's text, within bounds; raises as `load`."""
    try:
        with path.open(encoding="utf-8") as stream:
            text = stream.read(MOST_CHARACTERS + 1)
    except FileNotFoundError as error:
        raise UsageError(f"{path}: no such file; {remedy}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read ({error})") from error
    if len(text) > MOST_CHARACTERS:
        raise UsageError(f"{path} is longer than {MOST_CHARACTERS} characters")
    return text


def _parsed(yaml: Any, text: str, what: str) -> Any:
    from ruamel.yaml import YAMLError

    try:
        _check_bounds(text, what)
        return yaml.load(text)
    except (YAMLError, ValueError, TypeError, KeyError, AttributeError, AssertionError) as error:  # of odd tags, too
        mark = getattr(error, "problem_mark", None)
        said = str(getattr(error, "problem", None) or error).splitlines() or [type(error).__name__]
        place = "" if mark is None else f"line {mark.line + 1}: "
        raise UsageError(f"{what} is not valid YAML ({place}{said[0][:100]})") from error


def _check_bounds(text: str, what: str) -> None:
    """Refuse a text that is nested too deeply, or whose aliases, written out, would be too many values."""
    from ruamel.yaml import events

    known: dict[str, int] = {}
    aliased = False
    # One entry per open collection: its anchor and the values in it so far. The outermost is the document.
    within: list[tuple[str | None, int]] = [(None, 0)]
    for event in _safe().parse(text):
        anchor, size = getattr(event, "anchor", None), 1
        if isinstance(event, events.CollectionStartEvent):
            within.append((anchor, 1))
            if len(within) > MOST_NESTED:
                raise UsageError(f"{what} is nested too deeply")
            continue
        if isinstance(event, events.CollectionEndEvent):
            anchor, size = within.pop()
        elif isinstance(event, events.AliasEvent):
            aliased, anchor, size = (
                True,
                None,
                known.get(event.anchor, MOST_ALIASED + 1),
            )  # not finished: it would hold itself
        elif not isinstance(event, events.ScalarEvent):
            continue
        if anchor is not None:
            known[anchor] = size
        within[-1] = (within[-1][0], min(within[-1][1] + size, MOST_ALIASED + 1))
    if aliased and within[-1][1] > MOST_ALIASED:
        raise UsageError(f"{what} has aliases that stand for more than {MOST_ALIASED} values")


def _safe() -> Any:
    """The reader of plain values; written in C where ruamel.yaml.clib is installed, which is four times as fast."""
    from ruamel.yaml import YAML

    return YAML(typ="safe")


def _yaml() -> Any:
    from ruamel.yaml import YAML
    from ruamel.yaml.representer import RoundTripRepresenter

    class WritesNull(RoundTripRepresenter):
        """Null is written as such: ruamel.yaml would write nothing."""

    WritesNull.add_representer(type(None), lambda made, _: made.represent_scalar("tag:yaml.org,2002:null", "null"))
    yaml = YAML()
    yaml.Representer = WritesNull
    yaml.preserve_quotes = True
    yaml.width = 200
    yaml.indent(mapping=2, sequence=4, offset=2)
    return yaml

"""names.json: what a person calls the segments of a numbering, which are one, and which are none.

    {"schema": "names", "schema_version": 1, "fits": "2f6c...",
     "names": {"3": {"name": "road", "color": "#80b1d3"}, "5": {"name": "car"}},
     "merge": [[5, 7]], "drop": [9]}

`fits` is the origin of the numbering (`pipeline/stores/numbering.py`). Each list of `merge` becomes one segment, which
keeps the first of its numbers. The pixels of `drop` belong to no segment any more. A name may stand at any of a merged
segment's labels. All but `schema`,
`schema_version` and `fits` may be left out.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.errors import DataError
from pipeline.files import Mark, replacing, require_version
from pipeline.media.pictures import Colour
from pipeline.stores.numbering import Numbering

SCHEMA = "names"
SCHEMA_VERSION = 1
#: Its usual name, and how a folder tells that vidseg wrote the one in it.
FILE = "names.json"
MARK = Mark(FILE, SCHEMA)
#: No list of names is longer; a file that never ends would fill the memory.
MOST_CHARACTERS = 10_000_000
#: Characters of a name.
LONGEST = 200
_MEMBERS = ("schema", "schema_version", "fits", "names", "merge", "drop")


@dataclass(frozen=True)
class Named:
    """What a person says of one label: a name, a colour (r, g, b) to show it in, or both."""

    name: str | None = None
    color: Colour | None = None


@dataclass(frozen=True)
class Names:
    """What a person says of a numbering's labels.

    Attributes:
        named: by label.
        merged: label -> the label that it becomes; that one is in here too where it becomes another.
        dropped: labels whose pixels, and those of what is merged into them, shall belong to no segment.
    """

    named: Mapping[int, Named] = field(default_factory=dict)
    merged: Mapping[int, int] = field(default_factory=dict)
    dropped: frozenset[int] = frozenset()

    def __post_init__(self) -> None:
        for label in self.merged:
            self.target(label)
        for label in sorted(self.dropped & self.merged.keys()):
            raise DataError(f"label {label} is dropped and merged into {self.merged[label]}; leave one of the two out")
        names: dict[int, tuple[int, str]] = {}
        for label, said in sorted(self.named.items()):
            into = self.target(label)
            if into in self.dropped:
                raise DataError(f"label {label} is named and dropped; leave one of the two out")
            if said.name is not None:
                first, name = names.setdefault(into, (label, said.name))
                if name != said.name:
                    raise DataError(
                        f"labels {first} and {label} are merged, but named '{name}' and '{said.name}'; "
                        "give the segment one name"
                    )

    @property
    def labels(self) -> frozenset[int]:
        """All labels of which something is said."""
        return frozenset({*self.named, *self.merged, *self.merged.values(), *self.dropped})

    def target(self, label: int) -> int:
        """The label that a label becomes by merging: itself, unless it is merged into another.

        Raises:
            DataError: it would become itself by way of others.
        """
        way = [label]
        while (into := self.merged.get(way[-1])) is not None:
            if into in way:
                raise DataError(
                    f"labels are merged in a circle: {' into '.join(map(str, [*way, into]))}; take one of them away"
                )
            way.append(into)
        return way[-1]

    def with_more(self, more: Names) -> Names:
        """These names and later ones, which win: a new name or colour, a label that is not dropped any more.

        Raises:
            DataError: the two together make no sense, e.g. merge in a circle, or two segments with different names.
        """
        target = Names(merged={**self.merged, **more.merged}).target
        renamed = {target(label) for label, said in more.named.items() if said.name is not None}
        recoloured = {target(label) for label, said in more.named.items() if said.color is not None}
        named: dict[int, Named] = {}
        for label, said in self.named.items():
            into = target(label)
            kept = Named(None if into in renamed else said.name, None if into in recoloured else said.color)
            if kept != Named() and into not in more.dropped:
                named[label] = kept
        for label, said in more.named.items():
            kept = named.get(label, Named())
            named[label] = Named(said.name or kept.name, said.color or kept.color)
        return Names(named, {**self.merged, **more.merged}, (self.dropped - more.labels) | more.dropped)

    def check(self, numbering: Numbering) -> None:
        """Refuse names of labels that a numbering does not have.

        Raises:
            DataError: names the first of them.
        """
        unknown = sorted(self.labels - set(numbering.labels))
        if unknown:
            known = ", ".join(map(str, numbering.labels))
            raise DataError(f"there is no label {unknown[0]} to name, merge or drop; there are: {known}")


@dataclass(frozen=True)
class NamesFile:
    """The content of names.json: names, and the origin of the numbering that they fit."""

    fits: str
    names: Names

    def names_for(self, numbering: Numbering, where: str) -> Names:
        """The names, of labels of this numbering.

        Args:
            where: the file, for messages.

        Raises:
            DataError: they are for another numbering, or one of the labels is not there.
        """
        if self.fits not in numbering.origins:
            raise DataError(
                f"{where}: was made for other segments ({self.fits[:12]}) than these ({numbering.origin[:12]}): names "
                "fit runs with the same coarse.zarr or concept, and those that began with its context (--context)"
            )
        try:
            self.names.check(numbering)
        except DataError as error:
            raise DataError(f"{where}: {error}") from error
        return self.names

    def record(self) -> dict[str, Any]:
        """The content of the file, as JSON-ready values; equal names give equal records."""
        names = self.names
        return {
            "schema": SCHEMA,
            "schema_version": SCHEMA_VERSION,
            "fits": self.fits,
            "names": {str(label): _record(said) for label, said in sorted(names.named.items())},
            "merge": _groups(names),
            "drop": sorted(names.dropped),
        }


def read_names(path: Path) -> NamesFile:
    """Read names.json (format: module docstring).

    Raises:
        DataError: missing, not such a file, of another version, or with a member that makes no sense.
    """
    try:
        with path.open(encoding="utf-8") as stream:
            written = stream.read(MOST_CHARACTERS + 1)
        if len(written) > MOST_CHARACTERS:
            raise DataError(f"{path}: not a file of names, it is longer than {MOST_CHARACTERS} characters")
        content = json.loads(written, object_pairs_hook=_once)
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file of names") from error
    except IsADirectoryError as error:
        raise DataError(f"{path}: is a folder; give the file of names, like {path / FILE}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not a JSON file of names (it is no text)") from error
    except (ValueError, OSError, RecursionError) as error:
        raise DataError(f"{path}: not a JSON file of names ({error})") from error
    except DataError as error:
        raise error if str(error).startswith(str(path)) else DataError(f"{path}: {error}") from error
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        raise DataError(f'{path}: not a file of names; expected {{"schema": "{SCHEMA}", "schema_version": 1, ...}}')
    require_version(path, content, SCHEMA_VERSION, "save the names again from report.html or with `vidseg name`")
    try:
        return _parse(content)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error


def write_names(path: Path, content: NamesFile) -> Path:
    """Write names.json as `read_names` reads it; it appears whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content.record(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return path


def merged_groups(groups: Iterable[Sequence[int]]) -> dict[int, int]:
    """Groups of labels as label -> the first of its group.

    Raises:
        DataError: a group of less than two labels, or a label that two groups merge into different ones.
    """
    merged: dict[int, int] = {}
    for group in groups:
        if len(group) < 2 or len(set(group)) < len(group):
            raise DataError(f"merging takes two different labels or more, not {list(group)}")
        into, *others = group
        for label in others:
            if merged.setdefault(label, into) != into:
                raise DataError(f"label {label} is merged into {merged[label]} and into {into}; choose one")
    return merged


def checked_name(text: Any) -> str:
    """A segment's name.

    Raises:
        DataError: not text, empty, too long, or with control characters.
    """
    if not isinstance(text, str) or not text.strip():
        raise DataError(f"a name must be text that is not empty, not {text!r}")
    if len(text) > LONGEST:
        raise DataError(f"a name may have {LONGEST} characters; '{text[:20]}...' has {len(text)}")
    if any(unicodedata.category(sign) in ("Cc", "Cs") for sign in text):
        raise DataError(f"the name {text!r} has characters that are no text")
    return text.strip()


def parse_color(text: Any) -> Colour:
    """A colour like #80b1d3.

    Raises:
        DataError: it is none.
    """
    if not isinstance(text, str) or not re.fullmatch(r"#[0-9a-fA-F]{6}", text):
        raise DataError(f"a colour must be like #80b1d3, not {text!r}")
    red, green, blue = bytes.fromhex(text[1:])
    return red, green, blue


def _parse(content: Mapping[str, Any]) -> NamesFile:
    unknown = [name for name in content if name not in _MEMBERS]
    if unknown:
        raise DataError(f"unknown member '{unknown[0]}'; there are: {', '.join(_MEMBERS)}")
    fits = content.get("fits")
    if not isinstance(fits, str) or not fits:
        raise DataError("`fits` must be the hash of what numbers the labels")
    named, merge, drop = content.get("names", {}), content.get("merge", []), content.get("drop", [])
    if not isinstance(named, dict):
        raise DataError('`names` must be like {"3": {"name": "road"}}')
    if not isinstance(merge, list) or not all(isinstance(group, list) for group in merge):
        raise DataError("`merge` must be lists of labels: [[5, 7], ...]")
    if not isinstance(drop, list):
        raise DataError("`drop` must be a list of labels: [9, ...]")
    groups = [[_label(label) for label in group] for group in merge]
    dropped = frozenset(_label(label) for label in drop)
    return NamesFile(fits, Names({_key(k): _named(k, v) for k, v in named.items()}, merged_groups(groups), dropped))


def _key(text: str) -> int:
    if not re.fullmatch(r"0|[1-9][0-9]{0,4}", text):
        raise DataError(f"`names` has '{text}', which is no label: a number like \"3\"")
    return _label(int(text))


def _label(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= 65535:
        raise DataError(f"a label must be a number in 0..65535, not {value!r}")
    return value


def _named(label: str, said: Any) -> Named:
    if not isinstance(said, dict) or not said or not said.keys() <= {"name", "color"}:
        raise DataError(f'label {label}: expected {{"name": "road", "color": "#80b1d3"}} or one of the two')
    try:
        return Named(
            checked_name(said["name"]) if "name" in said else None,
            parse_color(said["color"]) if "color" in said else None,
        )
    except DataError as error:
        raise DataError(f"label {label}: {error}") from error


def _record(said: Named) -> dict[str, str]:
    name = {} if said.name is None else {"name": said.name}
    return name if said.color is None else {**name, "color": "#" + bytes(said.color).hex()}


def _groups(names: Names) -> list[list[int]]:
    """Merged labels by the label that they end up as, which comes first."""
    groups: dict[int, list[int]] = {}
    for label in sorted(names.merged):
        groups.setdefault(names.target(label), []).append(label)
    return [[into, *labels] for into, labels in sorted(groups.items())]


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; of two members of one name, JSON's readers drop one without a word."""
    content = dict(pairs)
    if len(content) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise DataError(f"'{twice}' is there twice; give each label one name")
    return content

"""The segments of a clip's labels: which there are when some are merged or dropped, their names and colours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from pipeline.media.pictures import VOID, Colour
from pipeline.naming.names import Named, Names
from pipeline.stores.numbering import Numbering
from pipeline.stores.store import Store

_VALUES = 65536
#: The attribute of labels with names that holds what names.json said.
NAMING = "naming"


@dataclass(frozen=True)
class Segment:
    """A segment of a clip: its label, and the name and the colour that a person gave it, if any."""

    id: int
    name: str | None = None
    color: Colour | None = None


def segments_of(labels: Store) -> dict[int, Segment]:
    """The segments of labels.zarr or named.zarr that have a name or a colour; clusters have none."""
    named = NAMING in labels.attrs
    return {
        int(entry["id"]): Segment(
            int(entry["id"]),
            None if entry["name"] is None else str(entry["name"]),
            # Learned segments have the colours of a class list, which nobody chose for pictures.
            _colour(entry["color"]) if named and entry["color"] is not None else None,
        )
        for entry in labels.attrs.get("segments", ())
    }


def void_of(labels: Store) -> int | None:
    """The value of pixels that belong to no segment, where there are any."""
    value = labels.attrs.get("void")
    return None if value is None else int(value)


@dataclass(frozen=True)
class Naming:
    """Names for all labels of a numbering: what each label becomes.

    Attributes:
        numbering: the labels as they were.
        names: fit the numbering.
        before: names that labels have already, as learned ones do.
    """

    numbering: Numbering
    names: Names
    before: Mapping[int, str]

    @property
    def void(self) -> int | None:
        """The value of dropped pixels, which is no label: 255, or 65535 where 255 is one; None = none are dropped."""
        if not self.names.dropped:
            return None
        return VOID if VOID not in self.numbering.labels else _VALUES - 1

    @cached_property
    def segments(self) -> tuple[Segment, ...]:
        """The segments that are left and have a name or a colour, by label."""
        said: dict[int, Named] = {}
        for label in sorted(self.names.named, key=lambda label: (self.names.target(label) != label, label)):
            into, new = self.names.target(label), self.names.named[label]
            known = said.get(into, Named())
            said[into] = Named(known.name or new.name, known.color or new.color)
        ids = {self.names.target(label) for label in self.numbering.labels} - self.names.dropped
        found = []
        for label in sorted(ids):
            new = said.get(label, Named())
            name = new.name or self.before.get(label)
            if name is not None or new.color is not None:
                found.append(Segment(label, name, new.color))
        return tuple(found)

    @cached_property
    def targets(self) -> np.ndarray:
        """What each label becomes, (65536,) u16."""
        table, void = np.arange(_VALUES, dtype=np.uint16), self.void
        for label in self.numbering.labels:
            into = self.names.target(label)
            table[label] = into if void is None or into not in self.names.dropped else void
        return table

    def apply(self, labels: np.ndarray) -> np.ndarray:
        """Label maps (..., H, W) with merged labels as one and dropped ones as `void`; u16 where `void` needs it."""
        named = self.targets.take(labels)
        return named if self.void is not None and self.void > VOID else named.astype(labels.dtype)

    def record(self) -> list[dict[str, Any]]:
        """What a store keeps in its attribute `segments`."""
        return [
            {"id": s.id, "name": s.name, "color": None if s.color is None else list(s.color)} for s in self.segments
        ]


def _colour(values: Any) -> Colour:
    red, green, blue = (int(value) for value in values)
    return red, green, blue

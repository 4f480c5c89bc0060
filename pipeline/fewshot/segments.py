"""Which segments there are: the ids, names and colours that a person gave them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from pipeline.errors import DataError
from pipeline.media.pictures import VOID
from pipeline.truth.class_list import LabelClass

#: The value of pixels that have no label.
IGNORE = VOID
#: A segment of this name is the background: what is left when all others are taken away.
BACKGROUND = "background"


@dataclass(frozen=True)
class SegmentTable:
    """Segments in the order in which maps hold them: the background, if there is one, then by id.

    Label maps hold ids, any in 0..65535 but `IGNORE`. Networks count segments 0..k-1, their *numbers*.
    """

    segments: tuple[LabelClass, ...]

    @classmethod
    def of(cls, segments: Iterable[LabelClass]) -> SegmentTable:
        """The table of some segments in any order.

        Raises:
            DataError: fewer than two, too many, an id or a name that occurs twice, or one whose id is `IGNORE`.
        """
        ordered = tuple(sorted(segments, key=lambda segment: (not _is_background(segment), segment.id)))
        ids, names = [segment.id for segment in ordered], [segment.name for segment in ordered]
        if len(ordered) < 2:
            found = f"only '{names[0]}'" if names else "none"
            raise DataError(f"at least two segments are needed to tell one from the other, found {found}")
        if len(ordered) >= IGNORE:
            raise DataError(f"at most {IGNORE - 1} segments can be told apart, not {len(ordered)}")
        for what, values in (("ids", ids), ("names", names)):
            if len(set(values)) < len(values):
                raise DataError(f"the {what} of segments must differ, found {', '.join(map(str, values))}")
        if IGNORE in ids:
            raise DataError(f"{IGNORE} means that a pixel has no label; give '{names[ids.index(IGNORE)]}' another id")
        return cls(ordered)

    def __len__(self) -> int:
        return len(self.segments)

    @property
    def background(self) -> int | None:
        """The number of the background (0), None where there is none."""
        return 0 if _is_background(self.segments[0]) else None

    @property
    def names(self) -> tuple[str, ...]:
        """Names by number."""
        return tuple(segment.name for segment in self.segments)

    def numbers(self, labels: np.ndarray) -> np.ndarray:
        """The numbers (u8) of labels; `IGNORE` of those that are no segment's."""
        table = np.full(65536, IGNORE, np.uint8)
        table[[segment.id for segment in self.segments]] = range(len(self))
        return table[labels]

    def labels(self, numbers: np.ndarray) -> np.ndarray:
        """The ids (u8, or u16 where one is above 255) of numbers 0..k-1."""
        ids = np.array([segment.id for segment in self.segments])
        return ids.astype(np.uint8 if ids.max() <= 255 else np.uint16)[numbers]

    def record(self) -> list[dict[str, Any]]:
        """What stores keep: id, name, colour and whether it is the background, by number."""
        return [{**asdict(segment), BACKGROUND: _is_background(segment)} for segment in self.segments]

    @classmethod
    def of_record(cls, record: Sequence[Mapping[str, Any]]) -> SegmentTable:
        """The table of what `record` made."""
        return cls(tuple(LabelClass(entry["id"], entry["name"], tuple(entry["color"])) for entry in record))


def _is_background(segment: LabelClass) -> bool:
    return segment.name.casefold() == BACKGROUND

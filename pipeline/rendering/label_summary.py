"""What a clip's label maps hold: each label's share and place in time, and which labels of two runs agree."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pipeline.media.pictures import davis_palette
from pipeline.scoring.assignment import hungarian

#: The `format` of labels.json.
FORMAT = "vidseg labels 1"


@dataclass(frozen=True)
class LabelUse:
    """One label in a clip.

    Attributes:
        share: how much of all pixels of all frames it has, 0..1.
        frames: in how many frames it appears; first, last: positions of the earliest and latest of them.
    """

    id: int
    share: float
    frames: int
    first: int
    last: int


@dataclass
class LabelTally:
    """Counts labels over frames that arrive in order.

    Attributes:
        pixels, frames, first, last: by label, what `LabelUse` reports.
        seen, area: frames and pixels counted so far.
        counts: per frame, its labels' pixels.
    """

    pixels: dict[int, int] = field(default_factory=dict)
    frames: dict[int, int] = field(default_factory=dict)
    first: dict[int, int] = field(default_factory=dict)
    last: dict[int, int] = field(default_factory=dict)
    seen: int = 0
    area: int = 0
    counts: list[dict[int, int]] = field(default_factory=list)

    def add(self, labels: np.ndarray) -> None:
        """Count the next frame's labels (H, W)."""
        pixels = np.bincount(labels.ravel())
        held = np.flatnonzero(pixels).tolist()
        self.counts.append({label: int(pixels[label]) for label in held})
        for label in held:
            self.pixels[label] = self.pixels.get(label, 0) + int(pixels[label])
            self.frames[label] = self.frames.get(label, 0) + 1
            self.first.setdefault(label, self.seen)
            self.last[label] = self.seen
        self.seen += 1
        self.area += labels.size

    def uses(self, void: int | None = None) -> list[LabelUse]:
        """All labels met but `void`, the largest share first (on equal shares the smaller id)."""
        return [
            LabelUse(label, count / self.area, self.frames[label], self.first[label], self.last[label])
            for label, count in sorted(self.pixels.items(), key=lambda item: (-item[1], item[0]))
            if label != void
        ]

    def by_frame(self) -> dict[int, np.ndarray]:
        """Each label's pixels (seen,) int64 in all frames, by label."""
        return {label: np.array([held.get(label, 0) for held in self.counts]) for label in sorted(self.pixels)}


def listing(
    uses: Sequence[LabelUse],
    names: Sequence[str],
    size: tuple[int, ...],
    colours: np.ndarray,
    segments: Mapping[int, str],
    void: int | None = None,
    born: Collection[int] = (),
    times: Sequence[float] = (),
    cuts: Sequence[int] = (),
) -> dict[str, Any]:
    """The content of labels.json.

    Args:
        names: what the frames are called, in order.
        size: (H, W) of the label maps.
        colours: (k, 3) u8 of the overlays.
        segments: names of labels that have one.
        void: value of pixels that are in no segment; None = all are in one.
        born: labels of segments that were born after the first frame, or found anew after a cut.
        times: seconds after the source's first frame at which the frames are shown.
        cuts: positions of the frames that begin a shot, but for the first one.
    """
    stored = davis_palette()
    return {
        "format": FORMAT,
        "about": "Pixel values of labels/*.png are ids. `colour` is the label's in the overlay and the other "
        "pictures; `png_colour` is the one in the PNGs' DAVIS palette, whose 0 is black.",
        "frames": len(names),
        "times": [round(time, 6) for time in times],
        "width": size[1],
        "height": size[0],
        **({} if void is None else {"void": void}),
        **({"cuts": [names[cut] for cut in cuts]} if cuts else {}),
        "labels": [
            {
                "id": use.id,
                "name": segments.get(use.id),  # clusters have no class names; only evaluate sees ground truth
                "colour": colours[use.id % len(colours)].tolist(),
                "png_colour": stored[use.id].tolist() if use.id < len(stored) else None,
                "share": round(use.share, 6),
                "frames": use.frames,
                "first_frame": names[use.first],
                "last_frame": names[use.last],
                **({"born": True} if use.id in born else {}),
            }
            for use in sorted(uses, key=lambda use: use.id)
        ],
    }


def corresponding(labels: np.ndarray, reference: np.ndarray) -> dict[int, int]:
    """For each label the reference's label that it overlaps most, one to one: both can then share a colour.

    Labels without a partner get numbers that the reference does not use.

    Args:
        labels, reference: label maps of one shape (..., H, W).
    """
    table = hungarian(labels, reference)
    free = int(reference.max()) + 1
    for label in np.unique(labels).tolist():
        if label not in table:
            table[label] = free
            free += 1
    return table

"""Labels as pictures: contact sheets of them and of their confidence, and x-t slices, collected in one pass."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pipeline.media.resize import resize_nearest
from pipeline.rendering.drawing import heat, overlay, paint, resized, width_within
from pipeline.rendering.sheets import LegendEntry, SliceColumns, contact_sheet, spread, steps_of
from pipeline.stores.confidence import MOST
from pipeline.stores.store import Store

#: Longer side of a picture, frames of the contact sheet, and the most time steps of an x-t slice.
SIDE, SHEET_FRAMES, SLICE_FRAMES = 320, 12, 720


class LabelPages:
    """Takes a clip's pictures and labels in order, and keeps what the sheets show of them.

    Args:
        total: frames of the clip.
        size: (H, W) of the pictures.
        colours, opacity: how labels are laid over the pictures.
        row: where x-t slices are taken, 0 (top) .. 1 (bottom).
        coarse: store of coarse labels, for two more columns of the x-t slices; None = without.
        void: value of pixels that are in no segment; None = all are in one.
        cuts: positions of the frames that begin a shot, but for the first one.
    """

    def __init__(
        self,
        total: int,
        size: tuple[int, int],
        colours: np.ndarray,
        opacity: float,
        row: float,
        coarse: Store | None = None,
        void: int | None = None,
        cuts: Sequence[int] = (),
    ) -> None:
        self._total, self._size = total, size
        self._colours, self._opacity = colours, opacity
        self._coarse_store, self._void = coarse, void
        self._width = width_within(size, SIDE)
        in_slices = spread(total, SLICE_FRAMES)
        self._in_sheet, self._in_slices = set(spread(total, SHEET_FRAMES)), set(in_slices)
        self._slices = SliceColumns(row, self._width, len(in_slices), steps_of(cuts, in_slices))
        self._shown: list[int] = []
        self._frames: list[np.ndarray] = []
        self._overlays: list[np.ndarray] = []
        self._unsure: list[np.ndarray] = []
        self._seen = 0

    def add(self, image: np.ndarray, labels: np.ndarray, confidence: np.ndarray | None = None) -> None:
        """The next picture (H, W, 3), its labels (H, W) and how sure they are (H, W) u8; None = not known."""
        if self._seen in self._in_sheet:
            self._shown.append(self._seen)
            self._frames.append(resized(image, self._width))
            shown = overlay(image, labels, self._colours, self._opacity, self._void)
            self._overlays.append(resized(shown, self._width))
            if confidence is not None:
                self._unsure.append(heat(resized(MOST - confidence, self._width), MOST))
        if self._seen in self._in_slices:
            self._slices.add({"frames": image, **self._coarse(), "labels": paint(labels, self._colours)})
        self._seen += 1

    def sheet(self, names: Sequence[str], legend: Sequence[LegendEntry]) -> np.ndarray:
        """The contact sheet; `names` are those of all frames."""
        return contact_sheet([names[frame] for frame in self._shown], self._frames, self._overlays, legend)

    def confidence_sheet(self, names: Sequence[str]) -> np.ndarray | None:
        """The frames of the contact sheet, bright where labels are unsure; None where nothing says it."""
        if not self._unsure:
            return None
        shares = (100, 75, 50, 25, 0)
        swatches = heat(np.array([[100 - share for share in shares]]), 100)[0].tolist()
        legend = [
            LegendEntry((red, green, blue), f"{share} % sure", f"{share}")
            for share, (red, green, blue) in zip(shares, swatches, strict=True)
        ]
        return contact_sheet([names[frame] for frame in self._shown], self._frames, self._unsure, legend)

    def slices(self) -> np.ndarray:
        """x-t slices of pictures, coarse labels (where given) and labels."""
        return self._slices.picture(self._total)

    def _coarse(self) -> dict[str, np.ndarray]:
        if self._coarse_store is None:
            return {}
        titles = {"initial": "coarse, as predicted", "refined": "coarse, refined"}
        frame = self._seen
        planes = {title: self._coarse_store.read(name, frame, frame + 1)[0] for name, title in titles.items()}
        return {title: resize_nearest(paint(plane, self._colours), self._size) for title, plane in planes.items()}

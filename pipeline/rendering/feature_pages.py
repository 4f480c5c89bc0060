"""Features as pictures: principal components of one block and of the average beside the frames (figure 2)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np

from pipeline.media.resize import resize_nearest
from pipeline.rendering import pca
from pipeline.rendering.clip_frames import frames_of
from pipeline.rendering.drawing import resized, width_within
from pipeline.rendering.sheets import Panel, SliceColumns, montage, spread, steps_of
from pipeline.stores.feature_codec import read_features
from pipeline.stores.store import Store

#: Longer side of a picture, frames of the strip, and the most time steps of an x-t slice.
SIDE, STRIP_FRAMES, SLICE_FRAMES = 400, 4, 720


def feature_titles(features: Store) -> dict[str, str]:
    """The features that a store has: name of the array -> what they are, in words."""
    params = features.params["extract"]
    blocks = ", ".join(map(str, params["blocks"]))
    titles = {
        "matching": f"block {params['matching_block']}",
        "aggregated": f"blocks {blocks}, averaged",
        "encoder": f"encoder {Path(params.get('encoder', '')).name}",
    }
    return {name: title for name, title in titles.items() if features.has(name)}


def feature_axes(features: Store, name: str) -> pca.PCA:
    """The first three principal components of an array of features over the whole clip.

    Those of the clip that was last asked for are kept: pictures and page of a run need the same.
    """
    return _axes(_Asked(features.fingerprint, name, features))


@dataclass(frozen=True)
class _Asked:
    """An array of features, which are the same wherever their store lies."""

    fingerprint: str
    name: str
    store: Store = field(compare=False)


@lru_cache(maxsize=3)
def _axes(asked: _Asked) -> pca.PCA:
    def read(frame: int) -> np.ndarray:
        return read_features(asked.store, asked.name, frame, frame + 1)[0]

    return pca.fit(pca.sample(read, asked.store.frames(asked.name)))


@dataclass
class FeaturePages:
    """One page per frame; what the strip and the x-t slices need is collected on the way.

    Attributes:
        clip, features: stores of the same frames.
        row: where x-t slices are taken, 0 (top) .. 1 (bottom).
        cuts: positions of the frames that begin a shot, but for the first one.
    """

    clip: Store
    features: Store
    row: float
    cuts: Sequence[int] = ()
    _strip: list[list[Panel]] = field(default_factory=list)
    _slices: SliceColumns | None = None

    def pages(self) -> Iterator[np.ndarray]:
        """Per frame: the frame, then the components of a single block, of the averaged blocks, of the encoder."""
        total = self.clip.frames("frames")
        width = width_within(self.clip.size("frames"), SIDE)
        titles = feature_titles(self.features)
        axes = {name: feature_axes(self.features, name) for name in titles}
        grid = tuple(self.features.attrs["grid"])
        in_strip, sliced = set(spread(total, STRIP_FRAMES)), spread(total, SLICE_FRAMES)
        self._slices, in_slices = SliceColumns(self.row, width, len(sliced), steps_of(self.cuts, sliced)), set(sliced)
        for position, frame in enumerate(frames_of(self.clip, "frames")):
            columns = {"frames": resized(frame, width)}
            for name, title in titles.items():
                tokens = read_features(self.features, name, position, position + 1)[0]
                colours = axes[name].colours(tokens).reshape(*grid, 3)
                columns[title] = resize_nearest(colours, columns["frames"].shape[:2])
            if position in in_slices:
                self._slices.add(columns)
            page = [Panel(image, title) for title, image in columns.items()]
            if position in in_strip:
                name = str(self.clip.attrs["names"][position])
                self._strip.append([Panel(page[0].image, name), *page[1:]])
            yield montage([page])

    def strip(self) -> np.ndarray:
        """A few of the pages one above the other; after all pages."""
        return montage(self._strip)

    def slices(self) -> np.ndarray:
        """x-t slices of these pictures; after all pages."""
        assert self._slices is not None
        return self._slices.picture(self.clip.frames("frames"))

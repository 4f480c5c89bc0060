"""Labels that can be modulated in one pass, since their regions do not touch (a colouring of their adjacency)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from pipeline.parameters import UpsampleFast


@dataclass(frozen=True)
class Region:
    """Tokens of one label: `mask` (..., h, w) bool, of a frame or of a window of frames."""

    label: int
    mask: np.ndarray


@dataclass(frozen=True)
class Group:
    """Regions that are modulated together.

    Attributes:
        mask: (..., h, w) bool, all their tokens.
        owners: (..., h, w) ints, the label of the nearest of these regions in the same frame: whose response a pixel
            there shows. Where a frame has none of them, it means nothing.
    """

    mask: np.ndarray
    owners: np.ndarray

    def __getitem__(self, frame: int) -> Group:
        """The part of a group that lies in one frame of a window, (h, w)."""
        return Group(self.mask[frame], self.owners[frame])

    @property
    def labels(self) -> list[int]:
        """Its labels, ascending."""
        return [int(label) for label in np.unique(self.owners)]


def grouped(planes: np.ndarray, fast: UpsampleFast) -> list[Group]:
    """What is modulated in one pass each, of the coarse maps (f, h, w) of a window."""
    if fast.groups == "single":
        return alone(whole_labels(planes))
    return coloured(whole_labels(planes) if fast.groups == "labels" else connected_parts(planes), fast.gap)


def whole_labels(planes: np.ndarray) -> list[Region]:
    """One region per label of coarse maps (..., h, w), labels ascending."""
    return [Region(int(label), planes == label) for label in np.unique(planes)]


def connected_parts(planes: np.ndarray) -> list[Region]:
    """The connected parts of each label of coarse maps (..., h, w), labels ascending; corners connect, and frames."""
    from scipy import ndimage

    parts = []
    for region in whole_labels(planes):
        numbers, count = ndimage.label(region.mask, _touching(planes, frames=True))
        parts += [Region(region.label, numbers == number) for number in range(1, count + 1)]
    return parts


def alone(regions: Sequence[Region]) -> list[Group]:
    """Each region for itself: its label shows everywhere."""
    return [Group(region.mask, np.full(region.mask.shape, region.label)) for region in regions]


def coloured(regions: Sequence[Region], gap: int) -> list[Group]:
    """As few groups as a greedy colouring finds, with at least `gap` >= 1 tokens between any two regions of a group.

    So it is in each frame of a window: regions that come closer in any of its frames are in different groups.
    """
    import networkx
    from scipy import ndimage

    around = _touching(regions[0].mask, frames=False)
    grown = [ndimage.binary_dilation(region.mask, around, iterations=gap) for region in regions]
    touching = networkx.Graph()
    touching.add_nodes_from(range(len(regions)))
    touching.add_edges_from(
        (a, b) for a, b in combinations(range(len(regions)), 2) if (grown[a] & regions[b].mask).any()
    )
    colours = networkx.greedy_color(touching, strategy="DSATUR")
    return [
        _group([region for place, region in enumerate(regions) if colours[place] == colour])
        for colour in range(max(colours.values()) + 1)
    ]


def _group(regions: Sequence[Region]) -> Group:
    from scipy import ndimage

    shape = regions[0].mask.shape
    labels, covered = np.zeros(shape, np.int64), np.zeros(shape, bool)
    for region in regions:
        labels[region.mask] = region.label
        covered |= region.mask
    # Other frames are farther than anything in the same one.
    steps = [float(sum(shape))] * (len(shape) - 2) + [1.0, 1.0]
    nearest = ndimage.distance_transform_edt(~covered, steps, return_distances=False, return_indices=True)
    return Group(covered, labels[tuple(nearest)])


def _touching(planes: np.ndarray, frames: bool) -> np.ndarray:
    """A token touches the eight around it, and those of the frames before and after where that is asked for."""
    over_frames = planes.ndim - 2
    return np.ones((3 if frames else 1,) * over_frames + (3, 3), bool)

"""From what the passes show of a frame to its labels: the full-resolution argmax (paper section 3.2, Eq. 7)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pipeline.media.resize import resize_nearest
from pipeline.parameters import UpsampleParams
from pipeline.upsampling.difference import filtered, normalize, resize_mask
from pipeline.upsampling.guided_filter import EVERYWHERE

if TYPE_CHECKING:
    from pipeline.upsampling.label_groups import Group


@dataclass
class RunningArgmax:
    """Argmax over labels of maps that arrive one by one, ascending; the lowest label wins ties.

    Attributes:
        best: (H, W) float64, the largest value so far.
        second: (H, W) float64, the largest of the other labels.
        labels: (H, W) int, the label that has the largest.
    """

    best: np.ndarray
    second: np.ndarray
    labels: np.ndarray

    @classmethod
    def empty(cls, size: tuple[int, int]) -> RunningArgmax:
        return cls(np.full(size, -np.inf), np.full(size, -np.inf), np.zeros(size, np.int64))

    def add(self, label: int | np.ndarray, values: np.ndarray, at: tuple[slice, slice] = EVERYWHERE) -> None:
        """Let a label compete with its map (h, w), or at each pixel the label (h, w) that the map shows there.

        Args:
            at: rows and columns where it competes; those of the map.
        """
        best, second, labels = self.best[at], self.second[at], self.labels[at]
        # A label that several maps show is no rival of its own.
        np.maximum(second, np.minimum(best, values), out=second, where=labels != label)
        better = values > best
        np.copyto(labels, label, where=better)
        np.copyto(best, values, where=better)

    @property
    def decision(self) -> Decision:
        """The labels, and by how much they won."""
        return Decision(self.labels, relative_margin(self.best, self.second))


@dataclass(frozen=True)
class Decision:
    """One frame's result.

    Attributes:
        labels: (H, W) int64.
        margin: (H, W) float32 in [0, 1], as `relative_margin` has it.
    """

    labels: np.ndarray
    margin: np.ndarray


def relative_margin(best: np.ndarray, second: np.ndarray) -> np.ndarray:
    """By how much the largest map is above the second, as a share of itself: (H, W) float32 in [0, 1].

    Args:
        best, second: (H, W) floats; negative values count as 0, and `-inf` where there is no second.
    """
    ahead = best - np.maximum(second, 0)
    return np.divide(ahead, best, out=np.zeros(best.shape, np.float32), where=ahead > 0, casting="same_kind")


@dataclass(frozen=True)
class GroupMap:
    """What a group shows of one frame: the group (h, w), and its difference map D (H0, W0), not normalised."""

    group: Group
    values: np.ndarray


@dataclass(frozen=True)
class LabelledFrame(Decision):
    """One frame's result of (H0, W0) pixels and, per label, its map before Eq. 7 (H0, W0), floats."""

    differences: dict[int, np.ndarray]


def label_frame(
    shown: Sequence[GroupMap], plane: np.ndarray, size: tuple[int, int], params: UpsampleParams
) -> LabelledFrame:
    """Section 3.2 and Eq. 7 where each pixel of a group's map shows one label: the largest value wins.

    Args:
        shown: the groups of a frame; a label may be in several.
        plane: the frame's coarse map (h, w). Labels that are not in it never compete.
    """
    labels = np.unique(plane)
    regions = [_regions(part.group, labels, size) for part in shown]
    largest = np.zeros(len(labels), shown[0].values.dtype)
    for part, region in zip(shown, regions, strict=True):
        for place, where in region.items():
            largest[place] = max(largest[place], part.values.max(where=where, initial=0))
    masks = [resize_mask(plane == label, size, params.parity.filter_resize) for label in labels]
    differences = np.zeros((len(labels), *size), largest.dtype)
    winner = RunningArgmax.empty(size)
    for part, region in zip(shown, regions, strict=True):
        for place, where in region.items():
            values = normalize(part.values, largest[place]) if params.parity.normalize else part.values
            competing = filtered(values, masks[place], params.filter)
            winner.add(int(labels[place]), np.where(where, competing, -np.inf))
            np.copyto(differences[place], values, where=where)
    decided = winner.decision
    return LabelledFrame(decided.labels, decided.margin, dict(zip(labels.tolist(), differences, strict=True)))


def _regions(group: Group, labels: np.ndarray, size: tuple[int, int]) -> dict[int, np.ndarray | bool]:
    """Place of each of a group's labels -> where its map shows that label, (H0, W0) bool or everywhere."""
    places = np.searchsorted(labels, group.owners)
    found = np.unique(places).tolist()
    if len(found) == 1:
        return {found[0]: True}
    owners = resize_nearest(places, size)
    return {place: owners == place for place in found}

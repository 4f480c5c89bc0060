"""Clusters to classes: which ground-truth value each cluster stands for, read off one annotated frame.

The rules see stored ground-truth values, before any protocol decodes them. A cluster without an entry has no
class and counts as wrong wherever it lies.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from pipeline.errors import DataError
from pipeline.media.resize import resize_nearest

_VALUES = 65536


@dataclass(frozen=True)
class Assignment:
    """A rule's outcome for one video.

    Attributes:
        rule: `none`, `majority`, `official`, `hungarian` or `names`.
        table: cluster -> stored ground-truth value; None = identity, the labels are classes already.
        unassigned: the value given to clusters without an entry; it must be no class.
    """

    rule: str
    table: Mapping[int, int] | None = None
    unassigned: int = 255

    @cached_property
    def _lookup(self) -> np.ndarray:
        lookup = np.full(_VALUES, self.unassigned, np.uint16)
        for cluster, value in (self.table or {}).items():
            lookup[cluster] = value
        return lookup

    def apply(self, labels: np.ndarray) -> np.ndarray:
        """Cluster ids (..., H, W) as stored ground-truth values (uint16; unchanged for `none`)."""
        return labels if self.table is None else self._lookup.take(labels)

    def without(self, cluster: int | None) -> Assignment:
        """An assignment that gives one cluster no class: pixels that a person says belong to no segment."""
        if self.table is None or cluster not in self.table:
            return self
        return replace(self, table={label: value for label, value in self.table.items() if label != cluster})


def with_born(
    assignment: Assignment,
    born: Collection[int],
    frames: Iterable[tuple[np.ndarray, np.ndarray]],
    ignore: Collection[int],
) -> Assignment:
    """An assignment read off the first annotated frame, and classes of the clusters that were born later.

    Each takes the value that is most frequent in it in the first annotated frame where it appears.

    Args:
        born: clusters; those that have an entry already keep it.
        frames: labels and truth (H, W) of the annotated frames, in order.
        ignore: see `majority`.
    """
    if assignment.table is None:
        return assignment
    table = dict(assignment.table)
    for labels, truth in frames:
        waiting = set(born) - set(table)
        if not waiting:
            break
        if not waiting.isdisjoint(np.unique(labels).tolist()):
            found = majority(labels, truth, ignore)
            table.update({cluster: value for cluster, value in found.items() if cluster in waiting})
    return replace(assignment, table=table)


#: The labels are classes already (another system's predictions, or a propagated first-frame mask).
IDENTITY = Assignment("none")


def assign(
    rule: str,
    labels: np.ndarray,
    truth: np.ndarray,
    ignore: Collection[int],
    grid: tuple[int, int],
    unassigned: int,
) -> Assignment:
    """Apply the rule of that name to one annotated frame.

    Args:
        rule: `none`, `majority`, `official` or `hungarian`.
        labels, truth: (H, W) cluster ids and stored ground-truth values.
        ignore: ground-truth values that are no class (unused by `official` and `none`).
        grid: (h, w), the coarse grid of `official`.
        unassigned: see `Assignment`.
    """
    if rule == "none":
        return IDENTITY
    if rule == "majority":
        table = majority(labels, truth, ignore)
    elif rule == "official":
        table = official_majority(resize_nearest(labels, grid), resize_nearest(truth, grid))
    elif rule == "hungarian":
        table = hungarian(labels, truth, ignore)
    else:
        raise DataError(f"unknown assignment '{rule}'; there are: none, majority, official, hungarian")
    return Assignment(rule, table, unassigned)


def by_name(names: Mapping[int, str], classes: Mapping[int, str]) -> dict[int, int]:
    """Each segment that a person gave a class's name is of that class; segments may share one.

    Args:
        names: of segments, by label.
        classes: names of the ground truth's classes, by stored value.

    Raises:
        DataError: no segment has a name, or none has a class's.
    """
    values = {name: value for value, name in sorted(classes.items(), reverse=True)}
    table = {label: values[name] for label, name in names.items() if name in values}
    if not table:
        known = ", ".join(sorted(values)[:10]) + (", ..." if len(values) > 10 else "")
        found = (
            f"none of the names ({', '.join(sorted(set(names.values())))}) is a class" if names else "none has a name"
        )
        raise DataError(
            f"evaluate.assignment names: {found}; name segments like the ground truth's classes ({known}) "
            "(`vidseg name`, or `names` in videos.yaml), or take another assignment"
        )
    return table


def majority(labels: np.ndarray, truth: np.ndarray, ignore: Collection[int] = ()) -> dict[int, int]:
    """Each cluster takes the most frequent value among its valid pixels, the smallest on ties.

    Args:
        labels, truth: (H, W) of one size.
        ignore: ground-truth values left out; a cluster on nothing else has no entry.
    """
    clusters, values, counts = _overlap(labels, truth, ignore)
    best = counts.argmax(axis=1) if len(values) else np.zeros(len(clusters), int)
    return {
        int(cluster): int(values[column])
        for cluster, column, row in zip(clusters, best, counts, strict=True)
        if row.any()
    }


def official_majority(labels: np.ndarray, truth: np.ndarray) -> dict[int, int]:
    """The authors' rule: all pixels vote, so void may win (and, being the largest value, loses every tie)."""
    return majority(labels, truth)


def hungarian(labels: np.ndarray, truth: np.ndarray, ignore: Collection[int] = ()) -> dict[int, int]:
    """One-to-one assignment with the largest total overlap; clusters beyond the classes have no entry."""
    from scipy.optimize import linear_sum_assignment

    clusters, values, counts = _overlap(labels, truth, ignore)
    rows, columns = linear_sum_assignment(counts, maximize=True)
    return {
        int(clusters[row]): int(values[column])
        for row, column in zip(rows, columns, strict=True)
        if counts[row, column]
    }


def _overlap(
    labels: np.ndarray, truth: np.ndarray, ignore: Collection[int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    if labels.shape != truth.shape:
        raise DataError(f"cluster map of shape {labels.shape} against ground truth of shape {truth.shape}")
    clusters, rows = np.unique(labels, return_inverse=True)
    values, columns = np.unique(truth, return_inverse=True)
    joint = rows.ravel() * len(values) + columns.ravel()
    counts = np.bincount(joint, minlength=len(clusters) * len(values)).reshape(len(clusters), len(values))
    kept = ~np.isin(values, list(ignore))
    return clusters, values[kept], counts[:, kept]

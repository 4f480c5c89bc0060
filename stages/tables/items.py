"""The items that a table is made of, and which of the paper's data sets they belong to."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from pipeline.errors import DataError, UsageError
from stages.common.applied import Applied, applied_keys, applied_of
from stages.common.layout import NONE, REGISTRATIONS, item_keys, item_videos

#: Data set of items that no registration wrote.
OTHER = "other"
#: Data sets of the paper whose registrations of plain folders are known by their name: `camvid`, `camvid-val`.
NAMED = "folders"


@dataclass(frozen=True)
class Selection:
    """Items of videos.yaml.

    Attributes:
        datasets: chosen item -> its data set, the name of its registration.
        left_out: items that were not chosen.
    """

    datasets: Mapping[str, str]
    left_out: tuple[str, ...]

    @property
    def keys(self) -> tuple[str, ...]:
        """The chosen items, sorted."""
        return tuple(self.datasets)

    @property
    def notes(self) -> tuple[str, ...]:
        """What the reader of a table should know."""
        return (f"not in this table: {', '.join(self.left_out)} (videos.yaml)",) if self.left_out else ()


def select(wanted: str | None) -> Selection:
    """Choose the items of some data sets.

    Args:
        wanted: data sets separated by commas; None = all that are registered, or every item where none is.

    Raises:
        UsageError: no item has one of these data sets.
        DataError: no chosen item has ground truth.
    """
    found = {key: dataset_of(key) for key in item_keys()}
    known = [name for name in dict.fromkeys(found.values()) if name != OTHER]
    names = [name.strip() for name in wanted.split(",")] if wanted is not None else known or [OTHER]
    for name in names:
        if name not in found.values():
            raise UsageError(f"--datasets: no item is of '{name}'; there are: {', '.join(known) or 'none'}")
    chosen = {key: name for key, name in found.items() if name in names}
    if not any(map(has_truth, chosen)):
        raise DataError("videos.yaml: no chosen video has ground truth: nothing to score (ground_truth: FOLDER)")
    return Selection(chosen, tuple(key for key in found if key not in chosen))


def select_items(wanted: Sequence[str]) -> Selection:
    """Choose items by their keys.

    Args:
        wanted: keys; none = those of `select` that have ground truth.

    Raises:
        UsageError: there is no such item.
        DataError: an item that is named has no ground truth, or as `select`.
    """
    keys = item_keys()
    for key in wanted:
        if key not in keys:
            raise UsageError(f"videos.yaml: no item '{key}'; there are: {', '.join(keys)}")
        if not has_truth(key):
            raise DataError(f"videos.yaml: item '{key}' has no ground truth, which every score needs")
    names = [key for key in keys if key in wanted] if wanted else [key for key in select(None).keys if has_truth(key)]
    return Selection({key: dataset_of(key) for key in names}, tuple(key for key in keys if key not in names))


def has_truth(key: str) -> bool:
    """Whether a video of an item has ground truth."""
    return any((video.get("ground_truth") or NONE) != NONE for video in item_videos(key))


@dataclass(frozen=True)
class Series:
    """Concepts of one thing, learned from different numbers of references, applied to one item.

    Attributes:
        name: of the item and of what the concepts' keys have in common.
        item: key.
        applied: number of references -> what is applied.
    """

    name: str
    item: str
    applied: Mapping[int, Applied]


#: A concept's key with a number of references at its end.
NUMBERED = re.compile(r"(.+)-([1-9][0-9]*)")


def select_applied(wanted: str | None) -> tuple[Applied, ...]:
    """What is applied to the items of some data sets.

    Args:
        wanted: data sets separated by commas; None = all that is applied.

    Raises:
        UsageError: nothing is applied, or no item that something is applied to has one of these data sets.
        DataError: no item has ground truth.
    """
    found = [applied_of(name) for name in applied_keys()]
    if not found:
        raise UsageError("videos.yaml: nothing is applied; `vidseg videos concept` and `vidseg videos apply` add it")
    datasets = {each.name: dataset_of(each.item) for each in found}
    names = list(datasets.values()) if wanted is None else [name.strip() for name in wanted.split(",")]
    for name in names:
        if name not in datasets.values():
            known = ", ".join(dict.fromkeys(datasets.values()))
            raise UsageError(f"--datasets: nothing is applied to an item of '{name}'; there are: {known}")
    chosen = tuple(each for each in found if datasets[each.name] in names)
    if not any(has_truth(each.item) for each in chosen):
        raise DataError("videos.yaml: no item that something is applied to has ground truth: nothing to score")
    return chosen


def series_of(applied: Iterable[Applied]) -> tuple[Series, ...]:
    """The series among what is applied: concepts whose keys end in a number (`cars-1`, `cars-5`), on one item."""
    found: dict[tuple[str, str], dict[int, Applied]] = {}
    for each in applied:
        if numbered := NUMBERED.fullmatch(each.concept):
            found.setdefault((each.item, numbered[1]), {})[int(numbered[2])] = each
    return tuple(
        Series(f"{item}-{concept}", item, dict(sorted(numbers.items())))
        for (item, concept), numbers in found.items()
        if len(numbers) > 1
    )


def dataset_of(key: str) -> str:
    """The registration that wrote an item, `OTHER` where none did."""
    return str(item_videos(key)[0].get("dataset") or OTHER)


def paper_names(datasets: Iterable[str]) -> dict[str, str]:
    """Data set of a table -> what the paper may call it: the layout that was registered.

    Plain folders have no layout to tell; their registration's name does, up to the first '-'.
    """
    from pipeline.datasets.links import read_source

    sources = {name: read_source(REGISTRATIONS / name) for name in dict.fromkeys(datasets)}
    return {
        name: name.partition("-")[0] if source["dataset"] == NAMED else source["dataset"]
        for name, source in sources.items()
        if source is not None
    }

"""What the player of a page shows: pictures, label maps and features of the frames that fit, collected in one pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field

import cv2
import numpy as np

from pipeline.ahead import mapped
from pipeline.media.resize import resize_nearest
from pipeline.media.timing import timing
from pipeline.rendering.clip_frames import ClipPictures, frames_of
from pipeline.rendering.drawing import paint, resized, width_within
from pipeline.rendering.feature_pages import feature_axes, feature_titles
from pipeline.rendering.label_summary import LabelTally
from pipeline.rendering.sheets import SliceColumns, spread, steps_of
from pipeline.report.encoding import exact_picture, packed, picture
from pipeline.report.thinning import MOST_BYTES, Thinning, sampled, thinning
from pipeline.stores.confidence import CONFIDENCE
from pipeline.stores.feature_codec import read_features
from pipeline.stores.store import Store

#: Width and most time steps of an x-t slice.
_SLICE_WIDTH, _SLICE_STEPS = 480, 360

#: One pixel of confidence for so many of the picture, per axis, in steps of so many of its 256 levels.
_CONFIDENCE_CELL, _CONFIDENCE_STEP = 4, 8

#: Columns of the time line, at most; longer clips are averaged.
_COLUMNS = 400


@dataclass(frozen=True)
class Labelled:
    """One run's labels.

    Attributes:
        planes: per shown frame, `encoding.packed`.
        confidence: the same at a quarter of the size, 0..255; empty where the run has none.
        tally: of all frames, shown or not.
        kind: `u8` or `u16`.
    """

    planes: list[str]
    confidence: list[str]
    tally: LabelTally
    kind: str


@dataclass(frozen=True)
class Footage:
    """What the player shows.

    Attributes:
        size: (h, w) of pictures and label maps.
        names: of all frames.
        positions: of the shown frames.
        pictures: data URIs of the shown frames.
        features: by title, data URIs of the features' principal components in the shown frames.
        runs: labels of one run, or of two.
        slices: by title, data URIs of one row over time.
        marked: data URI of the first frame with that row marked; None where there are no slices.
        cuts: positions of the frames that begin a shot, but for the first one.
        seconds: for which each shown frame is shown; None = all for as long, as the rate says.
    """

    size: tuple[int, int]
    names: Sequence[str]
    positions: Sequence[int]
    pictures: list[str]
    features: dict[str, list[str]]
    runs: list[Labelled]
    slices: dict[str, str]
    marked: str | None
    cuts: Sequence[int] = ()
    seconds: list[float] | None = None

    @property
    def total(self) -> int:
        """Frames of the clip."""
        return len(self.names)

    @property
    def step(self) -> int:
        """Every so many frames one is shown."""
        return self.positions[1] - self.positions[0] if len(self.positions) > 1 else 1


#: A frame's position, its picture (H, W, 3), and its labels (H, W) of each run.
_Frame = tuple[int, tuple[np.ndarray, tuple[np.ndarray, ...]]]


@dataclass
class _Shown:
    """The shown frames, as they come."""

    plan: Thinning
    pictures: list[str] = field(default_factory=list)
    features: dict[str, list[str]] = field(default_factory=dict)
    planes: list[list[str]] = field(default_factory=list)
    confidence: list[list[str]] = field(default_factory=list)

    def lists(self) -> list[list[str]]:
        return [self.pictures, *self.features.values(), *self.planes, *self.confidence]

    def fit(self) -> None:
        """Leave out every second frame until the rest is small enough."""
        while len(self.pictures) > 1 and sum(len(text) for texts in self.lists() for text in texts) > 0.9 * MOST_BYTES:
            for texts in self.lists():
                texts[:] = texts[::2]
            self.plan = self.plan.coarser()


def collect(
    pictures: ClipPictures,
    labels: Sequence[Store],
    colours: np.ndarray,
    *,
    features: Store | None = None,
    coarse: Store | None = None,
    row: float | None = None,
    advance: Callable[[int], None] = lambda _: None,
) -> Footage:
    """Go once through a clip and keep what a page shows of it.

    Args:
        pictures: of the clip, at the source's size.
        labels: labels.zarr of one run or of two, of all frames at the source's size.
        colours: (k, 3) u8 of labels, for the x-t slices.
        features: adds their principal components.
        coarse: adds coarse labels to the x-t slices.
        row: where x-t slices are taken, 0 (top) .. 1 (bottom); None = none.
        advance: told of each finished frame.
    """
    names = [str(name) for name in pictures.clip.attrs["names"]]
    components = {} if features is None else _components(features)
    shown = _Shown(_plan(pictures, labels, len(names), len(components)))
    shown.features = {title: [] for title in components}
    shown.planes = [[] for _ in labels]
    shown.confidence = [[] for store in labels if store.has(CONFIDENCE)]
    tallies = [LabelTally() for _ in labels]
    in_slices = [] if row is None else spread(len(names), _SLICE_STEPS)
    cuts = steps_of(pictures.cuts, in_slices)
    slices = None if row is None else SliceColumns(row, _SLICE_WIDTH, len(in_slices), cuts)
    size = _size(pictures.size, shown.plan.side)
    planes = zip(*(frames_of(store, "labels") for store in labels), strict=True)

    def encoded(frame: _Frame) -> tuple[_Frame, list[str] | None]:
        """A frame with what `shown.lists()` get of it; None = it is not shown."""
        position, (image, maps) = frame
        if position not in shown.plan.shown:
            return frame, None
        texts = [picture(resized(image, size[1]))]
        texts += [exact_picture(colour(position)) for colour in components.values()]
        texts += [packed(resize_nearest(plane, size)) for plane in maps]
        return frame, texts + [packed(_confidence(store, position, size)) for store in labels if store.has(CONFIDENCE)]

    with closing(mapped(encoded, enumerate(zip(pictures.images(), planes, strict=True)))) as frames:
        for (position, (image, maps)), texts in frames:
            for tally, plane in zip(tallies, maps, strict=True):
                tally.add(plane)
            if texts is not None:
                for shown_texts, text in zip(shown.lists(), texts, strict=True):
                    shown_texts.append(text)
            if slices is not None and position in in_slices:
                columns = {"frames": image}
                if coarse is not None:
                    plane = coarse.read("refined", position, position + 1)[0]
                    columns["coarse labels"] = resize_nearest(paint(plane, colours), pictures.size)
                slices.add({**columns, "labels": paint(maps[0], colours)})
            advance(1)
    shown.fit()
    height = round(_SLICE_WIDTH * 0.6)
    confidence = iter(shown.confidence)
    return Footage(
        size,
        names,
        list(shown.plan.shown),
        shown.pictures,
        shown.features,
        [
            Labelled(
                texts,
                next(confidence) if store.has(CONFIDENCE) else [],
                tally,
                "u8" if store.array("labels").dtype == np.uint8 else "u16",
            )
            for store, texts, tally in zip(labels, shown.planes, tallies, strict=True)
        ],
        {} if slices is None else {title: picture(image) for title, image in slices.over_time(height).items()},
        None if slices is None else picture(slices.marked["frames"]),
        pictures.cuts,
        shown_seconds(list(shown.plan.shown), pictures.times, pictures.fps),
    )


def shown_seconds(positions: Sequence[int], times: Sequence[float], fps: float) -> list[float] | None:
    """For how long the player shows each of some frames: until the next one's time; None = at an even rate.

    Args:
        positions: of the shown frames, ascending.
        times: seconds of all frames of the clip; the last one is shown as long as frames are on average.
        fps: average rate of the clip.
    """
    shown = timing(fps, times)
    if shown.stamps is None:
        return None
    begins = [shown.of(position)[0] for position in positions]
    ends = [*begins[1:], sum(shown.of(len(times) - 1))]
    return [round(float((end - begin) * shown.unit), 4) for begin, end in zip(begins, ends, strict=True)]


def columns_of(tally: LabelTally) -> tuple[list[int], dict[int, list[float]]]:
    """The time line: positions at which its columns begin, and each label's share of the pixels in them.

    A long clip has fewer columns than frames; each is the mean over its frames.
    """
    total = tally.seen
    edges = np.unique(np.linspace(0, total, min(total, _COLUMNS) + 1).round().astype(int))
    lengths = np.diff(edges)
    shares = {}
    for label, pixels in tally.by_frame().items():
        means = np.add.reduceat(pixels, edges[:-1]) / (lengths * (tally.area / total))
        shares[label] = [round(float(mean), 5) for mean in means]
    return edges[:-1].tolist(), shares


def _size(size: tuple[int, int], side: int) -> tuple[int, int]:
    """(h, w) at which pictures of (H, W) are shown: no larger than they are."""
    width = min(size[1], width_within(size, side))
    return max(1, round(size[0] * width / size[1])), width


def _plan(pictures: ClipPictures, labels: Sequence[Store], total: int, components: int) -> Thinning:
    """By what a few frames of the clip take."""

    def bytes_at(side: int) -> float:
        size, taken = _size(pictures.size, side), 0
        for position in sampled(total):
            frame = pictures.clip.read("frames", position, position + 1)[0]
            taken += len(picture(cv2.resize(frame, size[::-1], interpolation=cv2.INTER_CUBIC)))
            taken += sum(
                len(packed(resize_nearest(store.read("labels", position, position + 1)[0], size))) for store in labels
            )
            taken += sum(len(packed(_confidence(store, position, size))) for store in labels if store.has(CONFIDENCE))
        return taken / len(sampled(total)) + components * _COMPONENT_BYTES

    return thinning(total, bytes_at)


#: What a picture of principal components takes, about.
_COMPONENT_BYTES = 6000


def _components(features: Store) -> dict[str, Callable[[int], np.ndarray]]:
    """By title, what gives a frame's first three principal components as colours (h, w, 3) u8."""
    grid = tuple(features.attrs["grid"])

    def colours_of(name: str) -> Callable[[int], np.ndarray]:
        axes = feature_axes(features, name)
        return lambda frame: axes.colours(read_features(features, name, frame, frame + 1)[0]).reshape(*grid, 3)

    return {title: colours_of(name) for name, title in feature_titles(features).items()}


def _confidence(store: Store, position: int, size: tuple[int, int]) -> np.ndarray:
    plane = store.read(CONFIDENCE, position, position + 1)[0]
    coarse = resize_nearest(plane, (max(1, size[0] // _CONFIDENCE_CELL), max(1, size[1] // _CONFIDENCE_CELL)))
    return coarse // _CONFIDENCE_STEP * _CONFIDENCE_STEP

"""The window loop: predict with the context model, refine by votes, update the model (section 4.1, 4.2).

A clip is cut into windows of B frames, the last one of a shot possibly shorter. Frame 1 starts the model; each window
is predicted from what the model learnt before, refined along its trajectories, and then learnt itself. Where
`segment.births` says so, segments that the model does not know are added before the refinement (`births`). Where
`segment.after_cut` says so, the first frame of a new shot starts the model again.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from pipeline.ahead import ahead
from pipeline.errors import DataError
from pipeline.media.pictures import VOID
from pipeline.parameters import SegmentParams
from pipeline.segmentation.births import Numbers, Opening, Scene, add_births, sightings
from pipeline.segmentation.confidence import token_confidence
from pipeline.segmentation.context import Context, Neighbours, fit, merge_by_mask
from pipeline.segmentation.correspondence import Grid, Matches
from pipeline.segmentation.kmeans import kmeans
from pipeline.segmentation.token_weights import balanced_weights
from pipeline.segmentation.voting import Voted, count_votes


@dataclass(frozen=True)
class Clip:
    """A clip's features, read range by range.

    Attributes:
        frames: how many there are.
        features: (start, stop) -> (f, n, c) float32, max-abs-normalised.
        matches: (start, stop) -> the stop-start-1 transitions between those frames.
        grid: (h, w) of the tokens.
        cuts: positions of the frames that begin a shot, but for the first one, ascending.
    """

    frames: int
    features: Callable[[int, int], np.ndarray]
    matches: Callable[[int, int], Matches]
    grid: Grid
    cuts: Sequence[int] = ()


@dataclass(frozen=True)
class Start:
    """Where a clip's loop begins.

    Attributes:
        context: the model before the first window.
        first_labels: M^1, (n,), when the model was fitted on this clip's frame 1, else None.
        numbers: label values that were given so far; None = those that the model remembers.
        kept: (n,) bool, tokens of frame 1 that keep `first_labels` whatever is voted; None = none of them.
    """

    context: Context
    first_labels: np.ndarray | None = None
    numbers: Numbers | None = None
    kept: np.ndarray | None = None

    @property
    def given(self) -> Numbers:
        """Label values that were given so far."""
        return self.numbers or Numbers(frozenset(np.unique(self.context.labels).tolist()))

    def highest(self, params: SegmentParams, cuts: int = 0) -> int:
        """The largest label value that a clip with so many cuts can come to."""
        remembered = int(self.context.labels.max())
        restarts = cuts > 0 and params.after_cut == "restart"
        if params.births == "none" and not restarts:
            return remembered
        return max(remembered, self.given.highest_after(cuts, params))


@dataclass(frozen=True)
class Window:
    """One window's result.

    Attributes:
        start: its first frame in the clip.
        initial, refined: (f, n) int32 labels before and after the vote.
        confidence: (f, n) float32 in [0, 1], how sure the refined ones are.
        context: the model that has learnt it.
        numbers: label values that were given so far.
    """

    start: int
    initial: np.ndarray
    refined: np.ndarray
    confidence: np.ndarray
    context: Context
    numbers: Numbers

    @property
    def labels(self) -> set[int]:
        """The refined label values that occur."""
        return set(np.unique(self.refined).tolist())

    @property
    def born(self) -> dict[int, tuple[int, int]]:
        """First and last frame of this window that show a segment that frame 1 of the clip did not have, by label: one
        that was born, or found anew after a cut."""
        return sightings(self.refined, self.initial, self.start, self.numbers.born | self.numbers.anew)


def window_ranges(frames: int, window: int, start: int = 0, cuts: Sequence[int] = ()) -> list[range]:
    """Frames start..frames cut into windows, none of which crosses a cut; the last one of a shot may be shorter."""
    edges = [start, *(cut for cut in cuts if start < cut < frames), frames]
    return [
        range(first, min(first + window, stop))
        for begin, stop in pairwise(edges)
        for first in range(begin, stop, window)
    ]


def window_before(start: int, window: int, cuts: Sequence[int] = ()) -> range:
    """The window that ends where another one starts; none before the first frame."""
    shot = max((cut for cut in cuts if cut < start), default=0)
    if start in cuts:  # the last window of a shot may be shorter
        return window_ranges(start, window, shot)[-1]
    return range(max(shot, start - window), start)


def opened_by(start: int, cuts: Sequence[int]) -> Opening | None:
    """What a window is the first one of, where the model that predicts it is fitted on the clip's frame 1."""
    return "clip" if start == 0 else "shot" if start in cuts else None


def fit_context(features: np.ndarray, params: SegmentParams, seed_mask: np.ndarray | None = None) -> Start:
    """Fit the model on frame 1: K-Means, or a given mask (`init: mask`).

    Args:
        features: (f, n, c) of the first window (one frame is enough for `kmeans_frames: first`).
        seed_mask: (n,) label values of frame 1 on the token grid; needed by `init: mask` and `label_merge:
            first_frame`.

    Raises:
        UsageError: more clusters than tokens.
        DataError: a mask is needed and not given, or features are not finite.
    """
    labels = _first_labels(features, params, seed_mask)
    return Start(fit(features[0], labels), labels)


def restart(features: np.ndarray, numbers: Numbers, params: SegmentParams) -> Start:
    """Fit the model on the first frame of a new shot by K-Means; its labels are numbered on from those given so far.

    Args:
        features: (f, n, c) of the shot's first window.

    Raises:
        UsageError: more clusters than tokens.
        DataError: features are not finite.
    """
    labels = _first_labels(features, params, None)
    anew = numbers.restarted(int(labels.max()) + 1)
    labels = labels + min(anew.given)
    return Start(fit(features[0], labels), labels, anew)


def predict_window(features: np.ndarray, start: Start, params: SegmentParams, first_frame: int = 0) -> np.ndarray:
    """Initial labels (f, n) int32 of a window with (f, n, c) features.

    With `first_labels` in `start` and `first_frame: keep`, frame 1 keeps them.
    """
    return _predicted(start.context.neighbours(features, params.neighbors, first_frame), start, params)


def _predicted(neighbours: Neighbours, start: Start, params: SegmentParams) -> np.ndarray:
    labels = neighbours.vote()
    if start.first_labels is not None and params.parity.first_frame == "keep":
        labels[0] = start.first_labels
    return labels


def add_born(
    labels: np.ndarray,
    features: np.ndarray,
    matches: Matches,
    scene: Scene,
    params: SegmentParams,
) -> tuple[np.ndarray, Numbers]:
    """Initial labels (f, n) of a window with the segments that are born in it, and all label values given by then.

    With `births: none` both are what they were.

    Raises:
        UsageError: more segments than `segment.most_labels`.
    """
    if params.births == "none":
        return labels, scene.numbers
    with_births = add_births(labels, features, matches, scene, params)
    return with_births, scene.numbers.with_born(set(np.unique(with_births).tolist()) - scene.numbers.given)


def refine_window(labels: np.ndarray, matches: Matches, params: SegmentParams) -> Voted:
    """Refined labels (f, n) of a window: the vote of equations 4 and 5."""
    return count_votes(labels, matches, params.vote)


def update_context(context: Context, features: np.ndarray, labels: np.ndarray, params: SegmentParams) -> Context:
    """The model after a window with (f, n, c) features and refined labels (f, n)."""
    return context.update(features, labels, params.memory_policy)


def segment_windows(clip: Clip, start: Start, params: SegmentParams) -> Iterator[Window]:
    """Segment a clip window by window; the next one is read meanwhile.

    Raises:
        DataError: features are not finite, or matches do not fit.
        UsageError: more neighbours than the model remembers, or more segments than `segment.most_labels`.
    """
    earlier = np.empty(0, np.float32)
    windows = window_ranges(clip.frames, params.window, cuts=clip.cuts)
    read = ((one, clip.features(one.start, one.stop), clip.matches(one.start, one.stop)) for one in windows)
    with closing(ahead(read, most=1)) as windows_read:
        for window, features, matches in windows_read:
            opens = opened_by(window.start, clip.cuts)
            if opens == "shot" and params.after_cut == "restart":
                opens, start = "clip", restart(features, start.given, params)
            elif opens == "shot":
                start = replace(start, numbers=start.given.in_new_shot())
            neighbours = start.context.neighbours(features, params.neighbors, window.start)
            predicted = _predicted(neighbours, start, params)
            before = features[:1] if opens == "clip" else earlier
            scene = Scene(clip.grid, before, start.context, start.given, window.start, opens)
            initial, numbers = add_born(predicted, features, matches, scene, params)
            voted = _with_kept(refine_window(initial, matches, params), start)
            confidence = token_confidence(voted, features, neighbours, start.context)
            context = update_context(start.context, features, voted.labels, params)
            earlier, start = features, Start(context, numbers=numbers)
            yield Window(window.start, initial, voted.labels, confidence, context, numbers)


def _with_kept(voted: Voted, start: Start) -> Voted:
    """What a window's votes decided, but in the tokens of its first frame that keep what was given."""
    if start.kept is None:
        return voted
    labels, share = voted.labels.copy(), voted.share.copy()
    labels[0] = np.where(start.kept, start.first_labels, labels[0])
    share[0, start.kept] = 1
    return Voted(labels, share)


def single_label_note(labels: Collection[int]) -> str | None:
    """What to tell the user when a whole clip got one label; None when all is well."""
    if len(labels) != 1:
        return None
    return (
        f"all tokens of the clip have one label ({next(iter(labels))}); raise segment.clusters, or check "
        "that the frames are not blank"
    )


def void_tokens(mask: np.ndarray) -> np.ndarray:
    """Which tokens of a mask (n,) nothing is said about, bool.

    255 is void, as in the data sets' label PNGs, except in 16-bit masks and in pure 0/255 masks, where it is
    the object.
    """
    return np.asarray((mask == VOID) & (mask.dtype == np.uint8) & (not set(np.unique(mask)) <= {0, VOID}))


def fill_void(features: np.ndarray, mask: np.ndarray, neighbors: int) -> np.ndarray:
    """Labels (n,) int32 of frame 1 from a mask (n,) whose void tokens take the label of similar tokens.

    Args:
        features: (n, c) of frame 1, max-abs-normalised.

    Raises:
        DataError: nothing but void.
    """
    void = void_tokens(mask)
    if (mask == VOID).all():
        raise DataError("the first frame's mask is void (255) everywhere; label at least one region")
    labels = mask.astype(np.int32)
    if void.any():
        known = fit(features[~void], labels[~void])
        labels[void] = known.predict(features[None, void], min(neighbors, int((~void).sum())))[0]
    return labels


def _first_labels(features: np.ndarray, params: SegmentParams, seed_mask: np.ndarray | None) -> np.ndarray:
    merge = params.parity.label_merge == "first_frame"
    if seed_mask is None and (params.init == "mask" or merge):
        setting = "label_merge: first_frame" if merge else "init: mask"
        raise DataError(
            f"segment.{setting} needs a mask of the first frame, and there is none; give one with "
            '`--seed DIR` (a folder with mask.png and seed.json holding {"mask": "mask.png"}), with '
            "`vidseg run --mask PNG`, or take it from the ground truth with ingest.seed=truth"
        )
    if params.init == "mask":
        assert seed_mask is not None
        return fill_void(features[0], seed_mask, params.neighbors)
    clustered = features[:1] if params.parity.kmeans_frames == "first" else features
    tokens = clustered.reshape(-1, features.shape[-1])
    weights = balanced_weights(tokens, params.balance)
    result = kmeans(tokens, params.clusters, params.restarts, params.seed, weights)
    clusters = result.labels[: features.shape[1]]
    return merge_by_mask(clusters, seed_mask) if merge and seed_mask is not None else clusters

"""Segments that are born later: what enters a clip and is unlike all that was near its place. Not in the paper.

Four steps, window by window:

1. A token is *unlike* what was there when its distance to the tokens before it, near its place, is beyond what these
   have among themselves (`novelty`): the quantile `segment.birth_quantile` of their distances. It is *new* when it is
   `segment.birth_factor` times as far.
2. It must be so in `segment.birth_frames` frames in a row, along the matches of equation 3.
3. Tokens unlike what was there that touch, or that a match joins, are a *region*. A region with `segment.birth_tokens`
   new tokens, in as many frames, is born; if it is larger than a segment of frame 1 usually is, K-Means cuts it.
4. But a region that resembles a segment that was born earlier is more of that one; one that resembles a segment that
   the last window did not have is that one, which came back.

The regions are then remembered, and what else of the window is nearest to them takes their labels as well.

Where the video is cut, places mean nothing: the tokens of a new shot's first window are compared with all that is
remembered, wherever it was. What is as near to it as usual is recognised.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from pipeline.errors import UsageError
from pipeline.media.pictures import VOID
from pipeline.parameters import SegmentParams
from pipeline.segmentation.context import Context, fit, make_segment, nearest_tokens
from pipeline.segmentation.correspondence import NO_MATCH, Grid, Matches
from pipeline.segmentation.kmeans import kmeans
from pipeline.segmentation.novelty import distances_nearby
from pipeline.segmentation.token_weights import balanced_weights
from pipeline.stores.schemas import LARGEST_LABEL

#: Every third of the frames that a window is compared with tells which distances are usual: they are much alike.
SAMPLED = 3


@dataclass(frozen=True)
class Numbers:
    """Label values that were given so far, also those that nothing remembers any more.

    Attributes:
        given: all of them; where segments were found anew after a cut, all from then on.
        born: those that were given to segments that were born later.
        anew: those of segments that were found anew after a cut.
        earlier: those that were given before the shot began; `segment.most_labels` does not count them.
    """

    given: frozenset[int]
    born: frozenset[int] = frozenset()
    anew: frozenset[int] = frozenset()
    earlier: frozenset[int] = frozenset()

    @property
    def counted(self) -> int:
        """How many of them count for `segment.most_labels`."""
        return len(self.given - self.earlier)

    def next(self, count: int = 1) -> int:
        """The first of `count` numbers in a row for new segments: above all others, and never 255, which PNGs read as
        void."""
        number = max(self.given, default=-1) + 1
        return VOID + 1 if number <= VOID < number + count else number

    def with_born(self, labels: Collection[int]) -> Numbers:
        """These, and those of segments that were born just now."""
        return replace(self, given=self.given | set(labels), born=self.born | set(labels))

    def in_new_shot(self) -> Numbers:
        """These where a shot begins that the context predicts."""
        return replace(self, earlier=self.given)

    def restarted(self, count: int) -> Numbers:
        """Those of `count` segments that are found anew after a cut."""
        anew = frozenset(range(self.next(count), self.next(count) + count))
        return Numbers(anew, anew=anew)

    def are_all(self, params: SegmentParams) -> bool:
        """Whether `births: auto` gives no further ones: there are as many as `segment.most_labels` allows."""
        return params.births == "auto" and self.counted >= params.label_limit

    def highest(self, params: SegmentParams) -> int:
        """The largest number that segments can come to that are born."""
        if params.births == "none" or self.counted >= params.label_limit:
            return max(self.given)
        last = self.next() + params.label_limit - self.counted - 1
        return last + (self.next() <= VOID <= last)

    def highest_after(self, cuts: int, params: SegmentParams) -> int:
        """The largest number that segments can come to in a clip of so many cuts.

        Those of `auto`, which nobody asked for, end at the largest that a store of labels can hold.
        """
        numbers, restarts = self, params.after_cut == "restart"
        highest = numbers.highest(params)
        for _ in range(cuts if restarts or params.births != "none" else 0):
            so_far = Numbers(frozenset([highest]))
            numbers = so_far.restarted(params.clusters) if restarts else so_far.in_new_shot()
            highest = numbers.highest(params)
        if params.births == "auto" and not restarts:
            return max(max(self.given), min(highest, LARGEST_LABEL))
        return highest


def sightings(
    refined: np.ndarray, initial: np.ndarray, start: int, born: Collection[int]
) -> dict[int, tuple[int, int]]:
    """First and last frame of a window that show each of the segments `born`, by label, of those that are seen.

    Args:
        refined, initial: (f, n) labels; a segment that the vote took away is looked for in `initial`.
        start: position of the first frame in its clip.
    """
    seen = {}
    for label in sorted(born):
        for labels in (refined, initial):
            frames = np.flatnonzero((labels == label).any(axis=1))
            if len(frames):
                seen[label] = (start + int(frames[0]), start + int(frames[-1]))
                break
    return seen


#: What a window can be the first one of.
Opening = Literal["clip", "shot"]


@dataclass(frozen=True)
class Scene:
    """What a window's tokens are compared with.

    Attributes:
        grid: (h, w) of the tokens.
        before: (b, n, c) features of the window before; of a clip's first window, its first frame.
        context: the model that predicted the window.
        numbers: label values given so far.
        first_frame: position of the window's first frame in its clip.
        opens: what the window is the first one of: a `clip`, or a shot whose segments were found anew; a `shot` that
            the context predicts; or None.
    """

    grid: Grid
    before: np.ndarray
    context: Context
    numbers: Numbers
    first_frame: int
    opens: Opening | None = None


def add_births(
    labels: np.ndarray, features: np.ndarray, matches: Matches, scene: Scene, params: SegmentParams
) -> np.ndarray:
    """The labels of a window with those of the segments that are born in it.

    Args:
        labels: (f, n) int32, as the context model predicts them.
        features: (f, n, c) float32.
        matches: the f-1 transitions inside the window.

    Returns:
        (f, n) int32; `labels` itself where nothing is born.

    Raises:
        UsageError: more segments than `segment.most_labels`, with `births: distance`.
    """
    found = new_tokens(features, matches, scene, params)
    numbers, born = scene.numbers, np.full(labels.shape, -1, np.int32)
    of_shot = np.zeros(labels.shape, bool)
    for whole in _regions(found.unlike, matches.next, scene.grid):
        known = np.zeros(whole.shape, bool)
        for label in np.unique(labels[whole]):
            at = whole & (labels == label)
            known[at] = _distances(features[at], _of_label(scene.context, label), params.neighbors) <= found.threshold
        region = _own_tokens(whole, known, labels, scene.grid)
        if not region.any():
            continue
        number = _recognised(features[region], labels[region], scene, numbers, found.threshold, params)
        if number is not None:
            born[region] = number
        elif _is_large(region & found.new, params):
            if scene.opens == "shot":
                of_shot |= region
                continue
            numbers = _number(_parts(region, features, params), born, numbers, scene, params)
    if of_shot.any():
        _number(_parts_of_shot(of_shot, features, params), born, numbers, scene, params)
    if (born < 0).all():
        return labels
    at = born >= 0
    learnt = scene.context.joined_by(make_segment(features[at][None], born[at][None]))
    again = learnt.predict(features, params.neighbors, scene.first_frame)
    taken = np.isin(again, np.unique(born[at]))
    if scene.opens == "clip":
        taken[0] = False  # its first frame has what it began with
    return np.where(at, born, np.where(taken, again, labels)).astype(np.int32)


def _number(
    parts: Iterable[np.ndarray], born: np.ndarray, numbers: Numbers, scene: Scene, params: SegmentParams
) -> Numbers:
    """Write the next numbers into `born` (f, n), one for each of the masks (f, n); returns all that are given then.

    Nobody asked for the births of `auto`: at the limit they end, and what is left keeps the nearest labels.
    """
    for part in parts:
        number = numbers.next()
        if numbers.are_all(params) or (params.births == "auto" and number > LARGEST_LABEL):
            break
        numbers = numbers.with_born([number])
        if numbers.counted > params.label_limit:
            frame = scene.first_frame + int(part.any(axis=1).argmax())
            raise UsageError(
                f"segment.most_labels is {params.label_limit}, and one more segment would be born in frame {frame}; "
                "raise it, or raise segment.birth_factor or segment.birth_tokens so that fewer are born, or set "
                "segment.births=none"
            )
        born[part] = number
    return numbers


@dataclass(frozen=True)
class NewTokens:
    """Which tokens of a window are unlike what was near their place, and which are so much so that they are new.

    Attributes:
        unlike, new: (f, n) bool.
        threshold: the distance beyond which they are new.
    """

    unlike: np.ndarray
    new: np.ndarray
    threshold: float


def new_tokens(features: np.ndarray, matches: Matches, scene: Scene, params: SegmentParams) -> NewTokens:
    """Steps 1 and 2: tokens that are unlike what was near their place, along their tracks.

    A single frame before, as in a clip's first window, has no others to compare it with: the second frame of the window
    takes their part.

    Tokens of a new shot are compared with all that is remembered, wherever it was. Such distances have a limit, often
    below the threshold: there, what is halfway is new.
    """
    before, search = scene.before, (scene.grid, params.birth_reach, params.neighbors)
    if len(features) < 2 and len(before) < 2:
        none = np.zeros(features.shape[:2], bool)
        return NewTokens(none, none, np.inf)
    if scene.opens == "shot":
        among = _among_frames(before if len(before) > 1 else features, params.neighbors)
        distances = np.stack([_distances(frame, scene.context.features, params.neighbors) for frame in features])
    else:
        sampled = range(0, len(before), SAMPLED)
        among = (
            distances_nearby(before, features[1:2], *search)
            if len(before) == 1
            else distances_nearby(before[sampled], before, *search, own=sampled)
        )
        distances = distances_nearby(features, before, *search)
    usual = float(np.quantile(among, params.birth_quantile))
    threshold = params.birth_factor * usual
    halfway = (usual + threshold) / 2

    def seen_long(far: np.ndarray) -> np.ndarray:
        return far & (_frames_in_a_row(far, matches.next) >= params.birth_frames)

    unlike = seen_long(distances > halfway)
    if scene.opens == "shot":
        return NewTokens(unlike, unlike, halfway)
    return NewTokens(unlike, seen_long(distances > threshold), threshold)


def _among_frames(features: np.ndarray, count: int) -> np.ndarray:
    """Distances of the tokens of some frames (f, n, c) to those of all others, wherever these are."""
    distances = []
    for frame in range(0, len(features), SAMPLED):
        others = np.delete(features, frame, axis=0).reshape(-1, features.shape[-1])
        distances.append(_distances(features[frame], others, count))
    return np.stack(distances)


def _frames_in_a_row(far: np.ndarray, following: np.ndarray) -> np.ndarray:
    """How many frames (f, n) in a row a token's track is far, of those around the token's own; 0 where it is not."""
    after, until = far.astype(np.int32), far.astype(np.int32)
    for frame in range(len(far) - 2, -1, -1):
        goes_on = following[frame] != NO_MATCH
        after[frame, goes_on] += after[frame + 1, following[frame, goes_on]]
        after[frame] *= far[frame]
    for frame in range(1, len(far)):
        goes_on = following[frame - 1] != NO_MATCH
        came = np.zeros(far.shape[1], np.int32)
        np.maximum.at(came, following[frame - 1, goes_on], until[frame - 1, goes_on])
        until[frame] = (until[frame] + came) * far[frame]
    return np.maximum(after + until - 1, 0)


def _parts(region: np.ndarray, features: np.ndarray, params: SegmentParams) -> list[np.ndarray]:
    """Step 4: masks (f, n) of the segments that a region becomes."""
    usual = region.shape[1] / params.clusters  # tokens of a segment of frame 1
    count = max(1, int(region.sum(axis=1).max() / usual))
    if count == 1:
        return [region]
    clusters = np.full(region.shape, -1, np.int32)
    clusters[region] = kmeans(features[region], count, params.restarts, params.seed).labels
    parts = (clusters == cluster for cluster in range(clusters.max() + 1))
    return [part for part in parts if _is_large(part, params)]


def _parts_of_shot(region: np.ndarray, features: np.ndarray, params: SegmentParams) -> Iterator[np.ndarray]:
    """Step 3 in a new shot: masks (f, n) of the segments that all its new tokens become together.

    As frame 1 is, the frame that has most of them is cut by K-Means; the others follow by their nearest neighbours.
    """
    frame = int(region.sum(axis=1).argmax())
    tokens = features[frame, region[frame]]
    count = min(max(1, round(len(tokens) * params.clusters / region.shape[1])), len(tokens))
    weights = balanced_weights(tokens, params.balance)
    model = fit(tokens, kmeans(tokens, count, params.restarts, params.seed, weights).labels)
    clusters = np.full(region.shape, -1, np.int32)
    clusters[region] = model.predict(features[None, region], min(params.neighbors, len(tokens)))[0]
    clusters[frame, region[frame]] = model.labels
    return (clusters == cluster for cluster in range(model.labels.max() + 1))


def _own_tokens(region: np.ndarray, known: np.ndarray, labels: np.ndarray, grid: Grid) -> np.ndarray:
    """A region (f, n) without the tokens that are known and whose labels (f, n) mostly go on beyond it.

    What lies beside something new is unlike what was there as well, because a token sees what is around it; and so is
    ground that something has left.
    """
    from scipy import ndimage

    kept = region & ~known
    for frame in np.flatnonzero(region.any(axis=1)):
        inside, values = region[frame].reshape(grid), labels[frame].reshape(grid)
        for label in np.unique(values[inside]):
            pieces, count = ndimage.label(values == label)
            share = np.array([0, *ndimage.mean(inside, pieces, range(1, count + 1))])  # 0 is outside of the label
            kept[frame] |= (inside & (values == label) & (share[pieces] > 0.5)).ravel()
    return kept


def _is_large(region: np.ndarray, params: SegmentParams) -> bool:
    least = params.birth_size(region.shape[1])
    return bool((region.sum(axis=1) >= least).sum() >= params.birth_frames)


def _regions(new: np.ndarray, following: np.ndarray, grid: Grid) -> list[np.ndarray]:
    """Masks (f, n) of tokens that touch within a frame, or that a match joins to the next one; the largest first."""
    from scipy import ndimage
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    pieces, total = np.zeros(new.shape, np.int64), 0
    for frame, mask in enumerate(new):
        found, count = ndimage.label(mask.reshape(grid))
        pieces[frame] = np.where(mask, found.ravel() + total, 0)
        total += count
    joined = []
    for frame, goes_to in enumerate(following):
        here = np.flatnonzero(new[frame] & (goes_to != NO_MATCH))
        here = here[new[frame + 1, goes_to[here]]]
        joined.append(np.stack([pieces[frame, here], pieces[frame + 1, goes_to[here]]]))
    ends = np.concatenate(joined, axis=1) if joined else np.empty((2, 0), np.int64)
    links = coo_matrix((np.ones(ends.shape[1]), tuple(ends)), shape=(total + 1, total + 1))
    group = connected_components(links, directed=False)[1][pieces]
    regions = [new & (group == value) for value in np.unique(group[new])]
    return sorted(regions, key=np.sum, reverse=True)


def _recognised(
    tokens: np.ndarray, labels: np.ndarray, scene: Scene, numbers: Numbers, threshold: float, params: SegmentParams
) -> int | None:
    """The segment that tokens (m, c) are more of, or that came back with them; None = they are a new one.

    It is the one that most of them are nearest to (labels (m,)), if half of them lie within the threshold of it,
    wherever it was.
    """
    values, counts = np.unique(labels, return_counts=True)
    number = int(values[counts.argmax()])
    if scene.opens != "shot" and number not in numbers.born and number in scene.context.latest_labels:
        return None
    known = _of_label(scene.context, number)
    return number if np.median(_distances(tokens, known, params.neighbors)) <= threshold else None


def _of_label(context: Context, label: int) -> np.ndarray:
    """The remembered tokens (m, c) of a label, wherever they were."""
    return context.features[context.labels == label]


def _distances(tokens: np.ndarray, known: np.ndarray, count: int) -> np.ndarray:
    """Mean distance (m,) of tokens (m, c) to the `count` nearest of those that are known (k, c)."""
    nearest = nearest_tokens(known, np.ascontiguousarray(tokens), min(count, len(known)))
    return np.linalg.norm(tokens[:, None] - known[nearest], axis=-1).mean(axis=1)

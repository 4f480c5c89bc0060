"""Frames anywhere in a clip whose labels a person gives. Not in the paper.

At a given frame the window loop starts again: the frame is learnt as a window of its own, so that `segment.memory` says
what of the frames before it is remembered beside it, and windows are counted from it. What is given of it is kept: no
vote changes it. Void tokens of it take the label of what resembles them, in it and in what was remembered before.

With `segment.direction: both` a frame between two given ones takes its labels from the nearer one (the earlier one if
both are as near): from the later one, labels are carried backwards, over the inverted matches. If the clip is cut
between them, the cut that is nearest to the middle divides these frames instead. Each frame is computed once, in either
case.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np

from pipeline.errors import UsageError
from pipeline.parameters import SegmentParams
from pipeline.segmentation.births import Numbers
from pipeline.segmentation.context import Context, make_segment
from pipeline.segmentation.correspondence import NO_MATCH, Matches
from pipeline.segmentation.voting import previous_tokens
from pipeline.segmentation.window_loop import (
    Clip,
    Start,
    Window,
    fit_context,
    segment_windows,
    update_context,
    void_tokens,
)


def labels_given(masks: Mapping[int, np.ndarray]) -> frozenset[int]:
    """The label values of masks (n,), void left out."""
    return frozenset(int(label) for mask in masks.values() for label in np.unique(mask[~void_tokens(mask)]))


def check_direction(masks: Collection[int], params: SegmentParams, source_indices: list[int]) -> None:
    """Refuse masks, by position in the clip, of which the first frames would get no labels.

    Raises:
        UsageError: names the remedy.
    """
    first = min(masks)
    if first > 0 and params.direction == "forward":
        frame = source_indices[first]
        raise UsageError(
            f"the first mask is of frame {frame}, and segment.direction is forward: the {first} frames before it would "
            f"get no labels; set segment.direction=both, or begin there with ingest.frames={frame}:"
        )


def first_start(clip: Clip, masks: Mapping[int, np.ndarray], params: SegmentParams) -> Start:
    """The model that is fitted on the first of some masks (n,), which are given by position in the clip.

    Raises:
        DataError: the mask is void everywhere, or features are not finite.
    """
    place = min(masks)
    fitted = fit_context(clip.features(place, place + 1), params, masks[place])
    return replace(fitted, numbers=Numbers(labels_given(masks)), kept=~void_tokens(masks[place]))


def segment_from_given(
    clip: Clip, masks: Mapping[int, np.ndarray], start: Start, params: SegmentParams
) -> Iterator[Window]:
    """Segment a clip from masks of some of its frames; yields windows in the order of their frames.

    Two windows are held at a time, that which is segmented and the one that is read meanwhile; of frames that are
    labelled backwards all labels are, up to those of the next given frame.

    Args:
        masks: (n,) label values on the token grid by position in the clip; the first frame's must be there, unless
            labels are carried backwards.
        start: of the first mask.

    Raises:
        DataError: features are not finite, or matches do not fit.
        UsageError: as `segment_windows`.
    """
    done, both = 0, params.direction == "both"
    context, numbers = start.context, start.given
    for place, following in pairwise([*sorted(masks), clip.frames]):
        if place > min(masks):
            if place in clip.cuts:  # what follows begins at the shot's first frame, and does not see the cut
                numbers = numbers.in_new_shot()
            start = replace(_start_again(clip, place, masks[place], context, params), numbers=numbers)
        if both:
            yield from _backwards(clip, range(done, place), start, params)
        done = _border(place, following, clip.cuts) if both and following < clip.frames else following
        for found in segment_windows(_part(clip, range(place, done)), start, params):
            context, numbers = found.context, found.numbers
            yield replace(found, start=found.start + place)


def _border(place: int, following: int, cuts: Sequence[int]) -> int:
    """The first of the frames between two given ones whose labels come from the later one."""
    halfway = place + (following - place) // 2 + 1
    return min((cut for cut in cuts if place < cut <= following), key=lambda cut: abs(cut - halfway), default=halfway)


def _start_again(clip: Clip, place: int, mask: np.ndarray, context: Context, params: SegmentParams) -> Start:
    """Where the loop begins at a given frame: the model of the frames before it has learnt it."""
    features, given = clip.features(place, place + 1), ~void_tokens(mask)
    labels = mask.astype(np.int32)
    if not given.all():
        known = context.joined_by(make_segment(features[:, given], labels[None, given]))
        labels[~given] = known.predict(features[:, ~given], params.neighbors, place)[0]
    return Start(update_context(context, features, labels[None], params), labels, kept=given)


def _backwards(clip: Clip, frames: range, start: Start, params: SegmentParams) -> list[Window]:
    """Windows of the frames before a given one, from the first to the last of them.

    Args:
        frames: whose stop is the given frame.
    """
    if not frames:
        return []
    found = []
    for window in segment_windows(_reversed(_part(clip, range(frames.start, frames.stop + 1))), start, params):
        skipped = int(window.start == 0)  # the given frame itself
        if len(window.refined) > skipped:
            first = frames.stop - window.start - len(window.refined) + 1
            initial, refined, confidence = (
                values[skipped:][::-1] for values in (window.initial, window.refined, window.confidence)
            )
            found.append(replace(window, start=first, initial=initial, refined=refined, confidence=confidence))
    return found[::-1]


def _part(clip: Clip, frames: range) -> Clip:
    """Some frames of a clip, as a clip."""
    first = frames.start
    return Clip(
        len(frames),
        lambda start, stop: clip.features(start + first, stop + first),
        lambda start, stop: clip.matches(start + first, stop + first),
        clip.grid,
        [cut - first for cut in clip.cuts if cut in frames[1:]],
    )


def _reversed(clip: Clip) -> Clip:
    """A clip from its last frame to its first."""

    def features(start: int, stop: int) -> np.ndarray:
        return np.ascontiguousarray(clip.features(clip.frames - stop, clip.frames - start)[::-1])

    def matches(start: int, stop: int) -> Matches:
        return inverted(clip.matches(clip.frames - stop, clip.frames - start))

    return Clip(clip.frames, features, matches, clip.grid, [clip.frames - cut for cut in reversed(clip.cuts)])


def inverted(matches: Matches) -> Matches:
    """The matches of the frames in reverse order: to the token that moves here; none where no token does."""
    back = previous_tokens(matches)
    similarity = np.take_along_axis(matches.similarity, np.maximum(back, 0), axis=1)
    return Matches(back[::-1], np.where(back == NO_MATCH, 0, similarity)[::-1].astype(np.float32))

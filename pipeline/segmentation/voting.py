"""The vote along trajectories: equations 4 and 5 (paper section 4.2).

As printed, the two equations have slips. They are read as: the new label of token p in frame j is the most
frequent of the labels M^k[track of p at frame k] for k = j..B, its own included, the smallest on ties. So the
last frame of a window never changes. A track ends where a token has no match.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.errors import DataError, UsageError
from pipeline.parameters import SegmentParams, choices
from pipeline.segmentation.correspondence import NO_MATCH, Matches

VOTE_RULES = choices(SegmentParams, "vote")


@dataclass(frozen=True)
class Voted:
    """What a window's votes decided.

    Attributes:
        labels: (f, n), of the dtype that went in.
        share: (f, n) float32, the share of a token's votes that its label got.
    """

    labels: np.ndarray
    share: np.ndarray


def vote(labels: np.ndarray, matches: Matches, rule: str) -> np.ndarray:
    """The labels (f, n) that `count_votes` decides on."""
    return count_votes(labels, matches, rule).labels


def count_votes(labels: np.ndarray, matches: Matches, rule: str) -> Voted:
    """Refine the coarse labels of one window.

    Args:
        labels: (f, n) integer label values of a window.
        matches: the f-1 transitions inside the window.
        rule: `forward`, equation 5; `both`, a token also follows its track backwards: in frame j-1 it goes to
            the token that moves to it, the most similar one if there are several (lowest token on ties), and
            ends where there is none; `none`, labels are returned as they are, and all votes are for them.

    Raises:
        DataError: the matches do not fit the labels.
        UsageError: unknown rule.
    """
    if rule not in VOTE_RULES:
        raise UsageError(f"segment.vote must be one of {', '.join(VOTE_RULES)}, not '{rule}'")
    frames, tokens = labels.shape
    if matches.next.shape != (frames - 1, tokens):
        raise DataError(
            f"matches have shape {matches.next.shape}, labels of {frames} frames with {tokens} tokens need "
            f"{(frames - 1, tokens)}; run `vidseg correspond` on the same features"
        )
    if rule == "none":
        return Voted(labels.copy(), np.ones(labels.shape, np.float32))
    values, positions = np.unique(labels, return_inverse=True)  # ascending: argmax then takes the smallest
    ballots = np.eye(len(values), dtype=np.int32)[positions.reshape(labels.shape)]  # (f, n, l)
    counts = _count_along(ballots, matches.next)
    if rule == "both":
        back = previous_tokens(matches)
        counts += _count_along(ballots[::-1], back[::-1])[::-1] - ballots  # own label counts once
    share = (counts.max(axis=-1) / counts.sum(axis=-1)).astype(np.float32)
    return Voted(values[counts.argmax(axis=-1)].astype(labels.dtype), share)


def previous_tokens(matches: Matches) -> np.ndarray:
    """Invert the matches: (f-1, n) int32, row j holds for each token of frame j+1 the token of frame j that
    moves to it, the most similar (then lowest) of several, -1 if there is none."""
    transitions, tokens = matches.next.shape
    previous = np.full((transitions, tokens), NO_MATCH, np.int32)
    for step in range(transitions):
        best_first = np.argsort(-matches.similarity[step], kind="stable")
        order = best_first[::-1]  # so that of several writes the best one stays
        moved = order[matches.next[step, order] != NO_MATCH]
        previous[step, matches.next[step, moved]] = moved
    return previous


def _count_along(ballots: np.ndarray, following: np.ndarray) -> np.ndarray:
    # The votes of a track are its own ballot plus the votes of the track that starts where it goes next
    # (equation 4 unrolled), so one sweep from the last frame counts all tracks.
    counts = ballots.copy()
    for frame in range(len(following) - 1, -1, -1):
        goes_on = following[frame] != NO_MATCH
        counts[frame, goes_on] += counts[frame + 1, following[frame, goes_on]]
    return counts

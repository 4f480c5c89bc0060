"""Finding the segments and carrying them through the video: `segment`."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Literal

from pipeline.errors import UsageError
from pipeline.parameters.declare import param

#: Weight of an encoder's features beside a diffusion model's; 0 = without them, only = they alone.
EncoderWeight = float | Literal["only"]


@dataclass(frozen=True)
class MemoryPolicy:
    """What the context model remembers after a window.

    Attributes:
        keep_first: whether what the model was fitted on stays for good.
        windows: how many of the latest windows are kept.
        prototypes: how many tokens of every label ever seen are kept beside them.
    """

    keep_first: bool
    windows: int
    prototypes: int = 0


def parse_memory(text: str) -> MemoryPolicy:
    """Read `segment.memory`.

    `last_window`: the window before (the paper). `first_and_last`: that and, for good, the frame that the
    model was fitted on, against drift. `sliding:N`: the last N windows. `prototypes:N`: the window before, and N
    representative tokens of every label ever seen, so that segments are recognised that leave and come back.

    Raises:
        UsageError: anything else.
    """
    if text == "last_window":
        return MemoryPolicy(keep_first=False, windows=1)
    if text == "first_and_last":
        return MemoryPolicy(keep_first=True, windows=1)
    numbered = re.fullmatch(r"(sliding|prototypes):\s*([1-9]\d*)", text)
    if numbered and numbered[1] == "sliding":
        return MemoryPolicy(keep_first=False, windows=int(numbered[2]))
    if numbered:
        return MemoryPolicy(keep_first=False, windows=1, prototypes=int(numbered[2]))
    raise UsageError(
        "segment.memory must be last_window, first_and_last, sliding:N (the last N windows) or prototypes:N (N tokens "
        f"of every label), not '{text}'"
    )


@dataclass(frozen=True)
class SegmentParity:
    """Group `segment.parity`: where the paper and the authors' code differ."""

    kmeans_frames: Literal["first", "window"] = param(
        "first", "frames that K-Means sees: the first, or all of the first window"
    )
    first_frame: Literal["keep", "predict"] = param("keep", "frame 1 keeps its labels, or is predicted again")
    label_merge: Literal["none", "first_frame"] = param(
        "none", "first_frame: clusters take the labels of the given mask, each the most frequent in it"
    )


@dataclass(frozen=True)
class SegmentParams:
    """Section `segment`.

    Raises:
        UsageError: `memory` is none of its forms, nothing could ever be born where something should, or segments
            are to be found anew that were given.
    """

    init: Literal["kmeans", "mask"] = param("kmeans", "K-Means where the clip begins, or mask: labels are given")
    direction: Literal["forward", "both"] = param(
        "forward",
        "where masks carry their labels: forward, or both: frames before a mask take those of the nearest one, too",
        before="forward",
    )
    clusters: int = param(20, "K, number of segments", low=1)
    restarts: int = param(10, "K-Means runs; the best counts", low=1)
    balance: float = param(
        0.0,
        "the higher, the less tokens that resemble many others count in K-Means: sky or floor is cut less; "
        "0 = all count alike (the paper)",
        low=0.0,
        high=8.0,
        before=0.0,
    )
    features: Literal["aggregated", "matching"] = param("aggregated", "features of the context model")
    encoder_weight: float | Literal["only"] = param(
        0.0, "weight of the encoder's features beside the diffusion model's; only = those alone", low=0.0, before=0.0
    )
    window: int = param(14, "B, frames per window", low=1)
    neighbors: int = param(4, "k of the nearest-neighbour vote", low=1)
    memory: str = param(
        "last_window",
        "what the context remembers: last_window, first_and_last, sliding:N (last N windows), prototypes:N (the last "
        "window, and N tokens of every label ever seen)",
    )
    births: Literal["none", "distance", "auto"] = param(
        "none",
        "segments that are born after frame 1: none (the paper); distance, of tokens unlike all that was near their "
        "place; auto: distance where K-Means on the clip itself finds the segments and some can be born, none where "
        "a mask or a context of another clip gives them; at most_labels auto ends, and distance stops with an error",
        before="none",
    )
    birth_quantile: float = param(
        0.9,
        "how far tokens usually are from what was near their place: this quantile over the window before",
        low=0.0,
        high=1.0,
        before=0.9,
    )
    birth_factor: float = param(
        2.0, "how many times that distance makes a token new; the higher, the fewer births", low=1.0, before=2.0
    )
    birth_reach: int = param(6, "how far around its place a token is compared, tokens", low=1, before=6)
    birth_tokens: int | None = param(
        None,
        "new tokens that touch, at least, to be born; null = a seventieth of a frame's, 12 at least",
        low=1,
        before=None,
    )
    birth_frames: int = param(3, "frames in a row that they must be seen in, at least", low=1, before=3)
    most_labels: int | None = param(
        None,
        "most segments where some are born, those of frame 1 included; after a cut, of those that are new since; "
        "null = 64, or twice clusters where that is more",
        low=1,
        before=None,
    )
    after_cut: Literal["continue", "restart"] = param(
        "continue",
        "a new shot (ingest.cuts): continue, the context predicts it and births add what is new; restart, segments are "
        "found anew and numbered on",
        before="continue",
    )
    vote: Literal["forward", "both", "none"] = param(
        "forward", "vote along tracks: forward (Eq. 5), both directions, none"
    )
    seed: int = param(0, "seed of K-Means", low=0)
    parity: SegmentParity = SegmentParity()

    def __post_init__(self) -> None:
        parse_memory(self.memory)
        if self.direction == "both" and self.init != "mask":
            raise UsageError("segment.direction: both carries masks backwards; it needs segment.init: mask")
        if self.direction == "both" and self.births == "distance":
            raise UsageError("segment.direction: both has no births, which go forward; set segment.births to none")
        if self.after_cut == "restart" and (self.init == "mask" or self.parity.label_merge == "first_frame"):
            setting = "init: mask" if self.init == "mask" else "parity.label_merge: first_frame"
            raise UsageError(
                f"segment.after_cut: restart finds the segments of a new shot by K-Means, but segment.{setting} takes "
                "them from a mask that is given, which a new shot does not have; use continue"
            )
        if self.births != "distance":
            return
        if self.window < 2:
            raise UsageError("segment.births: distance needs a segment.window of at least 2 frames")
        if self.birth_frames > self.window:
            raise UsageError(
                f"segment.birth_frames is {self.birth_frames}, more than the {self.window} frames of segment.window: "
                "nothing could be born; lower it"
            )
        if self.init == "kmeans" and self.clusters > self.label_limit:
            raise UsageError(
                f"segment.most_labels is {self.most_labels}, fewer than segment.clusters ({self.clusters}); raise it"
            )

    @property
    def label_limit(self) -> int:
        """What `most_labels` comes to."""
        return max(64, 2 * self.clusters) if self.most_labels is None else self.most_labels

    def birth_size(self, tokens: int) -> int:
        """What `birth_tokens` comes to where a frame has so many tokens."""
        return max(12, round(tokens / 70)) if self.birth_tokens is None else self.birth_tokens

    def for_clip(self, tokens: int, given: bool) -> SegmentParams:
        """These with what `auto` and null come to in a clip.

        Args:
            tokens: of a frame.
            given: whether a context of another clip says what the segments are.
        """
        found = self.init == "kmeans" and self.parity.label_merge == "none" and not given
        possible = 1 < self.window >= self.birth_frames and self.clusters < self.label_limit
        if self.births == "none" or (self.births == "auto" and not (found and possible)):
            return replace(self, births="none")
        return replace(self, birth_tokens=self.birth_size(tokens), most_labels=self.label_limit)

    @property
    def memory_policy(self) -> MemoryPolicy:
        """What `memory` says."""
        return parse_memory(self.memory)

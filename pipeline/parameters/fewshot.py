"""Segments that a person shows (SMITE): `maps`, `learn`, `track`, `guidance` and `apply`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from pipeline.errors import UsageError
from pipeline.parameters.declare import declared, param


@dataclass(frozen=True)
class LearnAugment:
    """Group `learn.augment`: how references are changed before each look at them.

    Raises:
        UsageError: a range that begins above its end.
    """

    zoom_out: float = param(0.1, "probability of a smaller picture on a black canvas", low=0.0, high=1.0)
    zoom_smallest: float = param(0.5, "smallest size of that picture, relative to the canvas", low=0.05, high=1.0)
    zoom_largest: float = param(0.8, "largest size of that picture, relative to the canvas", low=0.05, high=1.0)
    blur: float = param(0.5, "probability of a Gaussian blur", low=0.0, high=1.0)
    blur_kernel: int = param(5, "largest kernel of the blur, pixels", low=1)
    dropout: float = param(0.3, "probability of black holes", low=0.0, high=1.0)
    holes: int = param(8, "most holes", low=1)
    smallest_hole: float = param(
        1 / 32, "smallest side of a hole, relative to the picture's short side", low=0.0, high=1.0
    )
    largest_hole: float = param(
        1 / 4, "largest side of a hole, relative to the picture's short side", low=0.0, high=1.0
    )
    flip: float = param(0.5, "probability of a mirrored picture", low=0.0, high=1.0)
    min_crop: float = param(
        0.8, "smallest side of a random crop, relative to the picture; 1 = none", low=0.05, high=1.0
    )
    least_part: float = param(0.3, "share of the current segment that a crop must hold", low=0.0, high=1.0)
    rotation: float = param(0.5, "probability of a rotation", low=0.0, high=1.0)
    rotate: float = param(30.0, "largest rotation, degrees", low=0.0, high=180.0)
    fill: Literal["ignore", "background"] = param(
        "ignore", "label of what none of the picture shows: none, or number 0"
    )

    def __post_init__(self) -> None:
        for low, high in (("zoom_smallest", "zoom_largest"), ("smallest_hole", "largest_hole")):
            if getattr(self, low) > getattr(self, high):
                raise UsageError(f"learn.augment.{low} must not be above learn.augment.{high}")


def check_odd(name: str, value: int) -> None:
    """Refuse an even number of frames around one in the middle.

    Raises:
        UsageError: names the parameter.
    """
    if value < 1 or value % 2 == 0:
        raise UsageError(f"{name} must be odd, not {value}: as many frames before a frame as after it")


@dataclass(frozen=True)
class TrackParams:
    """Section `track`.

    Raises:
        UsageError: an even window.
    """

    method: Literal["flow", "features", "file", "cotracker", "static"] = param(
        "flow", "optical flow, matches of features as correspond finds them, tracks in a file, CoTracker, or no motion"
    )
    window: int = param(29, "frames through which each point is followed, odd; a vote of w frames needs 2 w - 1", low=1)
    max_squared_distance: float = param(2.0, "method features: largest squared distance of a match, tokens^2", low=0.0)
    encoder_weight: float | Literal["only"] = param(
        0.0, "method features: weight of the encoder's features, as of correspond.encoder_weight", low=0.0
    )
    file: str | None = param(None, "method file: tracks (.npz); method cotracker: its weights")
    shard: int = param(14, "frames per file", low=1)

    def __post_init__(self) -> None:
        check_odd("track.window", self.window)


@dataclass(frozen=True)
class MapsParams:
    """Section `maps`: how learning and applying segments read the denoiser's attention.

    Raises:
        UsageError: no blocks.
    """

    cross_blocks: tuple[int, ...] = param(
        (3, 4, 5, 6, 7), "decoder blocks whose cross-attention gives the maps of segments", low=3, high=11
    )
    self_blocks: tuple[int, ...] = param(
        (9, 10, 11), "decoder blocks whose self-attention spreads these maps (Eq. 1)", low=3, high=11
    )
    cross: Literal["logits", "segments", "tokens"] = param(
        "logits", "what is spread when a concept is applied: logits, or their softmax over the segments or all tokens"
    )
    spread: bool = param(
        True, "when a concept is applied, self-attention spreads the maps (Eq. 1); false: the cross maps are taken"
    )
    background_floor: Literal["minimum", "zero", "none"] = param(
        "minimum", "background values up to their mean become the least of them, 0, or stay as they are"
    )

    def __post_init__(self) -> None:
        for name, blocks in (("cross_blocks", self.cross_blocks), ("self_blocks", self.self_blocks)):
            if not blocks:
                default = list(declared(MapsParams)[name].default)
                raise UsageError(f"maps.{name} must name at least one decoder block, like {default}")


@dataclass(frozen=True)
class LearnParity:
    """Group `learn.parity`: where the paper and the authors' code differ."""

    phase1_epochs: int | None = param(
        None, "epochs of the first phase, instead of phase1_iterations; null = those", low=0
    )
    freeze_tokens: bool = param(False, "tokens stay as they are in the second phase")
    idle_every: int = param(0, "every so many epochs of the second phase one changes nothing; 0 = none", low=0)
    ldm_guidance: float = param(1.0, "classifier-free guidance within the denoising loss", low=0.0)
    fourier: float = param(0.0, "weight of the loss on spectra of maps, from the sixth epoch", low=0.0)
    loss_scale: float = param(1.0, "the loss is multiplied by this, which Adam hardly sees", low=0.0)
    encode: Literal["mode", "sample"] = param("mode", "mode of the autoencoder's posterior, or a seeded sample")
    names: Literal["pieces", "place", "part"] = param(
        "pieces",
        "tokens that begin as names do so as the mean of their name's word pieces, as what stands at their place in "
        "the prompt of all names (SMITE's code: the name before), or in one of the word part, repeated (SLiMe)",
        before="pieces",
    )


@dataclass(frozen=True)
class LearnParams:
    """Section `learn`.

    Raises:
        UsageError: `t` is not a range.
    """

    size: int = param(512, "side of the pictures that are learned from, the short one, a multiple of 64", low=64)
    shape: Literal["square", "picture"] = param(
        "square", "pictures are made square, or get the middle one of their own shapes, as videos have it when applied"
    )
    init: Literal["auto", "names", "random"] = param(
        "auto",
        "tokens begin as the segments' names, or random with the rms of the empty prompt; auto = names where the "
        "backbone has a text encoder",
    )
    background: Literal["auto", "bos", "learned"] = param(
        "auto",
        "the background is the begin-of-text token, never learned, or a token like the others; auto = bos where a "
        "segment is called background and the backbone has a text encoder",
    )
    t: tuple[int, ...] = param((5, 100), "first and last of the timesteps that are drawn", low=0, high=999)
    epochs: int = param(300, "passes over the images, both phases together", low=1)
    most_iterations: int | None = param(None, "steps at most, whatever epochs says; null = no limit", low=1)
    phase1_iterations: int = param(100, "steps of the first phase, in which only tokens are learned", low=0)
    batch: int = param(1, "images per step", low=1)
    rates: Literal["absolute", "relative"] = param(
        "absolute", "relative: learning rates are multiplied by the rms of the context and of to_k"
    )
    lr_tokens: float = param(0.1, "learning rate of tokens in the first phase", low=0.0)
    lr_weights: float = param(1e-6, "learning rate of cross-attention in the second phase", low=0.0)
    lr_tokens_phase2: float = param(1e-6, "learning rate of tokens in the second phase", low=0.0)
    tune: Literal["cross_attention", "none"] = param(
        "cross_attention", "cross_attention: to_k and to_v of all attn2 are tuned in a second phase; none: tokens only"
    )
    mse: float = param(1.0, "weight of the loss on spread maps", low=0.0)
    ldm: float = param(0.005, "weight of the denoising loss", low=0.0)
    select: Literal["last", "references", "holdout"] = param(
        "last", "the last state, or the one whose labels are best: of all images, or of those that are held out"
    )
    holdout: int = param(
        1,
        "with select: holdout, how many images, the last ones by name, are not learned from and choose the state",
        low=1,
    )
    precision: Literal["fp32", "fp16"] = param(
        "fp32", "how tuned weights are stored; fp16 takes half the room and loses the smallest changes"
    )
    seed: int = param(0, "seed of tokens, order, augmentation, timesteps and noise", low=0)
    augment: LearnAugment = LearnAugment()
    parity: LearnParity = LearnParity()

    def __post_init__(self) -> None:
        if len(self.t) != 2 or self.t[0] > self.t[1]:
            raise UsageError(f"learn.t must be the first and the last timestep, like [5, 100], not {list(self.t)}")
        if self.size % 64:
            raise UsageError(f"learn.size must be a multiple of 64, not {self.size}")

    def taught(self, images: int) -> int:
        """How many of so many images are learned from, the first ones; the others are held out.

        Raises:
            UsageError: all are held out.
        """
        if self.select != "holdout":
            return images
        if images <= self.holdout:
            raise UsageError(
                f"learn.holdout: {self.holdout} of {images} pictures are held out, none is left to learn from; lower "
                "it, or add pictures"
            )
        return images - self.holdout


@dataclass(frozen=True)
class GuidanceVote:
    """Group `guidance.vote`: votes along tracks (Eq. 3, 4)."""

    window: int = param(15, "frames that vote, odd; 7 for fast motion", low=1)
    space: Literal["none", "maps", "labels"] = param(
        "none", "one more vote, on the result, which moves nothing: on its maps, or on its labels at full size"
    )


@dataclass(frozen=True)
class GuidanceLowPass:
    """Group `guidance.low_pass`: the low frequencies that maps must keep (Eq. 6)."""

    threshold: float = param(0.4, "share of the spatial frequencies, per axis", low=0.001, high=1.0)
    first_threshold: float = param(0.4, "the same at the first timestep", low=0.001, high=1.0)
    temporal: bool = param(False, "cut frequencies over time as well")
    norm: Literal["mean", "sum"] = param("mean", "mean or sum of absolute differences")


@dataclass(frozen=True)
class GuidanceParams:
    """Section `guidance`: how latents are moved when a concept is applied; not at all with both lambdas 0.

    Raises:
        UsageError: an even window of votes.
    """

    lambda_track: float = param(0.5, "weight of the agreement with tracks (Eq. 5); 1 for fast motion", low=0.0)
    lambda_reg: float = param(8.0, "weight of the low frequencies of the first maps (Eq. 6)", low=0.0)
    iterations: int = param(15, "steps per timestep; 5 is faster", low=1)
    rate: float = param(10.0, "step size, times (1 - alpha_t) / alpha_t", low=0.0)
    group: int = param(4, "frames that are moved together", low=1)
    targets: Literal["hard", "soft"] = param("hard", "voted labels with class weights, or voted maps")
    timestep_of: Literal["latents", "step"] = param(
        "latents", "timestep at which moved latents are seen: their own, or that of the step before (the code)"
    )
    vote: GuidanceVote = GuidanceVote()
    low_pass: GuidanceLowPass = GuidanceLowPass()

    def __post_init__(self) -> None:
        check_odd("guidance.vote.window", self.vote.window)

    @property
    def moves(self) -> bool:
        """Whether latents are moved at all."""
        return self.lambda_track > 0 or self.lambda_reg > 0

    @property
    def needs_tracks(self) -> bool:
        """Whether points are followed: by an energy or by the vote on the result."""
        return self.lambda_track > 0 or self.vote.space != "none"


@dataclass(frozen=True)
class ApplyParity:
    """Group `apply.parity`: where the paper and the authors' code differ."""

    reference_tail: Literal["concept", "empty"] = param(
        "concept",
        "context of the reference pass (reference: separate), beside the segments' own tokens: the concept's, or that "
        "of the empty prompt",
        before="concept",
    )
    unguided: Literal["first_step", "reference"] = param(
        "first_step",
        "which maps are the result without guidance (both lambdas 0): those of the first step, or of the reference "
        "pass (reference: separate); the first look of focus: box is always without, so this decides its boxes too",
        before="first_step",
    )
    boxes: Literal["smoothed", "single"] = param(
        "smoothed",
        "boxes of focus: medians over guidance.vote.window frames, or each as its frame alone has it",
        before="smoothed",
    )
    short_boxes: bool = param(
        False, "boxes of focus lack their last row and column, and their room is rounded down", before=False
    )


@dataclass(frozen=True)
class ApplyParams:
    """Section `apply`.

    Raises:
        UsageError: timesteps that do not fall one by one, chunks that do not get on, boxes and crops together, or crops
            that do not cover the frame.
    """

    timesteps: tuple[int, ...] = param(
        (100, 99, 98, 97), "timesteps from the noised frames on, falling", low=0, high=999
    )
    chunk: int = param(16, "frames that are seen together", low=1)
    overlap: int = param(8, "frames that a chunk shares with the one before", low=0)
    frames: Literal["all", "one"] = param("all", "self-attention over all frames of a chunk, or over each frame alone")
    norm: Literal["joint", "frame"] = param(
        "joint", "group normalisation over all frames that are seen together, or over each frame alone"
    )
    reference: Literal["first_step", "separate"] = param(
        "first_step", "maps that guidance holds on to: of the first step, or of a pass with its own noise (the code)"
    )
    focus: Literal["none", "box"] = param(
        "none",
        "box: a first look at whole frames finds the foreground, then only a box around it is seen, at the size of the "
        "frame; for small things",
        before="none",
    )
    focus_margin: float = param(
        0.04, "of a box: room on each side, as a share of its height or width", low=0.0, high=1.0, before=0.04
    )
    patches: int = param(
        1,
        "N: N x N crops that overlap are seen one by one, each at the size of the frame, and their maps are averaged; "
        "for small things; 1 = whole frames",
        low=1,
        high=16,
        before=1,
    )
    patch_share: float = param(
        0.78, "of a crop: its height and width, as a share of the frame's", low=0.0, high=1.0, before=0.78
    )
    threshold: float = param(0.0, "segments whose maps stay below this in a frame are absent; 0 = none", low=0.0)
    noise: Literal["per_frame", "shared", "by_chunk"] = param(
        "per_frame",
        "per_frame: by source frame index; shared: the same for all; by_chunk: drawn in the "
        "order of chunks, which is the code's within one look; with focus: box only without guidance, and up to 3:2",
    )
    seed: int = param(0, "seed of the noise", low=0)
    upsample: Literal["bilinear", "guided", "modulation"] = param(
        "bilinear",
        "bilinear: maps are enlarged; guided: and filtered, so that borders follow the edges of the picture; "
        "modulation: their labels, by masked modulation, as the section upsample says",
        before="bilinear",
    )
    parity: ApplyParity = ApplyParity()

    def __post_init__(self) -> None:
        if not self.timesteps or any(
            later >= earlier for earlier, later in zip(self.timesteps, self.timesteps[1:], strict=False)
        ):
            raise UsageError(f"apply.timesteps must fall, like [100, 99, 98, 97], not {list(self.timesteps)}")
        if self.overlap >= self.chunk:
            raise UsageError(f"apply.overlap must be less than apply.chunk ({self.chunk}), not {self.overlap}")
        if self.patches == 1:
            return
        if self.focus != "none":
            raise UsageError(
                f"apply.patches={self.patches} and apply.focus={self.focus} are two ways to see less of a frame; set "
                "apply.patches=1, or apply.focus=none"
            )
        if self.patches * self.patch_share < 1:
            raise UsageError(
                f"apply.patch_share: {self.patches} crops of {self.patch_share} of a side do not cover it; it must be "
                f"at least {math.ceil(100 / self.patches) / 100}"
            )

    def separate(self, moves: bool) -> bool:
        """Whether there is a pass for reference maps alone, where guidance moves latents or not."""
        return self.reference == "separate" and (moves or self.parity.unguided == "reference")

"""Every parameter, declared once: a frozen dataclass per section of params.yaml, with groups of what is rarely changed.

The library takes these classes as they are. Nothing heavy is imported here.
"""

from __future__ import annotations

import dataclasses
import math
import re
import typing
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from operator import attrgetter
from typing import Any, Literal

from pipeline.errors import UsageError

MOST_FPS = 1e6


def param(
    default: Any,
    help: str,
    *,
    low: float | None = None,
    high: float | None = None,
    stored: str | None = None,
    before: Any = dataclasses.MISSING,
) -> Any:
    """A dataclass field: its default, a one-line description and its range; its choices are those of its `Literal`.

    Args:
        stored: its name in stores, where that is another: stores keep the flat names of earlier versions, so that what
            these have written stays valid.
        before: what versions before this parameter did. At this value stores leave it out, so that what those have
            written stays valid; it never changes, the default may.
    """
    return dataclasses.field(
        default=default, metadata={"help": help, "low": low, "high": high, "stored": stored, "before": before}
    )


#: Weight of an encoder's features beside a diffusion model's; 0 = without them, only = they alone.
EncoderWeight = float | Literal["only"]


@dataclass(frozen=True)
class BackboneParams:
    """Section `backbone`: which diffusion model is read."""

    name: Literal["compact", "sd21", "svd"] = param("compact", "svd is a video model")
    path: str | None = param(None, "local diffusers folder, hub id or single-file checkpoint; null = the name's own")
    revision: str | None = param(
        None, "revision of a hub id; null = what the local cache calls main (backbone.lock pins the weights by hash)"
    )
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = param(
        "auto", "precision of the denoiser; auto = float32 on CPU, float16 on GPU"
    )


@dataclass(frozen=True)
class DiffusionVideo:
    """Group `diffusion.video`: what only video models have."""

    guidance_first: float = param(1.0, "guidance at a window's first frame, then linear to diffusion.guidance", low=0.0)
    fps_id: int = param(14, "frames per second that the model is told", low=0)
    motion_bucket: int = param(127, "amount of motion that the model is told", low=0, high=255)
    noise_augmentation: float = param(0.02, "standard deviation of the noise on the window's first frame", low=0.0)


@dataclass(frozen=True)
class DiffusionParams:
    """Section `diffusion`: the schedule and noise that extract and upsample share."""

    steps: int = param(25, "Euler steps of the schedule", low=1, high=1000)
    start_step: int = param(22, "t_inv: the step at which noise is added and denoising starts", low=0)
    guidance: float = param(
        5.0,
        "classifier-free guidance against an all-zero context; 1 = off; a video model's at a window's last frame",
        low=0.0,
    )
    noise: Literal["per_frame", "shared"] = param(
        "per_frame", "per_frame: by source frame index; shared: the same for all"
    )
    seed: int = param(0, "seed of the noise", low=0)
    batch: int = param(
        4, "frames per pass of the encoder and the clean denoising; a video model's is its window", low=1
    )
    video: DiffusionVideo = DiffusionVideo()


@dataclass(frozen=True)
class IngestParams:
    """Section `ingest`.

    Raises:
        UsageError: `cuts` lists a frame twice, or one that can begin no shot.
    """

    size: str | int = param(
        "native", "native, short side in pixels, HxW, or 1/N of the pixels; multiples of 64 are made of it", low=1
    )
    frames: str | int | None = param(None, "range of source frames like 0:28 or 10:; null = all")
    stride: int = param(1, "take every n-th frame of the range", low=1)
    fps: float | None = param(
        None, "frame rate of the source; null = what it says, 25 for a folder", low=1e-6, high=MOST_FPS
    )
    stream: int | None = param(
        None, "number of the video stream in its file; null = the default one, else the largest", low=0
    )
    damaged: Literal["refuse", "skip", "repeat"] = param(
        "refuse", "frames that cannot be decoded: refuse, skip (the others keep their numbers), repeat the one before"
    )
    hdr: Literal["tonemap", "asis"] = param(
        "tonemap", "videos of high dynamic range (PQ, HLG): tone-mapped to BT.709, or their values as they are"
    )
    deinterlace: Literal["auto", "never"] = param("auto", "auto: frames that are marked as interlaced are deinterlaced")
    seed: Literal["none", "truth"] = param("none", "truth: the first frame's ground truth becomes the mask in seed/")
    cuts: Literal["none", "detect"] | tuple[int, ...] = param(
        "none",
        "where shots begin, across which nothing is matched or voted on: none (the paper), detect, or a list of source "
        "frames like [48, 101]",
    )
    cut_detector: Literal["adaptive", "content"] = param(
        "adaptive", "cuts: detect: a change that is large beside those around it (adaptive), or large (content)"
    )
    cut_threshold: float | None = param(
        None,
        "how large, the higher the fewer cuts; null = 3 times those around it (adaptive), 27 of 255 (content)",
        low=0.0,
    )

    def __post_init__(self) -> None:
        if isinstance(self.cuts, str):
            return
        for frame in self.cuts:
            if frame < 1:
                raise UsageError(
                    f"ingest.cuts: {frame} is no frame at which a second shot can begin; frames count from 0, and the "
                    "first one always begins a shot"
                )
            if self.cuts.count(frame) > 1:
                raise UsageError(f"ingest.cuts: frame {frame} is listed {self.cuts.count(frame)} times")


@dataclass(frozen=True)
class ExtractParity:
    """Group `extract.parity`: where the paper and the authors' code differ."""

    normalize: Literal["max_abs", "none"] = param(
        "max_abs", "max_abs: `aggregated` is divided, token by token, by its largest absolute value"
    )
    encode: Literal["mode", "sample"] = param("mode", "mode of the autoencoder's posterior, or a seeded sample")


@dataclass(frozen=True)
class ExtractParams:
    """Section `extract`."""

    blocks: tuple[int, ...] = param((6, 7, 8), "decoder blocks whose queries are averaged", low=3, high=11)
    matching_block: int = param(7, "decoder block whose queries are matched (Eq. 3)", low=3, high=11)
    feature_step: int = param(24, "step at which queries are read", low=0)
    start_step: int | None = param(
        None, "step at which denoising starts for features; null = diffusion.start_step", low=0, before=None
    )
    dtype: Literal["float16", "float32", "int8"] = param("float16", "how features are stored")
    shard: int = param(14, "frames per file; a video model's is its window", low=1)
    frames_together: int | None = param(
        None, "video models: frames that are seen together; null = each frame alone", low=1, stored="window"
    )
    encoder: str = param(
        "none",
        "image encoder beside the diffusion model: none, efficientnet_lite0 (embedded) or a folder",
        before="none",
    )
    encoder_maps: tuple[str, ...] = param(
        ("block7", "block10", "block14", "block15"),
        "maps of efficientnet_lite0 that are joined; its fitted projection is for these: of others with more than 128 "
        "channels a random one makes 128",
        before=("block7", "block10", "block14", "block15"),
    )
    encoder_scale: float = param(
        2.0, "efficientnet_lite0 sees frames this many times larger", low=0.25, high=4.0, before=2.0
    )
    parts: Literal["both", "encoder"] = param(
        "both", "encoder: no features of the diffusion model, only the encoder's", before="both"
    )
    padding: Literal["none", "reflect"] = param(
        "none",
        "reflect: networks see frames with mirrored margins, since they mark the borders of what they see",
        before="none",
    )
    padding_pixels: int = param(64, "width of these margins, a multiple of 32", low=32, before=64)
    parity: ExtractParity = ExtractParity()


@dataclass(frozen=True)
class CorrespondParity:
    """Group `correspond.parity`: where the paper and the authors' code differ."""

    rule: Literal["constrained", "reject"] = param(
        "constrained", "constrained: the best match within the distance; reject: the best anywhere, none if too far"
    )


@dataclass(frozen=True)
class CorrespondParams:
    """Section `correspond`."""

    max_squared_distance: float = param(2.0, "T of Eq. 3: largest squared distance of a match, tokens^2", low=0.0)
    encoder_weight: float | Literal["only"] = param(
        0.0,
        "weight of the encoder's features beside the diffusion model's in a match; only = those alone",
        low=0.0,
        before=0.0,
    )
    parity: CorrespondParity = CorrespondParity()


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


@dataclass(frozen=True)
class UpsampleFast:
    """Group `upsample.fast`: the approximations of `upsample.mode: fast`."""

    guidance: float | None = param(
        1.0,
        "guidance of upsampling, a video model's at a window's last frame; null = diffusion.guidance",
        low=0.0,
        stored="fast_guidance",
    )
    signs: Literal["both", "plus"] = param(
        "both", "I+ against I-, or plus: against the clean image", stored="fast_signs"
    )
    steps: int = param(2, "steps that are run from modulate_step on, evenly spread", low=1, stored="fast_steps")
    groups: Literal["single", "labels", "parts"] = param(
        "labels",
        "modulated in one pass: a single label, labels that do not touch, connected parts of labels that do not touch; "
        "a video model's do not in any frame of the window",
        stored="fast_groups",
    )
    gap: int = param(2, "tokens between what is modulated in one pass", low=1, stored="fast_gap")
    decode: Literal["full", "box", "small", "latent"] = param(
        "latent",
        "full images, the box around the label, the small decoder, or none: latents enlarged along the image's edges",
        stored="fast_decode",
    )
    small_decoder: str | None = param(
        None,
        "folder of the small decoder (diffusers' AutoencoderTiny) for this backbone's latents; null = small_decoder/ "
        "in the backbone's folder",
        stored="fast_small_decoder",
    )
    deep: Literal["own", "clean"] = param(
        "clean", "deep features after modulate_step: own, or the clean pass's", stored="fast_deep"
    )


@dataclass(frozen=True)
class UpsampleParity:
    """Group `upsample.parity`: where the paper and the authors' code differ."""

    offset: Literal["after", "inside"] = param("after", "offset after or inside the output projection f of Eq. 2")
    blend_last_step: int = param(23, "last step that is blended", low=0)
    mask_resize: Literal["bilinear", "nearest"] = param("bilinear", "enlargement of masks to the latents")
    inject: bool = param(True, "queries and keys of blocks 3-11 from the clean pass")
    difference: Literal["squared", "root", "wrapped"] = param(
        "squared", "squared or root norm; wrapped = the authors' 8-bit maps"
    )
    blur: bool = param(True, "5x5 Gaussian blur of difference maps")
    normalize: bool = param(True, "difference maps divided by their own maximum")
    filter_resize: Literal["bilinear", "lanczos"] = param("bilinear", "enlargement of masks in Eq. 7")


@dataclass(frozen=True)
class UpsampleVideo:
    """Group `upsample.video`: what only video models can choose."""

    attention: Literal["cross_spatial", "self_spatial", "self_temporal", "self_spatial_temporal"] = param(
        "cross_spatial", "which attention of the block is modulated; image models have the first only"
    )
    decode: Literal["single", "joint"] = param("single", "frames decoded alone, or a window's together")


@dataclass(frozen=True)
class UpsampleParams:
    """Section `upsample`."""

    method: Literal["modulation", "guided", "bilinear", "nearest", "joint_bilateral"] = param(
        "modulation", "masked modulation, or interpolation of the coarse map; guided follows the picture's edges"
    )
    mode: Literal["exact", "fast"] = param("exact", "exact, or fast: the approximations of the group upsample.fast")
    strength: float = param(50.0, "lambda of Eq. 2; 10 without blending", low=0.0)
    block: int = param(7, "b_m: decoder block whose attention is modulated", low=3, high=11)
    modulate_step: int = param(22, "t_m: step at which it is modulated", low=0)
    blend: bool = param(True, "latent blending (Eq. 6), from modulate_step to parity.blend_last_step")
    filter: float = param(0.7, "s of Eq. 7; 1 = unfiltered", low=0.0, high=1.0)
    batch: int = param(
        8, "modulated samples per pass; a video model's are whole windows of frames, at least one", low=1
    )
    confidence: bool = param(
        False, "labels.zarr also says how sure the label of each pixel is: `confidence`, 0 to 255", before=False
    )
    fast: UpsampleFast = UpsampleFast()
    parity: UpsampleParity = UpsampleParity()
    video: UpsampleVideo = UpsampleVideo()


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
        "tokens beside those of the segments in the pass of reference: separate: the concept's, or the empty prompt's",
        before="concept",
    )
    unguided: Literal["first_step", "reference"] = param(
        "first_step",
        "where guidance moves nothing: the result is of the first step, or of the pass of reference: separate",
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
        "per_frame: by source frame index; shared: the same for all; by_chunk: drawn in the order of chunks (the code)",
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


@dataclass(frozen=True)
class EvaluateParity:
    """Group `evaluate.parity`: where the paper and the authors' code differ."""

    coarse_stride: int = param(16, "pixels per cell of the coarse grid of assignment: official", low=1)


@dataclass(frozen=True)
class EvaluateParams:
    """Section `evaluate`."""

    protocol: Literal["strict", "official"] = param("strict", "void is void, or the published evaluator with its slips")
    assignment: Literal["auto", "majority", "official", "hungarian", "none", "names"] = param(
        "auto",
        "clusters to classes by the first annotated frame; auto = majority, none where labels are classes; "
        "names = by the names that a person gave segments, which are the classes'",
    )
    windows: tuple[int, ...] = param((8, 16), "n of VC_n", low=1)
    objects: Literal["auto", "none", "semi_supervised", "unsupervised", "parts"] = param(
        "auto",
        "DAVIS J and F; parts: of every class in every frame, and SMITE's scores; auto = semi_supervised where a "
        "first-frame mask was carried along, parts of segments that were shown",
    )
    ignore_below: float = param(
        0.0, "pixels whose label is less sure than this are not scored; needs upsample.confidence", low=0.0, high=1.0
    )
    parity: EvaluateParity = EvaluateParity()


@dataclass(frozen=True)
class RenderParams:
    """Section `render`."""

    opacity: float = param(0.55, "how much of the picture the labels hide: 0 = nothing, 1 = all", low=0.0, high=1.0)
    extras: bool = param(True, "feature PCA, x-t slices and the sheet of confidence")
    slice_row: float = param(0.5, "row of the x-t slices: 0 = top, 1 = bottom", low=0.0, high=1.0)
    report: bool = param(True, "report.html, one page to look at in a browser")
    labels: bool = param(True, "label PNGs, a file per frame; without, labels.zarr alone has them, for `vidseg export`")


#: The sections of params.yaml.
SECTIONS: dict[str, type] = {
    "backbone": BackboneParams,
    "diffusion": DiffusionParams,
    "ingest": IngestParams,
    "extract": ExtractParams,
    "correspond": CorrespondParams,
    "segment": SegmentParams,
    "upsample": UpsampleParams,
    "maps": MapsParams,
    "learn": LearnParams,
    "track": TrackParams,
    "guidance": GuidanceParams,
    "apply": ApplyParams,
    "evaluate": EvaluateParams,
    "render": RenderParams,
}


@dataclass(frozen=True)
class Declared:
    """What is declared of one parameter.

    Attributes:
        kind: its type, as annotated.
        default, help, low, high: as given to `param`.
        stored: its name within the section in stores.
        before: the value at which stores leave it out; `dataclasses.MISSING` = they have it always.
    """

    kind: Any
    default: Any
    help: str
    low: float | None
    high: float | None
    stored: str
    before: Any


def declared(section: type) -> Mapping[str, Declared]:
    """The parameters of a section's class by their names within it, like `clusters` and `parity.label_merge`."""
    kinds = typing.get_type_hints(section)
    found: dict[str, Declared] = {}
    for field in dataclasses.fields(section):
        kind, given = kinds[field.name], field.metadata
        if dataclasses.is_dataclass(kind):
            assert isinstance(kind, type)
            found |= {f"{field.name}.{name}": inner for name, inner in declared(kind).items()}
        else:
            stored = given["stored"] or field.name
            found[field.name] = Declared(
                kind, field.default, given["help"], given["low"], given["high"], stored, given["before"]
            )
    return found


def choices(section: type, name: str) -> tuple[str, ...]:
    """What a parameter of a section's class may be, where it has choices."""
    return typing.get_args(declared(section)[name].kind)


def groups(section: type) -> tuple[str, ...]:
    """The groups of a section's class, like `parity`."""
    return tuple(dict.fromkeys(name.partition(".")[0] for name in declared(section) if "." in name))


def flat(params: Any) -> dict[str, Any]:
    """The values of a section by their names within it, like `clusters` and `parity.label_merge`."""
    return {name: attrgetter(name)(params) for name in declared(type(params))}


def of_stored(section: type, stored: Mapping[str, Any]) -> Any:
    """The section of a class whose values a store keeps, under the flat names of `Declared.stored`.

    What the store lacks has the value of `Declared.before`, or else the default.
    """
    values = {}
    for name, one in declared(section).items():
        missing = one.default if one.before is dataclasses.MISSING else one.before
        value = stored.get(one.stored, missing)
        values[name] = tuple(value) if isinstance(value, list) else value
    kinds = typing.get_type_hints(section)
    own = {name: value for name, value in values.items() if "." not in name}
    for group in groups(section):
        inner = {name.partition(".")[2]: value for name, value in values.items() if name.startswith(f"{group}.")}
        own[group] = kinds[group](**inner)
    return section(**own)


@cache
def renamed() -> Mapping[str, str]:
    """Flat names of earlier versions, which stores still have, to names: `upsample.blur` to `upsample.parity.blur`."""
    return {
        f"{section}.{one.stored}": f"{section}.{name}"
        for section, kind in SECTIONS.items()
        for name, one in declared(kind).items()
        if one.stored != name
    }

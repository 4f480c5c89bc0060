"""From a video to features and their matches: `ingest`, `extract` and `correspond`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pipeline.errors import UsageError
from pipeline.parameters.declare import param

MOST_FPS = 1e6


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

"""Shards of a video model: a shard is a window of frames, except the last, whose window is moved back to be full."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.errors import DataError, UsageError

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np

    from pipeline.artifacts import Store
    from pipeline.backbone import Backbone
    from pipeline.backbone.small_decoder import SmallDecoder
    from pipeline.diffusion import DiffusionSettings
    from pipeline.extraction import Extracted, ExtractionSettings
    from stages.settings import Settings
    from stages.upsample import Params


def check_model(settings: Settings, backbone: Backbone) -> None:
    """Refuse parameters of the other family of models.

    Raises:
        UsageError: names the parameter.
    """
    from pipeline.windows import check_window

    check_window(settings["extract"].window, backbone)
    if settings["upsample"].method == "modulation":
        check_upsampling(settings["upsample"], backbone)


def check_upsampling(params: Params, backbone: Backbone) -> None:
    """Refuse what the backbone cannot modulate or decode.

    Raises:
        UsageError: names the parameter.
    """
    remedy = f"`vidseg preset apply {backbone.name}` sets all that depends on the backbone"
    if params.attention not in backbone.modulated:
        known = ", ".join(backbone.modulated)
        raise UsageError(f"upsample.attention is {params.attention}, but {backbone.name} has only {known}; {remedy}")
    if params.decode == "joint" and backbone.window is None:
        raise UsageError(f"upsample.decode is joint, but {backbone.name} sees every frame alone; {remedy}")
    if params.decode == "joint" and params.mode == "fast" and params.fast_decode != "full":
        raise UsageError(
            f"upsample.decode is joint, but upsample.fast_decode = {params.fast_decode} takes frames alone; "
            "set upsample.decode to single or upsample.fast_decode to full"
        )


def check_same_window(latents: Path, settings: Settings) -> None:
    """A video model's features depend on the window, so upsampling must be asked for the same.

    Raises:
        DataError: the latents were made with another window length.
    """
    from pipeline import artifacts

    made, now = stored_window(artifacts.open_store(latents, artifacts.LATENTS)), settings["extract"].window
    if settings["upsample"].method == "modulation" and made != now:
        raise DataError(
            f"{latents} was made with extract.window = {made or 'null'}, now it is {now or 'null'}; "
            "run `vidseg extract` with these parameters first"
        )


def stored_window(latents: Store) -> int | None:
    """The frames that were seen together when the latents were made; None = each frame alone."""
    window: int | None = latents.params["extract"].get("window")
    return window


def frames_with(frame: int, window: int | None, total: int) -> range:
    """The frames that were seen together with one of a clip of `total` frames."""
    from pipeline.windows import window_of

    if window is None:
        return range(frame, frame + 1)
    start = frame - frame % window
    return window_of(range(start, min(start + window, total)), window)


def extract_shard(
    clip: Store,
    shard: range,
    window: int,
    backbone: Backbone,
    diffusion: DiffusionSettings,
    settings: ExtractionSettings,
) -> Extracted:
    """Features of a shard's frames, seen in their window."""
    from pipeline import extraction, micro_batches
    from pipeline.windows import window_of

    frames = window_of(shard, window)
    images = clip.read("frames", frames.start, frames.stop)
    indices = clip.attrs["source_indices"][frames.start : frames.stop]

    def work(sizes: micro_batches.Sizes) -> Extracted:
        part = slice(sizes["extract.window"])
        return extraction.extract(backbone, images[part], indices[part], diffusion, settings)

    extracted = micro_batches.compute(work, {"extract.window": len(frames)})
    return extracted.last(len(shard))


def upsample_shard(
    clip: Store,
    latents: Store,
    coarse: Store,
    shard: range,
    window: int,
    size: tuple[int, int],
    backbone: Backbone,
    diffusion: DiffusionSettings,
    params: Params,
    small: SmallDecoder | None,
) -> np.ndarray:
    """Labels (f, H0, W0) of a shard's frames, modulated in the window in which they were extracted."""
    import numpy as np

    from pipeline import micro_batches
    from pipeline.diffusion import condition
    from pipeline.fast import upsample_fast
    from pipeline.window_upsampling import WindowPasses, upsample_window
    from pipeline.windows import window_of
    from stages.upsample import fast_settings, map_settings, modulation_settings, noisy_latents

    frames = window_of(shard, window)
    start = noisy_latents(latents, frames, diffusion, backbone)
    guides = clip.read("frames", frames.start, frames.stop)
    conditioning = condition(backbone, guides[0], latents.attrs["source_indices"][frames.start], diffusion)
    planes = coarse.read("refined", frames.start, frames.stop)
    rules, fast = (diffusion, modulation_settings(params), map_settings(params)), fast_settings(params)

    def work(sizes: micro_batches.Sizes) -> list[np.ndarray]:
        part = slice(sizes["extract.window"])
        passes = WindowPasses(sizes.get("upsample.batch", params.batch), params.decode, shard.start - frames.start)
        if fast is None:
            return upsample_window(backbone, start[part], conditioning, planes[part], size, *rules, passes)
        labelled = upsample_fast(
            backbone, start[part], planes[part], guides[part], size, *rules, fast, passes, small, conditioning
        )
        return [frame.labels for frame in labelled]

    # A batch of less than two windows is one window.
    sizes = {"upsample.batch": params.batch} if params.batch >= 2 * len(frames) else {}
    return np.stack(micro_batches.compute(work, {**sizes, "extract.window": len(frames)}))

"""Shards of a video model: a shard is a window of frames, except the last, whose window is moved back to be full."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.errors import DataError, UsageError
from pipeline.parameters import UpsampleParams

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.backbone import Backbone
    from pipeline.stores.store import Store
    from stages.common.settings import Settings


def check_model(settings: Settings, backbone: Backbone) -> None:
    """Refuse parameters of the other family of models.

    Raises:
        UsageError: names the parameter.
    """
    from pipeline.features.windows import check_window

    check_window(settings["extract"].frames_together, backbone)
    if settings["upsample"].method == "modulation":
        check_upsampling(settings["upsample"], backbone)


def check_upsampling(params: UpsampleParams, backbone: Backbone) -> None:
    """Refuse what the backbone cannot modulate or decode.

    Raises:
        UsageError: names the parameter.
    """
    remedy = f"`vidseg preset apply {backbone.name}` sets all that depends on the backbone"
    attention = params.video.attention
    if attention not in backbone.modulated:
        known = ", ".join(backbone.modulated)
        raise UsageError(f"upsample.video.attention is {attention}, but {backbone.name} has only {known}; {remedy}")
    if params.video.decode == "joint" and backbone.window == 1:
        raise UsageError(f"upsample.video.decode is joint, but {backbone.name} sees every frame alone; {remedy}")
    if params.video.decode == "joint" and params.mode == "fast" and params.fast.decode != "full":
        raise UsageError(
            f"upsample.video.decode is joint, but upsample.fast.decode = {params.fast.decode} takes frames alone; "
            "set upsample.video.decode to single or upsample.fast.decode to full"
        )


def check_same_window(latents: Path, settings: Settings) -> None:
    """A video model's features depend on the window, so upsampling must be asked for the same.

    Raises:
        DataError: the latents were made with another window length.
    """
    from pipeline.stores.schemas import LATENTS
    from pipeline.stores.store import open_store

    made, now = stored_window(open_store(latents, LATENTS)), settings["extract"].frames_together
    if settings["upsample"].method == "modulation" and made != now:
        raise DataError(
            f"{latents} was made with extract.frames_together = {made or 'null'}, now it is {now or 'null'}; "
            "run `vidseg extract` with these parameters first"
        )


def stored_window(latents: Store) -> int | None:
    """The frames that were seen together when the latents were made; None = each frame alone."""
    window: int | None = latents.params["extract"].get("window")
    return window

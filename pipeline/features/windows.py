"""The windows of frames that a video model sees together."""

from __future__ import annotations

from pipeline.backbone import Backbone
from pipeline.errors import UsageError


def window_of(shard: range, window: int) -> range:
    """The frames that are seen together to compute those of a shard, which lie at the window's end.

    A clip's last window is moved back so that it is full; a clip shorter than a window is one shorter window.

    Args:
        shard: consecutive frames that begin at a multiple of `window`, no more than that many.
    """
    return range(max(0, shard.stop - window), shard.stop)


def check_window(window: int | None, backbone: Backbone) -> int | None:
    """The frames that the backbone sees together, as the parameters say: None = each frame alone.

    Raises:
        UsageError: a window for an image model, or none for a video model.
    """
    if backbone.window == 1 and window is not None:
        raise UsageError(
            f"extract.window is {window}, but {backbone.name} sees every frame alone; set it to null "
            f"(`vidseg preset apply {backbone.name}` sets all that depends on the backbone)"
        )
    if backbone.window > 1 and window is None:
        raise UsageError(
            f"extract.window is null, but {backbone.name} sees a window of frames together; set it to "
            f"{backbone.window} (`vidseg preset apply {backbone.name}` sets all that depends on the backbone)"
        )
    return window

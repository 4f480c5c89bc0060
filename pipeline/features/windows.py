"""Which frames a model sees together, and which go through it in one pass."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.backbone import Backbone
from pipeline.errors import UsageError


@dataclass(frozen=True)
class Pass:
    """Frames of a clip that go through a model at once: one window, or several of one frame.

    Attributes:
        frames: all of them.
        first: position from which on they are asked for; those before complete the window.
    """

    frames: range
    first: int = 0

    @property
    def asked(self) -> range:
        """The frames that are asked for."""
        return self.frames[self.first :]


def passes_of(shard: range, backbone: Backbone, together: int, batch: int) -> list[Pass]:
    """The passes that compute a shard of a clip.

    A clip's last window is moved back so that it is full; a clip shorter than a window is one shorter window.

    Args:
        shard: consecutive frames that begin at a multiple of `together`.
        together: frames that are seen together.
        batch: frames per pass, where the model takes several windows at once.
    """
    size = backbone.frames_per_pass(together, batch)
    passes = []
    for start in range(shard.start, shard.stop, size):
        stop = min(start + size, shard.stop)
        first = min(start, max(0, stop - together))
        passes.append(Pass(range(first, stop), start - first))
    return passes


def window_with(frame: int, together: int, total: int) -> Pass:
    """The window in which one frame of a clip of `total` is seen, and that frame's place."""
    stop = min(frame - frame % together + together, total)
    start = max(0, stop - together)
    return Pass(range(start, stop), frame - start)


def pass_limit(together: int, batch: int) -> dict[str, int]:
    """The parameter that says how large a pass is, and its value: what to lower when memory runs out."""
    return {"diffusion.batch": batch} if together == 1 else {"extract.frames_together": together}


def check_window(together: int | None, backbone: Backbone) -> int:
    """The frames that the backbone sees together.

    Args:
        together: as the parameters say; None for a backbone whose window is one frame.

    Raises:
        UsageError: a window for an image model, or none for a video model.
    """
    remedy = f"(`vidseg preset apply {backbone.name}` sets all that depends on the backbone)"
    if backbone.window == 1 and together is not None:
        raise UsageError(
            f"extract.frames_together is {together}, but {backbone.name} sees every frame alone; set it to null "
            f"{remedy}"
        )
    if backbone.window > 1 and together is None:
        raise UsageError(
            f"extract.frames_together is null, but {backbone.name} sees a window of frames together; set it to "
            f"{backbone.window} {remedy}"
        )
    return together or 1

"""The tracker of a name. (This module takes paths.)"""

from __future__ import annotations

from pathlib import Path

from pipeline.errors import UsageError
from pipeline.parameters import TrackParams, choices
from pipeline.tracking.cotracker import CoTracker
from pipeline.tracking.feature_matches import FeatureTracker
from pipeline.tracking.flow import FlowTracker
from pipeline.tracking.recorded import FileTracker
from pipeline.tracking.static import StaticTracker
from pipeline.tracking.tracks import Tracker

METHODS = choices(TrackParams, "method")


def make_tracker(method: str, *, max_squared_distance: float, file: Path | None = None, device: str = "cpu") -> Tracker:
    """The tracker of a method.

    Args:
        method: one of `METHODS`.
        max_squared_distance: of `features`: how far a token may move between neighbouring frames.
        file: of `file`, the tracks; of `cotracker`, its weights.
        device: of `cotracker`.

    Raises:
        UsageError: unknown method, or `file` without one.
    """
    if method == "flow":
        return FlowTracker()
    if method == "features":
        return FeatureTracker(max_squared_distance)
    if method == "static":
        return StaticTracker()
    if method == "cotracker":
        return CoTracker(file, device)
    if method != "file":
        raise UsageError(f"track.method must be one of {', '.join(METHODS)}, not '{method}'")
    if file is None:
        raise UsageError("track.method is file, but track.file names none; give an .npz file of tracks")
    return FileTracker(file)

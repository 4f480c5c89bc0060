"""What holds for every tracker, and how well those that look at the pictures follow known motion."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from pipeline.errors import DataError, UsageError
from pipeline.tracking.choose import METHODS, make_tracker
from pipeline.tracking.cotracker import CoTracker
from pipeline.tracking.feature_matches import FeatureTracker
from pipeline.tracking.flow import FlowTracker, neighbour_flow
from pipeline.tracking.recorded import FileTracker
from pipeline.tracking.static import StaticTracker
from pipeline.tracking.tracks import (
    Clip,
    FeatureMaps,
    Tracker,
    Tracks,
    grid_points,
    is_inside,
    to_cells,
    to_pixels,
    track,
    window_of,
)
from tests.support.moving import film, patch_features, texture, translation, zoom

SIZE = (96, 128)
GRID = (12, 16)
FEATURE_GRID = (6, 8)
FRAMES = 9
MOTIONS = {"translation": translation(1.5, -3.0), "zoom": zoom(1.04, SIZE), "still": translation(0, 0)}


def features_of(frames: np.ndarray, grid: tuple[int, int] = FEATURE_GRID) -> FeatureMaps:
    return FeatureMaps(patch_features(frames, grid), grid)


class StubPredictor:
    """CoTracker's interface: every point goes one pixel to the right per frame."""

    def __call__(self, video: object, queries: object, backward_tracking: bool) -> tuple[object, object]:
        import torch

        assert isinstance(video, torch.Tensor) and isinstance(queries, torch.Tensor) and backward_tracking
        assert video.shape[2] == 3 and video.max() > 1  # 0..255
        steps = torch.arange(video.shape[1])[:, None] - queries[0, :, 0]
        xy = queries[0, None, :, 1:] + torch.stack([steps, torch.zeros_like(steps)], dim=-1)
        return xy[None], torch.ones(1, *xy.shape[:2], dtype=torch.bool)


def recorded(folder: Path) -> FileTracker:
    """A file in which every point goes one pixel to the right per frame, and some are wrongly said to be unseen."""
    points = to_pixels(grid_points(GRID), SIZE, GRID)[:, ::-1]
    steps = np.arange(FRAMES)[None, :, None] - np.arange(FRAMES)[:, None, None]
    tracks = points[None, None] + np.stack([steps, np.zeros_like(steps)], axis=-1)
    visible = np.random.default_rng(0).random(tracks.shape[:3]) < 0.8
    np.savez_compressed(folder / "tracks.npz", tracks=tracks.astype(np.float32), visible=visible, size=SIZE)
    return FileTracker(folder / "tracks.npz")


def cotracker(folder: Path) -> CoTracker:
    tracker = CoTracker(folder / "scaled_offline.pth")
    tracker.__dict__["_model"] = StubPredictor()
    return tracker


TRACKERS: dict[str, Callable[[Path], Tracker]] = {
    "flow": lambda folder: FlowTracker(),
    "features": lambda folder: FeatureTracker(8.0),
    "file": recorded,
    "cotracker": cotracker,
    "static": lambda folder: StaticTracker(),
}


def test_every_method_is_here() -> None:
    assert set(TRACKERS) == set(METHODS)
    for method in METHODS:
        assert make_tracker(method, max_squared_distance=2, file=Path("x")).name == method


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("window", [1, 5, 15])
def test_the_contract(method: str, window: int, tmp_path: Path) -> None:
    frames = film(MOTIONS["translation"], SIZE, FRAMES)
    tracker = TRACKERS[method](tmp_path)
    features = features_of(frames) if tracker.needs_features else None
    tracks = track(tracker, frames, features, GRID, window)
    length = min(window, FRAMES)
    assert tracks.yx.shape == (FRAMES, length, GRID[0] * GRID[1], 2) and tracks.yx.dtype == np.int16
    assert tracks.visible.shape == tracks.yx.shape[:3] and tracks.visible.dtype == bool
    assert tracks.start.tolist() == [window_of(frame, FRAMES, window).start for frame in range(FRAMES)]
    assert tracks.start.dtype == np.int32
    for frame in range(FRAMES):
        own = frame - tracks.start[frame]
        assert np.array_equal(tracks.yx[frame, own], grid_points(GRID)), "own frame: exact"
        assert tracks.visible[frame, own].all(), "own frame: visible"
    assert is_inside(tracks.yx, GRID)[tracks.visible].all()
    again = track(tracker, frames, features, GRID, window)
    assert np.array_equal(tracks.yx, again.yx) and np.array_equal(tracks.visible, again.visible)
    some = track(tracker, frames, features, GRID, window, range(3, 6))  # as a resumed run asks
    assert np.array_equal(some.yx, tracks.yx[3:6]) and np.array_equal(some.start, tracks.start[3:6])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("frames", [1, 2])
def test_clips_shorter_than_a_window(method: str, frames: int, tmp_path: Path) -> None:
    if method == "file":
        pytest.skip("a file holds the tracks of one clip")
    clip = film(MOTIONS["translation"], SIZE, frames)
    tracker = TRACKERS[method](tmp_path)
    tracks = track(tracker, clip, features_of(clip) if tracker.needs_features else None, GRID, 7)
    assert tracks.yx.shape[:2] == (frames, frames) and tracks.start.tolist() == [0] * frames


@pytest.mark.parametrize("motion", MOTIONS)
@pytest.mark.parametrize("method", ["flow", "features"])
def test_known_motion_is_followed(method: str, motion: str) -> None:
    path = MOTIONS[motion]
    frames = film(path, SIZE, FRAMES)
    tracker = TRACKERS[method](Path())
    tracks = track(tracker, frames, features_of(frames, GRID), GRID, FRAMES)
    begin = to_pixels(grid_points(GRID), SIZE, GRID)
    near, seen, there = 0, 0, 0
    for frame in range(FRAMES):
        origin = undone(path, begin, frame)
        for target in range(FRAMES):
            exact = to_cells(path(origin, target), SIZE, GRID)
            visible = tracks.visible[frame, target]
            near += int((np.abs(tracks.yx[frame, target] - exact).max(axis=-1)[visible] <= 1).sum())
            seen += int(visible.sum())
            there += int(is_inside(exact, GRID).sum())
    assert near >= 0.9 * seen
    assert seen >= 0.6 * there


def undone(path: Callable[[np.ndarray, int], np.ndarray], yx: np.ndarray, frame: int) -> np.ndarray:
    """Where points of a frame lie in the first one."""
    origin, down, right = (path(np.array(at, float), frame) for at in ((0, 0), (1, 0), (0, 1)))
    return (yx - origin) @ np.linalg.inv(np.stack([down - origin, right - origin], axis=1)).T


@pytest.mark.parametrize("method", ["flow", "features"])
def test_an_occluder_makes_points_invisible(method: str) -> None:
    """A square crosses a still ground, 8 pixels per frame; what it covers is not seen through it."""
    frames = np.repeat(texture(SIZE)[None], FRAMES, axis=0)
    square = texture((40, 40), seed=1)[..., ::-1] // 2 + 100
    place = [8 + 8 * frame for frame in range(FRAMES)]
    for frame in range(FRAMES):
        frames[frame, 24:64, place[frame] : place[frame] + 40] = square
    grid = (24, 32)
    features = features_of(frames, (24, 32)) if method == "features" else None
    tracks = track(TRACKERS[method](Path()), frames, features, grid, FRAMES)
    centres = to_pixels(grid_points(grid), SIZE, grid)
    source, target = 0, 5
    ground = ~inside_square(centres, place[source])
    covered = ground & inside_square(centres, place[target])
    free = ground & ~inside_square(centres, place[target], 12) & ~inside_square(centres, place[source], 12)
    assert tracks.visible[source, target, covered].mean() < 0.3
    assert tracks.visible[source, target, free].mean() > 0.8


def inside_square(yx: np.ndarray, left: int, margin: int = 0) -> np.ndarray:
    return (abs(yx[:, 0] - 44) < 20 + margin) & (abs(yx[:, 1] - left - 20) < 20 + margin)


def test_flow_finds_subpixel_motion() -> None:
    motion = neighbour_flow(film(translation(0.5, -2.25), SIZE, 2), 0)
    assert motion.forward.shape == (SIZE[0] // 2, SIZE[1] // 2, 2), "at half size"
    middle = (slice(8, -8), slice(8, -8))
    assert np.abs(motion.forward[middle] - (0.25, -1.125)).mean() < 0.05
    assert np.abs(motion.backward[middle] + (0.25, -1.125)).mean() < 0.05


def test_flow_does_not_depend_on_the_number_of_threads() -> None:
    frames, threads = film(MOTIONS["zoom"], SIZE, 2), cv2.getNumThreads()
    found = []
    try:
        for count in (1, 2):
            cv2.setNumThreads(count)
            found.append(neighbour_flow(frames, 0).forward)
            assert cv2.getNumThreads() == count
    finally:
        cv2.setNumThreads(threads)
    assert np.array_equal(*found)


def test_tiny_pictures_are_tracked() -> None:
    tracks = track(FlowTracker(), film(translation(0, 1), (16, 24), 3), None, (4, 6), 3)
    assert tracks.visible.all(axis=(0, 1)).sum() > 8


@pytest.mark.parametrize("method", ["flow", "features"])
def test_only_a_window_is_held(method: str) -> None:
    """Frames are read as the windows come to them, and few times each, however long the clip."""
    frames = film(translation(0, 1), SIZE, 24)
    values = patch_features(frames, FEATURE_GRID)
    reads: list[int] = []

    class Counting:
        def __init__(self, array: np.ndarray) -> None:
            self.array = array

        def __len__(self) -> int:
            return len(self.array)

        def __getitem__(self, frame: int) -> np.ndarray:
            reads.append(frame)
            return self.array[frame]

    clip = Clip(Counting(frames), FeatureMaps(Counting(values), FEATURE_GRID), GRID, 5)
    stream = TRACKERS[method](Path()).stream(clip, range(24))
    for frame in range(24):
        next(stream)
        assert max(reads) <= max(4, min(frame + 2, 23))
    assert len(reads) <= 4 * 24


# --- windows and cells


@pytest.mark.parametrize(
    ("frame", "frames", "window", "expected"),
    [
        (0, 9, 5, range(0, 5)),
        (1, 9, 5, range(0, 5)),
        (4, 9, 5, range(2, 7)),
        (8, 9, 5, range(4, 9)),
        (2, 4, 7, range(0, 4)),
        (0, 1, 15, range(0, 1)),
        (3, 9, 1, range(3, 4)),
    ],
)
def test_windows_are_shifted_inwards(frame: int, frames: int, window: int, expected: range) -> None:
    assert window_of(frame, frames, window) == expected


def test_cells_and_pixels() -> None:
    assert to_cells(np.array([[4.0, 4.0], [8.0, 12.0], [95.9, -0.1]]), SIZE, GRID).tolist() == [
        [0, 0],
        [0, 1],
        [11, -1],
    ]
    cells = grid_points(GRID)
    assert np.array_equal(to_cells(to_pixels(cells, SIZE, GRID), SIZE, GRID), cells)
    assert to_cells(np.array([[np.nan, 1e9]]), SIZE, GRID).tolist() == [[-32768, 32767]]


# --- what is refused


def changed_file(folder: Path, **arrays: object) -> FileTracker:
    recorded(folder)
    content = {**dict(np.load(folder / "tracks.npz")), **arrays}
    np.savez(folder / "other.npz", **{name: value for name, value in content.items() if value is not None})
    return FileTracker(folder / "other.npz")


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"visible": None}, "holds no array `visible`"),
        ({"visible": np.ones((2, 2, 192), bool)}, r"`visible` has shape \(2, 2, 192\); .* need \(9, 9, 192\)"),
        ({"tracks": np.zeros((9, 4, 192, 2))}, r"need \(9, 9, 192, 2\) or \(9, 5, 192, 2\)"),
        ({"tracks": np.asfortranarray(np.zeros((9, 9, 192, 2)))}, "must hold numbers row by row"),
        ({"tracks": np.array(["a"])}, "must hold numbers"),
        ({"size": np.array([0, 4])}, "`size` must be two numbers, the height and width of the pictures"),
    ],
)
def test_bad_files_of_tracks(arrays: dict[str, object], message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        track(changed_file(tmp_path, **arrays), film(MOTIONS["still"], SIZE, FRAMES), None, GRID, 5)


def test_a_missing_or_broken_file(tmp_path: Path) -> None:
    frames = film(MOTIONS["still"], SIZE, FRAMES)
    with pytest.raises(DataError, match="no such file of tracks; name one with track.file"):
        track(FileTracker(tmp_path / "none.npz"), frames, None, GRID, 5)
    (tmp_path / "text.npz").write_text("tracks")
    with pytest.raises(DataError, match="not an .npz file of tracks"):
        track(FileTracker(tmp_path / "text.npz"), frames, None, GRID, 5)


def test_a_damaged_file(tmp_path: Path) -> None:
    """A byte of the last frames is another: those before are read, then the error is told."""
    tracker = recorded(tmp_path)
    content = bytearray(tracker.path.read_bytes())
    content[tracker.path.stat().st_size // 3] ^= 255
    (tmp_path / "damaged.npz").write_bytes(content)
    with pytest.raises(DataError, match=r"damaged.npz: `\w+` cannot be read"):
        track(FileTracker(tmp_path / "damaged.npz"), film(MOTIONS["still"], SIZE, FRAMES), None, GRID, 5)
    whole = dict(np.load(tracker.path))
    np.savez(tmp_path / "short.npz", **whole)
    archive = tmp_path / "cut.npz"
    with zipfile.ZipFile(archive, "w") as cut, zipfile.ZipFile(tmp_path / "short.npz") as complete:
        for name in complete.namelist():
            cut.writestr(name, complete.read(name)[: -8 if name == "tracks.npy" else None])
    with pytest.raises(DataError, match="`tracks` ends early, at frame 8; fetch it again"):
        track(FileTracker(archive), film(MOTIONS["still"], SIZE, FRAMES), None, GRID, 5)


def test_a_file_may_hold_windows_and_cells(tmp_path: Path) -> None:
    frames = film(MOTIONS["still"], SIZE, FRAMES)
    xy = grid_points(GRID)[:, ::-1].astype(np.int8)
    tracks = np.broadcast_to(xy, (FRAMES, 5, len(xy), 2))
    visible = np.ones(tracks.shape[:3], bool)
    visible[:, :, 7] = False
    np.savez(tmp_path / "cells.npz", tracks=np.ascontiguousarray(tracks), visible=visible)
    found = track(FileTracker(tmp_path / "cells.npz"), frames, None, GRID, 5)
    expected = track(StaticTracker(), frames, None, GRID, 5)
    assert np.array_equal(found.yx, expected.yx)
    assert found.visible[:, :, 7].sum() == FRAMES and np.delete(found.visible, 7, axis=2).all()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"window": 4}, UsageError, "track.window must be odd, not 4"),
        ({"window": 0}, UsageError, "track.window must be odd, not 0"),
        ({"grid": (0, 4)}, UsageError, "at least one cell, not 0x4"),
        ({"frames": np.zeros((0, 8, 8, 3), np.uint8)}, DataError, "no frame to track"),
        ({"features": FeatureMaps(np.ones((3, 48, 2)), (6, 8))}, DataError, "features of 3 frames"),
        ({"features": None}, DataError, "needs features; give it features.zarr, or set track.method=flow"),
        ({"features": FeatureMaps(np.ones((2, 47, 2)), (6, 8))}, DataError, "does not fit a grid of 6x8"),
        ({"features": FeatureMaps(np.full((2, 48, 2), np.nan), (6, 8))}, DataError, "features of frame 0 have NaN"),
    ],
)
def test_what_cannot_be_tracked(change: dict[str, object], error: type[Exception], message: str) -> None:
    frames = film(MOTIONS["still"], SIZE, 2)
    arguments: dict[str, object] = {"frames": frames, "features": features_of(frames), "grid": GRID, "window": 3}
    with pytest.raises(error, match=message):
        track(FeatureTracker(2.0), **(arguments | change))  # type: ignore[arg-type]


def test_unknown_methods() -> None:
    with pytest.raises(
        UsageError, match="track.method must be one of flow, features, file, cotracker, static, not 'sift'"
    ):
        make_tracker("sift", max_squared_distance=2)
    with pytest.raises(UsageError, match=r"track.method is file, but track.file names none"):
        make_tracker("file", max_squared_distance=2)


def test_tracks_of_frames_are_stacked() -> None:
    clip = Clip(np.zeros((4, 8, 8, 3), np.uint8), None, (2, 2), 3)
    tracks = Tracks.of(StaticTracker().stream(clip, [1, 2]))
    assert len(tracks) == 2 and tracks.start.tolist() == [0, 1]

"""benchmarks/trackers.py on a scene whose motion is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks import trackers as bench
from benchmarks.in_memory import LabelledClip
from pipeline.backbone.image.model import StableDiffusion
from pipeline.scoring.scores import ScoredClasses
from pipeline.tracking.recorded import FileTracker
from pipeline.tracking.static import StaticTracker
from pipeline.tracking.tracks import grid_points, to_pixels
from stages.common.settings import load
from tests.support import tiny
from tests.support.moving import texture

FRAMES, SIZE, GRID, STEP = 9, (64, 128), (8, 16), 8


def moving_square() -> LabelledClip:
    """A square that moves a cell per frame to the right; the last column has no label."""
    frames, truth = np.repeat(texture(SIZE)[None], FRAMES, axis=0), np.zeros((FRAMES, *SIZE), np.uint8)
    square = texture((32, 32), seed=1)[..., ::-1]
    for frame in range(FRAMES):
        place = slice(16, 48), slice(STEP * frame, STEP * frame + 32)
        frames[(frame, *place)], truth[(frame, *place)] = square, 1
    truth[:, :, -8:] = 255
    return LabelledClip("square", frames, truth, list(range(FRAMES)), ScoredClasses({0: "ground", 1: "square"}, (255,)))


def test_right_points_keep_their_label(tmp_path: Path) -> None:
    clip = moving_square()
    still = bench.follow(StaticTracker(), clip, None, GRID)
    assert still.right[0] == pytest.approx(1 - 8 / 120), "4 rows, a column at each end of the square"
    assert still.right[0] > still.right[1] > still.right[2] and still.near_borders[0] < still.right[0]
    assert still.visible == (1, 1, 1)
    points = to_pixels(grid_points(GRID), SIZE, GRID)[:, ::-1]
    of_square = (clip.truth[:, 4::8, 4::8] == 1).reshape(FRAMES, -1, 1)
    steps = STEP * (np.arange(FRAMES)[None, :] - np.arange(FRAMES)[:, None])[..., None, None] * np.array([1, 0])
    tracks = points + np.where(of_square[:, None], steps, 0)
    np.savez(tmp_path / "tracks.npz", tracks=tracks, visible=of_square[:, None, :, 0].repeat(FRAMES, 1), size=SIZE)
    exact = bench.follow(FileTracker(tmp_path / "tracks.npz"), clip, None, GRID)
    assert exact.right == (1, 1, 1) and max(exact.visible) < 0.3


def test_every_tracker_has_its_row(capsys: pytest.CaptureFixture[str]) -> None:
    backbone = StableDiffusion(tiny.make_unet(), tiny.make_vae(), tiny.make_context(), "tiny", "hash")
    results = bench.measured(moving_square(), backbone, None, load(None, ["extract.encoder=none"]))
    assert list(results) == ["flow", "static", "features, T = 2", "features, T = 8", "features, T = 18"]
    bench.print_tables({"square": results})
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "| tracker | 1 | 3 | 7 | mean | near borders | visible | ms/frame |"
    assert lines[-1].startswith("| square | ") and len(lines) == 2 + 5 + 1 + 2 + 1

"""CoTracker is asked through its own interface; package and weights are stand-ins."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from pipeline.errors import WeightsError
from pipeline.tracking.cotracker import CoTracker
from pipeline.tracking.tracks import track

FRAMES = np.random.default_rng(0).integers(0, 256, (3, 32, 48, 3), np.uint8)
GRID = (4, 6)


class Predictor(torch.nn.Module):
    """Moves points by its one weight, in pixels per frame."""

    def __init__(self, checkpoint: str | None, offline: bool, v2: bool, window_len: int) -> None:
        super().__init__()
        assert checkpoint is None and offline and not v2 and window_len == 60
        self.model = torch.nn.Linear(1, 1, bias=False)

    def forward(
        self, video: torch.Tensor, queries: torch.Tensor, backward_tracking: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        steps = torch.arange(video.shape[1])[:, None] - queries[0, :, 0]
        xy = queries[0, None, :, 1:] + self.model.weight[0] * torch.stack([steps, torch.zeros_like(steps)], dim=-1)
        return xy[None], torch.ones(1, *xy.shape[:2], dtype=torch.bool)


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("cotracker.predictor")
    module.CoTrackerPredictor = Predictor  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "cotracker", ModuleType("cotracker"))
    monkeypatch.setitem(sys.modules, "cotracker.predictor", module)


@pytest.mark.usefixtures("package")
@pytest.mark.parametrize("name", ["scaled_offline.pth", "nested.pth", "converted.safetensors"])
def test_points_go_where_it_says(name: str, tmp_path: Path) -> None:
    weights = {"weight": torch.full((1, 1), 8.0)}  # a cell per frame
    if name.endswith(".safetensors"):
        save_file(weights, tmp_path / name)
    else:
        torch.save({"model": weights} if name.startswith("nested") else weights, tmp_path / name)
    tracks = track(CoTracker(tmp_path / name), FRAMES, None, GRID, 3)
    assert tracks.yx[0, :, 7].tolist() == [[1, 1], [1, 2], [1, 3]]
    assert tracks.yx[2, :, 7].tolist() == [[1, -1], [1, 0], [1, 1]]
    assert tracks.visible[2, :, 7].tolist() == [False, True, True]


def test_without_the_package() -> None:
    with pytest.raises(WeightsError, match="its package is not installed .*; see docs/how-to/get-weights.md"):
        track(CoTracker(Path("any.pth")), FRAMES, None, GRID, 3)
    assert WeightsError.exit_code == 4


@pytest.mark.usefixtures("package")
def test_missing_or_other_weights(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="track.file names no checkpoint"):
        track(CoTracker(None), FRAMES, None, GRID, 3)
    with pytest.raises(WeightsError, match="none.pth: no such checkpoint of CoTracker"):
        track(CoTracker(tmp_path / "none.pth"), FRAMES, None, GRID, 3)
    torch.save({"other": torch.zeros(2)}, tmp_path / "other.pth")
    with pytest.raises(WeightsError, match="other.pth: not a checkpoint of CoTracker 3 offline"):
        track(CoTracker(tmp_path / "other.pth"), FRAMES, None, GRID, 3)

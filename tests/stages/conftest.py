"""Fixtures of the tests that start at extract: a clip of noise and a tiny model."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.parameters import BackboneParams
from tests.support.noise_clip import make_clip


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return make_clip(tmp_path / "clip.zarr")


@pytest.fixture
def backbone(tiny_model: Path) -> BackboneParams:
    return BackboneParams(path=str(tiny_model))

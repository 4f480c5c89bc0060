from __future__ import annotations

import numpy as np
import pytest
import typer

from benchmarks.in_memory import LabelledClip, Runner
from benchmarks.upsample import NOTHING, ROWS, chosen, labelled, score
from pipeline.backbone.image.model import StableDiffusion
from pipeline.scoring.scores import ScoredClasses
from stages.common.settings import load
from tests.support import tiny
from tests.support.params import PLAIN

SETS = [*PLAIN, "segment.clusters=3", "segment.window=2", "diffusion.guidance=1"]


@pytest.fixture(scope="module")
def runner() -> Runner:
    backbone = StableDiffusion(tiny.make_unet(), tiny.make_vae(), tiny.make_context(), "tiny", "hash")
    frames = np.random.default_rng(0).integers(0, 256, (10, 64, 64, 3), dtype=np.uint8)
    truth = np.zeros((10, 60, 60), np.uint8)
    truth[:, :, 30:] = 1
    clip = LabelledClip("noise", frames, truth, list(range(10)), ScoredClasses({0: "a", 1: "b"}))
    return Runner(backbone, clip, 10)


@pytest.mark.parametrize("row", ROWS)
def test_every_row_is_valid_parameters(row: str) -> None:
    load(None, [*SETS, *(f"upsample.{change}" for change in ROWS[row])])


def test_rows_are_chosen_by_name_and_the_exact_mode_comes_first() -> None:
    assert [name for name, _ in chosen("bilinear; two steps")] == ["exact", "two steps", "bilinear"]
    with pytest.raises(typer.BadParameter, match="no row 'three signs'; there are: exact"):
        chosen("three signs")


def test_scores_of_the_exact_mode_and_of_its_equal(runner: Runner) -> None:
    base = load(None, SETS)
    planes = runner.coarse(base)
    exact = labelled(runner, base, planes)
    equal = labelled(runner, load(None, [*SETS, *(f"upsample.{change}" for change in NOTHING)]), planes)
    other = labelled(runner, load(None, [*SETS, "upsample.method=bilinear"]), planes)
    assert exact.labels.shape == (10, 60, 60) and exact.seconds > other.seconds
    scores = [score([runner], [one], [exact]) for one in (exact, equal, other)]
    assert scores[0].agreement == 100
    assert scores[1].agreement > 99.9 and scores[1].miou == pytest.approx(scores[0].miou, abs=0.1)
    assert scores[2].agreement < 100
    assert 0 < scores[2].consistency < 100

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.in_memory import Grouping, LabelledClip, Runner, changed
from benchmarks.paper_and_code import ROWS, WHOLE, Row, main
from benchmarks.precision import in_precision
from pipeline.backbone.image.model import StableDiffusion
from pipeline.errors import UsageError
from pipeline.scoring.scores import ScoredClasses
from stages.common import encoders
from stages.common.settings import Settings, load
from tests.support import tiny

ONLY = ("segment.encoder_weight=only", "correspond.encoder_weight=only")
SETTINGS = ["segment.clusters=3", "segment.window=2", "diffusion.guidance=1"]


@pytest.fixture(scope="module")
def runner() -> Runner:
    backbone = StableDiffusion(tiny.make_unet(), tiny.make_vae(), tiny.make_context(), "tiny", "hash")
    frames = np.random.default_rng(0).integers(0, 256, (3, 64, 128, 3), dtype=np.uint8)
    truth = np.zeros((3, 60, 120), np.uint8)
    truth[:, :, 60:] = 1
    return Runner(backbone, LabelledClip("noise", frames, truth, [0, 1, 2], ScoredClasses({0: "a", 1: "b"})), 2)


def settings(*sets: str) -> Settings:
    return load(None, [*SETTINGS, *sets])


@pytest.mark.parametrize("row", [*ROWS, *WHOLE], ids=lambda row: row.name)
def test_every_row_is_valid_parameters(row: Row) -> None:
    encoders.check_weights(load(None, row.sets), ("segment", "correspond"))


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        (
            ["extract.encoder=none"],
            "segment.encoder_weight is 2.0 and correspond.encoder_weight is 1.0, but extract.enc",
        ),
        (["extract.parts=encoder", ONLY[0]], "correspond.encoder_weight is 1.0, but extract.parts is encoder"),
    ],
)
def test_weights_without_an_encoder_are_refused_before_anything_is_computed(sets: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        main([Path("nowhere")], set_=sets)


@pytest.mark.parametrize(
    "grouping", [Grouping(), Grouping(noise_by_position=True), Grouping(True, True, "mixed positive")]
)
def test_outcome_has_labels_and_scores(runner: Runner, grouping: Grouping) -> None:
    outcome = runner.run(settings(), grouping)
    assert outcome.coarse.shape == (3, 4 * 8)
    assert outcome.final.shape == (2, 60, 120)
    assert 0 <= outcome.final_miou <= 100
    again = runner.run(settings(), grouping)
    assert np.array_equal(outcome.final, again.final)


def test_the_encoder_s_features_count(runner: Runner) -> None:
    without, joined = (runner.coarse(settings(f"segment.encoder_weight={weight}")) for weight in (0, 2))
    assert (without != joined).any()
    alone, of_both = (runner.coarse(settings(*ONLY, f"extract.parts={parts}")) for parts in ("encoder", "both"))
    np.testing.assert_array_equal(alone, of_both)


@pytest.mark.parametrize("method", ["nearest", "joint_bilateral"])
def test_methods_without_modulation_keep_the_coarse_labels(runner: Runner, method: str) -> None:
    outcome = runner.run(settings(f"upsample.method={method}"))
    assert set(np.unique(outcome.final)) <= set(np.unique(outcome.coarse))


def test_another_numbering_is_no_change() -> None:
    labels = np.array([[0, 0, 1, 2], [2, 2, 1, 1]])
    renamed = np.array([5, 3, 4])[labels]
    assert changed(renamed, labels) == 0
    renamed[0, 0] = 3
    assert changed(renamed, labels) == pytest.approx(12.5)


def test_precision_changes_the_denoiser_alone(runner: Runner) -> None:
    half = in_precision(runner.backbone, torch.bfloat16)  # type: ignore[arg-type]
    assert half.unet.dtype == torch.bfloat16
    assert runner.backbone.unet.dtype == half.vae.dtype == torch.float32  # type: ignore[attr-defined]

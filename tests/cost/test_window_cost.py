"""`vidseg cost` of a video model: counted by window."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from pipeline.cost import window_cost
from stages.commands.cost import workload
from stages.common import backbones
from stages.common.settings import load
from tests.support.commands import error_line, vidseg


@pytest.mark.slow
def test_the_plain_schedule_of_the_published_model() -> None:
    """Shapes, calls and operations of a window of 14 frames and 20 labels at 448x832."""
    settings = load(None, ["backbone.name=svd"])
    outline = backbones.outline(settings["backbone"])
    load_ = workload(settings, (448, 832), (448, 832))
    assert [outline.token_shape(block, (448, 832)) for block in (3, 7, 8, 11)] == [
        (14, 26, 1280), (28, 52, 640), (28, 52, 640), (56, 104, 320),
    ]  # fmt: skip
    assert window_cost.denoised_flops(outline, load_) == pytest.approx(5.26e13, rel=2e-3)
    assert window_cost.encoded_flops(outline, load_) == pytest.approx(1.61e12, rel=2e-3)
    assert window_cost.decoded_flops(outline, load_) == pytest.approx(4.35e12, rel=2e-3)
    plain = window_cost.plain_schedule(outline, load_)
    assert (plain.denoiser_calls, plain.encoded, plain.decoded) == (328, 15, 574)
    assert plain.flops == pytest.approx(1.98e16, rel=3e-3)


def test_every_stage_of_a_small_model(tiny_video_model: Path) -> None:
    given = ("backbone.name=svd", f"backbone.path={tiny_video_model}", "extract.frames_together=2",
             "diffusion.start_step=23", "upsample.modulate_step=23")  # fmt: skip
    options = [f"--set={text}" for text in given]
    found = json.loads(vidseg("cost", "--size", "64x64", "--labels", 2, "--json", "--no-time", *options).stdout)
    assert found["window"] == 2
    assert found["plain_schedule"]["denoiser_calls"] == 2 * (1 + 2 * 2)
    for stage in ("extract", "upsample"):
        assert found["stages"][stage]["tflop_per_frame"] > 0 and found["stages"][stage]["memory_gb"] > 0
    # All that the plain schedule counts is run, and the clean pass twice: once to extract, once to modulate. What lies
    # before the modulated block labels share.
    whole = 2 * sum(found["stages"][stage]["tflop_per_frame"] for stage in ("extract", "upsample"))
    assert 0.7 < whole / found["plain_schedule"]["tflop_per_window"] < 1


@pytest.mark.slow
def test_levers_of_the_fast_mode_save(tiny_video_model: Path) -> None:
    """Groups, box and small decoder are what they are for an image model: tests/cost/test_counting.py."""
    given = ("backbone.name=svd", f"backbone.path={tiny_video_model}", "extract.frames_together=2",
             "diffusion.start_step=23", "upsample.modulate_step=23", "segment.clusters=3")  # fmt: skip
    exact = ("mode=fast", "fast.guidance=null", "fast.steps=99", "fast.groups=single", "fast.decode=full",
             "fast.deep=own")  # fmt: skip
    costs = {}
    for change in (
        "mode=exact",
        "mode=fast",
        "fast.signs=plus",
        "fast.steps=1",
        "fast.decode=latent",
        "fast.deep=clean",
    ):
        settings = load(None, [*given, *(f"upsample.{lever}" for lever in (*exact, change))])
        outline = backbones.outline(settings["backbone"])
        load_ = workload(settings, (64, 64), (64, 64))
        costs[change] = sum(window_cost.flops_per_frame(outline, load_)["upsample"].values())
    reference = costs.pop("mode=exact")
    assert costs.pop("mode=fast") == reference
    assert all(cost < reference for cost in costs.values())


def test_parameters_of_an_image_model_are_refused(tiny_video_model: Path) -> None:
    given = ("backbone.name=svd", f"backbone.path={tiny_video_model}", "extract.frames_together=null")
    options = [f"--set={text}" for text in given]
    assert "extract.frames_together is null, but svd sees a window" in error_line(vidseg("cost", *options, check=2))


def test_an_image_encoder_that_does_not_fit_is_refused(tiny_video_model: Path, tmp_path: Path) -> None:
    """One that is missing is counted as the published one, whose embedding this denoiser does not read."""
    shutil.copytree(tiny_video_model, tmp_path / "model", ignore=shutil.ignore_patterns("image_encoder"))
    options = ["--no-time", "--backbone", "svd", "--set", f"backbone.path={tmp_path / 'model'}"]
    line = error_line(vidseg("cost", *options, check=4))
    assert "the image embedding has 1024 values, the denoiser needs 32; fetch image_encoder/" in line

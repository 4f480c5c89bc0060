"""The tables about features and modulation: on scenes whose right answer is known."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from typer.testing import CliRunner

from benchmarks import features, modulation
from benchmarks.in_memory import LabelledClip, Runner
from pipeline.backbone.image.model import StableDiffusion
from pipeline.scoring.scores import ScoredClasses
from pipeline.upsampling.label_groups import Region, alone
from pipeline.upsampling.responses import Response
from stages.common.settings import load
from tests.support import tiny
from tests.support.commands import write_frames, write_labels

FRAMES = 10


def moving_square() -> LabelledClip:
    """A red square that moves 16 px per frame over green ground."""
    frames = np.zeros((FRAMES, 64, 256, 3), np.uint8)
    frames[..., 1] = 200
    truth = np.zeros((FRAMES, 64, 256), np.uint8)
    for f in range(FRAMES):
        frames[f, 16:48, 16 * f : 16 * f + 64] = (220, 20, 20)
        truth[f, 16:48, 16 * f : 16 * f + 64] = 1
    return LabelledClip("square", frames, truth, list(range(FRAMES)), ScoredClasses({0: "ground", 1: "square"}))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    clip = moving_square()
    write_frames(folder / "toy" / "square" / "frames", clip.frames[:3])
    write_labels(folder / "toy" / "square" / "labels", clip.truth[:3])
    write_frames(folder / "toy" / "one_label" / "frames", clip.frames[:3])
    write_labels(folder / "toy" / "one_label" / "labels", clip.truth[:1])
    return folder


def tiny_backbone() -> StableDiffusion:
    return StableDiffusion(tiny.make_unet(seed=5), tiny.make_vae(), tiny.make_context(), "tiny", "hash")


@pytest.mark.parametrize("init", ["mask", "kmeans"])
def test_features_that_tell_the_object_follow_it_and_a_static_copy_does_not(init: str) -> None:
    clip = moving_square()
    patches = features.normalised(features.rgb_patches(clip.frames, (4, 16)))
    settings = features._segment(load(None, ["segment.clusters=2"]), init)
    followed = features.propagate(clip, patches, settings)
    assert followed.miou == followed.vc8 == 1.0
    still = features.static_copy(clip, (4, 16))
    overlap = [max(0, 64 - 16 * f) * 32 for f in range(1, FRAMES)]  # of the copy with the square
    square = sum(overlap) / (2 * 64 * 32 * (FRAMES - 1) - sum(overlap))
    ground = (total := 64 * 256 * (FRAMES - 1)) - 2 * 64 * 32 * (FRAMES - 1) + sum(overlap)
    assert still.miou == pytest.approx((square + ground / (total - sum(overlap))) / 2)


def test_a_high_position_weight_is_a_static_copy() -> None:
    clip = moving_square()
    settings = features._segment(load(None, ["segment.neighbors=1"]), "mask")
    pinned = features.propagate(clip, features.rgb_position(clip.frames, (4, 16), 1000.0), settings)
    assert pinned.miou == pytest.approx(features.static_copy(clip, (4, 16)).miou)


def test_random_weights_keep_the_shape_and_the_autoencoder() -> None:
    backbone = tiny_backbone()
    untrained, again = (features.with_random_weights(backbone) for _ in range(2))
    assert untrained.vae is backbone.vae  # type: ignore[attr-defined]
    weights = [model.unet.state_dict() for model in (backbone, untrained, again)]  # type: ignore[attr-defined]
    assert {name: value.shape for name, value in weights[0].items()} == {n: v.shape for n, v in weights[1].items()}
    assert not weights[0]["conv_in.weight"].equal(weights[1]["conv_in.weight"])
    assert all(value.equal(weights[2][name]) for name, value in weights[1].items())


def test_the_command_prints_every_method_and_task(data: Path) -> None:
    app = typer.Typer()
    app.command()(features.main)
    sets = ["--set", "ingest.size=64", "--set", "segment.clusters=2"]
    result = CliRunner().invoke(app, ["--data", str(data), "--json", *sets])
    assert result.exit_code == 0, result.output
    printed = json.loads(result.stdout)
    assert list(printed["clips"]) == ["toy/square"]  # one label map is too few to score
    asked = {"compact", "encoder", "fused", "random", "latents", "rgb", "rgb_position", "static"}
    for scores in (printed["mean"], printed["clips"]["toy/square"]):
        assert asked <= set(scores)
        for method in asked:
            assert 0 <= scores[method]["propagation"]["miou"] <= 1
            assert scores[method]["protocol"]["vc8"] is None  # no window of eight frames in three


def test_a_folder_without_clips_is_refused(tmp_path: Path) -> None:
    with pytest.raises(typer.BadParameter, match=r"no <data set>/<sequence> with frames/ and two or more"):
        features.main(tmp_path)


def test_the_response_is_averaged_inside_and_outside_the_segment() -> None:
    plus = np.zeros((3, 32, 32), np.float32)
    plus[0, :16, :16] = 2 / 127.5  # two grey levels in one channel of one quarter
    plus[:, 16:] = 1 / 127.5
    (group,) = alone([Region(0, np.array([[1, 0], [0, 0]], bool))])
    images = torch.from_numpy(plus), torch.zeros(plus.shape)
    response = modulation.contrast(Response(0, group, *images))
    assert response.inside == pytest.approx(2.0)
    assert response.outside == pytest.approx(3**0.5 * 2 / 3)


def test_coarse_ground_truth_enlarged_by_nearest_is_perfect_on_the_grid() -> None:
    runner = Runner(tiny_backbone(), moving_square(), 2)
    settings = load(None, ["upsample.method=nearest", "diffusion.guidance=1"])
    perfect = modulation.quality(runner, settings, "truth")
    assert perfect == modulation.Quality(1.0, 1.0)


def test_ignored_tokens_take_the_nearest_class() -> None:
    clip = moving_square()
    truth = clip.truth.copy()
    truth[:, :, 240:] = 255
    classes = ScoredClasses(clip.classes.names, (255,))
    runner = Runner(tiny_backbone(), LabelledClip("void", clip.frames, truth, clip.positions, classes), 2)
    planes = modulation.truth_planes(runner, load(None))
    assert np.array_equal(planes, clip.truth[[0, FRAMES - 1], 8::16, 8::16])


@pytest.mark.parametrize("text", ["no colon", "name only:"])
def test_a_malformed_variant_is_refused(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="expected NAME: SECTION.KEY=VALUE"):
        modulation.parse_variant(text)

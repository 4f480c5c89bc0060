"""Masked modulation of a video model's windows, and what a kept window shares with its variants."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.backbone import Box, Conditioning, Share
from pipeline.backbone.attention import recorded_outputs
from pipeline.backbone.local_decoding import MARGIN
from pipeline.backbone.midway import deep_level, second_part
from pipeline.backbone.small_decoder import load_small_decoder
from pipeline.backbone.video.model import StableVideoDiffusion
from pipeline.backbone.video.schedule import VideoStep
from pipeline.backbone.video.variants import NetworkInput
from pipeline.errors import UsageError
from pipeline.features.diffusion import condition
from pipeline.parameters import DiffusionParams, UpsampleFast, UpsampleParams, UpsampleVideo
from pipeline.upsampling.responses import Passes
from pipeline.upsampling.rules import EXACT, Rules
from pipeline.upsampling.upsample import Inputs, upsample
from tests.support import tiny_video
from tests.support.params import make_rules
from tests.support.tiny import save_small_decoder

DIFFUSION = DiffusionParams(start_step=23, guidance=2.5)
MODULATION = make_rules(
    DIFFUSION, block=8, modulate_step=23, blend_last_step=24, mask_resize="nearest", attention="self_spatial_temporal"
)
SIZE = (60, 60)
#: Label 2 appears in the second frame; 0 is absent from the last.
COARSE = np.zeros((3, 4, 4), np.int64)
COARSE[:, :, 2:] = 1
COARSE[1:, :, 3] = 2
COARSE[2, :, :2] = 1


@pytest.fixture(scope="module")
def backbone() -> StableVideoDiffusion:
    return tiny_video.make_backbone()


@pytest.fixture(scope="module")
def frames() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), np.uint8)


@pytest.fixture(scope="module")
def start() -> Tensor:
    return torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def conditioning(backbone: StableVideoDiffusion, frames: np.ndarray) -> Conditioning:
    return condition(backbone, frames[0], 0, DIFFUSION)


@pytest.mark.parametrize("conditional", [False, True])
def test_the_parts_of_a_pass_are_the_networks_own(
    backbone: StableVideoDiffusion, conditioning: Conditioning, start: Tensor, conditional: bool
) -> None:
    move = VideoStep.of(backbone.schedule(25), 20, 1.0, 3)
    windows = torch.stack([start, start + 1])
    whole = NetworkInput.of(backbone.unet, windows, move, conditioning, conditional)
    with torch.inference_mode():
        with recorded_outputs([deep_level(backbone.unet)]) as deep:
            expected = whole.output(backbone.unet)
        for block in (3, 8, 11):
            parted = second_part(backbone.unet, whole.first_part(backbone.unet, block)).unflatten(0, (2, 3))
            torch.testing.assert_close(parted, expected, rtol=0, atol=1e-5)
        torch.testing.assert_close(whole.top_level(backbone.unet, *deep), expected, rtol=0, atol=1e-5)


def test_the_top_level_alone_is_the_pass_when_nothing_below_changes(
    backbone: StableVideoDiffusion, conditioning: Conditioning, start: Tensor
) -> None:
    schedule, scales = backbone.schedule(25), (1.0, 1.5, 2.0)
    clean = backbone.denoise_repeatably(start, 22, schedule, scales, Share(True, deep=True), conditioning=conditioning)
    variants = clean.repeatable.variants(range(3))
    same = variants.denoise(start.repeat(2, 1, 1, 1), [0, 1, 2] * 2)
    torch.testing.assert_close(same, clean.latents.repeat(2, 1, 1, 1), atol=1e-5, rtol=1e-5)
    moved = variants.denoise(start + 0.1, range(3))
    own = backbone.denoise(start + 0.1, 22, schedule, scales, conditioning=conditioning).latents
    assert (moved - clean.latents).abs().mean() > 0.01
    assert 0 < (moved - own).abs().max() < (moved - clean.latents).abs().max()


def labels_of(
    backbone: StableVideoDiffusion, start: Tensor, conditioning: Conditioning, frames: np.ndarray,
    fast: UpsampleFast = EXACT, **more: Any,
) -> np.ndarray:  # fmt: skip
    video = UpsampleVideo("self_spatial_temporal", more.pop("decode", "single"))
    rules = Rules(DIFFUSION, replace(MODULATION.upsample, mode="fast", fast=fast, video=video))
    passes = Passes(more.pop("batch", 6), together=3, **more)
    found = upsample(backbone, Inputs(start, COARSE, frames, conditioning), SIZE, rules, passes)
    return np.stack([frame.labels for frame in found])


def test_labels_do_not_depend_on_the_batch_nor_on_which_frames_are_asked_for(
    backbone: StableVideoDiffusion, start: Tensor, conditioning: Conditioning, frames: np.ndarray
) -> None:
    given = start, conditioning, frames
    labels = labels_of(backbone, *given)
    assert labels.shape == (3, *SIZE)
    assert (labels_of(backbone, *given, batch=1) == labels).mean() >= 0.999
    np.testing.assert_array_equal(labels_of(backbone, *given, first=2), labels[2:])


def test_frames_that_are_decoded_together_come_in_order(
    backbone: StableVideoDiffusion, start: Tensor, conditioning: Conditioning, frames: np.ndarray
) -> None:
    given = start, conditioning, frames
    joint = labels_of(backbone, *given, decode="joint")
    for plane, coarse in zip(joint, COARSE, strict=True):
        assert set(np.unique(plane)) == set(np.unique(coarse))
    np.testing.assert_array_equal(labels_of(backbone, *given, decode="joint", first=1), joint[1:])
    plus = labels_of(backbone, *given, replace(EXACT, signs="plus"), decode="joint")
    assert plus.shape == joint.shape and (plus != joint).any()


@pytest.mark.parametrize(
    "change",
    [{"signs": "plus"}, {"steps": 1}, {"groups": "labels"}, {"groups": "parts"}, {"decode": "latent"},
     {"decode": "box"}, {"decode": "box", "signs": "plus"}, {"decode": "small"}, {"deep": "clean"}, {"guidance": 1.0}],
    ids=str,
)  # fmt: skip
def test_each_approximation_gives_labels_of_its_own(
    backbone: StableVideoDiffusion, start: Tensor, conditioning: Conditioning, frames: np.ndarray, tmp_path: Path,
    change: dict[str, Any],
) -> None:  # fmt: skip
    small = load_small_decoder(save_small_decoder(tmp_path / "small"), torch.device("cpu"))
    given = start, conditioning, frames
    labels = labels_of(backbone, *given, replace(EXACT, **change), small=small)
    for plane, coarse in zip(labels, COARSE, strict=True):
        assert set(np.unique(plane)) <= set(np.unique(coarse))
    assert (labels != labels_of(backbone, *given, EXACT)).any()


def test_groups_of_touching_labels_are_the_labels(
    backbone: StableVideoDiffusion, start: Tensor, conditioning: Conditioning, frames: np.ndarray
) -> None:
    given = start, conditioning, frames
    wide = labels_of(backbone, *given, replace(EXACT, groups="labels", gap=2))  # no two are so far apart
    np.testing.assert_array_equal(wide, labels_of(backbone, *given, EXACT))


def test_a_box_is_decoded_as_in_the_whole(backbone: StableVideoDiffusion) -> None:
    latents = torch.randn(1, 4, 24, 24, generator=torch.Generator().manual_seed(0))
    decoder = backbone.part_decoder(latents)
    torch.testing.assert_close(decoder.whole, backbone.decode(latents))
    torch.testing.assert_close(decoder.part(latents[0], Box(0, 24, 0, 24)), decoder.whole[0], atol=1e-4, rtol=1e-4)
    box = Box(9, 14, 8, 17)
    part, expected, wide = (
        decoder.part(latents[0], box),
        box.scaled(8).of(decoder.whole[0]),
        box.grown(MARGIN, (24, 24)),
    )
    cut_out = backbone.decode(wide.of(latents))[0, :, 8 * MARGIN : -8 * MARGIN, 8 * MARGIN : -8 * MARGIN]
    assert (part - expected).abs().max() < 0.5 * (cut_out - expected).abs().max()


@pytest.mark.parametrize("decode", ["latent", "small", "box"])
def test_frames_that_are_not_decoded_whole_cannot_be_decoded_together(
    backbone: StableVideoDiffusion, decode: str
) -> None:
    video = UpsampleVideo("self_spatial", "joint")
    params = UpsampleParams(mode="fast", fast=UpsampleFast(decode=decode), video=video)
    message = f"upsample.video.decode is joint, but upsample.fast.decode = {decode} takes frames"
    with pytest.raises(UsageError, match=message):
        Rules(DIFFUSION, params).check_backbone(backbone)
    Rules(DIFFUSION, replace(params, fast=UpsampleFast(decode="full"))).check_backbone(backbone)

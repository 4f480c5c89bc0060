"""Masked modulation to labels: exact as the plain schedule, and what each approximation computes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.backbone import Share
from pipeline.backbone.image.model import StableDiffusion
from pipeline.backbone.small_decoder import load_small_decoder
from pipeline.datasets.sample import make_sample
from pipeline.errors import DataError
from pipeline.features.diffusion import clean_pass
from pipeline.parameters import BackboneParams, DiffusionParams
from pipeline.upsampling.label_groups import Region, alone
from pipeline.upsampling.labelling import LabelledFrame, label_frame
from pipeline.upsampling.modulation import to_share
from pipeline.upsampling.responses import Passes, Response, calls, responses, windows_of
from pipeline.upsampling.rules import EXACT, Rules
from pipeline.upsampling.upsample import Inputs, shown_map, upsample
from stages.common import backbones
from tests.support import tiny
from tests.support.commands import error_line, vidseg, write_frames
from tests.support.params import make_rules
from tests.support.plain import plain_modulated
from tests.support.tiny import save_small_decoder

DIFFUSION = DiffusionParams(guidance=5.0)
#: The fast mode with nothing approximated.
NOTHING = {"mode": "fast", "fast": EXACT}
SIZE = (70, 134)
PLANE = np.array(
    [
        [0, 0, 1, 1, 2, 2, 2, 2],
        [0, 0, 1, 1, 2, 2, 2, 2],
        [0, 0, 1, 1, 2, 2, 0, 0],
        [3, 3, 3, 3, 3, 3, 0, 0],
    ]
)


GUIDES = np.random.default_rng(0).integers(0, 256, (2, 64, 128, 3), np.uint8)


@pytest.fixture(scope="module")
def backbone() -> StableDiffusion:
    return StableDiffusion(tiny.make_unet(), tiny.make_vae(), tiny.make_context(), "tiny", "hash")


@pytest.fixture(scope="module")
def start() -> torch.Tensor:
    return torch.randn(2, 4, 8, 16, generator=torch.Generator().manual_seed(0))


def run(
    backbone: StableDiffusion, start: torch.Tensor, coarse: np.ndarray, rules: Rules, batch: int = 4, **more: Any
) -> list[LabelledFrame]:
    inputs = Inputs(start[: len(coarse)], coarse, GUIDES[: len(coarse)])
    return list(upsample(backbone, inputs, SIZE, rules, Passes(batch, **more)))


def labels_of(backbone: StableDiffusion, start: torch.Tensor, small: Any = None, **values: Any) -> np.ndarray:
    planes = np.stack([PLANE, PLANE[:, ::-1]])
    return np.stack([f.labels for f in run(backbone, start, planes, make_rules(DIFFUSION, **values), small=small)])


# What is modulated together


def test_windows_are_the_labels_of_each_frame_with_both_signs() -> None:
    coarse, rules = np.array([[[0, 3]], [[3, 3]], [[1, 2]]]), make_rules(DIFFUSION)
    windows = windows_of(coarse, rules, Passes(batch=8))
    assert [(window.frames, [group.labels for group in window.groups]) for window in windows] == [
        (range(1), [[0], [3]]), (range(1, 2), [[3]]), (range(2, 3), [[1], [2]]),
    ]  # fmt: skip
    late = windows_of(coarse, rules, Passes(batch=8, first=1))
    assert [window.frames for window in late] == [range(1, 2), range(2, 3)]
    (whole,) = windows_of(coarse, rules, Passes(batch=8, together=3, first=1))
    assert (whole.frames, whole.asked) == (range(3), range(1, 3))
    assert [group.labels for group in whole.groups] == [[1], [2], [3]]  # 0 is in no frame that is asked for


@pytest.mark.parametrize(
    ("batch", "expected"), [(1, [(0, 1), (1, 2), (2, 3)]), (4, [(0, 1), (1, 3)]), (5, [(0, 2), (2, 3)]), (64, [(0, 3)])]
)
def test_a_call_holds_whole_frames_that_fill_a_batch(batch: int, expected: list[tuple[int, int]]) -> None:
    coarse, rules = np.array([[[0, 3]], [[3, 3]], [[1, 2]]]), make_rules(DIFFUSION)
    windows = windows_of(coarse, rules, Passes(batch))
    assert [(part.start, part.stop) for part in calls(windows, rules, batch)] == expected


# The exact mode


def test_absent_labels_never_compete_and_one_label_fills_the_frame(
    backbone: StableDiffusion, start: torch.Tensor
) -> None:
    coarse = np.zeros((2, 4, 8), np.uint8)
    coarse[0, :, 4:] = 9
    first, second = run(backbone, start, coarse, make_rules(DIFFUSION))
    assert set(np.unique(first.labels)) <= {0, 9}
    assert sorted(first.differences) == [0, 9]
    assert (second.labels == 0).all()


def test_modulated_labels_agree_with_the_coarse_map_inside_regions(
    backbone: StableDiffusion, start: torch.Tensor
) -> None:
    coarse = np.zeros((1, 4, 8), np.uint8)
    coarse[0, :, 4:] = 9
    labels = run(backbone, start, coarse, make_rules(DiffusionParams(guidance=1.0)))[0].labels
    assert (labels[:, :50] == 0).mean() > 0.7
    assert (labels[:, 84:] == 9).mean() > 0.7


@pytest.mark.parametrize("batch", [1, 3, 64])
def test_labels_do_not_depend_on_the_batch(backbone: StableDiffusion, start: torch.Tensor, batch: int) -> None:
    coarse = np.random.default_rng(0).integers(0, 3, (2, 4, 8)).astype(np.uint8)
    rules = make_rules(DiffusionParams(guidance=1.0))
    frames = run(backbone, start, coarse, rules, batch=2), run(backbone, start, coarse, rules, batch)
    for one, other in zip(*frames, strict=True):
        assert (one.labels == other.labels).mean() > 0.999


@pytest.mark.parametrize("guidance", [1.0, 5.0])
def test_labels_of_the_embedded_model_are_those_of_the_plain_schedule(guidance: float) -> None:
    """Sharing what labels have in common changes rounding only: pixels at ties of two labels."""
    backbone = backbones.load_backbone(BackboneParams(dtype="float32"))
    assert isinstance(backbone, StableDiffusion)
    guides = make_sample(frames=1).frames[:, 64:128, 96:224]
    start = backbone.encode(guides)
    coarse = np.zeros((1, 4, 8), np.int64)
    coarse[0, 1:, 2:5], coarse[0, 2:, 6:] = 3, 7
    rules, size = make_rules(DiffusionParams(guidance=guidance)), (120, 240)
    result = next(upsample(backbone, Inputs(start, coarse, guides), size, rules, Passes(batch=4)))
    shown = []
    for label in (0, 3, 7):
        mask = coarse[0] == label
        tokens = torch.from_numpy(mask).float()
        images = [backbone.decode(plain_modulated(backbone, start, tokens, sign, rules))[0] for sign in (1.0, -1.0)]
        shown.append(shown_map(Response(0, *alone([Region(label, mask)]), *images), guides[0], size, rules))
    expected = label_frame(shown, coarse[0], size, rules.upsample)
    assert set(np.unique(expected.labels)) == {0, 3, 7}
    assert (result.labels == expected.labels).mean() >= 0.999
    for label, values in expected.differences.items():
        np.testing.assert_allclose(result.differences[label], values, atol=1e-2)  # 1e-3 with one processor, not all


def test_images_that_are_not_finite_are_refused(backbone: StableDiffusion, start: torch.Tensor) -> None:
    rules = make_rules(DIFFUSION)
    clean = clean_pass(backbone, start, rules.denoising, share=to_share(rules))
    clean = replace(clean, states={step: torch.full_like(state, torch.nan) for step, state in clean.states.items()})
    with pytest.raises(DataError, match="modulated images of frame 0 of this batch have NaN or infinite values"):
        list(responses(backbone, clean, PLANE[None], rules, Passes(batch=4)))


# Approximations


def test_the_fast_mode_approximates_what_its_group_says_and_the_exact_mode_nothing() -> None:
    assert make_rules(DIFFUSION, **NOTHING).fast == make_rules(DIFFUSION, mode="exact").fast == EXACT
    assert make_rules(DIFFUSION, mode="fast").fast != EXACT


@pytest.mark.parametrize(
    "change",
    [{"signs": "plus"}, {"steps": 1}, {"groups": "parts"}, {"decode": "latent"},
     {"deep": "clean"}, {"guidance": 1.0}],
    ids=str,
)  # fmt: skip
def test_each_approximation_changes_something_and_labels_stay_in_the_map(
    backbone: StableDiffusion, start: torch.Tensor, change: dict[str, object]
) -> None:
    labels = labels_of(backbone, start, mode="fast", fast=replace(EXACT, **change))  # type: ignore[arg-type]
    assert labels.shape == (2, *SIZE)
    assert set(np.unique(labels)) <= set(np.unique(PLANE))
    assert (labels != labels_of(backbone, start, **NOTHING)).any()


def test_a_frame_of_one_label_has_just_that(backbone: StableDiffusion, start: torch.Tensor) -> None:
    (frame,) = run(backbone, start, np.full((1, 4, 8), 7), make_rules(DIFFUSION, mode="fast"))
    assert np.unique(frame.labels).tolist() == [7]


@pytest.mark.parametrize(("steps", "run"), [(1, (22,)), (2, (22, 24)), (3, (22, 23, 24)), (9, (22, 23, 24))])
def test_fewer_steps_go_all_the_way(backbone: StableDiffusion, steps: int, run: tuple[int, ...]) -> None:
    rules = make_rules(DIFFUSION, mode="fast", fast=replace(EXACT, steps=steps))
    assert rules.steps == run
    sigmas = backbone.schedule(25).sigmas
    shortened = backbone.schedule(25).without(rules.skip).sigmas
    ends = [float(shortened[step + 1]) for step in run]
    assert ends == [float(sigmas[step]) for step in run[1:]] + [0.0]


def test_the_top_level_alone_is_the_pass_when_nothing_below_changes(
    backbone: StableDiffusion, start: torch.Tensor
) -> None:
    schedule = backbone.schedule(25)
    clean = backbone.denoise_repeatably(start, 23, schedule, 5.0, Share(attention=True, deep=True))
    variants = clean.repeatable.variants({0, 1})
    same = variants.denoise(start[[1, 0, 1]], [1, 0, 1])
    torch.testing.assert_close(same, clean.latents[[1, 0, 1]], atol=2e-5, rtol=1e-4)
    moved = variants.denoise(start[[1]] + 0.1, [1])
    assert (moved - clean.latents[[1]]).abs().mean() > 0.01


@pytest.mark.parametrize("signs", ["both", "plus"])
@pytest.mark.parametrize("decode", ["box", "small"])
def test_parts_and_small_images_give_labels(
    backbone: StableDiffusion, start: torch.Tensor, tmp_path: Path, decode: str, signs: str
) -> None:
    small = load_small_decoder(save_small_decoder(tmp_path / "small"), torch.device("cpu"))
    fast = replace(EXACT, decode=decode, signs=signs)  # type: ignore[arg-type]
    labels = labels_of(backbone, start, small, mode="fast", fast=fast)
    assert labels.shape == (2, *SIZE)


# The stage


def options(model: Path, *more: str) -> list[str]:
    quick = (f"backbone.path={model}", "ingest.size=native", "segment.clusters=3")
    sets = (*quick, "upsample.method=modulation", "upsample.mode=fast", *more)
    return [word for text in sets for word in ("--set", text)]


def test_the_stage_runs_fast_and_its_levers_count_for_the_fingerprint(
    tiny_model: Path, tmp_path: Path, rng: np.random.Generator
) -> None:
    import zarr

    frames = write_frames(tmp_path / "frames", rng.integers(0, 256, (3, 64, 64, 3), np.uint8))
    marks = set()
    for lever in ("fast.decode=latent", "fast.decode=box", "mode=exact"):
        out = tmp_path / lever
        vidseg("run", frames, "-o", out, *options(tiny_model, f"upsample.{lever}", "render.extras=false"))
        store = zarr.open_group(out / "artifacts" / "labels.zarr", mode="r")
        assert store["labels"].shape == (3, 64, 64)
        marks.add(store.attrs["fingerprint"])
    assert len(marks) == 3


def test_the_small_decoder_must_be_named(tiny_model: Path, tmp_path: Path, rng: np.random.Generator) -> None:
    frames = write_frames(tmp_path / "frames", rng.integers(0, 256, (2, 64, 64, 3), np.uint8))
    command = ("run", frames, "-o", tmp_path / "out", *options(tiny_model, "upsample.fast.decode=small"))
    assert "needs upsample.fast.small_decoder" in error_line(vidseg(*command, check=2))
    assert not (tmp_path / "out").exists()  # refused before anything was computed

"""`vidseg cost`: counting, and what is counted against what is there."""

from __future__ import annotations

import json
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.backbone.image.model import StableDiffusion
from pipeline.backbone.outline import filled
from pipeline.cost import counting, timing
from pipeline.cost.timing import Costs, calibrate
from pipeline.encoder.efficientnet import EfficientNetLite0
from pipeline.parameters import DiffusionParams
from pipeline.upsampling.rules import Rules
from stages.commands.cost import workload
from stages.common import backbones
from stages.common.settings import Settings, load
from tests.support import tiny, tiny_encoder
from tests.support.commands import error_line, vidseg, write_frames
from tests.support.params import make_rules

SIZE = (448, 832)
LABELS = 20
DIFFUSION = DiffusionParams(guidance=1.0)
#: TFLOP of SD 2.1 at that size: the network for one frame and half, and the decoder.
UNET, DECODER = 1.215, 3.596


def sd21(*sets: str) -> Settings:
    return load(None, ["backbone.name=sd21", *sets])


@pytest.fixture(scope="module")
def outline() -> StableDiffusion:
    return backbones.outline(sd21()["backbone"])


def plain_schedule(guidance: float) -> float:
    """TFLOP per frame when nothing is shared: every label and sign runs all three steps and is decoded."""
    halves = 1 if guidance == 1 else 2
    return 2 * LABELS * (3 * halves * UNET + DECODER)


def test_a_multiplication_with_its_addition_counts_twice(outline: StableDiffusion) -> None:
    latents = torch.empty(1, 4, *(side // 8 for side in SIZE), device="meta")
    _, unet = counting.flops_of(lambda: outline.denoise(latents, 22, outline.schedule(25), 1.0))
    _, decoder = counting.flops_of(lambda: outline.decode(latents))
    assert unet / 1e12 == pytest.approx(UNET, abs=1e-3)
    assert decoder / 1e12 == pytest.approx(DECODER, abs=1e-3)
    assert plain_schedule(5.0) == pytest.approx(435, abs=1)


@pytest.mark.parametrize(("guidance", "most"), [(1.0, 261.0), pytest.param(5.0, 391.0, marks=pytest.mark.slow)])
def test_exact_mode_shares_what_labels_have_in_common(guidance: float, most: float) -> None:
    operations = exact_operations(guidance)
    assert operations["decode"] / 1e12 == pytest.approx(2 * LABELS * DECODER, rel=1e-3)
    assert sum(operations.values()) / 1e12 <= most < plain_schedule(guidance)


EXACT_LEVERS = tuple(
    f"upsample.{setting}"
    for setting in (
        *("mode=fast", "fast.guidance=null", "fast.steps=99"),
        *("fast.groups=single", "fast.decode=full", "fast.deep=own"),
    )
)
LEVERS_BASE = ("diffusion.guidance=1", f"segment.clusters={LABELS}")


@cache
def exact_operations(guidance: float) -> dict[str, float]:
    """Operations per frame of `upsample`, by kind; counting all of SD 2.1's takes seconds."""
    settings = sd21(f"diffusion.guidance={guidance}", f"segment.clusters={LABELS}")
    return counting.flops_per_frame(backbones.outline(settings["backbone"]), workload(settings, SIZE, SIZE))["upsample"]


@pytest.mark.parametrize(
    ("changes", "at_most"),
    [
        pytest.param((), 1.0, marks=pytest.mark.slow),  # no approximation costs what the exact mode costs
        pytest.param(("fast.deep=clean",), 0.79, marks=pytest.mark.slow),
        pytest.param(("fast.steps=2",), 0.82, marks=pytest.mark.slow),
        pytest.param(("fast.signs=plus",), 0.53, marks=pytest.mark.slow),
        (("fast.groups=labels",), 0.32),
        pytest.param(("fast.decode=box",), 0.59, marks=pytest.mark.slow),
        pytest.param(("fast.decode=small",), 0.46, marks=pytest.mark.slow),
        pytest.param(("fast.decode=latent",), 0.43, marks=pytest.mark.slow),
    ],
)
def test_each_lever_of_the_fast_mode_saves(outline: StableDiffusion, changes: tuple[str, ...], at_most: float) -> None:
    levers = (*EXACT_LEVERS, *(f"upsample.{change}" for change in changes))
    found = counting.flops_per_frame(outline, workload(sd21(*LEVERS_BASE, *levers), SIZE, SIZE))["upsample"]
    exact = sum(exact_operations(1.0).values())
    assert at_most - 0.03 <= sum(found.values()) / exact <= at_most + 1e-9


def test_the_fast_mode_costs_a_thirtieth(outline: StableDiffusion) -> None:
    settings = sd21("upsample.mode=fast", f"segment.clusters={LABELS}")
    operations = counting.flops_per_frame(outline, workload(settings, SIZE, SIZE))["upsample"]
    assert sum(operations.values()) / 1e12 <= 14.5


@pytest.mark.parametrize(
    ("work", "values"),
    [
        (lambda start: start + 1, 100),
        (lambda start: (start + 1) + 1, 200),
        (lambda start: ((start + 1) + 1) + 1, 200),
        (lambda start: torch.cat([start + 1, start + 2]), 400),
        (lambda start: (start + 1).reshape(10, 10).t(), 100),
        (lambda start: start, 0),
    ],
)
def test_peak_is_what_is_alive_at_once(work: object, values: int) -> None:
    start = torch.empty(100, device="meta")
    assert counting.peak_of(lambda: work(start)) == 4 * values  # type: ignore[operator]


#: One step of each pass: counting all of a small model takes seconds as well.
ONE_STEP = ("diffusion.start_step=24", "upsample.modulate_step=24", "upsample.parity.blend_last_step=24")


def options(model: Path, *more: str) -> list[str]:
    sets = (f"backbone.path={model}", "ingest.size=native", "learn.size=64", "upsample.method=modulation", *more)
    return [word for text in sets for word in ("--set", text)]


def test_every_stage_as_json(tiny_model: Path) -> None:
    printed = vidseg("cost", "--size", "66x130", "--labels", 2, "--json", *options(tiny_model, *ONE_STEP)).stdout
    found = json.loads(printed)
    assert found["model_size"] == [64, 128]
    assert found["labels"] == 2
    assert list(found["stages"]) == ["ingest", "extract", "correspond", "segment", "upsample"]
    for stage in ("extract", "upsample"):
        assert all(
            found["stages"][stage][name] > 0
            for name in ("tflop_per_frame", "memory_gb", "cache_bytes_per_frame", "seconds_per_frame")
        )
    assert found["stages"]["ingest"] == {"cache_bytes_per_frame": 3 * 64 * 128}
    assert found["learn"]["seconds_per_step"] > 0 and found["apply"]["seconds_per_frame"] > 0
    assert found["apply"]["model_size"] == [64, 128]


def test_without_modulation_the_table_counts_extract_only(tiny_model: Path) -> None:
    arguments = ("cost", "--size", "64x64", "--labels", 12, "--no-time")
    given = options(tiny_model, "upsample.method=nearest")
    heading, table, shown = vidseg(*arguments, *given).stdout.split("\n\n")
    titles, *lines = table.splitlines()
    assert "64x64, 12 labels, guidance 1, float32 on cpu" in heading
    assert shown.startswith("segments that are shown:\nlearn ") and "seconds" not in shown
    assert "apply  at 64x64: " in shown
    assert titles.split() == ["stage", "TFLOP", "memory", "GB", "cache", "MB", "seconds"]
    rows = {line.split()[0]: line.split()[1:] for line in lines}
    assert list(rows) == ["ingest", "extract", "correspond", "segment", "upsample", "all"]
    assert [name for name, cells in rows.items() if cells[0] != "-"] == ["extract", "all"]
    assert rows["ingest"] == ["-", "-", "0.012", "-"]


def test_the_table_says_with_which_guidance_upsample_is_counted(tiny_model: Path) -> None:
    sets = "diffusion.guidance=5", "upsample.mode=fast", "upsample.fast.guidance=1"
    heading = vidseg(
        "cost", "--size", "64x64", "--no-time", *options(tiny_model, *sets, *ONE_STEP)
    ).stdout.splitlines()[0]
    assert "guidance 5 (upsample: 1), float32" in heading


# The image encoder


def test_the_encoder_costs_what_is_published() -> None:
    """407 million for 224x224 pixels, where a multiplication with its addition counts as one, and all else too."""
    network, pixels = EfficientNetLite0().to("meta"), torch.empty(1, 3, 224, 224, device="meta")
    assert counting.flops_of(lambda: network(pixels))[1] == pytest.approx(2 * 407e6, rel=0.06)


def of_extract(model: Path, *sets: str) -> dict[str, Any]:
    """What is counted of extract for 64x128 pixels: its operations, peak and bytes, without the backbone's weights."""
    given = (f"backbone.path={model}", "extract.encoder_scale=2", "extract.start_step=24", "upsample.method=nearest")
    settings = load(None, [*given, *sets])
    outline, load_ = backbones.outline(settings["backbone"]), workload(settings, (64, 128), (64, 128))
    return {
        **counting.flops_per_frame(outline, load_)["extract"],
        "peak": counting.peak_bytes(outline, load_)["extract"],
        "cache": counting.cache_bytes(outline, load_, "float16")["extract"],
    }


def test_the_encoder_s_part_of_extract(tiny_model: Path) -> None:
    without, found = of_extract(tiny_model, "extract.encoder=none"), of_extract(tiny_model)
    assert "encoder" not in without
    assert {name: found[name] for name in ("encode", "denoise")} == {
        name: without[name] for name in ("encode", "denoise")
    }
    # The blocks that are read, for pixels four times as many.
    assert found["encoder"] == pytest.approx(2 * 407e6 * 4 * 64 * 128 / 224**2, rel=0.15)
    assert found["peak"] > without["peak"]
    assert found["cache"] - without["cache"] == 32 * 128 * 2
    alone = of_extract(tiny_model, "extract.parts=encoder")
    assert alone["encoder"] == found["encoder"] and alone["encode"] == found["encode"] and "denoise" not in alone
    assert found["cache"] - alone["cache"] == 2 * 32 * 16 * 2


def test_margins_cost_their_area_and_the_latents_without_them(tiny_model: Path) -> None:
    """Beside the margins the encoder of the autoencoder sees the frame itself."""
    found, wide = of_extract(tiny_model), of_extract(tiny_model, "extract.padding=reflect", "extract.padding_pixels=32")
    area = 128 * 192 / (64 * 128)
    assert wide["encoder"] == pytest.approx(area * found["encoder"], rel=0.02)
    assert wide["encode"] == pytest.approx((area + 1) * found["encode"], rel=0.1)
    assert wide["denoise"] > area * found["denoise"]
    assert wide["peak"] > found["peak"] and wide["cache"] == found["cache"]


def test_a_vision_transformer_is_counted_and_timed(tiny_model: Path, tmp_path: Path) -> None:
    folder = tiny_encoder.save_dinov2(tmp_path)
    sets = options(tiny_model, f"extract.encoder={folder}", "upsample.method=nearest", "diffusion.start_step=24")
    found = json.loads(vidseg("cost", "--size", "64x64", "--json", *sets).stdout)
    assert found["encoder"] == str(folder)
    assert found["stages"]["extract"]["cache_bytes_per_frame"] == 16 * 3 * 16 * 2 + 4 * 8 * 8 * 4
    assert found["stages"]["extract"]["seconds_per_frame"] > 0


def test_cache_bytes_are_those_of_the_stores(tiny_model: Path, tmp_path: Path, rng: np.random.Generator) -> None:
    import zarr

    frames = write_frames(tmp_path / "frames", rng.integers(0, 256, (3, 66, 130, 3), np.uint8))
    sets = options(tiny_model, "segment.clusters=3", "upsample.method=nearest")
    vidseg("run", frames, "-o", tmp_path / "out", *sets)
    stores = {"ingest": ["clip"], "extract": ["features", "latents"], "segment": ["coarse"], "upsample": ["labels"]}
    settings = load(None, sets[1::2])
    outline = backbones.outline(settings["backbone"])
    expected = counting.cache_bytes(outline, workload(settings, (64, 128), (66, 130)), settings["extract"].dtype)
    for stage, names in stores.items():
        groups = [zarr.open_group(tmp_path / "out" / "artifacts" / f"{name}.zarr", mode="r") for name in names]
        assert sum(array.nbytes for group in groups for _, array in group.arrays()) == 3 * expected[stage], stage


def test_seconds_of_a_stage_are_those_of_its_parts() -> None:
    costs = Costs(encode=1.0, clean=2.0, modulate=3.0, decode=4.0)
    assert costs.extract == 3
    assert costs.upsample(samples=10) == 2 + 10 * 7
    assert Costs(encode=1.0, clean=2.0).upsample(samples=0) == 0


@pytest.mark.parametrize(
    "rules", [None, make_rules(DIFFUSION), make_rules(DIFFUSION, mode="fast")], ids=["none", "exact", "fast"]
)
def test_calibration_ends_and_times_what_will_run(rules: Rules | None) -> None:
    backbone = StableDiffusion(tiny.make_unet(), tiny.make_vae(), tiny.make_context(), "tiny", "hash")
    costs = calibrate(backbone, (64, 192), DIFFUSION, rules)
    assert costs.encode > 0 and costs.clean > 0
    assert (costs.modulate > 0 and costs.decode > 0) == (rules is not None)


def test_what_is_timed_has_the_precision_that_runs(tiny_model: Path) -> None:
    params = load(None, [f"backbone.path={tiny_model}", "backbone.dtype=bfloat16"])["backbone"]
    timed: Any = filled(backbones.outline(params), torch.device("cpu"))
    assert timed.unet.dtype == timed.context.dtype == torch.bfloat16 and timed.vae.dtype == torch.float32


@pytest.mark.parametrize(("frames", "largest"), [(1, (64, 64)), (1000, (64, 192))])
def test_a_short_clip_is_timed_by_smaller_frames(
    monkeypatch: pytest.MonkeyPatch, frames: int, largest: tuple[int, int]
) -> None:
    rounds: list[tuple[int, int]] = []

    def timed(backbone: object, size: tuple[int, int], *_: object) -> Costs:
        rounds.append(size)
        return Costs(encode=size[0] * size[1] / 1e6, clean=0.0)

    monkeypatch.setattr(timing, "_round", timed)
    backbone = StableDiffusion(tiny.make_unet(), tiny.make_vae(), tiny.make_context(), "tiny", "hash")
    costs = calibrate(backbone, (64, 192), DIFFUSION, None, frames=frames)
    assert rounds[-1] == largest and costs.encode == pytest.approx(64 * 192 / 1e6)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--size", "huge"], 2, "--size must be HxW in pixels, e.g. 480x854, not 'huge'"),
        (["--set", "backbone.path=nowhere.safetensors"], 4, "nowhere.safetensors: no such file"),
        (
            ["--set", "upsample.method=modulation", "--set", "upsample.modulate_step=3"],
            2,
            "upsample.modulate_step must be between",
        ),
    ],
)
def test_bad_input(arguments: list[str], code: int, message: str) -> None:
    assert message in error_line(vidseg("cost", *arguments, check=code))


@pytest.mark.parametrize("name", ["sd21", "svd"])
def test_a_model_of_the_other_family_is_refused(tiny_model: Path, tiny_video_model: Path, name: str) -> None:
    other = tiny_model if name == "svd" else tiny_video_model
    line = error_line(vidseg("cost", "--no-time", "--backbone", name, "--set", f"backbone.path={other}", check=4))
    assert f"but backbone.name = '{name}' needs a" in line


# Windows of a video model


@pytest.mark.slow
def test_the_plain_schedule_of_the_published_video_model() -> None:
    """Shapes, calls and operations of a window of 14 frames and 20 labels at 448x832."""
    settings = load(None, ["backbone.name=svd"])
    outline = backbones.outline(settings["backbone"])
    load_ = workload(settings, (448, 832), (448, 832))
    assert [outline.token_shape(block, (448, 832)) for block in (3, 7, 8, 11)] == [
        (14, 26, 1280), (28, 52, 640), (28, 52, 640), (56, 104, 320),
    ]  # fmt: skip
    assert counting.denoised_flops(outline, load_, load_.diffusion) == pytest.approx(5.26e13, rel=2e-3)
    assert counting.encoded_flops(outline, load_) == pytest.approx(1.61e12, rel=2e-3)
    assert counting.decoded_flops(outline, load_) == pytest.approx(4.35e12, rel=2e-3)
    plain = counting.plain_schedule(outline, load_)
    assert (plain.denoiser_calls, plain.decoded) == (328, 574)
    assert plain.flops == pytest.approx(1.98e16, rel=3e-3)


def test_every_stage_of_a_small_video_model(tiny_video_model: Path) -> None:
    given = ("backbone.name=svd", f"backbone.path={tiny_video_model}", "extract.frames_together=2", *ONE_STEP)
    options = [f"--set={text}" for text in given]
    found = json.loads(vidseg("cost", "--size", "64x64", "--labels", 2, "--json", "--no-time", *options).stdout)
    assert found["window"] == 2
    assert found["plain_schedule"]["denoiser_calls"] == 1 + 2 * 2  # one step
    for stage in ("extract", "upsample"):
        assert found["stages"][stage]["tflop_per_frame"] > 0 and found["stages"][stage]["memory_gb"] > 0
    # All that the plain schedule counts is run, and the clean pass twice: once to extract, once to modulate. What lies
    # before the modulated block labels share.
    whole = 2 * sum(found["stages"][stage]["tflop_per_frame"] for stage in ("extract", "upsample"))
    assert 0.7 < whole / found["plain_schedule"]["tflop_per_window"] < 1


@pytest.mark.slow
def test_levers_of_the_fast_mode_save_with_windows(tiny_video_model: Path) -> None:
    """Groups, box and small decoder are what they are for an image model."""
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
        costs[change] = sum(counting.flops_per_frame(outline, load_)["upsample"].values())
    reference = costs.pop("mode=exact")
    assert costs.pop("mode=fast") == reference
    assert all(cost < reference for cost in costs.values())


def test_parameters_of_an_image_model_are_refused_by_a_video_model(tiny_video_model: Path) -> None:
    given = ("backbone.name=svd", f"backbone.path={tiny_video_model}", "extract.frames_together=null")
    options = [f"--set={text}" for text in given]
    assert "extract.frames_together is null, but svd sees a window" in error_line(vidseg("cost", *options, check=2))


def test_an_image_encoder_that_does_not_fit_is_refused(tiny_video_model: Path, tmp_path: Path) -> None:
    """One that is missing is counted as the published one, whose embedding this denoiser does not read."""
    shutil.copytree(tiny_video_model, tmp_path / "model", ignore=shutil.ignore_patterns("image_encoder"))
    options = ["--no-time", "--backbone", "svd", "--set", f"backbone.path={tmp_path / 'model'}"]
    line = error_line(vidseg("cost", *options, check=4))
    assert "the image embedding has 1024 values, the denoiser needs 32; fetch image_encoder/" in line

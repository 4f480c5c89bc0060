"""clip.zarr to features and latents."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import DataError, UsageError
from pipeline.parameters import BackboneParams, DiffusionParams, ExtractParams
from pipeline.stores.feature_codec import encode, read_features
from pipeline.stores.schemas import FEATURES, LATENTS
from pipeline.stores.store import open_store
from stages import extract
from tests.support.commands import ENVIRONMENT, error_line, heed_interrupts, tree_bytes, vidseg
from tests.support.noise_clip import FRAMES

PARAMS = ExtractParams(shard=2)
DIFFUSION = DiffusionParams(guidance=1.0, batch=2)


def test_stores_and_their_attributes(tmp_path: Path, clip: Path, backbone: BackboneParams) -> None:
    path = extract.run(clip, tmp_path / "out", PARAMS, DIFFUSION, backbone)
    store = open_store(path, FEATURES)
    assert store.array("aggregated").shape == store.array("matching").shape == (FRAMES, 32, 16)
    assert store.array("aggregated").dtype == np.float16
    assert store.array("aggregated").shards == (2, 32, 16)
    assert store.attrs["grid"] == [4, 8]
    assert sorted(store.attrs["psnr"]) == ["0", "2", "4"]
    latents = open_store(path.parent / "latents.zarr", LATENTS)
    assert latents.array("latents").shape == (FRAMES, 4, 8, 16)
    assert latents.array("latents").dtype == np.float32
    np.testing.assert_allclose(np.abs(store.read("aggregated")).max(axis=-1), 1, rtol=1e-3)


def test_features_do_not_depend_on_range_batch_or_shard(tmp_path: Path, clip: Path, backbone: BackboneParams) -> None:
    one = extract.run(clip, tmp_path / "one", PARAMS, DIFFUSION, backbone)
    other = extract.run(clip, tmp_path / "other", replace(PARAMS, shard=4), replace(DIFFUSION, batch=3), backbone)
    for name in ("aggregated", "matching"):
        first, second = (open_store(path, FEATURES).read(name) for path in (one, other))
        last_place = np.spacing(np.maximum(np.abs(first), np.abs(second))).astype(np.float32)
        largest = np.abs(first).max(axis=-1, keepdims=True).astype(np.float32)
        difference = np.abs(first.astype(np.float32) - second.astype(np.float32))
        assert (difference <= last_place + 2.0**-16 * largest).all()  # docs/explanation/precision.md


def test_running_twice_does_nothing_and_a_parameter_starts_anew(
    tmp_path: Path, clip: Path, backbone: BackboneParams
) -> None:
    out = tmp_path / "out"
    path = extract.run(clip, out, PARAMS, DIFFUSION, backbone)
    before = path.stat().st_mtime_ns
    assert extract.run(clip, out, PARAMS, DIFFUSION, backbone).stat().st_mtime_ns == before
    mark = open_store(path, FEATURES).fingerprint
    extract.run(clip, out, PARAMS, replace(DIFFUSION, seed=1), backbone)
    assert open_store(path, FEATURES).fingerprint != mark


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-6), ("float16", 1e-3), ("int8", 5e-3)])
def test_encodings(tmp_path: Path, clip: Path, backbone: BackboneParams, dtype: str, tolerance: float) -> None:
    exact = extract.run(clip, tmp_path / "exact", replace(PARAMS, dtype="float32"), DIFFUSION, backbone)
    path = extract.run(clip, tmp_path / dtype, replace(PARAMS, dtype=dtype), DIFFUSION, backbone)
    for name in ("aggregated", "matching"):
        expected = open_store(exact, FEATURES).read(name)
        values = read_features(open_store(path, FEATURES), name)
        scale = np.abs(expected).max(axis=-1, keepdims=True)
        assert (np.abs(values - expected) / scale).max() <= tolerance


def test_int8_keeps_the_nearest_neighbours(rng: np.random.Generator) -> None:
    """The opt-in codec's parity gate: at least 99 % of the kNN labels stay."""
    from pipeline.segmentation import context

    centres = rng.standard_normal((6, 32)).astype(np.float32)
    labels = rng.integers(0, 6, 400)
    tokens = centres[labels] + 0.5 * rng.standard_normal((400, 32)).astype(np.float32)
    tokens = tokens[None] / np.abs(tokens).max(axis=-1)[None, :, None]
    coded = encode("x", tokens, "int8")
    decoded = coded["x"].astype(np.float32) * coded["x_scale"].astype(np.float32)[..., None]
    assert np.abs(decoded - tokens).max() <= 1 / 200
    memory, queries = tokens[:, :200], (tokens[:, 200:], decoded[:, 200:])
    memory_model = context.fit(memory, labels[None, :200])
    exact, lossy = (memory_model.predict(values, 4) for values in queries)
    assert (exact == lossy).mean() >= 0.99


def start_extract(clip: Path, out: Path, model: Path) -> subprocess.Popen[bytes]:
    arguments = ["extract", clip, out, "--set", "extract.shard=1", "--set", f"backbone.path={model}"]
    command = [sys.executable, "-m", "stages.main", *map(str, arguments)]
    return subprocess.Popen(command, env=ENVIRONMENT, preexec_fn=heed_interrupts)


# Slow: tests/whole/test_faults.py kills and interrupts every stage, in processes that start faster.


@pytest.mark.slow
@pytest.mark.parametrize("shards", [1, 3])
def test_killed_extract_resumes_to_identical_bytes(tmp_path: Path, clip: Path, tiny_model: Path, shards: int) -> None:
    out = tmp_path / "out"
    process = start_extract(clip, out, tiny_model)
    while len(list(out.glob("tmp/*/latents.zarr/latents/c.*.0.0.0"))) < shards:
        assert process.poll() is None, "extract ended before it could be killed"
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (out / "features.zarr").exists()
    resumed = vidseg("extract", clip, out, "--set", "extract.shard=1", "--set", f"backbone.path={tiny_model}")
    assert "continuing at frame" in resumed.stderr
    vidseg(
        "extract",
        clip,
        tmp_path / "whole",
        "--set",
        "extract.shard=1",
        "--set",
        f"backbone.path={tiny_model}",
    )
    for store in ("features.zarr", "latents.zarr"):
        assert tree_bytes(out / store) == tree_bytes(tmp_path / "whole" / store)
    assert not (out / "tmp").exists()


@pytest.mark.slow
def test_interrupt_leaves_a_resumable_state_and_130(tmp_path: Path, clip: Path, tiny_model: Path) -> None:
    process = start_extract(clip, tmp_path / "out", tiny_model)
    while not list((tmp_path / "out").glob("tmp/*/latents.zarr/latents/c.0.0.0.0")):
        assert process.poll() is None
        time.sleep(0.002)
    process.send_signal(signal.SIGINT)
    assert process.wait() == 130
    assert list((tmp_path / "out").glob("tmp/*"))


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["none.zarr", "out"], 3, "none.zarr: no such store; run `vidseg ingest`"),
        (["CLIP", "out", "--set", "backbone.path=/none"], 4, "backbone.path: /none: no such file or folder"),
        (["CLIP", "out", "--set", "extract.blocks=[6,9]"], 2, "must share one resolution"),
        (["CLIP", "out", "--set", "extract.feature_step=3"], 2, "extract.feature_step must be between"),
        (["CLIP", "out", "--set", "extract.encoder=/none"], 4, "extract.encoder is /none, which is no folder"),
        (["CLIP", "out", "--set", "extract.encoder_maps=[block16]"], 2, "no map block16; there are block0 to block15"),
        (
            ["CLIP", "out", "--set", "extract.padding=reflect", "--set", "extract.padding_pixels=48"],
            2,
            "extract.padding_pixels must be a multiple of 32, not 48",
        ),
        (["CLIP", "out", "--set", "extract.blok=3"], 2, "did you mean 'extract.blocks'"),
        (["CLIP"], 2, "give CLIP and OUT_DIR, or --item KEY"),
    ],
)
def test_bad_input(tmp_path: Path, clip: Path, tiny_model: Path, arguments: list[str], code: int, message: str) -> None:
    given = [str(clip) if argument == "CLIP" else argument for argument in arguments]
    if "backbone.path=/none" not in given:
        given += ["--set", f"backbone.path={tiny_model}"]
    result = vidseg("extract", *given, cwd=tmp_path, check=code)
    assert message in error_line(result)
    assert not (tmp_path / "out").exists()


def test_weights_that_give_nan_are_refused(tmp_path: Path, clip: Path, tiny_model: Path) -> None:
    import shutil

    from safetensors.torch import load_file, save_file

    broken = tmp_path / "broken"
    shutil.copytree(tiny_model, broken)
    file = broken / "unet" / "diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    weights["conv_in.weight"][:] = float("nan")
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(DataError, match="'aggregated' has NaN or infinite values in frame 0"):
        extract.run(clip, tmp_path / "out", PARAMS, DIFFUSION, BackboneParams(path=str(broken)))
    assert not (tmp_path / "out" / "features.zarr").exists()


@pytest.mark.parametrize("content", ["<<<<<<< HEAD\n{}\n", "[1]", "", '{"sha256": "'])
def test_a_damaged_lock_is_named(tiny_model: Path, tmp_path: Path, content: str) -> None:
    from stages.common import backbones

    lock = tmp_path / "backbone.lock"
    lock.write_text(content)
    source = backbones.find(BackboneParams(path=str(tiny_model)))
    with pytest.raises(UsageError, match="backbone.lock: damaged .*; run `vidseg backbone lock --params params.yaml`"):
        backbones.check_lock(source, lock)

"""The features of an image encoder beside those of the diffusion model, and alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.encoder.load import load_encoder
from pipeline.errors import UsageError
from pipeline.parameters import BackboneParams, CorrespondParams, DiffusionParams, ExtractParams, SegmentParams
from pipeline.stores.feature_codec import read_features
from pipeline.stores.schemas import CLIP, COARSE, FEATURES, LATENTS
from pipeline.stores.store import Store, open_store
from stages import correspond, extract, segment
from stages.common import backbones, encoders
from tests.support import tiny_encoder
from tests.support.commands import tree_bytes
from tests.support.noise_clip import FRAMES

WITHOUT = ExtractParams(shard=2)
PARAMS = replace(WITHOUT, encoder="efficientnet_lite0")
DIFFUSION = DiffusionParams(start_step=24, guidance=1.0, batch=2)


def extracted(clip: Path, out: Path, backbone: BackboneParams, params: ExtractParams = PARAMS) -> Store:
    return open_store(extract.run(clip, out, params, DIFFUSION, backbone), FEATURES)


def tokens_of(clip: Path, params: ExtractParams, backbone: BackboneParams) -> np.ndarray:
    """What the encoder itself gives, a frame at a time."""
    source = encoders.find(params, backbone)
    assert source is not None
    encoder = load_encoder(source, params, torch.device("cpu"))
    return np.stack([encoder.tokens(frame, (4, 8)).numpy() for frame in open_store(clip, CLIP).read("frames")])


@pytest.mark.parametrize(
    ("params", "tolerance"),
    [
        (replace(PARAMS, dtype="float32"), 1e-6),
        (PARAMS, 1e-3),
        (replace(PARAMS, dtype="int8"), 5e-3),
        (replace(PARAMS, encoder_maps=("block7",), encoder_scale=1.0), 1e-3),
    ],
    ids=["float32", "float16", "int8", "another map and scale"],
)
def test_the_encoder_s_tokens_lie_beside_the_diffusion_model_s(
    tmp_path: Path, clip: Path, backbone: BackboneParams, params: ExtractParams, tolerance: float
) -> None:
    store, expected = extracted(clip, tmp_path, backbone, params), tokens_of(clip, params, backbone)
    values = read_features(store, "encoder")
    assert values.shape == expected.shape == (FRAMES, 32, expected.shape[-1])
    assert np.abs(values - expected).max() <= tolerance * np.abs(expected).max(axis=-1).max()
    assert store.array("encoder").shards[:2] == (2, 32)
    assert store.attrs["arrays"] == ["aggregated", "matching", "encoder"]
    source = encoders.find(params, backbone)
    assert source is not None
    assert store.attrs["encoder"] == load_encoder(source, params, torch.device("cpu")).fingerprint


def test_without_an_encoder_the_store_is_as_before(tmp_path: Path, clip: Path, backbone: BackboneParams) -> None:
    """What is new is not named, so that fingerprints of earlier stores hold; the diffusion part is the same with it."""
    plain, joined = (extracted(clip, tmp_path / str(p.encoder), backbone, p) for p in (WITHOUT, PARAMS))
    assert not {"arrays", "encoder"} & set(plain.attrs)
    assert set(plain.params["extract"]) == {
        "blocks", "matching_block", "feature_step", "dtype", "shard", "window", "normalize", "encode",
    }  # fmt: skip
    for name in ("aggregated", "matching"):
        np.testing.assert_array_equal(plain.read(name), joined.read(name))


def test_the_encoder_alone_needs_no_denoiser(
    tmp_path: Path, clip: Path, backbone: BackboneParams, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = extracted(clip, tmp_path / "both", backbone)
    monkeypatch.setattr(backbones, "load_backbone", lambda *_: pytest.fail("the whole backbone was loaded"))
    alone = extracted(clip, tmp_path / "alone", backbone, replace(PARAMS, parts="encoder"))
    assert alone.attrs["arrays"] == ["encoder"]
    assert not alone.has("aggregated") and not alone.has("matching")
    np.testing.assert_array_equal(alone.read("encoder"), both.read("encoder"))
    latents = [open_store(store.path.parent / "latents.zarr", LATENTS) for store in (both, alone)]
    np.testing.assert_array_equal(latents[0].read("latents"), latents[1].read("latents"))
    assert latents[0].attrs["backbone"] == latents[1].attrs["backbone"]
    assert sorted(alone.attrs["psnr"]) == ["0", "2", "4"]


def test_shards_of_two_processes_are_those_of_one(tmp_path: Path, clip: Path, backbone: BackboneParams) -> None:
    whole = extracted(clip, tmp_path / "whole", backbone)
    for part in (slice(1, 3), slice(0, 1)):
        extract.run(clip, tmp_path / "parts", PARAMS, DIFFUSION, backbone, shards=part)
    for name in ("features.zarr", "latents.zarr"):
        assert tree_bytes(tmp_path / "parts" / name) == tree_bytes(whole.path.parent / name)


def test_every_change_is_another_store(tmp_path: Path, clip: Path, backbone: BackboneParams) -> None:
    changes: list[dict[str, object]] = [
        {},
        {"encoder_scale": 1.0},
        {"encoder_maps": ("block7",)},
        {"encoder": "none"},
        {"padding": "reflect", "padding_pixels": 32},
        {"parts": "encoder"},
        {"start_step": 23},
    ]
    stores = [extracted(clip, tmp_path, backbone, replace(PARAMS, **change)) for change in changes]  # type: ignore[arg-type]
    assert len({store.fingerprint for store in stores}) == len(changes)


def test_margins_leave_the_grid_and_the_latents(tmp_path: Path, clip: Path, backbone: BackboneParams) -> None:
    plain = extracted(clip, tmp_path / "plain", backbone)
    padded = extracted(clip, tmp_path / "padded", backbone, replace(PARAMS, padding="reflect", padding_pixels=32))
    assert padded.attrs["grid"] == plain.attrs["grid"] == [4, 8]
    for name in ("aggregated", "matching", "encoder"):
        assert padded.array(name).shape == plain.array(name).shape
        assert (padded.read(name) != plain.read(name)).any()
    latents = [open_store(store.path.parent / "latents.zarr", LATENTS).read("latents") for store in (plain, padded)]
    np.testing.assert_array_equal(*latents)


def test_only_an_encoder_s_features_need_an_encoder(tmp_path: Path, clip: Path, backbone: BackboneParams) -> None:
    with pytest.raises(UsageError, match="extract.parts is encoder, but extract.encoder is none; set extract.encoder="):
        extracted(clip, tmp_path / "out", backbone, replace(WITHOUT, parts="encoder"))
    assert not (tmp_path / "out").exists()


def test_a_vision_transformer_s_folder_goes_all_the_way(tmp_path: Path, clip: Path, backbone: BackboneParams) -> None:
    """Its weights count, not where they lie."""
    (tmp_path / "elsewhere").mkdir()
    folder = tiny_encoder.save_dinov2(tmp_path / "dinov2")
    params = replace(PARAMS, encoder=str(folder))
    store = extracted(clip, tmp_path, backbone, params)
    np.testing.assert_allclose(store.read("encoder"), tokens_of(clip, params, backbone), atol=1e-3)
    matches = correspond.run(store.path, tmp_path, CorrespondParams(encoder_weight="only"))
    chosen = SegmentParams(clusters=3, restarts=2, encoder_weight=1.5)
    labels = open_store(segment.run(store.path, matches, tmp_path, chosen), COARSE).read("refined")
    assert labels.shape == (FRAMES, 4, 8) and set(np.unique(labels)) == {0, 1, 2}
    before = store.fingerprint
    moved = folder.rename(tmp_path / "elsewhere" / "dinov2")
    assert extracted(clip, tmp_path, backbone, replace(params, encoder=str(moved))).fingerprint == before
    tiny_encoder.save_dinov2(moved, seed=1)
    assert extracted(clip, tmp_path, backbone, replace(params, encoder=str(moved))).fingerprint != before

"""clip, latents and coarse maps to full-resolution labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import DataError, UsageError
from pipeline.parameters import BackboneParams, DiffusionParams, ExtractParams, UpsampleParams
from pipeline.stores.numbering import Numbering
from pipeline.stores.schemas import CLIP, COARSE, LABELS, LATENTS
from pipeline.stores.store import open_store
from stages import extract, upsample
from tests.support.noise_clip import FRAMES, SIZE, make_clip, make_coarse

PARAMS = ExtractParams(shard=2)
DIFFUSION = DiffusionParams(guidance=1.0, batch=2)


@pytest.fixture
def stores(tmp_path: Path, clip: Path, backbone: BackboneParams) -> tuple[Path, Path, Path]:
    extract.run(clip, tmp_path, PARAMS, DIFFUSION, backbone)
    return clip, tmp_path / "latents.zarr", make_coarse(tmp_path / "coarse.zarr", tmp_path / "latents.zarr")


@pytest.mark.parametrize("method", ["modulation", "guided", "bilinear", "nearest", "joint_bilateral"])
def test_labels_have_the_sources_size(
    tmp_path: Path, stores: tuple[Path, Path, Path], backbone: BackboneParams, method: str
) -> None:
    params = UpsampleParams(method=method)
    path = upsample.run(*stores, tmp_path / "out", params, DIFFUSION, backbone)
    labels = open_store(path, LABELS).read("labels")
    assert labels.shape == (FRAMES, 60, 120)
    assert labels.dtype == np.uint8
    assert set(np.unique(labels)) == {0, 1}
    assert (labels[:, :, :40] == 0).mean() > 0.7
    assert Numbering.of_labels(open_store(path, LABELS)) == Numbering.of_coarse(open_store(stores[2], COARSE))


@pytest.mark.parametrize("method", ["modulation", "bilinear"])
def test_confidence_lies_beside_the_labels(
    tmp_path: Path,
    stores: tuple[Path, Path, Path],
    backbone: BackboneParams,
    method: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    plain = upsample.run(*stores, tmp_path / "plain", UpsampleParams(method=method), DIFFUSION, backbone)
    assert not open_store(plain, LABELS).has("confidence")
    params = UpsampleParams(method=method, confidence=True)
    path = upsample.run(*stores, tmp_path / "alone", params, DIFFUSION, backbone)
    assert "does not say how sure its labels are" in capsys.readouterr().err
    known = make_coarse(tmp_path / "known.zarr", stores[1], confidence=64)
    both = upsample.run(stores[0], stores[1], known, tmp_path / "both", params, DIFFUSION, backbone)
    assert "does not say" not in capsys.readouterr().err
    alone, lower = open_store(path, LABELS), open_store(both, LABELS)
    np.testing.assert_array_equal(alone.read("labels"), open_store(plain, LABELS).read("labels"))
    assert alone.read("confidence").shape == (FRAMES, 60, 120)
    assert alone.attrs["arrays"] == ["labels", "confidence"]
    assert lower.read("confidence").max() < 0.65 * alone.read("confidence").max()


def test_the_clean_pass_equals_extracts(stores: tuple[Path, Path, Path], tiny_model: Path, tmp_path: Path) -> None:
    """latents.zarr keeps float32, so that upsampling starts from the very same latents."""
    import torch

    from pipeline.features.diffusion import add_noise, draw_noise
    from pipeline.features.extraction import extract as extract_frames
    from stages.common.backbones import load_backbone

    backbone = load_backbone(BackboneParams(path=str(tiny_model)))
    frames = open_store(stores[0], CLIP).read("frames", 0, 2)
    settings = DiffusionParams(guidance=1.0)
    fresh = extract_frames(backbone, frames, [0, 3], settings, ExtractParams()).latents
    stored = torch.from_numpy(open_store(stores[1], LATENTS).read("latents", 0, 2))
    torch.testing.assert_close(fresh, stored, rtol=0, atol=0)
    noise = draw_noise(settings, [0, 3], (4, 8, 16))
    starts = [add_noise(latents, noise.epsilon, settings, backbone) for latents in (fresh, stored)]
    assert torch.equal(*starts)


@pytest.mark.parametrize(
    ("diffusion", "other_model", "message"),
    [
        (DiffusionParams(guidance=2.0), False, "made with diffusion.guidance = 1.0, now it is 2.0"),
        (DIFFUSION, True, "made with other weights"),
    ],
)
def test_latents_of_other_settings_are_refused(
    tmp_path: Path,
    stores: tuple[Path, Path, Path],
    backbone: BackboneParams,
    diffusion: DiffusionParams,
    other_model: bool,
    message: str,
) -> None:
    from tests.support import tiny

    if other_model:
        backbone = BackboneParams(path=str(tiny.save_model(tmp_path / "other", seed=1)))
    with pytest.raises(DataError, match=f"{message}.*run `vidseg extract`"):
        upsample.run(*stores, tmp_path / "out", UpsampleParams(), diffusion, backbone)


def test_steps_outside_the_schedule_are_refused(
    tmp_path: Path, stores: tuple[Path, Path, Path], backbone: BackboneParams
) -> None:
    with pytest.raises(UsageError, match="upsample.modulate_step must be between"):
        upsample.run(*stores, tmp_path / "out", UpsampleParams(modulate_step=3), DIFFUSION, backbone)
    assert not (tmp_path / "out" / "labels.zarr").exists()


def test_stores_of_different_clips_are_refused(
    tmp_path: Path, stores: tuple[Path, Path, Path], backbone: BackboneParams
) -> None:
    """They agree in every shape; only their fingerprints tell."""
    other = make_clip(tmp_path / "other" / "clip.zarr", seed=1)
    extract.run(other, tmp_path / "other", PARAMS, DIFFUSION, backbone)
    nearest, out = UpsampleParams(method="nearest"), tmp_path / "out"
    with pytest.raises(DataError, match="latents.zarr does not belong to .*other/clip.zarr; run `vidseg extract`"):
        upsample.run(other, *stores[1:], out, nearest, DIFFUSION, backbone)
    with pytest.raises(DataError, match="coarse.zarr does not belong to .*latents.zarr; run `vidseg segment`"):
        upsample.run(other, tmp_path / "other" / "latents.zarr", stores[2], out, nearest, DIFFUSION, backbone)


def test_images_that_are_not_finite_are_refused(
    tmp_path: Path, stores: tuple[Path, Path, Path], tiny_model: Path, backbone: BackboneParams
) -> None:
    from stages.common.backbones import load_backbone

    broken = load_backbone(BackboneParams(path=str(tiny_model)))
    broken.decode = lambda latents: torch_nan(len(latents))  # type: ignore[method-assign]
    with pytest.raises(DataError, match="images of frame 0 .* have NaN"):
        upsample.run(*stores, tmp_path / "out", UpsampleParams(), DIFFUSION, backbone, broken)
    assert not (tmp_path / "out" / "labels.zarr").exists()


def torch_nan(count: int):  # type: ignore[no-untyped-def]
    import torch

    return torch.full((count, 3, *SIZE), float("nan"))

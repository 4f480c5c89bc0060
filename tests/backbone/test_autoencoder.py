"""A backbone of which the autoencoder alone is loaded, since nothing is to be denoised."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.backbone.load import load_autoencoder, load_model
from pipeline.backbone.locate import identify
from pipeline.backbone.video.folder import VideoParts
from pipeline.errors import WeightsError
from tests.support import checkpoint_layouts, tiny, tiny_video, video_checkpoint_layout

CPU = torch.device("cpu")


def image_folder(folder: Path) -> Path:
    return tiny.save_model(folder)


def image_file(folder: Path) -> Path:
    return checkpoint_layouts.write_single_file(checkpoint_layouts.tiny_with_text(), folder)


def video_folder(folder: Path) -> Path:
    return tiny_video.save_model(folder)


def video_file(folder: Path) -> Path:
    parts = VideoParts(tiny_video.make_unet(), tiny_video.make_vae(), tiny_video.make_image_encoder(), (700.0, 0.002))
    return video_checkpoint_layout.write_single_file(parts, folder)


@pytest.mark.parametrize(
    ("name", "make"),
    [("sd21", image_folder), ("sd21", image_file), ("svd", video_folder), ("svd", video_file)],
    ids=["image folder", "image file", "video folder", "video file"],
)
def test_it_encodes_and_decodes_as_the_whole_model(
    name: str, make: Callable[[Path], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    source = identify(name, make(tmp_path / "model"), None)
    whole: Any = load_model(source, torch.float32, CPU)
    alone: Any = load_autoencoder(source, CPU)
    frames = np.random.default_rng(0).integers(0, 256, (2, 64, 128, 3), np.uint8)
    latents = whole.encode(frames)
    assert torch.equal(alone.encode(frames), latents)
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(0))
    assert torch.equal(alone.encode(frames, noise), whole.encode(frames, noise))
    assert torch.equal(alone.decode(latents), whole.decode(latents))
    assert alone.token_shape(7, (64, 128)) == whole.token_shape(7, (64, 128))
    assert (alone.fingerprint, alone.name, alone.device) == (whole.fingerprint, name, CPU)
    assert {parameter.device.type for parameter in alone.unet.parameters()} == {"meta"}


@pytest.mark.parametrize(("name", "make"), [("sd21", image_folder), ("svd", video_folder)])
def test_a_damaged_autoencoder_is_named(name: str, make: Callable[[Path], Path], tmp_path: Path) -> None:
    source = identify(name, make(tmp_path / "model"), None)
    (tmp_path / "model" / "vae" / "diffusion_pytorch_model.safetensors").write_bytes(b"damaged")
    with pytest.raises(WeightsError, match="vae.* cannot be loaded"):
        load_autoencoder(source, CPU)

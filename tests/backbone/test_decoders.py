"""Decoding of parts of images, and the loading of small decoders."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pipeline.backbone import Box
from pipeline.backbone.image.model import StableDiffusion
from pipeline.backbone.local_decoding import MARGIN
from pipeline.backbone.small_decoder import load_small_decoder
from pipeline.errors import WeightsError
from tests.support import tiny
from tests.support.tiny import save_small_decoder


@pytest.fixture(scope="module")
def backbone() -> StableDiffusion:
    return StableDiffusion(tiny.make_unet(), tiny.make_vae(), tiny.make_context(), "tiny", "hash")


@pytest.mark.parametrize("attention", [False, True])
def test_a_box_is_decoded_as_in_the_whole(attention: bool) -> None:
    torch.manual_seed(0)
    vae = tiny.make_vae(attention=attention)
    backbone = StableDiffusion(tiny.make_unet(), vae, tiny.make_context(), "tiny", "hash")
    latents = torch.randn(1, 4, 24, 24)
    decoder = backbone.part_decoder(latents)
    torch.testing.assert_close(decoder.whole, backbone.decode(latents))
    whole = Box(0, 24, 0, 24)
    torch.testing.assert_close(decoder.part(latents[0], whole), decoder.whole[0], atol=1e-4, rtol=1e-4)
    box = Box(9, 14, 8, 17)
    part = decoder.part(latents[0], box)
    assert part.shape == (3, 40, 72)
    expected = box.scaled(8).of(decoder.whole[0])
    wide = box.grown(MARGIN, (24, 24))
    cut_out = backbone.decode(wide.of(latents))[0, :, 8 * MARGIN : -8 * MARGIN, 8 * MARGIN : -8 * MARGIN]
    # What lies beyond the margin matters little, the statistics of the whole much.
    assert (part - expected).abs().max() < 0.5 * (cut_out - expected).abs().max()
    assert (decoder.part(latents[0] + 1, box) - part).abs().mean() > (part - expected).abs().mean()


def test_boxes() -> None:
    mask = torch.zeros(6, 9)
    mask[2:4, 5] = 0.1
    box = Box.around(mask)
    assert box == Box(2, 4, 5, 6)
    assert box.grown(MARGIN, (6, 9)) == Box(0, 6, 1, 9)
    assert box.scaled(8) == Box(16, 32, 40, 48)
    assert box.of(mask).shape == (2, 1)


def test_forwards_come_back_after_a_part(backbone: StableDiffusion) -> None:
    latents = torch.zeros(1, 4, 8, 8)
    backbone.part_decoder(latents).part(latents[0], Box(2, 4, 2, 4))
    assert not any("forward" in vars(module) for module in backbone.vae.modules())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in backbone.vae.modules())


def test_the_small_decoder_is_the_one_of_diffusers(tmp_path: Path) -> None:
    from diffusers import AutoencoderTiny

    folder = save_small_decoder(tmp_path / "small")
    latents = torch.randn(2, 4, 4, 6)
    images = load_small_decoder(folder, torch.device("cpu"))(latents)
    expected = AutoencoderTiny.from_pretrained(folder).eval().decode(latents).sample
    torch.testing.assert_close(images, expected.detach())


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda folder: None, "no small decoder; it needs config.json"),
        (lambda folder: (save_small_decoder(folder) / "config.json").write_text('{"_class_name": "AutoencoderKL"}'),
         "is a AutoencoderKL, not an AutoencoderTiny"),
        (lambda folder: (save_small_decoder(folder) / "diffusion_pytorch_model.safetensors").write_bytes(b"no"),
         "cannot be loaded"),
        (lambda folder: (save_small_decoder(folder) / "config.json").write_text(
            '{"_class_name": "AutoencoderTiny", "act_fn": "none"}'), r"config\.json: cannot be loaded"),
        (lambda folder: (save_small_decoder(folder) / "config.json").write_text("[1]"), "not a JSON object"),
        (lambda folder: save_small_decoder(folder, latent_channels=16),
         "its latents have 16 channels and cells of 8 px, this backbone's have 4 and 8 px"),
    ],
)  # fmt: skip
def test_bad_small_decoders_are_named(tmp_path: Path, prepare: object, message: str) -> None:
    prepare(tmp_path / "small")  # type: ignore[operator]
    with pytest.raises(WeightsError, match=message):
        load_small_decoder(tmp_path / "small", torch.device("cpu"))

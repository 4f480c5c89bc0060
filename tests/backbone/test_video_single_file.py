"""Checkpoints of the video model in their original single-file layout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from pipeline.backbone.load import load_model
from pipeline.backbone.locate import identify
from pipeline.backbone.video.folder import VideoParts
from pipeline.backbone.video.single_file import SVD_IMAGE_ENCODER, SVD_UNET, SVD_VAE, load_single_file
from pipeline.errors import WeightsError
from pipeline.parameters import DiffusionVideo
from tests.support import checkpoint_layouts, tiny_video
from tests.support.video_checkpoint_layout import original_tensors, write_single_file


@pytest.fixture(scope="module")
def parts() -> VideoParts:
    encoder = tiny_video.make_image_encoder()
    return VideoParts(tiny_video.make_unet(), tiny_video.make_vae(), encoder, (700.0, 0.002))


@pytest.fixture
def checkpoint(parts: VideoParts, tmp_path: Path) -> Path:
    return write_single_file(parts, tmp_path)


def test_names_are_the_original_ones(parts: VideoParts) -> None:
    """A sample of names as the original modules give them, so that the layout written here is not an invention."""
    names = set(original_tensors(parts))
    unet, stage = "model.diffusion_model.", "first_stage_model.decoder."
    assert {
        unet + "label_emb.0.0.weight",
        unet + "input_blocks.1.0.in_layers.2.weight",
        unet + "input_blocks.1.0.time_stack.emb_layers.1.bias",
        unet + "input_blocks.1.0.time_mixer.mix_factor",
        unet + "input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight",
        unet + "input_blocks.1.1.time_stack.0.ff_in.net.0.proj.weight",
        unet + "input_blocks.1.1.time_pos_embed.2.weight",
        unet + "input_blocks.1.1.time_mixer.mix_factor",
        unet + "input_blocks.3.0.op.weight",
        unet + "middle_block.1.time_stack.0.norm_in.weight",
        unet + "output_blocks.2.1.conv.weight",
        unet + "output_blocks.5.2.conv.weight",
        stage + "conv_out.time_mix_conv.weight",
        stage + "up.3.block.0.time_stack.in_layers.2.weight",
        stage + "up.0.block.1.mix_factor",
        stage + "mid.block_1.mix_factor",
        stage + "mid.attn_1.q.weight",
        "conditioner.embedders.3.encoder.quant_conv.weight",
        "conditioner.embedders.3.encoder.encoder.down.0.block.0.conv1.weight",
        "conditioner.embedders.0.open_clip.model.visual.transformer.resblocks.1.attn.in_proj_weight",
    } <= names


def test_all_values_come_back(parts: VideoParts, checkpoint: Path) -> None:
    loaded = load_single_file(checkpoint)
    for name in ("unet", "vae", "image_encoder"):
        expected, found = getattr(parts, name).state_dict(), getattr(loaded, name).state_dict()
        assert expected.keys() == found.keys()
        assert [key for key, value in expected.items() if not torch.equal(value, found[key])] == []


def test_outputs_equal_those_of_the_folder(parts: VideoParts, checkpoint: Path, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    parts.unet.save_pretrained(folder / "unet")
    parts.vae.save_pretrained(folder / "vae")
    tiny_video.save_conditioning(folder)
    frames = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), np.uint8)
    results = []
    for path in (checkpoint, folder):
        model: Any = load_model(identify("svd", path, None), torch.float32, torch.device("cpu"))
        given = model.condition(frames[0], torch.zeros(3, 64, 64), DiffusionVideo())
        latents = model.encode(frames)
        results.append(model.denoise(latents, 24, model.schedule(25), 2.0, conditioning=given).latents)
    torch.testing.assert_close(*results, atol=1e-6, rtol=0)


def spoiled(checkpoint: Path, change: Any) -> Path:
    tensors = load_file(checkpoint)
    change(tensors)
    save_file(tensors, checkpoint)
    return checkpoint


def drop(prefix: str) -> Any:
    def change(tensors: dict[str, torch.Tensor]) -> None:
        for name in [name for name in tensors if name.startswith(prefix)]:
            del tensors[name]

    return change


@pytest.mark.parametrize(
    ("prefix", "message"),
    [
        ("conditioner.embedders.0", r"no tensors named conditioner.embedders.0.open_clip.model.visual.\*"),
        ("conditioner.embedders.3", r"no tensors named conditioner.embedders.3.encoder.\*"),
        ("model.diffusion_model.input_blocks.1.1.time_mixer", "its unet does not fit .*time_mixer.mix_factor"),
        ("first_stage_model.decoder.mid.attn_1.q", "its vae does not fit .*to_q"),
    ],
)  # fmt: skip
def test_incomplete_checkpoints(checkpoint: Path, prefix: str, message: str) -> None:
    with pytest.raises(WeightsError, match=message):
        load_single_file(spoiled(checkpoint, drop(prefix)))


def test_damaged_and_pickled_files(tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").write_bytes(b"no tensors")
    with pytest.raises(WeightsError, match="x.safetensors: cannot be read"):
        load_single_file(tmp_path / "x.safetensors")
    (tmp_path / "svd.ckpt").write_bytes(b"")
    with pytest.raises(WeightsError, match="pickled weights are refused"):
        load_single_file(tmp_path / "svd.ckpt")


def test_checkpoints_of_the_other_family_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    image = checkpoint_layouts.write_single_file(checkpoint_layouts.tiny_with_text(), tmp_path / "image")
    for name, path, family in (("sd21", checkpoint, "svd"), ("svd", image, "sd21")):
        with pytest.raises(WeightsError, match=f"backbone.name = '{name}' needs a .* backbone.name to '{family}'"):
            identify(name, path, None)


def test_built_in_configurations_are_the_published_models() -> None:
    """Numbers of parameters of the published networks: 1.525e9, 9.77e7 and, of ViT-H/14's image side, 6.32e8."""
    from diffusers import AutoencoderKLTemporalDecoder, UNetSpatioTemporalConditionModel
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    with torch.device("meta"):
        networks = (
            UNetSpatioTemporalConditionModel.from_config(dict(SVD_UNET)),
            AutoencoderKLTemporalDecoder.from_config(dict(SVD_VAE)),
            CLIPVisionModelWithProjection(CLIPVisionConfig.from_dict(dict(SVD_IMAGE_ENCODER))),
        )
    counts = [sum(weight.numel() for weight in network.parameters()) for network in networks]
    assert counts == [pytest.approx(count, rel=1e-3) for count in (1.525e9, 9.77e7, 6.32e8)]

"""Single-file checkpoints of Stable Video Diffusion in their original layout (`svd.safetensors`).

The file holds `model.diffusion_model.*` (denoiser), `first_stage_model.*` (autoencoder),
`conditioner.embedders.0.open_clip.model.visual.*` (OpenCLIP image encoder) and `conditioner.embedders.3.encoder.*`
(the autoencoder that codes the conditioning frame). The two encoders are one network: `quant_conv` is folded into the
first, so the second is read, which has it by itself, with the temporal decoder of the first. Configurations beside the
file (`unet/`, `vae/`, `image_encoder/config.json`) win over those of the published model, which are built in here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from diffusers import AutoencoderKLTemporalDecoder, UNetSpatioTemporalConditionModel
from torch import Tensor
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from pipeline.backbone.checkpoint import fill, part_of
from pipeline.backbone.files import configuration, refuse_pickles
from pipeline.backbone.scheduler_config import scheduler_of
from pipeline.backbone.video.configuration import SVD_IMAGE_ENCODER, SVD_UNET, SVD_VAE, noise_levels
from pipeline.backbone.video.folder import VideoParts, check_widths

UNET_PREFIX = "model.diffusion_model."
DECODER_PREFIX = "first_stage_model."
ENCODER_PREFIX = "conditioner.embedders.3.encoder."
IMAGE_PREFIX = "conditioner.embedders.0.open_clip.model.visual."
REMEDY = "backbone.path must be a checkpoint like svd.safetensors, or a diffusers folder"

Rename = tuple[str, Callable[[re.Match[str]], str]]

_RESNET = {
    "in_layers.0": "norm1", "in_layers.2": "conv1", "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2", "out_layers.3": "conv2", "skip_connection": "conv_shortcut",
}  # fmt: skip
_BLOCK = r"(input|output)_blocks\.(\d+)\.(\d)\."
_LAYERS = "|".join(re.escape(name) for name in _RESNET)


def _block(place: re.Match[str]) -> tuple[str, int, int]:
    """The level's name of a block, its number, and the place in it."""
    side, number = place[1], int(place[2])
    level, within = divmod(number - 1 if side == "input" else number, 3)
    return ("down_blocks" if side == "input" else "up_blocks"), level, within


def _resnet(part: str) -> Callable[[re.Match[str]], str]:
    def rename(match: re.Match[str]) -> str:
        side, level, within = _block(match)
        return f"{side}.{level}.resnets.{within}.{part}.{_RESNET[match[4]]}"

    return rename


def _of_block(kind: str, rest: str) -> Callable[[re.Match[str]], str]:
    def rename(match: re.Match[str]) -> str:
        side, level, within = _block(match)
        place = "0" if kind in ("upsamplers", "downsamplers") else within
        return f"{side}.{level}.{kind}.{place}.{rest}"

    return rename


def _middle(kind: str, rest: str) -> Callable[[re.Match[str]], str]:
    return lambda m: f"mid_block.{kind}.{0 if kind == 'attentions' else int(m[1]) // 2}.{rest}"


def _middle_resnet(part: str) -> Callable[[re.Match[str]], str]:
    return lambda m: f"mid_block.resnets.{int(m[1]) // 2}.{part}.{_RESNET[m[2]]}"


#: Beginnings of names in the file -> in diffusers; the first that fits counts.
UNET_NAMES: tuple[Rename, ...] = (
    (r"time_embed\.([02])", lambda m: f"time_embedding.linear_{int(m[1]) // 2 + 1}"),
    (r"label_emb\.0\.([02])", lambda m: f"add_embedding.linear_{int(m[1]) // 2 + 1}"),
    (r"input_blocks\.0\.0", lambda m: "conv_in"),
    (r"out\.0", lambda m: "conv_norm_out"),
    (r"out\.2", lambda m: "conv_out"),
    (r"(input)_blocks\.(\d+)\.(0)\.op", _of_block("downsamplers", "conv")),
    (r"(output)_blocks\.(\d+)\.(\d)\.conv", _of_block("upsamplers", "conv")),
    (rf"{_BLOCK}({_LAYERS})", _resnet("spatial_res_block")),
    (rf"{_BLOCK}time_stack\.({_LAYERS})", _resnet("temporal_res_block")),
    (r"(input|output)_blocks\.(\d+)\.(0)\.time_mixer", _of_block("resnets", "time_mixer")),
    (rf"{_BLOCK}time_stack", _of_block("attentions", "temporal_transformer_blocks")),
    (rf"{_BLOCK}time_pos_embed\.0", _of_block("attentions", "time_pos_embed.linear_1")),
    (rf"{_BLOCK}time_pos_embed\.2", _of_block("attentions", "time_pos_embed.linear_2")),
    *((rf"{_BLOCK}{name}", _of_block("attentions", name))
      for name in ("norm", "proj_in", "proj_out", "transformer_blocks", "time_mixer")),
    (rf"middle_block\.([02])\.({_LAYERS})", _middle_resnet("spatial_res_block")),
    (rf"middle_block\.([02])\.time_stack\.({_LAYERS})", _middle_resnet("temporal_res_block")),
    (r"middle_block\.([02])\.time_mixer", _middle("resnets", "time_mixer")),
    (r"middle_block\.(1)\.time_stack", _middle("attentions", "temporal_transformer_blocks")),
    (r"middle_block\.(1)\.time_pos_embed\.0", _middle("attentions", "time_pos_embed.linear_1")),
    (r"middle_block\.(1)\.time_pos_embed\.2", _middle("attentions", "time_pos_embed.linear_2")),
    (r"middle_block\.1", lambda m: "mid_block.attentions.0"),
)  # fmt: skip

_VAE_RESNET = {"nin_shortcut": "conv_shortcut"}
_VAE_ATTENTION = {"norm": "group_norm", "q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"}


def _of_coder(side: str) -> tuple[Rename, ...]:
    """Names that the two sides of an autoencoder, `encoder` and `decoder`, have in common."""
    return (
        (rf"{side}\.(conv_in|conv_out)", lambda m: f"{side}.{m[1]}"),
        (rf"{side}\.norm_out", lambda m: f"{side}.conv_norm_out"),
        (rf"{side}\.mid\.attn_1\.(\w+)", lambda m: f"{side}.mid_block.attentions.0.{_VAE_ATTENTION[m[1]]}"),
    )


ENCODER_NAMES: tuple[Rename, ...] = (
    (r"quant_conv", lambda m: "quant_conv"),
    *_of_coder("encoder"),
    (r"encoder\.down\.(\d)\.downsample", lambda m: f"encoder.down_blocks.{m[1]}.downsamplers.0"),
    (r"encoder\.down\.(\d)\.block\.(\d)\.(\w+)",
     lambda m: f"encoder.down_blocks.{m[1]}.resnets.{m[2]}.{_VAE_RESNET.get(m[3], m[3])}"),
    (r"encoder\.mid\.block_([12])", lambda m: f"encoder.mid_block.resnets.{int(m[1]) - 1}"),
)  # fmt: skip


def _decoder_resnet(match: re.Match[str]) -> str:
    """A name in a decoder's residual block as diffusers has it, from `up.LEVEL.block.N.REST` or `mid.block_N.REST`."""
    place = (
        f"up_blocks.{3 - int(match[1])}.resnets.{match[2]}" if match[1] else f"mid_block.resnets.{int(match[3]) - 1}"
    )
    rest = match[4]
    if rest == "mix_factor":
        return f"decoder.{place}.time_mixer.mix_factor"
    if rest.startswith("time_stack."):
        return f"decoder.{place}.temporal_res_block.{_RESNET[rest.removeprefix('time_stack.')]}"
    return f"decoder.{place}.spatial_res_block.{_VAE_RESNET.get(rest, rest)}"


DECODER_NAMES: tuple[Rename, ...] = (
    (r"decoder\.conv_out\.time_mix_conv", lambda m: "decoder.time_conv_out"),
    *_of_coder("decoder"),
    (r"decoder\.up\.(\d)\.upsample", lambda m: f"decoder.up_blocks.{3 - int(m[1])}.upsamplers.0"),
    (rf"decoder\.(?:up\.(\d)\.block\.(\d)|mid\.block_([12]))\.(mix_factor|time_stack\.(?:{_LAYERS})|\w+)",
     _decoder_resnet),
)  # fmt: skip

_IMAGE_LAYER = {
    "ln_1": "layer_norm1", "ln_2": "layer_norm2", "mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2",
    "attn.out_proj": "self_attn.out_proj",
}  # fmt: skip
IMAGE_NAMES: tuple[Rename, ...] = (
    (r"class_embedding", lambda m: "vision_model.embeddings.class_embedding"),
    (r"positional_embedding", lambda m: "vision_model.embeddings.position_embedding.weight"),
    (r"conv1", lambda m: "vision_model.embeddings.patch_embedding"),
    (r"ln_pre", lambda m: "vision_model.pre_layrnorm"),
    (r"ln_post", lambda m: "vision_model.post_layernorm"),
    (rf"transformer\.resblocks\.(\d+)\.({'|'.join(re.escape(name) for name in _IMAGE_LAYER)})",
     lambda m: f"vision_model.encoder.layers.{m[1]}.{_IMAGE_LAYER[m[2]]}"),
)  # fmt: skip


def load_single_file(path: Path) -> VideoParts:
    """The networks (float32, on the CPU) of a single-file checkpoint.

    Raises:
        WeightsError: a pickle, a damaged file, or another layout or shape.
    """
    refuse_pickles(path)
    scheduler = scheduler_of(path)
    levels = noise_levels(scheduler, path)
    denoiser = renamed(_part(path, UNET_PREFIX), UNET_NAMES)  # first: a damaged file is refused at once
    unet = UNetSpatioTemporalConditionModel.from_config(configuration(path, "unet", SVD_UNET))
    fill(unet, denoiser, path, "unet")
    vae = load_single_autoencoder(path)
    vision = CLIPVisionConfig.from_dict(configuration(path, "image_encoder", SVD_IMAGE_ENCODER))
    encoder = CLIPVisionModelWithProjection(vision)
    fill(encoder, image_encoder_tensors(_part(path, IMAGE_PREFIX)), path, "image_encoder")
    check_widths(unet, encoder, path)
    return VideoParts(unet, vae, encoder, levels)


def load_single_autoencoder(path: Path) -> Any:
    """The autoencoder of a single-file checkpoint, float32, on the CPU; raises as `load_single_file`."""
    vae = AutoencoderKLTemporalDecoder.from_config(configuration(path, "vae", SVD_VAE))
    coder = renamed(_part(path, ENCODER_PREFIX), ENCODER_NAMES) | renamed(_part(path, DECODER_PREFIX), DECODER_NAMES)
    fill(vae, coder, path, "vae")
    return vae


def renamed(tensors: Mapping[str, Tensor], names: tuple[Rename, ...]) -> dict[str, Tensor]:
    """The tensors under diffusers' names; those that no rule knows are left out."""
    result = {}
    for name, tensor in tensors.items():
        for pattern, rename in names:
            if match := re.match(rf"{pattern}(?=\.|$)", name):
                # The original attentions of the autoencoder are 1x1 convolutions.
                pointwise = ".attn_1." in name and tensor.ndim == 4
                result[rename(match) + name[match.end() :]] = tensor[..., 0, 0] if pointwise else tensor
                break
    return result


def _part(path: Path, prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in part_of(path, prefix, REMEDY).items()}


def image_encoder_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """An OpenCLIP image encoder's tensors under the names of transformers: queries, keys and values are apart there."""
    result = renamed(tensors, IMAGE_NAMES)
    if "proj" in tensors:
        result["visual_projection.weight"] = tensors["proj"].T.contiguous()
    for name, tensor in tensors.items():
        if match := re.fullmatch(r"transformer\.resblocks\.(\d+)\.attn\.in_proj_(weight|bias)", name):
            for kind, part in zip("qkv", tensor.chunk(3), strict=True):
                result[f"vision_model.encoder.layers.{match[1]}.self_attn.{kind}_proj.{match[2]}"] = part.contiguous()
    return result

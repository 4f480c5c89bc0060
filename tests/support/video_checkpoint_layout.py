"""A video model in the original single-file layout: the inverse of what `backbone.video.single_file` has to undo.

Written from the modules of the original code: `VideoResBlock` keeps a temporal `time_stack` beside its own layers,
`SpatialVideoTransformer` a `time_stack` of blocks; in the autoencoder the mix factor is the block's own.
"""

from __future__ import annotations

import re
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from pipeline.backbone.video.folder import VideoParts

LAYERS = {
    "norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0", "conv2": "out_layers.3", "conv_shortcut": "skip_connection",
}  # fmt: skip
CODER = {
    "conv_shortcut": "nin_shortcut", "group_norm": "norm",
    "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out",
}  # fmt: skip
PLACE = (
    r"(down|up)_blocks\.(\d)\.(resnets|attentions|downsamplers|upsamplers)\.(\d)\."
    r"|mid_block\.(resnets|attentions)\.(\d)\."
)
TOP = {
    "conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0", "add_embedding.linear_2": "label_emb.0.2",
}  # fmt: skip
OPENCLIP = {
    "self_attn.out_proj": "attn.out_proj", "layer_norm1": "ln_1", "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj",
}  # fmt: skip


def write_single_file(parts: VideoParts, folder: Path) -> Path:
    """The checkpoint, with the configurations of a small model beside it."""
    for name, network in (("unet", parts.unet), ("vae", parts.vae), ("image_encoder", parts.image_encoder)):
        (folder / name).mkdir(parents=True)
        text = network.config.to_json_string() if name == "image_encoder" else network.to_json_string()
        (folder / name / "config.json").write_text(text)
    tensors = {name: tensor.clone().contiguous() for name, tensor in original_tensors(parts).items()}
    save_file(tensors, folder / "small.safetensors")
    return folder / "small.safetensors"


def original_tensors(parts: VideoParts) -> dict[str, Tensor]:
    tensors = {"model_ema.decay": torch.ones(1)}
    for name, tensor in parts.unet.state_dict().items():
        tensors["model.diffusion_model." + unet_name(name)] = tensor
    for name, tensor in parts.vae.state_dict().items():
        pointwise = ".attentions." in name and "group_norm" not in name and name.endswith("weight")
        value = tensor[..., None, None] if pointwise else tensor
        if name.startswith("decoder."):
            tensors["first_stage_model." + coder_name(name)] = value
        else:
            tensors["conditioner.embedders.3.encoder." + coder_name(name)] = value
            # The first stage's own encoder ends in the folded quant_conv: other values under the same names.
            tensors["first_stage_model." + coder_name(name)] = torch.zeros_like(value)
    for name, tensor in image_encoder_tensors(parts.image_encoder).items():
        tensors["conditioner.embedders.0.open_clip.model.visual." + name] = tensor
    return tensors


def unet_name(name: str) -> str:
    for ours, original in TOP.items():
        if name.startswith(ours + "."):
            return original + name.removeprefix(ours)
    place = re.match(PLACE, name)
    assert place is not None, name
    rest = name[place.end() :]
    if place[5]:
        kind, block = place[5], f"middle_block.{2 * int(place[6]) if place[5] == 'resnets' else 1}"
    else:
        kind, level = place[3], int(place[2])
        number = 3 * level + int(place[4])
        if kind == "downsamplers":
            return f"input_blocks.{3 * level + 3}.0.op.{rest.removeprefix('conv.')}"
        if kind == "upsamplers":
            return f"output_blocks.{3 * level + 2}.{1 if level == 0 else 2}.{rest}"
        block = f"input_blocks.{number + 1}" if place[1] == "down" else f"output_blocks.{number}"
        block += ".0" if kind == "resnets" else ".1"
    if kind == "resnets":
        return f"{block}.{res_block(rest)}"
    for ours, original in (
        ("temporal_transformer_blocks", "time_stack"),
        ("time_pos_embed.linear_1", "time_pos_embed.0"),
        ("time_pos_embed.linear_2", "time_pos_embed.2"),
    ):
        rest = rest.replace(ours, original)
    return f"{block}.{rest}"


def res_block(rest: str) -> str:
    part, _, layer = rest.partition(".")
    if part == "time_mixer":
        return rest
    name, _, kind = layer.rpartition(".")
    return f"{'time_stack.' if part == 'temporal_res_block' else ''}{LAYERS[name]}.{kind}"


def coder_name(name: str) -> str:
    name = name.replace("decoder.time_conv_out", "decoder.conv_out.time_mix_conv").replace("conv_norm_out", "norm_out")
    name = re.sub(r"down_blocks\.(\d)\.resnets\.(\d)", r"down.\1.block.\2", name)
    name = re.sub(r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample", name)
    name = re.sub(r"up_blocks\.(\d)\.resnets\.(\d)", lambda m: f"up.{3 - int(m[1])}.block.{m[2]}", name)
    name = re.sub(r"up_blocks\.(\d)\.upsamplers\.0", lambda m: f"up.{3 - int(m[1])}.upsample", name)
    name = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", name)
    name = name.replace("mid_block.attentions.0", "mid.attn_1")
    temporal = re.fullmatch(r"(.*)\.temporal_res_block\.(.*)\.(weight|bias)", name)
    if temporal:
        return f"{temporal[1]}.time_stack.{LAYERS[temporal[2]]}.{temporal[3]}"
    name = name.replace(".spatial_res_block", "").replace(".time_mixer.mix_factor", ".mix_factor")
    for ours, original in CODER.items():
        name = name.replace(f".{ours}.", f".{original}.")
    return name


def image_encoder_tensors(encoder: torch.nn.Module) -> dict[str, Tensor]:
    """In OpenCLIP's layout, in which queries, keys and values are one matrix."""
    state = {name.removeprefix("vision_model."): tensor for name, tensor in encoder.state_dict().items()}
    tensors = {
        "class_embedding": state["embeddings.class_embedding"],
        "positional_embedding": state["embeddings.position_embedding.weight"],
        "conv1.weight": state["embeddings.patch_embedding.weight"],
        "proj": state["visual_projection.weight"].T,
    }
    for kind in ("weight", "bias"):
        tensors[f"ln_pre.{kind}"] = state[f"pre_layrnorm.{kind}"]
        tensors[f"ln_post.{kind}"] = state[f"post_layernorm.{kind}"]
        for layer in {name.split(".")[2] for name in state if name.startswith("encoder.layers.")}:
            source, target = f"encoder.layers.{layer}.", f"transformer.resblocks.{layer}."
            stacked = [state[f"{source}self_attn.{name}_proj.{kind}"] for name in "qkv"]
            tensors[f"{target}attn.in_proj_{kind}"] = torch.cat(stacked)
            for ours, original in OPENCLIP.items():
                tensors[f"{target}{original}.{kind}"] = state[f"{source}{ours}.{kind}"]
    return tensors

"""One model in every layout in which weights are distributed; the inverse of what loading has to undo."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import save_file
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from tests.support import tiny

HUB_ID = "someone/small-model"
REVISION = "0123456789abcdef0123456789abcdef01234567"
RESNET = {
    "norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0", "conv2": "out_layers.3", "conv_shortcut": "skip_connection",
}  # fmt: skip
UNET_NAMES = {
    r"time_embedding\.linear_1": lambda m: "time_embed.0",
    r"time_embedding\.linear_2": lambda m: "time_embed.2",
    r"conv_in": lambda m: "input_blocks.0.0",
    r"conv_norm_out": lambda m: "out.0",
    r"conv_out": lambda m: "out.2",
    r"down_blocks\.(\d)\.resnets\.(\d)\.(\w+)": lambda m: (
        f"input_blocks.{3 * int(m[1]) + int(m[2]) + 1}.0.{RESNET[m[3]]}"
    ),
    r"down_blocks\.(\d)\.attentions\.(\d)": lambda m: f"input_blocks.{3 * int(m[1]) + int(m[2]) + 1}.1",
    r"down_blocks\.(\d)\.downsamplers\.0\.conv": lambda m: f"input_blocks.{3 * int(m[1]) + 3}.0.op",
    r"mid_block\.resnets\.(\d)\.(\w+)": lambda m: f"middle_block.{2 * int(m[1])}.{RESNET[m[2]]}",
    r"mid_block\.attentions\.0": lambda m: "middle_block.1",
    r"up_blocks\.(\d)\.resnets\.(\d)\.(\w+)": lambda m: f"output_blocks.{3 * int(m[1]) + int(m[2])}.0.{RESNET[m[3]]}",
    r"up_blocks\.(\d)\.attentions\.(\d)": lambda m: f"output_blocks.{3 * int(m[1]) + int(m[2])}.1",
    r"up_blocks\.0\.upsamplers\.0": lambda m: "output_blocks.2.1",  # the first level has no attention in between
    r"up_blocks\.(\d)\.upsamplers\.0": lambda m: f"output_blocks.{3 * int(m[1]) + 2}.2",
}
VAE_NAMES = {
    r"(encoder|decoder)\.conv_norm_out": lambda m: f"{m[1]}.norm_out",
    r"encoder\.down_blocks\.(\d)\.resnets\.(\d)\.conv_shortcut": lambda m: (
        f"encoder.down.{m[1]}.block.{m[2]}.nin_shortcut"
    ),
    r"encoder\.down_blocks\.(\d)\.resnets\.(\d)": lambda m: f"encoder.down.{m[1]}.block.{m[2]}",
    r"encoder\.down_blocks\.(\d)\.downsamplers\.0": lambda m: f"encoder.down.{m[1]}.downsample",
    r"decoder\.up_blocks\.(\d)\.resnets\.(\d)\.conv_shortcut": (
        lambda m: f"decoder.up.{3 - int(m[1])}.block.{m[2]}.nin_shortcut"
    ),
    r"decoder\.up_blocks\.(\d)\.resnets\.(\d)": lambda m: f"decoder.up.{3 - int(m[1])}.block.{m[2]}",
    r"decoder\.up_blocks\.(\d)\.upsamplers\.0": lambda m: f"decoder.up.{3 - int(m[1])}.upsample",
    r"(encoder|decoder)\.mid_block\.resnets\.(\d)": lambda m: f"{m[1]}.mid.block_{int(m[2]) + 1}",
    r"(encoder|decoder)\.mid_block\.attentions\.0\.group_norm": lambda m: f"{m[1]}.mid.attn_1.norm",
    r"(encoder|decoder)\.mid_block\.attentions\.0\.to_out\.0": lambda m: f"{m[1]}.mid.attn_1.proj_out",
    r"(encoder|decoder)\.mid_block\.attentions\.0\.to_([qkv])": lambda m: f"{m[1]}.mid.attn_1.{m[2]}",
}
TEXT_BLOCK = {
    "self_attn.out_proj": "attn.out_proj", "layer_norm1": "ln_1", "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj",
}  # fmt: skip


@dataclass(frozen=True)
class Model:
    """Networks whose values float16 holds exactly, and what gives their empty prompt: a text encoder or a tensor."""

    unet: UNet2DConditionModel
    vae: AutoencoderKL
    text: CLIPTextModel | None = None
    prompt: Tensor | None = None


def tiny_with_text() -> Model:
    """Tiny seeded networks with attention in the autoencoder and a text encoder of two layers."""
    torch.manual_seed(5)
    vae = AutoencoderKL(
        block_out_channels=(8, 8, 16, 16), layers_per_block=2, norm_num_groups=4,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
    ).eval()  # fmt: skip
    config = CLIPTextConfig(
        vocab_size=20, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=1,
        max_position_embeddings=9, hidden_act="gelu", bos_token_id=18, eos_token_id=19, pad_token_id=0,
    )  # fmt: skip
    networks = tiny.make_unet(), vae, CLIPTextModel(config).eval()
    return Model(*(network.half().float() for network in networks))


def reference(folder: Path, prompt: Tensor) -> Model:
    """The small networks of the reference vectors."""
    unet = UNet2DConditionModel.from_pretrained(folder / "unet", torch_dtype=torch.float32)
    vae = AutoencoderKL.from_pretrained(folder / "vae", torch_dtype=torch.float32)
    return Model(unet.eval(), vae.eval(), prompt=prompt)


def write_folder(model: Model, folder: Path, variant: str | None = None) -> Path:
    """A diffusers folder; `variant` "fp16" writes half precision under the names that the hub uses."""
    dtype = torch.float16 if variant else torch.float32
    parts = {"unet": model.unet, "vae": model.vae, "text_encoder": model.text}
    for name, network in parts.items():
        if network is not None:
            copy.deepcopy(network).to(dtype).save_pretrained(folder / name, variant=variant)
    write_scheduler(folder)
    if model.text is not None:
        words = {
            "!": 0,
            **{f"word{i}</w>": i for i in range(1, 18)},
            "<|startoftext|>": 18,
            "<|endoftext|>": 19,
        }
        CLIPTokenizer(vocab=words, merges=[], pad_token="!", model_max_length=9).save_pretrained(folder / "tokenizer")
    if model.prompt is not None:
        save_file({"embedding": model.prompt}, folder / "empty_prompt.safetensors")
    return folder


def write_fp16_folder(model: Model, folder: Path) -> Path:
    return write_folder(model, folder, "fp16")


def write_hub_cache(model: Model, folder: Path) -> Path:
    """The hub's cache layout; the caller has to make `folder` the cache."""
    home = folder / f"models--{HUB_ID.replace('/', '--')}"
    (home / "refs").mkdir(parents=True)
    (home / "refs" / "main").write_text(REVISION)
    write_folder(model, home / "snapshots" / REVISION)
    return folder


def write_single_file(model: Model, folder: Path) -> Path:
    """The original layout in one file, with the configurations of a small model beside it."""
    return _write_single_file(model, folder, lambda tensor: tensor)


def write_fp16_single_file(model: Model, folder: Path) -> Path:
    return _write_single_file(model, folder, Tensor.half)


def _write_single_file(model: Model, folder: Path, convert: Callable[[Tensor], Tensor]) -> Path:
    for name, network in (("unet", model.unet), ("vae", model.vae)):
        (folder / name).mkdir(parents=True)
        (folder / name / "config.json").write_text(network.to_json_string())
    if model.prompt is not None:
        save_file({"embedding": model.prompt}, folder / "empty_prompt.safetensors")
    tensors = {name: convert(tensor).contiguous() for name, tensor in original_tensors(model).items()}
    save_file(tensors, folder / "small_512-ema-pruned.safetensors")
    return folder / "small_512-ema-pruned.safetensors"


def write_scheduler(folder: Path, **changes: object) -> None:
    (folder / "scheduler").mkdir(parents=True, exist_ok=True)
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps({**tiny.SCHEDULER, **changes}))


def original_tensors(model: Model) -> dict[str, Tensor]:
    """All tensors under the names of Stable Diffusion 2's own checkpoints, with a stray averaged copy."""
    tensors = {"model_ema.decay": torch.ones(1)}
    for name, tensor in model.unet.state_dict().items():
        tensors["model.diffusion_model." + _renamed(name, UNET_NAMES)] = tensor
    for name, tensor in model.vae.state_dict().items():
        pointwise = ".attentions." in name and "group_norm" not in name and name.endswith("weight")
        tensors["first_stage_model." + _renamed(name, VAE_NAMES)] = tensor[..., None, None] if pointwise else tensor
    for name, tensor in openclip_tensors(model.text).items() if model.text is not None else ():
        tensors["cond_stage_model.model." + name] = tensor
    return tensors


def openclip_tensors(text: CLIPTextModel) -> dict[str, Tensor]:
    """A CLIP text model in OpenCLIP's layout, plus the last layer that SD 2 does not use."""
    state = {name.removeprefix("text_model."): tensor for name, tensor in text.state_dict().items()}
    tensors = {
        "token_embedding.weight": state["embeddings.token_embedding.weight"],
        "positional_embedding": state["embeddings.position_embedding.weight"],
        "ln_final.weight": state["final_layer_norm.weight"],
        "ln_final.bias": state["final_layer_norm.bias"],
        "logit_scale": torch.zeros(()),
    }
    layers = text.config.num_hidden_layers
    for layer in range(layers + 1):
        source, target = f"encoder.layers.{min(layer, layers - 1)}.", f"transformer.resblocks.{layer}."
        for kind in ("weight", "bias"):
            stacked = [state[f"{source}self_attn.{name}_proj.{kind}"] for name in "qkv"]
            tensors[f"{target}attn.in_proj_{kind}"] = torch.cat(stacked)
            for old, new in TEXT_BLOCK.items():
                tensors[f"{target}{new}.{kind}"] = state[f"{source}{old}.{kind}"].clone()
    return tensors


def _renamed(name: str, names: Mapping[str, Callable[[re.Match[str]], str]]) -> str:
    for pattern, rename in names.items():
        if match := re.match(pattern + r"(?=\.)", name):
            return rename(match) + name[match.end() :]
    return name

"""Single-file checkpoints in Stable Diffusion 2's original layout, the form in which the authors used SD 2.1.

One .safetensors file holds `model.diffusion_model.*` (denoiser), `first_stage_model.*` (autoencoder) and
`cond_stage_model.model.*` (OpenCLIP text encoder). Nothing is looked up: the repository that diffusers would ask for
the configuration was withdrawn. What lies beside the file wins over what is built in here: `unet/config.json`,
`vae/config.json`, `scheduler/scheduler_config.json`, `empty_prompt.safetensors`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint, convert_ldm_vae_checkpoint
from torch import Tensor, nn

from pipeline.backbone.checkpoint import fill, metadata_of, part_of
from pipeline.backbone.empty_prompt import check_prompt, kept_prompt, stored_prompt
from pipeline.backbone.files import EMPTY_PROMPT, configuration, refuse_pickles
from pipeline.backbone.image.configuration import (
    SD21_UNET,
    SD21_VAE,
    betas,
    check_prediction_type,
)
from pipeline.backbone.image.folder import Parts
from pipeline.backbone.scheduler_config import scheduler_of
from pipeline.errors import WeightsError

UNET_PREFIX = "model.diffusion_model."
VAE_PREFIX = "first_stage_model."
TEXT_PREFIX = "cond_stage_model.model."
REMEDY = "backbone.path must be a checkpoint like v2-1_512-ema-pruned.safetensors, or a diffusers folder"

#: Channels of one attention head of the OpenCLIP text encoders that SD 2 was trained with.
TEXT_HEAD = 64


def load_single_file(path: Path) -> Parts:
    """The networks (float32, on the CPU), empty-prompt context and betas of a single-file checkpoint.

    Raises:
        WeightsError: a pickle, a damaged file, another layout or shape, or a model that does not predict epsilon.
    """
    refuse_pickles(path)
    scheduler = scheduler_of(path)
    check_prediction_type(_prediction_type(path, metadata_of(path), scheduler), path)
    unet_config = configuration(path, "unet", SD21_UNET)
    unet = UNet2DConditionModel.from_config(unet_config)
    fill(unet, convert_ldm_unet_checkpoint(part_of(path, UNET_PREFIX, REMEDY), dict(unet.config)), path, "unet")
    vae = load_single_autoencoder(path)
    width = unet.config.cross_attention_dim
    stored = path.parent / EMPTY_PROMPT
    if stored.is_file():
        context = stored_prompt(stored, width)
    else:
        text = part_of(path, TEXT_PREFIX, f"{REMEDY}; put {EMPTY_PROMPT} beside it")
        context = check_prompt(kept_prompt([path], lambda: empty_prompt(text, path)), width, path)
    return Parts(unet, vae, context, betas(scheduler, path))


def load_single_autoencoder(path: Path) -> Any:
    """The autoencoder of a single-file checkpoint, float32, on the CPU; raises as `load_single_file`."""
    vae = AutoencoderKL.from_config(configuration(path, "vae", SD21_VAE))
    fill(vae, convert_ldm_vae_checkpoint(part_of(path, VAE_PREFIX, REMEDY), dict(vae.config)), path, "vae")
    return vae


@torch.no_grad()
def empty_prompt(text: Mapping[str, Tensor], path: Path) -> Tensor:
    """The (t, c) float32 embedding of the empty prompt, from an OpenCLIP text encoder's own weights.

    As in SD 2.1: all layers but the last, then the final normalisation. The empty prompt needs no tokenizer: it is
    the start and end tokens, the last two of the vocabulary, and zeros up to the context length.

    Args:
        text: tensors of `cond_stage_model.model.`, with that prefix.
        path: of the checkpoint, for error messages.
    """
    values = {name.removeprefix(TEXT_PREFIX): tensor.float() for name, tensor in text.items()}
    blocks = 1 + max(
        (int(name.split(".")[2]) for name in values if name.startswith("transformer.resblocks.")), default=-1
    )
    try:
        vocabulary, width = values["token_embedding.weight"].shape
        length = len(values["positional_embedding"])
        tokens = torch.zeros(length, dtype=torch.int64)
        tokens[:2] = torch.tensor([vocabulary - 2, vocabulary - 1])
        states = values["token_embedding.weight"][tokens] + values["positional_embedding"]
        later = torch.full((length, length), -torch.inf).triu(1)
        for block in range(blocks - 1):
            states = _text_block(values, f"transformer.resblocks.{block}.", width)(states[None], src_mask=later)[0]
        scale, shift = values["ln_final.weight"], values["ln_final.bias"]
    except (KeyError, RuntimeError) as error:
        raise WeightsError(
            f"{path}: its text encoder is incomplete ({' '.join(str(error).split())[:120]}); fetch the file again, "
            f"or put {EMPTY_PROMPT} beside it"
        ) from error
    return nn.functional.layer_norm(states, (width,), scale, shift).clone()


def _text_block(values: Mapping[str, Tensor], prefix: str, width: int) -> nn.TransformerEncoderLayer:
    layer = nn.TransformerEncoderLayer(
        width, max(1, width // TEXT_HEAD), len(values[prefix + "mlp.c_fc.weight"]), dropout=0.0, activation="gelu",
        batch_first=True, norm_first=True,
    ).eval()  # fmt: skip
    names = {
        "self_attn": "attn",
        "linear1": "mlp.c_fc",
        "linear2": "mlp.c_proj",
        "norm1": "ln_1",
        "norm2": "ln_2",
    }
    state = {}
    for name in layer.state_dict():
        part, _, rest = name.partition(".")
        state[name] = values[f"{prefix}{names[part]}.{rest}"]
    layer.load_state_dict(state)
    return layer


def _prediction_type(path: Path, metadata: Mapping[str, str], scheduler: Mapping[str, Any]) -> str:
    # The tensors do not tell. The 768 model is the v-prediction one, and its file name is the last hint.
    if "prediction_type" in scheduler:
        return str(scheduler["prediction_type"])
    declared = metadata.get("modelspec.prediction_type", "")
    if declared.startswith("v") or (not declared and "768" in path.stem):
        return "v_prediction"
    return "epsilon"

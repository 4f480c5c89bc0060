"""Writes trained networks as a diffusers folder of fp16 safetensors, and reads it back (I/O module)."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pipeline.backbone.files import SMALL_DECODER_WEIGHTS
from pipeline.backbone.small_decoder import PREFIX
from pipeline.errors import DataError, ResourceError
from pipeline.training.autoencoder import AutoencoderSettings, build_autoencoder
from pipeline.training.compact import Start
from pipeline.training.denoiser import BETAS, TIMESTEPS, Denoiser, DenoiserSettings

SCHEDULER = {
    "_class_name": "EulerDiscreteScheduler",
    "beta_start": BETAS[0],
    "beta_end": BETAS[1],
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": TIMESTEPS,
    "prediction_type": "epsilon",
    "steps_offset": 0,
    "timestep_spacing": "linspace",
}
PARTS = ("unet", "vae", "scheduler", "empty_prompt.safetensors")


def export(denoiser: Denoiser, autoencoder: nn.Module, folder: Path) -> Path:
    """Write `unet/`, `vae/`, `scheduler/` and `empty_prompt.safetensors` (key `embedding`) into `folder`.

    Other files of the folder stay, the given modules too. Raises ResourceError when it cannot be written.
    """
    scratch = folder / "tmp"
    try:
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
        _save_half(denoiser.unet, scratch / "unet")
        _save_half(autoencoder, scratch / "vae")
        (scratch / "scheduler").mkdir()
        (scratch / "scheduler" / "scheduler_config.json").write_text(json.dumps(SCHEDULER, indent=2) + "\n")
        _save_tensor(denoiser.prompt, scratch / "empty_prompt.safetensors")
        for part in PARTS:
            _replace(scratch / part, folder / part)
    except OSError as error:
        raise ResourceError(f"{folder} cannot be written ({error}): free some disk space") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return folder


def export_small_decoder(model: nn.Module, folder: Path) -> Path:
    """Write an AutoencoderTiny's `config.json` and the half-precision weights of its decoder, not of its encoder.

    Raises ResourceError when the folder cannot be written.
    """
    from safetensors.torch import save_file

    tiny: Any = model
    stored = {
        PREFIX + name: value.detach().to("cpu", torch.float16).contiguous()
        for name, value in tiny.decoder.state_dict().items()
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        save_file(stored, folder / SMALL_DECODER_WEIGHTS)
        tiny.save_config(folder)
    except OSError as error:
        raise ResourceError(f"{folder} cannot be written ({error}): free some disk space") from error
    return folder


def read_start(folder: Path) -> Start:
    """The weights of a folder that `export` wrote, as f32. Raises DataError when a part is missing or damaged."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    parts = {}
    for part in ("unet", "vae"):
        path = folder / part / "diffusion_pytorch_model.safetensors"
        try:
            parts[part] = {name: value.float() for name, value in load_file(path).items()}
        except (OSError, SafetensorError) as error:
            raise DataError(f"{path} cannot be read: start from a folder that `vidseg pretrain` wrote") from error
    path = folder / "empty_prompt.safetensors"
    try:
        prompt = load_file(path)["embedding"].float()
    except (OSError, SafetensorError, KeyError) as error:
        raise DataError(f"{path} cannot be read: start from a folder that `vidseg pretrain` wrote") from error
    denoiser = {f"unet.{name}": value for name, value in parts["unet"].items()}
    return Start({**denoiser, "prompt": prompt}, parts["vae"])


def read_networks(folder: Path) -> tuple[Denoiser, nn.Module]:
    """The denoiser and the autoencoder of a folder that `export` wrote, in f32 and in evaluation mode.

    Raises DataError when a part is missing, damaged or of another kind.
    """
    start = read_start(folder)
    try:
        unet, vae = (json.loads((folder / part / "config.json").read_text()) for part in ("unet", "vae"))
        heads, prompt = unet["attention_head_dim"], start.denoiser["prompt"]
        denoiser = Denoiser(
            DenoiserSettings(
                channels=tuple(unet["block_out_channels"]),
                layers=unet["layers_per_block"],
                head=unet["block_out_channels"][-1] // heads[-1],
                groups=unet["norm_num_groups"],
                context_width=prompt.shape[1],
                prompt_tokens=prompt.shape[0],
            )
        )
        autoencoder = build_autoencoder(
            AutoencoderSettings(
                channels=tuple(vae["block_out_channels"]), layers=vae["layers_per_block"], groups=vae["norm_num_groups"]
            )
        )
        denoiser.load_state_dict(start.denoiser)
        autoencoder.load_state_dict(start.autoencoder)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise DataError(
            f"{folder}: not a model of `vidseg pretrain` ({error}): start from a folder that it wrote"
        ) from error
    return denoiser.eval(), autoencoder.eval()


def _save_half(module: nn.Module, folder: Path) -> None:
    import copy

    # Not diffusers' own `to`, which warns of a precaution that these networks do not need.
    half: Any = nn.Module.to(copy.deepcopy(module), "cpu", torch.float16)
    half.save_pretrained(folder)


def _save_tensor(values: torch.Tensor, path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"embedding": values.detach().to("cpu", torch.float16).contiguous()}, path)


def _replace(source: Path, target: Path) -> None:
    if target.is_dir():
        shutil.rmtree(target)
    source.replace(target)

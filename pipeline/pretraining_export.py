"""Writes trained networks as a diffusers folder of fp16 safetensors (I/O module)."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from torch import nn

from pipeline.errors import ResourceError
from pipeline.pretraining_denoiser import BETAS, TIMESTEPS, Denoiser

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


def _save_half(module: nn.Module, folder: Path) -> None:
    import copy

    copy.deepcopy(module).to("cpu", torch.float16).save_pretrained(folder)  # type: ignore[operator]


def _save_tensor(values: torch.Tensor, path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"embedding": values.detach().to("cpu", torch.float16).contiguous()}, path)


def _replace(source: Path, target: Path) -> None:
    if target.is_dir():
        shutil.rmtree(target)
    source.replace(target)

"""A small decoder that imitates an autoencoder's, in the layout of diffusers' AutoencoderTiny (I/O module)."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from pipeline.errors import WeightsError

#: Where a model's folder keeps its own.
FOLDER = "small_decoder"
CONFIG, WEIGHTS = "config.json", "diffusion_pytorch_model.safetensors"
PREFIX = "decoder."


@dataclass(frozen=True)
class SmallDecoder:
    """From scaled latents to images, as `Backbone.decode`.

    Attributes:
        network: the decoder, in float32.
        fingerprint: SHA-256 (hex) of its file.
    """

    network: Any
    fingerprint: str

    @torch.inference_mode()
    def __call__(self, latents: Tensor) -> Tensor:
        """Images (b, 3, 8h, 8w) float32, nominally in [-1, 1], of scaled latents (b, 4, h, w)."""
        return torch.cat([self.network(part.float()) for part in latents.split(1)])


def load_small_decoder(folder: Path, device: torch.device) -> SmallDecoder:
    """Load a folder with `config.json` and `diffusion_pytorch_model.safetensors`; its encoder is not needed.

    Raises:
        WeightsError: a file is missing or damaged, or is of something else.
    """
    from diffusers import AutoencoderTiny

    from pipeline.backbone.weights import cannot_be_loaded, read_json

    config, file = read_json(folder / CONFIG), folder / WEIGHTS
    if not config or not file.is_file():
        raise WeightsError(
            f"{folder}: no small decoder; it needs {CONFIG} and {WEIGHTS} of an AutoencoderTiny for this backbone's "
            "latents (for SD 2.1: hf download madebyollin/taesd --local-dir FOLDER)"
        )
    if config.get("_class_name") != AutoencoderTiny.__name__:
        raise WeightsError(f"{folder / CONFIG}: is a {config.get('_class_name')}, not an {AutoencoderTiny.__name__}")
    decoder = AutoencoderTiny.from_config(config).decoder
    try:
        stored = load_file(file)
        decoder.load_state_dict({name.removeprefix(PREFIX): value for name, value in stored.items() if PREFIX in name})
    except (SafetensorError, OSError, RuntimeError) as error:
        raise cannot_be_loaded(file, error) from error
    with file.open("rb") as stream:
        mark = hashlib.file_digest(stream, "sha256").hexdigest()
    return SmallDecoder(decoder.to(device, torch.float32).eval().requires_grad_(False), mark)


def outlined(device: torch.device) -> SmallDecoder:
    """One of AutoencoderTiny's usual size without weights, on torch's meta device, for counting."""
    from diffusers import AutoencoderTiny

    with torch.device(device):
        return SmallDecoder(AutoencoderTiny().decoder.eval(), "no weights")

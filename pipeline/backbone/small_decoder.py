"""A small decoder that imitates an autoencoder's, in the layout of diffusers' AutoencoderTiny (I/O module)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from pipeline.backbone.files import SMALL_DECODER_WEIGHTS, no_small_decoder, read_json, small_decoder_fingerprint
from pipeline.backbone.networks import NO_WEIGHTS, cannot_be_loaded, frozen
from pipeline.errors import WeightsError

CONFIG = "config.json"
PREFIX, CLASS = "decoder.", "AutoencoderTiny"
#: Channels of the latents of all backbones, and pixels per latent cell.
CHANNELS, STRIDE = 4, 8


@dataclass(frozen=True)
class SmallDecoder:
    """A network that turns scaled latents into images, as `Backbone.decode` does.

    Attributes:
        network: the decoder, in float32.
        fingerprint: SHA-256 (hex) of its file and configuration.
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
    config, file = read_config(folder), folder / SMALL_DECODER_WEIGHTS
    if not config or not file.is_file():
        raise no_small_decoder(folder)
    if config.get("_class_name") != CLASS:
        raise WeightsError(f"{folder / CONFIG}: is a {config.get('_class_name')}, not an {CLASS}")
    try:
        decoder = _network(config)
    except (ValueError, TypeError, RuntimeError) as error:
        raise cannot_be_loaded(folder / CONFIG, error) from error
    _check_latents(decoder, folder)
    try:
        stored = {name: value for name, value in load_file(file).items() if name.startswith(PREFIX)}
        decoder.load_state_dict({name.removeprefix(PREFIX): value for name, value in stored.items()})
    except (SafetensorError, OSError, RuntimeError) as error:
        raise cannot_be_loaded(file, error) from error
    return SmallDecoder(frozen(decoder.to(device, torch.float32)), small_decoder_fingerprint(folder))


def _check_latents(decoder: Any, folder: Path) -> None:
    """Refuse a decoder of other latents, such as those of SD 3 with 16 channels: its file loads without complaint."""
    channels = next(decoder.parameters()).shape[1]
    stride = 2 ** sum(isinstance(module, torch.nn.Upsample) for module in decoder.modules())
    if (channels, stride) != (CHANNELS, STRIDE):
        raise WeightsError(
            f"{folder / CONFIG}: its latents have {channels} channels and cells of {stride} px, this backbone's have "
            f"{CHANNELS} and {STRIDE} px; take the small decoder of this backbone's own latents"
        )


def read_config(folder: Path) -> dict[str, Any]:
    """The configuration of the small decoder in a folder; empty where there is none."""
    return read_json(folder / CONFIG)


def outlined(config: Mapping[str, Any], device: torch.device) -> SmallDecoder:
    """A small decoder without trained weights, e.g. on torch's meta device, for counting.

    Args:
        config: of an AutoencoderTiny; empty = its usual size.
    """
    with torch.device(device):
        return SmallDecoder(_network(config).eval(), NO_WEIGHTS)


def _network(config: Mapping[str, Any]) -> Any:
    from diffusers import AutoencoderTiny

    # diffusers writes this entry and then warns of it.
    known = {key: value for key, value in config.items() if key != "block_out_channels"}
    return AutoencoderTiny.from_config(known).decoder

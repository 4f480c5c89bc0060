"""What sets one family of models apart: which files it is made of, how they are recognised, what builds a model.

A family that comes later is one more `Family`, with its names in `catalogue.py`. Neither torch nor diffusers is
imported here: a family's `builder` is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

#: Files of a hub repository that every family needs.
NETWORKS = ("unet/*.json", "unet/*.safetensors", "vae/*.json", "vae/*.safetensors", "scheduler/*.json")


@dataclass(frozen=True)
class WeightsSource:
    """Where weights lie and what they are: the content of backbone.lock.

    Attributes:
        sha256: of the weights that are loaded and of the effective configuration.
    """

    name: str
    path: Path
    revision: str | None
    sha256: str


@dataclass(frozen=True)
class Builder:
    """What makes models of one family; `Any` stands for the family's implementation of `Backbone`.

    Attributes:
        load: the model of found weights, at a precision of the denoiser, on a device. WeightsError: a file is missing
            or damaged, or the model predicts something else than its family does.
        outline: a model on torch's meta device, from its name, its folder or checkpoint (None: as published) and a
            precision. WeightsError: its configuration is damaged, or its parts do not fit.
        autoencoder: that of a folder or checkpoint alone, float32, on the CPU. WeightsError: it is missing or damaged.
        networks: all that a model keeps in memory: denoiser, autoencoder, others.
        rebuilt: a model like a given one of other networks, as `networks` lists them.
    """

    load: Callable[[WeightsSource, torch.dtype, torch.device], Any]
    outline: Callable[[str, Path | None, torch.dtype], Any]
    autoencoder: Callable[[Path], Any]
    networks: Callable[[Any], tuple[Any, ...]]
    rebuilt: Callable[..., Any]


@dataclass(frozen=True)
class Family:
    """A kind of models.

    Attributes:
        denoiser: the class of its denoiser, as a configuration in diffusers' layout names it.
        conditioning: what the names of the conditioning's tensors begin with in a single-file checkpoint.
        patterns: files of a hub repository that a model needs.
        settings: the effective configuration of a folder or checkpoint. WeightsError: it is damaged, or says what
            VidSeg cannot honour.
        weight_files: the files of a folder that are loaded, in a fixed order. WeightsError: one is missing.
        builder: imports torch and diffusers, then gives what makes models.
    """

    denoiser: str
    conditioning: str
    patterns: tuple[str, ...]
    settings: Callable[[Path], dict[str, Any]]
    weight_files: Callable[[Path], list[Path]]
    builder: Callable[[], Builder]

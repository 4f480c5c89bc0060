"""One network of a diffusers folder: its files, its configuration, its weights as safetensors."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from pipeline.errors import WeightsError

PICKLES = ("*.bin", "*.ckpt", "*.pt", "*.pth", "*.pkl")


def load_network(folder: Path, part: str, network: Any) -> Any:
    """One network of a diffusers folder, in float32 on the CPU.

    Args:
        network: its diffusers class.

    Raises:
        WeightsError: its file is missing or damaged.
    """
    file = network_file(folder, part)
    variant = "fp16" if file.name.endswith(".fp16.safetensors") else None
    try:
        return network.from_pretrained(
            folder / part, local_files_only=True, use_safetensors=True, variant=variant,
            torch_dtype=torch.float32, low_cpu_mem_usage=False,
        )  # fmt: skip
    except (SafetensorError, OSError, ValueError, RuntimeError, KeyError) as error:
        raise cannot_be_loaded(file, error) from error


@contextmanager
def without_bars() -> Iterator[None]:
    """Without transformers' own progress bars, which it draws into a log file as well."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    if shown:
        logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def cannot_be_loaded(place: Path, error: Exception) -> WeightsError:
    """What to raise for weights that a library refuses."""
    reason = " ".join(str(error).split())[:200]
    return WeightsError(f"{place}: cannot be loaded ({reason}); fetch the weights again")


def config_beside(file: Path, part: str, built_in: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of a network of a single-file checkpoint: what lies beside the file, or what is built in."""
    return read_json(file.parent / part / "config.json") or dict(built_in)


def network_file(folder: Path, part: str) -> Path:
    """The safetensors file of one network in a diffusers folder, full precision preferred.

    Raises:
        WeightsError: there is none; pickles are named as the reason when only they exist.
    """
    for name in ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.fp16.safetensors"):
        if (folder / part / name).is_file():
            return folder / part / name
    indexed = sorted((folder / part).glob("diffusion_pytorch_model-*.safetensors"))
    if indexed:
        return indexed[0]
    refuse_pickles(folder / part)
    raise WeightsError(
        f"{folder / part}: no diffusion_pytorch_model.safetensors; backbone.path must be a diffusers folder "
        "with unet/ and vae/, or a .safetensors checkpoint"
    )


def refuse_pickles(place: Path) -> None:
    """Refuse a file or folder whose weights are pickles: loading one can run any code."""
    files = [place] if place.is_file() else [file for pattern in PICKLES for file in sorted(place.glob(pattern))]
    for file in files:
        if any(file.match(pattern) for pattern in PICKLES):
            raise WeightsError(
                f"{file}: pickled weights are refused because loading them can run code; get the .safetensors version"
            )


def refuse_pickles_without_safetensors(folder: Path) -> None:
    """Refuse a folder whose only weights are pickles."""
    if not any(folder.glob("*.safetensors")):
        refuse_pickles(folder)
        raise WeightsError(f"{folder}: no .safetensors file; fetch the weights of this part as well")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file; empty when there is no such file."""
    try:
        return dict(json.loads(path.read_text())) if path.is_file() else {}
    except (ValueError, TypeError) as error:
        raise WeightsError(f"{path}: not a JSON object; fetch the model's configuration again") from error

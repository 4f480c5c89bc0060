"""One network: loading it from a diffusers folder, changing what its modules compute for a while (I/O module)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from pipeline.backbone.files import network_weights
from pipeline.errors import WeightsError

#: Stands for the hash of a model whose weights mean nothing.
NO_WEIGHTS = "no weights"


def load_network(folder: Path, part: str, network: Any) -> Any:
    """One network of a diffusers folder, in float32 on the CPU.

    Args:
        network: its diffusers class.

    Raises:
        WeightsError: its file is missing or damaged.
    """
    stored = network_weights(folder / part)
    try:
        return network.from_pretrained(
            folder / part, local_files_only=True, use_safetensors=True, variant=stored.variant,
            torch_dtype=torch.float32, low_cpu_mem_usage=False,
        )  # fmt: skip
    except (SafetensorError, OSError, ValueError, RuntimeError, KeyError) as error:
        raise cannot_be_loaded(stored.files[0], error) from error


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


def frozen(network: Any) -> Any:
    """The network itself, ready to run and never to be trained."""
    return network.eval().requires_grad_(False)


def cannot_be_loaded(place: Path, error: Exception) -> WeightsError:
    """What to raise for weights that a library refuses."""
    reason = " ".join(str(error).split())[:200]
    return WeightsError(f"{place}: cannot be loaded ({reason}); fetch the weights again")


@contextmanager
def replaced(forwards: Mapping[nn.Module, Callable[..., Tensor]]) -> Iterator[None]:
    """Within the context these modules compute by these functions."""
    with ExitStack() as undo:
        for module, forward in forwards.items():
            undo.callback(delattr, module, "forward")
            module.forward = forward
        yield

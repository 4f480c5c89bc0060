"""Reading single-file checkpoints: their tensors by prefix, and networks that are filled with them (I/O module)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from pipeline.errors import WeightsError


def part_of(path: Path, prefix: str, remedy: str) -> dict[str, Tensor]:
    """The tensors whose names begin with a prefix, in float32 under their whole names; no other is read.

    Args:
        remedy: what the user can do where there are none.

    Raises:
        WeightsError: the file is damaged, or has none.
    """
    with _opened(path) as file:
        part = {name: file.get_tensor(name).float() for name in file.keys() if name.startswith(prefix)}  # noqa: SIM118
    if not part:
        raise WeightsError(f"{path}: no tensors named {prefix}*; {remedy}")
    return part


def metadata_of(path: Path) -> dict[str, str]:
    """What a checkpoint says about itself.

    Raises:
        WeightsError: the file is damaged.
    """
    with _opened(path) as file:
        return dict(file.metadata() or {})


def fill(network: nn.Module, state: Mapping[str, Tensor], path: Path, part: str) -> None:
    """Load the weights of one network of a checkpoint; buffers may be missing.

    Raises:
        WeightsError: they do not fit the network.
    """
    buffers = {name for name, _ in network.named_buffers()}
    try:
        missing, unexpected = network.load_state_dict(state, strict=False)
        if absent := [name for name in (*missing, *unexpected) if name not in buffers]:
            raise RuntimeError(f"missing or unknown: {', '.join(sorted(absent)[:3])}")
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:160]
        raise WeightsError(
            f"{path}: its {part} does not fit the configuration of the published model ({reason}); for another size "
            f"put {part}/config.json beside the file"
        ) from error


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path}: cannot be read ({error}); fetch the weights again") from error

"""Adapters: the few weights of a backbone that learning changed, kept in a file of their own (I/O module)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from pipeline.errors import WeightsError
from pipeline.files import replacing

if TYPE_CHECKING:
    from pipeline.backbone.base import PredictsNoise

Precision = Literal["fp16", "fp32"]
DTYPES: Mapping[Precision, torch.dtype] = {"fp16": torch.float16, "fp32": torch.float32}


@dataclass(frozen=True)
class Adapter:
    """Weights that take the place of a backbone's own.

    Attributes:
        tensors: the weights themselves, by diffusers' names, as in `PredictsNoise.tunable`.
        sha256: of the file's content (hex).
        place: where it comes from, for errors.
    """

    tensors: Mapping[str, Tensor]
    sha256: str
    place: str


def adapter_of(changed: Mapping[str, Tensor], precision: Precision = "fp32") -> Adapter:
    """An adapter of these weights, as a file of that precision would hold them.

    Args:
        changed: weights by diffusers' names, on any device.
        precision: `fp32` keeps float32 weights bit by bit; `fp16` takes half the room and drops changes smaller than
            about a thousandth of the weight.
    """
    tensors = {name: _stored(tensor, precision) for name, tensor in changed.items()}
    return Adapter(tensors, hashlib.sha256(save(tensors)).hexdigest(), "the adapter")


def save_adapter(adapter: Adapter, file: Path) -> None:
    """Write an adapter; the file appears whole, and equal adapters give equal bytes."""
    with replacing(file) as temporary:
        temporary.write_bytes(save(dict(adapter.tensors)))


def load_adapter(file: Path) -> Adapter:
    """Read an adapter.

    Raises:
        WeightsError: there is no such file, or it is damaged.
    """
    try:
        content = file.read_bytes()
        return Adapter(load(content), hashlib.sha256(content).hexdigest(), str(file))
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{file}: cannot be read as an adapter ({error}); export or learn it again") from error


def changed_weights(backbone: PredictsNoise, before: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tunable weights that are not what they were `before`, detached copies."""
    return {
        name: weight.detach().clone()
        for name, weight in backbone.tunable().items()
        if not torch.equal(weight, before[name])
    }


@contextmanager
def adapted(backbone: PredictsNoise, adapter: Adapter) -> Iterator[None]:
    """Within the context the backbone has the adapter's weights; afterwards its own again, whatever happens.

    Raises:
        WeightsError: the backbone has no such weight, or one of another shape.
    """
    own = backbone.tunable()
    for name, tensor in adapter.tensors.items():
        expected = tuple(own[name].shape) if name in own else "none of that name"
        if tuple(tensor.shape) != expected:
            raise WeightsError(
                f"{adapter.place}: {name} is {tuple(tensor.shape)}, the backbone has {expected}; the adapter was made "
                "for another backbone"
            )
    with ExitStack() as undo:
        for name, tensor in adapter.tensors.items():
            weight = own[name]
            undo.callback(setattr, weight, "data", weight.data)
            with torch.inference_mode(False):  # whoever reads the weights may want gradients
                weight.data = tensor.to(weight.device, weight.dtype, copy=True)
        yield


def _stored(tensor: Tensor, precision: Precision) -> Tensor:
    return tensor.detach().to("cpu", DTYPES[precision], copy=True).contiguous()

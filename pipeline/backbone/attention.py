"""The attention of a UNet's decoder blocks: where it is, reading it, and sharing it between variants of a frame.

Reading is by forward hooks on linear layers, so it works with any attention kernel. Sharing is by attention
processors. Both are undone when their context ends, whatever happens inside.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.backbone.base import Tap
from pipeline.errors import UsageError

BLOCKS_PER_LEVEL = 3
#: The decoder blocks that have attention.
ATTENTION_BLOCKS = range(3, 12)


def transformer(unet: nn.Module, block: int) -> Any:
    """The spatial transformer block of decoder block 0..11 of SD 2.1's topology.

    Raises:
        UsageError: that block has no attention (0, 1, 2 have none).
    """
    level = unet.up_blocks[block // BLOCKS_PER_LEVEL] if 0 <= block < 12 else None  # type: ignore[index]
    attentions = getattr(level, "attentions", None)
    if attentions is None:
        raise UsageError(f"decoder block {block} has no attention; choose one of 3..11")
    return attentions[block % BLOCKS_PER_LEVEL].transformer_blocks[0]


def tapped_module(unet: nn.Module, tap: Tap) -> Any:
    """The module whose output a tap names."""
    attention = getattr(transformer(unet, tap.block), "attn1" if tap.layer == "self" else "attn2")
    modules = {"query": attention.to_q, "key": attention.to_k, "output": attention}
    return modules[tap.tensor]


@contextmanager
def recorded(unet: nn.Module, taps: Collection[Tap]) -> Iterator[dict[Tap, Tensor]]:
    """Within the context every forward pass records these taps.

    Yields:
        the recorded tensors, filled by each forward pass.
    """
    store: dict[Tap, Tensor] = {}
    with ExitStack() as handles:
        for tap in taps:
            handles.callback(tapped_module(unet, tap).register_forward_hook(_record(store, tap)).remove)
        yield store


@contextmanager
def recorded_output(module: nn.Module) -> Iterator[list[Tensor]]:
    """Within the context every call of the module appends its output.

    Yields:
        the outputs so far.
    """
    outputs: list[Tensor] = []
    handle = module.register_forward_hook(lambda module, inputs, output: outputs.append(output.detach()))
    try:
        yield outputs
    finally:
        handle.remove()


def _record(store: dict[Tap, Tensor], tap: Tap) -> Callable[..., None]:
    def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
        store[tap] = output.detach()

    return hook


@contextmanager
def processed(processors: Mapping[Any, Callable[..., Tensor]]) -> Iterator[None]:
    """Within the context these attention modules work by these processors (in diffusers' sense)."""
    with ExitStack() as undo:
        for attention, processor in processors.items():
            undo.callback(attention.set_processor, attention.processor)
            attention.set_processor(processor)
        yield


@dataclass(frozen=True)
class GivenOutput:
    """Attention whose output (halves * j, n, c) is known."""

    output: Tensor

    def __call__(self, attention: Any, hidden_states: Tensor, **_: Any) -> Tensor:
        return self.output


@dataclass(frozen=True)
class GivenWeights:
    """Self-attention with weights that variants of a frame share; the values are their own.

    Attributes:
        weights: (halves, f, heads, n, n), each row a distribution.
        frames: (j,) which of the f frames each variant is of.
    """

    weights: Tensor
    frames: Sequence[int]

    def __call__(self, attention: Any, hidden_states: Tensor, **_: Any) -> Tensor:
        values = attention.to_v(hidden_states).unflatten(0, (-1, len(self.frames))).unflatten(-1, (attention.heads, -1))
        mixed = torch.empty_like(values)  # (halves, j, n, heads, d)
        for frame in sorted(set(self.frames)):
            of_frame = [job for job, other in enumerate(self.frames) if other == frame]
            mixed[:, of_frame] = torch.einsum("gknm,gjmkd->gjnkd", self.weights[:, frame], values[:, of_frame])
        projection, dropout = attention.to_out
        return dropout(projection(mixed.flatten(-2).flatten(0, 1)))


def attention_weights(attention: Any, query: Tensor, key: Tensor) -> Tensor:
    """softmax(Q K^T / sqrt(d)), (b, heads, n, m), of queries (b, n, c) and keys (b, m, c).

    Computed in float32: at half precision the products of SD 2.1 may overflow. The result has the queries' dtype.
    """
    heads = [tensor.float().unflatten(-1, (attention.heads, -1)).transpose(1, 2) for tensor in (query, key)]
    scale = (query.shape[-1] // attention.heads) ** -0.5
    return ((heads[0] * scale) @ heads[1].transpose(-1, -2)).softmax(dim=-1).to(query.dtype)

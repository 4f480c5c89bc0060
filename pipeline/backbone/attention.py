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

from pipeline.backbone.base import Layer, Tap
from pipeline.errors import UsageError

BLOCKS_PER_LEVEL = 3
#: The decoder blocks that have attention.
ATTENTION_BLOCKS = range(3, 12)


def transformer(unet: nn.Module, block: int, blocks: str = "transformer_blocks") -> Any:
    """The transformer block of decoder block 0..11 of SD 2.1's topology.

    Args:
        blocks: the list that holds it: of spatial layers, or a video model's `temporal_transformer_blocks`.

    Raises:
        UsageError: that block has no attention (0, 1, 2 have none).
    """
    level = unet.up_blocks[block // BLOCKS_PER_LEVEL] if 0 <= block < 12 else None  # type: ignore[index]
    attentions = getattr(level, "attentions", None)
    if attentions is None:
        raise UsageError(f"decoder block {block} has no attention; choose one of 3..11")
    return getattr(attentions[block % BLOCKS_PER_LEVEL], blocks)[0]


def attention_of(unet: nn.Module, block: int, layer: Layer) -> Any:
    """One attention of a decoder block."""
    spatial = layer in ("self", "cross")
    layers = transformer(unet, block, "transformer_blocks" if spatial else "temporal_transformer_blocks")
    return layers.attn1 if layer in ("self", "temporal_self") else layers.attn2


def tapped_module(unet: nn.Module, tap: Tap) -> Any:
    """The module whose output a tap names."""
    attention = attention_of(unet, tap.block, tap.layer)
    modules = {"query": attention.to_q, "key": attention.to_k, "output": attention}
    return modules[tap.tensor]


def token_shape(unet: nn.Module, block: int, size: tuple[int, int], latent_stride: int) -> tuple[int, int, int]:
    """(h, w, c): token grid and query width of a decoder block, for frames of size (H, W)."""
    query = tapped_module(unet, Tap(block, "self", "query"))
    # Level 0 works at an eighth of the latents' resolution, level 3 at full resolution.
    stride = latent_stride * 2 ** (3 - block // BLOCKS_PER_LEVEL)
    return size[0] // stride, size[1] // stride, int(query.out_features)


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
def recorded_outputs(modules: Collection[nn.Module]) -> Iterator[list[Tensor]]:
    """Within the context every call of one of these modules appends its output.

    Yields:
        the outputs so far.
    """
    outputs: list[Tensor] = []

    def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
        outputs.append(output)

    with ExitStack() as handles:
        for module in modules:
            handles.callback(module.register_forward_hook(hook).remove)
        yield outputs


def _record(store: dict[Tap, Tensor], tap: Tap) -> Callable[..., None]:
    def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
        store[tap] = output

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


@dataclass(frozen=True)
class GivenPattern:
    """Self-attention whose weights are known; the values are its own.

    Attributes:
        weights: (f, heads, n, n), each row a distribution, for f sequences; a batch is j times these.
    """

    weights: Tensor

    def __call__(self, attention: Any, hidden_states: Tensor, **_: Any) -> Tensor:
        values = attention.to_v(hidden_states).unflatten(0, (-1, len(self.weights)))
        mixed = torch.einsum("fknm,jfmkd->jfnkd", self.weights, values.unflatten(-1, (attention.heads, -1)))
        projection, dropout = attention.to_out
        return dropout(projection(mixed.flatten(-2).flatten(0, 1)))


@contextmanager
def shifted(values: Mapping[Any, Tensor], place: str) -> Iterator[None]:
    """Within the context the outputs of these attention modules (b, n, c) have values (b, n, 1) added: Eq. 2.

    Args:
        place: `after` the output projection f, or `inside` it.
    """
    with ExitStack() as handles:
        for attention, value in values.items():
            # Before hooks that are there already, so that these see the changed output.
            if place == "after":
                handle = attention.register_forward_hook(_add_to_output(value), prepend=True)
            else:
                handle = attention.to_out[0].register_forward_pre_hook(_add_to_input(value))
            handles.callback(handle.remove)
        yield


def _add_to_output(value: Tensor) -> Callable[..., Tensor]:
    return lambda module, inputs, output: output + value.to(output)


def _add_to_input(value: Tensor) -> Callable[..., tuple[Tensor]]:
    return lambda module, inputs: (inputs[0] + value.to(inputs[0]),)


def attention_weights(attention: Any, query: Tensor, key: Tensor) -> Tensor:
    """softmax(Q K^T / sqrt(d)), (b, heads, n, m), of queries (b, n, c) and keys (b, m, c).

    Computed in float32: at half precision the products of SD 2.1 may overflow. The result has the queries' dtype.
    """
    heads = [tensor.float().unflatten(-1, (attention.heads, -1)).transpose(1, 2) for tensor in (query, key)]
    scale = (query.shape[-1] // attention.heads) ** -0.5
    return ((heads[0] * scale) @ heads[1].transpose(-1, -2)).softmax(dim=-1).to(query.dtype)

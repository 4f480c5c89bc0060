"""Reading and changing the attention of a UNet's decoder blocks by forward hooks.

Hooks sit on plain linear layers, so they need no re-implementation of attention and work with any attention
kernel. They are removed when the context ends, whatever happens inside.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn

from pipeline.backbone.base import Offset, Tap
from pipeline.errors import UsageError

BLOCKS_PER_LEVEL = 3


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


def linear(unet: nn.Module, tap: Tap) -> nn.Linear:
    """The linear layer whose output a tap names."""
    attention = getattr(transformer(unet, tap.block), "attn1" if tap.layer == "self" else "attn2")
    return attention.to_q if tap.tensor == "query" else attention.to_k


@contextmanager
def tapped(
    unet: nn.Module,
    record: Collection[Tap] = (),
    inject: Mapping[Tap, Tensor] | None = None,
    offset: Offset | None = None,
) -> Iterator[dict[Tap, Tensor]]:
    """Within the context every forward pass records, injects and offsets as asked.

    Yields:
        the recorded tensors, filled by each forward pass; an injected tap records what was injected.
    """
    store: dict[Tap, Tensor] = {}
    with ExitStack() as handles:
        for tap, value in (inject or {}).items():
            hook = linear(unet, tap).register_forward_hook(_replace(value))
            handles.callback(hook.remove)
        for tap in record:
            hook = linear(unet, tap).register_forward_hook(_record(store, tap))
            handles.callback(hook.remove)
        if offset is not None:
            cross = transformer(unet, offset.block).attn2
            if offset.place == "after":
                hook = cross.register_forward_hook(_add_to_output(offset.values))
            else:
                hook = cross.to_out[0].register_forward_pre_hook(_add_to_input(offset.values))
            handles.callback(hook.remove)
        yield store


def _record(store: dict[Tap, Tensor], tap: Tap) -> Callable[..., None]:
    def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
        store[tap] = output.detach()

    return hook


def _replace(value: Tensor) -> Callable[..., Tensor]:
    def hook(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        return value.to(output.dtype)

    return hook


def _for_halves(values: Tensor, tokens: Tensor) -> Tensor:
    # Both guidance halves are modulated, as in the authors' code.
    halves = tokens.shape[0] // values.shape[0]
    return values.to(tokens).repeat(halves, 1).unsqueeze(-1)


def _add_to_output(values: Tensor) -> Callable[..., Tensor]:
    def hook(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        return output + _for_halves(values, output)

    return hook


def _add_to_input(values: Tensor) -> Callable[..., tuple[Tensor, ...]]:
    def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (inputs[0] + _for_halves(values, inputs[0]), *inputs[1:])

    return hook

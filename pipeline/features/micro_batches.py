"""Batches that may not fit into memory: which size would, found by trying."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TypeVar

import torch

from pipeline.errors import ResourceError, is_out_of_memory

T = TypeVar("T")

#: Parameter -> samples per pass.
Sizes = Mapping[str, int]


def compute(work: Callable[[Sizes], T], sizes: Sizes) -> T:
    """`work(sizes)`; when memory runs out, smaller sizes are tried to tell the user which one fits.

    The result is never computed with a smaller size by itself: the size of a batch decides its last bits.

    Args:
        work: computes with batches of these sizes. After a failure it is called again, for less, and its result
            dropped.
        sizes: what the parameters say; the first is lowered first.

    Raises:
        ResourceError: out of memory; names the parameters and the sizes that fit.
    """
    result = _attempt(work, sizes)
    if not isinstance(result, _OutOfMemory):
        return result
    given = ", ".join(f"{name} = {size}" for name, size in sizes.items())
    smaller = dict(sizes)
    for smaller in _smaller(sizes):
        if not isinstance(_attempt(work, smaller), _OutOfMemory):
            raise ResourceError(f"out of memory with {given}; what fits: {_options(sizes, smaller)}")
    tried = f", even with {_options(sizes, smaller)}" if smaller != sizes else ""
    raise ResourceError(f"out of memory with {given}{tried}; lower ingest.size or free memory of the device")


class _OutOfMemory:
    """Stands for a result. Not an exception: that would keep the tensors of the failed attempt alive."""


def _attempt(work: Callable[[Sizes], T], sizes: Sizes) -> T | _OutOfMemory:
    try:
        return work(sizes)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return _OutOfMemory()


def _smaller(sizes: Sizes) -> Iterator[dict[str, int]]:
    """Sizes halved one after the other, down to 1."""
    current = dict(sizes)
    for name in sizes:
        while current[name] > 1:
            current[name] //= 2
            yield dict(current)


def _options(sizes: Sizes, smaller: Sizes) -> str:
    return " ".join(f"--set {name}={smaller[name]}" for name in sizes if smaller[name] != sizes[name])

"""How features lie in their store: float16, float32, or int8 per token with a float16 scale."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from pipeline.stores.schemas import ArraySpec
from pipeline.stores.store import Store

#: Suffix of the per-token scale that accompanies an int8 array.
SCALE = "_scale"


def array_specs(shapes: Mapping[str, tuple[int, int, int]], encoding: str, shard: int) -> dict[str, ArraySpec]:
    """Templates of arrays of features, each (f, n, c), under an encoding."""
    specs = {}
    for name, shape in shapes.items():
        specs[name] = ArraySpec(shape, encoding, shard)
        if encoding == "int8":
            specs[name + SCALE] = ArraySpec(shape[:2], "float16", shard)
    return specs


def encode(name: str, values: np.ndarray, encoding: str) -> dict[str, np.ndarray]:
    """The arrays that hold features (f, n, c) float32 under an encoding.

    int8 divides each token by its largest absolute value first, which the method does anyway; the rounding
    error is at most 1/254 of that value.
    """
    if encoding != "int8":
        return {name: values.astype(encoding)}
    scale = (np.abs(values).max(axis=-1) / 127).astype(np.float16)
    divisor = np.maximum(scale.astype(np.float32), np.finfo(np.float16).tiny)[..., None]
    return {name: np.clip(np.rint(values / divisor), -127, 127).astype(np.int8), name + SCALE: scale}


def read_features(store: Store, name: str, start: int = 0, stop: int | None = None) -> np.ndarray:
    """Features (f, n, c) float32 of frames start..stop, whatever their encoding."""
    values = store.read(name, start, stop).astype(np.float32)
    if store.attrs.get("encoding") == "int8":
        values *= store.read(name + SCALE, start, stop).astype(np.float32)[..., None]
    return values

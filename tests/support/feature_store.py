"""features.zarr of four quarters of a grid, which a context model tells apart: for tests that start at `correspond`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pipeline.stores.feature_codec import array_specs, encode
from pipeline.stores.schemas import FEATURES
from pipeline.stores.store import fingerprint
from pipeline.stores.writer import StoreWriter

GRID, CHANNELS, OF_ENCODER = (4, 6), 8, 5


def make_values(frames: int, seed: int = 0, enters: int | None = None) -> np.ndarray:
    """Features (f, n, c) of the quarters, noisy enough that predictions and votes differ.

    Args:
        enters: the frame from which on six tokens show something else; then with little noise.
    """
    rng = np.random.default_rng(seed)
    rows, columns = np.indices(GRID)
    group = (2 * (rows >= 2) + (columns >= 3)).reshape(-1)
    noise = 0.45 if enters is None else 0.1
    values = np.eye(4, CHANNELS)[group] + noise * rng.standard_normal((frames, group.size, CHANNELS))
    if enters is not None:
        values.reshape(frames, *GRID, CHANNELS)[enters:, 1:3, 1:4, 6] += 5
    return values.astype(np.float32)


def make_encoded(frames: int, seed: int = 0) -> np.ndarray:
    """An encoder's features (f, n, c) of length 1, which tell the upper half from the lower one."""
    rng = np.random.default_rng([seed, 1])
    lower = np.indices(GRID)[0].reshape(-1) >= 2
    values = np.eye(2, OF_ENCODER)[lower.astype(int)] + 0.1 * rng.standard_normal((frames, lower.size, OF_ENCODER))
    return (values / np.linalg.norm(values, axis=-1, keepdims=True)).astype(np.float32)


def make_features(
    folder: Path,
    frames: int = 12,
    encoding: str = "float16",
    backbone: str = "weights",
    seed: int = 0,
    encoder: str | None = None,
    parts: str = "both",
    clip: str | None = None,
    enters: int | None = None,
    seeds: Sequence[int] | None = None,
) -> Path:
    """features.zarr whose shard (4 frames) and usual window (5) do not divide each other.

    Args:
        encoder: hash of the encoder whose features lie there too; None = none.
        parts: as `extract.parts`.
        clip: fingerprint of the clip that they say to be of; None = they say nothing.
        enters: the frame from which on something else is seen in the middle; None = nothing is.
        seeds: clips of these seeds, joined, in place of one.
    """
    raw = np.concatenate([make_values(frames, one, enters) for one in seeds or [seed]])
    frames = len(raw)
    normalized = raw / np.abs(raw).max(axis=-1, keepdims=True)
    arrays = {} if parts == "encoder" else {"aggregated": normalized, "matching": 3 * raw}
    attrs: dict[str, object] = {"grid": list(GRID), "encoding": encoding}
    extract = {"blocks": [6, 7, 8], "matching_block": 7, "feature_step": 24, "normalize": "max_abs"}
    if clip is not None:
        attrs["clip"] = clip
    if encoder is not None:
        arrays["encoder"] = make_encoded(frames, seed)
        attrs |= {"arrays": list(arrays), "encoder": encoder}
    writer = StoreWriter(
        folder / "features.zarr",
        folder / "tmp",
        FEATURES,
        fingerprint("features", frames, encoding, backbone, seed, encoder, parts, enters, seeds),
        array_specs({name: values.shape for name, values in arrays.items()}, encoding, 4),
        params={"extract": extract},
        backbone=backbone,
        attrs=attrs,
    )
    for name, values in arrays.items():
        for array, stored in encode(name, values, encoding).items():
            for start in range(0, frames, 4):
                writer.write(array, start, stored[start : start + 4])
    return writer.commit()

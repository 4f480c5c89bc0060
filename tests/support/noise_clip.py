"""A clip of noise, ingested, and coarse labels for it: for tests that start at `extract`."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pipeline.stores.schemas import CLIP, COARSE, LATENTS, ArraySpec
from pipeline.stores.store import array_fingerprint, open_store
from pipeline.stores.writer import StoreWriter

FRAMES, SIZE = 5, (64, 128)


def make_clip(path: Path, seed: int = 0) -> Path:
    """clip.zarr of every third frame of a source; two frames per shard."""
    frames = np.random.default_rng(seed).integers(0, 256, (FRAMES, *SIZE, 3), dtype=np.uint8)
    specs = {"frames": ArraySpec(frames.shape, "uint8", 2)}
    attrs = {
        "names": [f"{i:05d}" for i in range(FRAMES)],
        "source_size": [60, 120],
        "source_indices": [3 * i for i in range(FRAMES)],
    }
    mark = array_fingerprint(frames)
    writer = StoreWriter(path, path.parent / "tmp", CLIP, mark, specs, params={}, attrs=attrs)
    writer.write("frames", 0, frames)
    return writer.commit()


def make_coarse(path: Path, latents: Path, shard: int = 2, confidence: int | None = None) -> Path:
    """coarse.zarr of two labels, left and right, that claims to be made from the features of these latents.

    Args:
        confidence: of all tokens, 0 to 255; None = the store does not say.
    """
    labels = np.zeros((FRAMES, 4, 8), np.uint8)
    labels[:, :, 4:] = 1
    specs = {name: ArraySpec(labels.shape, "uint8", shard) for name in ("initial", "refined")}
    attrs = {"features": open_store(latents, LATENTS).fingerprint}
    if confidence is not None:
        specs["confidence"] = specs["refined"]
    writer = StoreWriter(path, path.parent / "tmp", COARSE, f"c{confidence}", specs, params={}, attrs=attrs)
    for name in specs:
        writer.write(name, 0, np.full_like(labels, confidence) if name == "confidence" else labels)
    return writer.commit()

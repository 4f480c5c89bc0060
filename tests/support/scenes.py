"""A tiny clip with every store that pictures are drawn of: a bright square that moves over a dim ground."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.media.resize import resize_frame, resize_nearest
from pipeline.media.video import open_source, write_video
from pipeline.stores.clip_source import ClipSource, write_source
from pipeline.stores.numbering import ATTRIBUTE, Numbering
from pipeline.stores.schemas import APPLIED_LABELS, CLIP, COARSE, FEATURES, LABELS, ArraySpec, Schema
from pipeline.stores.store import Store, open_store
from pipeline.stores.writer import StoreWriter
from tests.support.commands import write_frames

FRAMES = 5
SIZE = (48, 80)
MODEL_SIZE = (24, 40)
GRID = (6, 10)
FPS = 10.0


def pictures(frames: int = FRAMES, size: tuple[int, int] = SIZE) -> np.ndarray:
    """(f, H, W, 3) u8: a square that moves 8 pixels to the right per frame."""
    images = np.full((frames, *size, 3), (60, 90, 70), np.uint8)
    for number in range(frames):
        images[number, 12:30, 8 * number : 8 * number + 16] = (230, 200, 40)
    return images


def label_maps(frames: int = FRAMES, size: tuple[int, int] = SIZE) -> np.ndarray:
    """(f, H, W) u8: 0 = ground, 3 = the square, 7 = a strip that is there in frames 1 and 2 only."""
    labels = np.zeros((frames, *size), np.uint8)
    for number in range(frames):
        labels[number, 12:30, 8 * number : 8 * number + 16] = 3
    labels[1:3, 40:44] = 7
    return labels


@dataclass
class Scene:
    """Writes the scene's source and stores into a folder, each under its usual name."""

    folder: Path
    images: np.ndarray = field(default_factory=pictures)
    labels: np.ndarray = field(default_factory=label_maps)
    mark: str = "of"  # begins the stores' fingerprints

    def frames_source(self) -> Path:
        """The source as a folder of pictures."""
        return write_frames(self.folder / "shots", self.images)

    def video_source(self) -> Path:
        """The source as an mp4."""
        return write_video(self.folder / "shots.mp4", self.images, FPS)

    def clip(self, source: Path, indices: list[int] | None = None, times: list[float] | None = None) -> Path:
        """clip.zarr of some of the source's frames (None = all), perhaps with times, and source/ beside it."""
        chosen = list(range(len(self.images))) if indices is None else indices
        decoded = [frame for frame in open_source(source).frames() if frame.index in chosen]
        attrs = {
            "names": [frame.name for frame in decoded],
            "source_size": list(self.images.shape[1:3]),
            "source_indices": chosen,
            **({} if times is None else {"times": times}),
        }
        write_source(self.folder / "source", ClipSource(source, FPS), self.folder / "writing")
        frames = np.stack([resize_frame(frame.image, MODEL_SIZE) for frame in decoded])
        return self._store("clip.zarr", CLIP, {"frames": frames}, attrs)

    def labels_store(
        self,
        name: str = "labels.zarr",
        labels: np.ndarray | None = None,
        origin: str | None = "scene",
        confidence: np.ndarray | None = None,
        **params: Any,
    ) -> Path:
        """labels.zarr, whose labels `origin` numbers 0 to 9 (of an earlier version: None), perhaps with confidence."""
        planes = self.labels if labels is None else labels
        attrs = {} if origin is None else {ATTRIBUTE: Numbering(origin, tuple(range(10))).record()}
        more = {} if confidence is None else {"confidence": confidence}
        return self._store(name, LABELS, {"labels": planes, **more}, attrs, {"upsample": params})

    def applied_labels(self, segments: list[dict[str, Any]]) -> Store:
        """labels.zarr of learned segments."""
        attrs = {"segments": segments, "concept": "concept"}
        return open_store(
            self._store("labels.zarr", APPLIED_LABELS, {"labels": self.labels}, attrs, {}), APPLIED_LABELS
        )

    def coarse(self, features: str | None = None) -> Path:
        """coarse.zarr, made from the scene's features, or from those of that fingerprint."""
        planes = np.stack([resize_nearest(plane, GRID) for plane in self.labels])
        arrays = {"initial": planes, "refined": planes}
        return self._store("coarse.zarr", COARSE, arrays, {"features": features or f"{self.mark}-features.zarr"})

    def features(self, *arrays: str) -> Path:
        """Four channels per token: its label as three numbers, and a little noise; the same in each array."""
        planes = np.stack([resize_nearest(plane, GRID) for plane in self.labels])
        tokens = np.random.default_rng(0).normal(0, 0.01, (*planes.shape, 4))
        tokens[..., 0] += planes == 3
        tokens[..., 1] += planes == 7
        values = tokens.reshape(len(planes), -1, 4).astype(np.float16)
        attrs = {"grid": list(GRID), "encoding": "float16"}
        params = {"extract": {"blocks": [6, 7, 8], "matching_block": 7, "encoder": "weights/dinov2"}}
        if arrays:
            attrs["arrays"] = arrays
        content = dict.fromkeys(arrays or FEATURES.arrays, values)
        return self._store("features.zarr", FEATURES, content, attrs, params)

    def _store(
        self,
        name: str,
        schema: Schema,
        arrays: dict[str, np.ndarray],
        attrs: dict[str, Any],
        params: dict[str, Any] | None = None,
    ) -> Path:
        shard = 2  # several shards, the last one partial
        specs = {key: ArraySpec(values.shape, str(values.dtype), shard) for key, values in arrays.items()}
        writer = StoreWriter(
            self.folder / name,
            self.folder / "tmp",
            schema,
            f"{self.mark}-{name}",
            specs,
            params=params or {},
            attrs=attrs,
        )
        for key, values in arrays.items():
            writer.write(key, 0, values)
        return writer.commit()

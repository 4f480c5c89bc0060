"""A tiny concept and what it is applied to: for tests of `learn` and `apply`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.parameters import (
    ApplyParams,
    BackboneParams,
    DiffusionParams,
    ExtractParams,
    GuidanceParams,
    LearnAugment,
    LearnParams,
    MapsParams,
    TrackParams,
)
from stages import extract, ingest, learn, references, track
from stages.common.settings import load
from tests.support.commands import write_frames, write_labels

#: Seconds rather than minutes.
LEARN = LearnParams(
    size=64, epochs=3, phase1_iterations=3, lr_weights=1e-3, augment=LearnAugment(dropout=0, zoom_out=0)
)
GUIDANCE = GuidanceParams(iterations=2, group=2)
APPLY = ApplyParams(timesteps=(100, 99), chunk=3, overlap=1)
TRACK = TrackParams(window=5)


def halves(frames: int, size: tuple[int, int] = (64, 64), seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Pictures (f, H, W, 3) u8 that are bright on the left and dark on the right, and their labels (f, H, W) u8."""
    images = np.random.default_rng(seed).integers(128, 256, (frames, *size, 3), dtype=np.uint8)
    labels = np.zeros((frames, *size), np.uint8)
    labels[:, :, size[1] // 2 :] = 1
    images[labels == 1] //= 4
    return images, labels


def write_references(folder: Path, count: int = 2) -> Path:
    """Annotated images of two segments."""
    images, labels = halves(count)
    write_frames(folder / "images", images)
    write_labels(folder / "labels", labels)
    return folder


@dataclass(frozen=True)
class Stores:
    """A folder that holds `refs`, `concept`, and `clip` with clip.zarr, latents.zarr and tracks.zarr; and the model."""

    folder: Path
    model: Path

    def words(self, command: str) -> list[str]:
        """The words of a command line; `@name` lies in the folder."""
        return [word.replace("@", f"{self.folder}/") for word in command.split()]


def write_tracked(folder: Path, name: str, frames: int, seed: int = 0) -> Path:
    """A clip and its tracks, in a folder of that name; returns clip.zarr."""
    write_frames(folder / "frames" / name, halves(frames, seed=seed)[0])
    clip = ingest.run(folder / "frames" / name, folder / name, load(sets=["ingest.size=native"])["ingest"])
    track.run(clip, None, folder / name, TRACK)
    return clip


def make_stores(folder: Path, model: Path, frames: int) -> Stores:
    """All that `vidseg apply` takes as a stage, of a tiny model."""
    backbone = BackboneParams(path=str(model))
    clip = write_tracked(folder, "clip", frames)
    extract.run(clip, clip.parent, ExtractParams(), DiffusionParams(guidance=1.0, start_step=24), backbone)
    refs = references.run(write_references(folder / "refs"), folder)
    learn.run(refs, folder / "concept", LEARN, MapsParams(), backbone)
    return Stores(folder, model)

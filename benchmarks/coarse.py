"""The rest of the path, upsampling's denoising apart, beside scikit-learn and the authors' steps, in one run.

    python -m benchmarks.coarse > table.md

Prints two tables. First: K-Means, kNN, correspondence-based refinement and difference maps at the size of SD 2.1
(28x52 tokens, 14 frames, 640 channels, 20 labels, maps at 854x480), both sides with the same data, frames, clusters,
restarts and threads; seconds are of the CPU, the best of `--repeats`, and what each row checks is printed with it.
Second: writing and reading features.zarr beside one plain file on the same disk. Both are flushed to the disk before a
write counts as done; reads come from the page cache.

The features are smooth and synthetic: an 8x16 grid of random vectors, enlarged bilinearly, moving half a token per
frame, with noise.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import cv2
import numpy as np
import torch
import typer
from threadpoolctl import threadpool_limits

from benchmarks import authors_steps as theirs
from pipeline.parameters import DiffusionParams, UpsampleParams, UpsampleParity
from pipeline.segmentation import kmeans as clustering
from pipeline.segmentation.authors_code import authors_kept, authors_trajectories, authors_vote
from pipeline.segmentation.context import fit
from pipeline.segmentation.correspondence import next_tokens
from pipeline.segmentation.voting import vote
from pipeline.stores.feature_codec import array_specs, read_features
from pipeline.stores.schemas import FEATURES
from pipeline.stores.store import open_store
from pipeline.stores.writer import StoreWriter
from pipeline.tables.pages import markdown
from pipeline.upsampling import difference as maps
from pipeline.upsampling.label_groups import Region, alone
from pipeline.upsampling.labelling import label_frame
from pipeline.upsampling.responses import Response
from pipeline.upsampling.rules import Rules
from pipeline.upsampling.upsample import shown_map

NEIGHBORS = 4
STRENGTH = 0.7
#: The threshold T on squared distance.
REACH = 2
SHARD = 14
WRAPPED = UpsampleParity(difference="wrapped", filter_resize="lanczos")


@dataclass(frozen=True)
class Cost:
    """Seconds of the CPU (all threads) and on the clock."""

    cpu: float
    wall: float

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.cpu + other.cpu, self.wall + other.wall)


NOTHING = Cost(0.0, 0.0)


@dataclass(frozen=True)
class Step:
    """One row: what it is, both costs, and what was checked."""

    name: str
    theirs: Cost
    ours: Cost
    check: str

    @property
    def cells(self) -> list[str]:
        ratio, clock = self.theirs.cpu / self.ours.cpu, self.theirs.wall / self.ours.wall
        return [
            self.name,
            f"{self.theirs.cpu:.2f} s",
            f"{self.ours.cpu:.2f} s",
            f"{ratio:.1f}",
            f"{clock:.1f}",
            self.check,
        ]


@dataclass(frozen=True)
class Size:
    """How large everything is."""

    frames: int = 14
    grid: tuple[int, int] = (28, 52)
    channels: int = 640
    clusters: int = 20
    restarts: int = 10
    pixels: tuple[int, int] = (480, 854)


def main(
    threads: Annotated[int, typer.Option(help="of BLAS, OpenMP and OpenCV, on both sides")] = 1,
    repeats: Annotated[int, typer.Option(help="runs of each step; the fastest counts")] = 2,
    map_frames: Annotated[int, typer.Option(help="frames that difference maps are made of")] = 14,
    disk: Annotated[
        Path | None, typer.Option(help="folder on the disk to measure; default: that of temporary files")
    ] = None,
) -> None:
    """Print both tables."""
    cv2.setNumThreads(threads)
    with threadpool_limits(limits=threads), tempfile.TemporaryDirectory(dir=disk) as folder:
        print_steps(coarse_steps(Size(), repeats), threads)
        print_steps(map_steps(Size(frames=map_frames), Path(folder)), threads)
        print_disk(Path(folder), Size(), repeats)


def print_steps(steps: Iterator[Step], threads: int) -> None:
    """The first table, row by row as they are measured."""
    heads = ["step", "theirs", "ours", "ratio", "ratio on the clock", "check"]
    print(f"\n{threads} thread{'s' * (threads > 1)}; seconds of the CPU\n\n{markdown(heads, [])}")
    for step in steps:
        print(markdown(step.cells, []).splitlines()[0], flush=True)


def synthetic(size: Size) -> np.ndarray:
    """Features (f, n, c) float32."""
    rng = np.random.default_rng(0)
    coarse = rng.standard_normal((8, 16, size.channels)).astype(np.float32)
    noise = rng.standard_normal((size.frames, *size.grid, size.channels)).astype(np.float32)
    rows = np.arange(size.grid[0]) / 4
    for frame, plane in enumerate(noise):
        columns = (np.arange(size.grid[1]) + 0.5 * frame) / 4
        plane *= np.float32(0.3)
        plane += _between(_between(coarse, rows, 0), columns, 1)
    return noise.reshape(size.frames, -1, size.channels)


def _between(values: np.ndarray, at: np.ndarray, axis: int) -> np.ndarray:
    """Linear interpolation along an axis, float32; the last value beyond the end."""
    low = np.floor(at).astype(int)
    last = values.shape[axis] - 1
    weight = np.expand_dims((at - low).astype(np.float32), tuple(other for other in range(3) if other != axis))
    first, second = (np.take(values, np.minimum(index, last), axis) for index in (low, low + 1))
    return first * (1 - weight) + second * weight


def timed(function: Callable[[], Any], repeats: int = 1) -> tuple[Any, Cost]:
    """The result, and the least of each cost."""
    costs = []
    for _ in range(repeats):
        cpu, wall = time.process_time(), time.perf_counter()
        result = function()
        costs.append(Cost(time.process_time() - cpu, time.perf_counter() - wall))
    return result, Cost(min(cost.cpu for cost in costs), min(cost.wall for cost in costs))


def coarse_steps(size: Size, repeats: int) -> Iterator[Step]:
    """K-Means, kNN and refinement, and the sum of a first and a later pass over all frames."""
    raw = synthetic(size)
    features = raw / np.abs(raw).max(axis=-1, keepdims=True)
    first, window = features[0], features.reshape(-1, size.channels)
    yield kmeans_step(f"K-Means, first frame ({len(first)} tokens)", first, size, repeats)[0]
    kmeans_all, labels = kmeans_step(f"K-Means, all frames ({len(window)} tokens)", window, size, repeats)
    yield kmeans_all
    started = labels[: len(first)]
    knn_first, predicted = knn_step(f"kNN, memory of {len(first)} tokens", first, started, features, repeats)
    yield knn_first
    refinement, refined = refinement_step(raw, predicted, size.grid, repeats)
    yield refinement
    knn_later, _ = knn_step(f"kNN, memory of {len(window)} tokens", window, refined.reshape(-1), features, repeats)
    yield knn_later
    parts = (kmeans_all, knn_first, refinement, knn_later, refinement)
    yield Step(
        "**first and later pass** (K-Means on all frames, kNN and refinement twice)",
        sum((part.theirs for part in parts), NOTHING),
        sum((part.ours for part in parts), NOTHING),
        "sum of the rows above",
    )


def kmeans_step(name: str, tokens: np.ndarray, size: Size, repeats: int) -> tuple[Step, np.ndarray]:
    """scikit-learn beside ours, and our labels (n,)."""
    ours, our_cost = timed(lambda: clustering.kmeans(tokens, size.clusters, size.restarts, 0), repeats)
    (_, inertia), their_cost = timed(lambda: theirs.kmeans(tokens, size.clusters, size.restarts), repeats)
    return Step(name, their_cost, our_cost, f"inertia {100 * (ours.inertia / inertia - 1):+.2f} %"), ours.labels


def knn_step(
    name: str, memory: np.ndarray, labels: np.ndarray, features: np.ndarray, repeats: int
) -> tuple[Step, np.ndarray]:
    """scikit-learn beside ours, and our labels (f, n)."""
    ours, our_cost = timed(lambda: fit(memory, labels).predict(features, NEIGHBORS), repeats)
    found, their_cost = timed(lambda: theirs.nearest_labels(memory, labels, features, NEIGHBORS), repeats)
    return Step(name, their_cost, our_cost, f"{100 * (found == ours).mean():.2f} % equal labels"), ours


def refinement_step(
    features: np.ndarray, labels: np.ndarray, grid: tuple[int, int], repeats: int
) -> tuple[Step, np.ndarray]:
    """Matching and vote: the authors' beside the paper's, which is ours; and our labels (f, n)."""

    def paper() -> np.ndarray:
        return vote(labels, next_tokens(features, grid, REACH, "constrained"), "forward")

    ours, our_cost = timed(paper, repeats)
    found, their_cost = timed(lambda: theirs.refine(features, labels, grid), repeats)
    tracks = authors_trajectories(features, "mixed")
    known = authors_vote(labels, tracks, authors_kept(tracks, grid, "positive"))
    check = f"other rules; theirs: {100 * (found == known).mean():.2f} % as in `pipeline.segmentation.authors_code`"
    return Step("refinement (matches and vote)", their_cost, our_cost, check), ours


def map_steps(size: Size, folder: Path) -> Iterator[Step]:
    """Difference maps and argmax of all frames, from images at the source's size."""
    costs: dict[str, Cost] = dict.fromkeys(("files", "memory", "default"), NOTHING)
    equal = []
    for frame in range(size.frames):
        pairs = list(image_pairs(size, frame))
        results = label_every_way(pairs, size, folder)
        costs = {name: costs[name] + cost for name, (_, cost) in results.items()}
        by_their_rule = labelled(pairs, size, UpsampleParams(filter=STRENGTH, parity=WRAPPED))
        equal.append([(results[name][0] == by_their_rule).mean() for name in ("files", "memory")])
    for name, share in zip(("files", "memory"), np.mean(equal, axis=0), strict=True):
        where = "theirs through files" if name == "files" else "both in memory"
        title = f"difference maps and argmax, {size.frames} x {size.clusters} maps, {where}"
        check = f"other rules; theirs: {100 * share:.2f} % as our `difference: wrapped`"
        yield Step(title, costs[name], costs["default"], check)


def label_every_way(pairs: list[Response], size: Size, folder: Path) -> dict[str, tuple[np.ndarray, Cost]]:
    """Labels of one frame and their cost: theirs through files and in memory, and ours."""
    images = [
        tuple(maps.image_in_8_bits(side.numpy(), size.pixels) for side in (pair.plus, pair.minus)) for pair in pairs
    ]
    masks = [(pair.group.mask * 255).astype(np.uint8) for pair in pairs]
    theirs.save_images(images, masks, folder)
    return {
        "files": timed(lambda: theirs.label_frame_from_files(folder, len(pairs), STRENGTH)),
        "memory": timed(lambda: theirs.label_frame(images, masks, STRENGTH)),
        "default": timed(lambda: labelled(pairs, size, UpsampleParams(filter=STRENGTH))),
    }


def labelled(pairs: list[Response], size: Size, params: UpsampleParams) -> np.ndarray:
    """Labels (H0, W0) of one frame as the library finds them."""
    rules, guide = Rules(DiffusionParams(), params), np.empty((*size.pixels, 3), np.uint8)
    shown = [shown_map(pair, guide, size.pixels, rules) for pair in pairs]
    return label_frame(shown, coarse_map(size), size.pixels, params).labels


def coarse_map(size: Size) -> np.ndarray:
    """A coarse map (h, w) in which each label is a block of tokens."""
    height, width = size.grid
    return np.arange(height * width).reshape(size.grid) * size.clusters // (height * width)


def image_pairs(size: Size, frame: int) -> Iterator[Response]:
    """I+ and I- of every label: smooth decoder outputs (3, H, W) that differ most inside a label's block of tokens."""
    rng = np.random.default_rng(frame)
    coarse = coarse_map(size)
    for label in range(size.clusters):
        mask = coarse == label
        image, change = (
            np.stack([cv2.resize(plane, size.pixels[::-1], interpolation=cv2.INTER_CUBIC) for plane in planes])
            for planes in rng.standard_normal((2, 3, 60, 107), dtype=np.float32)
        )
        change *= 0.02 + 0.1 * maps.resize_mask(mask, size.pixels, "bilinear")
        (group,) = alone([Region(label, mask)])
        plus, minus = (torch.from_numpy(0.3 * image + sign * change) for sign in (1, -1))
        yield Response(frame, group, plus, minus)


def print_disk(folder: Path, size: Size, repeats: int) -> None:
    """The second table: features of four shards, float16, as a store and as a plain file."""
    planes = np.concatenate([synthetic(size)] * 4).astype(np.float16)
    arrays = {"aggregated": planes, "matching": planes}
    megabytes = sum(values.nbytes for values in arrays.values()) / 1e6
    path, plain = folder / "features.zarr", folder / "plain"
    _, written = timed(lambda: write_store(path, arrays), repeats)
    _, raw_written = timed(lambda: write_plain(plain, arrays), repeats)
    store = open_store(path, FEATURES)
    read, store_read = timed(lambda: [read_features(store, name) for name in arrays], repeats)
    assert all(np.array_equal(values, planes) for values in read)
    _, plain_read = timed(lambda: [part.astype(np.float32) for part in read_plain(plain, arrays)], repeats)
    stored = sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) / 1e6
    rows = [
        [
            name,
            *(f"{megabytes / cost.wall:.0f} MB/s ({cost.cpu:.2f} s)" for cost in costs),
            f"{costs[1].wall / costs[0].wall:.2f}",
        ]
        for name, costs in {"write, flushed": (written, raw_written), "read, cached": (store_read, plain_read)}.items()
    ]
    print(
        f"\n{megabytes:.0f} MB of float16 features, {stored:.0f} MB as a store; MB/s of features (seconds of the CPU)\n"
    )
    print(markdown(["", "features.zarr", "one plain file", "ratio"], rows))


def write_store(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write features as `vidseg extract` does, flushed to the disk."""
    shape = next(iter(arrays.values())).shape
    # A fingerprint of its own each time: a complete store of the same one would be left as it is.
    key, specs = (
        f"benchmark-{time.monotonic_ns()}",
        array_specs(dict.fromkeys(("aggregated", "matching"), shape), "float16", SHARD),
    )
    writer = StoreWriter(path, path.parent / "tmp", FEATURES, key, specs, params={})
    for shard in writer.shards():
        for name, values in arrays.items():
            writer.write(name, shard.start, values[shard.start : shard.stop])
    writer.commit()
    for file in path.rglob("*"):
        flush(file)


def write_plain(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """The arrays one after the other, flushed."""
    with path.open("wb") as file:
        for values in arrays.values():
            file.write(values.data)
    flush(path)


def read_plain(path: Path, arrays: dict[str, np.ndarray]) -> Iterator[np.ndarray]:
    """What `write_plain` wrote."""
    with path.open("rb") as file:
        for values in arrays.values():
            yield np.fromfile(file, values.dtype, values.size).reshape(values.shape)


def flush(path: Path) -> None:
    """Wait until a file or folder is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


if __name__ == "__main__":
    sys.exit(typer.run(main))

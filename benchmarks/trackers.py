"""How well trackers follow points, told by the ground truth of labelled clips: there are no tracks to compare with.

    python -m benchmarks.trackers --clip DIR --clip DIR ... > table.md

DIR holds `frames` and `labels` of video rate. A point on the grid of the latents is followed from each annotated frame
to the one 1, 3 and 7 frames later and earlier; it is right when its label there is the label it began with. Shown are
the share of right points among those said to be visible, the same for points within two cells of a border between
labels (most others are right even if nothing moves), and how many are said to be visible; means over clips. `features`
are the diffusion model's, `with encoder` with those of `extract.encoder` beside them, `T` how far a token may move
between neighbours, squared.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import cv2
import numpy as np
import typer

from benchmarks.in_memory import LabelledClip, read_clip
from pipeline.backbone import Backbone
from pipeline.encoder.base import Encoder
from pipeline.encoder.fusion import fused
from pipeline.features.extraction import extract, feature_shape
from pipeline.media.resize import resize_nearest
from pipeline.tables.pages import markdown
from pipeline.tracking.feature_matches import FeatureTracker
from pipeline.tracking.flow import FlowTracker
from pipeline.tracking.static import StaticTracker
from pipeline.tracking.tracks import FeatureMaps, Grid, Tracker, Tracks, track
from stages.common import backbones, encoders
from stages.common.settings import Settings, load

DISTANCES = (1, 3, 7)
WINDOW = 2 * max(DISTANCES) + 1
REACHES = (2, 8, 18)
NEAR = 2


@dataclass(frozen=True)
class Followed:
    """Shares in [0, 1] per distance, and seconds per frame.

    Attributes:
        right, near_borders: of the visible points, and of those near borders between labels.
        visible: of all points.
    """

    right: tuple[float, ...]
    near_borders: tuple[float, ...]
    visible: tuple[float, ...]
    seconds: float


def main(
    clip: Annotated[list[Path], typer.Option(help="folder with frames/ and labels/")],
    frames: Annotated[int, typer.Option(help="first frames of each clip")] = 28,
    set_: Annotated[list[str] | None, typer.Option("--set", metavar="SECTION.KEY=VALUE")] = None,
) -> None:
    """Print a table of trackers, and for each clip the share of right points."""
    settings = load(None, [f"ingest.frames=0:{frames}", "ingest.size=256", *(set_ or ())])
    backbone = backbones.load_backbone(settings["backbone"])
    encoder = encoders.loaded(settings, backbone.device)
    results: dict[str, dict[str, Followed]] = {}
    for folder in clip:
        labelled = read_clip(folder / "frames", folder / "labels", settings)
        results[folder.name] = measured(labelled, backbone, encoder, settings)
        typer.echo(f"{folder.name}: done", err=True)
    print_tables(results)


def measured(
    clip: LabelledClip, backbone: Backbone, encoder: Encoder | None, settings: Settings
) -> dict[str, Followed]:
    """tracker -> how well it follows the clip."""
    height, width = clip.frames.shape[1:3]
    grid = height // backbone.latent_stride, width // backbone.latent_stride
    found = {
        "flow": follow(FlowTracker(), clip, None, grid),
        "static": follow(StaticTracker(), clip, None, grid),
    }
    for name, features in features_of(clip, backbone, encoder, settings).items():
        for reach in REACHES:
            found[f"{name}, T = {reach}"] = follow(FeatureTracker(reach), clip, features, grid)
    return found


def features_of(
    clip: LabelledClip, backbone: Backbone, encoder: Encoder | None, settings: Settings
) -> dict[str, FeatureMaps]:
    """The features that are matched: the diffusion model's, and both."""
    batch = settings["diffusion"].batch
    parts = [
        extract(
            backbone, clip.frames[at : at + batch], list(range(at, min(at + batch, len(clip.frames)))),
            settings["diffusion"], settings["extract"], encoder,
        )
        for at in range(0, len(clip.frames), batch)
    ]  # fmt: skip
    height, width, _ = feature_shape(backbone, clip.frames.shape[1:3], settings["extract"])
    matching = np.concatenate([part.matching.float().cpu().numpy() for part in parts if part.matching is not None])
    found = {"features": FeatureMaps(matching, (height, width))}
    if encoder is not None:
        seen = np.concatenate([part.encoder.float().cpu().numpy() for part in parts if part.encoder is not None])
        found["with encoder"] = FeatureMaps(fused(matching, seen, 1.0), (height, width))
    return found


def follow(tracker: Tracker, clip: LabelledClip, features: FeatureMaps | None, grid: Grid) -> Followed:
    """Track a clip, and look up the labels."""
    started = time.perf_counter()
    tracks = track(tracker, clip.frames, features, grid, WINDOW)
    seconds = (time.perf_counter() - started) / len(clip.frames)
    return right_points(clip, tracks, grid, seconds)


def right_points(clip: LabelledClip, tracks: Tracks, grid: Grid, seconds: float = 0.0) -> Followed:
    """How many points keep their label."""
    labels = {at: resize_nearest(plane, grid) for at, plane in zip(clip.positions, clip.truth, strict=True)}
    counts = {distance: np.zeros(5) for distance in DISTANCES}  # visible, right, the same near borders, all
    for source, begin in labels.items():
        near = near_borders(begin).reshape(-1)
        for distance in DISTANCES:
            for target in (source - distance, source + distance):
                row = target - int(tracks.start[source])
                if target not in labels or not 0 <= row < tracks.yx.shape[1]:
                    continue
                y, x = np.clip(tracks.yx[source, row], 0, np.array(grid) - 1).T
                end, start = labels[target][y, x], begin.reshape(-1)
                known = ~np.isin(start, clip.classes.ignore) & ~np.isin(end, clip.classes.ignore)
                seen = tracks.visible[source, row] & known
                right = seen & (start == end)
                counts[distance] += [seen.sum(), right.sum(), (seen & near).sum(), (right & near).sum(), known.sum()]
    rows = np.stack([counts[distance] for distance in DISTANCES]).T
    with np.errstate(invalid="ignore"):
        shares = rows[1] / rows[0], rows[3] / rows[2], rows[0] / rows[4]
    right, near_share, visible = (tuple(float(value) for value in share) for share in shares)
    return Followed(right, near_share, visible, seconds)


def near_borders(labels: np.ndarray) -> np.ndarray:
    """Cells (h, w) within `NEAR` cells of another label."""
    size = np.ones((2 * NEAR + 1, 2 * NEAR + 1), np.uint8)
    plane = labels.astype(np.uint16)
    return cv2.dilate(plane, size) != cv2.erode(plane, size)


def print_tables(results: Mapping[str, Mapping[str, Followed]]) -> None:
    methods = list(next(iter(results.values())))
    heads = ["tracker", *(f"{distance}" for distance in DISTANCES), "mean", "near borders", "visible", "ms/frame"]
    rows = []
    for method in methods:
        of_clips = [clip[method] for clip in results.values()]
        right, near, visible = (
            np.nanmean([getattr(entry, name) for entry in of_clips], axis=0)
            for name in ("right", "near_borders", "visible")
        )
        shares = [*right, right.mean(), near.mean(), visible.mean()]
        seconds = float(np.mean([entry.seconds for entry in of_clips]))
        rows.append([method, *(f"{100 * share:.1f}" for share in shares), f"{1000 * seconds:.0f}"])
    print(markdown(heads, rows), end="\n\n")
    of_clip = ([clip, *(f"{100 * np.nanmean(entry[m].right):.1f}" for m in methods)] for clip, entry in results.items())
    print(markdown(["clip", *methods], of_clip))


if __name__ == "__main__":
    typer.run(main)

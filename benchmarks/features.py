"""How good the dense features of a backbone are on labelled clips, beside simple features and random weights.

    python -m benchmarks.features --data FOLDER > table.md

FOLDER holds `<data set>/<sequence>/frames` and `.../labels`; sequences with fewer than two label maps are left out.
(i) *propagation*: the first frame's ground truth goes through the clip by kNN. (ii) *protocol*: K-Means segments of
the first frame do, and take the class that covers most of each in that frame. Both: memory = the last window,
nearest enlargement, no refinement; scored at full size on every annotated frame but the first. Seeded.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
import typer

from benchmarks.in_memory import LabelledClip, read_clip
from pipeline.backbone import Backbone, Tap
from pipeline.encoder.base import Encoder
from pipeline.encoder.fusion import fused
from pipeline.encoder.load import load_encoder
from pipeline.encoder.locate import EMBEDDED
from pipeline.features.diffusion import add_noise, clean_pass, conditional_half, draw_noise
from pipeline.features.extraction import aggregate, encoded, max_abs_normalize
from pipeline.features.padding import inner_tokens, margin_of, padded
from pipeline.features.steps import feature_schedule
from pipeline.media.resize import resize_nearest
from pipeline.parameters import DiffusionParams, SegmentParams
from pipeline.scoring.assignment import IDENTITY, Assignment, assign
from pipeline.scoring.metrics import Confusion, Consistency
from pipeline.segmentation.window_loop import Start as ContextStart
from pipeline.segmentation.window_loop import (
    fit_context,
    predict_window,
    update_context,
    window_ranges,
)
from pipeline.upsampling.interpolation import nearest
from stages.common import backbones, encoders
from stages.common.settings import Settings, load

BLOCKS = (6, 7, 8)
POSITION_WEIGHTS = (0.3, 1.0, 3.0)
#: Columns of the table; `block 6` to `block 8` are single blocks of `compact`, which is their average; `encoder` is
#: `extract.encoder` (the embedded one where that is none), `fused` that and the average joined by
#: `segment.encoder_weight`. Both have the margins of `extract.padding`, the others none.
METHODS = (
    "compact",
    "encoder",
    "fused",
    *(f"block {block}" for block in BLOCKS),
    "random",
    "latents",
    "rgb",
    "rgb_position",
    "static",
)
TASKS = ("propagation", "protocol")


@dataclass(frozen=True)
class Score:
    """mIoU and VC_8 of one clip, in [0, 1]; vc8 is NaN for clips of eight frames or fewer."""

    miou: float
    vc8: float


@dataclass(frozen=True)
class Features:
    """Normalised features (f, n, c) float32 of a clip, on a token grid (h, w)."""

    values: np.ndarray
    grid: tuple[int, int]


def main(
    data: Annotated[Path, typer.Option(help="folder of data sets")],
    only: Annotated[str, typer.Option(help="clips whose name contains this")] = "",
    frames: Annotated[int | None, typer.Option(help="first frames of each clip; default all")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", metavar="SECTION.KEY=VALUE")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON instead of the tables")] = False,
) -> None:
    """Print a table per task: one row per clip, one column per method."""
    settings = load(None, [*([f"ingest.frames=0:{frames}"] if frames else []), *(set_ or ())])
    backbone = backbones.load_backbone(settings["backbone"])
    untrained = with_random_weights(backbone)
    extract = settings["extract"]
    chosen = extract if extract.encoder != "none" else replace(extract, encoder=EMBEDDED)
    source = encoders.find(chosen, settings["backbone"])
    assert source is not None
    encoder = load_encoder(source, chosen, backbones.choose_device())
    results: dict[str, dict[str, dict[str, Score]]] = {}
    for folder in clip_folders(data):
        name = f"{folder.parent.name}/{folder.name}"
        if only in name:
            clip = read_clip(folder / "frames", folder / "labels", settings)
            results[name] = score_clip(clip, backbone, untrained, encoder, settings)
            typer.echo(f"{name}: done", err=True)
    if not results:
        raise typer.BadParameter(f"{data}: no <data set>/<sequence> with frames/ and two or more labels/*.png")
    means = {method: {task: mean(results, method, task) for task in TASKS} for method in METHODS}
    if as_json:
        print(json.dumps({"mean": _plain(means), "clips": _plain(results)}, indent=1))
    else:
        for task in TASKS:
            print_table(task, results, means)


def clip_folders(data: Path) -> Iterator[Path]:
    """Sequences below `data` with frames and at least two label maps."""
    for labels in sorted(data.glob("*/*/labels")):
        if (labels.parent / "frames").is_dir() and len(list(islice(labels.glob("*.png"), 2))) == 2:
            yield labels.parent


def score_clip(
    clip: LabelledClip, backbone: Backbone, untrained: Backbone, encoder: Encoder, settings: Settings
) -> dict[str, dict[str, Score]]:
    """method -> task -> score. The position weight with the best mIoU counts, for each task."""
    diffusion = feature_schedule(settings["extract"], settings["diffusion"])
    of_blocks, latents = backbone_features(backbone, clip.frames, diffusion)
    random, _ = backbone_features(untrained, clip.frames, diffusion)
    grid, margin, weight = of_blocks[0].grid, margin_of(settings["extract"]), settings["segment"].encoder_weight
    of_encoder = encoded(encoder, clip.frames, grid, margin).cpu().numpy()
    compact = within = averaged(of_blocks)
    if margin:
        outer, _ = backbone_features(backbone, padded(clip.frames, margin), diffusion)
        within = averaged([without_margin(features, grid) for features in outer])
    joined = of_encoder if weight == "only" else fused(within.values, of_encoder, weight)
    candidates: dict[str, list[Features]] = {
        "compact": [compact],
        "encoder": [Features(of_encoder, grid)],
        "fused": [Features(joined, grid)],
        **{f"block {block}": [normalised(raw)] for block, raw in zip(BLOCKS, of_blocks, strict=True)},
        "random": [averaged(random)],
        "latents": [normalised(latents)],
        "rgb": [normalised(rgb_patches(clip.frames, grid))],
        "rgb_position": [rgb_position(clip.frames, grid, weight) for weight in POSITION_WEIGHTS],
    }
    tasks: dict[str, Callable[[Features], Score]] = {
        "propagation": lambda features: propagate(clip, features, _segment(settings, "mask")),
        "protocol": lambda features: propagate(clip, features, _segment(settings, "kmeans")),
    }
    scores = {
        method: {task: max(map(run, options), key=lambda score: score.miou) for task, run in tasks.items()}
        for method, options in candidates.items()
    }
    still = static_copy(clip, grid)
    return {**scores, "static": dict.fromkeys(TASKS, still)}


def backbone_features(
    backbone: Backbone, frames: np.ndarray, diffusion: DiffusionParams
) -> tuple[list[Features], Features]:
    """Raw queries of each block at the last step, and the latents of each token (2x2 latents)."""
    taps = [Tap(block, "self", "query") for block in BLOCKS]
    queries: dict[Tap, list[np.ndarray]] = {tap: [] for tap in taps}
    codes: list[np.ndarray] = []
    for at in range(0, len(frames), diffusion.batch):
        part = frames[at : at + diffusion.batch]
        latents = backbone.encode(part)
        noise = draw_noise(diffusion, list(range(at, at + len(part))), tuple(latents.shape[1:]))  # type: ignore[arg-type]
        start = add_noise(latents, noise.epsilon, diffusion, backbone)
        last = diffusion.steps - 1
        clean = clean_pass(backbone, start, diffusion, {last: taps})
        for tap in taps:
            queries[tap].append(conditional_half(clean.taps[last][tap], len(part)).float().cpu().numpy())
        codes.append(torch.nn.functional.pixel_unshuffle(latents, 2).flatten(2).transpose(1, 2).cpu().numpy())
    height, width, _ = backbone.token_shape(BLOCKS[0], frames.shape[1:3])
    grid = height, width
    return [Features(np.concatenate(queries[tap]), grid) for tap in taps], Features(np.concatenate(codes), grid)


def without_margin(features: Features, grid: tuple[int, int]) -> Features:
    """The features of the middle of a larger grid."""
    return Features(inner_tokens(torch.from_numpy(features.values), features.grid, grid).numpy(), grid)


def averaged(of_blocks: list[Features]) -> Features:
    """The method's feature: the mean of the blocks, divided per token by its largest absolute value."""
    mean_query = aggregate([torch.from_numpy(features.values) for features in of_blocks])
    return Features(max_abs_normalize(mean_query).numpy(), of_blocks[0].grid)


def normalised(features: Features) -> Features:
    return replace(features, values=max_abs_normalize(torch.from_numpy(features.values)).numpy())


def rgb_patches(frames: np.ndarray, grid: tuple[int, int]) -> Features:
    """The pixels of each token's patch, in [-1, 1]."""
    f, height, width, _ = frames.shape
    rows, columns = height // grid[0], width // grid[1]
    patches = frames.reshape(f, grid[0], rows, grid[1], columns, 3).transpose(0, 1, 3, 2, 4, 5)
    return Features(patches.reshape(f, grid[0] * grid[1], -1).astype(np.float32) / 127.5 - 1, grid)


def rgb_position(frames: np.ndarray, grid: tuple[int, int], weight: float) -> Features:
    """RGB patches of unit scale (divided by the root of their length) beside `weight` times x and y in [-1, 1]."""
    patches = rgb_patches(frames, grid).values
    ys, xs = np.meshgrid(*(np.linspace(-1, 1, size, dtype=np.float32) for size in grid), indexing="ij")
    position = np.broadcast_to(np.stack([ys, xs], -1).reshape(-1, 2), (*patches.shape[:2], 2))
    return Features(np.concatenate([patches / patches.shape[-1] ** 0.5, weight * position], -1), grid)


def propagate(clip: LabelledClip, features: Features, settings: SegmentParams) -> Score:
    """Carry the first frame's labels through the clip: its ground truth, or K-Means segments matched to it."""
    given = resize_nearest(clip.truth[0], features.grid).reshape(-1)
    values = features.values
    start = fit_context(values[: settings.window], settings, given if settings.init == "mask" else None)
    coarse = np.zeros(values.shape[:2], np.int32)
    for window in window_ranges(len(values), settings.window):
        here = slice(window.start, window.stop)
        coarse[here] = predict_window(values[here], start, settings, window.start)
        start = ContextStart(update_context(start.context, values[here], coarse[here], settings))
    planes = enlarged(clip, coarse.reshape(-1, *features.grid))
    if settings.init == "mask":
        return scored(clip, planes, IDENTITY)
    classes = clip.classes
    return scored(
        clip, planes, assign("majority", planes[0], clip.truth[0], classes.ignore, (1, 1), classes.unassigned)
    )


def static_copy(clip: LabelledClip, grid: tuple[int, int]) -> Score:
    """The first frame's ground truth on the token grid, for every frame."""
    first = resize_nearest(clip.truth[0], grid)
    return scored(clip, enlarged(clip, np.broadcast_to(first, (len(clip.frames), *grid))), IDENTITY)


def enlarged(clip: LabelledClip, planes: np.ndarray) -> list[np.ndarray]:
    """The annotated frames' label maps at full size."""
    guide = np.empty((*clip.size, 0))
    return [nearest(planes[at], guide).labels for at in clip.positions]


def scored(clip: LabelledClip, planes: list[np.ndarray], rule: Assignment) -> Score:
    """Scores of all annotated frames but the first, whose ground truth was given."""
    protocol = clip.classes.protocol("strict")
    count = len(protocol.class_values)
    total, consistency = Confusion(count), Consistency([8])
    for truth, plane in list(zip(clip.truth, planes, strict=True))[1:]:
        decoded = protocol.decode(truth, rule.apply(plane))
        total += Confusion.of(decoded, count)
        consistency.update(decoded)
    ratios = [window.ratio for window in consistency.windows[8] if window.area]
    return Score(total.scores().miou, float(np.mean(ratios)) if ratios else float("nan"))


def with_random_weights(backbone: Any, seed: int = 0) -> Backbone:
    """A backbone with an untrained denoiser of equal shape; autoencoder and schedule stay."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        unet = type(backbone.unet).from_config(backbone.unet.config)
    # Not diffusers' own `to`, which warns of a precaution that these networks do not need.
    unet = torch.nn.Module.to(unet, backbone.unet.device, backbone.unet.dtype).eval()
    untrained: Backbone = type(backbone)(unet, backbone.vae, backbone.context, "random", "random")
    return untrained


def mean(results: dict[str, dict[str, dict[str, Score]]], method: str, task: str) -> Score:
    """Unweighted mean over clips; clips without a VC_8 are left out of its mean."""
    found = [of_clip[method][task] for of_clip in results.values()]
    consistency = [score.vc8 for score in found if not np.isnan(score.vc8)]
    return Score(
        float(np.mean([score.miou for score in found])), float(np.mean(consistency)) if consistency else float("nan")
    )


def print_table(task: str, results: dict[str, dict[str, dict[str, Score]]], means: dict[str, dict[str, Score]]) -> None:
    """mIoU and VC_8 in percent, the mean in the last row."""
    print(f"\n{task}: mIoU / VC_8 in percent\n")
    print("| clip | " + " | ".join(METHODS) + " |")
    print("|---" * (len(METHODS) + 1) + "|")
    for name, row in {**results, "**mean**": means}.items():
        cells = (f"{100 * row[method][task].miou:.1f} / {100 * row[method][task].vc8:.1f}" for method in METHODS)
        print(f"| {name} | " + " | ".join(cells) + " |")


def _segment(settings: Settings, init: Literal["kmeans", "mask"]) -> SegmentParams:
    params = settings["segment"]
    return SegmentParams(
        init, params.clusters, params.restarts, window=params.window, neighbors=params.neighbors, seed=params.seed
    )


def _plain(scores: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Nested dicts for JSON; undefined numbers are null."""
    plain: dict[str, Any] = {}
    for key, value in scores.items():
        if isinstance(value, Score):
            plain[key] = {name: None if np.isnan(number) else number for name, number in asdict(value).items()}
        else:
            plain[key] = _plain(value)
    return plain


if __name__ == "__main__":
    typer.run(main)

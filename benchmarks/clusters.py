"""Can K be chosen from the first frame alone? Three criteria beside the best fixed K, on labelled clips.

    python -m benchmarks.clusters --data data --params params.yaml > table.md

DATA is a project's folder with `ingest/KEY` and `extract/KEY` of items of one video (`dvc repro extract`). For every K
the first frame's tokens are clustered as `vidseg segment` does it and carried through the clip without votes; labels
are enlarged by `nearest` and scored as `vidseg evaluate` does it. Then each criterion chooses a K per clip:

* *silhouette*: the largest mean silhouette of the clusters (Rousseeuw, 1987), Euclidean distances;
* *eigengap*: the largest gap between eigenvalues of the tokens' affinity, locally scaled and normalised
  (Zelnik-Manor and Perona, "Self-tuning spectral clustering", 2004);
* *elbow*: the K whose inertia lies farthest below the straight line from the least to the most clusters.

`other clips` is the fixed K that is best on all clips but the one that it is used on, `each clip's best` what no
criterion could beat. Differences to the best fixed K have 95 % intervals over the clips.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from pipeline.parameters import SegmentParams
from pipeline.scoring.assignment import assign
from pipeline.scoring.files import with_names
from pipeline.scoring.scores import ScoredClasses, score_video
from pipeline.segmentation.context import fit
from pipeline.segmentation.joined_features import context_features
from pipeline.segmentation.kmeans import kmeans
from pipeline.segmentation.token_weights import balanced_weights
from pipeline.segmentation.window_loop import Start, predict_window, update_context, window_ranges
from pipeline.stores.schemas import CLIP, FEATURES, TRUTH
from pipeline.stores.store import Store, open_store
from pipeline.tables.bootstrap import ClipCounts, differences
from pipeline.tables.pages import markdown, percent, signed
from pipeline.upsampling.interpolation import nearest
from stages.common.settings import load

WINDOWS = (8, 16)
SCORES = {"miou": "mIoU", "vc8": "mVC_8", "vc16": "mVC_16"}


@dataclass(frozen=True)
class Clusterings:
    """The first frame's clusters for every K.

    Attributes:
        tokens: (n, c) that were clustered.
        labels: K -> (n,).
        inertia: K -> what is left within the clusters.
    """

    tokens: np.ndarray
    labels: Mapping[int, np.ndarray]
    inertia: Mapping[int, float]


def silhouette(found: Clusterings) -> int:
    """The K of the largest mean silhouette."""
    distances = np.sqrt(_squared_distances(found.tokens))
    return max((k for k in found.labels if k > 1), key=lambda k: mean_silhouette(distances, found.labels[k]))


def mean_silhouette(distances: np.ndarray, labels: np.ndarray) -> float:
    """Mean silhouette of labels (n,) under distances (n, n); a token that is alone in its cluster counts 0."""
    members = labels == np.unique(labels)[:, None]
    sizes = members.sum(axis=1)
    sums = members.astype(np.float32) @ distances  # (l, n)
    own = members.argmax(axis=0)
    columns = np.arange(len(labels))
    within = sums[own, columns] / np.maximum(sizes[own] - 1, 1)
    means = sums / sizes[:, None]
    means[own, columns] = np.inf
    others = means.min(axis=0)
    values = (others - within) / np.maximum(np.maximum(others, within), 1e-12)
    return float(np.where(sizes[own] > 1, values, 0).mean())


def eigengap(found: Clusterings) -> int:
    """The K after which the eigenvalues of the normalised affinity drop most."""
    squared = _squared_distances(found.tokens)
    scale = np.sqrt(np.partition(squared, 7, axis=1)[:, 7])  # to the 7th neighbour, as in the paper
    affinity = np.exp(-squared / np.maximum(scale[:, None] * scale, 1e-12))
    np.fill_diagonal(affinity, 0)
    roots = np.sqrt(np.maximum(affinity.sum(axis=1), 1e-12))
    values = np.linalg.eigvalsh(affinity / roots[:, None] / roots)[::-1]
    return max((k for k in found.labels if k > 1), key=lambda k: float(values[k - 1] - values[k]))


def elbow(found: Clusterings) -> int:
    """The K whose inertia lies farthest below the line between the ends."""
    ks = np.array(sorted(found.inertia))
    inertia = np.array([found.inertia[k] for k in ks])
    line = np.interp(ks, [ks[0], ks[-1]], [inertia[0], inertia[-1]])
    return int(ks[np.argmax(line - inertia)])


CRITERIA: dict[str, Callable[[Clusterings], int]] = {"silhouette": silhouette, "eigengap": eigengap, "elbow": elbow}


def main(
    data: Annotated[Path, typer.Option(help="a project's data/, after `dvc repro extract`")] = Path("data"),
    most: Annotated[int, typer.Option(help="the largest K")] = 24,
    params: Annotated[Path | None, typer.Option(help="parameter file")] = None,
) -> None:
    """Print the scores of fixed and chosen K over all clips, and what was chosen for each."""
    segment, ks = load(params)["segment"], range(2, most + 1)
    records: dict[str, dict[int, dict[str, Any]]] = {}
    chosen: dict[str, dict[str, int]] = {}
    for folder in sorted((data / "extract").iterdir()):
        features = open_store(folder / "features.zarr", FEATURES)
        truth = open_store(data / "ingest" / folder.name / "truth.zarr", TRUTH)
        clip = open_store(data / "ingest" / folder.name / "clip.zarr", CLIP)
        tokens = context_features(features, segment)
        values = tokens.read(0, clip.frames("frames"))
        found = clusterings(values[0], ks, segment)
        chosen[folder.name] = {name: choose(found) for name, choose in CRITERIA.items()}
        grid = tuple(features.attrs["grid"])
        records[folder.name] = {k: score(values, found.labels[k], grid, truth, segment) for k in ks}
        typer.echo(f"{folder.name}: done", err=True)
    print_tables(records, chosen)


def clusterings(tokens: np.ndarray, ks: range, segment: SegmentParams) -> Clusterings:
    """K-Means of the first frame's tokens (n, c) for every K."""
    weights = balanced_weights(tokens, segment.balance)
    results = {k: kmeans(tokens, k, segment.restarts, segment.seed, weights) for k in ks}
    return Clusterings(
        tokens, {k: result.labels for k, result in results.items()}, {k: r.inertia for k, r in results.items()}
    )


def score(
    values: np.ndarray, first: np.ndarray, grid: tuple[int, ...], truth: Store, segment: SegmentParams
) -> dict[str, Any]:
    """The record of a clip with features (f, n, c) whose first frame has labels (n,); without votes."""
    start = Start(fit(values[0], first), first)
    coarse = np.zeros(values.shape[:2], np.int32)
    for window in window_ranges(len(values), segment.window):
        here = slice(window.start, window.stop)
        coarse[here] = predict_window(values[here], start, segment, window.start)
        start = Start(update_context(start.context, values[here], coarse[here], segment))
    positions = [int(position) for position in truth.attrs["indices"]]
    maps = truth.read("ground_truth", 0, len(positions))
    guide = np.empty((*maps.shape[1:], 0))
    labels = [nearest(coarse[position].reshape(grid), guide).labels for position in positions]
    names = {int(entry["id"]): str(entry["name"]) for entry in truth.attrs["classes"]}
    classes = ScoredClasses(names, tuple(int(value) for value in truth.attrs["ignore"]))
    rule = assign("majority", labels[0], maps[0], classes.ignore, (1, 1), classes.unassigned)
    scored = score_video(maps, labels, positions, classes, classes.protocol("strict"), rule, WINDOWS)
    return {**scored, "classes": [{"value": value, "name": name} for value, name in names.items()]}


def print_tables(records: Records, chosen: Mapping[str, Mapping[str, int]]) -> None:
    """The scores over all clips, and the K of every criterion by clip."""
    ks = sorted(next(iter(records.values())))
    fixed = {k: dict.fromkeys(records, k) for k in ks}
    best = best_fixed(records, list(records))
    rows: dict[str, Mapping[str, int]] = {
        **{f"K = {k}": fixed[k] for k in ks if k % 4 == 0 or k == best},
        **{name: {clip: chosen[clip][name] for clip in records} for name in CRITERIA},
        "other clips": {clip: best_fixed(records, [other for other in records if other != clip]) for clip in records},
        "each clip's best": {clip: best_fixed(records, [clip]) for clip in records},
    }
    base = counts(records, fixed[best])
    lines = []
    for name, choice in rows.items():
        pooled = counts(records, choice).pooled(np.ones((1, len(records))))
        found = differences(base, counts(records, choice))
        cells = [name, f"{np.mean(list(choice.values())):.0f}"]
        cells += [percent(float(pooled[key][0])) for key in SCORES]
        lines.append([*cells, *(signed(found[key]) for key in SCORES)])
    behind = [f"{title}, minus K = {best}" for title in SCORES.values()]
    print(markdown(["K by", "mean K", *SCORES.values(), *behind], lines))
    print()
    per_clip = (*CRITERIA, "other clips", "each clip's best")
    print(markdown(["clip", *per_clip], [[clip, *(str(rows[name][clip]) for name in per_clip)] for clip in records]))


#: Clip -> K -> what was scored.
Records = Mapping[str, Mapping[int, Mapping[str, Any]]]


def best_fixed(records: Records, clips: list[str]) -> int:
    """The K with the highest pooled mIoU over some clips, the smallest on ties."""
    chosen = {clip: records[clip] for clip in clips}
    scores = {
        k: float(counts(chosen, dict.fromkeys(clips, k)).pooled(np.ones((1, len(clips))))["miou"][0])
        for k in sorted(records[clips[0]])
    }
    return max(scores, key=lambda k: scores[k])


def counts(records: Records, choice: Mapping[str, int]) -> ClipCounts:
    """What pooling needs of the clips, each with its K."""
    return ClipCounts.of([with_names(of_clip[choice[clip]]) for clip, of_clip in records.items()], WINDOWS)


def _squared_distances(tokens: np.ndarray) -> np.ndarray:
    squares = np.einsum("nc,nc->n", tokens, tokens)
    distances = np.maximum(squares[:, None] + squares - 2 * tokens @ tokens.T, 0)
    np.fill_diagonal(distances, 0)
    return distances


if __name__ == "__main__":
    typer.run(main)

"""Checks of the recorded arrays of steps 4 and 5 (context model, refinement), each from its recorded inputs.

A case is a mapping of array names; `CHECKS` gives for a pattern of names the check of such an array, called
with the case, the number of its pass and its full name. Passes over the same frames share their features; a
case that lacks a pass' `q_block7` altogether must be given one under that name.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from pipeline.media.resize import resize_nearest
from pipeline.segmentation.authors_code import authors_kept, authors_passes, authors_trajectories, authors_vote
from pipeline.segmentation.context import Context, fit, make_segment, merge_by_mask, nearest_tokens
from pipeline.segmentation.correspondence import next_tokens
from pipeline.segmentation.kmeans import kmeans
from pipeline.segmentation.voting import vote

Case = Mapping[str, np.ndarray]
Check = Callable[[Case, int, str], None]

NEIGHBORS = 4
MAX_SQUARED_DISTANCE = 2
CLEAR_GAP = 1e-4  # relative gap of the 4th to the 5th neighbour below which float32 may order them differently
LABEL_SHARE = 0.995


def meta(case: Case) -> dict:
    return json.loads(str(case["meta_json"]))


def of_frames(case: Case, index: int, name: str) -> np.ndarray:
    """An array of a pass, taken from another pass over the same frames where this one does not repeat it."""
    frames = case[f"p{index}_frame_index"]
    for other in (index, *range(10)):
        if f"p{other}_{name}" in case and np.array_equal(case[f"p{other}_frame_index"], frames):
            return case[f"p{other}_{name}"]
    raise KeyError(f"p{index}_{name} is neither recorded nor given")


def as_tokens(labels: np.ndarray) -> np.ndarray:
    return labels.reshape(len(labels), -1)


def assert_agree(ours: np.ndarray, recorded: np.ndarray, name: str, share: float = LABEL_SHARE) -> None:
    agreement = (ours.reshape(recorded.shape) == recorded).mean()
    assert agreement >= share, f"{name}: only {agreement:.4%} agree"


# --- passes and labels


def check_frame_index(case: Case, index: int, name: str) -> None:
    settings = meta(case)
    passes = authors_passes(settings["clip_frames"], settings["batch_size"])
    assert case[name].tolist() == list(passes[index])
    assert [[frames.start, frames.stop] for frames in passes] == settings["passes"]


def check_labels(case: Case, index: int, name: str) -> None:
    np.testing.assert_array_equal(case[name], np.unique(case["p0_first_frame_labels"]))
    assert np.isin(context_before(case, 0).predict(case["p0_feature_norm"], NEIGHBORS), case[name]).all()


# --- K-Means


def inertia(tokens: np.ndarray, labels: np.ndarray) -> float:
    """Sum of squared distances to the means of the labelled groups."""
    groups = [tokens[labels == label].astype(np.float64) for label in np.unique(labels)]
    return float(sum(np.square(group - group.mean(axis=0)).sum() for group in groups))


def check_kmeans_labels(case: Case, index: int, name: str) -> None:
    tokens = case["p0_feature_norm"].reshape(-1, case["p0_feature_norm"].shape[-1])
    nearest = nearest_tokens(case["p0_kmeans_centers"], tokens, 1)
    assert_agree(nearest, case[name], name)


def check_kmeans_labels_frame0(case: Case, index: int, name: str) -> None:
    nearest = nearest_tokens(case["p0_kmeans_centers"], case["p0_feature_norm"][0], 1)
    assert_agree(nearest, case[name], name)


def check_kmeans_centers(case: Case, index: int, name: str) -> None:
    tokens = case["p0_feature_norm"].reshape(-1, case["p0_feature_norm"].shape[-1])
    labels = case["p0_kmeans_labels_all_frames"].reshape(-1)
    means = np.stack([tokens[labels == label].mean(axis=0) for label in range(len(case[name]))])
    np.testing.assert_allclose(means, case[name], atol=1e-4)


def check_kmeans_inertia(case: Case, index: int, name: str) -> None:
    tokens = case["p0_feature_norm"].reshape(-1, case["p0_feature_norm"].shape[-1])
    settings = meta(case)
    ours = kmeans(tokens, settings["num_clusters"], settings["kmeans_n_init"], seed=0)
    assert ours.inertia <= 1.005 * float(case[name])
    np.testing.assert_allclose(inertia(tokens, case["p0_kmeans_labels_all_frames"].reshape(-1)), case[name], rtol=1e-4)


def check_kmeans_iterations(case: Case, index: int, name: str) -> None:
    # It counts another implementation's iterations: what can be checked is that they reached a fixed point.
    assert 1 <= int(case[name]) < 300
    check_kmeans_centers(case, index, "p0_kmeans_centers")


def check_kmeans_frame0_only(case: Case, index: int, name: str) -> None:
    tokens = case["p0_feature_norm"][0]
    settings = meta(case)
    recorded = float(case["p0_kmeans_frame0_only_inertia"])
    ours = kmeans(tokens, settings["num_clusters"], settings["kmeans_n_init"], seed=0)
    assert ours.inertia <= 1.005 * recorded
    labels = case["p0_kmeans_frame0_only_labels"].reshape(-1)
    np.testing.assert_allclose(inertia(tokens, labels), recorded, rtol=1e-4)


def check_mask_small(case: Case, index: int, name: str) -> None:
    np.testing.assert_array_equal(resize_nearest(case["gt_mask_frame0"], case[name].shape), case[name])


def check_first_frame_labels(case: Case, index: int, name: str) -> None:
    labels = case["p0_kmeans_labels_frame0"].reshape(-1)
    if meta(case)["gt_used"]:
        labels = merge_by_mask(labels, case["p0_gt_mask_small"].reshape(-1))
    np.testing.assert_array_equal(labels, case[name].reshape(-1))


# --- nearest neighbours


def context_before(case: Case, index: int) -> Context:
    """The model that predicts a pass: frame 0, or all of the pass before with its refined labels."""
    if index == 0:
        return fit(case["p0_feature_norm"][0], case["p0_first_frame_labels"].reshape(-1))
    labels = as_tokens(case[f"p{index - 1}_cbr_labels"])
    return Context(None, (make_segment(of_frames(case, index - 1, "feature_norm"), labels),))


def check_knn_labels(case: Case, index: int, name: str) -> None:
    ours = context_before(case, index).predict(of_frames(case, index, "feature_norm"), NEIGHBORS)
    clear = as_tokens(case[f"p{index}_knn_gap"]) >= CLEAR_GAP
    np.testing.assert_array_equal(ours[clear], as_tokens(case[name])[clear])
    assert_agree(ours, case[name], name)


def check_knn_gap(case: Case, index: int, name: str) -> None:
    memory = context_before(case, index).features
    features = of_frames(case, index, "feature_norm")
    queries = features.reshape(-1, features.shape[-1])
    around = memory[nearest_tokens(memory, queries, NEIGHBORS + 1)[:, -2:]].astype(np.float64)
    fourth, fifth = np.linalg.norm(around - queries[:, None], axis=-1).T
    gap = (fifth - fourth) / np.maximum(fifth, np.finfo(np.float64).tiny)
    np.testing.assert_allclose(gap, case[name].reshape(-1), atol=1e-3)


# --- refinement


@dataclass(frozen=True)
class Refinement:
    """Inputs of step 5: queries (f, n, c), coarse labels (f, n), grid."""

    queries: np.ndarray
    labels: np.ndarray
    grid: tuple[int, int]

    def track(self, variant: str) -> np.ndarray:
        tokens = authors_trajectories(self.queries, "plain" if "plain" in variant else "mixed").tokens
        return np.stack(np.unravel_index(tokens, self.grid), axis=-1)

    def margin(self) -> np.ndarray:
        return authors_trajectories(self.queries, "mixed").margin

    def keep(self, variant: str) -> np.ndarray:
        trajectories = authors_trajectories(self.queries, "plain" if "plain" in variant else "mixed")
        return authors_kept(trajectories, self.grid, "symmetric" if "symmetric" in variant else "positive")

    def refined(self, variant: str) -> np.ndarray:
        if variant == "_paper":
            matches = next_tokens(self.queries, self.grid, MAX_SQUARED_DISTANCE, "constrained")
            return vote(self.labels, matches, "forward")
        trajectories = authors_trajectories(self.queries, "plain" if "plain" in variant else "mixed")
        return authors_vote(self.labels, trajectories, self.keep(variant))


def refinement_of(case: Case, index: int) -> Refinement:
    labels = case[f"p{index}_knn_labels"]
    return Refinement(of_frames(case, index, "q_block7"), as_tokens(labels), labels.shape[1:])


def refinement_of_unit(case: Case) -> Refinement:
    return Refinement(case["features"], as_tokens(case["labels_in"]), case["labels_in"].shape[1:])


def compare_refinement(inputs: Refinement, recorded: np.ndarray, kind: str, name: str) -> None:
    """Compare the array `kind` of step 5: a name in the README without its pass, e.g. `keep_symmetric`."""
    what, variant = re.fullmatch(
        r"(labels_out|labels|keep|trajectories|trajectory_margin|paper_next_index)(.*?)(?:_yx)?", kind
    ).groups()
    if what == "trajectory_margin":
        np.testing.assert_allclose(inputs.margin(), recorded, atol=1e-4, rtol=1e-3)
    elif what == "trajectories":
        assert_agree(inputs.track(variant), recorded, name)
    elif what == "keep":
        assert_agree(inputs.keep(variant), recorded, name)
    elif what == "paper_next_index":
        matches = next_tokens(inputs.queries, inputs.grid, MAX_SQUARED_DISTANCE, "constrained")
        assert_agree(matches.next, recorded, name)
    else:
        assert_agree(inputs.refined(variant), recorded, name)


def check_refinement(case: Case, index: int, name: str) -> None:
    compare_refinement(refinement_of(case, index), case[name], name.removeprefix(f"p{index}_cbr_"), name)


def check_unit_refinement(case: Case, index: int, name: str) -> None:
    compare_refinement(refinement_of_unit(case), case[name], name, name)


def check_unit_labels(case: Case, index: int, name: str) -> None:
    np.testing.assert_array_equal(case[name], np.unique(case["labels_in"]))


#: Arrays of a case.
CHECKS: dict[str, Check] = {
    r"labels": check_labels,
    r"p\d_frame_index": check_frame_index,
    r"p0_kmeans_labels_all_frames": check_kmeans_labels,
    r"p0_kmeans_labels_frame0": check_kmeans_labels_frame0,
    r"p0_kmeans_centers": check_kmeans_centers,
    r"p0_kmeans_inertia": check_kmeans_inertia,
    r"p0_kmeans_n_iter": check_kmeans_iterations,
    r"p0_kmeans_frame0_only_(labels|inertia)": check_kmeans_frame0_only,
    r"p0_gt_mask_small": check_mask_small,
    r"p0_first_frame_labels": check_first_frame_labels,
    r"p\d_knn_labels": check_knn_labels,
    r"p\d_knn_gap": check_knn_gap,
    r"p\d_cbr_.*": check_refinement,
}

#: Arrays of unit_refinement.npz; `features` and `labels_in` are its inputs.
UNIT_CHECKS: dict[str, Check] = {
    r"labels": check_unit_labels,
    r"(labels_out|keep|trajectories|paper_next_index).*": check_unit_refinement,
}


def find_check(checks: Mapping[str, Check], name: str) -> Check | None:
    """The check of an array, None when it is not among these."""
    return next((check for pattern, check in checks.items() if re.fullmatch(pattern, name)), None)


def pass_of(name: str) -> int:
    """The pass that an array belongs to."""
    prefix = re.match(r"p(\d)_", name)
    return int(prefix[1]) if prefix else 0

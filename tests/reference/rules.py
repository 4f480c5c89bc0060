"""All rules together, with those of steps 4 and 5 that freely running cases need."""

from __future__ import annotations

import re

import numpy as np

from tests.reference import diffusion, maps
from tests.reference.cases import Case, Rule, equal_share, within
from tests.reference.segmentation import context_before, refinement_of


def frame_index(case: Case, index: int, match: re.Match[str]) -> np.ndarray:
    return np.array(case.frames(index))


def knn_labels(case: Case, index: int, match: re.Match[str]) -> np.ndarray:
    neighbors = case.meta["knn_neighbors"]
    return context_before(case, index).predict(case[f"p{index}_feature_norm"], neighbors).reshape(-1, *case.grid)


def cbr_labels(case: Case, index: int, match: re.Match[str]) -> np.ndarray:
    return refinement_of(case, index).refined(match[1]).reshape(-1, *case.grid)


def trajectories(case: Case, index: int, match: re.Match[str]) -> np.ndarray:
    return refinement_of(case, index).track(match[1])


def keep(case: Case, index: int, match: re.Match[str]) -> np.ndarray:
    return refinement_of(case, index).keep(match[1])


LABELS = equal_share(0.995)
SEGMENTATION_RULES = (
    Rule(r"p\d+_frame_index", frame_index, within(0)),
    Rule(r"p\d+_knn_labels", knn_labels, LABELS),
    Rule(r"p\d+_cbr_labels(|_symmetric|_plain_symmetric|_paper)", cbr_labels, LABELS),
    Rule(r"p\d+_cbr_trajectories(|_plain)_yx", trajectories, LABELS),
    Rule(r"p\d+_cbr_keep(|_symmetric|_plain_symmetric)", keep, LABELS),
)
RULES = (*diffusion.RULES, *SEGMENTATION_RULES, *maps.RULES)
#: What a free run starts from, and what it is compared with.
FREE_INPUTS = ("labels", "p0_first_frame_labels")
FREE_FEATURES = r"posterior_noise|eps|p\d+_(latent|x_start|noised_latent|xt\d+|q_block\d+|feature_\w+|knn_labels)"
FREE_LABELS = r"p\d+_cbr_(labels|trajectories|keep)\w*"
FREE_MAPS = r"p\d+_(decoded_l\d+_(pos|neg)|difference_\w+|seg_\w+)"

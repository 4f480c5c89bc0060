"""Steps 4 and 5 against the recorded vectors: K-Means, context model, matching, votes."""

from __future__ import annotations

import os
from collections import ChainMap
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.reference import segmentation as reference
from tests.support.places import DATA, SHARED

UNIT = dict(np.load(DATA / "unit_refinement.npz"))
GIVEN = os.environ.get("VIDSEG_REFERENCE")
FOLDER = Path(GIVEN) if GIVEN is not None else SHARED / "reference"
CASES = sorted(FOLDER.glob("case_*.npz"))


@pytest.mark.parametrize("name", sorted(set(UNIT) - {"features", "labels_in"}))
def test_every_array_of_the_unit_set(name: str) -> None:
    check = reference.find_check(reference.UNIT_CHECKS, name)
    assert check is not None, f"no check for {name}"
    check(UNIT, 0, name)


def test_reference_is_there() -> None:
    if GIVEN is None and not FOLDER.is_dir():
        pytest.skip("the recorded vectors are not here: no folder ../shared/reference, VIDSEG_REFERENCE is not set")
    assert CASES, "VIDSEG_REFERENCE names a folder without case_*.npz"


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_every_array_of_a_case(path: Path) -> None:
    case = with_queries(dict(np.load(path)))
    names = [name for name in case if reference.find_check(reference.CHECKS, name)]
    for name in names:
        check = reference.find_check(reference.CHECKS, name)
        assert check is not None
        check(case, reference.pass_of(name), name)
    assert {name for name in case if "_cbr_" in name or "_knn_" in name or "kmeans" in name} <= set(names)
    print(f"{path.stem}: {len(names)} arrays compared")


def with_queries(case: dict[str, np.ndarray]) -> reference.Case:
    """The case with the queries of passes that recorded only where their denoising started."""
    computed: dict[str, np.ndarray] = {}
    for index in range(3):
        start = f"p{index}_x_start"
        if start not in case or f"p{index}_q_block7" in case:
            continue
        computed[f"p{index}_q_block7"] = queries_from(case[start], 7)
    return ChainMap(computed, case)


def queries_from(start: np.ndarray, block: int) -> np.ndarray:
    """Queries of a block at step 24, from noised latents, by our clean pass through the recorded network."""
    from diffusers import AutoencoderKL, UNet2DConditionModel

    from pipeline.backbone import Tap
    from pipeline.backbone.image.model import StableDiffusion
    from pipeline.features.diffusion import DiffusionSettings, clean_pass, conditional_half

    clip = np.load(FOLDER / "clip.npz")
    weights = FOLDER / "weights"
    unet = UNet2DConditionModel.from_pretrained(weights / "unet", torch_dtype=torch.float32).eval()
    vae = AutoencoderKL.from_pretrained(weights / "vae", torch_dtype=torch.float32).eval()
    backbone = StableDiffusion(unet, vae, torch.from_numpy(clip["context_cond"]), "reference", "reference")
    tap = Tap(block, "self", "query")
    clean = clean_pass(backbone, torch.from_numpy(start), DiffusionSettings(guidance=5.0), {24: [tap]})
    return conditional_half(clean.taps[24][tap], len(start)).numpy()

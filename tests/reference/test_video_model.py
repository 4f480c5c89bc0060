"""Every recorded array of the authors' released video scripts against the library.

`VIDSEG_SVD_REFERENCE` names the folder of the vectors; without it ../shared/reference/svd beside the checkout is used,
and where that is absent the cases are skipped. Each case runs *from recorded inputs* and *freely*, as those of
`tests.reference.test_image_model` do, with the same short and long parts.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.backbone.video.model import set_residual_eps
from tests.reference.cases import report_clip
from tests.reference.video_cases import DEFAULT_FOLDER, FOLDER, GIVEN_FOLDER, VideoCase
from tests.reference.video_rules import RULES
from tests.reference.video_runs import (
    CLIP_BOUNDS,
    CLIP_INPUTS,
    clip_arrays,
    complaint_from_recorded,
    free_all,
    free_short,
    recorded_all,
    recorded_short,
    vectors_here,
)

CASES = sorted(FOLDER.glob("svd_case_*.npz")) if FOLDER.is_dir() else []
ABSENT = GIVEN_FOLDER is None and not DEFAULT_FOLDER.is_dir()
each_case = pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)


def test_the_folder_holds_cases() -> None:
    if ABSENT:
        pytest.skip("the vectors are not here: no ../shared/reference/svd, and VIDSEG_SVD_REFERENCE is not set")
    assert CASES, f"{FOLDER} holds no svd_case_*.npz; VIDSEG_SVD_REFERENCE must name a folder of recorded cases"


@pytest.mark.skipif(not (FOLDER / "svd_clip.npz").is_file(), reason="no svd_clip.npz in the folder of vectors")
def test_every_array_of_the_clip() -> None:
    vectors = vectors_here()
    report_clip("svd_clip", vectors.clip, clip_arrays(vectors), CLIP_BOUNDS, CLIP_INPUTS)


@pytest.mark.skipif(not CASES, reason="no recorded cases")
def test_diffusers_builds_another_epsilon_into_72_norms() -> None:
    from diffusers import UNetSpatioTemporalConditionModel

    config = vectors_here().backbone.unet.config
    unet = UNetSpatioTemporalConditionModel.from_config(config)
    assert set_residual_eps(unet) == 72
    assert set_residual_eps(unet) == 0


def test_an_unknown_array_fails() -> None:
    recorded = {"meta_json": np.array('{"passes": []}'), "p0_invented": np.zeros(1)}
    case = VideoCase(recorded, None, RULES, set(recorded))  # type: ignore[arg-type]
    assert complaint_from_recorded(case, "p0_invented") == "no rule knows this name"


# --- cases


@each_case
def test_from_recorded_inputs(path: Path) -> None:
    recorded_short(path).report()


@each_case
def test_free_run(path: Path) -> None:
    """From the frames, with the first frame's labels given: K-Means may legitimately find another optimum."""
    free_short(path).report()


@pytest.mark.slow
@each_case
def test_from_recorded_inputs_all_arrays(path: Path) -> None:
    recorded_all(path).report()


@pytest.mark.slow
@each_case
def test_free_run_to_all_maps(path: Path) -> None:
    free_all(path).report()

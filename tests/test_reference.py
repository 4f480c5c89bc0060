"""Every recorded array of the authors' released code against the library (see docs/explanation/paper-and-code.md).

`VIDSEG_REFERENCE` names the folder of the vectors; without it ../shared/reference beside the checkout is used, and
where that is absent the cases are skipped. Each case runs *from recorded inputs* and *freely* (see
`tests.reference_cases`). The final maps are the long part: from recorded inputs they are computed for one frame of
each pass, and freely for the passes of `is_short`; `make test-all` does all frames of all passes.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from tests import reference_maps, reference_segmentation
from tests.reference_cases import (
    DEFAULT_FOLDER,
    FOLDER,
    GIVEN_FOLDER,
    Case,
    Tally,
    Vectors,
    load_vectors,
    pass_of,
    within,
)
from tests.reference_diffusion import CLIP_BOUNDS, CLIP_INPUTS, clip_arrays
from tests.reference_rules import FREE_FEATURES, FREE_INPUTS, FREE_LABELS, FREE_MAPS, RULES

DATA = Path(__file__).parent / "data"
CASES = sorted(FOLDER.glob("case_*.npz")) if FOLDER.is_dir() else []
UNITS = sorted({*DATA.glob("unit_*.npz"), *(FOLDER.glob("unit_*.npz") if GIVEN_FOLDER else ())})
ABSENT = GIVEN_FOLDER is None and not DEFAULT_FOLDER.is_dir()
each_case = pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)


# --- folders and files


@pytest.fixture(scope="module", autouse=True)
def all_cores() -> Iterator[None]:
    """These networks are large enough to gain from threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else before))
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def vectors() -> Vectors:
    return load_vectors(FOLDER)


def test_the_folder_holds_cases() -> None:
    if ABSENT:
        pytest.skip("the recorded vectors are not here: no ../shared/reference, and VIDSEG_REFERENCE is not set")
    assert CASES, f"{FOLDER} holds no case_*.npz; VIDSEG_REFERENCE must name a folder of recorded cases"


@pytest.mark.parametrize("path", UNITS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_unit_sets(path: Path) -> None:
    unit, tally = dict(np.load(path)), Tally(path.stem)
    if "plus" in unit:
        computed = reference_maps.unit_difference_arrays(unit)
        for name in unit:
            if name in computed:
                tally.add(name, reference_maps.compare_unit(name, computed[name], unit[name]))
            else:
                tally.add(name, None if name in reference_maps.UNIT_INPUTS else "no rule knows this name")
    else:
        for name in unit:
            tally.add(name, complaint_of_unit_refinement(unit, name))
    tally.report(len(unit))


def complaint_of_unit_refinement(unit: Mapping[str, np.ndarray], name: str) -> str | None:
    check = reference_segmentation.find_check(reference_segmentation.UNIT_CHECKS, name)
    if name in ("features", "labels_in"):  # inputs of all others
        return None
    return complaint_of(check, unit, 0, name) if check else "no rule knows this name"


def complaint_of(
    check: reference_segmentation.Check, case: Mapping[str, np.ndarray], index: int, name: str
) -> str | None:
    try:
        check(case, index, name)
    except AssertionError as error:
        return " ".join(str(error).split())[:300] or "differs"
    return None


@pytest.mark.skipif(not (FOLDER / "clip.npz").is_file(), reason="no clip.npz in the folder of vectors")
def test_every_array_of_the_clip(vectors: Vectors) -> None:
    tally, computed = Tally("clip"), clip_arrays(vectors)
    complaints = {name: within(bound)(computed[name], vectors.clip[name]) for name, bound in CLIP_BOUNDS.items()}
    for name in vectors.clip:
        known = CLIP_INPUTS.get(name, name)
        tally.add(name, complaints.get(known, "no rule knows this name"))
    tally.report(len(vectors.clip))


def test_an_unknown_array_fails() -> None:
    """So that nothing recorded goes uncompared: neither a new name nor a part of the arrays passes."""
    recorded = {"meta_json": np.array('{"passes": []}'), "p0_invented": np.zeros(1)}
    case = Case(recorded, None, RULES, set(recorded))  # type: ignore[arg-type]
    assert complaint_from_recorded(case, "p0_invented") == "no rule knows this name"
    tally = Tally("case")
    tally.add("p0_invented", None)
    tally.report(1)
    with pytest.raises(AssertionError):
        tally.report(2)
    tally.add("p0_other", "off by 1")
    with pytest.raises(AssertionError, match="p0_other: off by 1"):
        tally.report(2)


# --- cases


def one_frame(positions: Sequence[int]) -> Sequence[int]:
    return positions[:1]


def every_frame(positions: Sequence[int]) -> Sequence[int]:
    return positions


def is_short(case: Case, index: int) -> bool:
    """Whether the normal tests run a pass freely to its final maps."""
    pairs = len(case.labels) * case.meta["batch_size"]
    return pairs <= 32 or (pairs <= 64 and index == 0)


@each_case
def test_from_recorded_inputs(path: Path, vectors: Vectors) -> None:
    compare_recorded(path, vectors, one_frame)


@pytest.mark.slow
@each_case
def test_from_recorded_inputs_all_frames(path: Path, vectors: Vectors) -> None:
    compare_recorded(path, vectors, every_frame)


def compare_recorded(path: Path, vectors: Vectors, map_frames: Callable[[Sequence[int]], Sequence[int]]) -> None:
    recorded = dict(np.load(path))
    case, tally = Case(recorded, vectors, RULES, set(recorded), map_frames), Tally(f"{path.stem}, recorded inputs")
    for name in recorded:
        tally.add(name, complaint_from_recorded(case, name))
    tally.report(len(recorded))


def complaint_from_recorded(case: Case, name: str) -> str | None:
    if name == "meta_json":
        return complaint_of_settings(case)
    if name == "gt_mask_frame0":
        name = "p0_gt_mask_small"
    # The checks are written for one-digit passes; only first or not matters to their choice.
    index = pass_of(name)
    alike = re.sub(r"^p\d+_", f"p{min(index, 1)}_", name)
    check = reference_segmentation.find_check(reference_segmentation.CHECKS, alike)
    return complaint_of(check, case, index, name) if check else case.complaint(name)


def complaint_of_settings(case: Case) -> str | None:
    """The settings that the library does not take as parameters must be what it does."""
    meta = case.meta
    fixed = {
        "injected_blocks": list(range(3, 12)),
        "blended_steps": list(range(meta["modulated_step"], max(meta["blended_steps"]) + 1)),
        "frame_height": case.vectors.clip["frames"].shape[1],
        "frame_width": case.vectors.clip["frames"].shape[2],
        "network_height": case.vectors.network_frames.shape[1],
        "network_width": case.vectors.network_frames.shape[2],
        "clip_frames": len(case.vectors.clip["frames"]),
    }
    wrong = {name: meta[name] for name, value in fixed.items() if meta[name] != value}
    return f"settings that are not covered: {wrong}" if wrong else None


@each_case
def test_free_run(path: Path, vectors: Vectors) -> None:
    """From the frames, with the first frame's labels given: K-Means may legitimately find another optimum."""
    compare_free(path, vectors, is_short)


@pytest.mark.slow
@each_case
def test_free_run_to_all_maps(path: Path, vectors: Vectors) -> None:
    compare_free(path, vectors, lambda case, index: True)


def compare_free(path: Path, vectors: Vectors, with_maps: Callable[[Case, int], bool]) -> None:
    recorded = dict(np.load(path))
    case, tally = Case(recorded, vectors, RULES, FREE_INPUTS), Tally(f"{path.stem}, free run")
    wanted = [name for name in recorded if re.fullmatch(f"{FREE_FEATURES}|{FREE_LABELS}", name)]
    wanted += [name for name in recorded if re.fullmatch(FREE_MAPS, name) and with_maps(case, pass_of(name))]
    for name in wanted:
        tally.add(name, case.complaint(name))
    tally.report(len(wanted))

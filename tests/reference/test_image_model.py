"""Every recorded array of the authors' released code against the library (see docs/explanation/paper-and-code.md).

`VIDSEG_REFERENCE` names the folder of the vectors; without it ../shared/reference beside the checkout is used, and
where that is absent the cases are skipped. Each case runs *from recorded inputs* and *freely* (see
`tests.reference.cases`). Modulated passes are the long part: the normal tests do those of `short_names`, and run freely
to the refined labels; `make test-all` compares all arrays, and runs freely to the final maps of all frames.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from tests.reference import maps, segmentation
from tests.reference.cases import DEFAULT_FOLDER, FOLDER, GIVEN_FOLDER, Case, Tally, Vectors, report_clip
from tests.reference.diffusion import CLIP_BOUNDS, CLIP_INPUTS, clip_arrays
from tests.reference.rules import RULES
from tests.reference.runs import (
    complaint_from_recorded,
    complaint_of,
    free_all,
    free_short,
    recorded_all,
    recorded_short,
    vectors_here,
)
from tests.support.places import DATA

CASES = sorted(FOLDER.glob("case_*.npz")) if FOLDER.is_dir() else []
UNITS = sorted({*DATA.glob("unit_*.npz"), *(FOLDER.glob("unit_*.npz") if GIVEN_FOLDER else ())})
ABSENT = GIVEN_FOLDER is None and not DEFAULT_FOLDER.is_dir()
each_case = pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)


# --- folders and files


@pytest.fixture(scope="module")
def vectors() -> Vectors:
    return vectors_here()


def test_the_folder_holds_cases() -> None:
    if ABSENT:
        pytest.skip("the recorded vectors are not here: no ../shared/reference, and VIDSEG_REFERENCE is not set")
    assert CASES, f"{FOLDER} holds no case_*.npz; VIDSEG_REFERENCE must name a folder of recorded cases"


@pytest.mark.parametrize("path", UNITS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_unit_sets(path: Path) -> None:
    unit = dict(np.load(path))
    tally = Tally(path.stem, len(unit))
    if "plus" in unit:
        computed = maps.unit_difference_arrays(unit)
        for name in unit:
            if name in computed:
                tally.add(name, maps.compare_unit(name, computed[name], unit[name]))
            else:
                tally.add(name, None if name in maps.UNIT_INPUTS else "no rule knows this name")
    else:
        for name in unit:
            tally.add(name, complaint_of_unit_refinement(unit, name))
    tally.report()


def complaint_of_unit_refinement(unit: Mapping[str, np.ndarray], name: str) -> str | None:
    check = segmentation.find_check(segmentation.UNIT_CHECKS, name)
    if name in ("features", "labels_in"):  # inputs of all others
        return None
    return complaint_of(check, unit, 0, name) if check else "no rule knows this name"


@pytest.mark.skipif(not (FOLDER / "clip.npz").is_file(), reason="no clip.npz in the folder of vectors")
def test_every_array_of_the_clip(vectors: Vectors) -> None:
    report_clip("clip", vectors.clip, clip_arrays(vectors), CLIP_BOUNDS, CLIP_INPUTS)


def test_an_unknown_array_fails() -> None:
    """So that nothing recorded goes uncompared: neither a new name nor a part of the arrays passes."""
    recorded = {"meta_json": np.array('{"passes": []}'), "p0_invented": np.zeros(1)}
    case = Case(recorded, None, RULES, set(recorded))  # type: ignore[arg-type]
    assert complaint_from_recorded(case, "p0_invented") == "no rule knows this name"
    tally = Tally("case", total=2)
    tally.add("p0_first", None)
    with pytest.raises(AssertionError, match="1 of 2 arrays"):
        tally.report()
    tally.add("p0_second", "off by 1")
    with pytest.raises(AssertionError, match="p0_second: off by 1"):
        tally.report()


# --- cases


@each_case
def test_from_recorded_inputs(path: Path) -> None:
    recorded_short(path).report()


@pytest.mark.parametrize(
    "path",
    # The others differ in steps that recorded inputs test, one by one.
    [pytest.param(path, marks=[pytest.mark.slow] if path.stem in ("case_a_B14_L20", "case_c_B6_L14_gt") else [])
     for path in CASES],
    ids=lambda path: path.stem,
)  # fmt: skip
def test_free_run(path: Path) -> None:
    """From the frames, with the first frame's labels given: K-Means may legitimately find another optimum."""
    free_short(path).report()


@pytest.mark.slow
@each_case
def test_from_recorded_inputs_all_frames(path: Path) -> None:
    recorded_all(path).report()


@pytest.mark.slow
@each_case
def test_free_run_to_all_maps(path: Path) -> None:
    free_all(path).report()

"""Whole cases against the library, as jobs for worker processes: each returns its tally."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import numpy as np
import torch

from tests.reference import segmentation
from tests.reference.cases import FOLDER, Case, Tally, Vectors, load_vectors, pass_of
from tests.reference.rules import FREE_FEATURES, FREE_INPUTS, FREE_LABELS, FREE_MAPS, RULES


@cache
def vectors_here() -> Vectors:
    """The clip and networks, loaded once per process."""
    torch.set_num_threads(1)
    return load_vectors(FOLDER)


def recorded_one_frame(path: Path) -> Tally:
    """Every array from recorded inputs; final maps of one frame per pass."""
    return _from_recorded(path, 1)


def recorded_all_frames(path: Path) -> Tally:
    """Every array from recorded inputs; final maps of all frames."""
    return _from_recorded(path, None)


def free_short(path: Path) -> Tally:
    """From the frames, with the first frame's labels given; final maps of the passes of `is_short`."""
    recorded = dict(np.load(path))
    case = Case(recorded, vectors_here(), RULES, FREE_INPUTS)
    with_maps = [index for index in range(case.passes) if is_short(case, index)]
    return _free(path, case, with_maps)


def free_all(path: Path) -> Tally:
    """From the frames, with the first frame's labels given, to the final maps of all passes."""
    case = Case(dict(np.load(path)), vectors_here(), RULES, FREE_INPUTS)
    return _free(path, case, list(range(case.passes)))


def is_short(case: Case, index: int) -> bool:
    """Whether the normal tests run a pass freely to its final maps."""
    return index == 0 and len(case.labels) * case.meta["batch_size"] <= 32


def _from_recorded(path: Path, frames: int | None) -> Tally:
    recorded = dict(np.load(path))
    case = Case(recorded, vectors_here(), RULES, set(recorded), lambda positions: positions[:frames])
    tally = Tally(f"{path.stem}, recorded inputs", len(recorded))
    for name in recorded:
        tally.add(name, complaint_from_recorded(case, name))
    return tally


def _free(path: Path, case: Case, with_maps: list[int]) -> Tally:
    wanted = [name for name in case.recorded if re.fullmatch(f"{FREE_FEATURES}|{FREE_LABELS}", name)]
    wanted += [name for name in case.recorded if re.fullmatch(FREE_MAPS, name) and pass_of(name) in with_maps]
    tally = Tally(f"{path.stem}, free run", len(wanted))
    for name in wanted:
        tally.add(name, case.complaint(name))
    return tally


def complaint_from_recorded(case: Case, name: str) -> str | None:
    if name == "meta_json":
        return complaint_of_settings(case)
    if name == "gt_mask_frame0":
        name = "p0_gt_mask_small"
    # The checks are written for one-digit passes; only first or not matters to their choice.
    index = pass_of(name)
    alike = re.sub(r"^p\d+_", f"p{min(index, 1)}_", name)
    check = segmentation.find_check(segmentation.CHECKS, alike)
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


def complaint_of(check: segmentation.Check, case: Mapping[str, np.ndarray], index: int, name: str) -> str | None:
    try:
        check(case, index, name)
    except AssertionError as error:
        return " ".join(str(error).split())[:300] or "differs"
    return None

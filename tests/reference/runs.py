"""Whole cases against the library: each returns its tally."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from tests.reference import segmentation
from tests.reference.cases import FOLDER, Case, Tally, Vectors, load_vectors, pass_of
from tests.reference.rules import FREE_FEATURES, FREE_INPUTS, FREE_LABELS, FREE_MAPS, RULES

#: The pass and label of an array of step 6 or later.
OF_LABEL = r"p(\d+)_(?:mod|decoded|difference|difference_nowrap)_(l\d+)(?![0-9])"
AnyCase = TypeVar("AnyCase", bound=Case)


@cache
def vectors_here() -> Vectors:
    """The clip and networks, loaded once per process."""
    torch.set_num_threads(1)
    return load_vectors(FOLDER)


def recorded_short(path: Path) -> Tally:
    """From recorded inputs: all but what is long; the tally's title says how much of the file that is."""
    return _from_recorded(path, short_names, 1)


def recorded_all(path: Path) -> Tally:
    """Every array from recorded inputs; final maps of all frames."""
    return _from_recorded(path, list, None)


def free_short(path: Path) -> Tally:
    """From the frames, with the first frame's labels given, to the refined labels."""
    return _free(path, f"{FREE_FEATURES}|{FREE_LABELS}")


def free_all(path: Path) -> Tally:
    """From the frames, with the first frame's labels given, to the final maps of all passes."""
    return _free(path, f"{FREE_FEATURES}|{FREE_LABELS}|{FREE_MAPS}")


def short_names(case: Case) -> list[str]:
    """What the normal tests compare from recorded inputs: all that needs few modulated passes, which are long.

    Of modulated latents, images and differences that is one label of the case, the one of which most is recorded, with
    both signs; of final maps, those whose images are all recorded. Variants of the released rules are left out.
    """
    of_label = {name: match.groups() for name in case.recorded if (match := re.match(OF_LABEL, name))}
    chosen = Counter(of_label.values()).most_common(1)
    return [
        name
        for name in case.recorded
        if "_variant_" not in name
        and (name not in of_label or of_label[name] == chosen[0][0])
        and (not re.match(r"p\d+_seg_", name) or has_all_images(case, pass_of(name)))
    ]


def has_all_images(case: Case, index: int) -> bool:
    """Whether the images of all labels are recorded of a pass."""
    return f"p{index}_decoded_frames" in case.recorded and all(
        f"p{index}_decoded_l{label}_{sign}" in case.recorded for label in case.labels for sign in ("pos", "neg")
    )


def _from_recorded(path: Path, choose: Callable[[Case], list[str]], frames: int | None) -> Tally:
    recorded = dict(np.load(path))
    case = Case(recorded, vectors_here(), RULES, set(recorded), lambda positions: positions[:frames])
    return tally_of(path.stem, case, choose(case), complaint_from_recorded)


def tally_of(title: str, case: AnyCase, names: list[str], complain: Callable[[AnyCase, str], str | None]) -> Tally:
    """Compare these arrays from recorded inputs; of all others, that a rule knows their names."""
    tally = Tally(f"{title} ({len(case.recorded)} arrays), recorded inputs", len(names))
    for name in names:
        tally.add(name, complain(case, name))
    tally.complaints += [
        f"{name}: no rule knows this name" for name in set(case.recorded) - set(names) if not case.find(name)
    ]
    return tally


def _free(path: Path, pattern: str) -> Tally:
    case = Case(dict(np.load(path)), vectors_here(), RULES, FREE_INPUTS)
    names = [name for name in case.recorded if re.fullmatch(pattern, name)]
    tally = Tally(f"{path.stem} ({len(case.recorded)} arrays), free run", len(names))
    for name in names:
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

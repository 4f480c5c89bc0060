"""Every number of the metric reference (tests/data/metrics), or of the folder that the environment names.

A case is a pair <case>.npz, <case>.json. Each key of a JSON file must be compared, or be declared below as a
head or informative key; anything else fails.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.errors import DataError
from pipeline.media.resize import resize_nearest
from pipeline.scoring.assignment import IDENTITY, Assignment, majority, official_majority
from pipeline.scoring.davis import DavisScores, semi_supervised, unsupervised
from pipeline.scoring.metrics import Confusion, Consistency
from pipeline.scoring.protocol import Official, Protocol, Strict
from pipeline.scoring.scores import ScoredClasses, pool, score_video
from pipeline.scoring.smite import score_parts, shared_frames
from tests.support.places import DATA

VARIABLE = "VIDSEG_METRICS_REFERENCE"
OWN = DATA / "metrics"
FOLDER = Path(os.environ.get(VARIABLE) or OWN)
CASES = sorted(path.stem for path in FOLDER.glob("*.json"))

HEAD = {"case", "description", "encoding", "num_classes", "ignore_values", "videos"}
VIDEO = {"index", "name", "frames", "height", "width"}
TABLES = ("official_majority", "official_majority_coarse", "valid_pixel_majority")
WINDOWS = (8, 16)

#: Blocks of `informative` that describe slips of the published code; `davis_long` alone has numbers to match.
INFORMATIVE = {"vspw_unmapped", "davis_long"}
#: Keys of `davis_long` from bounds wrapped in 8 bits; the `..._unwrapped` keys are compared instead.
WRAPPED = {"J_D", "F_D"}


@dataclass(frozen=True)
class Case:
    head: Mapping[str, Any]
    blocks: Mapping[str, Any]
    arrays: Mapping[str, np.ndarray]

    @property
    def names(self) -> list[str]:
        return [video["name"] for video in self.head["videos"]]

    def videos(self, kind: str) -> list[np.ndarray]:
        return [self.arrays[f"{kind}_{video['index']}"] for video in self.head["videos"]]


def load(stem: str, folder: Path = FOLDER) -> Case:
    content = json.loads((folder / f"{stem}.json").read_text())
    with np.load(folder / f"{stem}.npz") as file:
        arrays = {name: file[name] for name in file.files}
    head = {key: content[key] for key in HEAD}
    for video in head["videos"]:
        assert set(video) == VIDEO, f"{stem}: unknown keys in videos: {sorted(set(video) ^ VIDEO)}"
    return Case(head, {key: value for key, value in content.items() if key not in HEAD}, arrays)


def compare(where: str, expected: Any, actual: Any) -> None:
    """Assert that what is expected is there: exact, or to 1e-9 relative + 1e-12 for real numbers."""
    if isinstance(expected, dict):
        assert isinstance(actual, dict), where
        for key, value in expected.items():
            assert key in actual, f"{where}: unknown key '{key}'"
            compare(f"{where}.{key}", value, actual[key])
    elif isinstance(expected, list):
        assert len(expected) == len(actual), f"{where}: {len(actual)} entries, expected {len(expected)}"
        for index, (value, other) in enumerate(zip(expected, actual, strict=True)):
            compare(f"{where}[{index}]", value, other)
    elif expected is None:
        assert actual is None or math.isnan(actual), f"{where}: {actual}, expected undefined"
    elif isinstance(expected, float) or isinstance(actual, float):
        assert abs(actual - expected) <= 1e-9 * abs(expected) + 1e-12, f"{where}: {actual}, expected {expected}"
    else:
        assert actual == expected and isinstance(actual, bool) == isinstance(expected, bool), (
            f"{where}: {actual}, expected {expected}"
        )


def compare_or_error(where: str, expected: Mapping[str, Any], score: Callable[[], Mapping[str, Any]]) -> None:
    if set(expected) == {"error", "message"}:
        with pytest.raises(DataError):
            score()
    else:
        compare(where, expected, score())


# --- VSPW-type scores ------------------------------------------------------------------------------------


def protocol_of(case: Case, strict: bool) -> Protocol:
    count = case.head["num_classes"]
    if not strict:
        return Official(count)
    first = {"index": 0, "vspw_raw": 1}[case.head["encoding"]]
    return Strict(tuple(range(first, first + count)), tuple(case.head["ignore_values"]))


def vspw_scores(case: Case, protocol: Protocol, predictions: list[np.ndarray]) -> dict[str, Any]:
    count = len(protocol.class_values)
    tables, consistencies = [], []
    for truth, prediction in zip(case.videos("gt"), predictions, strict=True):
        confusion, consistency = Confusion(count), Consistency(WINDOWS)
        for pair in zip(truth, prediction, strict=True):
            frame = protocol.decode(*pair)
            confusion += Confusion.of(frame, count)
            consistency.update(frame)
        tables.append(confusion)
        consistencies.append(consistency)
    dataset = Confusion(count)
    for table in tables:
        dataset += table
    size = count + dataset.predicted_none

    def scores(table: Confusion) -> dict[str, Any]:
        s = table.scores()
        return {
            "miou": s.miou,
            "fwiou": s.fwiou,
            "pixel_acc": s.pixel_accuracy,
            "class_acc": s.class_accuracy,
            "iou_per_class": s.iou[:size].tolist(),
            "gt_present": s.present[:size].tolist(),
        }

    # The last row of the reference is *none* ground truth: always zero. Ours holds the ignored pixels.
    confusion = dataset.counts[:size, :size].copy()
    confusion[count:] = 0
    per_video = [{"name": name, **scores(table)} for name, table in zip(case.names, tables, strict=True)]
    # What scores.json and the tables show: whole videos, pooled from their records.
    classes = ScoredClasses({value: str(value) for value in protocol.class_values})
    records = [
        score_video(truth, prediction, range(len(truth)), classes, protocol, IDENTITY, WINDOWS)
        for truth, prediction in zip(case.videos("gt"), predictions, strict=True)
    ]
    pooled = pool([(record, classes.names) for record in records], WINDOWS).scores
    sums, counts = ([sum(r["vc"][str(n)][key] for r in records) for n in WINDOWS] for key in ("sum", "windows"))
    return {
        "evaluator_num_class": size,
        "dataset": {
            "confusion": confusion.tolist(),
            **scores(dataset),
            "miou": pooled["miou"],
            "pixel_acc": pooled["pixel_accuracy"],
            "class_acc": pooled["class_accuracy"],
        },
        "per_video": per_video,
        "mean_over_videos_miou": float(np.mean([video["miou"] for video in per_video])),
        "mean_over_videos_fwiou": float(np.mean([video["fwiou"] for video in per_video])),
        "vc": {
            str(n): {
                **window_scores(case.names, [c.windows[n] for c in consistencies]),
                "num_empty": sum(record["vc"][str(n)]["empty"] for record in records),
                "pooled": pooled[f"vc{n}"],
            }
            for n in WINDOWS
        },
        "vc16_pooled_after_vc8": sum(sums) / sum(counts) if sum(counts) else None,
    }


def window_scores(names: list[str], videos: list[list[Any]]) -> dict[str, Any]:
    return {
        "per_video": [
            {"name": name, "num_windows": len(windows), "windows": [window.ratio for window in windows]}
            for name, windows in zip(names, videos, strict=True)
            if windows
        ],
        "skipped": [name for name, windows in zip(names, videos, strict=True) if not windows],
        "num_windows": sum(map(len, videos)),
    }


def assignment_tables(case: Case) -> list[dict[str, Any]]:
    tables = []
    for video, clusters, truth in zip(case.head["videos"], case.videos("clusters"), case.videos("gt"), strict=True):
        index = video["index"]
        first, later = set(np.unique(clusters[0])), set(np.unique(clusters[1:]))
        coarse = case.arrays[f"clusters0_coarse_{index}"], case.arrays[f"gt0_coarse_{index}"]
        for full, grid in zip((clusters[0], truth[0]), coarse, strict=True):
            np.testing.assert_array_equal(resize_nearest(full, grid.shape), grid)
        tables.append(
            {
                "index": index,
                "name": video["name"],
                "official_majority": by_text(official_majority(clusters[0], truth[0])),
                "official_majority_coarse": by_text(official_majority(*coarse)),
                "valid_pixel_majority": by_text(majority(clusters[0], truth[0], case.head["ignore_values"])),
                "clusters_on_first_frame": [int(c) for c in sorted(first)],
                "clusters_later_only": [int(c) for c in sorted(later - first)],
            }
        )
    return tables


def by_text(table: Mapping[int, int]) -> dict[str, int]:
    return {str(cluster): value for cluster, value in table.items()}


def mapped(case: Case, table: str) -> list[np.ndarray]:
    return [
        Assignment(table, {int(k): v for k, v in entry[table].items()}).apply(clusters)
        for entry, clusters in zip(case.blocks["assignment"], case.videos("clusters"), strict=True)
    ]


# --- DAVIS and SMITE ---------------------------------------------------------------------------------------


def davis_scores(scores: DavisScores) -> dict[str, Any]:
    j, f = scores.j, scores.f
    return {
        "J_frames": scores.region.tolist(),
        "F_frames": scores.contour.tolist(),
        "J_M": j.mean,
        "J_R": j.recall,
        "J_D": j.decay,
        "F_M": f.mean,
        "F_R": f.recall,
        "F_D": f.decay,
        "J_mean": j.overall,
        "F_mean": f.overall,
        "JF_mean": scores.jf_mean,
        "J_D_unwrapped": j.decay,
        "F_D_unwrapped": f.decay,
    }


def davis_pair(case: Case, block: str) -> tuple[np.ndarray, np.ndarray]:
    arrays, word = case.arrays, block.removeprefix("davis").removeprefix("_")
    if word == "":
        return arrays["gt_0"], arrays["pred_0"]
    if word == "first_five_frames":
        return arrays["gt_0"][:5], arrays["pred_0"][:5]
    if word.startswith("gt_"):
        return arrays[word], arrays["pred_0"]
    if word.startswith("pred_"):
        return arrays["gt_0"], arrays[word]
    return arrays[f"gt_{word}"], arrays[f"pred_{word}"]


TASKS = {"semi_supervised": semi_supervised, "unsupervised": unsupervised}


def check_davis(where: str, case: Case, block: str, expected: Mapping[str, Any]) -> None:
    assert expected and set(expected) <= set(TASKS), f"{where}: unknown sub-block in {sorted(expected)}"
    truth, prediction = davis_pair(case, block)
    for task, values in expected.items():
        score = TASKS[task]
        compare_or_error(f"{where}.{task}", values, lambda score=score: davis_scores(score(truth, prediction)))


def check_smite(where: str, case: Case, block: str, expected: Mapping[str, Any]) -> None:
    word = block.removeprefix("smite").removeprefix("_") or "0"
    truth, prediction = case.arrays[f"gt_{word}"], case.arrays[f"pred_{word}"]
    shared = shared_frames(expected.get("gt_inds", []), expected.get("frame_inds", []))
    pairs = {
        "all_frames": (truth, prediction),
        "annotated_frames": (truth[shared], prediction[shared]),
        "all_background_ground_truth": (np.zeros_like(truth), prediction),
    }
    for name, values in expected.items():
        if name in {"part_names", "gt_inds", "frame_inds"}:  # inputs
            continue
        assert name in pairs, f"{where}: unknown sub-block '{name}'"

        def score(name: str = name) -> dict[str, Any]:
            s = score_parts(*pairs[name], expected["part_names"])
            return {
                "objects": list(s.objects),
                "jaccard_frames_objects": s.region.tolist(),
                "f_frames_objects": s.contour.tolist(),
                "jaccard": s.jaccard,
                "f_measure": s.f_measure,
                "iou_per_part": {f"iou_{part}": value for part, value in s.iou_per_part.items()},
                "mean_iou": s.mean_iou,
                "mae": s.mean_absolute_error,
                "shared_frames": shared,
            }

        compare_or_error(f"{where}.{name}", values, score)


# --- blocks ------------------------------------------------------------------------------------------------


def check_informative(where: str, case: Case, expected: Mapping[str, Any]) -> None:
    assert set(expected) <= set(INFORMATIVE), f"{where}: unknown block in {sorted(expected)}"
    if "davis_long" in expected:
        tasks = expected["davis_long"]
        matched = {
            task: {key: value for key, value in values.items() if key not in WRAPPED} for task, values in tasks.items()
        }
        check_davis(f"{where}.davis_long", case, "davis_long", matched)


def check_block(case: Case, block: str, expected: Any) -> None:
    word = block.removeprefix("vspw").removeprefix("_")
    if block == "assignment":
        actual = assignment_tables(case)
        compare(block, expected, actual)
        for entry, other in zip(expected, actual, strict=True):
            for table in set(TABLES) & set(entry):  # a cluster without an entry must have none here either
                assert set(other[table]) == set(entry[table]), f"{block}.{table}: entries of other clusters"
    elif block == "informative":
        check_informative(block, case, expected)
    elif block.startswith("vspw"):
        strict = word == "strict" or word.startswith("strict_")
        table = word.removeprefix("strict").removeprefix("_")
        assert table in ("", *TABLES), f"unknown block '{block}'"
        predictions = mapped(case, table) if table else case.videos("pred")
        compare(block, expected, vspw_scores(case, protocol_of(case, strict), predictions))
    elif block == "davis" or block.startswith("davis_"):
        check_davis(block, case, block, expected)
    elif block == "smite" or block.startswith("smite_"):
        check_smite(block, case, block, expected)
    else:
        pytest.fail(f"unknown block '{block}'")


def test_there_are_cases() -> None:
    assert CASES, f"no case in {FOLDER} ({VARIABLE}{' is set' if VARIABLE in os.environ else ' is not set'})"
    for stem in CASES:
        assert (FOLDER / f"{stem}.npz").is_file(), f"{stem}.npz is missing beside {stem}.json"
    assert {path.stem for path in FOLDER.glob("*.npz")} == set(CASES), "arrays without scores"


@pytest.mark.parametrize("stem", CASES)
def test_case(stem: str) -> None:
    case = load(stem)
    assert case.blocks, f"{stem}: no score block"
    for block, expected in case.blocks.items():
        check_block(case, block, expected)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        (("vspw_typo",), "unknown block"),
        (("other",), "unknown block"),
        (("vspw", "dataset", "other"), "unknown key 'other'"),
        (("vspw", "vc", "9"), "unknown key '9'"),
        (("davis_half", "supervised"), "unknown sub-block"),
        (("davis_half", "unsupervised", "J_X"), "unknown key 'J_X'"),
        (("smite_parts_one_frame", "some_frames"), "unknown sub-block"),
        (("informative", "other"), "unknown block"),
    ],
)
def test_unknown_keys_fail(path: tuple[str, ...], message: str) -> None:
    """The comparison itself notices what it does not know."""
    case = load("c07_degenerate", OWN)
    block = json.loads(json.dumps(case.blocks.get(path[0], {})))
    at = block
    for key in path[1:-1]:
        at = at[key]
    if path[1:]:
        at[path[-1]] = {}
    with pytest.raises((AssertionError, pytest.fail.Exception), match=message):
        check_block(case, path[0], block)


def test_a_wrong_number_fails() -> None:
    case = load("c07_degenerate", OWN)
    block = json.loads(json.dumps(case.blocks["vspw"]))
    block["dataset"]["miou"] *= 1 + 3e-9
    with pytest.raises(AssertionError, match=r"vspw\.dataset\.miou"):
        check_block(case, "vspw", block)

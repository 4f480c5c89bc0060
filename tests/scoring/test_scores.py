"""Records of videos, their pooling, and scores.json."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.errors import DataError
from pipeline.scoring.assignment import IDENTITY, Assignment
from pipeline.scoring.files import item_record, read_items, summarize, write_json
from pipeline.scoring.scores import ScoredClasses, pool, score_video, sure_truth

CLASSES = ScoredClasses({0: "sky", 4: "road"}, (255,))
WINDOWS = (2, 3)


def clip(frames: int = 6, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    truth = rng.choice([0, 4, 255], (frames, 5, 6)).astype(np.uint8)
    labels = np.where(rng.random(truth.shape) < 0.7, truth // 4 % 3, rng.integers(0, 4, truth.shape))
    return truth, labels.astype(np.uint8)


def record(
    truth: np.ndarray,
    labels: np.ndarray,
    assignment: Assignment = IDENTITY,
    positions: list[int] | None = None,
    classes: ScoredClasses = CLASSES,
    protocol: str = "strict",
) -> dict[str, Any]:
    positions = list(range(len(truth))) if positions is None else positions
    scored = score_video(truth, labels, positions, classes, classes.protocol(protocol), assignment, WINDOWS)
    values = classes.protocol(protocol).class_values
    return {
        "name": "v",
        "ground_truth": True,
        "frames": len(truth),
        "scored_frames": len(positions),
        "classes": [{"value": value, "name": classes.name(value)} for value in values],
        "oracle_assignment": False,
        "davis": None,
        **scored,
    }


def item(*videos: dict[str, Any], protocol: str = "strict") -> dict[str, Any]:
    return json.loads(json.dumps(item_record(videos, protocol, "majority", WINDOWS), allow_nan=False))


def test_pixels_of_clusters_without_a_class_are_counted() -> None:
    truth = np.array([[[0, 0, 4, 255]], [[0, 4, 4, 4]]], np.uint8)
    labels = np.array([[[7, 7, 8, 9]], [[7, 9, 9, 8]]], np.uint8)
    scored = record(truth, labels, Assignment("majority", {7: 0, 8: 4}))
    assert scored["assigned"] == {
        "rule": "majority",
        "clusters": [
            {"cluster": 7, "value": 0, "class": "sky", "pixels": 3},
            {"cluster": 8, "value": 4, "class": "road", "pixels": 2},
            {"cluster": 9, "value": None, "class": None, "pixels": 2},
        ],
        "unassigned_share": 2 / 7,
    }
    assert scored["confusion"] == {"0": {"0": 3}, "4": {"4": 2, "none": 2}}
    assert scored["per_frame"] == {"frame": [0, 1], "miou": [1.0, 2 / 3], "pixel_accuracy": [1.0, 0.5]}


def test_predictions_outside_the_classes_are_listed_where_they_count() -> None:
    truth = np.array([[[0, 4, 255]]], np.uint8)
    assert record(truth, np.array([[[9, 4, 77]]], np.uint8))["unknown_predictions"] == [9]
    assert record(truth, np.array([[[0, 4, 77]]], np.uint8))["unknown_predictions"] == []


def test_windows_reach_across_no_gap() -> None:
    truth, labels = clip(6)
    assert record(truth, labels)["vc"]["2"]["windows"] == 4
    gap = record(truth, labels, positions=[0, 1, 2, 4, 5, 6])["vc"]["2"]
    assert gap["windows"] + gap["empty"] == 1 + 1


def test_an_item_pools_as_if_its_videos_were_counted_together() -> None:
    first, second = clip(6, seed=1), clip(9, seed=2)
    pooled = item(record(*first), record(*second))["pooled"]
    together = np.concatenate([first[0], second[0]]), np.concatenate([first[1], second[1]])
    expected = item(record(*together))["pooled"]
    for key in ("miou", "pixel_accuracy", "class_accuracy", "fwiou"):
        assert pooled[key] == expected[key]
    windows = [record(*video)["vc"]["2"] for video in (first, second)]
    assert pooled["vc2"] == pytest.approx(sum(w["sum"] for w in windows) / sum(w["windows"] for w in windows))


def test_classes_of_one_value_but_another_name_stay_apart() -> None:
    truth = np.full((1, 2, 2), 4, np.uint8)
    swan = record(truth, truth, classes=ScoredClasses({4: "swan"}))
    dog = record(truth, truth * 0, classes=ScoredClasses({0: "background", 4: "dog"}))
    names = [{entry["value"]: entry["name"] for entry in video["classes"]} for video in (swan, dog)]
    pooled = pool(zip((swan, dog), names, strict=True), WINDOWS)
    assert [(row["class"], row["iou"], row["share"]) for row in pooled.per_class] == [
        ("background", 0.0, 0.0),
        ("dog", 0.0, 0.5),
        ("swan", 1.0, 0.5),
    ]
    assert pooled.scores["miou"] == 0.5


def test_official_names_classes_by_stored_value() -> None:
    truth, labels = clip()
    scored = record(truth, labels, protocol="official")
    assert [entry["name"] for entry in scored["classes"]] == ["sky", "value 1"]


def test_further_scores_are_pooled() -> None:
    """Flicker over all points, SMITE's scores over the videos."""
    videos = [record(*clip(5, seed)) for seed in (0, 1, 2)]
    extra = [(1, 10, 0.2), (5, 10, 0.6)]
    for video, (changed, points, miou) in zip(videos, extra, strict=False):
        video["flicker"] = {"changed": changed, "points": points}
        video["smite"] = {"miou": miou, "f": 1.0}
    scores = item(*videos)["pooled"]
    assert (scores["flicker"], scores["smite_miou"], scores["smite_f"]) == (6 / 20, 0.4, 1.0)
    assert item(videos[2])["pooled"]["flicker"] is None


def test_errors_name_the_frame() -> None:
    truth, labels = clip(3)
    truth[2, 0, 0] = 17
    with pytest.raises(DataError, match="frame 6: ground truth holds the value 17"):
        record(truth, labels, positions=[2, 4, 6])


def test_a_summary_of_nothing_scored_is_null() -> None:
    empty = {"name": "v", "ground_truth": False, "frames": 12, "scored_frames": 0}
    content = item(empty)
    assert content["ground_truth"] is False and set(content["pooled"].values()) == {None}
    summary = summarize({"a": content})
    assert summary.metrics["miou"] is None and summary.metrics["vc2"] is None
    assert (summary.metrics["videos"], summary.metrics["frames"], summary.metrics["scored_videos"]) == (
        1,
        12,
        0,
    )
    assert summary.per_video == [
        {"video": "a", "frames": 12, "scored_frames": 0}
        | dict.fromkeys(["miou", "vc2", "vc3", "pixel_accuracy", "fwiou", "jf_mean", "unassigned_share"])
    ]
    assert summary.per_class == [] and summary.per_frame == []


def test_a_summary_pools_items_and_keeps_videos_apart() -> None:
    first, second, third = (record(*clip(5 + seed, seed)) for seed in range(3))
    summary = summarize({"a": item(first, second | {"name": "w"}), "b": item(third)})
    assert [row["video"] for row in summary.per_video] == ["a/v", "a/w", "b"]
    assert len(summary.per_frame) == 5 + 6 + 7
    assert summary.metrics["miou"] == item(first, second, third)["pooled"]["miou"]
    assert summary.metrics["scored_frames"] == 18


def test_items_scored_by_different_rules_are_not_pooled() -> None:
    truth, labels = clip()
    items = {"a": item(record(truth, labels)), "b": item(record(truth, labels), protocol="official")}
    with pytest.raises(DataError, match=r"different evaluate.protocol \(a: strict, b: official\)"):
        summarize(items)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not valid JSON"),
        ("[]", "not a scores file"),
        ('{"schema": "scores", "schema_version": 99}', "schema version 99, this program reads 1"),
    ],
)
def test_damaged_scores_are_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "scores.json").write_text(content)
    with pytest.raises(DataError, match=message):
        read_items(tmp_path)


def test_no_scores(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no scores\.json here"):
        read_items(tmp_path)


def test_only_the_given_items_are_read(tmp_path: Path) -> None:
    for key in ("a", "b", "old"):
        write_json(tmp_path / key / "scores.json", {"schema": "scores", "schema_version": 1, "key": key})
    assert list(read_items(tmp_path)) == ["a", "b", "old"]
    assert [(key, found["key"]) for key, found in read_items(tmp_path, ["b", "a"]).items()] == [("a", "a"), ("b", "b")]
    with pytest.raises(DataError, match=r"new/scores.json: no such file; run `vidseg evaluate` first"):
        read_items(tmp_path, ["a", "new"])


def test_nan_is_never_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(tmp_path / "x.json", {"a": math.nan})
    assert list(tmp_path.iterdir()) == []


def test_void_may_be_a_class_of_its_own_value() -> None:
    """255 stands for *no class* unless it is one."""
    assert CLASSES.unassigned == 255
    assert ScoredClasses({255: "person"}).unassigned == 65535
    with pytest.raises(DataError, match="has no classes, only void"):
        ScoredClasses({}).protocol("strict")
    with pytest.raises(DataError, match="unknown protocol 'lenient'"):
        CLASSES.protocol("lenient")


@pytest.mark.parametrize(("protocol", "void_counts"), [("strict", False), ("official", True)])
def test_unsure_pixels_belong_to_no_area_though_void_may(protocol: str, void_counts: bool) -> None:
    truth = np.array([[[0, 1], [2, 255]]], np.uint8)
    confidence = np.array([[[200, 100], [200, 200]]], np.uint8)
    frames, classes = sure_truth(truth, confidence, 0.5, ScoredClasses({0: "a", 1: "b", 2: "c"}, ignore=(255,)))
    decoded = classes.protocol(protocol).decode(frames[0], np.zeros((2, 2), np.uint8))
    assert decoded.valid is not None
    np.testing.assert_array_equal(decoded.valid, [[True, False], [True, void_counts]])
    np.testing.assert_array_equal(decoded.truth, [[0, 3], [2, 3]])

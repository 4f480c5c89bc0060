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
from pipeline.scoring.scores import ScoredClasses, pool, score_objects, score_segments, score_video

CLASSES = ScoredClasses({0: "sky", 4: "road"}, (255,))
WINDOWS = (2, 3)
OBJECTS = ScoredClasses({0: "background", 1: "bird"}, (255,))


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


def test_objects_take_clusters_without_a_class_for_background() -> None:
    truth = np.zeros((4, 6, 6), np.uint8)
    truth[:, :3] = 1
    labels = truth + np.uint8(10)
    labels[2, 5, 5] = 99
    scored = score_objects("semi_supervised", truth, labels, OBJECTS, Assignment("majority", {10: 0, 11: 1}))
    assert scored["j"]["mean"] == [1.0] and scored["jf_mean"] == 1.0
    with pytest.raises(DataError, match="object 99 is predicted"):
        score_objects("semi_supervised", truth, np.where(labels == 99, 99, truth), OBJECTS)


@pytest.mark.parametrize(
    ("classes", "value", "void"),
    [
        (ScoredClasses({0: "background", 255: "bird"}), 255, None),  # DAVIS 2016
        (ScoredClasses({1: "bird", 2: "tree"}, (0, 255)), 1, 255),
        (ScoredClasses({0: "background", 1: "bird"}, (9,)), 1, 9),
    ],
)
@pytest.mark.parametrize("assignment", [IDENTITY, Assignment("majority", {0: 0, 1: 1, 255: 255}, 300)])
def test_objects_by_class_value(classes: ScoredClasses, value: int, void: int | None, assignment: Assignment) -> None:
    truth = np.zeros((4, 6, 6), np.uint8)
    truth[:, :3] = value
    labels = truth.copy()
    labels[:, 4] = value
    if void is not None:
        truth[:, 4] = void
    j = score_objects("unsupervised", truth, labels, classes, assignment)["j"]["mean"]
    assert j == [1.0] if void is not None else j == pytest.approx([18 / 24])


@pytest.mark.parametrize("task", ["semi_supervised", "unsupervised"])
def test_objects_are_the_classes_that_the_truth_holds(task: str) -> None:
    """A class that no frame shows is not an object that was found; void that was carried along is background."""
    classes = ScoredClasses({number: str(number) for number in range(1, 125)}, (0, 255))
    truth = np.full((4, 8, 8), 3, np.uint8)
    truth[:, 3:6], truth[:, 6:] = 120, 255
    carried = score_objects(task, truth, truth, classes)
    assert carried["j"]["mean"] == [1.0, 1.0] and carried["jf_mean"] == 1.0
    missed = score_objects(task, truth, np.where(truth == 255, 3, 0), classes)
    assert missed["j"]["mean"] == [0.0, 0.0]


PARTS = ScoredClasses({4: "Background", 1: "wheel", 9: "never there"}, (255,))


def parts(void: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Three frames of a wheel, below it background; of the labels the wheel is half as wide. Above it may be void."""
    truth = np.full((3, 40, 40), 4, np.uint8)
    truth[:, 10:20] = 1
    labels = truth.copy()
    labels[:, 10:20, 20:] = 4
    if void:
        truth[:, :10] = 255
        labels[:, :10] = 1
    return truth, labels


def test_segments_in_every_frame_and_in_smites_protocol() -> None:
    """A part that is not there counts as 0 in SMITE's mean, and not at all in J."""
    truth, labels = parts()
    found = score_segments(truth, labels, PARTS)
    assert found is not None and found["davis"]["task"] == "parts"
    assert found["davis"]["j"]["mean"] == [0.5] and 0.5 < found["davis"]["f_mean"] < 1
    shares = {"4": 1200 / 1400, "1": 0.5, "9": 0.0}
    assert found["smite"]["iou_per_part"] == pytest.approx(shares)
    assert found["smite"]["miou"] == pytest.approx(sum(shares.values()) / 3)
    assert found["smite"]["f"] == found["davis"]["f_mean"] and found["smite"]["j"] == 0.5


def test_void_is_left_out_of_j_and_f_but_not_of_smites_protocol() -> None:
    truth, labels = parts(void=True)
    found = score_segments(truth, labels, PARTS)
    assert found is not None
    assert found["davis"]["j"]["mean"] == [0.5] and found["smite"]["j"] == pytest.approx(200 / 800)
    assert found["davis"]["f_mean"] != found["smite"]["f"]


def test_without_a_background_every_class_is_a_segment() -> None:
    """Whatever its value: 0 is a class like others."""
    truth, labels = parts()
    classes = ScoredClasses({0: "sky", 1: "wheel"})
    table = Assignment("majority", {4: 0, 1: 1})
    found = score_segments(np.where(truth == 4, 0, truth), labels, classes, table)
    assert found is not None
    assert found["davis"]["j"]["mean"] == pytest.approx([1200 / 1400, 0.5])
    assert list(found["smite"]["iou_per_part"]) == ["0", "1"]


def test_nothing_but_background_has_no_segments() -> None:
    truth, labels = parts()
    assert score_segments(np.full_like(truth, 4), labels, PARTS) is None
    many = ScoredClasses({value: str(value) for value in range(255)})
    with pytest.raises(DataError, match="at most 254 classes can be scored as parts, not 255"):
        score_segments(truth, labels, many)


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

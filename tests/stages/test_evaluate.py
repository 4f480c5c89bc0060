"""The stages evaluate and summarize on small stores."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from pipeline.errors import DataError, UsageError
from pipeline.media.pictures import write_label_png
from pipeline.naming import names as names_file
from pipeline.naming.names import Named, Names, NamesFile
from pipeline.parameters import EvaluateParams, EvaluateParity
from pipeline.stores.numbering import ATTRIBUTE, Numbering
from pipeline.stores.schemas import APPLIED_LABELS, LABELS, TRACKS, TRUTH, ArraySpec, Schema
from pipeline.stores.store import fingerprint
from pipeline.stores.writer import StoreWriter
from stages import evaluate, summarize
from stages.common.settings import load
from stages.evaluate import Job

SIZE = (24, 32)
CLASSES = [
    {"id": 1, "name": "sky", "color": [0, 0, 200]},
    {"id": 2, "name": "road", "color": [100, 100, 100]},
    {"id": 3, "name": "dog", "color": [200, 0, 0]},
]
#: What `clusters_of` numbers, and one label that no clip has.
NUMBERING = Numbering("scene", (0, 5, 10, 15, 20))
NAMES = [f"frame_{f:03d}.jpg" for f in range(20)]


def scene(frames: int = 20) -> np.ndarray:
    """Ground truth (F, 24, 32): sky above road, a dog that walks, and a void border on the left."""
    truth = np.ones((frames, *SIZE), np.uint8)
    truth[:, 12:] = 2
    for f in range(frames):
        truth[f, 8:16, 4 + f % 20 : 10 + f % 20] = 3
    truth[:, :, :2] = 255
    return truth


def write_store(
    path: Path,
    schema: Schema,
    array: str,
    values: np.ndarray,
    params: dict[str, Any],
    attrs: dict[str, Any],
    confidence: np.ndarray | None = None,
) -> Path:
    arrays = {array: values, **({} if confidence is None else {"confidence": confidence})}
    specs = {name: ArraySpec(held.shape, str(held.dtype)) for name, held in arrays.items()}
    mark = fingerprint(array, attrs, values.tolist())
    writer = StoreWriter(path, path.parent / "tmp", schema, mark, specs, params=params, attrs=attrs)
    for shard in writer.missing():
        for name, held in arrays.items():
            writer.write(name, shard.start, held[shard.start : shard.stop])
    return writer.commit()


def write_truth(folder: Path, values: np.ndarray, indices: list[int] | None = None, name: str = "truth.zarr") -> Path:
    indices = list(range(len(values))) if indices is None else indices
    attrs = {"indices": indices, "classes": CLASSES, "ignore": [0, 255], "names": NAMES}
    return write_store(folder / name, TRUTH, "ground_truth", values, {}, attrs)


def write_names(folder: Path, names: dict[int, str], drop: tuple[int, ...] = ()) -> Path:
    """names.json for what `write_labels` writes."""
    folder.mkdir(parents=True, exist_ok=True)
    named = {label: Named(name) for label, name in names.items()}
    return names_file.write_names(folder / "names.json", NamesFile("scene", Names(named, {}, frozenset(drop))))


def write_labels(
    folder: Path,
    values: np.ndarray,
    segment: dict[str, Any] | None = None,
    name: str = "labels.zarr",
    confidence: np.ndarray | None = None,
) -> Path:
    params = {"segment": segment or {"init": "kmeans", "label_merge": "none"}, "upsample": {}}
    attrs = {"names": NAMES, ATTRIBUTE: NUMBERING.record()}
    return write_store(folder / name, LABELS, "labels", values, params, attrs, confidence)


def clusters_of(truth: np.ndarray) -> np.ndarray:
    """Perfect segments with ids of their own; void belongs to the segment beside it."""
    segments = np.where(truth == 255, np.roll(truth, -2, axis=2), truth)
    return (segments * 5).astype(np.uint8)


def scored(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(f"{name} in JSON"))


def test_perfect_segments_score_one(tmp_path: Path) -> None:
    truth = scene()
    labels = write_labels(tmp_path, clusters_of(truth))
    path = evaluate.run(labels, write_truth(tmp_path, truth), tmp_path / "out", EvaluateParams())
    content = scored(path)
    assert path == tmp_path / "out" / "scores.json" and [p.name for p in path.parent.iterdir()] == ["scores.json"]
    assert content["ground_truth"] is True and content["oracle_assignment"] is False
    assert content["protocol"] == "strict" and content["windows"] == [8, 16]
    assert content["pooled"] | {"unassigned_share": None} == {
        "miou": 1.0, "pixel_accuracy": 1.0, "class_accuracy": 1.0, "fwiou": 1.0, "vc8": 1.0, "vc16": 1.0,
        "unassigned_share": None, "j_mean": None, "f_mean": None, "jf_mean": None,
        "smite_miou": None, "smite_f": None, "flicker": None, "aurc": None, "calibration_error": None,
    }  # fmt: skip
    video = content["videos"][0]
    assert {entry["cluster"]: entry["class"] for entry in video["assigned"]["clusters"]} == {
        5: "sky", 10: "road", 15: "dog",
    }  # fmt: skip
    assert video["vc"]["8"]["windows"] == 12 and video["vc"]["16"]["windows"] == 4
    assert video["confusion"]["3"] == {"3": int((truth == 3).sum())}


def test_scores_are_the_same_bytes_again(tmp_path: Path) -> None:
    truth = scene()
    stores = write_labels(tmp_path, clusters_of(truth)), write_truth(tmp_path, truth)
    first, second = (evaluate.run(*stores, tmp_path / out, EvaluateParams()).read_bytes() for out in "ab")
    assert first == second


def test_a_later_cluster_counts_as_wrong(tmp_path: Path) -> None:
    truth = scene()
    clusters = clusters_of(truth)
    clusters[10:, 20:] = 99
    stores = write_labels(tmp_path, clusters), write_truth(tmp_path, truth)
    video = scored(evaluate.run(*stores, tmp_path / "out", EvaluateParams()))["videos"][0]
    assert video["assigned"]["clusters"][-1] | {"pixels": 0} == {
        "cluster": 99, "value": None, "class": None, "pixels": 0,
    }  # fmt: skip
    share = video["assigned"]["unassigned_share"]
    assert share == pytest.approx(0.5 * 4 / 24)
    assert video["scores"]["pixel_accuracy"] == pytest.approx(1 - share)


def unsure_clip(folder: Path) -> tuple[Path, Path, int]:
    """labels.zarr whose errors are all unsure, truth.zarr, and how many unsure pixels are scored; some are right."""
    truth = scene()
    clusters, confidence = clusters_of(truth), np.full(truth.shape, 200, np.uint8)
    clusters[10:, :12, 20:] = 10
    confidence[10:, :, 20:] = 80
    unsure = int(((confidence == 80) & (truth != 255)).sum())
    return write_labels(folder, clusters, confidence=confidence), write_truth(folder, truth), unsure


def test_confidence_is_scored(tmp_path: Path) -> None:
    labels, truth, unsure = unsure_clip(tmp_path)
    content = scored(evaluate.run(labels, truth, tmp_path / "out", EvaluateParams()))
    video = content["videos"][0]
    found = video["confidence"]
    assert found["error"] == pytest.approx(1 - video["scores"]["pixel_accuracy"])
    assert 0 < found["aurc"] < 0.3 * found["error"]
    assert content["pooled"]["aurc"] == video["scores"]["aurc"] == found["aurc"]
    assert [one["accuracy"] == 1 for one in found["bins"]] == [False, True]
    assert found["bins"][0]["pixels"] == unsure == found["pixels"][80]
    assert "ignored_share" not in video and "ignore_below" not in content


@pytest.mark.parametrize("protocol", ["strict", "official"])
def test_unsure_pixels_can_be_left_out(tmp_path: Path, protocol: Literal["strict", "official"]) -> None:
    labels, truth, unsure = unsure_clip(tmp_path)
    whole = scored(
        evaluate.run(labels, truth, tmp_path / "a", load(sets=[f"evaluate.protocol={protocol}"])["evaluate"])
    )
    sets = [f"evaluate.protocol={protocol}", "evaluate.ignore_below=0.5", "evaluate.objects=unsupervised"]
    content = scored(evaluate.run(labels, truth, tmp_path / "b", load(sets=sets)["evaluate"]))
    video, before = content["videos"][0], whole["videos"][0]
    pixels = sum(before["confidence"]["pixels"])
    assert content["ignore_below"] == 0.5
    assert video["confidence"] == before["confidence"]
    assert video["assigned"]["clusters"][0]["value"] == before["assigned"]["clusters"][0]["value"]
    assert sum(sum(row.values()) for row in video["confusion"].values()) < pixels
    if protocol == "strict":
        assert video["ignored_share"] == pytest.approx(unsure / pixels)
        assert video["scores"]["miou"] == 1 > before["scores"]["miou"]
        assert video["davis"]["jf_mean"] == 1


def test_unsure_pixels_are_not_known_without_confidence(tmp_path: Path) -> None:
    labels, truth = write_labels(tmp_path, clusters_of(scene())), write_truth(tmp_path, scene())
    params = EvaluateParams(ignore_below=0.5)
    with pytest.raises(DataError, match=r"ignore_below = 0.5 asks for; run `vidseg upsample` with upsample.confidence"):
        evaluate.run(labels, truth, tmp_path / "out", params)
    with pytest.raises(UsageError, match="ignore_below is for labels with confidence; --predictions have none"):
        evaluate.run(None, truth, tmp_path / "out", params, predictions=tmp_path)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("assignment", "table"),
    [
        ("majority", {5: 1, 10: 2}),
        ("hungarian", {5: 1, 10: 2}),
        ("official", {5: 255, 10: 2}),
    ],
)
def test_assignment_rules(tmp_path: Path, assignment: str, table: dict[int, int]) -> None:
    truth = np.ones((3, *SIZE), np.uint8)
    truth[:, 12:] = 2
    truth[:, :12, 4:] = 255
    clusters = np.where(np.arange(24)[:, None] < 12, 5, 10) + np.zeros_like(truth)
    stores = write_labels(tmp_path, clusters.astype(np.uint8)), write_truth(tmp_path, truth)
    params = EvaluateParams(assignment=assignment, parity=EvaluateParity(8))
    video = scored(evaluate.run(*stores, tmp_path / "out", params))["videos"][0]
    assert {entry["cluster"]: entry["value"] for entry in video["assigned"]["clusters"]} == table


def test_official_protocol_reads_stored_values(tmp_path: Path) -> None:
    truth = scene()
    stores = write_labels(tmp_path, clusters_of(truth)), write_truth(tmp_path, truth)
    content = scored(evaluate.run(*stores, tmp_path / "out", EvaluateParams(protocol="official")))
    video = content["videos"][0]
    assert content["protocol"] == "official"
    assert [entry["name"] for entry in video["classes"]] == [
        "void",
        "sky",
        "road",
    ]  # 0, 1, 2: the dog is no class
    assert video["scores"]["miou"] == 1.0
    assert set(video["confusion"]) == {"1", "2"}


def test_named_segments_are_the_classes_of_their_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without looking at the ground truth; what has no class's name counts as wrong, and is said."""
    truth = scene()
    stores = write_labels(tmp_path, clusters_of(truth)), write_truth(tmp_path, truth)
    params = EvaluateParams(assignment="names")
    names = write_names(tmp_path, {5: "sky", 10: "road", 15: "dog"})
    content = scored(evaluate.run(*stores, tmp_path / "a", params, names=names))
    assert content["pooled"]["miou"] == 1 and not capsys.readouterr().err
    assert content["videos"][0]["assigned"]["rule"] == "names"
    wrong = write_names(tmp_path, {5: "road", 10: "sky", 15: "dog"})
    assert scored(evaluate.run(*stores, tmp_path / "b", params, names=wrong))["pooled"]["miou"] == pytest.approx(1 / 3)
    names = write_names(tmp_path, {5: "sky", 10: "road", 15: "wolf"})
    content = scored(evaluate.run(*stores, tmp_path / "c", params, names=names))
    assert content["pooled"]["miou"] == pytest.approx(2 / 3)
    said = capsys.readouterr().err
    assert "no class of the ground truth has the name of: 15 wolf; they count as wrong" in said


def test_one_frame_is_no_oracle_where_names_assign(tmp_path: Path) -> None:
    truth = scene()
    stores = write_labels(tmp_path, clusters_of(truth)), write_truth(tmp_path, truth[3:4], [3])
    names = write_names(tmp_path, {5: "sky", 10: "road", 15: "dog"})
    params = EvaluateParams(assignment="names")
    assert scored(evaluate.run(*stores, tmp_path, params, names=names))["oracle_assignment"] is False


@pytest.mark.parametrize("rule", ["majority", "official", "hungarian"])
def test_dropped_segments_get_no_class(tmp_path: Path, rule: str) -> None:
    truth = scene()
    stores = write_labels(tmp_path, clusters_of(truth)), write_truth(tmp_path, truth)
    params = EvaluateParams(assignment=rule, parity=EvaluateParity(2))
    content = scored(evaluate.run(*stores, tmp_path, params, names=write_names(tmp_path, {}, drop=(5,))))
    classes = {entry["cluster"]: entry["class"] for entry in content["videos"][0]["assigned"]["clusters"]}
    assert classes == {10: "road", 15: "dog", 255: None}


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ({}, "names: none has a name; name segments like the ground truth's classes (dog, road, sky)"),
        ({5: "Himmel"}, "none of the names (Himmel) is a class; name segments like"),
    ],
)
def test_names_that_are_no_classes(tmp_path: Path, names: dict[int, str], message: str) -> None:
    truth = scene()
    stores = write_labels(tmp_path, clusters_of(truth)), write_truth(tmp_path, truth)
    with pytest.raises(DataError, match=re.escape(message)):
        evaluate.run(*stores, tmp_path / "out", EvaluateParams(assignment="names"), names=write_names(tmp_path, names))
    assert not (tmp_path / "out").exists()


def test_predictions_have_no_names(tmp_path: Path) -> None:
    (tmp_path / "predictions").mkdir()
    for number, plane in enumerate(scene()):
        write_label_png(tmp_path / "predictions" / f"frame_{number:03d}.png", plane)
    with pytest.raises(UsageError, match="assignment names is for labels with names; --predictions have none"):
        evaluate.run(
            None, write_truth(tmp_path, scene()), tmp_path, EvaluateParams(assignment="names"), tmp_path / "predictions"
        )


def test_an_item_s_names_are_read_on_the_fly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    truth = scene()
    write_labels(Path("data/upsample/one"), clusters_of(truth))
    write_truth(Path("data/ingest/one"), truth)
    names = write_names(Path("mine"), {5: "sky", 10: "road", 15: "dog"})
    content = {"items": {"one": [{"path": "x", "names": str(names)}]}, "concepts": {}, "applied": {}}
    Path("videos.yaml").write_text(json.dumps(content))
    arguments = ["--item", "one", "--assignment", "names"]
    assert CliRunner().invoke(evaluate.app, arguments, catch_exceptions=False).exit_code == 0
    assert scored(Path("data/evaluate/one/scores.json"))["pooled"]["miou"] == 1
    assert [path.name for path in Path("data/upsample/one").iterdir()] == ["labels.zarr"]


def test_one_annotated_frame_is_an_oracle_assignment(tmp_path: Path) -> None:
    truth = scene()
    stores = write_labels(tmp_path, clusters_of(truth)), write_truth(tmp_path, truth[19:], [19])
    content = scored(evaluate.run(*stores, tmp_path / "out", EvaluateParams()))
    assert content["oracle_assignment"] is True
    assert content["videos"][0]["scored_frames"] == 1 and content["videos"][0]["frames"] == 20
    assert content["pooled"]["vc8"] is None
    assert (
        scored(evaluate.run(*stores, tmp_path / "b", EvaluateParams(assignment="none")))["oracle_assignment"] is False
    )


@pytest.mark.parametrize("segment", [{"init": "mask"}, {"init": "kmeans", "label_merge": "first_frame"}])
def test_labels_that_began_as_classes_keep_their_values(tmp_path: Path, segment: dict[str, Any]) -> None:
    truth = scene()
    labels = np.where(truth == 255, 1, truth).astype(np.uint8)
    stores = write_labels(tmp_path, labels, segment), write_truth(tmp_path, truth)
    video = scored(evaluate.run(*stores, tmp_path / "out", EvaluateParams()))["videos"][0]
    assert video["assigned"] == {"rule": "none", "clusters": None, "unassigned_share": None}
    assert video["scores"]["miou"] == 1.0
    if segment["init"] == "mask":  # a propagated mask is scored like DAVIS scores it
        assert video["davis"]["task"] == "semi_supervised"
        assert len(video["davis"]["j"]["mean"]) == 3 and video["davis"]["j_mean"] > 0.9
    else:
        assert video["davis"] is None


def test_an_object_of_the_mask_that_is_no_class_stops_j_and_f_alone(tmp_path: Path) -> None:
    truth = scene(3)
    labels = write_labels(tmp_path, np.where(truth == 3, 5, truth).astype(np.uint8), {"init": "mask"})
    truth_store = write_truth(tmp_path, truth)
    with pytest.raises(DataError, match=r"object 5 is predicted.* \(evaluate.objects: none leaves J and F out\)"):
        evaluate.run(labels, truth_store, tmp_path / "out", EvaluateParams())
    assert not (tmp_path / "out").exists()
    path = evaluate.run(labels, truth_store, tmp_path / "out", EvaluateParams(objects="none"))
    assert scored(path)["pooled"]["jf_mean"] is None


def test_no_ground_truth(tmp_path: Path) -> None:
    labels = write_labels(tmp_path, clusters_of(scene()))
    path = evaluate.run(labels, write_truth(tmp_path, scene()[:0]), tmp_path / "data" / "clip", EvaluateParams())
    content = scored(path)
    assert content["ground_truth"] is False
    assert content["videos"] == [{"name": "video", "ground_truth": False, "frames": 20, "scored_frames": 0}]
    metrics = scored(summarize.run(tmp_path / "data", tmp_path / "summary"))
    assert metrics["miou"] is None and metrics["frames"] == 20
    result = CliRunner().invoke(summarize.app, [str(tmp_path / "data"), str(tmp_path / "summary")])
    assert "no ground truth: nothing was scored" in result.stdout


# --- segments that were shown -----------------------------------------------------------------------------


def write_applied(folder: Path, values: np.ndarray, clip: str = "clip") -> Path:
    """Labels of `apply`: ids of segments."""
    attrs = {"names": NAMES, "clip": clip, "concept": "c", "segments": []}
    return write_store(folder / "labels.zarr", APPLIED_LABELS, "labels", values, {"apply": {}}, attrs)


def write_tracks(folder: Path, frames: int, clip: str = "clip") -> Path:
    """Tracks of points that stand still, each a cell of 8x8 pixels, in windows of three frames."""
    yx = np.stack(np.divmod(np.arange(12), 4), axis=-1)
    arrays = {
        "yx": np.broadcast_to(yx, (frames, 3, 12, 2)).astype(np.int16),
        "visible": np.ones((frames, 3, 12), bool),
        "start": np.clip(np.arange(frames) - 1, 0, frames - 3).astype(np.int32),
    }
    specs = {name: ArraySpec(values.shape, str(values.dtype)) for name, values in arrays.items()}
    attrs = {"grid": [3, 4], "clip": clip}
    writer = StoreWriter(folder / "tracks.zarr", folder / "tmp", TRACKS, clip, specs, params={}, attrs=attrs)
    for shard in writer.missing():
        for name, values in arrays.items():
            writer.write(name, shard.start, values[shard.start : shard.stop])
    return writer.commit()


def test_segments_that_were_shown(tmp_path: Path) -> None:
    """J, F and SMITE's scores without the frames that are skipped; how steady labels are along tracks."""
    truth, wrong = scene(), scene()
    wrong[0], wrong[5] = 1, 2
    truth_store = write_truth(tmp_path, truth)
    labels, tracks = write_applied(tmp_path, wrong), write_tracks(tmp_path, len(truth))
    job = Job("v", labels, truth_store, stage="apply", tracks=tracks, skip=(0, 5))
    (video,) = scored(evaluate.run_videos([job], tmp_path / "out", EvaluateParams()))["videos"]
    assert video["assigned"]["rule"] == "none" and video["davis"]["task"] == "parts"
    assert (video["scored_frames"], video["skipped_frames"]) == (18, [0, 5])
    assert video["scores"]["miou"] == video["scores"]["f_mean"] == 1.0
    assert 5 not in video["per_frame"]["frame"] and video["vc"]["16"]["windows"] == 0
    assert set(video["smite"]["iou_per_part"]) == {"1", "2", "3"}
    cells = wrong[:, 4::8, 4::8].reshape(20, -1)  # what is skipped may flicker as well
    assert video["flicker"] == {"changed": int((cells[1:] != cells[:-1]).sum()), "points": 19 * 12}
    assert video["scores"]["flicker"] == video["flicker"]["changed"] / (19 * 12)


def test_nothing_is_left_to_score(tmp_path: Path) -> None:
    job = Job("v", write_applied(tmp_path, scene(2)), write_truth(tmp_path, scene(2)), stage="apply", skip=(0, 1))
    with pytest.raises(DataError, match=r"truth.zarr: every annotated frame is left out; name fewer frames in `skip`"):
        evaluate.run_videos([job], tmp_path / "out", EvaluateParams())


def test_tracks_of_another_clip(tmp_path: Path) -> None:
    labels, tracks = write_applied(tmp_path, scene(3)), write_tracks(tmp_path, 3, "other")
    job = Job("v", labels, write_truth(tmp_path, scene(3)), stage="apply", tracks=tracks)
    with pytest.raises(DataError, match=r"tracks.zarr does not belong to the clip of .*labels.zarr; run"):
        evaluate.run_videos([job], tmp_path / "out", EvaluateParams())


# --- predictions of other systems ---------------------------------------------------------------------------


def write_predictions(folder: Path, labels: np.ndarray, names: list[str] = NAMES) -> Path:
    for name, frame in zip(names, labels, strict=False):
        write_label_png(folder / f"{Path(name).stem}.png", frame)
    return folder


def test_predictions_are_scored_as_classes(tmp_path: Path) -> None:
    truth = scene()
    predicted = np.where(truth == 255, 1, truth).astype(np.uint8)
    predicted[:, :4] = 2
    store = write_truth(tmp_path, truth)
    folder = write_predictions(tmp_path / "png", predicted)
    by_folder = scored(evaluate.run(None, store, tmp_path / "a", EvaluateParams(), folder))["videos"][0]
    by_store = evaluate.run(
        write_labels(tmp_path, predicted, {"init": "mask"}), store, tmp_path / "b", EvaluateParams()
    )
    assert by_folder["confusion"] == scored(by_store)["videos"][0]["confusion"]
    assert by_folder["assigned"]["rule"] == "none"


def test_predictions_of_clusters_can_be_assigned(tmp_path: Path) -> None:
    truth = scene()
    folder = write_predictions(tmp_path / "png", clusters_of(truth))
    path = evaluate.run(None, write_truth(tmp_path, truth), tmp_path, EvaluateParams(assignment="majority"), folder)
    assert scored(path)["pooled"]["miou"] == 1.0


def test_coloured_predictions_are_read_through_the_class_colours(tmp_path: Path) -> None:
    truth = scene(2)
    colours = np.zeros((256, 3), np.uint8)
    for entry in CLASSES:
        colours[entry["id"]] = entry["color"]
    colours[255] = CLASSES[0]["color"]
    (tmp_path / "png").mkdir()
    for name, frame in zip(NAMES, truth, strict=False):
        Image.fromarray(colours[frame]).convert("RGBA").save(tmp_path / "png" / f"{Path(name).stem}.png")
    path = evaluate.run(None, write_truth(tmp_path, truth), tmp_path, EvaluateParams(), tmp_path / "png")
    assert scored(path)["pooled"]["miou"] == 1.0


@pytest.mark.parametrize(("value", "at", "warned"), [(40, 3, True), (0, 3, True), (255, 3, True), (255, 255, False)])
def test_predicted_values_that_are_no_class_are_warned_about(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], value: int, at: int, warned: bool
) -> None:
    """Void too, where the ground truth counts: it may stand for classes that are numbered in another way."""
    truth = scene(3)
    folder = write_predictions(tmp_path / "png", np.where(truth == at, value, 1).astype(np.uint8))
    evaluate.run(None, write_truth(tmp_path, truth), tmp_path, EvaluateParams(), folder)
    share = np.mean(truth[truth != 255] == 3)
    message = f"{share:.1%} of the scored pixels have a predicted value that is no class, and count as wrong: {value}"
    assert (message in capsys.readouterr().err) is warned


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: [path.unlink() for path in folder.iterdir()], "holds no PNG"),
        (
            lambda folder: (folder / "frame_004.png").unlink(),
            r"1 of 20 annotated frames .* \(first: frame_004.jpg\)",
        ),
        (
            lambda folder: write_label_png(folder / "frame_002.png", np.ones((12, 16), np.uint8)),
            r"frame_002.png: 16x12 pixels, the ground truth has 32x24",
        ),
        (
            lambda folder: Image.new("RGB", (32, 24), (1, 2, 3)).save(folder / "frame_001.png"),
            r"frame_001.png: the colour \(1, 2, 3\) .* belongs to no class",
        ),
        (lambda folder: (folder / "frame_000.png").write_bytes(b"no"), "frame_000.png: not a picture"),
    ],
)
def test_bad_predictions(tmp_path: Path, spoil: Any, message: str) -> None:
    truth = scene()
    folder = write_predictions(tmp_path / "png", truth)
    spoil(folder)
    with pytest.raises(DataError, match=message):
        evaluate.run(None, write_truth(tmp_path, truth), tmp_path / "out", EvaluateParams(), folder)
    assert not (tmp_path / "out").exists()


def test_sixteen_bit_predictions(tmp_path: Path) -> None:
    truth = scene(2)
    folder = tmp_path / "png"
    folder.mkdir()
    for name, frame in zip(NAMES, truth, strict=False):
        Image.fromarray(np.where(frame == 3, 700, 1).astype(np.uint16)).save(folder / f"{Path(name).stem}.png")
    video = scored(evaluate.run(None, write_truth(tmp_path, truth), tmp_path, EvaluateParams(), folder))["videos"][0]
    assert video["unknown_predictions"] == [700]


def test_ground_truth_of_void_alone(tmp_path: Path) -> None:
    attrs = {"indices": [0], "classes": [], "ignore": [255], "names": NAMES}
    void = np.full((1, *SIZE), 255, np.uint8)
    truth = write_store(tmp_path / "truth.zarr", TRUTH, "ground_truth", void, {}, attrs)
    with pytest.raises(DataError, match=r"truth\.zarr: the ground truth has no classes, only void"):
        evaluate.run(None, truth, tmp_path, EvaluateParams(), write_predictions(tmp_path / "png", void))


def test_no_such_predictions(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder of predictions"):
        evaluate.run(None, write_truth(tmp_path, scene(2)), tmp_path, EvaluateParams(), tmp_path / "nowhere")


# --- stores that do not fit ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("labels", "indices", "message"),
    [
        (np.zeros((20, 12, 16), np.uint8), None, "labels of 16x12, but .* is of 32x24"),
        (np.zeros((10, *SIZE), np.uint8), None, "has 10 frames, but frame 10 is annotated"),
    ],
)
def test_stores_of_different_clips(tmp_path: Path, labels: np.ndarray, indices: list[int] | None, message: str) -> None:
    stores = write_labels(tmp_path, labels), write_truth(tmp_path, scene(), indices)
    with pytest.raises(DataError, match=message):
        evaluate.run(*stores, tmp_path / "out", EvaluateParams())


def test_an_unknown_truth_value_is_named_with_its_frame(tmp_path: Path) -> None:
    truth = scene()
    truth[7, 0, 5] = 9
    stores = write_labels(tmp_path, clusters_of(truth)), write_truth(tmp_path, truth)
    with pytest.raises(DataError, match=r"labels.zarr against .*truth.zarr: frame 7: .* value 9"):
        evaluate.run(*stores, tmp_path / "out", EvaluateParams())


# --- commands, items, parameters -------------------------------------------------------------------------


def item_folders(root: Path) -> None:
    """Item `one` of a single video and item `many` of two, the second without ground truth."""
    truth = scene()
    for key, video in (("one", None), ("many", "a"), ("many", "b")):
        names = (f"truth.zarr/{video}", f"labels.zarr/{video}") if video else ("truth.zarr", "labels.zarr")
        write_truth(root / "data/ingest" / key, truth[:0] if video == "b" else truth, name=names[0])
        write_labels(root / "data/upsample" / key, clusters_of(truth), name=names[1])


def test_items_and_their_summary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    item_folders(tmp_path)
    monkeypatch.chdir(tmp_path)
    runner = CliRunner()
    assert runner.invoke(evaluate.app, ["--item", "one"], catch_exceptions=False).exit_code == 0
    dvc = {"DVC_STAGE": "evaluate@many"}
    assert runner.invoke(evaluate.app, [], env=dvc, catch_exceptions=False).exit_code == 0
    many = scored(tmp_path / "data/evaluate/many/scores.json")
    assert [(video["name"], video["ground_truth"]) for video in many["videos"]] == [("a", True), ("b", False)]

    result = runner.invoke(summarize.app, ["data/evaluate", "."], catch_exceptions=False)
    lines = result.stdout.splitlines()
    assert lines[0].split()[:4] == ["video", "frames", "scored", "mIoU"]
    assert [line.split()[:4] for line in lines[1:5]] == [
        ["many/a", "20", "20", "1.0000"],
        ["many/b", "20", "0", "-"],
        ["one", "20", "20", "1.0000"],
        ["all", "60", "40", "1.0000"],
    ]
    assert lines[5] == "protocol strict, assignment majority"
    (tmp_path / "videos.yaml").write_text("items: {one: []}\nconcepts: {}\napplied: {}\n")
    chosen = runner.invoke(summarize.app, ["data/evaluate", "chosen", "--items", "videos.yaml", "--json"])
    assert json.loads(chosen.stdout)["videos"] == 1  # `many` is no item any more
    metrics = scored(tmp_path / "metrics.json")
    assert metrics == json.loads(runner.invoke(summarize.app, ["data/evaluate", ".", "--json"]).stdout)
    assert (metrics["miou"], metrics["vc8"], metrics["videos"], metrics["frames"]) == (1.0, 1.0, 3, 60)
    rows = list(csv.DictReader((tmp_path / "plots/per_frame.csv").open()))
    assert len(rows) == 40 and rows[0] == {
        "video": "many/a",
        "frame": "0",
        "miou": "1.0",
        "pixel_accuracy": "1.0",
    }
    assert [row["class"] for row in scored(tmp_path / "plots/per_class.json")] == ["sky", "road", "dog"]
    assert [row["miou"] for row in scored(tmp_path / "plots/per_video.json")] == [1.0, None, 1.0]


def test_predictions_of_an_item_lie_in_sub_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scores of predictions stay out of the pipeline's own folder."""
    item_folders(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert CliRunner().invoke(evaluate.app, ["--item", "many"], catch_exceptions=False).exit_code == 0
    own = (tmp_path / "data/evaluate/many/scores.json").read_bytes()
    write_predictions(tmp_path / "png" / "a", np.ones((20, *SIZE), np.uint8))
    arguments = ["--item", "many", "--predictions", "png", "--out", "theirs/many"]
    assert CliRunner().invoke(evaluate.app, arguments, catch_exceptions=False).exit_code == 0
    accuracy = scored(tmp_path / "theirs/many/scores.json")["pooled"]["pixel_accuracy"]
    assert accuracy == pytest.approx((scene() == 1).sum() / (scene() != 255).sum())
    assert (tmp_path / "data/evaluate/many/scores.json").read_bytes() == own


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--item", "one", "--predictions", "png"), "data/evaluate/one is for the pipeline's own labels; give another"),
        (("--item", "one", "--predictions", "png", "--out", "data/../data/evaluate/one"), "give another folder with"),
        (("--item", "one", "--out", "theirs"), "--out goes with --predictions"),
        (("a.zarr", "b.zarr", "c", "--out", "theirs"), "--out goes with --item"),
    ],
)
def test_scores_of_predictions_need_a_place_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=message):
        CliRunner().invoke(evaluate.app, list(arguments), catch_exceptions=False)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("ids", "warned"),
    [
        ((0, 1, 2), None),
        ((1, 2, 3), None),  # as VSPW numbers its classes
        ((0, 1, 3), r"values 0 to 2 .* 1 of 3 classes are not scored \(3 class 3\)"),
        ((4, 5), r"values 0 to 1 .* 2 of 2 classes are not scored \(4 class 4, 5 class 5\)"),
    ],
)
def test_the_official_protocol_warns_of_gaps_in_the_ids(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], ids: tuple[int, ...], warned: str | None
) -> None:
    truth = np.resize(np.array(ids, np.uint8), (1, *SIZE))
    classes = [{"id": value, "name": f"class {value}"} for value in ids]
    attrs = {"indices": [0], "classes": classes, "ignore": [255], "names": NAMES}
    store = write_store(tmp_path / "truth.zarr", TRUTH, "ground_truth", truth, {}, attrs)
    evaluate.run(None, store, tmp_path, EvaluateParams(protocol="official"), write_predictions(tmp_path / "png", truth))
    lines = [line for line in capsys.readouterr().err.splitlines() if "the ids have gaps" in line]
    assert len(lines) == (warned is not None)
    assert warned is None or re.search(warned, lines[0])


def test_predictions_need_no_labels_on_the_command_line(tmp_path: Path) -> None:
    truth = write_truth(tmp_path, scene())
    folder = write_predictions(tmp_path / "png", scene())
    arguments = [str(truth), str(tmp_path / "out"), "--predictions", str(folder)]
    assert CliRunner().invoke(evaluate.app, arguments, catch_exceptions=False).exit_code == 0
    assert scored(tmp_path / "out" / "scores.json")["pooled"]["miou"] == 1.0


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ((), "strict"),
        (("--protocol", "official"), "official"),
        (("--set", "evaluate.protocol=official", "--protocol", "strict"), "strict"),
    ],
)
def test_the_protocol_has_an_option_of_its_own(tmp_path: Path, options: tuple[str, ...], expected: str) -> None:
    arguments = [str(write_truth(tmp_path, scene())), str(tmp_path), "--predictions"]
    arguments += [str(write_predictions(tmp_path / "png", scene())), *options]
    assert CliRunner().invoke(evaluate.app, arguments, catch_exceptions=False).exit_code == 0
    assert scored(tmp_path / "scores.json")["protocol"] == expected


def test_an_unknown_protocol(tmp_path: Path) -> None:
    arguments = ["a.zarr", "b.zarr", str(tmp_path), "--protocol", "lenient"]
    with pytest.raises(UsageError, match="evaluate.protocol must be one of strict, official, not 'lenient'"):
        CliRunner().invoke(evaluate.app, arguments, catch_exceptions=False)


def test_missing_arguments(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="give LABELS, TRUTH and OUT_DIR, or --item KEY"):
        CliRunner().invoke(evaluate.app, [str(tmp_path)], catch_exceptions=False)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("protocol=lenient", "evaluate.protocol must be one of strict, official"),
        ("windows=[8, 0]", "evaluate.windows must be at least 1"),
        ("assignement=majority", "did you mean 'evaluate.assignment'"),
    ],
)
def test_bad_parameters(setting: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load(None, [f"evaluate.{setting}"])


def test_a_store_of_an_interrupted_stage_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such store; run `vidseg ingest`"):
        evaluate.run_videos([Job("v", None, tmp_path / "truth.zarr")], tmp_path, EvaluateParams())


def test_the_summary_of_several_projects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of two items, one of a single item; a third has other rules."""
    monkeypatch.chdir(tmp_path)
    run = CliRunner().invoke
    for name, keys in (("first", ("one", "many")), ("second", ("one",)), ("other/first", ("one",))):
        project = tmp_path / name
        item_folders(project)
        with monkeypatch.context() as inside:
            inside.chdir(project)
            for key in keys:
                assert run(evaluate.app, ["--item", key], catch_exceptions=False).exit_code == 0
        listed = ", ".join(f"{key}: []" for key in keys)
        (project / "videos.yaml").write_text(f"items: {{{listed}}}\nconcepts: {{}}\napplied: {{}}\n")
    (tmp_path / "empty").mkdir()

    lines = run(summarize.app, ["first", "second", "-o", "all"], catch_exceptions=False).stdout.splitlines()
    names = [line.split()[0] for line in lines[1:-1]]
    assert names == ["first/many/a", "first/many/b", "first/one", "second/one", "all"]
    assert scored(tmp_path / "all/metrics.json")["frames"] == 80
    for arguments, message in (
        (["first", "empty", "-o", "x"], "empty: no project, it has no videos.yaml"),
        (["first", "other/first", "-o", "x"], "two projects are called first"),
        (["first", "second", "-o", "x", "--items", "videos.yaml"], "--items goes with SCORES"),
        (["first"], "give SCORES and OUT, or PROJECT ... and -o OUT"),
    ):
        with pytest.raises(UsageError, match=message):
            run(summarize.app, arguments, catch_exceptions=False)
    assert not (tmp_path / "x").exists()

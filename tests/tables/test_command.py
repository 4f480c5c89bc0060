"""The tables as DVC experiments: their rows as parameters, the real commands on a tiny model, and what they refuse."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.datasets.links import FILE, SCHEMA
from pipeline.errors import DataError, UsageError, VidsegError
from pipeline.scoring.coarse_truth import coarse_truth
from pipeline.scoring.files import item_record
from pipeline.stores.schemas import COARSE
from pipeline.stores.store import open_store
from pipeline.tables.quoted import TABLE_2, Quoted
from stages.common import programs
from stages.common import settings as settings_
from stages.tables import experiments, oracle
from stages.tables import items as table_items
from stages.tables import rows as table_rows
from stages.tables import run as table_run
from stages.tables.command import PAGE_MARK
from tests.support import yaml
from tests.support.commands import error_line, vidseg, write_frames, write_labels
from tests.support.records import WINDOWS, noisy_video
from tests.support.table_project import Project

SETTINGS = settings_.load(None, ["upsample.strength=30", "upsample.filter=0.6", "segment.vote=both"])

MASKED, UNMASKED = (True, 30.0), (False, 10.0)
REFINED, UNREFINED = ("both", 0.6), ("none", 1.0)


@pytest.mark.parametrize(
    ("key", "cells", "window", "features", "masked", "refined"),
    [
        ("b1", ("1", "✗", "✗", "✗"), 1, "matching", UNMASKED, UNREFINED),
        ("b14", ("14", "✗", "✗", "✗"), 14, "matching", UNMASKED, UNREFINED),
        ("b14_mask", ("14", "✓", "✗", "✗"), 14, "matching", MASKED, UNREFINED),
        ("b14_aggr", ("14", "✗", "✓", "✗"), 14, "aggregated", UNMASKED, UNREFINED),
        ("b14_cbr", ("14", "✗", "✗", "✓"), 14, "matching", UNMASKED, REFINED),
        ("b14_mask_aggr", ("14", "✓", "✓", "✗"), 14, "aggregated", MASKED, UNREFINED),
        ("b14_mask_cbr", ("14", "✓", "✗", "✓"), 14, "matching", MASKED, REFINED),
        ("b14_mask_aggr_cbr", ("14", "✓", "✓", "✓"), 14, "aggregated", MASKED, REFINED),
    ],
)
def test_rows_of_the_ablation(
    key: str,
    cells: tuple[str, ...],
    window: int,
    features: str,
    masked: tuple[bool, float],
    refined: tuple[str, float],
) -> None:
    rows = {row.key: row for row in table_rows.ablation_rows(SETTINGS)}
    assert len(rows) == 8
    assert rows[key].cells == cells
    made = settings_.load(None, rows[key].sets)
    segment, upsample = made["segment"], made["upsample"]
    assert (segment.window, segment.features, upsample.method) == (window, features, "modulation")
    assert (upsample.blend, upsample.strength) == masked
    assert (segment.vote, upsample.filter) == refined


def test_the_refined_rows_vote_where_the_parameters_do_not() -> None:
    rows = table_rows.ablation_rows(settings_.load(None, ["segment.vote=none"]))
    assert settings_.load(None, rows[-1].sets)["segment"].vote == "forward"


def test_pairs_of_the_ablation_differ_by_one_switch() -> None:
    pairs = table_rows.ablation_pairs(table_rows.ablation_rows(SETTINGS))
    assert len(pairs) == 10
    assert {(pair.base, pair.other): pair.title for pair in pairs}["b14_mask", "b14_mask_cbr"] == (
        "B 14 + masked modulation + CBR"
    )
    assert next(pair for pair in pairs if pair.base == "b1").title == "nothing + B 14"
    some = table_rows.ablation_pairs(table_rows.ablation_rows(SETTINGS)[:2])
    assert [(pair.base, pair.other) for pair in some] == [("b1", "b14")]


def test_the_baselines() -> None:
    loaded = {row.key: settings_.load(None, row.sets) for row in table_rows.method_rows(SETTINGS)}
    assert list(loaded) == ["ours", "coarse", "joint_bilateral", "emerdiff"]
    methods = {key: made["upsample"].method for key, made in loaded.items()}
    assert methods == {
        "ours": SETTINGS["upsample"].method,
        "coarse": "bilinear",
        "joint_bilateral": "joint_bilateral",
        "emerdiff": "modulation",
    }
    assert loaded["ours"].as_dict() == settings_.load().as_dict()


def test_rows_of_a_video_model_have_its_windows_and_figures() -> None:
    video = settings_.load(None, ["backbone.name=svd"])
    methods = {row.key: row for row in table_rows.method_rows(video)}
    assert methods["ours"].quoted["vspw"] == Quoted(53.2, 89.3, 88.0)
    assert methods["emerdiff"].quoted["vspw"] == Quoted(39.7, 82.1, 78.5)
    rows = {row.key: row for row in table_rows.ablation_rows(video)}
    assert list(rows["b1"].quoted.values()) == [Quoted(26.6, 82.2, 78.3)]
    name = ("backbone.name=svd",)
    first = settings_.load(None, (*name, *rows["b1"].sets))
    assert (first["extract"].frames_together, first["extract"].matching_block) == (1, 8)
    assert first.as_dict() == settings_.load(None, methods["emerdiff"].sets).as_dict()
    last = settings_.load(None, (*name, *rows["b14_mask_aggr_cbr"].sets))
    assert (last["extract"].frames_together, last["extract"].matching_block) == (14, 7)


def test_emerdiff_is_the_first_row_of_the_ablation() -> None:
    """Where no default differs from the paper's: the ablation changes its four switches and the features alone."""
    sd21 = ["backbone.name=sd21"]
    emerdiff, first = table_rows.preset_sets("emerdiff"), table_rows.ablation_rows(settings_.load(None, sd21))[0].sets
    assert settings_.load(None, [*sd21, *emerdiff]).as_dict() == settings_.load(None, [*sd21, *first]).as_dict()
    assert next(iter(TABLE_2)) == (False, False, False, False)


def test_the_ablation_is_of_the_diffusion_model_alone() -> None:
    for row in table_rows.ablation_rows(SETTINGS):
        loaded = settings_.load(None, row.sets)
        assert (loaded["extract"].encoder, loaded["extract"].parts) == ("none", "both")
        assert (loaded["segment"].encoder_weight, loaded["correspond"].encoder_weight) == (0, 0)


def test_error_rows_name_each_other() -> None:
    keys = {"truth", *(f"oracle_{m}" for m in oracle.UPSAMPLERS), *(row.key for row in table_rows.propagation_rows())}
    assert {key for pair in table_rows.ERROR_PAIRS for key in (pair.base, pair.other)} == keys


# The real thing: a registered item of two clips and one of no data set, in a git repository of its own.


def test_a_dry_run_prints_the_commands(restored: Project) -> None:
    lines = vidseg("table", "2", "--rows", "b1,b14_mask", "--dry-run").stdout.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("dvc exp run --queue --name b1-")
    assert "-S ++segment.window=1 -S ++segment.features=matching" in lines[0]
    assert lines[1].endswith(" -S ++upsample.filter=1.0 evaluate@clips")
    assert not Path("data").exists()
    restored.write("videos.yaml", yaml.videos({"clips": [restored.entry("a")]}))
    (line,) = vidseg("table", "1", "--rows", "ours", "--dry-run").stdout.splitlines()
    assert line.endswith(" ingest extract correspond segment upsample evaluate summarize")


def test_the_mark_follows_what_decides_results(restored: Project) -> None:
    def mark(*sets: str) -> str:
        return experiments.describe("row", sets, ["clips", "extra"]).mark

    same = f"segment.window={SETTINGS['segment'].window}"
    assert mark() == mark(same) == mark("render.opacity=0.1")
    assert mark("segment.clusters=3") != mark()
    assert experiments.describe("row", (), ["clips"]).mark != mark()
    before = mark()
    with Path("videos.yaml").open("a") as stream:
        stream.write("# note\n")
    assert mark() != before


def unregister(project: Project) -> None:
    project.write("videos.yaml", yaml.videos({}))


def forget_the_truth(project: Project) -> None:
    project.write("videos.yaml", yaml.videos({"a": [project.entry("a") | {"ground_truth": "inputs/none"}]}))


def go_back_a_version(project: Project) -> None:
    entry = {key: value for key, value in project.entry("a").items() if key != "names"}
    project.write("videos.yaml", yaml.videos({"a": [entry]}))


def use_a_relative_path(project: Project) -> None:
    (project.root / "here").mkdir(exist_ok=True)
    project.write("videos.yaml", yaml.videos({"a": [project.entry("a") | {"path": "here"}]}))


def use_a_relative_encoder(project: Project) -> None:
    (project.root / "here").mkdir(exist_ok=True)
    project.write("params.yaml", {"extract": {"encoder": "here"}})


def remove_from_git(project: Project) -> None:
    project.run("git", "rm", "-q", "--cached", "params.yaml")


def remove_the_parameters(project: Project) -> None:
    (project.root / "params.yaml").unlink()


def remove_the_pipeline(project: Project) -> None:
    (project.root / "dvc.yaml").unlink()


def conflict(project: Project) -> None:
    blob = project.run("git", "hash-object", "-w", "params.yaml").strip()
    lines = "".join(f"100644 {blob} {stage}\tparams.yaml\n" for stage in (1, 2, 3))
    subprocess.run(
        ["git", "update-index", "--index-info"], cwd=project.root, check=True, text=True,
        input=f"0 {'0' * 40}\tparams.yaml\n{lines}",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("spoil", "code", "message"),
    [
        (unregister, 2, "videos.yaml: lists no items; `vidseg videos add VIDEO` writes them"),
        (forget_the_truth, 3, "videos.yaml: no chosen video has ground truth: nothing to score"),
        (go_back_a_version, 2, "videos.yaml: item 'a' is of an earlier version, without `names`; `vidseg videos list`"),
        (use_a_relative_path, 2, "videos.yaml: path of item 'a' is relative and not in git"),
        (
            use_a_relative_encoder,
            2,
            "params.yaml: extract.encoder is relative and not in git",
        ),
        (remove_from_git, 2, "params.yaml: unknown to git, so experiments would lack it; git add params.yaml"),
        (remove_the_pipeline, 2, "dvc.yaml: no such file; run in the project's folder"),
        (remove_the_parameters, 2, "params.yaml: no such file; run in the project's folder"),
        (conflict, 2, "params.yaml: unresolved merge; finish or abort it first"),
    ],
)
def test_projects_that_cannot_run_experiments(
    restored: Project, spoil: Callable[[Project], None], code: int, message: str
) -> None:
    spoil(restored)
    assert message in error_line(vidseg("table", "1", "--dry-run", check=code))


def test_without_a_commit(restored: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in experiments.TRACKED:
        shutil.copy(path, tmp_path / path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="experiments need git and one commit"):
        experiments.check_project()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("1", "--rows", "ours,none"), 2, "--rows: no row 'none'; there are: ours, coarse, joint_bilateral, emerdiff"),
        (("page", "r.md", "--out", "nowhere"), 3, "nowhere: no tables here; run `vidseg table 1`"),
    ],
)
def test_bad_arguments(restored: Project, arguments: tuple[str, ...], code: int, message: str) -> None:
    assert message in error_line(vidseg("table", *arguments, check=code))


@pytest.mark.whole
def test_two_rows_share_features_and_a_second_run_runs_nothing(
    restored: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real queue: two experiments over two clips; what is not registered stays out of them."""
    arguments = ("table", "1", "--rows", "coarse,joint_bilateral")
    first = vidseg(*arguments)
    out = Path("data/tables")
    lines = [json.loads(line) for line in (out / "seconds.jsonl").read_text().splitlines()]
    ran = [(line["experiment"].rpartition("-")[0], line["stage"].partition("@")[0]) for line in lines]
    assert ran == [
        *(("coarse", stage) for stage in ("ingest", "extract", "correspond", "segment", "upsample", "evaluate")),
        *(("joint_bilateral", stage) for stage in ("upsample", "evaluate")),
    ]
    assert {line["stage"].partition("@")[2] for line in lines} == {"clips"}
    assert "* not in this table: extra (videos.yaml)" in first.stdout
    assert "### camvid-tiny: 2 videos, 8 frames, 2 classes, 64x64" in first.stdout
    assert first.stdout == (out / "table1.md").read_text()
    with (out / "table1.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [row["row"] for row in rows] == ["coarse", "joint_bilateral"]
    seconds = [float(row["seconds_per_frame"]) for row in rows]
    before = [line["seconds"] for line in lines if line["stage"].startswith(("extract", "correspond", "segment"))]
    assert min(seconds) > sum(before) / 8 > 0  # the row that restored them knows what they took
    with (out / "table1_classes.csv").open() as stream:
        assert {(row["row"], row["class"]) for row in csv.DictReader(stream)} == {
            (row, name) for row in ("coarse", "joint_bilateral") for name in "01"
        }
    record = json.loads((out / "table1.json").read_text())
    assert set(record["rows"][0]["videos"]) == {"clips/a", "clips/b"}
    assert {"confusion", "vc"} <= set(record["rows"][0]["videos"]["clips/a"])
    assert record["commit"] == restored.run("git", "rev-parse", "HEAD").strip()
    assert restored.run("git", "status", "--short") == ""

    again = vidseg(*arguments)
    assert again.stdout == first.stdout
    assert len((out / "seconds.jsonl").read_text().splitlines()) == len(lines)
    page = Path("results.md")
    page.write_text(f"# Mine\n\nWhy so.\n\n{PAGE_MARK}\n\nold tables\n")
    vidseg("table", "page", page)
    assert page.read_text() == f"# Mine\n\nWhy so.\n\n{PAGE_MARK}\n\n{first.stdout}"
    page.unlink()
    vidseg("table", "page", page)
    assert page.read_text() == f"# Results\n\n{PAGE_MARK}\n\n{first.stdout}"
    page.write_text("# Mine\n")
    assert "has no line '<!-- tables" in error_line(vidseg("table", "page", page, check=2))
    page.unlink()

    # The edge at column 24 lies within a token of 16 pixels: 16 of 24 and 40 of 48 columns are right.
    monkeypatch.setattr(oracle, "UPSAMPLERS", ("nearest",))
    revision = record["rows"][0]["revision"]
    leftover = out / "oracle" / "tmp" / "ingest" / "clips" / "truth.zarr" / "a"
    leftover.mkdir(parents=True)
    (leftover / "zarr.json").write_text("half a f")
    found = oracle.run(revision, ["clips"], settings_.load(experiments.PARAMS), out / "oracle")
    assert found["nearest"]["clips"]["pooled"]["miou"] == pytest.approx((16 / 24 + 40 / 48) / 2)


@pytest.mark.whole
def test_a_row_that_fails_is_named_with_its_reason(restored: Project) -> None:
    shutil.copytree(restored.data / "a", restored.data / "broken", dirs_exist_ok=True)
    (restored.data / "broken" / "00001.png").write_bytes(b"no picture")
    entry = restored.entry("a") | {"path": str(restored.data / "broken")}
    restored.write("videos.yaml", yaml.videos({"broken": [entry]}))
    result = vidseg("table", "1", "--rows", "coarse", check=3)
    assert "uncommitted changes are part of these experiments: videos.yaml" in result.stderr
    line = error_line(result)
    assert line.startswith("error: coarse-") and "00001.png" in line
    assert "`dvc queue logs NAME` shows all" in line


# Which items, which of the paper's figures, which rows: without running anything.


def registered(**datasets: str | None) -> dict[str, Any]:
    """Items by data set; None = of none."""
    entry = {"path": "/x", "ground_truth": "/y"}
    items = {key: [entry | ({"dataset": name} if name else {})] for key, name in datasets.items()}
    return yaml.videos(items)


@pytest.mark.parametrize(
    ("items", "wanted", "chosen", "left_out"),
    [
        ({"a": "vspw-val", "b": "camvid", "sample": None}, None, ("a", "b"), ("sample",)),
        ({"a": "vspw-val", "b": "camvid", "c": "davis"}, "camvid, davis", ("b", "c"), ("a",)),
        ({"sample": None, "mine": None}, None, ("mine", "sample"), ()),
        ({"a": "vspw-val", "sample": None}, "other", ("sample",), ("a",)),
    ],
)
def test_items_of_a_table(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    items: dict[str, str | None],
    wanted: str | None,
    chosen: tuple[str, ...],
    left_out: tuple[str, ...],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("videos.yaml").write_text(yaml.safe_dump(registered(**items)))
    found = table_items.select(wanted)
    assert (found.keys, found.left_out) == (chosen, left_out)


def test_an_unknown_data_set_is_refused(restored: Project) -> None:
    line = error_line(vidseg("table", "errors", "--datasets", "vspw-val", "--dry-run", check=2))
    assert line == "error: --datasets: no item is of 'vspw-val'; there are: camvid-tiny"


@pytest.mark.parametrize(
    ("name", "layout", "paper"),
    [
        ("thirty", "vspw", "vspw"),
        ("camvid-val", "camvid", "camvid"),
        ("camvid-15hz", "folders", "camvid"),
        ("camvid", "davis2017", "davis2017"),
        ("camvid", None, None),  # written by hand
    ],
)
def test_the_papers_name_of_a_registration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, layout: str | None, paper: str | None
) -> None:
    monkeypatch.chdir(tmp_path)
    if layout:
        folder = Path("inputs") / name
        folder.mkdir(parents=True)
        (folder / FILE).write_text(json.dumps({"schema": SCHEMA, "source": {"dataset": layout}}))
    assert table_items.paper_names([name]) == ({name: paper} if paper else {})


class Canned:
    """Experiments that are finished at once, with made-up scores; the order of the rows that were asked for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[list[str]] = []
        self.first_truth = 0
        monkeypatch.setattr(experiments, "run", self.run)
        monkeypatch.setattr(experiments, "read", lambda experiment, seconds: self.result(len(experiment.sets)))
        monkeypatch.setattr(oracle, "run", lambda *_: {name: self.result(9).records for name in oracle.UPSAMPLERS})

    def run(self, rows: list[experiments.Experiment], jobs: int, seconds_file: Path) -> None:
        self.asked.append([row.name for row in rows])

    def result(self, seed: int) -> experiments.Result:
        videos = [noisy_video(seed), noisy_video(seed + 1)]
        for name, video in zip("ab", videos, strict=True):
            video["name"] = name
        videos[1]["per_frame"]["frame"] = [frame + self.first_truth for frame in videos[1]["per_frame"]["frame"]]
        return experiments.Result("r", {"clips": item_record(videos, "strict", "majority", WINDOWS)}, {})


@pytest.fixture
def canned(monkeypatch: pytest.MonkeyPatch) -> Canned:
    return Canned(monkeypatch)


def test_where_the_points_are_lost(restored: Project, canned: Canned) -> None:
    page = vidseg("table", "errors").stdout
    assert canned.asked == [["full"], ["mask_nearest", "mask_modulation", "full"]]
    assert "| clustering: truth of frame 1 → clusters of frame 1, modulation |" in page
    assert "propagation is left out" not in page


def test_propagation_is_left_out_where_a_first_frame_has_no_truth(restored: Project, canned: Canned) -> None:
    """Known before the rows run that would fail."""
    canned.first_truth = 1
    page = vidseg("table", "errors").stdout
    assert canned.asked == [["full"]]
    assert "* propagation is left out: the first frame of clips has no ground truth" in page
    assert "truth of frame 1, propagated" not in page and "| clustering:" not in page
    assert "| token grid: truth → coarse truth, nearest |" in page


@pytest.mark.parametrize(
    ("changes", "note"),
    [
        ({}, None),
        (
            {"parity": {"label_merge": "first_frame"}},
            "* segment.parity.label_merge first_frame: the segmentation saw labels of the first",
        ),
        ({"init": "mask"}, "* segment.init mask: the segmentation saw labels of the first frame"),
    ],
)
def test_a_table_says_when_labels_were_seen(
    restored: Project, canned: Canned, changes: dict[str, Any], note: str | None
) -> None:
    params = yaml.safe_load(Path("params.yaml").read_text())
    params["segment"].update(changes)
    restored.write("params.yaml", params)
    page = vidseg("table", "1", "--rows", "ours").stdout
    assert ("saw labels" in page) is (note is not None)
    assert note is None or note in page


@pytest.mark.parametrize(
    ("rules", "words"),
    [
        (("none",), "none"),
        (("majority", "majority"), "majority"),
        (("none", "majority"), "majority (none where labels are classes)"),
        (("official", "hungarian"), "hungarian, official"),
    ],
)
def test_a_table_names_the_assignment_of_all_its_rows(rules: tuple[str, ...], words: str) -> None:
    """In `table errors` the first rows begin with classes, the method does not."""
    records = [{"videos": [{"ground_truth": True, "assigned": {"rule": rule}}]} for rule in rules]
    assert table_run.assignment_note(records) == words


def test_the_oracle_is_the_truth_on_the_token_grid(tiny_model: Path, tmp_path: Path) -> None:
    """A frame without ground truth has one label; the store says that it is an oracle. Void takes the nearest class."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, (3, 96, 64), dtype=np.uint8)
    labels[:, :40] = 255
    write_frames(tmp_path / "frames", rng.integers(0, 256, (3, 96, 64, 3), dtype=np.uint8))
    write_labels(tmp_path / "truth", labels)
    (tmp_path / "truth" / "00001.png").unlink()
    vidseg(
        "run", tmp_path / "frames", "-o", tmp_path / "run", "--ground-truth", tmp_path / "truth",
        "--set", f"backbone.path={tiny_model}", "--set", "ingest.size=native", "--set", "segment.clusters=2",
        "--set", "upsample.method=nearest",
    )  # fmt: skip
    stores = {path.name: path for path in (tmp_path / "run").rglob("*.zarr")}
    path = oracle.write_coarse(stores["truth.zarr"], stores["coarse.zarr"], tmp_path / "oracle")
    store, template = (open_store(p, COARSE) for p in (path, stores["coarse.zarr"]))
    assert store.params["segment"] == {"oracle": "ground truth"}
    assert store.attrs["features"] == template.attrs["features"]
    assert store.fingerprint != template.fingerprint
    planes, grid = store.read("refined", 0, 3), tuple(template.attrs["grid"])
    np.testing.assert_array_equal(planes[0], coarse_truth(labels[0], grid, [255]))
    np.testing.assert_array_equal(planes[2], coarse_truth(labels[2], grid, [255]))
    assert planes.max() < 3
    assert len(np.unique(planes[1])) == 1


def test_stages_log_their_seconds_when_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "seconds.jsonl"
    monkeypatch.setenv("VIDSEG_TIMINGS", str(file))
    monkeypatch.setenv("DVC_STAGE", "extract@x")
    monkeypatch.setenv("DVC_EXP_NAME", "row-123")
    vidseg("preset", "list")
    vidseg("preset", "show", "nonsense", check=2)  # failed: not logged
    (line,) = [json.loads(text) for text in file.read_text().splitlines()]
    assert line["experiment"] == "row-123" and line["stage"] == "extract@x" and line["seconds"] >= 0


def test_a_failing_command_shows_its_last_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(VidsegError, match="not a git repository"):
        programs.git("rev-parse", "HEAD")
    with pytest.raises(DataError, match="dvc exp list failed: "):
        programs.dvc("exp", "list")

"""The tables as DVC experiments: their rows as parameters, the real commands on a tiny model, and what they refuse."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from pipeline import artifacts
from pipeline.errors import DataError, UsageError, VidsegError
from pipeline.quoted import ABLATION
from pipeline.resize import resize_labels_nearest
from stages import experiments, oracle, table_rows
from stages import settings as settings_
from stages.table import PAGE_MARK
from tests import tiny
from tests.commands import ENVIRONMENT, error_line, vidseg, write_frames, write_labels

ROOT = Path(__file__).resolve().parents[1]
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
    loaded = {row.key: settings_.load(None, row.sets) for row in table_rows.method_rows()}
    assert list(loaded) == ["ours", "coarse", "joint_bilateral", "emerdiff"]
    methods = {key: made["upsample"].method for key, made in loaded.items()}
    assert methods == {
        "ours": "modulation", "coarse": "bilinear", "joint_bilateral": "joint_bilateral", "emerdiff": "modulation",
    }  # fmt: skip
    assert loaded["ours"].as_dict() == settings_.load().as_dict()


def test_emerdiff_is_the_first_row_of_the_ablation() -> None:
    emerdiff, first = table_rows.preset_sets("emerdiff"), table_rows.ablation_rows(SETTINGS)[0].sets
    assert settings_.load(None, emerdiff).as_dict() == settings_.load(None, first).as_dict()
    assert next(iter(ABLATION)) == (False, False, False, False)


def test_error_rows_name_each_other() -> None:
    keys = {"truth", *(f"oracle_{m}" for m in oracle.METHODS), *(row.key for row in table_rows.propagation_rows())}
    assert {key for pair in table_rows.ERROR_PAIRS for key in (pair.base, pair.other)} == keys


# The real thing: one item of two clips, in a git repository of its own.


class Project:
    """A project with a tiny model and upsampling by interpolation, which is quick."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data = folder / "raw"
        self.root = folder / "project"
        self.root.mkdir()
        for name in ("dvc.yaml", "versions.yaml", "inputs", ".gitignore", ".dvcignore"):
            source = ROOT / name
            (shutil.copytree if source.is_dir() else shutil.copy)(source, self.root / name)
        model = tiny.save_model(folder / "model")
        rng = np.random.default_rng(0)
        for name in "ab":
            frames = rng.integers(0, 256, (4, 64, 64, 3), dtype=np.uint8)
            frames[:, :, 24:] //= 4
            labels = np.zeros((4, 64, 64), np.uint8)
            labels[:, :, 24:] = 1
            write_frames(self.data / name, frames)
            write_labels(self.data / f"{name}-truth", labels)
        params = yaml.safe_load((ROOT / "params.yaml").read_text())
        params["backbone"]["path"] = str(model)
        params["ingest"]["size"] = "native"
        params["segment"]["clusters"] = 2
        params["evaluate"]["windows"] = [2]
        self.write("params.yaml", params)
        self.write("videos.yaml", {"items": {"clips": [self.entry("a"), self.entry("b")]}})
        vidseg("backbone", "lock", "--params", "params.yaml", cwd=self.root)
        self.run("git", "init", "-q")
        self.run("git", "config", "user.name", "test")
        self.run("git", "config", "user.email", "test@example.org")
        self.run(sys.executable, "-m", "dvc", "init", "-q")
        self.run(sys.executable, "-m", "dvc", "config", "core.analytics", "false")
        self.commit()

    def entry(self, name: str) -> dict[str, Any]:
        paths = {"path": str(self.data / name), "ground_truth": str(self.data / f"{name}-truth")}
        return {**paths, "name": name, "classes": "inputs/none", "mask": "inputs/none", "dataset": "camvid-tiny"}

    def write(self, name: str, content: Any) -> None:
        (self.root / name).write_text(yaml.safe_dump(content))

    def commit(self) -> None:
        self.run("git", "add", "-A")
        self.run("git", "commit", "-q", "-m", "state")

    def run(self, *command: str) -> str:
        result = subprocess.run(command, cwd=self.root, env=ENVIRONMENT, capture_output=True, text=True, timeout=60)
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return Project(tmp_path_factory.mktemp("tables"))


@pytest.fixture
def restored(project: Project, monkeypatch: pytest.MonkeyPatch) -> Project:
    """The project as the current folder; what a test changes in tracked files is undone."""
    monkeypatch.chdir(project.root)
    yield project  # type: ignore[misc]
    project.run("git", "reset", "-q", "--hard")


def test_a_dry_run_prints_the_commands(restored: Project) -> None:
    lines = vidseg("table", "2", "--rows", "b1,b14_mask", "--dry-run").stdout.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("dvc exp run --queue --name b1-")
    assert "-S segment.window=1 -S segment.features=matching" in lines[0]
    assert lines[1].endswith("ingest extract correspond segment upsample evaluate summarize")
    assert not Path("data").exists()


def test_the_mark_follows_what_decides_results(restored: Project) -> None:
    def mark(*sets: str) -> str:
        return experiments.describe("row", sets).mark

    assert mark() == mark("upsample.method=modulation") == mark("render.opacity=0.1")
    assert mark("segment.clusters=3") != mark()
    before = mark()
    with Path("videos.yaml").open("a") as stream:
        stream.write("# note\n")
    assert mark() != before


def unregister(project: Project) -> None:
    project.write("videos.yaml", {"items": {}})


def forget_the_truth(project: Project) -> None:
    project.write("videos.yaml", {"items": {"a": [project.entry("a") | {"ground_truth": "inputs/none"}]}})


def use_a_relative_path(project: Project) -> None:
    (project.root / "here").mkdir(exist_ok=True)
    project.write("videos.yaml", {"items": {"a": [project.entry("a") | {"path": "here"}]}})


def remove_from_git(project: Project) -> None:
    project.run("git", "rm", "-q", "--cached", "params.yaml")


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
        (forget_the_truth, 3, "videos.yaml: no video has ground truth, so there is nothing to score"),
        (use_a_relative_path, 2, "videos.yaml: path of item 'a' is relative and not in git"),
        (remove_from_git, 2, "params.yaml: unknown to git, so experiments would lack it; git add params.yaml"),
        (remove_the_pipeline, 2, "dvc.yaml: no such file; run in the project's folder"),
        (conflict, 2, "params.yaml: unresolved merge; finish or abort it first"),
    ],
)
def test_projects_that_cannot_run_experiments(
    restored: Project, spoil: Callable[[Project], None], code: int, message: str
) -> None:
    spoil(restored)
    assert message in error_line(vidseg("table", "1", "--dry-run", check=code))


def test_without_a_commit(restored: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in experiments.INPUTS:
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


def test_two_rows_share_features_and_a_second_run_runs_nothing(
    restored: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real queue: two experiments over two clips."""
    arguments = ("table", "1", "--rows", "coarse,joint_bilateral")
    first = vidseg(*arguments)
    out = Path("data/tables")
    lines = [json.loads(line) for line in (out / "seconds.jsonl").read_text().splitlines()]
    ran = [(line["experiment"].rpartition("-")[0], line["stage"].partition("@")[0]) for line in lines]
    assert ran == [
        *(("coarse", stage) for stage in experiments.TARGETS),
        *(("joint_bilateral", stage) for stage in ("upsample", "evaluate", "summarize")),
    ]
    assert "### camvid-tiny: 2 videos, 8 frames, 2 classes, 64x64" in first.stdout
    assert first.stdout == (out / "table1.md").read_text()
    with (out / "table1.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [row["row"] for row in rows] == ["coarse", "joint_bilateral"]
    seconds = [float(row["seconds_per_frame"]) for row in rows]
    before = [line["seconds"] for line in lines if line["stage"].startswith(("extract", "correspond", "segment"))]
    assert min(seconds) > sum(before) / 8 > 0  # the row that restored them knows what they took
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
    monkeypatch.setattr(oracle, "METHODS", ("nearest",))
    revision = record["rows"][0]["revision"]
    leftover = out / "oracle" / "tmp" / "ingest" / "clips" / "truth.zarr" / "a"
    leftover.mkdir(parents=True)
    (leftover / "zarr.json").write_text("half a f")
    found = oracle.run(revision, settings_.load(experiments.PARAMS), out / "oracle")
    assert found["nearest"]["clips"]["pooled"]["miou"] == pytest.approx((16 / 24 + 40 / 48) / 2)


def test_a_row_that_fails_is_named_with_its_reason(restored: Project) -> None:
    shutil.copytree(restored.data / "a", restored.data / "broken", dirs_exist_ok=True)
    (restored.data / "broken" / "00001.png").write_bytes(b"no picture")
    entry = restored.entry("a") | {"path": str(restored.data / "broken")}
    restored.write("videos.yaml", {"items": {"broken": [entry]}})
    result = vidseg("table", "1", "--rows", "coarse", check=3)
    assert "uncommitted changes are part of these experiments: videos.yaml" in result.stderr
    line = error_line(result)
    assert line.startswith("error: coarse-") and "00001.png" in line
    assert "`dvc queue logs NAME` shows all" in line


def test_the_oracle_is_the_truth_on_the_token_grid(tiny_model: Path, tmp_path: Path) -> None:
    """A frame without ground truth has one label; the store says that it is an oracle."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, (3, 96, 64), dtype=np.uint8)
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
    store, template = (artifacts.open_store(p, artifacts.COARSE) for p in (path, stores["coarse.zarr"]))
    assert store.params["segment"] == {"oracle": "ground truth"}
    assert store.attrs["features"] == template.attrs["features"]
    assert store.fingerprint != template.fingerprint
    planes, grid = store.read("refined", 0, 3), tuple(template.attrs["grid"])
    np.testing.assert_array_equal(planes[0], resize_labels_nearest(labels[0], grid))
    np.testing.assert_array_equal(planes[2], resize_labels_nearest(labels[2], grid))
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
        experiments.git("rev-parse", "HEAD")
    with pytest.raises(DataError, match="dvc exp list failed: "):
        experiments.dvc("exp", "list")

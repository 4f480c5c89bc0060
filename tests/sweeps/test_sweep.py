"""`vidseg sweep`: what it refuses before anything is queued, what it queues, writes and applies."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.scoring.files import item_record
from stages.tables import experiments
from tests.support import yaml
from tests.support.commands import error_line, vidseg
from tests.support.places import ROOT
from tests.support.records import noisy_video
from tests.support.table_project import Project

OVER_K = ("--over", "segment.clusters=2,3")


@pytest.fixture
def plain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the project's parameters and stages, which is enough for what they refuse."""
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy(ROOT / name, tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "--over: say what to vary, e.g. --over segment.clusters=8,12,20"),
        (("--over", "segment.clusters"), "--over segment.clusters: expected section.key=value,value,..."),
        (("--over", "segment.clusters="), "--over segment.clusters=: expected section.key=value,value,..."),
        (("--over", "segment.clusters=4,,8"), "values that cannot be read, or an empty one between commas"),
        (("--over", "segment.clusters=4"), "one value is no sweep; give several, or `--set segment.clusters=4`"),
        (("--over", "segment.clusters=interval(0,1)"), "give the values themselves, e.g. 4,8,12 or range(4,21,4)"),
        (("--over", "~segment.clusters=4,8"), "'~segment.clusters' is no name of a parameter"),
        (("--over", "segment.clusters=4,8,4"), "--over segment.clusters: 4 is given twice"),
        (("--over", "upsample.strength=4,4.0", "--set", "upsample.method=modulation"), "4.0 is given twice"),
        ((*OVER_K, *OVER_K), "--over segment.clusters is given twice"),
        ((*OVER_K, "--set", "segment.clusters=4"), "segment.clusters is given by --over and by --set"),
        (("--over", "segment.clusterz=4,8"), "unknown parameter 'segment.clusterz' (in --over); did you mean"),
        (("--over", "nothing.clusters=4,8"), "unknown section 'nothing'"),
        (("--over", "segment.memory=last_window,all"), "segment.memory must be last_window, first_and_last, sliding:N"),
        (("--over", "render.opacity=0.1,0.2"), "--over render.opacity: no score depends on `render`"),
        (("--over", "learn.epochs=1,2"), "--over learn.epochs: no score depends on `learn`"),
        (("--over", "evaluate.protocol=strict,official"), "scores by different rules cannot be compared"),
        (("--over", "correspond.max_squared_distance=2,8"), "changes nothing with these parameters; add `--set segm"),
        (("--over", "upsample.strength=10,50"), "changes nothing with these parameters; add `--set upsample.method="),
        (("--over", "segment.encoder_weight=1,2", "--set", "extract.encoder=none"), "but extract.encoder is none; set"),
        (("--over", "segment.clusters=range(1,2000)"), "--over makes 1999 settings, more than 500"),
        ((*OVER_K, "--metric", "vc9"), "--metric: no score 'vc9'; there are: miou, vc8, vc16 (evaluate.windows)"),
    ],
)  # fmt: skip
def test_refused_by_the_parameters(plain: Path, arguments: tuple[str, ...], message: str) -> None:
    assert message in error_line(vidseg("sweep", *arguments, "--dry-run", check=2))


def test_all_that_is_wrong_is_named_at_once(plain: Path) -> None:
    line = error_line(vidseg("sweep", "--over", "segment.clusters=0,4,-1", "--over", "segment.vote=none,some", check=2))
    for part in ("at least 1, not 0", "at least 1, not -1", "one of forward, both, none, not 'some'"):
        assert part in line


def test_outside_of_a_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "params.yaml: no such file; run in the project's folder" in error_line(vidseg("sweep", *OVER_K, check=2))


def test_items_need_ground_truth(restored: Project) -> None:
    bare = {**restored.entry("b"), "ground_truth": "inputs/none"}
    restored.write("videos.yaml", yaml.videos({"bare": [bare], "clips": [restored.entry("a")]}))
    unknown = error_line(vidseg("sweep", "nobody", *OVER_K, check=2))
    assert "videos.yaml: no item 'nobody'; there are: bare, clips" in unknown
    line = error_line(vidseg("sweep", "bare", "clips", *OVER_K, check=3))
    assert "videos.yaml: item 'bare' has no ground truth, which every score needs" in line
    shown = vidseg("sweep", *OVER_K, "--dry-run").stdout
    assert "evaluate@clips" in shown and "bare" not in shown


def test_a_dry_run_prints_the_commands(restored: Project) -> None:
    arguments = (*OVER_K, "--over", "segment.memory=last_window,sliding:2", "--set", "upsample.method=bilinear")
    lines = vidseg("sweep", "clips", *arguments, "--dry-run").stdout.splitlines()
    assert [line.partition(" -S ")[2] for line in lines] == [
        f"++upsample.method=bilinear -S ++segment.clusters={k} -S ++segment.memory={memory} evaluate@clips"
        for k in (2, 3)
        for memory in ("last_window", "sliding:2")
    ]
    assert lines[0].startswith("dvc exp run --queue --name segment_clusters_2_segment_memory_last_window-")
    assert len({line.split()[5] for line in lines}) == 4
    assert not Path("data/sweeps").exists()


class Canned:
    """Experiments that are finished at once; the more clusters, the better."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(experiments, "run", lambda *_: None)
        monkeypatch.setattr(experiments, "read", self.read)

    @staticmethod
    def read(experiment: experiments.Experiment, costs: object) -> experiments.Result:
        (clusters,) = (int(text.partition("=")[2]) for text in experiment.sets if text.startswith("segment.clusters="))
        videos = [{**noisy_video(seed, clusters / 10), "name": name} for seed, name in enumerate("ab")]
        return experiments.Result("r", {"clips": item_record(videos, "strict", "majority", (2, 3))}, {})


def test_files_and_the_best_in_the_parameters(restored: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Comments stay; what --set says is not applied."""
    Canned(monkeypatch)
    with Path("params.yaml").open("a") as stream:
        stream.write("# a note\n")
    before = Path("params.yaml").read_text()
    arguments = (
        "--over",
        "segment.clusters=2,9",
        "--over",
        "segment.neighbors=1,3",
        "--set",
        "upsample.method=nearest",
    )
    made = vidseg("sweep", "clips", *arguments, "--out", "out")
    assert Path("params.yaml").read_text() == before
    name = "out/segment.clusters-segment.neighbors"
    assert made.stdout == Path(f"{name}.md").read_text()
    assert "for all settings: upsample.method=nearest" in made.stdout
    assert "Best: segment.clusters = 9, segment.neighbors = 1 (" in made.stdout
    assert "segment.neighbors changes no score here." in made.stdout
    with Path(f"{name}.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["segment.clusters"], row["segment.neighbors"], row["standing"]) for row in rows] == [
        ("2", "1", ""), ("2", "3", ""), ("9", "1", "best"), ("9", "3", "within noise"),
    ]  # fmt: skip
    assert json.loads(Path(f"{name}.vl.json").read_text())["encoding"]["x"]["title"] == "segment.clusters"
    assert len(json.loads(Path(f"{name}.json").read_text())["rows"]) == 4
    assert np.array(Image.open(f"{name}.png")).ndim == 3
    applied = vidseg("sweep", "clips", *arguments, "--out", "out", "--apply")
    assert "params.yaml: segment.clusters=9, segment.neighbors=1" in applied.stderr
    after = Path("params.yaml").read_text()
    assert after.endswith("# a note\n")
    changed = yaml.safe_load(before)
    changed["segment"] |= {"clusters": 9, "neighbors": 1}
    assert yaml.safe_load(after) == changed
    assert "has the best setting already" in vidseg("sweep", "clips", *arguments, "--out", "out", "--apply").stderr


def test_three_parameters_make_a_map_for_each_value_of_the_third(
    restored: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    Canned(monkeypatch)
    arguments = [*OVER_K, "--over", "segment.neighbors=1,3", "--over", "segment.vote=none,forward"]
    vidseg("sweep", "clips", *arguments[:4], "--out", "out")
    vidseg("sweep", "clips", *arguments, "--out", "out")
    two, three = (Image.open(f"out/segment.clusters-segment.neighbors{end}.png") for end in ("", "-segment.vote"))
    assert three.height > 2 * two.height - 40


@pytest.mark.whole
@pytest.mark.slow
def test_only_what_differs_runs_and_a_second_sweep_runs_nothing(restored: Project) -> None:
    """The real queue: the second setting segments again and extracts nothing."""
    arguments = ("sweep", "extra", *OVER_K, "--set", "upsample.method=nearest")
    first = vidseg(*arguments)
    lines = [json.loads(line) for line in Path("data/sweeps/seconds.jsonl").read_text().splitlines()]
    ran = [(line["experiment"][:18], line["stage"].partition("@")[0]) for line in lines]
    second = [stage for name, stage in ran if name == "segment_clusters_3"]
    assert second == ["segment", "upsample", "evaluate"]
    assert first.stdout.splitlines()[-1].startswith("Best: segment.clusters = ")
    again = vidseg(*arguments)
    assert again.stdout == first.stdout
    assert len(Path("data/sweeps/seconds.jsonl").read_text().splitlines()) == len(lines)

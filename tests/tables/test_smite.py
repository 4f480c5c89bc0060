"""`vidseg table smite`: its rows as parameters, what is applied, and the row that is no stage of the pipeline."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import DataError, UsageError
from pipeline.scoring.files import item_record
from pipeline.tables.quoted import Quoted
from stages import correspond, extract, ingest, references, track
from stages.common import cli
from stages.common import settings as settings_
from stages.common.applied import Applied
from stages.common.layout import NONE
from stages.tables import experiments, propagated
from stages.tables import items as table_items
from stages.tables import rows as table_rows
from tests.support import yaml
from tests.support.commands import error_line, vidseg, write_frames
from tests.support.concepts import TRACK, halves, write_references
from tests.support.records import WINDOWS, noisy_video
from tests.support.table_project import Project


@pytest.mark.parametrize(
    ("key", "tune", "frames", "vote", "tracks", "low_pass", "quoted"),
    [
        ("slime", "none", "one", "none", False, False, None),
        ("baseline1", "none", "one", "none", False, False, Quoted(66.22, f_mean=67.0)),
        ("baseline2", "none", "one", "maps", False, False, Quoted(65.5, f_mean=67.0)),
        ("baseline3", "none", "all", "none", False, False, Quoted(69.36, f_mean=70.0)),
        ("smite_ca", "cross_attention", "all", "none", False, False, Quoted(71.7)),
        ("smite_track", "cross_attention", "all", "none", True, False, Quoted(72.64)),
        ("smite", "cross_attention", "all", "none", True, True, Quoted(75.14, f_mean=82.0)),
    ],
)
def test_rows_of_the_ladder(
    key: str, tune: str, frames: str, vote: str, tracks: bool, low_pass: bool, quoted: Quoted | None
) -> None:
    rows = {row.key: row for row in table_rows.ladder_rows(settings_.load())}
    made = settings_.load(None, rows[key].sets)
    guidance = made["guidance"]
    assert (made["learn"].tune, made["apply"].frames, guidance.vote.space) == (tune, frames, vote)
    assert (guidance.lambda_track > 0, guidance.lambda_reg > 0) == (tracks, low_pass)
    assert (made["evaluate"].assignment, made["evaluate"].objects) == ("none", "parts")
    assert list(rows[key].quoted.values()) == ([] if quoted is None else [quoted])


def test_rows_of_both_tables_and_their_pairs() -> None:
    ladder, references_ = table_rows.ladder_rows(settings_.load()), table_rows.reference_rows([1, 5, 7])
    keys = {row.key for row in ladder}
    assert {key for pair in table_rows.LADDER_PAIRS for key in (pair.base, pair.other)} == keys
    assert [(row.key, row.cells, len(row.quoted)) for row in references_] == [
        ("references_1", ("1",), 1), ("references_5", ("5",), 1), ("references_7", ("7",), 0),
    ]  # fmt: skip
    assert {row.sets for row in references_} == {next(row for row in ladder if row.key == "configured").sets}
    for key, method in (("knn", "guided"), ("knn_bilinear", "bilinear")):
        given = settings_.load(None, next(row for row in ladder if row.key == key).sets)
        assert given["segment"].init == "mask" and given["upsample"].method == method


@pytest.mark.parametrize(
    ("sets", "features", "tuned"),
    [
        ((), "compact and efficientnet_lite0", True),
        (("segment.encoder_weight=only",), "efficientnet_lite0", True),
        (("extract.parts=encoder",), "efficientnet_lite0", True),
        (("segment.encoder_weight=0",), "compact", True),
        (("backbone.name=sd21",), "sd21", False),
        (("backbone.name=sd21", "extract.encoder=/x/dinov2"), "sd21", False),
        (
            ("backbone.name=sd21", "extract.encoder=/x/dinov2", "segment.encoder_weight=1"),
            "sd21 and dinov2",
            False,
        ),
    ],
)
def test_rows_beside_the_ladder(sets: tuple[str, ...], features: str, tuned: bool) -> None:
    """They say which features are compared; a backbone has the row that is tuned for it."""
    rows = {row.key: row.cells[0] for row in table_rows.ladder_rows(settings_.load(sets=sets))}
    assert rows["knn"] == f"VidSeg, given the references: {features}"
    assert rows["knn_bilinear"] == f"VidSeg, given the references, bilinear: {features}"
    assert ("smite_compact" in rows) == tuned


@pytest.mark.parametrize(
    ("sets", "epochs"),
    [(("backbone.name=sd21",), 200), (("backbone.name=sd21", "learn.epochs=7"), None), ((), None)],
)
def test_a_row_has_the_defaults_of_its_preset(sets: tuple[str, ...], epochs: int | None) -> None:
    """Where params.yaml says nothing else; so `vidseg learn --preset slime` does the same."""
    slime = table_rows.ladder_rows(settings_.load(sets=sets))[0]
    assert [text for text in slime.sets if text.startswith("learn.epochs=")] == (
        [] if epochs is None else [f"learn.epochs={epochs}"]
    )


def test_series_are_concepts_whose_keys_end_in_a_number() -> None:
    applied = [
        Applied(f"{item}-{concept}", item, concept)
        for item in ("a", "b")
        for concept in ("cars-10", "cars-1", "wheels-5", "cars")
    ]
    found = table_items.series_of([*applied, Applied("x", "b", "wheels-1")])
    assert [(series.name, list(series.applied)) for series in found] == [
        ("a-cars", [1, 10]), ("b-cars", [1, 10]), ("b-wheels", [1, 5]),
    ]  # fmt: skip
    assert found[0].applied[10].name == "a-cars-10"


ENTRY = {"path": "/x", "ground_truth": "/y"}


@pytest.mark.parametrize(
    ("applied", "entry", "wanted", "error", "message"),
    [
        ({}, ENTRY, None, UsageError, "nothing is applied; `vidseg videos concept` and `vidseg videos apply` add it"),
        ({"n": {"item": "a", "concept": "c"}}, ENTRY, "vspw", UsageError, "nothing is applied to an item of 'vspw'"),
        ({"n": {"item": "a", "concept": "c"}}, {"path": "/x"}, None, DataError, "has ground truth: nothing to score"),
    ],
)
def test_nothing_to_make_a_table_of(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    applied: dict[str, Any],
    entry: dict[str, str],
    wanted: str | None,
    error: type[Exception],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    concepts = {"c": {"references": "/r"}}
    content = {"items": {"a": [entry]}, "concepts": concepts, "applied": applied}
    Path("videos.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(error, match=message):
        table_items.select_applied(wanted)


# The command, in a project -------------------------------------------------------------------------------------


def write_project(project: Project, skip: Sequence[int] = (0,), named: str = "h-2", keys: str = "ab") -> None:
    """Items of one clip; a concept of one reference, and one of two, the first of which is a frame of `a`."""
    one, two = project.root.parent / "one", project.root.parent / "two"
    for folder, count in ((one, 1), (two, 2)):
        write_references(folder, count)
    shutil.copy(project.data / "a" / "00000.png", two / "images" / "00000.png")
    items = {key: [{k: v for k, v in project.entry(key).items() if k != "dataset"}] for key in keys}
    concepts = {key: {"references": str(folder), "classes": NONE} for key, folder in (("h-1", one), (named, two))}
    applied: dict[str, dict[str, Any]] = {
        f"{item}-{concept}": {"item": item, "concept": concept, "names": NONE} for item in items for concept in concepts
    }
    applied[f"a-{named}"]["skip"] = list(skip)
    project.write("videos.yaml", {"items": items, "concepts": concepts, "applied": applied})


def test_a_dry_run_of_both_tables(restored: Project) -> None:
    write_project(restored)
    lines = vidseg(
        "table", "smite", "--rows", "baseline1,knn,references_1,references_2", "--dry-run"
    ).stdout.splitlines()
    assert [line.split()[5].rpartition("-")[0] for line in lines] == [
        "baseline1",
        "knn",
        "references_1",
        "references_2",
    ]
    assert lines[0].endswith(" evaluate_applied@a-h-2 evaluate_applied@b-h-2")
    assert "-S ++learn.tune=none" in lines[0] and "-S ++evaluate.objects=parts" in lines[0]
    assert (
        lines[1].endswith(" correspond@a references@h-2 track@a-h-2 correspond@b track@b-h-2")
        and "-S ++segment.init=mask" in lines[1]
    )
    assert lines[2].endswith(" evaluate_applied@a-h-1 evaluate_applied@b-h-1")


@pytest.mark.parametrize(
    ("skip", "named", "arguments", "message"),
    [
        ((), "h-2", (), "concept 'h-2' is learned from frames of item 'a', which must not be scored; add `skip: [0]` "
         "to `applied: a-h-2`"),
        ((0,), "h-3", (), "concept 'h-3' has 2 references; let the number at the end of its key be theirs"),
        ((0,), "h-2", ("--rows", "table"), "--rows: no row 'table'; there are: slime, baseline1, baseline2, baseline3, "
         "smite_ca, smite_track, smite, smite_guided, smite_compact, configured, modulation, knn, knn_bilinear, "
         "references_1, references_2"),
    ],
)  # fmt: skip
def test_what_is_refused(
    restored: Project, tmp_path: Path, skip: tuple[int, ...], named: str, arguments: tuple[str, ...], message: str
) -> None:
    write_project(restored, skip, named)
    assert message in error_line(vidseg("table", "smite", "--out", tmp_path, *arguments, check=2))


def test_a_video_model_cannot_learn(restored: Project) -> None:
    write_project(restored)
    restored.write("params.yaml", {"backbone": {"name": "svd"}})
    line = error_line(vidseg("table", "smite", "--dry-run", check=2))
    assert "vidseg table smite is for backbone compact or sd21, but backbone.name is 'svd'" in line


def shown_video(seed: int) -> dict[str, Any]:
    """A video of noise, with the scores of segments that were shown."""
    made = noisy_video(seed)
    made["davis"] = {"j": {"mean": [0.5]}, "f": {"mean": [0.5 + seed / 100]}}
    return {**made, "flicker": {"changed": seed, "points": 1000}, "smite": {"miou": 0.25, "f": 0.5}}


@pytest.fixture
def canned(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Experiments that are finished at once, with made-up scores; what was asked for."""
    asked: list[list[str]] = []
    costs = {"seconds": 12.0, "memory": 512.0}

    def result(experiment: experiments.Experiment, *_: Any) -> experiments.Result:
        records = {key: item_record([shown_video(len(asked))], "strict", "none", WINDOWS) for key in experiment.items}
        known = {name: dict.fromkeys(experiment.items, value) for name, value in costs.items()}
        return experiments.Result("r", records, known["seconds"], known["memory"])

    monkeypatch.setattr(experiments, "run", lambda rows, jobs, file: asked.append([row.name for row in rows]))
    monkeypatch.setattr(experiments, "read", result)
    monkeypatch.setattr(propagated, "read", lambda experiment, *_: result(experiment))
    return asked


def test_the_pages(restored: Project, canned: list[list[str]], tmp_path: Path) -> None:
    write_project(restored)
    page = vidseg("table", "smite", "--out", tmp_path).stdout
    assert canned == [
        [*table_rows.LADDER, "smite_guided", "smite_compact", "configured", "modulation", "knn", "knn_bilinear"],
        ["references_1", "references_2"],
    ]
    ladder, by_count = page.split("## SMITE: by number of references")
    assert "* not in this table: a-h-1, b-h-1 (videos.yaml)" in ladder
    assert "* frames that are not scored, for concepts know them: a-h-2 0" in ladder
    assert (
        "| row | mIoU | mVC_2 | mVC_3 | J | F | mIoU, SMITE's | F, SMITE's | flicker | s/frame | peak MB | *quoted "
        "from the paper: mIoU / J / F* |"
    ) in ladder
    assert "| 51.0 | 25.0 | 50.0 | 0.10 | 2.0 | 512 | 75.14 / - / 82.0 |" in ladder
    assert "| *SMITE, DAVIS-2016, a frame of the video (Table 10)* | - " in ladder and "| - / 83.4 / 80.7 |" in ladder
    assert "Tables 1 and 2, on SMITE-50, and 9 and 10, on DAVIS-2016" in ladder
    assert "| VidSeg, given the references, bilinear: compact" in ladder
    assert "| VidSeg, given the references, bilinear → SMITE |" in ladder and "other: 2 videos, 12 frames" in ladder
    assert "| 1 → 2 |" in by_count and "| 58.55 / - / - |" in by_count
    assert "| *SMITE, PUMaVOS, 1 frame of the video* | - " in by_count and "| 82.14 / - / 69.0 |" in by_count
    with (tmp_path / "smite_references.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["row"], row["quoted_miou"]) for row in rows] == [("references_1", "58.55"), ("references_2", "")]
    assert set(json.loads((tmp_path / "smite_references.json").read_text())["rows"][0]["videos"]) == {"a-h", "b-h"}
    vidseg("table", "page", tmp_path / "page.md", "--out", tmp_path)
    assert (tmp_path / "page.md").read_text().endswith(page)


@pytest.fixture
def committing(restored: Project) -> Iterator[Project]:
    """The project, which forgets what a test commits."""
    before = restored.run("git", "rev-parse", "HEAD").strip()
    yield restored
    restored.run("git", "reset", "-q", "--hard", before)


@pytest.mark.slow
def test_a_real_row(committing: Project, tmp_path: Path) -> None:
    """A DVC experiment of the stages themselves: the concept of two references, one of which is the first frame."""
    write_project(committing, keys="a")
    params = yaml.safe_load((committing.root / "params.yaml").read_text())
    params["learn"] |= {"size": 64, "epochs": 1}
    params["apply"] |= {"timesteps": [100, 99]}
    committing.write("params.yaml", params)
    committing.commit()
    page = vidseg("table", "smite", "--rows", "baseline1", "--out", tmp_path).stdout
    (row,) = json.loads((tmp_path / "smite.json").read_text())["rows"]
    assert list(row["videos"]) == ["a-h-2"] and "| I: tokens, frame by frame |" in page
    with (tmp_path / "smite.csv").open() as stream:
        (line,) = csv.DictReader(stream)
    assert float(line["seconds_per_frame"]) > 0 and float(line["peak_memory_mb"]) > 0
    assert 0 < float(line["miou"]) <= 1 and line["quoted_miou"] == "66.22"
    assert vidseg("table", "smite", "--rows", "baseline1", "--out", tmp_path).stdout == page  # nothing runs again


# What is propagated --------------------------------------------------------------------------------------------


def test_references_propagated(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stores of an experiment to scores, once; the first frame is the reference, and not scored."""
    frames, _ = halves(5)
    write_frames(tmp_path / "frames", frames)
    references_ = write_references(tmp_path / "refs", 1)
    (tmp_path / "truth").mkdir()
    for number in range(len(frames)):
        shutil.copy(references_ / "labels" / "00000.png", tmp_path / "truth" / f"{number:05d}.png")
    sets = [
        f"backbone.path={tiny_model}", "ingest.size=native", "segment.init=mask", "evaluate.objects=parts",
        "evaluate.assignment=none", "evaluate.windows=[2]", "extract.encoder=none", "segment.encoder_weight=0",
        "correspond.encoder_weight=0",
    ]  # fmt: skip
    settings = settings_.load(None, sets)
    stores = tmp_path / "stores"
    clip = ingest.run(tmp_path / "frames", stores / "ingest/i", settings["ingest"], ground_truth=tmp_path / "truth")
    sections = settings["diffusion"], settings["backbone"]
    features = extract.run(clip, stores / "extract/i", settings["extract"], *sections)
    correspond.run(features, stores / "correspond/i", settings["correspond"])
    track.run(clip, None, stores / "track/n", TRACK)
    references.run(references_, stores / "references/c")
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text("{}\n")
    Path("videos.yaml").write_text(
        "items: {i: [{path: frames}]}\nconcepts: {c: {references: refs}}\napplied: {n: {item: i, concept: c}}\n"
    )
    fetched = []

    def fetch(revision: str, wanted: Sequence[str], folder: Path) -> None:
        fetched.append(revision)
        for store in wanted:
            shutil.copytree(stores / store, folder / store)

    monkeypatch.setattr(experiments, "fetch", fetch)
    monkeypatch.setattr(experiments, "finished", lambda: {"m": "revision"})
    monkeypatch.setattr(experiments, "spent", lambda *_: ({"n": 2.0}, {"n": 3}))
    experiment = experiments.Experiment("knn", tuple(sets), ("n",), (), {}, "m")
    applied = [Applied("n", "i", "c", (0,))]
    first, second = (propagated.read(experiment, {}, applied, tmp_path / "out") for _ in range(2))
    assert fetched == ["revision"] and first == second
    (video,) = first.records["n"]["videos"]
    assert (video["scored_frames"], video["skipped_frames"], video["davis"]["task"]) == (4, [0], "parts")
    assert set(video["confusion"]) == {"0", "1"} and video["unknown_predictions"] == []
    assert video["flicker"]["points"] > 0
    assert video["assigned"]["rule"] == "none" and first.seconds["n"] > 2
    assert 100 < first.memory["n"] <= (cli.peak_memory_mb() or 0)
    assert not (tmp_path / "out" / "m" / "tmp").exists()

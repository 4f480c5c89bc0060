"""`vidseg videos`: what it writes into videos.yaml."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import DataError, UsageError
from stages.commands.videos import MOST_ITEMS
from stages.common.applied import applied_of
from stages.common.layout import PATHS, beside, item_keys, names_of
from tests.support import yaml
from tests.support.commands import error_line, vidseg, write_frames

NONE = "inputs/none"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "videos.yaml").write_text("# mine\nitems:\n  sample:\n    - path: data/sample/frames\n")
    for name in ("clip.v2 (final).mp4", "mask.png", "names.json", "truth/classes.json", "...mp4"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def items(project: Path) -> dict[str, list[dict[str, object]]]:
    return dict(yaml.safe_load((project / "videos.yaml").read_text())["items"])


def test_an_entry_has_all_paths_that_dvc_watches(project: Path) -> None:
    vidseg("videos", "add", "clip.v2 (final).mp4", cwd=project)
    options = (
        "--ground-truth",
        "truth",
        "--classes",
        "truth/classes.json",
        "--mask",
        "mask.png",
        "--names",
        "names.json",
        "--fps",
        5,
        "--cuts",
        "[48, 101]",
    )
    vidseg("videos", "add", project / "clip.v2 (final).mp4", "--key", "all_1", *options, cwd=project)
    path = str(project / "clip.v2 (final).mp4")
    added = items(project)
    assert added["clip-v2-final"] == [dict.fromkeys(PATHS, NONE) | {"path": path}]
    given = {"ground_truth": "truth", "classes": "truth/classes.json", "mask": "mask.png", "names": "names.json"}
    assert added["all_1"] == [
        {"path": path, **{k: str(project / v) for k, v in given.items()}, "fps": 5.0, "cuts": [48, 101]}
    ]
    assert (project / "videos.yaml").read_text().startswith("# mine\n")
    assert "sample: data/sample/frames" in vidseg("videos", "list", cwd=project).stdout.splitlines()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["clip.v2 (final).mp4", "--key", "a.b"], 2, "'a.b': keys may hold letters, digits, '_' and '-' only"),
        (["clip.v2 (final).mp4", "--key", ""], 2, "give one with --key"),
        (["...mp4"], 2, "give one with --key"),
        (["clip.v2 (final).mp4", "--key", "sample"], 2, "there is an item 'sample' already"),
        (["none.mp4"], 3, "none.mp4: no such file or folder"),
        (["clip.v2 (final).mp4", "--cuts", "[9, 9]"], 2, "ingest.cuts: frame 9 is listed 2 times"),
        (["clip.v2 (final).mp4", "--cuts", "somewhere"], 2, "(in --cuts)"),
        (["clip.v2 (final).mp4", "--mask", "4=mask.png"], 2, "put them into a folder, named like their frames"),
        (["clip.v2 (final).mp4", "--mask", "none.png"], 3, "none.png: no such file or folder (--mask)"),
    ],
)
def test_what_is_refused_changes_nothing(project: Path, arguments: list[str], code: int, message: str) -> None:
    assert message in error_line(vidseg("videos", "add", *arguments, cwd=project, check=code))
    assert list(items(project)) == ["sample"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "videos.yaml: no such file"),
        ("items: {}", "videos.yaml: lists no items"),
        ("items: {a.b: []}", "item 'a.b': keys may hold letters"),
        ("items: {a: [], 0012: []}", "videos.yaml: the key 12 is no text to YAML; put it in quotes"),
        ("items: {true: []}", "videos.yaml: the key True is no text to YAML; put it in quotes"),
    ],
)
def test_a_summary_needs_items(tmp_path: Path, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / "videos.yaml").write_text(f"{content}\nconcepts: {{}}\napplied: {{}}\n")
    result = vidseg("summarize", ".", "out", "--items", "videos.yaml", cwd=tmp_path, check=2)
    assert message in error_line(result)
    assert not (tmp_path / "out").exists()


def test_no_more_items_than_dvc_can_take(project: Path) -> None:
    others = {f"other-{number}": [{"path": "clip.mp4"}] for number in range(MOST_ITEMS)}
    (project / "videos.yaml").write_text(yaml.safe_dump(yaml.videos(others)))
    line = error_line(vidseg("videos", "add", "clip.v2 (final).mp4", cwd=project, check=2))
    assert "videos.yaml: 41 items already, and DVC is slow with more (300 stages)" in line
    assert "vidseg dataset register FOLDER --dataset folders" in line
    assert items(project) == others


NAMED = """\
items:
  one:
    - {path: a.mp4, names: mine.json}
  two:
    - {path: frames, videos: [a, b], names: named}
  three:
    - {path: a.mp4, names: nowhere}
    - {path: b.mp4}
  four:
    - {path: a.mp4}
    - {path: b.mp4, names: mine.json}
concepts: {}
applied: {}
"""


def test_where_names_of_videos_lie(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert names_of("one", None) is None  # no project at all
    (tmp_path / "videos.yaml").write_text(NAMED)
    (tmp_path / "named/a").mkdir(parents=True)
    (tmp_path / "named/a/names.json").touch()
    assert names_of("one", None) == Path("mine.json")
    assert names_of("two", "a") == Path("named/a/names.json")
    assert names_of("two", "b") is None
    assert names_of("another", None) is None
    with pytest.raises(DataError, match="nowhere: no such folder; `names` of an item of several videos holds VIDEO"):
        names_of("three", "a")
    with pytest.raises(UsageError, match="item 'four': `names` stands at its first entry"):
        names_of("four", "a")


def test_a_list_of_an_earlier_version_gets_what_dvc_looks_for(project: Path) -> None:
    applied = "concepts:\n  c: {references: x}\napplied:\n  a: {item: sample, concept: c}\n"
    (project / "videos.yaml").write_text(
        f"# mine\nitems:\n  sample:\n    - path: data/sample/frames  # first\n{applied}"
    )
    vidseg("videos", "list", cwd=project)
    written = (project / "videos.yaml").read_text()
    assert written.startswith(
        "# mine\nitems:\n  sample:\n    - path: data/sample/frames  # first\n      names: inputs/none\n"
    )
    assert yaml.safe_load(written)["applied"]["a"] == {"item": "sample", "concept": "c", "names": NONE}
    vidseg("videos", "list", cwd=project)
    assert (project / "videos.yaml").read_text() == written


def test_keys_are_sorted(tmp_path: Path) -> None:
    (tmp_path / "videos.yaml").write_text("items: {b: [], '7': [], a: []}\nconcepts: {}\napplied: {}")
    assert item_keys(tmp_path / "videos.yaml") == ["7", "a", "b"]


@pytest.mark.parametrize(
    ("store", "expected"),
    [
        ("clip.zarr", "source"),
        ("data/ingest/one/clip.zarr", "data/ingest/one/source"),
        ("data/ingest/two/clip.zarr/a", "data/ingest/two/source/a"),
    ],
)
def test_what_lies_beside_a_store(store: str, expected: str) -> None:
    assert beside(Path(store), "source") == Path(expected)


CONCEPTS = """\
# mine
items:
  sample:
    - path: data/sample/frames  # last year
      names: inputs/none
concepts: {}
applied: {}
"""


@pytest.fixture
def complete(project: Path) -> Path:
    (project / "videos.yaml").write_text(CONCEPTS)
    (project / "cars").mkdir()
    return project


def test_a_concept_and_what_it_is_applied_to(complete: Path) -> None:
    vidseg("videos", "concept", "cars", "--classes", "truth/classes.json", cwd=complete)
    vidseg("videos", "concept", "cars", "--key", "wheels", cwd=complete)
    said = vidseg("videos", "apply", "sample", "cars", cwd=complete).stderr
    assert "'sample-cars' added" in said
    (complete / "mine.json").write_text("{}")
    vidseg("videos", "apply", "sample", "wheels", "--key", "w", "--names", "mine.json", cwd=complete)
    assert applied_of("w", complete / "videos.yaml").names_of(None) == complete / "mine.json"
    content = yaml.safe_load((complete / "videos.yaml").read_text())
    references = str(complete / "cars")
    assert content["concepts"] == {
        "cars": {"references": references, "classes": str(complete / "truth/classes.json")},
        "wheels": {"references": references, "classes": NONE},
    }
    assert content["applied"] == {
        "sample-cars": {"item": "sample", "concept": "cars", "names": NONE},
        "w": {"item": "sample", "concept": "wheels", "names": str(complete / "mine.json")},
    }
    assert (complete / "videos.yaml").read_text().startswith(CONCEPTS.partition("concepts")[0])
    listed = vidseg("videos", "list", cwd=complete).stdout.splitlines()
    assert listed == [
        "sample: data/sample/frames",
        f"concept cars: {references}",
        f"concept wheels: {references}",
        "sample-cars: concept cars applied to sample",
        "w: concept wheels applied to sample",
    ]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["concept", "none"], 3, "none: no such folder"),
        (["concept", "cars", "--classes", "none.json"], 3, "none.json: no such file (--classes)"),
        (["concept", "cars", "--key", "a.b"], 2, "'a.b': keys may hold letters, digits, '_' and '-' only"),
        (["apply", "sample", "cars"], 2, "videos.yaml: no concept 'cars'; there are: none"),
        (["apply", "sample", "cars", "--names", "no.json"], 3, "no.json: no such file or folder (--names)"),
        (["apply", "none", "cars"], 2, "videos.yaml: no item 'none'; there are: sample"),
    ],
)
def test_concepts_that_are_refused(complete: Path, arguments: list[str], code: int, message: str) -> None:
    assert message in error_line(vidseg("videos", *arguments, cwd=complete, check=code))
    assert (complete / "videos.yaml").read_text() == CONCEPTS


def test_comments_stay_before_the_part_that_they_are_about(complete: Path) -> None:
    """Whatever is added before them; the reader hangs them on the last value before, however deep it lies."""
    about = {"items": "# of items", "concepts": "\n# of concepts,\n# in two lines", "applied": "# of what is applied"}
    inside = "  # of the next item"
    (complete / "videos.yaml").write_text(
        f"{about['items']}\nitems:\n  sample:\n    - path: data/sample/frames\n      fps: 5  # slow\n{inside}\n"
        f"{about['concepts']}\nconcepts: {{}}\n{about['applied']}\napplied: {{}}\n# the end\n"
    )
    vidseg("videos", "add", "clip.v2 (final).mp4", "--key", "clip", cwd=complete)
    vidseg("videos", "concept", "cars", cwd=complete)
    vidseg("videos", "apply", "clip", "cars", cwd=complete)
    text = (complete / "videos.yaml").read_text()
    assert all(f"{comment}\n{part}:\n" in text for part, comment in about.items()), text
    assert "fps: 5  # slow\n" in text and inside in text and text.endswith("# the end\n"), text


def test_frames_that_a_concept_knows_are_left_out_of_scores(complete: Path) -> None:
    """By their pixels, whatever their names and formats; and those that are given."""
    frames = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), np.uint8)
    write_frames(complete / "clip", frames)
    write_frames(complete / "cars/images", frames[2:3])
    write_frames(complete / "wheels/images", 255 - frames[:1])
    for arguments in (["add", "clip"], ["concept", "cars"], ["concept", "wheels"]):
        vidseg("videos", *arguments, cwd=complete)
    said = vidseg("videos", "apply", "clip", "cars", "--skip", 0, cwd=complete).stderr
    assert "'cars' is learned from frames of 'clip': [2] are left out of scores (`skip`)" in said
    vidseg("videos", "apply", "clip", "wheels", cwd=complete)
    content = yaml.safe_load((complete / "videos.yaml").read_text())["applied"]
    assert content["clip-cars"] == {"item": "clip", "concept": "cars", "names": NONE, "skip": [0, 2]}
    assert "skip" not in content["clip-wheels"]
    assert "    skip: [0, 2]\n" in (complete / "videos.yaml").read_text()
    assert applied_of("clip-cars", complete / "videos.yaml").skip == (0, 2)


@pytest.mark.parametrize(
    ("skip", "message"),
    [
        ("first", "applied 'x': `skip` must be a list of frame numbers from 0, like [0, 12], not 'first'"),
        ("[-1]", "like [0, 12], not [-1]"),
        ("[1]", "applied 'x': `skip` is for items of one video, so make an item of the one that it is about"),
    ],
)
def test_what_cannot_be_skipped(tmp_path: Path, skip: str, message: str) -> None:
    file = tmp_path / "videos.yaml"
    file.write_text(
        "items: {i: [{path: a}, {path: b}]}\nconcepts: {c: {references: r}}\n"
        f"applied: {{x: {{item: i, concept: c, skip: {skip}}}}}\n"
    )
    with pytest.raises(UsageError, match=re.escape(message)):
        applied_of("x", file)
    if skip == "[1]":
        line = error_line(vidseg("videos", "apply", "i", "c", "--skip", 1, "--key", "y", cwd=tmp_path, check=2))
        assert "videos.yaml: applied 'x'" in line or "videos.yaml: item 'i': `skip` is for" in line
        assert "y:" not in file.read_text()


def test_a_name_is_used_once(complete: Path) -> None:
    vidseg("videos", "concept", "cars", cwd=complete)
    vidseg("videos", "apply", "sample", "cars", "--key", "x", cwd=complete)
    for arguments, message in (
        (["concept", "cars"], "there is a concept 'cars' already"),
        (["apply", "sample", "cars", "--key", "x"], "there is a name under `applied` 'x' already"),
        (["apply", "sample", "cars", "--key", "sample"], "there is an item 'sample' already"),
        (["apply", "sample", "cars", "--key", "cars"], "there is a concept 'cars' already"),
        (["concept", "cars", "--key", "x"], "there is a name under `applied` 'x' already"),
        (["add", "mask.png", "--key", "x"], "there is a name under `applied` 'x' already"),
    ):
        assert message in error_line(vidseg("videos", *arguments, cwd=complete, check=2))


@pytest.mark.parametrize("lacking", ["concepts", "applied"])
def test_a_file_of_an_earlier_version_is_completed_here_and_refused_elsewhere(complete: Path, lacking: str) -> None:
    file = complete / "videos.yaml"
    file.write_text(CONCEPTS.replace(f"{lacking}: {{}}\n", ""))
    line = error_line(vidseg("summarize", ".", "out", "--items", "videos.yaml", cwd=complete, check=2))
    assert f"videos.yaml: is of an earlier version, without `{lacking}`; `vidseg videos list` completes it" in line
    assert vidseg("videos", "list", cwd=complete).stdout == "sample: data/sample/frames\n"
    assert yaml.safe_load(file.read_text()) == yaml.safe_load(CONCEPTS)
    assert file.read_text().startswith("# mine\nitems:\n  sample:\n    - path: data/sample/frames  # last year\n")

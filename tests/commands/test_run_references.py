"""`vidseg run --references`: segments that are drawn in pictures, found by nearest neighbours."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import zarr

from stages.common.backbones import load_backbone
from tests.support.commands import error_line, tree_bytes, vidseg, write_frames, write_labels
from tests.support.concepts import halves, write_references

CLASSES = {4: "bright", 5: "dark", 9: "no one's"}
WITHOUT_ENCODER = ("extract.encoder=none", "segment.encoder_weight=0", "correspond.encoder_weight=0")


@pytest.fixture(scope="module")
def given(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A folder with `frames`, `truth` and `refs`, whose ids and names are not 0 and 1; and parameters."""
    folder = tmp_path_factory.mktemp("given")
    images, labels = halves(2)
    write_frames(folder / "frames", images)
    write_labels(folder / "truth", labels + 4)
    refs = write_references(folder / "refs")
    shutil.rmtree(refs / "labels")
    write_labels(refs / "labels", halves(2)[1] + 4)
    (refs / "classes.json").write_text(
        json.dumps({"classes": [{"id": i, "name": name} for i, name in CLASSES.items()]})
    )
    shutil.copy(refs / "classes.json", folder / "truth" / "classes.json")
    shutil.copytree(refs, folder / "blank")
    blank = [{"id": label, "name": " " if label == 5 else name} for label, name in CLASSES.items()]
    (folder / "blank" / "classes.json").write_text(json.dumps({"classes": blank}))
    sets = (f"backbone.path={tiny_model}", "ingest.size=native", "segment.neighbors=1", "upsample.method=nearest")
    return folder, [word for text in (*sets, "render.extras=false", *WITHOUT_ENCODER) for word in ("--set", text)]


def named(out: Path) -> dict[int, str]:
    return {entry["id"]: entry["name"] for entry in json.loads((out / "labels.json").read_text())["labels"]}


def test_segments_have_the_ids_and_names_that_were_drawn(given: tuple[Path, list[str]], tmp_path: Path) -> None:
    """And are scored as they are; the same command again computes nothing."""
    folder, sets = given
    run = ("run", folder / "frames", "--references", folder / "refs", "-o", tmp_path / "out", *sets)
    run = (*run, "--ground-truth", folder / "truth")
    said = vidseg(*run).stderr
    assert "named: 4 bright, 5 dark\n" in said and "mIoU 1.000" in said
    assert named(tmp_path / "out") == {4: "bright", 5: "dark"}
    stores = tmp_path / "out" / "artifacts"
    labels = zarr.open_group(stores / "labels.zarr", mode="r")["labels"][:]
    np.testing.assert_array_equal(labels, halves(2)[1] + 4)
    before, taken = tree_bytes(stores), json.loads((tmp_path / "out/run.json").read_text())["seconds"]
    assert said.index("references: 2 pictures, about") < said.index("2 frames at 64x64: about")
    assert " of computing and" not in vidseg(*run).stderr
    assert tree_bytes(stores) == before
    again = json.loads((tmp_path / "out/run.json").read_text())["seconds"]
    assert again["references"] == taken["references"]


def test_a_store_of_references_and_a_context_give_the_same(given: tuple[Path, list[str]], tmp_path: Path) -> None:
    """A context knows the names as well, and what a person says later holds."""
    folder, sets = given
    vidseg("references", folder / "refs", tmp_path)
    vidseg("context", "fit-references", tmp_path / "refs.zarr", tmp_path / "ctx", *sets)
    begun = {"--references": tmp_path / "refs.zarr", "--context": tmp_path / "ctx"}
    found = []
    for option, path in begun.items():
        out = tmp_path / option.strip("-")
        vidseg("run", folder / "frames", option, path, "--set", "segment.init=mask", "-o", out, *sets)
        assert named(out) == {4: "bright", 5: "dark"}
        found.append(zarr.open_group(out / "artifacts" / "labels.zarr", mode="r")["labels"][:])
    np.testing.assert_array_equal(*found)
    vidseg("name", out, "--name", "5=night", *sets)
    again = ("run", folder / "frames", "--context", tmp_path / "ctx", "--set", "segment.init=mask", "-o", out, *sets)
    vidseg(*again)
    assert named(out) == {4: "bright", 5: "night"}


def test_what_a_context_learns_keeps_its_names(given: tuple[Path, list[str]], tmp_path: Path) -> None:
    """That of a run, and one that is updated by hand."""
    folder, sets = given
    out = tmp_path / "out"
    vidseg("run", folder / "frames", "--references", folder / "refs", "-o", out, *sets)
    stores = out / "artifacts"
    first = (stores / "references/context/names.json").read_bytes()
    assert (stores / "context/names.json").read_bytes() == first
    vidseg(
        "context",
        "update",
        stores / "context",
        stores / "features.zarr",
        stores / "coarse.zarr",
        tmp_path / "ctx",
        *sets,
    )
    assert (tmp_path / "ctx/names.json").read_bytes() == first


def test_names_of_other_segments_are_kept_beside(given: tuple[Path, list[str]], tmp_path: Path) -> None:
    folder, sets = given
    out = tmp_path / "out"
    vidseg("run", folder / "frames", "-o", out, "--segments", "2", *sets)
    vidseg("name", out, "--name", "1=mine", *sets)
    mine = (out / "names.json").read_bytes()
    said = vidseg("run", folder / "frames", "--references", folder / "refs", "-o", out, *sets).stderr
    assert "names.1.json: what names.json was, which now has the names of these segments" in said
    assert (out / "names.1.json").read_bytes() == mine and named(out) == {4: "bright", 5: "dark"}
    vidseg("run", folder / "frames", "--references", folder / "refs", "-o", out, *sets, "--set", "ingest.size=128")
    assert (out / "names.1.json").read_bytes() == mine and (out / "names.2.json").is_file()


def test_a_folder_of_videos_begins_with_one_context(
    given: tuple[Path, list[str]], videos: tuple[Path, ...], tmp_path: Path
) -> None:
    folder, sets = given
    many = tmp_path / "many"
    many.mkdir()
    for place, video in enumerate(videos):
        shutil.copy(video, many / f"{place}.mp4")
    run = ("run", many, "--references", folder / "refs", "-o", tmp_path / "out", *sets)
    plan = vidseg(*run, "--dry-run").stdout
    assert plan.count(f"segments   those of {folder / 'refs'}") == len(videos)
    assert plan.count("references 2 pictures, about ") == 1
    assert not (tmp_path / "out").exists()
    vidseg(*run)
    for place in range(len(videos)):
        assert set(named(tmp_path / "out" / str(place)).items()) <= {(4, "bright"), (5, "dark")}


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ...]:
    """Two videos of the two segments."""
    from pipeline.media.video import write_video

    folder = tmp_path_factory.mktemp("videos")
    return tuple(write_video(folder / f"{seed}.mp4", list(halves(2, seed=seed)[0]), 10.0) for seed in (1, 2))


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ("--references @nothing", 3, "nothing: no images/ here"),
        ("--references @frames", 3, "frames: no images/ here"),
        ("--references @refs --classes @refs/classes.json", 2, "--classes goes with --ground-truth"),
        ("--mask @truth/00000.png --segments 5", 2, "--segments is how many to find, but --mask shows which they are"),
        ("--references @blank", 3, "a name must be text that is not empty, not ' '"),
        ("--references @refs --names @typo.json", 3, "typo.json: no such file of names"),
        ("--references @refs --segments 5", 2, "--segments is how many to find, but --references shows which they are"),
        ("--references @refs --context @ctx", 2, "--context says which segments there are, as --references does"),
        ("--references @refs --mask @truth/00000.png", 2, "--references says which segments there are, as --mask does"),
    ],
)
def test_what_is_refused(
    given: tuple[Path, list[str]], tmp_path: Path, arguments: str, code: int, message: str
) -> None:
    """Before anything is computed."""
    folder, sets = given
    words = [word.replace("@", f"{folder}/") for word in arguments.split()]
    result = vidseg("run", folder / "frames", "-o", tmp_path / "out", *words, *sets, check=code)
    assert message in error_line(result)
    assert not (tmp_path / "out").exists()


def test_names_json_of_others_is_not_replaced(given: tuple[Path, list[str]], tmp_path: Path) -> None:
    folder, sets = given
    (tmp_path / "names.json").write_text("[]")
    run = ("run", folder / "frames", "--references", folder / "refs", "-o", tmp_path, *sets)
    assert "names.json: was not written by vidseg; move it away" in error_line(vidseg(*run, check=3))


def test_pictures_are_read_once(given: tuple[Path, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the check before anything is computed; the store is made of what that has read."""
    from pipeline.fewshot import references
    from stages.commands import reference_context
    from stages.common.settings import load

    folder, sets = given
    read: list[Path] = []

    def counted(path: Path, *more: Path | None) -> references.References:
        read.append(path)
        return reading(path, *more)

    reading = references.read_references
    monkeypatch.setattr(references, "read_references", counted)
    drawn = reference_context.checked_references(folder / "refs")
    backbone = load_backbone(load(sets=sets[1::2])["backbone"])
    reference_context.of_references(folder / "refs", tmp_path, load(sets=sets[1::2]), backbone, drawn)
    assert read == [folder / "refs"]

"""Annotated images to a concept."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import DataError, UsageError, WeightsError
from pipeline.fewshot.concept_store import load_concept, open_concept
from pipeline.parameters import BackboneParams, MapsParams
from stages import learn, references
from stages.commands import doctor
from stages.common.backbones import segment_model
from stages.common.settings import load
from tests.support import tiny
from tests.support.commands import error_line, tree_bytes, vidseg
from tests.support.concepts import LEARN, write_references


@pytest.fixture(scope="module")
def refs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("refs")
    return references.run(write_references(folder / "halves"), folder)


@pytest.fixture(scope="module")
def concept(refs: Path, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("learned") / "concept"
    return learn.run(refs, folder, LEARN, MapsParams(), BackboneParams(path=str(tiny_model)))


def test_a_concept_holds_all_that_applying_it_needs(concept: Path) -> None:
    made = load_concept(concept)
    assert made.context.shape == (8 + 2, 16) and made.positions == (8, 9)
    assert made.table.names == ("background", "1")
    assert made.log.shape == (3 * 2, 6) and made.log[:, 4].tolist() == [1, 1, 1, 2, 2, 2]
    assert made.references == ("00000", "00001") and made.reference_numbers.shape == (2, 8, 8)
    assert made.adapter is not None and len(made.adapter.tensors) == 32
    assert 0 <= made.reference_iou <= 1
    assert (made.learn, made.maps) == (LEARN, MapsParams())
    store = open_concept(concept)
    assert store.attrs["adapter"] == hashlib.sha256((concept / "adapter.safetensors").read_bytes()).hexdigest()
    assert store.params["learn"]["size"] == 64
    assert sorted(path.name for path in concept.parent.iterdir()) == ["concept"]


def test_equal_runs_give_equal_bytes_and_none_runs_twice(
    concept: Path, refs: Path, tiny_model: Path, tmp_path: Path
) -> None:
    backbone = BackboneParams(path=str(tiny_model))
    again = learn.run(refs, tmp_path / "again", LEARN, MapsParams(), backbone)
    assert tree_bytes(again) == tree_bytes(concept)
    before = (again / "adapter.safetensors").stat().st_mtime_ns
    learn.run(refs, again, LEARN, MapsParams(), backbone)
    assert (again / "adapter.safetensors").stat().st_mtime_ns == before
    (again / "adapter.safetensors").write_bytes(b"damaged")
    with pytest.raises(WeightsError, match="adapter.safetensors: cannot be read as an adapter"):
        load_concept(again)
    learn.run(refs, again, LEARN, MapsParams(), backbone)
    assert tree_bytes(again) == tree_bytes(concept)


def test_doctor_knows_the_concepts_of_a_project(
    concept: Path, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key in ("whole", "torn", "lost"):
        shutil.copytree(concept, tmp_path / "concepts" / key)
    (tmp_path / "concepts/torn/adapter.safetensors").unlink()
    (tmp_path / "concepts/lost/concept.zarr/zarr.json").unlink()
    shutil.copytree(concept, tmp_path / "data/learn/cars/concept")
    monkeypatch.chdir(tmp_path)
    store = open_concept(concept)
    found = {str(folder.relative_to(tmp_path)): doctor._concept(folder) for folder in doctor._concept_folders(tmp_path)}
    whole = (
        f"compact {store.attrs['backbone'][:12]}, adapter {store.attrs['adapter'][:12]}; backbone.name = compact has"
    )
    assert list(found) == ["data/learn/cars/concept", "concepts/lost", "concepts/torn", "concepts/whole"]
    assert found["concepts/whole"].startswith(whole) and found["data/learn/cars/concept"].startswith(whole)
    assert found["concepts/torn"].startswith("problem: its adapter.safetensors is missing")
    assert found["concepts/lost"].startswith("problem: ")


def test_tokens_alone_need_no_adapter(refs: Path, tiny_model: Path, tmp_path: Path) -> None:
    params = replace(LEARN, tune="none", epochs=1)
    folder = learn.run(refs, tmp_path / "c", params, MapsParams(), BackboneParams(path=str(tiny_model)))
    assert load_concept(folder).adapter is None
    assert [path.name for path in folder.iterdir()] == ["concept.zarr"]


def test_an_adapter_of_another_concept_is_refused(concept: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(concept, tmp_path / "copy")
    content = bytearray((copy / "adapter.safetensors").read_bytes())
    content[-1] ^= 1
    (copy / "adapter.safetensors").write_bytes(content)
    with pytest.raises(WeightsError, match="is not this concept's own; copy both files again, or learn it again"):
        load_concept(copy)
    with pytest.raises(DataError, match="none: no such concept; run `vidseg learn` to make it"):
        load_concept(tmp_path / "none")


def test_the_whole_path_from_a_folder(concept: Path, tiny_model: Path, tmp_path: Path) -> None:
    """A segment that appears nowhere is warned of: by a plan, at learning, and where the concept is there already."""
    folder = write_references(tmp_path / "refs")
    listed = tmp_path / "classes.json"
    listed.write_text('{"classes": ["background", "right", "wheel"]}')
    sets = ["learn.size=64", "learn.epochs=1", "learn.tune=none", f"backbone.path={tiny_model}"]
    arguments = [folder, "-o", tmp_path / "out", "--classes", listed, *(f"--set={one}" for one in sets)]
    hardly = "segment 'wheel' appears in no reference"
    assert hardly in error_line(vidseg("learn", *arguments, "--dry-run", "--strict", check=3))
    planned = vidseg("learn", *arguments, "--dry-run")
    plan = planned.stdout
    assert "segments   3: background, right, wheel" in plan and "out/concept.zarr\n" in plan
    assert "estimate   2 pictures, 2 steps: about" in plan and not (tmp_path / "out").exists()
    assert "steps      2, of which none tunes weights" in plan
    assert hardly in planned.stderr and hardly not in plan
    said = vidseg("learn", *arguments).stderr
    assert said.count("2 pictures, 2 steps: about") == 1
    assert hardly in said and "mean IoU with its own references" in said
    again = vidseg("learn", *arguments).stderr
    assert hardly in again and "mean IoU" not in again  # the concept is there
    assert load_concept(tmp_path / "out").table.names == ("background", "right", "wheel")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["classes.json", "out", "refs"]


@pytest.mark.parametrize(
    ("changes", "steps", "outputs"),
    [
        ((), "6, of which the last 3 tune weights too", "concept.zarr, adapter.safetensors"),
        (("learn.tune=none",), "6, of which none tunes weights", "concept.zarr"),
        (("learn.epochs=1",), "2, of which none tunes weights (learn.phase1_iterations is 3)", "concept.zarr"),
        (
            ("learn.parity.phase1_epochs=2", "learn.most_iterations=4"),
            "4, of which none tunes weights (learn.parity.phase1_epochs is 2)",
            "concept.zarr",
        ),
    ],
)
def test_the_plan_promises_what_will_be_there(
    refs: Path, tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    changes: tuple[str, ...], steps: str, outputs: str,
) -> None:  # fmt: skip
    sets = ["learn.epochs=3", "learn.phase1_iterations=3", "learn.size=64", f"backbone.path={tiny_model}", *changes]
    learn.run_references(refs, tmp_path / "out", load(sets=sets), dry_run=True)
    lines = capsys.readouterr().out.splitlines()
    assert f"steps      {steps}" in lines and f"outputs    {tmp_path}/out/{outputs}" in lines


def test_learning_says_where_it_ends_before_weights_are_tuned(
    refs: Path, tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    params = replace(LEARN, epochs=1, phase1_iterations=3)
    learn.run(refs, tmp_path / "c", params, MapsParams(), BackboneParams(path=str(tiny_model)))
    assert "learn: none of 2 steps tunes weights (learn.phase1_iterations is 3)\n" in capsys.readouterr().err


def test_learning_that_diverges_names_the_concept(refs: Path, tiny_model: Path, tmp_path: Path) -> None:
    """At a step, or at the last, after which no loss is seen."""
    backbone = BackboneParams(path=str(tiny_model))
    for most, when in ((None, "step 2 of 6"), (1, "its last step")):
        params = replace(LEARN, lr_tokens=float("inf"), most_iterations=most)
        with pytest.raises(DataError, match=f"{tmp_path}/c: learning diverged at {when}, nothing is written; lower"):
            learn.run(refs, tmp_path / "c", params, MapsParams(), backbone)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["none", "-o", "out"], 3, "none: no images/ here"),
        (["REFS"], 2, "give REFS and -o OUT, or --item KEY"),
        (["REFS", "-o", "out", "--classes", "c.json"], 2, "--classes goes with a folder; refs.zarr has its class list"),
        (["--item", "h", "--dry-run"], 2, "--dry-run does not go with --item, whose paths stand in videos.yaml"),
        (["REFS", "-o", "out", "--set", "learn.t=[9]"], 2, "learn.t must be the first and the last timestep"),
        (["REFS", "-o", "out", "--set", "learn.size=100"], 2, "learn.size must be a multiple of 64, not 100"),
        (["REFS", "-o", "out", "--set", "learn.init=names"], 2, "learn.init: names needs a text encoder"),
        (["REFS", "-o", "FOREIGN"], 3, "was not written by vidseg"),
    ],
)
def test_bad_input(refs: Path, tiny_model: Path, tmp_path: Path, arguments: list[str], code: int, message: str) -> None:
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "mine.txt").touch()
    given = [{"REFS": str(refs), "FOREIGN": "foreign"}.get(argument, argument) for argument in arguments]
    result = vidseg("learn", *given, "--set", f"backbone.path={tiny_model}", cwd=tmp_path, check=code)
    assert message in error_line(result)
    assert not (tmp_path / "out").exists()


def test_a_video_model_is_refused() -> None:
    class Video:
        name = "svd"

    with pytest.raises(UsageError, match="no segments can be learned with svd, a video model"):
        segment_model(Video())  # type: ignore[arg-type]


def test_results_lie_under_the_key_of_the_concept(tmp_path: Path, tiny_model: Path) -> None:
    write_references(tmp_path / "halves")
    (tmp_path / "videos.yaml").write_text("items: {}\nconcepts: {h: {references: halves}}\napplied: {}\n")
    sets = ["learn.size=64", "learn.epochs=1", "learn.tune=none", f"backbone.path={tiny_model}"]
    vidseg("references", "--item", "h", cwd=tmp_path)
    vidseg("learn", "--item", "learn@h", *(f"--set={one}" for one in sets), cwd=tmp_path)
    assert open_concept(tmp_path / "data/learn/h/concept").attrs["names"] == ["00000", "00001"]


def test_weights_that_are_not_the_locked_ones_are_refused(tmp_path: Path, tiny_model: Path) -> None:
    write_references(tmp_path / "halves")
    (tmp_path / "videos.yaml").write_text("items: {}\nconcepts: {h: {references: halves}}\napplied: {}\n")
    (tmp_path / "backbone.lock").write_text('{"version": 2, "name": "compact", "sha256": "0"}')
    vidseg("references", "--item", "h", cwd=tmp_path)
    result = vidseg("learn", "--item", "h", "--set", f"backbone.path={tiny_model}", cwd=tmp_path, check=4)
    assert "backbone.lock is for other weights" in error_line(result)


def test_models_of_other_weights_learn_other_concepts(concept: Path, refs: Path, tmp_path: Path) -> None:
    other = tiny.save_model(tmp_path / "model", 1)
    params = replace(LEARN, tune="none", epochs=1)
    folder = learn.run(refs, tmp_path / "c", params, MapsParams(), BackboneParams(path=str(other)))
    assert open_concept(folder).attrs["backbone"] != open_concept(concept).attrs["backbone"]
    assert np.isfinite(load_concept(folder).log).all()

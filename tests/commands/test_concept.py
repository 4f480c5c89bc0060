"""`vidseg concept`: what a concept says of itself, and whether it still does what it did."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from pipeline.media.pictures import write_image
from pipeline.parameters import BackboneParams, MapsParams
from stages import learn, references
from tests.support.commands import error_line, vidseg
from tests.support.concepts import LEARN, write_references


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """The references, their refs.zarr and the concept."""
    folder = tmp_path_factory.mktemp("work")
    refs = references.run(write_references(folder / "halves"), folder)
    learn.run(refs, folder / "concept", LEARN, MapsParams(), BackboneParams(path=str(tiny_model)))
    return folder


def test_show(work: Path) -> None:
    lines = vidseg("concept", "show", "concept", cwd=work).stdout.splitlines()
    assert [line.split() for line in lines[:3]] == [["id", "segment"], ["0", "background"], ["1", "1"]]
    assert lines[3].startswith("phase 1  3 steps  loss ") and lines[4].startswith("phase 2  3 steps")
    assert "2: 00000, 00001" in lines[5]
    about = json.loads(vidseg("concept", "show", "concept", "--json", cwd=work).stdout)
    assert (about["backbone"], about["phases"]["2"]["iterations"]) == ("compact", 3)
    assert about["adapter_mb"] > 0 and about["params"]["learn"]["size"] == 64


@pytest.mark.parametrize("refs", ["halves", "refs.zarr"])
def test_a_concept_that_does_what_it_did(work: Path, tiny_model: Path, refs: str) -> None:
    said = vidseg("concept", "check", "concept", refs, "--set", f"backbone.path={tiny_model}", cwd=work).stderr
    assert "concept: whole; finds 100.0% of what it found" in said


def test_check_takes_a_class_list_and_a_preset_as_learn_does(work: Path, tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "classes.json").write_text('{"classes": ["left", "right"]}')
    given = ("--classes", tmp_path / "classes.json", "--preset", "smite", "--set", f"backbone.path={tiny_model}")
    assert "finds 100.0% of" in vidseg("concept", "check", "concept", "halves", *given, cwd=work).stderr
    line = error_line(vidseg("concept", "check", "concept", "refs.zarr", *given, cwd=work, check=2))
    assert "--classes goes with a folder; refs.zarr has its class list already" in line


def test_what_check_refuses(work: Path, tiny_model: Path, tmp_path: Path) -> None:
    model = ("--set", f"backbone.path={tiny_model}")
    fewer = write_references(tmp_path / "fewer", 1)
    line = error_line(vidseg("concept", "check", work / "concept", fewer, *model, check=3))
    assert "holds 00000, but" in line and "give its own references" in line
    changed = shutil.copytree(work / "halves", tmp_path / "changed")
    noise = np.random.default_rng(5).integers(0, 256, (64, 64, 3), np.uint8)
    for name in ("00000", "00001"):
        write_image(changed / "images" / f"{name}.png", noise)
    line = error_line(vidseg("concept", "check", work / "concept", changed, *model, check=3))
    assert "the references have changed, or the concept is damaged" in line
    assert "none: no such concept" in error_line(vidseg("concept", "show", tmp_path / "none", check=3))

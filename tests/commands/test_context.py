"""`vidseg context fit-references`: a context model of annotated images."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from pipeline.media.pictures import write_label_png
from pipeline.segmentation.context_store import load_context
from stages import extract, ingest
from stages.commands import context
from stages.common import settings as settings_
from tests.support.commands import error_line, vidseg, write_frames
from tests.support.concepts import halves, write_references

WITHOUT_ENCODER = ("extract.encoder=none", "segment.encoder_weight=0", "correspond.encoder_weight=0")


@pytest.fixture
def sets(tiny_model: Path) -> list[str]:
    return [f"backbone.path={tiny_model}", "ingest.size=native", "segment.init=mask", *WITHOUT_ENCODER]


def test_one_frame_as_reference_is_its_mask(tmp_path: Path, sets: list[str]) -> None:
    """Which `segment.init: mask` begins with."""
    settings = settings_.load(None, sets)
    write_frames(tmp_path / "frames", halves(1)[0])
    write_references(tmp_path / "refs", 1)
    mask = tmp_path / "refs" / "labels" / "00000.png"
    clip = ingest.run(tmp_path / "frames", tmp_path, settings["ingest"], mask=mask)
    features = extract.run(clip, tmp_path, settings["extract"], settings["diffusion"], settings["backbone"])
    expected = load_context(context.fit(features, tmp_path / "a", settings["segment"], tmp_path / "seed"))
    options = [word for text in sets for word in ("--set", text)]
    vidseg("context", "fit-references", tmp_path / "refs", tmp_path / "b", *options)
    found = load_context(tmp_path / "b", expected.kind)
    np.testing.assert_array_equal(found.context.features, expected.context.features)
    np.testing.assert_array_equal(found.context.labels, expected.context.labels)
    assert found.fitted_on != expected.fitted_on  # its tokens are not those of a clip's first frame


def test_images_of_different_sizes_and_without_labels(tmp_path: Path, sets: list[str]) -> None:
    """What has no label is not remembered."""
    write_references(tmp_path / "refs", 1)
    wide, labels = halves(1, (64, 128))
    labels[0, :, 64:] = 255
    write_frames(tmp_path / "wide", wide)
    (tmp_path / "wide" / "00000.png").rename(tmp_path / "refs" / "images" / "wide.png")
    write_label_png(tmp_path / "refs" / "labels" / "wide.png", labels[0])
    options = [word for text in sets for word in ("--set", text)]
    vidseg("context", "fit-references", tmp_path / "refs", tmp_path / "model", *options)
    shown = json.loads(vidseg("context", "show", tmp_path / "model", "--json").stdout)
    assert shown["labels"] == {"0": 8 + 16, "1": 8} and shown["windows"] == []
    vidseg("references", tmp_path / "refs", tmp_path)
    again = vidseg("context", "fit-references", tmp_path / "refs.zarr", tmp_path / "again", *options)
    assert again.returncode == 0
    assert (tmp_path / "again" / "labels.npy").read_bytes() == (tmp_path / "model" / "labels.npy").read_bytes()
    given = ("--classes", tmp_path / "classes.json")
    line = error_line(vidseg("context", "fit-references", tmp_path / "refs.zarr", tmp_path / "c", *given, check=2))
    assert "--classes goes with a folder; refs.zarr has its class list already" in line

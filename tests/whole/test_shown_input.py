"""What a person gets wrong about segments that are shown: said in one line, with its exit code, by the commands."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pipeline.media.pictures import write_image, write_label_png
from tests.support import checkpoint_layouts, tiny
from tests.support.commands import error_line, vidseg
from tests.support.concepts import Stores, make_stores, write_references, write_tracked

FRAMES = 3


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Stores:
    """With tracks of another clip, other weights, and a model that reads text."""
    folder = tmp_path_factory.mktemp("shown")
    write_tracked(folder, "other", FRAMES, seed=1)
    tiny.save_model(folder / "model", 1)
    checkpoint_layouts.write_folder(checkpoint_layouts.tiny_with_text(), folder / "text")
    return make_stores(folder, tiny_model, FRAMES)


def no_labels(folder: Path) -> None:
    (folder / "labels").rename(folder / "masks")


def no_label_map(folder: Path) -> None:
    (folder / "labels/00001.png").unlink()


def small_label_map(folder: Path) -> None:
    write_label_png(folder / "labels/00001.png", np.zeros((32, 48), np.uint8))


def nothing_labelled(folder: Path) -> None:
    write_label_png(folder / "labels/00001.png", np.full((64, 64), 255, np.uint8))


def unknown_id(folder: Path) -> None:
    (folder / "classes.json").write_text('{"classes": ["background"]}')


def one_segment(folder: Path) -> None:
    for name in ("00000", "00001"):
        write_label_png(folder / f"labels/{name}.png", np.zeros((64, 64), np.uint8))


def masks(folder: Path, size: tuple[int, int] = (64, 64)) -> None:
    for name in ("00000", "00001"):
        (folder / f"labels/{name}.png").unlink()
        write_image(folder / f"labels/{name}.wheel.png", np.full(size, 255, np.uint8))


def small_mask(folder: Path) -> None:
    masks(folder, (48, 32))


def unnamed_mask(folder: Path) -> None:
    masks(folder)
    (folder / "classes.json").write_text('{"classes": ["background", "roof"]}')


def many_segments(folder: Path) -> None:
    stripes = np.repeat(np.arange(16, dtype=np.uint8), 4)
    for name in ("00000", "00001"):
        write_label_png(folder / f"labels/{name}.png", np.broadcast_to(stripes, (64, 64)).copy())
    (folder / "classes.json").write_text(json.dumps({"classes": ["background", *(f"p{i}" for i in range(1, 16))]}))


@pytest.mark.parametrize(
    ("spoil", "more", "code", "message"),
    [
        (no_labels, "", 3, "refs: no labels/ here; expected images/NAME.jpg with labels/NAME.png"),
        (no_label_map, "", 3, "images and labels do not match; images without labels: 00001.png"),
        (small_label_map, "", 3, "00001.png: the label map is 48x32 pixels, its image 64x64"),
        (small_mask, "", 3, "00000.wheel.png: the mask is 32x48 pixels, its image 64x64"),
        (unnamed_mask, "", 3, "masks of wheel, which classes.json does not name; add them to it"),
        (unknown_id, "", 3, "00000.png: holds the value 1, which is neither a class nor ignored; add it to"),
        (nothing_labelled, "", 3, "00001.png: no pixel of 00001 has a label; draw a segment or leave it out"),
        (one_segment, "", 3, "at least two segments are needed to tell one from the other, found only 'background'"),
        (
            many_segments,
            "--set backbone.path=@text",
            2,
            "16 segments do not fit a context of 9 tokens; learn at most 8 in one concept",
        ),
    ],
)
def test_references_that_cannot_be_learned(
    shown: Stores, tmp_path: Path, spoil: Callable[[Path], None], more: str, code: int, message: str
) -> None:
    spoil(write_references(tmp_path / "refs"))
    given = shown.words(f"--set backbone.path={shown.model} {more}")
    result = vidseg("learn", "refs", "-o", "concept", *given, "--set", "learn.size=64", cwd=tmp_path, check=code)
    assert message in error_line(result)
    assert [path.name for path in tmp_path.iterdir()] == ["refs"]


STAGE = "apply @clip/clip.zarr @clip/latents.zarr out --concept @concept"
TRACKED = f"{STAGE} --tracks @clip/tracks.zarr"
#: The layers that the concept was learned with, and its tracks' window.
LEARNED = "--set maps.cross_blocks=[3,4,5,6,7] --set guidance.vote.window=3"


@pytest.mark.parametrize(
    ("command", "code", "message"),
    [
        (f"{TRACKED} {LEARNED} --set backbone.path=@model", 3, "concept: was learned with another backbone (compact "),
        (f"{TRACKED} --set guidance.vote.window=3", 3, "concept: was learned with maps.cross_blocks = [3, 4, 5, 6, 7]"),
        (
            f"{STAGE} {LEARNED} --set guidance.lambda_track=0.5",
            2,
            "guidance follows points: give --tracks TRACKS (of `vidseg track`), or set guidance.lambda_track=0",
        ),
        (f"{STAGE} --tracks @other/tracks.zarr {LEARNED}", 3, "other/tracks.zarr does not belong to "),
        (f"{TRACKED} --set guidance.vote.window=4", 2, "guidance.vote.window must be odd, not 4"),
        ("track @clip/clip.zarr out --set track.window=4", 2, "track.window must be odd, not 4"),
        ("track @clip/clip.zarr out --set track.method=cotracker", 4, "track.method is cotracker, but "),
        ("track @clip/clip.zarr out --set track.method=file", 2, "track.method is file, but track.file names none"),
    ],
)
def test_what_cannot_be_applied(shown: Stores, tmp_path: Path, command: str, code: int, message: str) -> None:
    name, *given = shown.words(command)
    model = [] if "backbone.path" in command or name == "track" else ["--set", f"backbone.path={shown.model}"]
    assert message in error_line(vidseg(name, *given, *model, cwd=tmp_path, check=code))
    assert not list(tmp_path.iterdir())

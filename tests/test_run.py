"""`vidseg run`, the command a newcomer begins with, and `vidseg doctor`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import zarr
from PIL import Image

from pipeline.video import write_video
from tests.commands import error_line, tree_bytes, vidseg, vidseg_process, write_frames

SIZE = (66, 130)


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five frames of two moving textures, at a size that is no multiple of 64."""
    rng = np.random.default_rng(0)
    texture = rng.integers(0, 90, (SIZE[0], 200, 3), dtype=np.uint8)
    texture[:, 60:] += 120
    frames = [texture[:, 4 * i : 4 * i + SIZE[1]] for i in range(5)]
    return write_video(tmp_path_factory.mktemp("video") / "clip.mp4", frames, 10.0)


def options(model: Path, *more: str) -> list[str]:
    sets = [f"backbone.path={model}", "ingest.size=native", "segment.clusters=3", *more]
    return [word for text in sets for word in ("--set", text)]


@pytest.fixture(scope="module")
def result(video: Path, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("result") / "out"
    vidseg_process("run", video, "-o", out, *options(tiny_model))
    return out


def test_outputs_are_those_of_the_design(result: Path) -> None:
    assert sorted(path.name for path in (result / "labels").iterdir()) == [f"{i:05d}.png" for i in range(5)]
    picture = Image.open(result / "labels" / "00000.png")
    assert picture.mode == "P"
    assert picture.size == SIZE[::-1]
    assert json.loads((result / "labels.json").read_text())
    for name in ("overlay.mp4", "contact_sheet.png", "artifacts/features.zarr", "artifacts/labels.zarr"):
        assert (result / name).exists(), name
    stored = zarr.open_group(result / "artifacts" / "labels.zarr", mode="r")["labels"]
    np.testing.assert_array_equal(np.asarray(picture), stored[0])
    assert not list(result.rglob("tmp"))


def test_a_second_run_reuses_the_artifacts_and_gives_the_same(video: Path, tiny_model: Path, result: Path) -> None:
    before = tree_bytes(result)
    vidseg("run", video, "-o", result, *options(tiny_model))
    assert tree_bytes(result) == before


def test_a_folder_of_frames_gives_labels_of_their_names(tiny_model: Path, tmp_path: Path) -> None:
    folder = write_frames(tmp_path / "frames", np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3), np.uint8))
    (folder / "00000.png").rename(folder / "only one.PNG")
    vidseg("run", folder, "-o", tmp_path / "out", *options(tiny_model))
    assert [path.name for path in (tmp_path / "out" / "labels").iterdir()] == ["only one.png"]


def test_dry_run_prints_plan_time_and_disk_and_writes_nothing(video: Path, tiny_model: Path, tmp_path: Path) -> None:
    printed = vidseg("run", video, "-o", tmp_path / "out", "--dry-run", *options(tiny_model)).stdout
    assert "5 frames, 130x66, 10 fps" in printed
    assert "model size 128x64" in printed
    assert "minutes and" in printed and "MB of disk" in printed
    assert not (tmp_path / "out").exists()


def test_segments_is_short_for_clusters(video: Path, tiny_model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    vidseg("run", video, "-o", out, "--segments", 2, *options(tiny_model, "upsample.method=nearest"))
    coarse = zarr.open_group(out / "artifacts" / "coarse.zarr", mode="r")
    assert len(np.unique(coarse["refined"][:])) == 2


@pytest.mark.parametrize(
    ("content", "arguments", "code", "message"),
    [
        (None, [], 3, "no such file"),
        (b"not a video", [], 3, "not a video"),
        (b"", [], 3, "clip.mp4"),
        ("video", ["--set", "segment.clusters=40"], 2, "segment.clusters"),
        ("video", ["--set", "segment.neighbors=400"], 2, "segment.neighbors"),
        ("video", ["--set", "ingest.frames=9:"], 3, "frames"),
        ("video", ["--set", "ingest.size=100x100"], 2, "multiples of 64"),
        ("video", ["--set", "upsample.modulate_step=3"], 2, "upsample.modulate_step"),
        ("video", ["--mask", "missing.png"], 3, "missing.png"),
        ("video", ["--ground-truth", "missing"], 3, "missing"),
        (
            "video",
            ["--set", "backbone.name=sd21", "--set", "backbone.path=null"],
            4,
            "hf download sd2-community",
        ),
    ],
)
def test_bad_input(
    video: Path,
    tiny_model: Path,
    tmp_path: Path,
    content: bytes | str | None,
    arguments: list[str],
    code: int,
    message: str,
) -> None:
    given = tmp_path / "clip.mp4"
    if content is not None:
        given.write_bytes(video.read_bytes() if isinstance(content, str) else content)
    result = vidseg("run", given, "-o", tmp_path / "out", *options(tiny_model), *arguments, cwd=tmp_path, check=code)
    assert message in error_line(result)
    assert not list((tmp_path / "out").rglob("labels.zarr"))


def test_an_output_folder_that_cannot_be_written(video: Path, tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    result = vidseg("run", video, "-o", tmp_path / "file" / "out", *options(tiny_model), check=5)
    assert "cannot be written" in error_line(result)


def test_a_real_clip(shared_data: Path, tiny_model: Path, tmp_path: Path) -> None:
    """Real video: a few frames of a camvid sequence, scored against its ground truth."""
    sequence = shared_data / "camvid" / "0016E5_15hz"
    classes = shared_data / "camvid" / "classes.json"
    sets = ["ingest.size=128", "ingest.frames=0:3", "upsample.method=bilinear"]
    vidseg(
        "run", sequence / "frames", "-o", tmp_path / "out", "--ground-truth", sequence / "labels",
        "--classes", classes, *options(tiny_model, *sets),
    )  # fmt: skip
    assert json.loads((tmp_path / "out" / "scores.json").read_text())["videos"][0]["frames"] == 3
    with Image.open(tmp_path / "out" / "labels" / "0016E5_07959.png") as picture:
        assert picture.size == (480, 360)


def test_doctor_reports_what_is_here() -> None:
    findings = json.loads(vidseg("doctor", "--json").stdout)
    assert findings["faiss"].startswith("1.") or "faiss" in findings["faiss"]
    assert "models/compact" in findings["backbones"]["compact"]
    assert findings["free_disk_gb"] > 0
    assert "torch" in vidseg("doctor").stdout

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import zarr
from PIL import Image

from pipeline.errors import DataError, UsageError
from pipeline.media.pictures import read_label_png, write_image, write_label_png
from pipeline.media.resize import resize_frame
from pipeline.media.video import open_source, write_video
from pipeline.parameters import IngestParams
from pipeline.stores.clip_source import ClipSource, read_source
from pipeline.stores.cuts import read_cuts
from pipeline.stores.schemas import CLIP, TRUTH
from pipeline.stores.store import open_store
from stages import ingest, sample
from stages.common import cli
from stages.common.layout import Place, videos_of
from stages.ingest import run
from tests.support.commands import error_line, tree_bytes, vidseg

SIZE = (70, 130)


def picture(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (*SIZE, 3), dtype=np.uint8)


def label_map(number: int) -> np.ndarray:
    return np.random.default_rng(number).choice([0, 1, 2, 255], SIZE).astype(np.uint8)


@pytest.fixture
def frames(tmp_path: Path) -> Path:
    for number in range(17):
        write_image(tmp_path / "frames" / f"shot{number}.png", picture(number))
    return tmp_path / "frames"


@pytest.fixture
def truth(tmp_path: Path) -> Path:
    for number in (0, 5, 16):
        write_label_png(tmp_path / "truth" / f"shot{number}.png", label_map(number))
    return tmp_path / "truth"


def command(arguments: Sequence[str | Path], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Exit code and stderr of `vidseg ingest ...`."""
    with patch("sys.argv", ["ingest", *map(str, arguments)]), pytest.raises(SystemExit) as ended:
        cli.run_app(ingest.app)
    return int(ended.value.code or 0), capsys.readouterr().err


def tree(folder: Path) -> dict[str, bytes]:
    """Every file of a folder with its content."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_clip_zarr(frames: Path, tmp_path: Path) -> None:
    path = run(frames, tmp_path / "out", IngestParams(size=64))
    assert path == tmp_path / "out" / "clip.zarr"
    group = zarr.open_group(path, mode="r")  # what any reader sees
    expected = [resize_frame(picture(number), (64, 128)) for number in range(17)]
    np.testing.assert_array_equal(group["frames"], expected)
    assert group["frames"].shards == (14, 64, 128, 3)
    attrs = dict(group.attrs)
    assert attrs["names"] == [f"shot{number}" for number in range(17)]
    assert attrs["source_indices"] == list(range(17))
    assert attrs["source_size"] == [70, 130]
    assert read_source(tmp_path / "out" / "source") == ClipSource(frames, 25.0)
    assert sorted(entry.name for entry in path.parent.iterdir()) == [
        "clip.zarr",
        "cuts",
        "seed",
        "source",
        "truth.zarr",
    ]


def test_range_stride_and_rate(frames: Path, tmp_path: Path) -> None:
    path = run(frames, tmp_path / "out", IngestParams(size="64x64", frames="2:12", stride=4, fps=10.0))
    store = open_store(path, CLIP)
    assert store.attrs["names"] == ["shot2", "shot6", "shot10"]
    assert store.attrs["source_indices"] == [2, 6, 10]
    assert read_source(tmp_path / "out" / "source").fps == 2.5  # plays as fast as the source
    assert store.read("frames").shape == (3, 64, 64, 3)


def test_a_video_and_a_single_frame(tmp_path: Path) -> None:
    video = write_video(tmp_path / "a.mp4", [picture(0)], 12.5)
    store = open_store(run(video, tmp_path / "out", IngestParams()), CLIP)
    assert store.attrs["names"] == ["00000"]
    assert read_source(tmp_path / "out" / "source") == ClipSource(video, 12.5)
    assert store.read("frames").shape == (1, 64, 128, 3)


def test_without_ground_truth_it_is_empty(frames: Path, tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "README.md").touch()
    for out, given in (("out", None), ("placeholder", tmp_path / "none")):
        run(frames, tmp_path / out, IngestParams(size=64), ground_truth=given)
        store = open_store(tmp_path / out / "truth.zarr", TRUTH)
        assert store.read("ground_truth").shape == (0, *SIZE)
        assert (store.attrs["indices"], store.attrs["classes"]) == ([], [])
        assert json.loads((tmp_path / out / "seed" / "seed.json").read_text()) == {"mask": None}


def test_ground_truth(frames: Path, truth: Path, tmp_path: Path) -> None:
    listed = {"classes": ["a", "b", "c"], "ignore": [255]}
    (truth / "classes.json").write_text(json.dumps(listed))
    run(frames, tmp_path / "out", IngestParams(size=64, frames="5:"), ground_truth=truth)
    store = open_store(tmp_path / "out" / "truth.zarr", TRUTH)
    assert store.attrs["indices"] == [0, 11]  # positions in the clip, not in the source
    np.testing.assert_array_equal(store.read("ground_truth"), [label_map(5), label_map(16)])
    assert [entry["name"] for entry in store.attrs["classes"]] == ["a", "b", "c"]
    assert store.attrs["ignore"] == [255]
    assert store.attrs["names"] == [f"shot{number}" for number in range(5, 17)]


def test_the_first_frames_truth_as_mask(frames: Path, truth: Path, tmp_path: Path) -> None:
    run(frames, tmp_path / "out", IngestParams(size=64, seed="truth"), ground_truth=truth)
    assert json.loads((tmp_path / "out" / "seed" / "seed.json").read_text()) == {"mask": "mask.png"}
    np.testing.assert_array_equal(read_label_png(tmp_path / "out" / "seed" / "mask.png"), label_map(0))


def test_a_given_mask_wins(frames: Path, truth: Path, tmp_path: Path) -> None:
    mask = write_label_png(tmp_path / "mine.png", label_map(99))
    run(frames, tmp_path / "out", IngestParams(size=64, seed="truth"), ground_truth=truth, mask=mask)
    np.testing.assert_array_equal(read_label_png(tmp_path / "out" / "seed" / "mask.png"), label_map(99))


def test_masks_of_several_frames(frames: Path, tmp_path: Path) -> None:
    """By number of the source's frame, or by name from a folder, which gives the same bytes; none is left unsaid."""
    masks = tmp_path / "masks"
    for number in (3, 5, 6):
        write_label_png(masks / f"shot{number}.png", label_map(number))
    sets = [f"--set=ingest.{text}" for text in ("size=64", "frames=3:12", "stride=2")]
    given = ["ingest", frames, tmp_path / "a", *sets]
    vidseg(*given, "--mask", f"5={masks / 'shot5.png'}", "--mask", f"3={masks / 'shot3.png'}")
    seed = tmp_path / "a" / "seed"
    assert json.loads((seed / "seed.json").read_text()) == {"mask": "mask.png", "masks": {"5": "mask_5.png"}}
    np.testing.assert_array_equal(read_label_png(seed / "mask_5.png"), label_map(5))
    given[2] = tmp_path / "b"
    said = vidseg(*given, "--mask", masks).stderr
    assert f"warning: {masks}: 1 mask of no frame of the clip will not be used: shot6.png" in said
    assert tree_bytes(tmp_path / "a" / "seed") == tree_bytes(tmp_path / "b" / "seed")
    line = error_line(vidseg(*given, "--mask", f"6={masks / 'shot6.png'}", check=2))
    assert "frame 6 is not in the clip, which has 5 frames from 3 to 11: 3, 5, 7, ..." in line
    vidseg(*given)  # what was there is replaced
    assert [path.name for path in (tmp_path / "b" / "seed").iterdir()] == ["seed.json"]


def test_times_of_frames_are_kept(tmp_path: Path) -> None:
    """A clip of an earlier version gets them and stays the same clip; a given rate wins; pictures have none."""
    times = [0.0, 0.04, 0.5, 1.5]
    video = write_video(tmp_path / "a.mp4", map(picture, range(4)), 25, times=times)
    given = ["ingest", video, tmp_path / "out", "--set=ingest.size=64"]
    vidseg(*given, "--set=ingest.frames=1:")
    clip = tmp_path / "out" / "clip.zarr"
    assert open_store(clip, CLIP).attrs["times"] == [0.04, 0.5, 1.5]
    vidseg(*given)
    made = tree_bytes(clip)
    group = zarr.open_group(clip, mode="r+")
    del group.attrs["times"]
    before = open_store(clip, CLIP).fingerprint
    said = vidseg(*given).stderr
    assert "clip.zarr is written again, with the times of frames as they are now; results stay valid" in said
    assert tree_bytes(clip) == made and open_store(clip, CLIP).fingerprint == before
    assert "written again" not in vidseg(*given).stderr
    vidseg(*given, "--set=ingest.fps=10")
    assert "times" not in open_store(clip, CLIP).attrs and open_store(clip, CLIP).fingerprint == before


def test_the_same_pixels_give_the_same_bytes(frames: Path, truth: Path, tmp_path: Path) -> None:
    run(frames, tmp_path / "1", IngestParams(size=64), ground_truth=truth)
    same = IngestParams(size="64x128", frames="0:17", seed="truth", fps=12.0)
    run(frames.rename(tmp_path / "elsewhere"), tmp_path / "2", same, ground_truth=truth)
    assert tree(tmp_path / "1" / "clip.zarr") == tree(tmp_path / "2" / "clip.zarr")


def test_frames_that_are_too_many_to_hold_are_read_again(
    frames: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = run(frames, tmp_path / "held", IngestParams())
    monkeypatch.setattr("pipeline.stores.clip_frames.MOST_HELD", 16 * 64 * 128 * 3)
    again = run(frames, tmp_path / "again", IngestParams())
    assert tree_bytes(held) == tree_bytes(again)


def test_a_second_run_changes_only_what_changed(frames: Path, truth: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(frames, out, IngestParams(size=64), ground_truth=truth)
    before = {name: (out / name / "zarr.json").stat().st_ino for name in ("clip.zarr", "truth.zarr")}
    write_label_png(truth / "shot5.png", label_map(6))
    run(frames, out, IngestParams(size=64), ground_truth=truth)
    after = {name: (out / name / "zarr.json").stat().st_ino for name in before}
    assert after["clip.zarr"] == before["clip.zarr"]
    assert after["truth.zarr"] != before["truth.zarr"]
    write_image(frames / "shot3.png", picture(33))
    run(frames, out, IngestParams(size=64), ground_truth=truth)
    stored = open_store(out / "clip.zarr", CLIP).read("frames")
    np.testing.assert_array_equal(stored[3], resize_frame(picture(33), (64, 128)))


def test_a_moved_source_at_another_rate_is_the_same_clip(frames: Path, tmp_path: Path) -> None:
    clip = run(frames, tmp_path / "out", IngestParams(size=64))
    before = (clip / "zarr.json").stat().st_ino
    moved = frames.rename(tmp_path / "moved")
    run(moved, tmp_path / "out", IngestParams(size=64), fps=7)
    assert read_source(tmp_path / "out" / "source") == ClipSource(moved, 7.0)
    assert (clip / "zarr.json").stat().st_ino == before


@pytest.mark.parametrize("name", ["clip.zarr", "truth.zarr", "seed", "source"])
def test_what_others_put_in_the_way_is_refused_before_any_work(
    frames: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    mine = tmp_path / "out" / name / "mask.png"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    code, shown = command([frames, tmp_path / "out"], capsys)
    assert code == 3
    assert f"{name}: was not written by vidseg; choose another place for the output" in shown
    assert tree(tmp_path / "out") == {f"{name}/mask.png": b"mine"}


def test_an_item_that_lost_its_second_video_is_replaced(frames: Path, tmp_path: Path) -> None:
    for video in "ab":
        run(frames, Place(tmp_path / "item", video), IngestParams(size=64))
    run(frames, Place(tmp_path / "item"), IngestParams(size=64))
    assert (tmp_path / "item" / "clip.zarr" / "zarr.json").is_file()
    assert [path.name for path in (tmp_path / "item" / "seed").iterdir()] == ["seed.json"]


def damaged_frame(frames: Path) -> None:
    data = (frames / "shot9.png").read_bytes()
    (frames / "shot9.png").write_bytes(data[: len(data) // 2])


def odd_frame(frames: Path) -> None:
    Image.new("RGB", (64, 64)).save(frames / "shot9.png")


@pytest.mark.parametrize(
    ("damage", "message"),
    [(damaged_frame, r"shot9\.png: damaged picture"), (odd_frame, r"shot9\.png: is 64x64")],
)
def test_damaged_sources_leave_nothing(frames: Path, tmp_path: Path, damage: object, message: str) -> None:
    damage(frames)  # type: ignore[operator]
    with pytest.raises(DataError, match=message):
        run(frames, tmp_path / "out", IngestParams(size=64))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("params", "message"),
    [
        (
            IngestParams(size=64, frames="1:", seed="truth"),
            r"needs a ground-truth PNG of the first frame \('shot1'\)",
        ),
        (IngestParams(size=64, frames="1:4"), "none of its 3 PNGs has the name of a frame"),
        (IngestParams(size=64, frames="30:"), "30: selects none of the 17 frames"),
    ],
)
def test_ranges_that_do_not_fit(frames: Path, truth: Path, tmp_path: Path, params: IngestParams, message: str) -> None:
    with pytest.raises(DataError, match=message):
        run(frames, tmp_path / "out", params, ground_truth=truth)
    assert not (tmp_path / "out").exists()


def test_a_mask_of_another_size(frames: Path, tmp_path: Path) -> None:
    mask = write_label_png(tmp_path / "mine.png", np.zeros((8, 9), np.uint8))
    with pytest.raises(DataError, match=r"mine\.png: the mask is 9x8 pixels, the frames are 130x70"):
        run(frames, tmp_path / "out", IngestParams(size=64), mask=mask)
    assert not (tmp_path / "out").exists()


def test_a_mask_that_says_nothing(frames: Path, tmp_path: Path) -> None:
    mask = write_label_png(tmp_path / "mine.png", np.full(SIZE, 255, np.uint8))
    with pytest.raises(DataError, match=r"mine\.png: the mask is void \(255\) everywhere; label at least one region"):
        run(frames, tmp_path / "out", IngestParams(size=64), mask={4: mask})


def test_an_output_that_is_a_file(frames: Path, tmp_path: Path) -> None:
    (tmp_path / "out").touch()
    with pytest.raises(UsageError, match="out: is a file"):
        run(frames, tmp_path / "out", IngestParams(size=64))


def test_frames_are_counted_as_they_are_read(frames: Path, tmp_path: Path) -> None:
    video = write_video(tmp_path / "a.mp4", map(picture, range(9)), 25)
    assert ingest.count_frames(frames, open_source(frames), IngestParams(frames="2:", stride=5)) == 3
    assert ingest.count_frames(video, open_source(video), IngestParams()) == 9


# The command


@pytest.mark.parametrize(
    ("source", "options", "code", "message"),
    [
        ("frames", [], 0, ""),
        ("missing.mp4", [], 3, "missing.mp4: no such file or folder"),
        ("junk.mp4", [], 3, "junk.mp4: not a video"),
        ("cut.mp4", [], 3, "frames can be read"),
        ("frames", ["--ground-truth", "nowhere"], 3, "nowhere: no such folder of ground truth"),
        ("frames", ["--set", "ingest.frames=0:0"], 2, "nothing is in"),
        ("frames", ["--set", "ingest.frames=12"], 2, "in quotes"),
        ("frames", ["--set", "ingest.size=100x100"], 2, "multiples of 64"),
        ("frames", ["--set", "ingest.stride=0"], 2, "ingest.stride must be at least 1"),
        ("frames", ["--set", "ingest.sise=64"], 2, "did you mean 'ingest.size'?"),
    ],
)
def test_exit_codes(
    frames: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    source: str,
    options: list[str],
    code: int,
    message: str,
) -> None:
    (tmp_path / "junk.mp4").write_bytes(b"junk" * 400)
    video = write_video(tmp_path / "cut.mp4", map(picture, range(17)), 25)
    video.write_bytes(video.read_bytes()[: video.stat().st_size // 2])
    found, shown = command([tmp_path / source, tmp_path / "out", *options], capsys)
    assert found == code
    assert message in shown
    assert shown.count("\n") == (0 if code == 0 else 1)
    assert (tmp_path / "out" / "clip.zarr").exists() == (code == 0)
    assert code == 0 or not (tmp_path / "out").exists()


def test_without_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    assert command([], capsys) == (2, "error: give VIDEO and OUT_DIR, or --item KEY\n")


# Cuts


def shots(*lengths: int) -> list[np.ndarray]:
    """Pictures of blocks that brighten slowly, others in each shot."""
    frames: list[np.ndarray] = []
    for seed, length in enumerate(lengths):
        blocks = np.random.default_rng(seed).integers(0, 200, (8, 8, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
        frames += [blocks + np.uint8(2 * frame) for frame in range(length)]
    return frames


@pytest.fixture
def film(tmp_path: Path) -> Path:
    """24 frames, cut at 9 and 17."""
    return write_video(tmp_path / "film.mp4", shots(9, 8, 7), 25)


def cuts_of(out: Path) -> tuple[int, ...]:
    frames = open_store(out / "clip.zarr", CLIP).frames("frames")
    return read_cuts(out / "cuts", frames).positions


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ({}, ()),
        ({"cuts": "detect"}, (9, 17)),
        ({"cuts": "detect", "cut_detector": "content"}, (9, 17)),
        ({"cuts": "detect", "cut_threshold": 255.0}, ()),
        ({"cuts": "detect", "frames": "5:20"}, (4, 12)),
        ({"cuts": (9, 17)}, (9, 17)),
        ({"cuts": (20, 3)}, (3, 20)),
        ({"cuts": (10, 17), "frames": "8:20"}, (2, 9)),
        ({"cuts": (10, 17), "stride": 4}, (3, 5)),  # 12 and 20
    ],
)
def test_where_a_clip_is_cut(film: Path, tmp_path: Path, params: dict[str, Any], expected: tuple[int, ...]) -> None:
    out = tmp_path / "out"
    run(film, out, IngestParams(size=64, **params))
    assert cuts_of(out) == expected
    indices = open_store(out / "clip.zarr", CLIP).attrs["source_indices"]
    assert json.loads((out / "cuts/cuts.json").read_text())["source_frames"] == [indices[cut] for cut in expected]


def test_cuts_change_no_other_output_and_what_is_found_is_said(
    film: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(film, tmp_path / "none", IngestParams(size=64))
    assert capsys.readouterr().err == ""
    run(film, tmp_path / "detect", IngestParams(size=64, cuts="detect"))
    assert f"{film}: cut at frame 9, 17; ingest.cuts=none or a list" in capsys.readouterr().err
    run(film, tmp_path / "listed", IngestParams(size=64, cuts=(9, 17)))
    assert capsys.readouterr().err == ""
    none, detect, listed = (tree(tmp_path / name) for name in ("none", "detect", "listed"))
    assert detect == listed
    assert {name for name in none if none[name] != detect[name]} == {"cuts/cuts.json"}


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        (["ingest.cuts=[0, 9]"], "ingest.cuts: 0 is no frame at which a second shot can begin; frames count from 0"),
        (["ingest.cuts=[-3]"], "ingest.cuts: -3 is no frame"),
        (["ingest.cuts=[9, 17, 9]"], "ingest.cuts: frame 9 is listed 2 times"),
        (["ingest.cuts=[24]"], "ingest.cuts: frame 24 cuts nothing; the clip has frames 0 to 23 of the source"),
        (["ingest.cuts=[5]", "ingest.frames=5:20"], "ingest.cuts: frame 5 cuts nothing; the clip has frames 5 to 19"),
        (["ingest.cuts=[1.5]"], "ingest.cuts must be one of none, detect or a list, not [1.5]"),
        (["ingest.cuts=9"], "ingest.cuts must be one of none, detect or a list, not 9"),
        (["ingest.cuts=all"], "ingest.cuts must be one of none, detect or a list, not 'all'"),
        (["ingest.cut_detector=hash"], "ingest.cut_detector must be one of adaptive, content, not 'hash'"),
    ],
)
def test_cuts_that_cannot_be_are_named(
    film: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], sets: list[str], message: str
) -> None:
    given = [part for text in sets for part in ("--set", text)]
    code, shown = command([film, tmp_path / "out", *given], capsys)
    assert (code, message in shown, shown.count("\n")) == (2, True, 1), shown
    assert not (tmp_path / "out").exists()


# Items


@pytest.fixture
def project(tmp_path: Path, frames: Path, truth: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project folder with the items one (one video), two (two videos) and wrong."""
    write_video(tmp_path / "clip.mp4", map(picture, range(3)), 25)
    (tmp_path / "inputs" / "none").mkdir(parents=True)
    (tmp_path / "inputs" / "none" / "README.md").touch()
    (tmp_path / "videos.yaml").write_text(
        """
items:
  one:
    - {path: frames, ground_truth: truth, classes: inputs/none, mask: inputs/none, fps: 5}
  two:
    - {path: frames, ground_truth: inputs/none}
    - {path: clip.mp4, name: moving, ground_truth: inputs/none, fps: 7}
  typo:
    - {path: frames, groundtruth: truth}
  twice:
    - {path: frames}
    - {path: other/frames}
  rate:
    - {path: frames, fps: fast}
  joined:
    - {path: clips, ground_truth: inputs/none, videos: [a, b], fps: 3, resize: 64x128}
  sized:
    - {path: frames, size: 64}
  joint:
    - {path: clips, videos: a}
  cut:
    - {path: frames, cuts: [7], ground_truth: inputs/none}
    - {path: clip.mp4, name: moving}
  miscut:
    - {path: frames, cuts: often}
  joined_cut:
    - {path: clips, videos: [a, b], cuts: [3]}
concepts: {}
applied: {}
"""
    )
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_video_of_an_item_has_cuts_of_its_own(project: Path) -> None:
    ingest.run_item("cut", None, ["ingest.size=64"])
    cuts = [
        json.loads((project / f"data/ingest/cut/cuts/{name}/cuts.json").read_text()) for name in ("frames", "moving")
    ]
    assert [(one["frames"], one["cuts"]) for one in cuts] == [(17, [7]), (3, [])]
    with pytest.raises(
        UsageError, match=r"one of none, detect or a list, not 'often' \(in videos.yaml, item 'miscut'\)"
    ):
        ingest.run_item("miscut", None, [])
    with pytest.raises(UsageError, match="item 'joined_cut': a list in `cuts` is of one video; give each an entry"):
        ingest.run_item("joined_cut", None, [])


def test_an_item_of_one_video(project: Path) -> None:
    ingest.run_item("ingest@one", None, ["ingest.size=64"])
    assert read_source(project / "data/ingest/one/source") == ClipSource(Path("frames"), 5.0)
    truth = open_store(project / "data/ingest/one/truth.zarr", TRUTH)
    assert truth.attrs["indices"] == [0, 5, 16]
    assert videos_of("one") == [None]


def test_an_item_of_several_videos(project: Path) -> None:
    stale = project / "data/ingest/two/clip.zarr/old/zarr.json"
    stale.parent.mkdir(parents=True)
    stale.touch()
    ingest.run_item("two", None, ["ingest.size=64"])
    assert videos_of("two") == ["frames", "moving"]
    store = open_store(project / "data/ingest/two/clip.zarr/moving", CLIP)
    assert store.frames("frames") == 3
    assert read_source(project / "data/ingest/two/source/moving") == ClipSource(Path("clip.mp4"), 7.0)
    for name in ("frames", "moving"):
        assert (project / "data/ingest/two/seed" / name / "seed.json").is_file()
        assert (project / "data/ingest/two/truth.zarr" / name).is_file()


def test_an_item_of_a_folder_of_videos(project: Path, frames: Path) -> None:
    for name in "ab":
        shutil.copytree(frames, project / "clips" / name / "frames")
    ingest.run_item("joined", None, ["ingest.size=192"])
    assert videos_of("joined") == ["a", "b"]
    store = open_store(project / "data/ingest/joined/clip.zarr/b", CLIP)
    assert store.array("frames").shape[1:3] == (64, 128)
    assert read_source(project / "data/ingest/joined/source/a") == ClipSource(Path("clips/a/frames"), 3.0)


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ("typo", "unknown entry 'groundtruth'"),
        ("twice", "needs a `name` of its own for each video"),
        ("sized", "item 'sized' has the entry 'size', which is called 'resize' now"),
        ("rate", "fps must be a number above 0, not 'fast'"),
        ("joint", "`videos` must be a list of names"),
        ("none", "no item 'none'"),
        ("a;touch x", "keys may hold letters"),
        ("a.b", "item 'a.b': keys may hold letters, digits, '_' and '-' only"),
    ],
)
def test_items_that_make_no_sense(project: Path, item: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        ingest.run_item(item, None, None)
    assert not (project / "data").exists()


# The sample


def test_the_sample_runs_through_ingest(tmp_path: Path) -> None:
    frames = sample.run(tmp_path / "s", frames=3)
    assert frames == tmp_path / "s" / "frames"
    assert sorted(path.name for path in frames.iterdir()) == ["00000.png", "00001.png", "00002.png"]
    run(frames, tmp_path / "out", IngestParams(), ground_truth=tmp_path / "s" / "truth")
    store = open_store(tmp_path / "out" / "truth.zarr", TRUTH)
    assert store.attrs["indices"] == [0, 1, 2]
    assert [entry["name"] for entry in store.attrs["classes"]][:3] == ["sky", "hill", "meadow"]


def test_the_sample_replaces_only_itself(tmp_path: Path) -> None:
    sample.run(tmp_path / "s", frames=2)
    first = tree(tmp_path / "s")
    sample.run(tmp_path / "s", frames=1)
    sample.run(tmp_path / "s", frames=2)
    assert tree(tmp_path / "s") == first
    (tmp_path / "s" / "mine.txt").touch()
    with pytest.raises(DataError, match="s: was not written by vidseg"):
        sample.run(tmp_path / "s", frames=1)
    assert (tmp_path / "s" / "frames" / "00001.png").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["s"]


# Real clips


@pytest.mark.parametrize(
    ("video", "labels", "classes", "size"),
    [
        ("clips/vspw_437_field.mp4", None, None, (448, 832)),
        ("camvid/0016E5_15hz/frames", "camvid/0016E5_15hz/labels", "camvid/classes.json", (320, 448)),
        ("davis/dog/frames", "davis/dog/labels", "davis/classes.json", (448, 832)),
    ],
)
def test_real_clips(
    shared_data: Path,
    tmp_path: Path,
    video: str,
    labels: str | None,
    classes: str | None,
    size: tuple[int, int],
) -> None:
    path = run(
        shared_data / video,
        tmp_path,
        IngestParams(frames="2:8", seed="truth" if labels else "none"),
        ground_truth=shared_data / labels if labels else None,
        classes=shared_data / classes if classes else None,
    )
    assert open_store(path, CLIP).read("frames").shape == (6, *size, 3)
    truth = open_store(tmp_path / "truth.zarr", TRUTH)
    assert truth.attrs["indices"] == (list(range(6)) if labels else [])


def test_labels_too_small_for_the_tokens_are_named(
    frames: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mask = np.ones(SIZE, np.uint8)
    mask[:5, :5], mask[50:54, 90:94] = 3, 9
    write_label_png(tmp_path / "mask.png", mask)
    run(frames, tmp_path / "out", IngestParams(size=64), mask=tmp_path / "mask.png")
    said = capsys.readouterr().err
    assert "mask.png: labels 3, 9 cover fewer than 4 tokens (of 16 pixels, at 64x128) and may be in no frame; " in said
    assert re.search(r"ingest.size=\d+ gives every label as many", said)

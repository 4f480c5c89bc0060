"""clip.zarr to tracks.zarr."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from pipeline.parameters import TrackParams
from pipeline.stores.cuts import Cuts, write_cuts
from pipeline.stores.schemas import CLIP, TRACKS
from pipeline.stores.store import Store, open_store
from pipeline.tracking.choose import make_tracker
from pipeline.tracking.tracks import track as track_frames
from pipeline.tracking.tracks import window_of
from stages import track
from stages.common import cli
from tests.support.commands import error_line, tree_bytes, vidseg
from tests.support.feature_store import make_features
from tests.support.noise_clip import FRAMES, SIZE, make_clip

PARAMS = TrackParams(window=3, shard=2)
GRID = SIZE[0] // 8, SIZE[1] // 8


def tracked(path: Path) -> Store:
    return open_store(path, TRACKS)


def test_the_store_holds_what_the_tracker_finds(tmp_path: Path, clip: Path) -> None:
    store = tracked(track.run(clip, None, tmp_path / "out", PARAMS))
    frames = open_store(clip, CLIP).read("frames")
    expected = track_frames(make_tracker("flow", max_squared_distance=2), frames, None, GRID, 3)
    for name in ("yx", "visible", "start"):
        np.testing.assert_array_equal(store.read(name), getattr(expected, name))
    assert store.array("yx").shape == (FRAMES, 3, GRID[0] * GRID[1], 2)
    assert [store.read("start")[i] for i in range(FRAMES)] == [window_of(i, FRAMES, 3).start for i in range(FRAMES)]
    assert (store.attrs["grid"], store.attrs["tracker"]) == (list(GRID), "flow")
    assert store.attrs["opencv"] == cv2.__version__


def test_nothing_is_visible_beyond_a_cut(tmp_path: Path, clip: Path) -> None:
    """And a clip that is one shot has the store that it had before there were cuts."""
    params = replace(PARAMS, method="static", window=5)
    plain = tree_bytes(track.run(clip, None, tmp_path / "plain", params))
    write_cuts(tmp_path / "none", Cuts(FRAMES), range(FRAMES), tmp_path / "tmp" / "cuts")
    write_cuts(tmp_path / "cuts", Cuts(FRAMES, (2, 4)), range(FRAMES), tmp_path / "tmp" / "cuts")
    assert tree_bytes(track.run(clip, None, tmp_path / "one", params, cuts=tmp_path / "none")) == plain
    store = tracked(track.run(clip, None, tmp_path / "cut", params, cuts=tmp_path / "cuts"))
    shots = np.array([0, 0, 1, 1, 2])
    expected = np.repeat((shots[:, None] == shots)[..., None], GRID[0] * GRID[1], axis=2)
    np.testing.assert_array_equal(store.read("visible"), expected)
    line = error_line(vidseg("track", "--item", "x", "--cuts", tmp_path / "cuts", check=2))
    assert "--cuts does not go with --item" in line


def test_a_clip_shorter_than_the_window_is_one_window(tmp_path: Path, clip: Path) -> None:
    store = tracked(track.run(clip, None, tmp_path, replace(PARAMS, window=29)))
    assert store.array("yx").shape[1] == FRAMES
    assert store.read("start").tolist() == [0] * FRAMES


def test_running_twice_does_nothing_and_a_parameter_starts_anew(tmp_path: Path, clip: Path) -> None:
    path = track.run(clip, None, tmp_path, PARAMS)
    before = path.stat().st_mtime_ns, tracked(path).fingerprint
    assert track.run(clip, None, tmp_path, PARAMS).stat().st_mtime_ns == before[0]
    track.run(clip, None, tmp_path, replace(PARAMS, method="static"))
    assert tracked(path).fingerprint != before[1]


def test_an_interrupted_run_is_continued(tmp_path: Path, clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the first missing file, and with the same bytes."""
    whole = track.run(clip, None, tmp_path / "whole", PARAMS)
    seen: list[int] = []

    def stop(count: int) -> None:
        seen.append(count)
        if len(seen) == 3:
            raise KeyboardInterrupt

    class Progress:
        def __enter__(self) -> cli.Advance:
            return stop

        def __exit__(self, *_: object) -> None: ...

    with pytest.raises(KeyboardInterrupt):
        track.run(clip, None, tmp_path / "out", PARAMS, lambda label, total: Progress())
    assert not (tmp_path / "out" / "tracks.zarr").exists()
    path = track.run(clip, None, tmp_path / "out", PARAMS, lambda label, total: Progress())
    assert len(seen) == 3 + FRAMES - PARAMS.shard
    assert tree_bytes(path) == tree_bytes(whole)
    assert not (tmp_path / "out" / "tmp").exists()


def test_features_are_matched_where_the_method_says_so(tmp_path: Path, clip: Path) -> None:
    features = make_features(tmp_path, FRAMES)
    params = replace(PARAMS, method="features")
    first = tracked(track.run(clip, features, tmp_path / "one", params))
    other = tracked(track.run(clip, make_features(tmp_path / "2", FRAMES, seed=1), tmp_path / "two", params))
    assert first.fingerprint != other.fingerprint
    assert (first.read("yx") != other.read("yx")).any()
    flow = [tracked(track.run(clip, each, tmp_path / "flow", PARAMS)).fingerprint for each in (None, features)]
    assert flow[0] == flow[1]  # which sees none


def test_tracks_of_a_file_follow_its_content(tmp_path: Path, clip: Path) -> None:
    marks = []
    for name, shift in (("a", 0), ("b", 0), ("b", 1)):
        points = np.stack(np.divmod(np.arange(GRID[0] * GRID[1]), GRID[1])[::-1], axis=-1)
        xy = np.broadcast_to(points + shift, (FRAMES, 3, *points.shape))
        (tmp_path / name).mkdir(exist_ok=True)
        file = tmp_path / name / "tracks.npz"
        np.savez(file, tracks=np.ascontiguousarray(xy), visible=np.ones(xy.shape[:3], bool))
        params = replace(PARAMS, method="file", file=str(file))
        marks.append(tracked(track.run(clip, None, tmp_path / "out", params)).fingerprint)
    assert marks[0] == marks[1] != marks[2]  # where it lies is no part of it


MATCHED = ("--set", "track.method=features", "--set", "track.encoder_weight=0")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["none.zarr", "out"], 3, "none.zarr: no such store; run `vidseg ingest`"),
        (["CLIP", "out", "--set", "track.window=4"], 2, "track.window must be odd, not 4"),
        (["CLIP", "out", "--set", "track.method=features"], 2, "track.method is features: give FEATURES"),
        (["CLIP", "FEW", "out", *MATCHED], 3, "features of 3 frames do not belong to a clip"),
        (["CLIP", "FEW", "out", "--set", "track.method=features"], 2, "but track.encoder_weight is 1.0; set"),
        (["CLIP", "OTHER", "out", *MATCHED], 3, "other/features.zarr does not belong to"),
        (["CLIP", "out", "--set", "track.method=file"], 2, "track.file names none"),
        (["CLIP", "out", "--set", "track.method=file", "--set", "track.file=none.npz"], 3, "none.npz: cannot be read"),
        (["CLIP", "out", "--set", "track.method=cotracker"], 4, "track.method is cotracker, but"),
        (["CLIP"], 2, "give CLIP and OUT_DIR (FEATURES between them if they are matched), or --item NAME"),
    ],
)
def test_bad_input(tmp_path: Path, clip: Path, arguments: list[str], code: int, message: str) -> None:
    given = {
        "CLIP": clip,
        "FEW": make_features(tmp_path / "few", 3),
        "OTHER": make_features(tmp_path / "other", FRAMES, clip="another"),
    }
    result = vidseg("track", *(given.get(argument, argument) for argument in arguments), cwd=tmp_path, check=code)
    assert message in error_line(result)
    assert not (tmp_path / "out").exists()


VIDEOS = """\
items:
  one: [{path: x}]
  two: [{path: x}]
concepts:
  car: {references: x}
applied:
  one-car: {item: one, concept: car}
  two-car: {item: two, concept: car}
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The item one (one video) and the item two (two videos), ingested, and a concept that is applied to both."""
    make_clip(tmp_path / "data/ingest/one/clip.zarr")
    for number, video in enumerate(("a", "b")):
        make_clip(tmp_path / "data/ingest/two/clip.zarr" / video, number)
    (tmp_path / "videos.yaml").write_text(VIDEOS)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_results_lie_under_the_name_of_what_is_applied(project: Path) -> None:
    for name in ("one-car", "two-car"):
        vidseg("track", "--item", f"track@{name}", "--set", "track.window=3", cwd=project)
    for place in ("one-car/tracks.zarr", "two-car/tracks.zarr/a", "two-car/tracks.zarr/b"):
        assert tracked(project / "data/track" / place).array("yx").shape[1] == 3


def test_tracks_of_another_name_of_the_item_are_taken(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (project / "videos.yaml").write_text(VIDEOS + "  two-again: {item: two, concept: car}\n")
    sets = ["track.window=3"]
    track.run_item("two-car", None, sets)
    asked: list[str] = []

    def counted(label: str, total: int) -> None:
        asked.append(label)
        raise AssertionError

    monkeypatch.setattr(track.cli, "progress", counted)
    track.run_item("two-again", None, sets)
    for video in ("a", "b"):
        first, second = (project / f"data/track/{name}/tracks.zarr/{video}" for name in ("two-car", "two-again"))
        assert first.read_bytes() == second.read_bytes()
    assert not (project / "data/track/two-again/tmp").exists() and not asked


def test_every_video_has_its_file_of_tracks(project: Path) -> None:
    xy = np.zeros((FRAMES, 3, GRID[0] * GRID[1], 2))
    np.savez(project / "a.npz", tracks=xy, visible=np.ones(xy.shape[:3], bool))
    sets = ["track.method=file", "track.file=.", "track.window=3"]
    line = error_line(vidseg("track", "--item", "two-car", *(f"--set={one}" for one in sets), cwd=project, check=3))
    assert "b.npz: cannot be read" in line
    assert tracked(project / "data/track/two-car/tracks.zarr/a").attrs["tracker"] == "file"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("one", VIDEOS, "nothing is applied under the name 'one'; there are: one-car, two-car"),
        ("a b", VIDEOS, "item 'a b': keys may hold letters"),
        (
            "one-car",
            "items: {one: [{path: x}]}\n",
            "is of an earlier version, without `concepts`; `vidseg videos list`",
        ),
        ("one", VIDEOS + "  one: {item: one, concept: car}\n", "applied 'one': an item has that key"),
        ("x", VIDEOS + "  x: {item: none, concept: car}\n", "applied 'x': no item 'none'; there are: one, two"),
        ("x", VIDEOS + "  x: {item: one, concept: none}\n", "applied 'x': no concept 'none'; there are: car"),
        ("x", VIDEOS + "  x: {item: one}\n", "applied 'x': `concept` must be text, not None"),
        ("x", VIDEOS + "  x: {item: one, concept: car, cn: 1}\n", "unknown entry 'cn'; there are: item, concept"),
        ("x", VIDEOS + "  x: [one]\n", "applied 'x': expected `item` and `concept`, not ['one']"),
        ("x", VIDEOS.replace("applied:", "others:"), "is of an earlier version, without `applied`"),
    ],
)
def test_what_is_applied_must_exist(project: Path, name: str, content: str, message: str) -> None:
    (project / "videos.yaml").write_text(content)
    assert message in error_line(vidseg("track", "--item", name, cwd=project, check=2))
    assert not (project / "data/track").exists()

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterable
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import repeat
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest
import zarr
from PIL import Image
from scipy.ndimage import minimum_filter

from pipeline.errors import DataError
from pipeline.media.pictures import davis_palette
from pipeline.media.video import open_source
from pipeline.naming.names import Named, Names, NamesFile, write_names
from pipeline.parameters import IngestParams, RenderParams
from pipeline.rendering.drawing import MARK
from pipeline.rendering.palette import overlay_colours
from pipeline.stores.clip_source import ClipSource, write_source
from pipeline.stores.cuts import Cuts, write_cuts
from stages import ingest, render
from stages.common.layout import DATA, Place
from tests.support.commands import error_line, tree_bytes, vidseg
from tests.support.scenes import FRAMES, SIZE, Scene, label_maps, pictures

PARAMS = RenderParams()
BASIC = {
    "overlay.mp4",
    "contact_sheet.png",
    "labels.json",
    "report.html",
    *(f"labels/{i:05d}.png" for i in range(FRAMES)),
}
SLICES = {"slices/labels.png"}
FEATURES = {"slices/features.png", "features/pca.mp4", "features/pca.png"}


@dataclass(frozen=True)
class Decoded:
    frames: np.ndarray
    codec: str
    pixels: str
    fps: Fraction


def decoded(path: Path) -> Decoded:
    with av.open(str(path)) as file:
        stream = file.streams.video[0]
        frames = np.stack([frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)])
        return Decoded(frames, stream.codec_context.name, stream.pix_fmt, stream.average_rate)


def everything(scene: Scene) -> dict[str, Path]:
    return {
        "clip": scene.clip(scene.video_source()),
        "labels": scene.labels_store(),
        "features": scene.features(),
        "coarse": scene.coarse(),
    }


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    return Scene(tmp_path_factory.mktemp("scene"))


@pytest.fixture(scope="module")
def stores(scene: Scene) -> dict[str, Path]:
    return everything(scene)


@pytest.fixture(scope="module")
def drawn(scene: Scene, stores: dict[str, Path]) -> Path:
    return render.run(out=scene.folder / "out", params=PARAMS, **stores)


def test_all_outputs_and_nothing_else(drawn: Path) -> None:
    assert set(tree_bytes(drawn)) == BASIC | SLICES | FEATURES
    assert not (drawn / "tmp").exists()


def test_overlay_is_playable_and_shows_the_labels(scene: Scene, drawn: Path) -> None:
    video = decoded(drawn / "overlay.mp4")
    assert video.frames.shape == (FRAMES, *SIZE, 3)
    assert (video.codec, video.pixels, video.fps) == ("h264", "yuv420p", 10)
    colours = overlay_colours()
    for image, labels, frame in zip(scene.images, scene.labels, video.frames, strict=True):
        for label in (0, 3):
            inside = minimum_filter(labels == label, 5)  # away from outlines, which H.264 smears
            inside[26:] = False  # the legend
            grey = image[inside][0].astype(float) @ [0.299, 0.587, 0.114]
            paler = 0.55 * grey + 0.45 * image[inside][0]
            expected = 0.55 * colours[label] + 0.45 * paler
            assert np.abs(np.median(frame[inside], axis=0) - expected).max() <= 8


def test_label_pngs_hold_ids_under_the_frames_names(scene: Scene, drawn: Path) -> None:
    for number, labels in enumerate(scene.labels):
        with Image.open(drawn / "labels" / f"{number:05d}.png") as image:
            assert (image.mode, image.size) == ("P", SIZE[::-1])
            np.testing.assert_array_equal(np.array(image), labels)
            palette = np.array(image.getpalette()).reshape(-1, 3)
            np.testing.assert_array_equal(palette[[0, 3, 7]], davis_palette()[[0, 3, 7]])


def test_labels_json(scene: Scene, drawn: Path) -> None:
    content = json.loads((drawn / "labels.json").read_text())
    assert (content["width"], content["height"], content["frames"]) == (*SIZE[::-1], FRAMES)
    listed = {entry["id"]: entry for entry in content["labels"]}
    assert list(listed) == [0, 3, 7]
    for label, entry in listed.items():
        assert entry["share"] == pytest.approx((scene.labels == label).mean(), abs=1e-6)
        assert entry["colour"] == overlay_colours()[label].tolist()
        assert entry["png_colour"] == davis_palette()[label].tolist()
        assert entry["name"] is None
    assert (listed[7]["frames"], listed[7]["first_frame"], listed[7]["last_frame"]) == (2, "00001", "00002")
    assert "0 is black" in content["about"]
    assert content["times"] == [0, 0.1, 0.2, 0.3, 0.4]  # of a clip without times of its own


def test_an_overlay_shows_frames_at_their_own_times(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    clip, labels = scene.clip(scene.video_source()), scene.labels_store()
    times = [2.0, 2.1, 2.9, 3.0, 7.0]
    zarr.open_group(clip, mode="r+").attrs["times"] = times
    render.run(clip, labels, tmp_path / "out", replace(PARAMS, extras=False, report=False))
    assert [frame.time for frame in open_source(tmp_path / "out" / "overlay.mp4").frames()] == [0, 0.1, 0.9, 1, 5]
    assert json.loads((tmp_path / "out" / "labels.json").read_text())["times"] == times


def test_sheets_show_frames_labels_and_features(drawn: Path) -> None:
    sheet = np.asarray(Image.open(drawn / "contact_sheet.png"))
    for label in (0, 3, 7):
        assert (sheet == overlay_colours()[label]).all(axis=2).any()  # in the legend
    slices = np.asarray(Image.open(drawn / "slices/labels.png"))
    for label in (0, 3):
        assert (slices == overlay_colours()[label]).all(axis=2).any()
    # Frames, coarse labels as predicted, refined, labels: four columns; features: frames, block 7, average.
    assert slices.shape[1] == 4 * 320 + 5 * 8
    assert np.asarray(Image.open(drawn / "slices/features.png")).shape[1] == 3 * 400 + 4 * 8
    pages = decoded(drawn / "features/pca.mp4")
    assert (len(pages.frames), pages.fps) == (FRAMES, 10)


@pytest.mark.parametrize("arrays", [("aggregated", "matching", "encoder"), ("encoder",)], ids=" ".join)
def test_an_encoder_s_features_are_one_more_picture(tmp_path: Path, arrays: tuple[str, ...]) -> None:
    other = Scene(tmp_path)
    stores = {"clip": other.clip(other.video_source()), "labels": other.labels_store()}
    out = render.run(out=tmp_path / "out", params=PARAMS, features=other.features(*arrays), **stores)
    assert set(tree_bytes(out)) == BASIC | SLICES | FEATURES
    columns = 1 + len(arrays)
    assert np.asarray(Image.open(out / "slices/features.png")).shape[1] == columns * 400 + (columns + 1) * 8


def test_the_slice_row_is_a_parameter(scene: Scene, stores: dict[str, Path]) -> None:
    """At the very top there is ground only: the slice of labels below its picture has one colour."""
    out = render.run(stores["clip"], stores["labels"], scene.folder / "row", replace(PARAMS, slice_row=0.0))
    slices = np.asarray(Image.open(out / "slices/labels.png"))
    below = slices[-100:-8, 320 + 2 * 8 : 2 * 320 + 2 * 8]
    assert (below == overlay_colours()[0]).all()


def test_same_input_same_bytes(scene: Scene, stores: dict[str, Path], drawn: Path) -> None:
    again = render.run(out=scene.folder / "again", params=PARAMS, compare=stores["labels"], **stores)
    files = tree_bytes(again)
    del files["compare.mp4"]
    assert files == tree_bytes(drawn)


def test_confidence_has_a_sheet_of_its_own(tmp_path: Path) -> None:
    """Bright where labels are unsure: the square is."""
    scene, confidence = Scene(tmp_path), np.where(label_maps() == 3, 0, 255).astype(np.uint8)
    clip, labels = scene.clip(scene.video_source()), scene.labels_store(confidence=confidence)
    out = render.run(clip, labels, tmp_path / "out", replace(PARAMS, report=False))
    sheet = np.asarray(Image.open(out / "confidence.png")).astype(int)
    plain = np.asarray(Image.open(out / "contact_sheet.png"))
    assert sheet.shape[1] == plain.shape[1]
    bright = (sheet[..., 0] > 230) & (sheet[..., 2] < 180) & (sheet[..., 1] > 200)
    dark = sheet.sum(axis=-1) < 30
    assert 0.03 < bright.sum() / (bright.sum() + dark.sum()) < 0.12
    render.run(clip, labels, out, replace(PARAMS, report=False, extras=False))
    assert not (out / "confidence.png").exists()


def test_without_extras_and_with_less_to_draw(scene: Scene, stores: dict[str, Path], tmp_path: Path) -> None:
    out = render.run(out=tmp_path / "out", params=PARAMS, **stores)
    render.run(out=out, params=replace(PARAMS, extras=False), **stores)
    assert set(tree_bytes(out)) == BASIC
    assert {path.name for path in out.iterdir() if path.is_dir()} == {"labels"}


def test_label_pngs_are_left_out_and_old_ones_go(stores: dict[str, Path], tmp_path: Path) -> None:
    out = render.run(stores["clip"], stores["labels"], tmp_path / "out", replace(PARAMS, extras=False))
    with_pngs = tree_bytes(out)
    render.run(stores["clip"], stores["labels"], out, replace(PARAMS, extras=False, labels=False))
    assert tree_bytes(out) == {name: made for name, made in with_pngs.items() if not name.startswith("labels/")}
    assert not (out / "labels").exists()


def test_files_of_others_are_kept(stores: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "features").mkdir()
    (tmp_path / "features" / "notes.txt").write_text("mine")
    render.run(stores["clip"], stores["labels"], tmp_path, replace(PARAMS, extras=False))
    assert set(tree_bytes(tmp_path)) == BASIC | {"features/notes.txt"}


def test_a_folder_of_ground_truth_is_not_replaced(stores: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "00000.png").write_text("truth")
    with pytest.raises(DataError, match="labels: was not written by `vidseg render`; choose another OUT_DIR"):
        render.run(stores["clip"], stores["labels"], tmp_path, PARAMS)
    assert tree_bytes(tmp_path) == {"labels/00000.png": b"truth"}


def test_comparison_uses_one_colour_for_one_thing(scene: Scene, stores: dict[str, Path], tmp_path: Path) -> None:
    renamed = np.select([scene.labels == 3, scene.labels == 7], [0, 1], 2).astype(np.uint8)
    other = Scene(tmp_path).labels_store("other.zarr", renamed, strength=10)
    out = render.run(stores["clip"], stores["labels"], tmp_path / "out", replace(PARAMS, extras=False), compare=other)
    video = decoded(out / "compare.mp4")
    assert (len(video.frames), video.frames.shape[2], video.fps) == (FRAMES, 2 * SIZE[1] + 3 * 8, 10)
    left, right = video.frames[:, -54:-10, 10:86], video.frames[:, -54:-10, 98:174]
    assert np.abs(left.astype(int) - right).mean() < 3


def test_odd_sizes_are_padded_in_the_video_only(tmp_path: Path) -> None:
    size = (47, 81)
    scene = Scene(tmp_path, pictures(2, size), label_maps(2, size))
    out = render.run(scene.clip(scene.frames_source()), scene.labels_store(), tmp_path / "out", PARAMS)
    assert decoded(out / "overlay.mp4").frames.shape == (2, 48, 82, 3)
    assert Image.open(out / "labels" / "00000.png").size == (81, 47)


@pytest.mark.parametrize("frames", [1, 2])
def test_very_short_clips(tmp_path: Path, frames: int) -> None:
    scene = Scene(tmp_path, pictures(frames), label_maps(max(frames, 1)))
    out = render.run(out=tmp_path / "out", params=PARAMS, **everything(scene))
    assert len(decoded(out / "overlay.mp4").frames) == frames
    assert len(list((out / "labels").iterdir())) == frames


def test_many_labels_make_16_bit_files(tmp_path: Path) -> None:
    labels = label_maps().astype(np.uint16)
    labels[labels == 3] = 700
    scene = Scene(tmp_path, labels=labels)
    stores = everything(scene)
    out = render.run(stores["clip"], stores["labels"], tmp_path / "out", PARAMS, compare=stores["labels"])
    assert int(np.asarray(Image.open(out / "labels" / "00000.png")).max()) == 700
    entry = json.loads((out / "labels.json").read_text())["labels"][-1]
    assert (entry["id"], entry["png_colour"]) == (700, None)


def test_cuts_are_listed_and_drawn(scene: Scene, stores: dict[str, Path], drawn: Path, tmp_path: Path) -> None:
    write_cuts(tmp_path / "cuts", Cuts(FRAMES, (2, 4)), range(FRAMES), tmp_path / "tmp" / "cuts")
    out = render.run(out=tmp_path / "out", params=replace(PARAMS, report=True), cuts=tmp_path / "cuts", **stores)
    assert json.loads((out / "labels.json").read_text())["cuts"] == ["00002", "00004"]
    for name in ("slices/labels.png", "slices/features.png"):
        before, after = (np.asarray(Image.open(folder / name)) for folder in (drawn, out))
        lines = (after == MARK).all(axis=2)[:, 20].sum() - (before == MARK).all(axis=2)[:, 20].sum()
        assert lines == 2 * 2, name
    page = (out / "report.html").read_text()
    assert page.count('<i class="cut"') == 2 and "3, cut at 00002, 00004" in page and "Red lines are cuts" in page
    assert "cut at" not in (drawn / "labels.json").read_text()
    write_cuts(tmp_path / "other", Cuts(9, (2,)), range(9), tmp_path / "tmp" / "cuts")
    with pytest.raises(DataError, match="is of a clip of 9 frames, not of 5"):
        render.run(out=tmp_path / "out", params=PARAMS, cuts=tmp_path / "other", **stores)


def test_a_moved_source_is_replaced_by_the_clips_frames(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scene = Scene(tmp_path)
    stores = everything(scene)
    (tmp_path / "shots.mp4").unlink()
    out = render.run(stores["clip"], stores["labels"], tmp_path / "out", PARAMS)
    assert decoded(out / "overlay.mp4").frames.shape == (FRAMES, *SIZE, 3)
    assert "the clip's frames of 40x24 are enlarged instead" in capsys.readouterr().err


def test_a_clip_without_a_source_is_enlarged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stores = everything(Scene(tmp_path))
    shutil.rmtree(tmp_path / "source")
    out = render.run(stores["clip"], stores["labels"], tmp_path / "out", replace(PARAMS, extras=False))
    assert decoded(out / "overlay.mp4").frames.shape == (FRAMES, *SIZE, 3)
    shown = capsys.readouterr().err
    assert "its source is not known; the clip's frames of 40x24 are enlarged instead, shown at 25 frames" in shown
    with pytest.raises(DataError, match=r"source.json: not readable .* run `vidseg ingest` again"):
        render.run(stores["clip"], stores["labels"], tmp_path / "out", PARAMS, source=tmp_path / "source")


def test_stores_of_different_clips_are_refused(stores: dict[str, Path], tmp_path: Path) -> None:
    short, small = Scene(tmp_path, labels=label_maps(3)), Scene(tmp_path, labels=label_maps(5, (24, 40)))
    cases = {
        short.labels_store("short.zarr"): r"short.zarr has 3 frames but .*clip.zarr 5: they are of different",
        small.labels_store("small.zarr"): r"small.zarr is 40x24 but the source of .*clip.zarr 80x48; run `vidseg ups",
    }
    for labels, message in cases.items():
        with pytest.raises(DataError, match=message):
            render.run(stores["clip"], labels, tmp_path / "out", PARAMS)
        with pytest.raises(DataError, match=message):
            render.run(stores["clip"], stores["labels"], tmp_path / "out", PARAMS, compare=labels)
    with pytest.raises(DataError, match="coarse.zarr has 3 frames"):
        render.run(stores["clip"], stores["labels"], tmp_path / "out", PARAMS, coarse=short.coarse())
    assert not (tmp_path / "out").exists()


def test_a_failure_leaves_nothing_and_keeps_the_old(
    stores: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = render.run(stores["clip"], stores["labels"], tmp_path / "out", PARAMS)
    before = tree_bytes(out)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pipeline.media.pictures.write_image", full)
    with pytest.raises(OSError, match="No space"):
        render.run(stores["clip"], stores["labels"], out, replace(PARAMS, opacity=0.9))
    assert tree_bytes(out) == before
    with pytest.raises(OSError, match="No space"):
        render.run(stores["clip"], stores["labels"], tmp_path / "new", PARAMS)
    assert not (tmp_path / "new").exists()


def test_items_of_one_and_of_several_videos(
    stores: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    places = {"clip": "ingest", "labels": "upsample", "features": "extract", "coarse": "segment"}
    for key, video in (("one", None), ("two", "a"), ("two", "b")):
        for name, stage in places.items():
            shutil.copytree(stores[name], Place(DATA / stage / key, video) / f"{name}.zarr")
        shutil.copytree(stores["clip"].with_name("source"), Place(DATA / "ingest" / key, video) / "source")
    for key in ("one", "two"):
        render.run_item(f"render@{key}", None, ["render.extras=false"])
    assert set(tree_bytes(DATA / "render/one")) == BASIC
    assert set(tree_bytes(DATA / "render/two")) == {f"{v}/{name}" for v in "ab" for name in BASIC}
    # Names of an item's segments are applied as labels are read.
    names = NamesFile("scene", Names({3: Named("car")}, merged={7: 0}))
    write_names(Path("mine.json"), names)
    content = {"items": {"one": [{"path": "x", "names": "mine.json"}]}, "concepts": {}, "applied": {}}
    Path("videos.yaml").write_text(json.dumps(content))
    render.run_item("render@one", None, ["render.extras=false"])
    listed = json.loads((DATA / "render/one/labels.json").read_text())["labels"]
    assert [(label["id"], label["name"]) for label in listed] == [(0, None), (3, "car")]


def test_a_real_clip_at_its_own_size_and_rate(shared_data: Path, tmp_path: Path) -> None:
    """The source is read again: under transparent labels the overlay is the source itself."""
    clip = ingest.run(
        shared_data / "clips" / "highway_drive.mp4", tmp_path, IngestParams(size="128", frames="10:16", stride=2)
    )
    scene = Scene(tmp_path, labels=np.zeros((3, 480, 854), np.uint8))
    out = render.run(clip, scene.labels_store(), tmp_path / "out", replace(PARAMS, opacity=0.0))
    video, source = decoded(out / "overlay.mp4"), decoded(shared_data / "clips" / "highway_drive.mp4")
    assert video.fps == source.fps / 2  # every second frame, shown at the same pace
    assert {path.name for path in (out / "labels").iterdir()} == {"00010.png", "00012.png", "00014.png"}
    # The loss of one more coding; frames enlarged from 128 pixels would reach 35 dB.
    error = np.square(video.frames[:, :400].astype(float) - source.frames[10:16:2, :400]).mean()
    assert 10 * np.log10(255**2 / error) > 38


def test_command_line(stores: dict[str, Path], tmp_path: Path) -> None:
    arguments = ("render", stores["clip"], stores["labels"], tmp_path / "out")
    elsewhere = tmp_path / "elsewhere"
    write_source(elsewhere, ClipSource(stores["clip"].with_name("shots.mp4"), 5.0), tmp_path / "writing")
    vidseg(*arguments, "--source", elsewhere, "--set", "render.extras=false")
    assert decoded(tmp_path / "out" / "overlay.mp4").fps == 5
    vidseg(*arguments, "--features", stores["features"], "--set", "render.slice_row=0.25")
    assert set(tree_bytes(tmp_path / "out")) == BASIC | SLICES | FEATURES
    failed = vidseg(*arguments, "--set", "render.opacity=2", check=2)
    assert error_line(failed).startswith("error: render.opacity must be between 0.0 and 1.0, not 2.0")
    assert "give CLIP, LABELS and OUT_DIR, or --item KEY" in error_line(vidseg("render", check=2))
    for option in ("--names", "--compare"):
        line = error_line(vidseg("render", "--item", "one", option, "x", check=2))
        assert f"{option} does not go with --item, whose paths stand in videos.yaml" in line
    failed = vidseg("render", stores["clip"], tmp_path / "none.zarr", tmp_path / "other", check=3)
    assert "none.zarr: no such store; run `vidseg upsample` to make it" in error_line(failed)


def test_no_thread_draws_on_where_encoding_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error's traceback holds all that is suspended, while the scratch folder is removed."""

    def full(path: Path, frames: Iterable[np.ndarray], *_: object) -> None:
        next(iter(frames))
        raise OSError("disk full")

    monkeypatch.setattr("pipeline.media.video.write_video", full)
    drawing = render._Drawing(SimpleNamespace(fps=1, aspect=1, times=[]), *[None] * 4, tmp_path, lambda _: None)  # type: ignore[arg-type]
    with pytest.raises(OSError, match="disk full") as raised:
        drawing._write_video("overlay.mp4", repeat(np.zeros((2, 2, 3), np.uint8)))
    assert raised.tb is not None and not [one for one in threading.enumerate() if one.name.startswith("ahead")]

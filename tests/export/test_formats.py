"""Every format is read back by what reads it in practice, or by its documented elements, and the pixels are equal."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_masks
from pycocotools.coco import COCO

from pipeline.errors import DataError, UsageError
from pipeline.export import formats
from pipeline.export.labelled_clip import LabelledClip, labelled_clip
from pipeline.media.alpha_video import write_alpha_video
from pipeline.naming.names import Named, Names, NamesFile
from pipeline.naming.stores import NamedLabels
from pipeline.rendering.clip_frames import open_pictures
from pipeline.stores.clip_source import read_source
from pipeline.stores.schemas import CLIP, LABELS
from pipeline.stores.store import open_store
from tests.support.commands import tree_bytes
from tests.support.scenes import FPS, FRAMES, SIZE, Scene, label_maps, pictures

NAMES = Names({0: Named("ground"), 3: Named('<a & "b"> ü/道', (1, 2, 3))})


def clip(
    folder: Path,
    names: Names = NAMES,
    chosen: tuple[str, ...] = (),
    below: float = 0.0,
    confidence: np.ndarray | None = None,
    **scene: Any,
) -> LabelledClip:
    """The scene as it is exported, with names."""
    made = Scene(folder, **scene)
    store = open_store(made.clip(made.frames_source(), list(range(len(made.images)))), CLIP)
    stored = open_store(made.labels_store(confidence=confidence), LABELS)
    labels = NamedLabels(stored, NamesFile("scene", names), "names")
    shown = open_pictures(store, read_source(folder / "source"))
    return labelled_clip("shots", labels, shown, chosen, lambda _: None, below)


def export(source: LabelledClip, out: Path, format: str, images: bool = False, **options: Any) -> Path:
    return formats.write(formats.choose(format, **options), source, out, lambda _: None, images)


def stacked(folder: Path) -> np.ndarray:
    return np.stack([np.asarray(Image.open(folder / f"{number:05d}.png")) for number in range(FRAMES)])


def read_masks(out: Path) -> np.ndarray:
    """Labels, 255 where no mask is set."""
    labels = np.full((FRAMES, *SIZE), 255)
    for place in (out / "masks").iterdir():
        masks = stacked(place)
        assert set(np.unique(masks)) <= {0, 255} and (labels[masks == 255] == 255).all()
        labels[masks == 255] = int(place.name.partition("-")[0])
    return labels


def read_davis(out: Path) -> np.ndarray:
    values = stacked(out / "Annotations/shots")
    entries = json.loads((out / "export.json").read_text())["exports"]["davis"]["segments"]
    labels = np.full(values.shape, 255)
    for entry in entries:
        labels[values == entry["value"]] = entry["label"]
    assert set(np.unique(values)) <= {0, *(entry["value"] for entry in entries)}
    return labels


def read_npz(out: Path) -> np.ndarray:
    with np.load(out / "labels.npz") as file:
        labels, void = file["labels"].astype(int), int(file["void"])
        assert file["names"].tolist()[-2:] == ['<a & "b"> ü/道', "label 7"] and file["fps"] == FPS
        assert file["ids"].tolist() == [label for label in np.unique(labels) if label != void]
    return np.where(labels == void, 255, labels)


def read_panoptic(out: Path) -> np.ndarray:
    content = json.loads((out / "panoptic.json").read_text())
    names = {category["id"]: category["name"] for category in content["categories"]}
    assert [image["file_name"] for image in content["images"]] == [f"{f:05d}.jpg" for f in range(FRAMES)]
    ids = stacked(out / "panoptic").astype(int) @ [1, 256, 65536]
    for plane, annotation in zip(ids, content["annotations"], strict=True):
        assert {info["id"] for info in annotation["segments_info"]} == set(np.unique(plane)) - {0}
        for info in annotation["segments_info"]:
            x, y, width, height = info["bbox"]
            assert info["area"] == (plane == info["id"]).sum() == (plane == info["id"])[y:, x:][:height, :width].sum()
            assert info["id"] != 4 or names[info["category_id"]] == '<a & "b"> ü/道'
    return np.where(ids == 0, 255, ids - 1)


def read_instances(out: Path) -> np.ndarray:
    coco = COCO(out / "instances.json")
    labels = np.full((FRAMES, *SIZE), 255)
    for number, image in enumerate(sorted(coco.getImgIds())):
        for annotation in coco.loadAnns(coco.getAnnIds(imgIds=image)):
            mask = coco.annToMask(annotation).astype(bool)
            assert annotation["area"] == mask.sum() > 0 and (labels[number][mask] == 255).all()
            assert coco.cats[annotation["category_id"]]["name"] in ("ground", '<a & "b"> ü/道', "label 7")
            labels[number][mask] = annotation["track_id"] - 1
    return labels


def read_youtube_vis(out: Path) -> np.ndarray:
    content = json.loads((out / "youtube_vis.json").read_text())
    (video,) = content["videos"]
    assert video["length"] == FRAMES == len(video["file_names"]) and video["file_names"][0] == "shots/00000.jpg"
    ids = {"ground": 0, '<a & "b"> ü/道': 3, "label 7": 7}
    names = {category["id"]: category["name"] for category in content["categories"]}
    labels = np.full((FRAMES, *SIZE), 255)
    for annotation in content["annotations"]:
        masks, boxes, areas = (annotation[name] for name in ("segmentations", "bboxes", "areas"))
        for number, (code, box, area) in enumerate(zip(masks, boxes, areas, strict=True)):
            assert (code is None) == (box is None) == (area is None)
            if code is not None:
                mask = coco_masks.decode(code).astype(bool)
                assert mask.sum() == area and mask[box[1] :, box[0] :][: box[3], : box[2]].sum() == area
                labels[number][mask] = ids[names[annotation["category_id"]]]
    return labels


def read_cvat(out: Path) -> np.ndarray:
    """By the elements that CVAT documents; it keeps the first mask of a track only."""
    root = ElementTree.parse(out / "cvat.xml").getroot()
    assert root.findtext("version") == "1.1" and root.findtext("meta/task/mode") == "interpolation"
    known = [label.findtext("name") for label in root.findall("meta/task/labels/label")]
    assert known == [label["name"] for label in json.loads((out / "cvat_labels.json").read_text())]
    ids = {"ground": 0, '<a & "b"> ü/道': 3, "label 7": 7}
    labels = np.full((FRAMES, *SIZE), 255)
    for track in root.findall("track"):
        (mask,) = track.findall("mask")
        assert track.get("label") in known and mask.get("outside") == "0" and mask.get("keyframe") == "1"
        left, top, width, height = (int(mask.get(name, "")) for name in ("left", "top", "width", "height"))
        values, inside = [], False
        for run in mask.get("rle", "").split(","):
            values += [inside] * int(run)
            inside = not inside
        box = labels[int(mask.get("frame", ""))][top : top + height, left : left + width]
        box[np.array(values).reshape(height, width)] = ids[str(track.get("label"))]
    return labels


READERS: dict[str, Callable[[Path], np.ndarray]] = {
    "masks": read_masks,
    "davis": read_davis,
    "npz": read_npz,
    "coco-panoptic": read_panoptic,
    "coco-instances": read_instances,
    "youtube-vis": read_youtube_vis,
    "cvat": read_cvat,
}


@pytest.mark.parametrize("format", READERS)
def test_the_pixels_are_those_of_the_labels(tmp_path: Path, format: str) -> None:
    source = clip(tmp_path)
    out = export(source, tmp_path / "out", format)
    np.testing.assert_array_equal(READERS[format](out), label_maps())
    before = tree_bytes(out)
    assert tree_bytes(export(source, out, format)) == before  # again, over itself


@pytest.mark.parametrize("format", ["davis", "npz"])
def test_dropped_segments_are_in_no_export(tmp_path: Path, format: str) -> None:
    names = Names({3: NAMES.named[3]}, dropped=frozenset({0}))
    out = export(clip(tmp_path, names), tmp_path / "out", format)
    np.testing.assert_array_equal(READERS[format](out), np.where(label_maps() == 0, 255, label_maps()))


@pytest.mark.parametrize("format", READERS)
def test_only_the_chosen_segments(tmp_path: Path, format: str) -> None:
    source = clip(tmp_path, chosen=('<a & "b"> ü/道', "7"))
    out = export(source, tmp_path / "out", format)
    np.testing.assert_array_equal(READERS[format](out), np.where(label_maps() == 0, 255, label_maps()))


@pytest.mark.parametrize("format", READERS)
def test_unsure_pixels_are_in_no_segment(tmp_path: Path, format: str) -> None:
    """The ground is unsure at the top; half of the square's pixels are just sure enough."""
    confidence = np.full(label_maps().shape, 255, np.uint8)
    confidence[label_maps() == 3] = 128
    confidence[:, :10] = 127
    source = clip(tmp_path, below=0.5, confidence=confidence)
    expected = label_maps()
    expected[:, :10] = 255
    np.testing.assert_array_equal(READERS[format](export(source, tmp_path / "out", format)), expected)


def test_a_segment_that_is_never_sure_is_left_out(tmp_path: Path) -> None:
    confidence = np.where(label_maps() == 3, 40, 200).astype(np.uint8)
    source = clip(tmp_path, below=0.5, confidence=confidence)
    assert [segment.id for segment in source.segments] == [0, 7]


def test_labels_without_confidence_cannot_be_sure(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"does not say how sure its labels are.*--set upsample.confidence=true"):
        clip(tmp_path, below=0.5)


def test_learned_segments_have_their_names(tmp_path: Path) -> None:
    made = Scene(tmp_path)
    labels = made.applied_labels(
        [{"id": label, "name": name, "color": [9, 9, 9]} for label, name in ((0, "legs"), (3, "head"))]
    )
    pictures = open_pictures(open_store(made.clip(made.frames_source()), CLIP), None)
    assert labelled_clip("shots", labels, pictures, (), lambda _: None).categories() == {
        "legs": 1,
        "head": 2,
        "label 7": 3,
    }


def test_segments_of_one_name_are_one_category_and_stay_apart(tmp_path: Path) -> None:
    source = clip(tmp_path, Names({3: Named("car"), 7: Named("car")}))
    assert source.categories() == {"label 0": 1, "car": 2}
    coco = COCO(export(source, tmp_path / "out", "coco-instances") / "instances.json")
    tracks = {annotation["track_id"] for annotation in coco.loadAnns(coco.getAnnIds(catIds=2))}
    assert tracks == {4, 8}


def test_a_background_is_what_davis_calls_0(tmp_path: Path) -> None:
    out = export(clip(tmp_path, Names({0: Named("Background")})), tmp_path / "out", "davis")
    values = stacked(out / "Annotations/shots")
    np.testing.assert_array_equal(values, np.choose(np.searchsorted([0, 3, 7], label_maps()), [0, 1, 2]))
    assert Image.open(out / "Annotations/shots/00000.png").mode == "P"


def test_connected_parts_are_annotations_of_their_own(tmp_path: Path) -> None:
    labels = label_maps()
    labels[:, :4, :4] = labels[:, 4:8, 4:8] = 3  # corners that touch are one part
    source = clip(tmp_path, labels=labels)
    out = export(source, tmp_path / "out", "coco-instances", components=True)
    np.testing.assert_array_equal(read_instances(out), labels)
    coco = COCO(out / "instances.json")
    areas = sorted(
        annotation["area"] for annotation in coco.loadAnns(coco.getAnnIds(imgIds=1)) if annotation["track_id"] == 4
    )
    assert areas == [32, 18 * 16]


def decoded(path: Path, decoder: str) -> Iterator[np.ndarray]:
    """Frames (H, W, 4). FFmpeg's own decoder of VP9 leaves the alpha out."""
    codec = av.CodecContext.create(decoder, "r")
    with av.open(str(path)) as file:
        codec.extradata = file.streams.video[0].codec_context.extradata
        for packet in file.demux(video=0):
            for frame in codec.decode(packet if packet.size else None):  # type: ignore[attr-defined]
                yield frame.to_ndarray(format="rgba")


@pytest.mark.parametrize(
    ("codec", "file", "decoder", "alpha", "colour"),
    [("prores", "alpha.mov", "prores", 0, 3), ("vp9", "alpha.webm", "libvpx-vp9", 40, 12)],
)
@pytest.mark.parametrize("size", [SIZE, (47, 79)])
def test_a_video_is_transparent_but_for_the_chosen(
    tmp_path: Path, codec: str, file: str, decoder: str, alpha: int, colour: float, size: tuple[int, int]
) -> None:
    images, labels = pictures(size=size), label_maps(size=size)
    out = export(clip(tmp_path, chosen=("3",), images=images, labels=labels), tmp_path / "out", "alpha", codec=codec)
    frames = np.stack(list(decoded(out / file, decoder))).astype(int)
    wanted = np.where(labels == 3, 255, 0)
    np.testing.assert_array_equal(frames[..., 3] > 127, wanted > 127)
    assert np.abs(frames[..., 3] - wanted).max() <= alpha
    assert np.abs(frames[..., :3] - images).mean() < colour  # the whole picture, so that edges can be feathered
    with av.open(str(out / file)) as video:
        assert float(video.streams.video[0].average_rate or 0) == FPS


def test_alpha_is_exact_in_every_frame(tmp_path: Path) -> None:
    """Several threads of FFmpeg's conversion spoilt one frame in ten of this size."""
    frames = np.zeros((60, 480, 86, 4), np.uint8)
    frames[..., 3] = np.where(np.indices((60, 480, 86)).sum(0) // 20 % 2, 255, 0)
    path = write_alpha_video(tmp_path / "a.mov", frames, FPS, "prores")
    for found, wanted in zip(decoded(path, "prores"), frames, strict=True):
        np.testing.assert_array_equal(found[..., 3], wanted[..., 3])


def test_an_alpha_video_needs_frames(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="a.mov: there are no frames to write"):
        write_alpha_video(tmp_path / "a.mov", [], FPS, "prores")
    assert not list(tmp_path.iterdir())


def test_frames_can_come_along(tmp_path: Path) -> None:
    out = export(clip(tmp_path), tmp_path / "out", "coco-instances", images=True)
    images = np.stack([np.asarray(Image.open(out / f"images/{f:05d}.jpg")) for f in range(FRAMES)])
    assert np.abs(images.astype(int) - pictures()).mean() < 4


@pytest.mark.parametrize("format", ["davis", "youtube-vis"])
def test_frames_lie_where_annotations_by_video_look_for_them(tmp_path: Path, format: str) -> None:
    out = export(clip(tmp_path), tmp_path / "out", format, images=True)
    assert (out / "JPEGImages/shots/00004.jpg").is_file() and not (out / "images").exists()


def test_exports_share_a_folder_and_replace_only_their_own(tmp_path: Path) -> None:
    source, out = clip(tmp_path, chosen=("3",)), tmp_path / "out"
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    export(source, out, "alpha")
    export(source, out, "coco-instances", images=True)
    export(source, out, "alpha", codec="vp9")  # in place of the other video
    assert sorted(path.name for path in out.iterdir()) == [
        "alpha.webm", "export.json", "images", "instances.json", "notes.txt",
    ]  # fmt: skip
    (out / "masks").mkdir()
    before = tree_bytes(out)
    with pytest.raises(DataError, match="out/masks: was not written by `vidseg export`; choose another folder with -o"):
        export(source, out, "masks")
    assert tree_bytes(out) == before


@pytest.mark.parametrize("name", ["export.json", "instances.json"])
def test_what_others_wrote_is_not_replaced(tmp_path: Path, name: str) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).write_text("{}")
    with pytest.raises(DataError, match=f"out/{name}: was not written by `vidseg export`"):
        export(clip(tmp_path), tmp_path / "out", "coco-instances")
    assert tree_bytes(tmp_path / "out") == {name: b"{}"}


def test_a_file_in_the_place_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(DataError, match="out: is a file; give a folder with -o"):
        export(clip(tmp_path), tmp_path / "out", "npz")


def test_a_failure_leaves_nothing(tmp_path: Path) -> None:
    source = clip(tmp_path)

    def fail(_: int) -> None:
        raise OSError("no space")

    for format in formats.FORMATS:
        with pytest.raises(OSError, match="no space"):
            formats.write(formats.choose(format), source, tmp_path / "new", fail)
        assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"format": "coco"}, "--format coco: there is no such format; there are: coco-panoptic, coco-instances"),
        ({"format": "masks", "components": True}, "--components is for --format coco-instances, not masks"),
        ({"format": "masks", "codec": "vp9"}, "--codec is for --format alpha, not masks"),
        ({"format": "alpha", "codec": "h264"}, "--codec h264: there is no such codec; there are: prores, vp9"),
    ],
)
def test_what_cannot_be_chosen(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        formats.choose(**options)


def test_a_segment_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--segment cat: this video has no such segment; there are: 0 \(ground\), 3"):
        clip(tmp_path, chosen=("cat",))


def test_more_objects_than_a_palette_holds(tmp_path: Path) -> None:
    labels = np.arange(FRAMES * 48 * 80).reshape(FRAMES, *SIZE).astype(np.uint16) % 300
    made = Scene(tmp_path, labels=labels)
    store = open_store(made.clip(made.frames_source()), CLIP)
    source = labelled_clip(
        "shots", open_store(made.labels_store(), LABELS), open_pictures(store, None), (), lambda _: None
    )
    with pytest.raises(DataError, match="davis: 300 segments, at most 254 fit; choose some with --segment"):
        export(source, tmp_path / "out", "davis")
    ids = stacked(export(source, tmp_path / "out", "coco-panoptic") / "panoptic").astype(int) @ [1, 256, 65536]
    np.testing.assert_array_equal(ids - 1, labels)

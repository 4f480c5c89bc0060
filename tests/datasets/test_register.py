"""`vidseg dataset register`: data sets in their published layouts, and what is wrong with them."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.datasets import cityscapes, listing
from pipeline.datasets.index import REMEDY
from pipeline.datasets.listing import Video
from pipeline.stores.schemas import CLIP, TRUTH
from pipeline.stores.store import Store, open_store
from pipeline.truth.annotations import unknown_values
from pipeline.truth.class_list import parse_classes, read_classes
from stages.commands import dataset, videos
from stages.common.resources import resource
from tests.support import fake_datasets as fake
from tests.support import yaml
from tests.support.commands import error_line, vidseg
from tests.support.fake_datasets import write_map, write_picture
from tests.support.places import DATA, ROOT
from tests.support.project import Project


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    (folder / "inputs" / "none").mkdir(parents=True)
    (folder / "inputs" / "none" / "README.md").touch()
    (folder / "videos.yaml").write_text("# mine\nitems:\n  holiday:\n    - path: clip.mp4  # last year\n")
    return folder


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "download"


def register(project: Path, root: Path, dataset: str, *options: object, check: int = 0):  # type: ignore[no-untyped-def]
    return vidseg("dataset", "register", root, "--dataset", dataset, *options, cwd=project, check=check)


def items(project: Path) -> dict[str, list[dict[str, Any]]]:
    return dict(yaml.safe_load((project / "videos.yaml").read_text())["items"])


def truth_of(project: Path, key: str, video: str = "") -> Store:
    return open_store(project / "data/ingest" / key / "truth.zarr" / video, TRUTH)


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# Layouts


@dataclass(frozen=True)
class Case:
    """A layout and what comes of it.

    Attributes:
        keys: of the items, without the registration's name.
        fps: of the first item.
        stored: ids that the first item's ground truth holds.
        classes: number of classes of the first item.
        ignore: its ignored ids.
        annotated: positions of the first item's label maps.
    """

    make: Callable[[Path], Path]
    dataset: str
    options: tuple[object, ...]
    keys: list[str]
    fps: float | None
    stored: set[int]
    classes: int
    ignore: list[int]
    annotated: list[int]


CITY_SNIPPETS = ["ulm_000000_000294", "ulm_000000_000576"]
CAMVID_RUNS = ["0006R0_f00930", "0016E5_00870", "0016E5_07920", "0016E5_07959"]
CASES = {
    "vspw": Case(
        fake.vspw, "vspw", (), ["0_a-b0", "1_a-b1", "2_a-b2"], 15, {0, 1, 124, 255}, 124, [0, 255], [0, 1]
    ),
    "vspw, first": Case(
        fake.vspw, "vspw", ("--first", 1), ["0_a-b0"], 15, {0, 1, 124, 255}, 124, [0, 255], [0, 1]
    ),
    "cityscapes": Case(fake.cityscapes, "cityscapes", (), CITY_SNIPPETS, 17, {0, 13, 255}, 19, [255], [19]),
    "cityscapes, train ids": Case(
        lambda root: fake.cityscapes(root, "labelTrainIds"),
        "cityscapes", (), CITY_SNIPPETS, 17, {0, 13, 255}, 19, [255], [19],
    ),
    "camvid, 11 classes": Case(
        fake.camvid11, "camvid", ("--split", "val"), CAMVID_RUNS, 1, {0, 10, 11}, 11, [11], [0]
    ),
    "camvid, 32 classes": Case(fake.camvid32, "camvid", (), CAMVID_RUNS, 1, {0, 1, 2}, 2, [2], [0]),
    "camvid, a split of 32 classes": Case(
        lambda root: fake.camvid32(root, listed=False),
        "camvid", ("--split", "val"), ["0016E5_07959"], 15, {0, 30, 31}, 31, [31], [0, 1, 2],
    ),
    "davis2017": Case(
        fake.davis, "davis2017", (), ["dogs-jump", "camel"], 24, {0, 1, 2}, 3, [255], [0, 1, 2]
    ),
    "davis2016 in the edition of 2017": Case(fake.davis, "davis2016", (), ["camel"], 24, {0, 1}, 2, [], [0, 1, 2]),
    "davis2016": Case(fake.davis2016, "davis2016", (), ["camel"], 24, {0, 1}, 2, [], [0, 1, 2]),
    "davis2017, a split of first masks": Case(
        fake.davis_test, "davis2017", ("--split", "test-dev"), ["carousel"], 24, {0, 1, 2}, 3, [255], [0]
    ),
    "vspw, a split without masks": Case(
        fake.vspw_test, "vspw", ("--split", "test"), ["0_a-b0"], 15, set(), 0, [255], []
    ),
    "youtube-vos": Case(
        fake.youtube_vos, "youtube-vos", (), ["0062f687f1", "01c783268c"], 6, {0, 1}, 2, [255], [0]
    ),
    "mose": Case(fake.youtube_vos, "mose", (), ["0062f687f1", "01c783268c"], None, {0, 1}, 2, [255], [0]),
    "folders": Case(
        fake.folders, "folders", ("--fps", 5), ["cat", "dog", "plain"], 5, {0, 1}, 2, [255], [0, 1, 2]
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_layouts_are_registered_and_ingested(project: Path, root: Path, case: Case) -> None:
    case.make(root)
    result = register(project, root, case.dataset, "--name", "set", *case.options)
    assert f"{len(case.keys)} videos" in result.stderr
    added = items(project)
    del added["holiday"]
    assert list(added) == [f"set-{key}" for key in case.keys]
    first = next(iter(added))
    assert added[first][0].get("fps") == case.fps
    vidseg("ingest", "--item", first, "--set", "ingest.size=64", cwd=project)
    truth = truth_of(project, first)
    assert set(np.unique(truth.read("ground_truth"))) == case.stored
    assert len(truth.attrs["classes"]) == case.classes
    assert truth.attrs["ignore"] == case.ignore
    assert truth.attrs["indices"] == case.annotated


def test_runs_of_camvid_keep_their_frames_and_rates(project: Path, root: Path) -> None:
    register(project, fake.camvid11(root), "camvid", "--split", "val")
    runs = {key: entry[0] for key, entry in items(project).items() if key != "holiday"}
    frames = {key: names_in(Path(entry["path"])) for key, entry in runs.items()}
    assert frames["camvid-val-0016E5_00870"] == ["0016E5_00870.png", "0016E5_00901.png", "0016E5_00930.png"]
    assert len(frames["camvid-val-0016E5_07959"]) == 3
    assert {key: entry["fps"] for key, entry in runs.items()} == {
        "camvid-val-0006R0_f00930": 1, "camvid-val-0016E5_00870": pytest.approx(1, abs=0.04),
        "camvid-val-0016E5_07920": 1, "camvid-val-0016E5_07959": 15,
    }  # fmt: skip


def test_each_video_of_plain_folders_has_its_own_classes(project: Path, root: Path) -> None:
    register(project, fake.folders(root), "folders")
    for name in ("dog", "plain"):
        vidseg("ingest", "--item", f"download-{name}", "--set", "ingest.size=64", cwd=project)
    dog, plain = (truth_of(project, f"download-{name}") for name in ("dog", "plain"))
    assert [(entry["id"], entry["name"]) for entry in dog.attrs["classes"]] == [(0, "ground"), (5, "dog")]
    assert dog.attrs["indices"] == [1]
    assert plain.attrs["indices"] == []


def test_a_class_list_beside_the_label_maps_wins(project: Path, root: Path) -> None:
    fake.folders(root)
    (root / "dog/labels/classes.json").write_text(
        json.dumps({"classes": [{"id": 0, "name": "lawn"}, {"id": 5, "name": "pug"}]})
    )
    register(project, root, "folders")
    vidseg("ingest", "--item", "download-dog", "--set", "ingest.size=64", cwd=project)
    assert [entry["name"] for entry in truth_of(project, "download-dog").attrs["classes"]] == ["lawn", "pug"]


def test_downsampling_counts_pixels(project: Path, root: Path) -> None:
    """The paper's factor 16 of Cityscapes: 2048x1024 becomes 512x256."""
    register(project, fake.cityscapes(root, size=(256, 512)), "cityscapes", "--downsample", 16, "--first", 1)
    (key,) = set(items(project)) - {"holiday"}
    vidseg("ingest", "--item", key, "--set", "ingest.size=128", cwd=project)
    clip = open_store(project / "data/ingest" / key / "clip.zarr", CLIP)
    assert clip.read("frames").shape == (30, 64, 128, 3)
    assert truth_of(project, key).read("ground_truth").shape == (1, 256, 512)


def test_objects_of_different_sequences_are_different_classes(project: Path, root: Path) -> None:
    """Object 1 is a dog here and a camel there: a pooled mIoU must not mix them."""
    register(project, fake.davis(root), "davis2017")
    names = set[str]()
    for key in ("davis2017-val-dogs-jump", "davis2017-val-camel"):
        vidseg("ingest", "--item", key, "--set", "ingest.size=64", cwd=project)
        names |= {entry["name"] for entry in truth_of(project, key).attrs["classes"]}
    assert names == {"background", "dogs-jump 1", "dogs-jump 2", "camel 1", "camel 2"}


def test_label_maps_are_found_whatever_the_case_of_their_suffix(project: Path, root: Path) -> None:
    """Hidden files, as some systems leave them beside each file, are no label maps."""
    for file in sorted(fake.vspw(root, count=1).rglob("mask/*.png")):
        file.rename(file.with_suffix(".PNG"))
        file.with_name(f"._{file.name}").write_bytes(b"not a picture")
    register(project, root, "vspw")
    vidseg("ingest", "--item", "vspw-val-0_a-b0", "--set", "ingest.size=64", cwd=project)
    assert truth_of(project, "vspw-val-0_a-b0").attrs["indices"] == [0, 1]


def test_hidden_files_are_no_files_of_cityscapes(root: Path) -> None:
    fake.cityscapes(root)
    for file in list(root.rglob("*.png")):
        file.with_name(f"._{file.name}").write_bytes(b"not a picture")
    assert [video.name for video in cityscapes.videos(root, "val")] == ["ulm_000000_000294", "ulm_000000_000576"]


def test_shipped_class_lists_are_complete() -> None:
    folder = ROOT / "pipeline" / "datasets" / "classes"
    lists = {file.stem: read_classes(file) for file in folder.iterdir()}
    assert {name: len(listed.classes) for name, listed in lists.items()} == {
        "cityscapes": 19, "camvid11": 11, "camvid32": 31,
    }  # fmt: skip
    for listed in lists.values():
        assert len(set(listed.colours.values())) == len(listed.colours)
        assert [entry.id for entry in listed.classes] == list(range(len(listed.classes)))


# Items


def test_many_videos_share_items(project: Path, root: Path) -> None:
    register(project, fake.vspw(root, count=43, frames=1), "vspw")
    added = items(project)
    del added["holiday"]
    assert list(added) == [f"vspw-val-{part:03d}" for part in range(5)]
    assert [len(entries[0]["videos"]) for entries in added.values()] == [8, 9, 8, 9, 9]
    names = [name for entries in added.values() for name in entries[0]["videos"]]
    assert names == (root / "val.txt").read_text().split()
    vidseg("ingest", "--item", "vspw-val-001", "--set", "ingest.size=64", cwd=project)
    stores = project / "data/ingest/vspw-val-001"
    assert names_in(stores / "clip.zarr") == sorted(names[8:17])
    assert truth_of(project, "vspw-val-001", names[8]).attrs["ignore"] == [0, 255]


@pytest.mark.parametrize(
    ("count", "per_item", "sizes"),
    [
        (40, None, {1: 40}),
        (41, None, {8: 4, 9: 1}),
        (343, None, {9: 7, 10: 28}),  # VSPW val
        (500, 13, {12: 7, 13: 32}),
        (6, 4, {3: 2}),
        (60, 1, {1: 60}),
    ],
)
def test_videos_by_item(count: int, per_item: int | None, sizes: dict[int, int]) -> None:
    found = [Video(f"v{number}", (), None, None) for number in range(count)]
    made = dataset.grouped("set", found, per_item)
    assert Counter(map(len, made.values())) == sizes
    assert [video for part in made.values() for video in part] == found
    single = set(sizes) == {1}
    assert list(made)[:2] == (["set-v0", "set-v1"] if single else ["set-000", "set-001"])


def test_more_items_than_dvc_can_take_are_refused_with_a_remedy(project: Path, root: Path) -> None:
    """The names of items do not depend on what else is registered."""
    stages = yaml.safe_load(resource("dvc.yaml").read_text())["stages"].values()
    assert sum(videos.MOST_ITEMS if stage.get("foreach") == "${items}" else 1 for stage in stages) < 300
    others = {f"other-{number}": [{"path": "clip.mp4"}] for number in range(39)}
    (project / "videos.yaml").write_text(yaml.safe_dump(yaml.videos(others)))
    fake.vspw(root, count=7, frames=1)
    line = error_line(register(project, root, "vspw", check=2))
    assert (
        "videos.yaml: 7 items beside 39 others; DVC is slow with more than 41 (300 stages): give --per-item 4" in line
    )
    assert set(items(project)) == set(others) and not (project / "inputs/vspw-val").exists()
    register(project, root, "vspw", "--per-item", 4)
    assert set(items(project)) - set(others) == {"vspw-val-000", "vspw-val-001"}
    (project / "videos.yaml").write_text(yaml.safe_dump(yaml.videos(others | {"a": others["other-0"], "b": [{}]})))
    assert "(300 stages): remove items from it" in error_line(register(project, root, "vspw", check=2))


def gone(file: Path) -> None:
    file.unlink()


def changed(file: Path) -> None:
    file.write_bytes(file.read_bytes() + b" ")


@pytest.mark.parametrize(
    ("change", "path", "what"),
    [
        (changed, "1_a-b1/frames/00000001.jpg", "changed"),
        (gone, "1_a-b1/frames/00000001.jpg", "gone"),
        (lambda file: gone(file.resolve()), "1_a-b1/frames/00000001.jpg", "gone"),
        (lambda file: write_picture(file), "1_a-b1/frames/00000009.png", "new"),
        (changed, "1_a-b1/labels/classes.json", "changed"),
    ],
)
def test_files_of_joined_videos_are_what_was_registered(
    project: Path, root: Path, change: Callable[[Path], None], path: str, what: str
) -> None:
    register(project, fake.vspw(root, count=2), "vspw", "--per-item", 2)
    item = project / "inputs/vspw-val/vspw-val-000"
    ingest = ("ingest", "--item", "vspw-val-000", "--set", "ingest.size=64")
    vidseg(*ingest, cwd=project)
    change(item / path)
    result = vidseg("dataset", "check", "vspw-val", cwd=project, check=3)
    assert f"inputs/vspw-val/vspw-val-000/{path}: {what}\n" in result.stdout
    line = error_line(vidseg(*ingest, cwd=project, check=3))
    assert f"{item / path}: {what} since the data set was registered; {REMEDY}" in line


def test_an_edit_that_keeps_size_and_time_is_seen_by_whoever_reads(project: Path, root: Path) -> None:
    register(project, fake.vspw(root, count=2), "vspw", "--per-item", 2)
    frame = root / "data/1_a-b1/origin/00000001.jpg"
    before, content = frame.stat(), bytearray(frame.read_bytes())
    content[-3] ^= 1
    frame.write_bytes(content)
    os.utime(frame, ns=(before.st_atime_ns, before.st_mtime_ns))
    vidseg("dataset", "check", cwd=project)
    result = vidseg("dataset", "check", "--reread", cwd=project, check=3)
    assert "frames/00000001.jpg: changed" in result.stdout
    assert "`vidseg dataset register` as before (with --reread where" in error_line(result)
    assert error_line(vidseg("ingest", "--item", "vspw-val-000", cwd=project, check=3)).endswith(REMEDY)
    register(project, root, "vspw", "--per-item", 2)
    vidseg("dataset", "check", "--reread", cwd=project, check=3)
    register(project, root, "vspw", "--per-item", 2, "--reread")
    vidseg("dataset", "check", "--reread", cwd=project)


@pytest.mark.parametrize(
    ("content", "message"),
    [("{", "index.json: not readable"), ('{"schema_version": 2}', "schema version 2, this program reads 1; register")],
)
def test_an_index_that_cannot_be_read(project: Path, root: Path, content: str, message: str) -> None:
    register(project, fake.vspw(root, count=2), "vspw", "--per-item", 2)
    (project / "inputs/vspw-val/vspw-val-000/index.json").write_text(content)
    assert message in error_line(vidseg("dataset", "check", cwd=project, check=3))


def test_only_registrations_are_checked(project: Path) -> None:
    assert "inputs/none: no registration" in error_line(vidseg("dataset", "check", "none", cwd=project, check=2))


def test_joined_videos_keep_their_rates(project: Path, root: Path) -> None:
    register(project, fake.camvid11(root), "camvid", "--split", "val", "--per-item", 2)
    first, second = (items(project)[f"camvid-val-{part:03d}"][0] for part in range(2))
    assert first["fps"] == [1, pytest.approx(1, abs=0.04)] and second["fps"] == [1, 15]
    vidseg("ingest", "--item", "camvid-val-001", "--set", "ingest.size=64", cwd=project)
    sources = project / "data/ingest/camvid-val-001/source"
    rates = {path.parent.name: json.loads(path.read_text())["fps"] for path in sources.glob("*/*.json")}
    assert rates == {"0016E5_07920": 1, "0016E5_07959": 15}


def test_rates_must_be_as_many_as_videos(project: Path) -> None:
    entry = {"path": "x", "videos": ["a", "b"], "fps": [1]}
    (project / "videos.yaml").write_text(yaml.safe_dump(yaml.videos({"x": [entry]})))
    line = error_line(vidseg("ingest", "--item", "x", cwd=project, check=2))
    assert "item 'x': a list in `fps` must have one rate for each of `videos`" in line


def test_other_items_and_comments_stay(project: Path, root: Path) -> None:
    register(project, fake.vspw(root), "vspw")
    text = (project / "videos.yaml").read_text()
    assert text.startswith("# mine\nitems:\n  holiday:\n    - path: clip.mp4  # last year\n")


def test_registering_again_replaces_its_own_items_alone(project: Path, root: Path) -> None:
    register(project, fake.vspw(root), "vspw")
    register(project, root, "vspw", "--first", 2)
    assert list(items(project)) == ["holiday", "vspw-val-0_a-b0", "vspw-val-1_a-b1"]
    assert not (project / "inputs/vspw-val/2_a-b2").exists()
    before = (project / "videos.yaml").read_text()
    register(project, root, "vspw", "--first", 2)
    assert (project / "videos.yaml").read_text() == before


def spoil_root(project: Path, root: Path) -> tuple[object, ...]:
    register(project, root, "vspw")
    return fake.vspw(root.with_name("other")), "vspw"


def spoil_items(project: Path, root: Path) -> tuple[object, ...]:
    (project / "videos.yaml").write_text("items:\n  vspw-val-1_a-b1:\n    - path: clip.mp4\n")
    return root, "vspw"


def spoil_folder(project: Path, root: Path) -> tuple[object, ...]:
    write_picture(project / "inputs/vspw-val/mine.png")
    return root, "vspw"


@pytest.mark.parametrize(
    ("spoil", "code", "message"),
    [
        (spoil_root, 3, "holds another registration (dataset vspw, root"),
        (spoil_items, 2, "there is an item 'vspw-val-1_a-b1' already that is not of the registration 'vspw-val'"),
        (spoil_folder, 3, "inputs/vspw-val: was not written by vidseg"),
        (lambda project, root: (root, "vspw", "--name", "a.b"), 2, "'a.b': names may hold letters"),
        (lambda project, root: (root, "vspw", "--name", "none"), 2, "'none': names may hold letters"),
        (lambda project, root: (root / "nowhere", "vspw"), 3, "nowhere: no such folder"),
    ],
)
def test_what_belongs_to_others_is_refused(
    project: Path, root: Path, spoil: Callable[[Path, Path], tuple[object, ...]], code: int, message: str
) -> None:
    arguments = spoil(project, fake.vspw(root))
    before = (project / "videos.yaml").read_text()
    assert message in error_line(register(project, *arguments, check=code))  # type: ignore[arg-type]
    assert (project / "videos.yaml").read_text() == before


# Layouts with something wrong


def remove(path: str) -> Callable[[Path], None]:
    return lambda root: (root / path).unlink()


def empty(path: str) -> Callable[[Path], None]:
    return lambda root: [file.unlink() for file in (root / path).iterdir()] and None


def write(path: str, text: str, encoding: str = "utf-8") -> Callable[[Path], None]:
    return lambda root: (root / path).write_text(text, encoding=encoding) and None


def wide_map(path: str) -> Callable[[Path], None]:
    return lambda root: write_map(root / path, 1, size=(8, 13)) and None


def sixteen_bit_map(path: str) -> Callable[[Path], None]:
    return lambda root: Image.fromarray(np.full(fake.SIZE, 700, np.uint16)).save(root / path)


def coloured_map(path: str, mode: str = "RGB") -> Callable[[Path], None]:
    return lambda root: Image.new("RGB", fake.SIZE[::-1], (1, 2, 3)).convert(mode).save(root / path)


FRAME, MAP = "data/1_a-b1/origin/00000001.jpg", "data/1_a-b1/mask/00000001.png"
FIRST_MAP = "data/1_a-b1/mask/00000000.png"


@pytest.mark.parametrize(
    ("make", "dataset", "spoil", "message"),
    [
        (fake.vspw, "vspw", remove("val.txt"), "val.txt: no such list"),
        (fake.vspw, "vspw", write("val.txt", "\n"), "val.txt: lists nothing"),
        (fake.vspw, "vspw", write("val.txt", "0_a-b0\n0_a-b0\n"), "val.txt: lists 0_a-b0 twice"),
        (fake.vspw, "vspw", write("val.txt", "7_x\n"), "data/7_x/origin: no such folder of frames"),
        (fake.vspw, "vspw", write("val.txt", "0_a-b0\n", "utf-16"), "val.txt: not text in UTF-8"),
        (fake.vspw, "vspw", remove("label_num_dic_final.json"), "VSPW comes with it"),
        (fake.vspw, "vspw", write("label_num_dic_final.json", "[]"), "expected class names with their numbers"),
        (fake.vspw, "vspw", write("label_num_dic_final.json", '{"wall": 1}'), "names 1 classes, expected 124"),
        (fake.vspw, "vspw", remove(MAP), "1 of 2 frames have no label map, the first is 00000001"),
        (fake.vspw, "vspw", remove(FRAME), "mask/00000001.png: there is no frame of that name in"),
        (fake.vspw, "vspw", lambda root: (root / MAP).rename((root / MAP).with_suffix(".jpg")) and None,
            "mask/00000001.jpg: label maps are PNGs; save the original map as 00000001.png"),
        (fake.vspw, "vspw", write("label_num_dic_final.json", '{"wall": "1", "sky": 2, "Wall": 1}'),
            "label_num_dic_final.json: 'wall' and 'Wall' both have the number 1"),
        (fake.vspw, "vspw", write(FRAME, ""), "origin/00000001.jpg: not a picture that can be read (0 bytes)"),
        (fake.vspw, "vspw", wide_map(MAP), "mask/00000001.png: the label map is 13x8 pixels, the first frame of"),
        (fake.vspw, "vspw", lambda root: write_picture(root / FRAME, (9, 9)) and None, "the frame is 9x9 pixels"),
        (fake.vspw, "vspw", lambda root: write_picture((root / FRAME).with_suffix(".png")) and None,
            "origin: 00000001.jpg and 00000001.png have the same stem"),
        (fake.vspw, "vspw", sixteen_bit_map(FIRST_MAP), "holds the value 700, which is neither a class nor ignored"),
        (fake.vspw, "vspw", coloured_map(FIRST_MAP), "the colour (1, 2, 3) at row 0, column 0 belongs to no class"),
        (
            fake.cityscapes, "cityscapes",
            remove("leftImg8bit_sequence/val/ulm/ulm_000000_000280_leftImg8bit.png"),
            "ulm_000000_000280_leftImg8bit.png: no such file, but ulm_000000_000294_gtFine_labelIds.png is frame 20",
        ),
        (
            fake.cityscapes, "cityscapes",
            remove("gtFine/val/ulm/ulm_000000_000576_gtFine_labelIds.png"),
            "ulm_000000_000557_leftImg8bit.png: lies in no snippet of 30 frames with a label map of its frame 20 (30 ",
        ),
        (
            fake.cityscapes, "cityscapes",
            lambda root: (root / "gtFine/val").rename(root / "gtFine/other"),
            "gtFine/val: no <city>/*_gtFine_labelIds.png here",
        ),
        (
            fake.cityscapes, "cityscapes",
            lambda root: write_map(root / "gtFine/val/ulm/ulm_gtFine_labelIds.png", 7) and None,
            "ulm_gtFine_labelIds.png: expected <city>_<sequence>_<frame>_gtFine_labelIds.png",
        ),
        (fake.cityscapes, "cityscapes", lambda root: write_map(
            root / "gtFine/val/ulm/ulm_000000_000294_gtFine_labelIds.png", 40) and None,
            "holds the value 40, which is neither a class nor ignored"),
        (fake.camvid11, "camvid", lambda root: None, "neither LabeledApproved_full/ (32 classes) nor <split>/"),
        (fake.camvid32, "camvid", remove("LabeledApproved_full/0016E5_07961_L.png"), "the first is 0016E5_07961"),
        (fake.camvid32, "camvid", write("label_colors.txt", "1 2 3 Road"), "one of them of the class Void"),
        (fake.camvid32, "camvid", write("label_colors.txt", "1 2 300 Road\n0 0 0 Void"),
            "the colour of Road goes beyond 255"),
        (fake.camvid32, "camvid", write("label_colors.txt", "1 2 3 Caf\xe9", "latin-1"),
            "label_colors.txt: not text in UTF-8"),
        (fake.camvid32, "camvid", empty("701_StillsRaw_full"),
            "701_StillsRaw_full: no pictures in this folder of frames"),
        (fake.camvid32, "camvid", lambda root: write_picture(root / "701_StillsRaw_full/0006R0_f00930.jpg") and None,
            "701_StillsRaw_full: 0006R0_f00930.jpg and 0006R0_f00930.png have the same stem"),
        (fake.camvid32, "camvid", lambda root: write_picture(root / "701_StillsRaw_full/x.png")
            and write_map(root / "LabeledApproved_full/x_L.png", 0) and None, "x.png: expected <drive>_<count>"),
        (fake.camvid32, "camvid", coloured_map("LabeledApproved_full/0016E5_00870_L.png", "RGBA"),
            "0016E5_00870_L.png: the colour (1, 2, 3)"),
        (fake.davis, "davis2017", remove("ImageSets/2017/val.txt"), "ImageSets/2017/val.txt: no such list"),
        (fake.davis, "davis2017", remove("Annotations/480p/camel/00001.png"), "480p/camel: 1 of 3 frames have no"),
        (fake.davis, "davis2017", coloured_map("Annotations/480p/camel/00000.png"), "holds colours, not label ids"),
        (fake.davis2016, "davis2016", write("ImageSets/480p/val.txt", "camel\n"),
            "ImageSets/480p/val.txt: expected lines like '/JPEGImages/480p/camel/00000.jpg"),
        (fake.folders, "folders", remove("cat/frames/1.png"), "cat/labels/1.png: there is no frame of that name"),
        (fake.folders, "folders", lambda root: (root / "dog/labels/1.png").rename(root / "dog/labels/1.npy") and None,
            "dog/labels: no label PNGs in this folder; remove it if dog has no ground truth"),
        (fake.folders, "folders", write("classes.json", "{}"), "classes.json: holds several class lists; name one"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_layout_is_named(
    project: Path, root: Path, make: Callable[[Path], Path], dataset: str, spoil: Callable[[Path], None], message: str
) -> None:
    spoil(make(root))
    before = (project / "videos.yaml").read_text()
    assert message in error_line(register(project, root, dataset, check=3))
    assert (project / "videos.yaml").read_text() == before
    assert names_in(project / "inputs") == ["none"]


def test_a_list_may_begin_with_a_byte_order_mark(project: Path, root: Path) -> None:
    """Editors on Windows write one."""
    write("val.txt", "1_a-b1\r\n", "utf-8-sig")(fake.vspw(root))
    register(project, root, "vspw")
    assert list(items(project)) == ["holiday", "vspw-val-1_a-b1"]


def test_folders_without_videos(project: Path, root: Path) -> None:
    root.mkdir()
    assert "no <video>/frames here" in error_line(register(project, root, "folders", check=3))


def test_names_of_videos_must_be_safe(project: Path, root: Path) -> None:
    for name in ("a b", "a.b"):
        write_picture(root / name / "frames" / "0.png")
    assert "'a b': videos need different names" in error_line(register(project, root, "folders", check=3))


def test_a_frame_that_vanishes_later_is_named(project: Path, root: Path) -> None:
    register(project, fake.vspw(root), "vspw")
    (root / FRAME).unlink()
    result = vidseg("ingest", "--item", "vspw-val-1_a-b1", cwd=project, check=3)
    assert "frames/00000001.jpg: no such file" in error_line(result)


# Evaluation


def test_one_annotated_frame_is_marked_to_the_end(project: Path, root: Path) -> None:
    register(project, fake.cityscapes(root), "cityscapes", "--first", 1)
    key = "cityscapes-val-ulm_000000_000294"
    vidseg("ingest", "--item", key, "--set", "ingest.size=64", cwd=project)
    stored = np.resize(np.array((7, 26, 4), np.uint8), fake.SIZE)
    write = Image.fromarray(np.where(stored == 4, 7, stored).astype(np.uint8))
    (project / "png").mkdir()
    write.save(project / "png" / "ulm_000000_000294.png")
    for assignment, oracle in (("majority", True), ("none", False)):
        setting = f"evaluate.assignment={assignment}"
        vidseg("evaluate", "--item", key, "--predictions", "png", "--out", "theirs", "--set", setting, cwd=project)
        result = vidseg("summarize", "theirs", ".", cwd=project)
        metrics = json.loads((project / "metrics.json").read_text())
        assert metrics["oracle_assignment"] is oracle
        assert ("oracle assignment" in result.stdout) is oracle
        assert metrics["miou"] == 1.0 and metrics["vc8"] is None  # predictions are stored as the ground truth is
        assert (metrics["frames"], metrics["scored_frames"]) == (30, 1)


def test_coloured_label_maps_are_perfect_predictions(project: Path, root: Path) -> None:
    """Void has a colour too."""
    register(project, fake.camvid32(root), "camvid", "--split", "val")
    vidseg("ingest", "--item", "camvid-val-0016E5_07959", "--set", "ingest.size=64", cwd=project)
    for file in (root / "LabeledApproved_full").iterdir():
        file.rename(file.with_name(file.name.replace("_L", "")))
    predictions = root / "LabeledApproved_full"
    chosen = ("--item", "camvid-val-0016E5_07959", "--predictions", predictions, "--out", "theirs")
    vidseg("evaluate", *chosen, cwd=project)
    scores = json.loads((project / "theirs/scores.json").read_text())
    assert scores["pooled"]["miou"] == 1.0


# DVC


@pytest.mark.whole
def test_dvc_watches_every_video_of_an_item(tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A changed file of an item's second video runs ingest of that item again, and of no other.

    Of items that `register` wrote DVC watches index.json: registering again tells it.
    """
    fake.vspw(root, count=4)
    (tmp_path / "project").mkdir()
    project = Project(tmp_path / "project")
    project.params["ingest"]["size"] = 64
    project.write_params()
    (project.folder / "videos.yaml").write_text("items: {}\n")
    again = ("--per-item", "2")
    register(project.folder, root, "vspw", *again)
    first, second = "ingest@vspw-val-000", "ingest@vspw-val-001"
    assert sorted(project.run_stages("ingest")) == [first, second]
    assert project.run_stages("ingest") == []
    frame, mask = root / "data/1_a-b1/origin/00000001.jpg", root / "data/3_a-b3/mask/00000000.png"
    for file, stage, change in (
        (frame, first, lambda: write_picture(frame, value=77)),
        (mask, second, lambda: write_map(mask, 3)),
    ):
        change()
        assert project.run_stages("ingest") == []
        line = error_line(vidseg("dataset", "check", cwd=project.folder, check=3))
        assert line == "error: not as it was registered: 1 of 16 files; " + REMEDY, file
        register(project.folder, root, "vspw", *again)
        assert project.run_stages("ingest") == [stage]
    os.utime(frame)
    register(project.folder, root, "vspw", *again)  # new links, the same content
    assert project.run_stages("ingest") == []
    assert "16 files as they were registered" in vidseg("dataset", "check", "vspw-val", cwd=project.folder).stdout
    watched = project.folder / "inputs/vspw-val/vspw-val-000/0_a-b0/frames"
    line = error_line(vidseg("videos", "add", watched, cwd=project.folder, check=2))
    assert "belongs to the item that" in line and "give the folder of frames in the data set itself" in line


@pytest.mark.whole
def test_dvc_watches_the_files_of_items_of_one_video(tmp_path: Path, root: Path) -> None:
    """And those of an entry that a person writes for several videos."""
    fake.vspw(root, count=1)
    (tmp_path / "project").mkdir()
    project = Project(tmp_path / "project")
    project.params["ingest"]["size"] = 64
    project.write_params()
    mine = project.folder / "mine"
    for name in ("a", "b"):
        write_picture(mine / name / "frames" / "0.png")
    (mine / "index.json").write_text("of something else")
    (project.folder / "videos.yaml").write_text(
        "items:\n  mine:\n    - {path: mine, ground_truth: inputs/none, classes: inputs/none, mask: inputs/none, "
        "names: inputs/none, videos: [a, b]}\n"
    )
    register(project.folder, root, "vspw")
    assert len(project.run_stages("ingest")) == 2
    write_picture(root / "data/0_a-b0/origin/00000001.jpg", value=77)
    write_picture(mine / "b" / "frames" / "0.png", value=77)
    assert sorted(project.run_stages("ingest")) == ["ingest@mine", "ingest@vspw-val-0_a-b0"]
    assert "DVC watches all of its files" in vidseg("dataset", "check", cwd=project.folder).stdout


# Real data


@pytest.mark.parametrize(
    ("folder", "key", "videos", "classes"),
    [("camvid", "camvid-0016E5_15hz", 4, 11), ("davis", "davis-dog", 5, 2)],
)
def test_real_folders(project: Path, shared_data: Path, folder: str, key: str, videos: int, classes: int) -> None:
    result = register(project, shared_data / folder, "folders", "--fps", 15)
    assert f"{videos} videos of" in result.stderr
    vidseg("ingest", "--item", key, "--set", "ingest.size=64", "--set", "ingest.frames='0:2'", cwd=project)
    truth = truth_of(project, key)
    assert truth.attrs["indices"] == [0, 1]
    assert len(truth.attrs["classes"]) == classes


# Every label map


def test_a_value_without_a_class_is_found_in_any_label_map(project: Path) -> None:
    """VSPW-dataset-download#3: the second of three masks holds 252."""
    root = DATA / "cases" / "vspw_252"
    line = error_line(register(project, root, "vspw", "--split", "val", check=3))
    assert "00000001.png: holds the value 252, which is neither a class nor ignored" in line
    assert "or take such pixels as void with --unknown void" in line
    assert not (project / "inputs" / "vspw-val").exists()
    said = register(project, root, "vspw", "--split", "val", "--unknown", "void").stderr
    assert re.search(r"warning: values without a class are void, .*: 252 \(first in .*00000001.png\)", said)
    vidseg("ingest", "--item", "vspw-val-v1", "--set", "ingest.size=64", cwd=project)
    assert 252 in truth_of(project, "vspw-val-v1").attrs["ignore"]


def test_label_maps_that_have_not_changed_are_looked_at_once(
    project: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[str] = []

    def look(file: Path, *rest: Any) -> frozenset[int]:
        looked.append(file.name)
        return unknown_values(file, *rest)

    monkeypatch.setattr(listing, "unknown_values", look)
    for name in ("a", "b"):
        write_picture(root / "one" / "frames" / f"{name}.png")
        write_map(root / "one" / "labels" / f"{name}.png", 0, 1)
    register(project, root, "folders")
    assert sorted(looked) == ["a.png", "b.png"]
    looked.clear()
    register(project, root, "folders")
    assert looked == []
    write_map(root / "one" / "labels" / "b.png", 0, 1, 2)
    register(project, root, "folders")
    assert looked == ["b.png"]


@pytest.mark.parametrize(
    ("content", "ignore", "values"),
    [
        ({"classes": ["a", "b"]}, (255, 7, 9), None),
        ({"classes": ["a", "b"], "void_id": None}, (7, 9), None),
        ({"classes": ["a", "b"], "values": {"3": 0, "4": 1, "0": 255}}, (255,), {3: 0, 4: 1, 0: 255, 7: 255, 9: 255}),
        ({"classes": ["a", "b"], "ignore": [], "values": {"3": 0, "4": 1}}, (255,), {3: 0, 4: 1, 7: 255, 9: 255}),
    ],
)
def test_void_values_of_a_class_list(content: dict[str, Any], ignore: Any, values: Any) -> None:
    made = listing.with_void(Video("v", (), None, parse_classes(content)), {9, 7}).classes
    assert made is not None and (made.ignore, made.values) == (ignore, values)

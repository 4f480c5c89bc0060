"""Small copies of data sets in the layouts they are published in."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
from PIL import Image

SIZE = (8, 12)


def write_picture(path: Path, size: tuple[int, int] = SIZE, value: int = 90) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (size[1], size[0]), (value % 256, 40, 200)).save(path)
    return path


def write_map(path: Path, *values: int, size: tuple[int, int] = SIZE) -> Path:
    """A grey label map of stripes of these values."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.resize(np.array(values, np.uint8), size)).save(path)
    return path


def vspw(root: Path, count: int = 3, frames: int = 2) -> Path:
    """`count` videos; the last line of the list has no line end, as in the original."""
    names = [f"{number}_a-b{number}" for number in range(count)]
    for name in names:
        for frame in range(frames):
            write_picture(root / "data" / name / "origin" / f"{frame:08d}.jpg", value=frame)
            write_map(root / "data" / name / "mask" / f"{frame:08d}.png", 0, 1, 124, 255)
    classes = {"others": "0"} | {f"class {number}": str(number) for number in range(1, 125)}
    (root / "label_num_dic_final.json").write_text(json.dumps(classes))
    (root / "val.txt").write_text("\n".join(names))
    return root


def cityscapes(root: Path, kind: str = "labelIds", size: tuple[int, int] = SIZE) -> Path:
    """Two snippets of one city; label maps lie beside the other files of the ground truth."""
    maps = {"labelIds": (7, 26, 4), "labelTrainIds": (0, 13, 255)}
    for first in (275, 557):
        for frame in range(first, first + 30):
            write_picture(
                root / f"leftImg8bit_sequence/val/ulm/ulm_000000_{frame:06d}_leftImg8bit.png", size, value=frame
            )
        stem = root / f"gtFine/val/ulm/ulm_000000_{first + 19:06d}_gtFine"
        write_map(stem.with_name(f"{stem.name}_{kind}.png"), *maps[kind], size=size)
        write_map(stem.with_name(f"{stem.name}_instanceIds.png"), 1, size=size)
        write_picture(stem.with_name(f"{stem.name}_color.png"), size)
        stem.with_name(f"{stem.name}_polygons.json").write_text("{}")
    return root


#: A drive at 1 Hz with one frame a count late, a gap in it, then at once the same drive at 15 Hz.
CAMVID = [f"0016E5_{count:05d}" for count in (870, 901, 930, 7920, 7950, 7959, 7961, 7963)] + ["0006R0_f00930"]


def camvid11(root: Path) -> Path:
    for name in CAMVID:
        write_picture(root / "val" / f"{name}.png")
        write_map(root / "valannot" / f"{name}.png", 0, 10, 11)
    return root


def camvid32(root: Path, listed: bool = True) -> Path:
    """Coloured label maps of Animal, Wall and Void."""
    colours = np.resize(np.array([[64, 128, 64], [64, 192, 0], [0, 0, 0]], np.uint8), (*SIZE, 3))
    for name in CAMVID:
        write_picture(root / "701_StillsRaw_full" / f"{name}.png")
        (root / "LabeledApproved_full").mkdir(exist_ok=True)
        Image.fromarray(colours).save(root / "LabeledApproved_full" / f"{name}_L.png")
    if listed:
        (root / "label_colors.txt").write_text("64 128 64\tAnimal\n0 0 0\t\tVoid\n64 192 0\tWall\n")
    (root / "val.txt").write_text("\n".join(CAMVID[5:8]))
    return root


def davis(root: Path) -> Path:
    """The edition of 2017, which has the list of 2016 too."""
    for name in ("dogs-jump", "camel"):
        for frame in range(3):
            write_picture(root / f"JPEGImages/480p/{name}/{frame:05d}.jpg")
            write_map(root / f"Annotations/480p/{name}/{frame:05d}.png", 0, 1, 2)
    for year, names in ((2016, "camel\n"), (2017, "dogs-jump\ncamel\n")):
        (root / f"ImageSets/{year}").mkdir(parents=True)
        (root / f"ImageSets/{year}/val.txt").write_text(names)
    return root


def davis_test(root: Path) -> Path:
    """Test-dev: the first frame alone has a mask."""
    for frame in range(3):
        write_picture(root / f"JPEGImages/480p/carousel/{frame:05d}.jpg")
    write_map(root / "Annotations/480p/carousel/00000.png", 0, 1, 2)
    (root / "ImageSets/2017").mkdir(parents=True)
    (root / "ImageSets/2017/test-dev.txt").write_text("carousel\n")
    return root


def vspw_test(root: Path) -> Path:
    """The split without masks."""
    vspw(root, 1)
    (root / "val.txt").rename(root / "test.txt")
    shutil.rmtree(root / "data/0_a-b0/mask")
    return root


def youtube_vos(root: Path) -> Path:
    """Two videos of the valid split: in the second an object begins later."""
    for name, masks in (
        (
            "0062f687f1",
            {0: (0, 1)},
        ),
        ("01c783268c", {0: (0, 2), 10: (0, 2, 3)}),
    ):
        for frame in range(0, 15, 5):
            write_picture(root / f"valid/JPEGImages/{name}/{frame:05d}.jpg")
        for frame, values in masks.items():
            write_map(root / f"valid/Annotations/{name}/{frame:05d}.png", *values)
    return root


def davis2016(root: Path) -> Path:
    """The edition of 2016: masks of 0 and 255, a list of pairs of paths."""
    lines = []
    for frame in range(3):
        write_picture(root / f"JPEGImages/480p/camel/{frame:05d}.jpg")
        write_map(root / f"Annotations/480p/camel/{frame:05d}.png", 0, 255)
        lines.append(f"/JPEGImages/480p/camel/{frame:05d}.jpg /Annotations/480p/camel/{frame:05d}.png ")
    (root / "ImageSets/480p").mkdir(parents=True)
    (root / "ImageSets/480p/val.txt").write_text("\n".join(lines) + "\n")
    return root


def folders(root: Path) -> Path:
    """Two videos with class lists of their own, the second annotated on its second frame; one without labels."""
    for name in ("cat", "dog", "plain"):
        for frame in range(3):
            write_picture(root / name / "frames" / f"{frame}.png")
    for frame in range(3):
        write_map(root / f"cat/labels/{frame}.png", 0, 1)
    write_map(root / "dog/labels/1.png", 0, 5)
    lists = {name: {"classes": [{"id": 0, "name": "ground"}, {"id": number, "name": name}]}
             for name, number in (("cat", 1), ("dog", 5))}  # fmt: skip
    (root / "classes.json").write_text(json.dumps(lists))
    return root

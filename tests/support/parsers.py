"""The untrusted input of ingest, as functions of bytes: they work or raise one of our errors."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from pipeline.errors import DataError, VidsegError
from pipeline.media.frame_source import FrameRange
from pipeline.media.pictures import read_image, read_label_png
from pipeline.media.resize import model_size
from pipeline.media.video import open_source
from pipeline.segmentation.stores import read_seed
from pipeline.truth.annotations import find_annotations
from pipeline.truth.class_list import read_classes, write_classes
from pipeline.truth.mask_files import find_masks, parse_masks
from stages.common import layout, settings, video_entries

#: An entry of videos.yaml may say where a video lies; nothing else of it may become a path.
ITEM = {
    "path": "frames",
    "ground_truth": layout.NONE,
    "classes": layout.NONE,
    "mask": layout.NONE,
    "names": layout.NONE,
}


def read_params(content: bytes, folder: Path) -> None:
    """params.yaml: validated sections, whose texts are understood as well."""
    file = folder / "params.yaml"
    file.write_bytes(content)
    params = settings.load(file)
    FrameRange.parse(params["ingest"].frames, params["ingest"].stride)
    model_size(480, 854, params["ingest"].size)


def read_videos(content: bytes, folder: Path) -> None:
    """videos.yaml: its items, and where the videos of each would be put."""
    file = folder / "videos.yaml"
    file.write_bytes(content)
    for key in layout.item_keys(file):
        entries = layout.item_videos(key, file)
        for name in video_entries.video_names(key, entries):
            place = (layout.place("ingest", key, name) / "clip.zarr").resolve()
            assert place.is_relative_to((layout.DATA / "ingest").resolve()), place


def read_class_list(content: bytes, folder: Path) -> None:
    """A class list, which is still the same when it is written and read again."""
    file = folder / "classes.json"
    file.write_bytes(content)
    listed = read_classes(file)
    listed.decode(np.arange(256, dtype=np.uint8))
    assert read_classes(write_classes(folder / "again.json", listed)) == listed


def read_labels(content: bytes, folder: Path) -> None:
    """A label PNG, with and without a list of colours."""
    file = folder / "00000.png"
    file.write_bytes(content)
    for colours in (None, {0: (0, 0, 0), 7: (255, 255, 255)}):
        try:
            labels = read_label_png(file, colours)
        except DataError:
            continue
        assert labels.ndim == 2 and labels.dtype in (np.uint8, np.uint16)
    find_annotations(folder, ["00000"], (2, 3))


def read_picture(content: bytes, folder: Path) -> None:
    """A picture, whatever its format."""
    file = folder / "00000.png"
    file.write_bytes(content)
    assert read_image(file).shape[2] == 3


def read_frames(content: bytes, folder: Path) -> None:
    """A folder of frames: first line a range, then one file name per line."""
    frames, *names = content.split(b"\n")
    for name in names:
        if name and b"\0" not in name and b"/" not in name and len(name) < 200 and name not in (b".", b".."):
            Image.new("RGB", (3, 2)).save(folder / "new.frame", "PNG")
            (folder / "new.frame").rename(folder / name.decode(errors="surrogateescape"))
    source = open_source(folder)
    found = list(source.frames(FrameRange.parse(frames.decode(errors="replace"))))
    assert len({frame.name for frame in found}) == len(found)


def read_animation(content: bytes, folder: Path) -> None:
    """A picture file that may hold several frames."""
    file = folder / "a.png"
    file.write_bytes(content)
    source = open_source(file)
    times = [frame.time for frame in source.frames()]
    assert times == sorted(times)


def read_masks(content: bytes, folder: Path) -> None:
    """What `--mask` says, one a line; the files of a folder that it may name are there."""
    for name in ("00000.png", "00002.png"):
        Image.new("L", (3, 2)).save(folder / name)
    texts = [text.decode(errors="replace") for text in content.split(b"\n") if text and b"\0" not in text]
    masks = parse_masks(texts)
    if masks is not None:
        found = find_masks(folder if masks == Path("folder") else masks, ["00000", "00001", "00002"], [0, 4, 8])
        assert set(found.files) <= {0, 1, 2}


def read_seed_listing(content: bytes, folder: Path) -> None:
    """seed.json, whose masks may lie in its folder alone."""
    (folder / "seed.json").write_bytes(content)
    Image.new("L", (3, 2)).save(folder / "mask.png")
    masks = read_seed(folder, (1, 1), [0, 4, 8])
    assert set(masks) <= {0, 1, 2}


PARSERS: dict[str, Callable[[bytes, Path], None]] = {
    "params": read_params,
    "videos": read_videos,
    "classes": read_class_list,
    "labels": read_labels,
    "picture": read_picture,
    "frames": read_frames,
    "animation": read_animation,
    "masks": read_masks,
    "seed": read_seed_listing,
}


def survives(parser: str, content: bytes, folder: Path) -> None:
    """Run a parser; only one of our errors, in one line that can be printed, may come out."""
    try:
        PARSERS[parser](content, folder)
    except VidsegError as error:
        assert len(str(error)) < 100_000


def png(header: bytes, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG of any chunks, with right checksums: readers then look at what is in them."""
    every = [(b"IHDR", header), *chunks, (b"IEND", b"")]
    parts = [
        len(data).to_bytes(4, "big") + name + data + zlib.crc32(name + data).to_bytes(4, "big") for name, data in every
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)

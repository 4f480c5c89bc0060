"""VSPW (Miao et al., CVPR 2021), also in its 480p edition.

    <split>.txt                       video names
    label_num_dic_final.json          class name -> number
    data/<video>/origin/*.jpg         frames, 15 per second
    data/<video>/mask/*.png           label maps of all frames: 1..124 classes, 0 "others" and 255 void;
                                      the split `test` comes without

Both 0 and 255 are void by the data set's own rule. Values stay as stored: the published evaluator reads them so.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from pipeline.datasets.listing import Video, pair_frames, read_names, require_annotations
from pipeline.errors import DataError
from pipeline.truth.class_list import ClassList, parse_classes

CLASSES = 124
IGNORE = (0, 255)
FPS = 15.0


def videos(root: Path, split: str | None) -> Iterator[Video]:
    """The videos of a split.

    Raises:
        DataError: a missing file, or one that does not fit.
    """
    names = read_names(root / f"{split}.txt")
    classes = _classes(root / "label_num_dic_final.json")
    for name in names:
        folder = root / "data" / name
        frames = pair_frames(folder / "origin", folder / "mask")
        if split != "test" or (folder / "mask").is_dir():
            require_annotations(frames, folder / "mask")
        yield Video(name, frames, FPS, classes)


def _classes(file: Path) -> ClassList:
    try:
        numbers = {name: int(number) for name, number in json.loads(file.read_text(encoding="utf-8")).items()}
    except FileNotFoundError as error:
        raise DataError(f"{file}: no such file; VSPW comes with it, it names the classes") from error
    except (ValueError, AttributeError, TypeError) as error:
        raise DataError(f"{file}: expected class names with their numbers, {{'wall': '1', ...}} ({error})") from error
    names: dict[int, str] = {}
    for name, number in numbers.items():
        if (other := names.setdefault(number, name)) != name:
            raise DataError(f"{file}: '{other}' and '{name}' both have the number {number}")
    classes = {number: names[number] for number in sorted(names) if number not in IGNORE}
    if list(classes) != list(range(1, CLASSES + 1)):
        raise DataError(f"{file}: names {len(classes)} classes, expected {CLASSES} with the numbers 1..{CLASSES}")
    return parse_classes(
        {"classes": [{"id": number, "name": name} for number, name in classes.items()], "ignore": IGNORE}
    )

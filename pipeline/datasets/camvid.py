"""CamVid (Brostow et al., 2008/2009) in its two common layouts.

11 classes, as the SegNet tutorial packs it (480x360, label ids, 11 = void):

    <split>/*.png, <split>annot/*.png

32 classes, as published (960x720, coloured label maps; one of the 32 is void):

    701_StillsRaw_full/*.png, LabeledApproved_full/*_L.png, label_colors.txt, <split>.txt (optional: frame names)

`label_colors.txt` is read where it is there, else the list that comes with this module is taken. A folder holds
frames of several drives; each run of evenly spaced frames is one video, named after its first frame. Frames are
named by the count of a 30 Hz camera.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import groupby, pairwise
from pathlib import Path
from statistics import mode

from pipeline.datasets.listing import (
    Frame,
    Video,
    frame_files,
    pair_frames,
    read_lines,
    read_names,
    require_annotations,
)
from pipeline.errors import DataError
from pipeline.truth.class_list import ClassList, parse_classes, read_classes

CLASS_LISTS = Path(__file__).parent / "classes"
CAMERA_FPS = 30.0


def videos(root: Path, split: str | None) -> Iterator[Video]:
    """The videos of a split; of all frames where the published layout is not split.

    Raises:
        DataError: neither of the two layouts, or a frame without a label map.
    """
    if (root / "LabeledApproved_full").is_dir():
        frames, classes = _published(root, split), _colours(root / "label_colors.txt")
    elif split is not None and (root / f"{split}annot").is_dir():
        frames, classes = pair_frames(root / split, root / f"{split}annot"), read_classes(CLASS_LISTS / "camvid11.json")
        require_annotations(frames, root / f"{split}annot")
    else:
        raise DataError(
            f"{root}: neither LabeledApproved_full/ (32 classes) nor <split>/ and <split>annot/ (11 classes, with "
            "--split train, val or test) is here"
        )
    for _, group in groupby(frames, lambda frame: _count(frame)[0]):
        for run, step in _runs(list(group)):
            yield Video(run[0].name, tuple(run), CAMERA_FPS / step, classes)


def _published(root: Path, split: str | None) -> tuple[Frame, ...]:
    images, labels = root / "701_StillsRaw_full", root / "LabeledApproved_full"
    files = frame_files(images)
    names = list(files) if split is None else sorted(read_names(root / f"{split}.txt"))
    for name in names:
        if name not in files:
            raise DataError(f"{images}: no frame {name}, which {split}.txt lists")
    maps = {name: labels / f"{name}_L.png" for name in names}
    frames = tuple(Frame(name, files[name], maps[name] if maps[name].is_file() else None) for name in names)
    require_annotations(frames, labels)
    return frames


def _colours(file: Path) -> ClassList:
    """The classes of a `label_colors.txt`: lines of red, green, blue and a name; Void is ignored."""
    if not file.is_file():
        return read_classes(CLASS_LISTS / "camvid32.json")
    rows = [re.fullmatch(r"\s*(\d+)\s+(\d+)\s+(\d+)\s+(\S.*?)\s*", line) for line in read_lines(file)]
    colours = {row[4]: [int(row[1]), int(row[2]), int(row[3])] for row in rows if row}
    loud = next((name for name, colour in colours.items() if max(colour) > 255), None)
    void = colours.pop("Void", None)
    if not colours or void is None or loud:
        wrong = f"; the colour of {loud} goes beyond 255" if loud else ""
        raise DataError(f"{file}: expected lines like '64 128 64 Animal', one of them of the class Void{wrong}")
    entries = [{"name": name, "color": colour} for name, colour in colours.items()]
    return parse_classes({"classes": entries, "ignore": [len(entries)], "void_color": void})


def _count(frame: Frame) -> tuple[str, int]:
    """Drive and camera count of a frame: 0001TP_006690, 0006R0_f00930."""
    parts = re.fullmatch(r"(.+?)_f?(\d+)", frame.name)
    if parts is None:
        raise DataError(f"{frame.image}: expected <drive>_<count>, like 0001TP_006690")
    return parts[1], int(parts[2])


def _runs(frames: Sequence[Frame]) -> Iterator[tuple[list[Frame], int]]:
    """Cut a drive where its frames lie further apart or closer than before; each run comes with its commonest step.

    Frames are annotated at 1 Hz, in part at 15 Hz; a single one may be off by a count or two.
    """
    run, steps = [frames[0]], list[int]()
    for before, after in pairwise(frames):
        step = _count(after)[1] - _count(before)[1]
        if step > 1.2 * (steps[0] if steps else CAMERA_FPS) or (steps and step < 0.5 * steps[0]):
            yield run, mode(steps or [int(CAMERA_FPS)])
            run, steps = [after], []
        else:
            run, steps = [*run, after], [*steps, step]
    yield run, mode(steps or [int(CAMERA_FPS)])

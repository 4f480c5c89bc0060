"""Masks that a person gives of some frames: which file is of which frame. (An I/O module.)"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import DataError, UsageError
from pipeline.media.pictures import label_maps

#: A label PNG of the clip's first frame, a folder of label PNGs named like frames, or a PNG for each of some frames of
#: the source, counted from 0.
Masks = Path | Mapping[int, Path]


def parse_masks(texts: Sequence[str]) -> Masks | None:
    """Read `--mask`, which may be repeated: PNG, FOLDER, or FRAME=PNG; None where it is not given.

    Raises:
        UsageError: several without a frame's number, or two of one frame.
    """
    numbered = [re.fullmatch(r"([0-9]{1,9})=(.+)", text, re.DOTALL) for text in texts]
    if len(texts) == 1 and numbered[0] is None:
        return Path(texts[0])
    files: dict[int, Path] = {}
    for text, found in zip(texts, numbered, strict=True):
        if found is None:
            raise UsageError(
                f"--mask {text}: of several masks each needs the number of its frame, from 0: --mask 0={text}"
            )
        frame, file = int(found[1]), Path(os.path.expanduser(found[2]))  # noqa: PTH111, which fails for ~nobody
        if frame in files:
            raise UsageError(f"--mask: two masks of frame {frame}: {files[frame]} and {file}; give one")
        files[frame] = file
    return files or None


@dataclass(frozen=True)
class MaskFiles:
    """The masks of a clip.

    Attributes:
        files: label PNGs by their frame's position in the clip, ascending.
        unused: those of a folder that are named like no frame of the clip.
    """

    files: Mapping[int, Path]
    unused: Sequence[Path] = ()


def find_masks(masks: Masks, names: Sequence[str], indices: Sequence[int]) -> MaskFiles:
    """Match masks to the frames of a clip.

    Args:
        names, indices: of the clip's frames, the latter in the source, ascending.

    Raises:
        DataError: no file of a folder is named like a frame.
        UsageError: a frame that is not in the clip, or a folder where a PNG should be.
    """
    if isinstance(masks, Path):
        return _in_folder(masks, names) if masks.is_dir() else MaskFiles({0: masks})
    for frame, file in masks.items():
        if frame not in indices:
            raise UsageError(f"--mask {frame}={file}: frame {frame} is not in the clip, which has {_frames(indices)}")
        if file.is_dir():
            raise UsageError(f"--mask {frame}={file}: is a folder; give its PNG, or the folder alone")
    return MaskFiles({indices.index(frame): masks[frame] for frame in sorted(masks)})


def _in_folder(folder: Path, names: Sequence[str]) -> MaskFiles:
    found, positions = label_maps(folder), {name: position for position, name in enumerate(names)}
    files = {positions[name]: file for name, file in found.items() if name in positions}
    if not files:
        raise DataError(
            f"{folder}: holds no PNG that is named like a frame, as a folder of masks does; frames are named like "
            f"'{names[0]}'" + (f", the first PNG '{next(iter(found))}'" if found else "")
        )
    return MaskFiles(dict(sorted(files.items())), [file for name, file in found.items() if name not in positions])


def _frames(indices: Sequence[int]) -> str:
    """Frames of a source, in words."""
    first, last = indices[0], indices[-1]
    if len(indices) == last - first + 1:
        return f"frames {first} to {last}"
    return f"{len(indices)} frames from {first} to {last}: {', '.join(map(str, indices[:3]))}, ..."

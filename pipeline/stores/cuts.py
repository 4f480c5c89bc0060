"""Where a clip is cut: cuts/cuts.json beside clip.zarr. Features do not depend on it; matches and windows do."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import DataError, UsageError
from pipeline.stores.record_folder import RecordFolder

FILE = "cuts.json"
KIND = RecordFolder(FILE, "cuts")
MARK = KIND.mark


@dataclass(frozen=True)
class Cuts:
    """The cuts of a clip.

    Attributes:
        frames: how many the clip has.
        positions: of the frames that begin a shot, but for the first one; 0-based, in the clip, ascending.
    """

    frames: int
    positions: tuple[int, ...] = ()

    @classmethod
    def at(cls, listed: Sequence[int], source_indices: Sequence[int]) -> Cuts:
        """The cuts that a person lists, as frames of the source.

        A shot begins with the first frame of the clip that is there from then on: a stride may leave out the one that
        is listed.

        Args:
            source_indices: of the clip's frames in its source, ascending.

        Raises:
            UsageError: names the frame that begins no second shot of the clip.
        """
        first, last = source_indices[0], source_indices[-1]
        for frame in sorted(listed):
            if not first < frame <= last:
                raise UsageError(
                    f"ingest.cuts: frame {frame} cuts nothing; the clip has frames {first} to {last} of the source"
                )
        return cls(len(source_indices), tuple(sorted({bisect_left(source_indices, frame) for frame in listed})))


def write_cuts(folder: Path, cuts: Cuts, source_indices: Sequence[int], scratch: Path) -> None:
    """Write cuts.json into a folder of its own, by one rename; `scratch` is a path for it on the same disk.

    Args:
        source_indices: of the clip's frames in its source, for people who read the file.

    Raises:
        DataError: something else lies there.
    """
    content = {
        "frames": cuts.frames,
        "cuts": list(cuts.positions),
        "source_frames": [source_indices[position] for position in cuts.positions],
    }
    KIND.write(folder, content, scratch)


def read_cuts(folder: Path, frames: int) -> Cuts:
    """Read what `write_cuts` wrote.

    Args:
        frames: of the clip that they should belong to.

    Raises:
        DataError: it is missing, damaged, of another version or of another clip.
    """
    cuts = KIND.read(folder, _parsed)
    if cuts.frames != frames:
        raise DataError(
            f"{Path(folder) / FILE}: is of a clip of {cuts.frames} frames, not of {frames}; "
            "give the cuts/ beside its clip.zarr"
        )
    return cuts


def _parsed(content: Mapping[str, Any]) -> Cuts:
    cuts = Cuts(int(content["frames"]), tuple(int(position) for position in content["cuts"]))
    if sorted({*cuts.positions, 0}) != [0, *cuts.positions] or cuts.frames <= max(cuts.positions, default=0):
        raise ValueError(f"its cuts are {list(cuts.positions)} of {cuts.frames} frames")
    return cuts


def find_cuts(given: Path | None, beside: Path, frames: int) -> Cuts:
    """The cuts in the folder that is given, else in the one that lies `beside` a store; without either there are none.

    Args:
        frames: of the clip that they should belong to.

    Raises:
        DataError: the folder cannot be read, or is of another clip.
    """
    if given is None and not (beside / FILE).is_file():
        return Cuts(frames)
    return read_cuts(given or beside, frames)

"""The masks that a person gives of a clip's frames: seed/seed.json and label PNGs beside clip.zarr."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from pipeline.errors import DataError
from pipeline.files import Mark, replacing_folder
from pipeline.media.pictures import write_label_png

FILE = "seed.json"
MARK = Mark(FILE, holds=frozenset({FILE, "mask.png", "mask_*.png"}))


def write_masks(
    folder: Path, masks: Mapping[int, Callable[[], np.ndarray]], indices: Sequence[int], scratch: Path
) -> None:
    """Write the folder anew, by one rename; `scratch` is a path for it on the same disk.

    Args:
        masks: what reads the label maps (H0, W0), u8 or u16, by position in the clip: one is held at a time.
        indices: of the clip's frames in their source.
    """
    files = {place: "mask.png" if place == 0 else f"mask_{indices[place]}.png" for place in masks}
    later = {str(indices[place]): file for place, file in files.items() if place > 0}
    listing = {"mask": files.get(0), **({"masks": later} if later else {})}
    with replacing_folder(folder, scratch) as made:
        for place, read in masks.items():
            write_label_png(made / files[place], read())
        (made / FILE).write_text(json.dumps(listing) + "\n")


def listed_masks(folder: Path, indices: Sequence[int]) -> dict[int, Path]:
    """The label PNGs of the folder by position in the clip, ascending.

    Args:
        indices: of the clip's frames in their source; for the first one's mask alone, any.

    Raises:
        DataError: the listing cannot be read, leads out of the folder, or names a frame that is not in the clip.
    """
    listing = Path(folder) / FILE
    try:
        content = json.loads(listing.read_text())
        first, later = content["mask"], {int(frame): name for frame, name in content.get("masks", {}).items()}
        files = ({} if first is None else {0: first}) | {_position(frame, indices): later[frame] for frame in later}
        if any(name != Path(name).name for name in files.values()):
            raise ValueError(f"one of the masks {list(files.values())} is not in the folder")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f'{listing}: not readable ({error}); a seed folder holds seed.json with {{"mask": null}} or '
            '{"mask": "mask.png"}, and for other frames {"mask": null, "masks": {"45": "mask_45.png"}}'
        ) from error
    return {place: Path(folder) / files[place] for place in sorted(files)}


def _position(frame: int, indices: Sequence[int]) -> int:
    if frame not in indices:
        raise ValueError(f"frame {frame} is not in the clip")
    return indices.index(frame)

"""The formats by name, and how an export appears in a folder: whole, and never over what others wrote."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pipeline.errors import DataError, UsageError
from pipeline.export.alpha import alpha_file, write_alpha
from pipeline.export.array_file import write_npz
from pipeline.export.coco import write_instances, write_panoptic
from pipeline.export.cvat import write_cvat
from pipeline.export.labelled_clip import Advance, LabelledClip
from pipeline.export.mask_pictures import davis_numbers, mask_folder, write_davis, write_masks
from pipeline.export.youtube_vis import write_youtube_vis
from pipeline.files import Mark, replace_folder, replacing, scratch_folder
from pipeline.media.alpha_video import CODECS
from pipeline.media.pictures import write_image

SCHEMA = "export"
SCHEMA_VERSION = 1
#: What a folder of exports holds beside them: which they are, and what the numbers in them mean.
FILE = "export.json"
MARK = Mark(FILE, SCHEMA)

#: Where the frames go with `images`: beside annotations that name a video's folder, in one of that name.
IMAGES, BY_VIDEO = "images", "JPEGImages"

Writer = Callable[[LabelledClip, Path, Advance], None]


@dataclass(frozen=True)
class Export:
    """One export: a format, and how it is written.

    Attributes:
        format: its name.
        outputs: names of what it leaves in the folder.
        write: writes them.
        images: the folder for the frames, where they come along.
    """

    format: str
    outputs: tuple[str, ...]
    write: Writer
    images: str = IMAGES

    def all_outputs(self, images: bool) -> tuple[str, ...]:
        """Names of what it leaves in the folder, with or without the frames."""
        return (*self.outputs, self.images) if images else self.outputs


#: What each format leaves in the folder. `alpha` leaves a video, named by its codec.
FORMATS: dict[str, tuple[tuple[str, ...], Writer]] = {
    "coco-panoptic": (("panoptic.json", "panoptic"), write_panoptic),
    "coco-instances": (("instances.json",), write_instances),
    "youtube-vis": (("youtube_vis.json",), write_youtube_vis),
    "davis": (("Annotations",), write_davis),
    "cvat": (("cvat.xml", "cvat_labels.json"), write_cvat),
    "masks": (("masks",), write_masks),
    "npz": (("labels.npz",), write_npz),
    "alpha": ((), write_alpha),
}


def choose(format: str, components: bool = False, codec: str | None = None) -> Export:
    """The export of a format.

    Raises:
        UsageError: no such format or codec, or an option that is not for it.
    """
    if format not in FORMATS:
        raise UsageError(f"--format {format}: there is no such format; there are: {', '.join(FORMATS)}")
    if components and format != "coco-instances":
        raise UsageError(f"--components is for --format coco-instances, not {format}")
    if codec is not None and format != "alpha":
        raise UsageError(f"--codec is for --format alpha, not {format}")
    outputs, write = FORMATS[format]
    if format == "alpha":
        codec = codec or "prores"
        if codec not in CODECS:
            raise UsageError(f"--codec {codec}: there is no such codec; there are: {', '.join(CODECS)}")
        return Export(format, (alpha_file(codec),), partial(write_alpha, codec=codec))
    if components:
        write = partial(write_instances, components=True)
    return Export(format, outputs, write, BY_VIDEO if format in ("davis", "youtube-vis") else IMAGES)


def check_place(out: Path, outputs: Sequence[str]) -> None:
    """Refuse a folder in which something of others stands where an export goes.

    Raises:
        DataError: it does, or the folder is a file.
    """
    if out.exists() and not out.is_dir():
        raise DataError(f"{out}: is a file; give a folder with -o")
    ours = _listed(out)
    for name in (*outputs, FILE):
        if (out / name).exists() and (name not in ours if name != FILE else not MARK.on(out)):
            raise DataError(f"{out / name}: was not written by `vidseg export`; choose another folder with -o")


def write(export: Export, clip: LabelledClip, out: Path, advance: Advance, images: bool = False) -> Path:
    """Write an export into the folder `out`, whole or not at all; returns the folder.

    Args:
        advance: told of each frame, and again where pictures are written.
        images: write the frames too, as images/FRAME.jpg or JPEGImages/VIDEO/FRAME.jpg.

    Raises:
        DataError: as `check_place`.
    """
    outputs = export.all_outputs(images)
    check_place(out, outputs)
    with scratch_folder(out / "tmp" / "export") as scratch:
        export.write(clip, scratch, advance)
        if images:
            place = scratch / export.images / (clip.name if export.images == BY_VIDEO else "")
            for frame, image in zip(clip.frames, clip.pictures.images(), strict=True):
                write_image(place / f"{frame}.jpg", image)
                advance(1)
        _list(out, export.format, outputs, clip)  # first: a kill in between must not leave outputs of nobody
        for name in outputs:
            if (scratch / name).is_dir():
                replace_folder(scratch / name, out / name)
            else:
                (scratch / name).replace(out / name)
    return out


def _listed(out: Path) -> set[str]:
    """Names of all that exports have left in a folder."""
    if not MARK.on(out):
        return set()
    content = json.loads((out / FILE).read_text())
    return {name for entry in content.get("exports", {}).values() for name in entry.get("files", ())}


def _list(out: Path, format: str, outputs: Sequence[str], clip: LabelledClip) -> None:
    content: dict[str, Any] = json.loads((out / FILE).read_text()) if MARK.on(out) else {"exports": {}}
    earlier = set(content["exports"].get(format, {}).get("files", ()))
    kept = {name for other, entry in content["exports"].items() if other != format for name in entry["files"]}
    for name in earlier - {*outputs} - kept:  # e.g. the video of another codec
        shutil.rmtree(out / name) if (out / name).is_dir() else (out / name).unlink(missing_ok=True)
    exports = {**content["exports"], format: {"files": list(outputs), "segments": _segments(format, clip)}}
    record = {"schema": SCHEMA, "schema_version": SCHEMA_VERSION, "exports": dict(sorted(exports.items()))}
    with replacing(out / FILE) as temporary:
        temporary.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _segments(format: str, clip: LabelledClip) -> list[dict[str, Any]]:
    """What the segments are called, and where this format puts them."""
    objects, categories = (davis_numbers(clip) if format == "davis" else {}), clip.categories()
    where: dict[str, Callable[[Any], dict[str, Any]]] = {
        "davis": lambda segment: {"value": objects.get(segment.id, 0)},
        "masks": lambda segment: {"folder": f"masks/{mask_folder(segment)}"},
        "coco-panoptic": lambda segment: {"segment_id": segment.id + 1, "category_id": categories[segment.name]},
        "coco-instances": lambda segment: {"track_id": segment.id + 1, "category_id": categories[segment.name]},
        "youtube-vis": lambda segment: {"category_id": categories[segment.name]},
    }
    more = where.get(format, lambda segment: {})
    return [{"label": s.id, "name": s.name, "color": list(s.color or ()), **more(s)} for s in clip.segments]

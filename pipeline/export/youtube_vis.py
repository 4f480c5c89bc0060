"""YouTube-VIS: one annotation per segment, with its masks in all frames of the video."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from pipeline.export.coco import coded
from pipeline.export.json_lists import write_with_list
from pipeline.export.labelled_clip import Advance, LabelledClip
from pipeline.files import scratch_folder
from pipeline.naming.segments import Segment

#: What an annotation says of each frame; null where the segment is absent.
_BY_FRAME = {"segmentations": "segmentation", "bboxes": "bbox", "areas": "area"}


def write_youtube_vis(clip: LabelledClip, folder: Path, advance: Advance) -> None:
    """youtube_vis.json. The masks of a segment wait on disk until its annotation is written: memory stays flat."""
    height, width = clip.size
    categories = clip.categories()
    head = {
        "info": {"description": f"Segments of {clip.name}, found by vidseg"},
        "licenses": [],
        "videos": [
            {
                "id": 1,
                "width": width,
                "height": height,
                "length": len(clip.frames),
                "file_names": [f"{clip.name}/{frame}.jpg" for frame in clip.frames],
            }
        ],
        "categories": [{"id": number, "name": name, "supercategory": ""} for name, number in categories.items()],
    }
    with scratch_folder(folder / "waiting") as waiting:
        files = {segment.id: waiting / str(segment.id) for segment in clip.segments}
        with ExitStack() as stack:
            streams = {label: stack.enter_context(file.open("w")) for label, file in files.items()}
            for plane in clip.planes():
                for label, stream in streams.items():
                    mask = plane == label
                    stream.write(f"{json.dumps(coded(mask) if mask.any() else None)}\n")
                advance(1)

        def annotation(number: int, segment: Segment) -> Iterator[str]:
            about = {
                "id": number,
                "video_id": 1,
                "category_id": categories[str(segment.name)],
                "iscrowd": 0,
                "width": width,
                "height": height,
                "length": len(clip.frames),
            }
            yield json.dumps(about)[:-1]
            for name, member in _BY_FRAME.items():
                yield f', "{name}": ['
                with files[segment.id].open() as stream:
                    for frame, line in enumerate(stream):
                        said = json.loads(line)
                        yield f"{', ' if frame else ''}{json.dumps(said and said[member])}"
                yield "]"
            yield "}"

        entries = (annotation(number, segment) for number, segment in enumerate(clip.segments, 1))
        write_with_list(folder / "youtube_vis.json", head, "annotations", entries)

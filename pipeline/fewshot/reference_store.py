"""Annotated images as a store, refs.zarr: images of different sizes lie in the upper left corners of equal frames."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pipeline.fewshot.references import References
from pipeline.fewshot.segments import IGNORE, SegmentTable
from pipeline.stores.schemas import REFS, ArraySpec
from pipeline.stores.store import Store, array_fingerprint, fingerprint, is_current
from pipeline.stores.writer import StoreWriter


def write_references(path: Path, scratch: Path, references: References, version: int) -> Path:
    """Write refs.zarr, one image per file; nothing where it lies there already. (This module takes paths.)

    Args:
        version: of the stage.
    """
    arrays = (*references.images, *references.labels)
    record = references.table.record()
    mark = fingerprint("references", version, [array_fingerprint(array) for array in arrays], references.names, record)
    if is_current(path, REFS, mark):
        return path
    count, sizes = len(references.images), [image.shape[:2] for image in references.images]
    height, width = (max(size[axis] for size in sizes) for axis in (0, 1))
    dtype = np.result_type(*references.labels)
    writer = StoreWriter(
        path,
        scratch,
        REFS,
        mark,
        {
            "images": ArraySpec((count, height, width, 3), "uint8", 1),
            "labels": ArraySpec((count, height, width), str(dtype), 1),
        },
        params={},
        attrs={"names": list(references.names), "sizes": [list(size) for size in sizes], "segments": record},
    )
    for number, (image, labels) in enumerate(zip(references.images, references.labels, strict=True)):
        below, beside = height - image.shape[0], width - image.shape[1]
        writer.write("images", number, np.pad(image, ((0, below), (0, beside), (0, 0)))[None])
        writer.write("labels", number, np.pad(labels, ((0, below), (0, beside)), constant_values=IGNORE)[None])
    return writer.commit()


def read_stored_references(store: Store) -> References:
    """What `write_references` wrote."""
    images, labels = [], []
    for number, (height, width) in enumerate(store.attrs["sizes"]):
        images.append(store.read("images", number, number + 1)[0, :height, :width])
        labels.append(store.read("labels", number, number + 1)[0, :height, :width])
    table = SegmentTable.of_record(store.attrs["segments"])
    return References(tuple(images), tuple(labels), tuple(store.attrs["names"]), table)

"""Labels with names: labels.zarr read through names.json, and named.zarr, which keeps the result."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from pipeline.errors import DataError
from pipeline.naming.names import NamesFile, read_names
from pipeline.naming.segments import NAMING, Naming, segments_of
from pipeline.stores.confidence import CONFIDENCE
from pipeline.stores.numbering import ATTRIBUTE, Numbering
from pipeline.stores.schemas import LABELS, ArraySpec, label_dtype
from pipeline.stores.store import Attributes, Store, fingerprint, shard_frames
from pipeline.stores.writer import StoreWriter

#: Labels with names; they are read as those of `upsample` are.
NAMED = replace(LABELS, stage="name")


def with_names(labels: Store, names: Path | None) -> Store:
    """Labels as a names.json says, or as they are without one; raises as `read_names` and `NamedLabels`."""
    return labels if names is None else NamedLabels(labels, read_names(names), str(names))


class NamedLabels(Store):
    """labels.zarr with names: its labels are merged and dropped whenever they are read.

    Its attributes are the store's, and `segments`, `void` (value of dropped pixels; null = there are none), `naming`
    (what names.json said) and `made_by` (the stage that made the labels).

    Args:
        labels: labels.zarr, without names.
        content: names, and what they fit.
        where: the file, for messages.

    Raises:
        DataError: the names are for other segments, or for labels that are not there; or the store has names already.
    """

    def __init__(self, labels: Store, content: NamesFile, where: str) -> None:
        if NAMING in labels.attrs:
            raise DataError(f"{labels.path}: has names already; give the labels.zarr that it was made of")
        super().__init__(labels.path, labels.schema, labels.attrs, labels._arrays)
        numbering = Numbering.of_labels(labels)
        before = {label: s.name for label, s in segments_of(labels).items() if s.name is not None}
        self.naming = Naming(numbering, content.names_for(numbering, where), before)
        more = {
            ATTRIBUTE: numbering.record(),
            "segments": self.naming.record(),
            "void": self.naming.void,
            NAMING: content.record(),
            "made_by": labels.stage,
        }
        self.attrs = Attributes({**labels.attrs, **more}, labels.path, labels.schema)

    def read(self, name: str, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Frames start..stop of an array; raises as `Store.read`."""
        values = super().read(name, start, stop)
        return self.naming.apply(values) if name == "labels" else values

    def named_fingerprint(self) -> str:
        """That of the store that holds these labels."""
        return fingerprint("name", self.fingerprint, self.attrs[NAMING])

    @property
    def arrays(self) -> tuple[str, ...]:
        """Names of what the store that holds these labels has."""
        return ("labels", CONFIDENCE) if self.has(CONFIDENCE) else ("labels",)

    def writer(self, path: Path, scratch: Path) -> StoreWriter:
        """Writes named.zarr, which holds these labels; all frames of `arrays` are to be written to it."""
        kept = ("clip", "names", "concept", "arrays", ATTRIBUTE, "segments", "void", NAMING, "made_by")
        labels = self.array("labels")
        highest = max(np.iinfo(labels.dtype).max, self.naming.void or 0)
        spec = ArraySpec(labels.shape, label_dtype(int(highest)), shard_frames(labels))
        return StoreWriter(
            path,
            scratch,
            NAMED,
            self.named_fingerprint(),
            {name: spec if name == "labels" else replace(spec, dtype="uint8") for name in self.arrays},
            params=self.params,
            backbone=self.attrs.get("backbone"),
            attrs={"labels": self.fingerprint, **{name: self.attrs[name] for name in kept if name in self.attrs}},
        )

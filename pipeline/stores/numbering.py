"""What gave labels their numbers: by one numbering, a number means the same in every clip, and so do names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.errors import DataError
from pipeline.stores.store import Store

#: The attribute of coarse.zarr and labels.zarr that holds the record.
ATTRIBUTE = "numbering"


@dataclass(frozen=True)
class Numbering:
    """What gave a clip's labels their numbers.

    Attributes:
        origin: hash of it. Of a clip whose segments were found in itself it follows from its features, the parameters
            `segment` and the first frame's mask; one that began with a context model has that model's; of learned
            segments it is the concept's fingerprint.
        labels: all numbers that were given, sorted; a clip need not have each of them.
    """

    origin: str
    labels: tuple[int, ...]

    def record(self) -> dict[str, Any]:
        """What a store keeps in its attribute `numbering`."""
        return {"origin": self.origin, "labels": list(self.labels)}

    @classmethod
    def of_record(cls, record: Any) -> Numbering:
        """The numbering that a record holds.

        Raises:
            LookupError, TypeError, ValueError: it is no such record.
        """
        return cls(str(record["origin"]), tuple(int(label) for label in record["labels"]))

    @classmethod
    def of_segments(cls, concept: str, segments: Iterable[Mapping[str, Any]]) -> Numbering:
        """The numbering of learned segments.

        Args:
            concept: fingerprint.
            segments: as the concept and its labels note them, each with its `id`.
        """
        return cls(concept, tuple(sorted(int(segment["id"]) for segment in segments)))

    @classmethod
    def of_labels(cls, labels: Store) -> Numbering:
        """The numbering of labels.zarr or named.zarr.

        Raises:
            DataError: the store was written before stores noted it.
        """
        if (record := labels.attrs.get(ATTRIBUTE)) is not None:
            return _read(labels, record)
        if labels.stage == "apply":
            return cls.of_segments(str(labels.attrs["concept"]), labels.attrs["segments"])
        raise DataError(
            f"{labels.path}: an earlier version made it, which did not note what numbers its labels; delete it and "
            f"run `vidseg {labels.stage}` (or `vidseg run`) again"
        )

    @classmethod
    def of_coarse(cls, coarse: Store) -> Numbering:
        """The numbering of coarse.zarr; one of an earlier version has the labels that it holds."""
        if (record := coarse.attrs.get(ATTRIBUTE)) is not None:
            return _read(coarse, record)
        found: set[int] = set()
        for name in coarse.schema.arrays:
            for frame in range(coarse.frames(name)):
                found.update(coarse.read(name, frame, frame + 1).ravel().tolist())
        return cls(coarse.fingerprint, tuple(sorted(found)))


def _read(store: Store, record: Any) -> Numbering:
    try:
        return Numbering.of_record(record)
    except (LookupError, TypeError, ValueError) as error:
        raise DataError(
            f"{store.path}: its attribute '{ATTRIBUTE}' is damaged; delete it and run `vidseg {store.stage}` again"
        ) from error

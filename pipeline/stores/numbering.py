"""What gave labels their numbers: by one numbering, a number means the same in every clip, and so do names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from pipeline.errors import DataError
from pipeline.stores.store import Store, fingerprint

#: The attribute of coarse.zarr and labels.zarr that holds the record.
ATTRIBUTE = "numbering"


@dataclass(frozen=True)
class Birth:
    """A segment that was born after the first frame of a clip.

    Attributes:
        label: its number.
        clip: fingerprint of the clip's features.
        first, last: positions in the clip of the frames where it is seen first and last, as far as it is known.
    """

    label: int
    clip: str
    first: int
    last: int


@dataclass(frozen=True)
class Numbering:
    """What gave a clip's labels their numbers.

    Attributes:
        origin: hash of it. Of a clip whose segments were found in itself it follows from its features, the parameters
            `segment` and the first frame's mask; one that began with a context model has that model's; of learned
            segments it is the concept's fingerprint. Where segments were born it follows from what these follow from.
        labels: all numbers that were given, sorted; a clip need not have each of them.
        births: of segments that were born later, by number.
        earlier: the origins before segments were born, the latest first: names that fit one of them fit here as well.
    """

    origin: str
    labels: tuple[int, ...]
    births: tuple[Birth, ...] = ()
    earlier: tuple[str, ...] = ()

    @property
    def origins(self) -> tuple[str, ...]:
        """What names may say that they fit."""
        return (self.origin, *self.earlier)

    @property
    def born(self) -> frozenset[int]:
        """Numbers of segments that were born later."""
        return frozenset(birth.label for birth in self.births)

    def with_births(self, births: Mapping[int, tuple[int, int]], clip: str, made_of: Sequence[Any]) -> Numbering:
        """This numbering, and the segments that were born in a clip; itself where none was.

        Args:
            births: by number, the first and the last frame that shows it; of those known already the last one counts.
            clip: fingerprint of the clip's features.
            made_of: what else the births follow from.
        """
        known = {birth.label: birth for birth in self.births}
        for label, (first, last) in births.items():
            earlier = known.get(label)
            if earlier is None:
                known[label] = Birth(label, clip, first, last)
            elif earlier.clip == clip:
                known[label] = replace(earlier, last=max(earlier.last, last))
        record = tuple(birth for _, birth in sorted(known.items()))
        if set(births) <= self.born:
            return replace(self, births=record)
        labels = tuple(sorted({*self.labels, *births}))
        # Window by window a clip comes to the same origin as at once.
        once_more = bool(self.earlier) and self.origin == _grown(self.earlier[0], clip, made_of)
        origins = self.earlier if once_more else self.origins
        return Numbering(_grown(origins[0], clip, made_of), labels, record, origins)

    def record(self) -> dict[str, Any]:
        """What a store keeps in its attribute `numbering`."""
        births = [asdict(birth) for birth in self.births]
        grown = {"births": births, "earlier": list(self.earlier)} if births else {}
        return {"origin": self.origin, "labels": list(self.labels), **grown}

    @classmethod
    def of_record(cls, record: Any) -> Numbering:
        """The numbering that a record holds.

        Raises:
            AttributeError, LookupError, TypeError, ValueError: it is no such record.
        """
        births = tuple(
            Birth(int(birth["label"]), str(birth["clip"]), int(birth["first"]), int(birth["last"]))
            for birth in record.get("births", ())
        )
        labels, earlier = record["labels"], record.get("earlier", ())
        return cls(str(record["origin"]), tuple(int(label) for label in labels), births, tuple(map(str, earlier)))

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


def born_of(labels: Store) -> frozenset[int]:
    """Numbers of a store's segments that were born after the first frame; none in one of an earlier version."""
    record = labels.attrs.get(ATTRIBUTE)
    return frozenset() if record is None else _read(labels, record).born


def _grown(origin: str, clip: str, made_of: Sequence[Any]) -> str:
    return fingerprint("births", origin, clip, *made_of)


def _read(store: Store, record: Any) -> Numbering:
    try:
        return Numbering.of_record(record)
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise DataError(
            f"{store.path}: its attribute '{ATTRIBUTE}' is damaged; delete it and run `vidseg {store.stage}` again"
        ) from error

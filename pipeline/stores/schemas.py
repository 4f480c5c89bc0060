"""What each store holds: its schema, its arrays and their types."""

from __future__ import annotations

from dataclasses import dataclass, replace

from pipeline.errors import DataError
from pipeline.files import Mark


@dataclass(frozen=True)
class Schema:
    """What a store holds: its name, the version of its layout, the stage that writes it and the arrays it has.

    A store with others says so in its attribute `arrays`.
    """

    name: str
    version: int
    stage: str
    arrays: tuple[str, ...]

    @property
    def mark(self) -> Mark:
        """What tells a store of this schema, an incomplete one or one of another version too."""
        return Mark("zarr.json", self.name, ("attributes", "schema"))


#: The largest label value that a store can hold.
LARGEST_LABEL = 65535

CLIP = Schema("clip", 1, "ingest", ("frames",))


TRUTH = Schema("truth", 1, "ingest", ("ground_truth",))


FEATURES = Schema("features", 1, "extract", ("aggregated", "matching"))


LATENTS = Schema("latents", 1, "extract", ("latents",))


MATCHES = Schema("matches", 1, "correspond", ("next", "similarity"))


COARSE = Schema("coarse", 1, "segment", ("initial", "refined"))


LABELS = Schema("labels", 1, "upsample", ("labels",))


REFS = Schema("refs", 1, "references", ("images", "labels"))


CONCEPT = Schema("concept", 1, "learn", ("context", "positions", "log", "reference_numbers"))


#: By chunks of frames, which overlap.
SOFT = Schema("soft", 1, "apply", ("initial", "maps", "numbers"))


#: Labels of segments that were learned; they are read as those of `upsample` are.
APPLIED_LABELS = replace(LABELS, stage="apply")


TRACKS = Schema("tracks", 1, "track", ("yx", "visible", "start"))


_ALL = (CLIP, TRUTH, FEATURES, LATENTS, MATCHES, COARSE, LABELS, REFS, CONCEPT, TRACKS, SOFT)
#: All schemas by name.
SCHEMAS = {schema.name: schema for schema in _ALL}


@dataclass(frozen=True)
class ArraySpec:
    """Template of one array: full shape (frames first), dtype, and frames per shard file."""

    shape: tuple[int, ...]
    dtype: str
    shard: int = 14


def label_dtype(highest: int) -> str:
    """The smallest of uint8 and uint16 that holds label values up to `highest`."""
    if highest > LARGEST_LABEL:
        raise DataError(f"label {highest} is larger than {LARGEST_LABEL}, the largest that a store of labels can hold")
    return "uint8" if highest <= 255 else "uint16"

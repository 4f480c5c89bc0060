"""The scene context model on disk: a folder with `index.faiss`, `labels.npy` and `meta.json`.

`index.faiss` is a flat L2 index of all remembered tokens, `labels.npy` their label values in the same order;
`meta.json` says how they split into segments of memory and which features they are. One of segments that have names,
as drawn ones do, has `names.json` as well.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import DataError
from pipeline.files import Mark, refuse_foreign, replacing_folder, require_version
from pipeline.naming.names import FILE, Named, Names, NamesFile, read_names, write_names
from pipeline.segmentation.context import Context, Segment
from pipeline.segmentation.correspondence import Grid
from pipeline.segmentation.faiss_library import load_faiss
from pipeline.stores.numbering import Numbering
from pipeline.stores.store import array_fingerprint, fingerprint

SCHEMA = "context"
SCHEMA_VERSION = 1
MARK = Mark("meta.json", SCHEMA)
REMEDY = "make it again with `vidseg segment` or `vidseg context fit`"


@dataclass(frozen=True)
class FeatureKind:
    """Which features a context model holds; only clips with the same kind can use it.

    Attributes:
        backbone: hash of the weights.
        name: `aggregated` or `matching`.
        recipe: blocks, step and normalisation, in words.
        channels: how many a token's features have.
    """

    backbone: str
    name: str
    recipe: str
    channels: int


@dataclass(frozen=True)
class StoredContext:
    """A context model and what is known about it.

    Attributes:
        context: the model.
        kind: which features it holds.
        grid: (h, w) of the clip it learnt from; other grids may use it.
        fitted_on: fingerprint of the features whose frame 1 it was fitted on.
        given: what gave its labels their numbers, of which it may have forgotten some; None = this model itself did.
        names: of its labels, as names.json says them; None = they have none.
    """

    context: Context
    kind: FeatureKind
    grid: Grid
    fitted_on: str
    given: Numbering | None = None
    names: NamesFile | None = None

    @property
    def numbering(self) -> Numbering:
        """What numbers the labels of all clips that begin with this model."""
        own = tuple(np.unique(self.context.labels).tolist())
        return self.given or Numbering(model_fingerprint(self), own)


def save_context(folder: Path, stored: StoredContext) -> Path:
    """Write a context model: by one rename or not at all, and equal models give equal bytes.

    Raises:
        DataError: something else than a context model lies there.
    """
    faiss = load_faiss()
    folder = Path(folder)
    refuse_foreign(folder, MARK)
    context = stored.context
    index = faiss.IndexFlatL2(stored.kind.channels)
    index.add(context.features)
    meta = {
        "schema": SCHEMA,
        "schema_version": SCHEMA_VERSION,
        "features": asdict(stored.kind),
        "grid": list(stored.grid),
        "fitted_on": stored.fitted_on,
        "numbering": None if stored.given is None else stored.given.record(),
        "first": None if context.first is None else len(context.first.labels),
        "windows": [len(window.labels) for window in context.windows],
        **({} if context.prototypes is None else {"prototypes": len(context.prototypes.labels)}),
    }
    with replacing_folder(folder, folder.parent / "tmp" / f"{folder.name}.writing") as made:
        made.joinpath("index.faiss").write_bytes(faiss.serialize_index(index).tobytes())
        np.save(made / "labels.npy", context.labels)
        made.joinpath("meta.json").write_text(json.dumps(meta, indent=2) + "\n")
        if stored.names is not None:
            write_names(made / FILE, stored.names)
    return folder


def with_names(stored: StoredContext, names: Mapping[int, str]) -> StoredContext:
    """A context model whose labels have names; those of labels that it does not hold are left out."""
    known = {label: Named(names[label]) for label in stored.numbering.labels if label in names}
    return replace(stored, names=NamesFile(stored.numbering.origin, Names(known)))


def names_in(folder: Path) -> Path | None:
    """The names.json of a context model's labels, None where they have no names."""
    path = folder / FILE
    return path if path.is_file() else None


def load_context(folder: Path, kind: FeatureKind | None = None) -> StoredContext:
    """Read a context model.

    Args:
        kind: the features it must hold; None = any.

    Raises:
        DataError: the folder is missing, damaged, not a context, of another schema version or of other
            features, or its names.json is none.
    """
    faiss = load_faiss()
    folder = Path(folder)
    meta = _read_meta(folder)
    try:
        data = np.frombuffer(folder.joinpath("index.faiss").read_bytes(), np.uint8)
        index = faiss.deserialize_index(data)
        features = index.reconstruct_n(0, index.ntotal)
        labels = np.load(folder / "labels.npy", allow_pickle=False)
        held = FeatureKind(**meta["features"])
        first, windows, prototypes = meta["first"], list(meta["windows"]), meta.get("prototypes")
        grid = (int(meta["grid"][0]), int(meta["grid"][1]))
        fitted_on = str(meta["fitted_on"])
        given = None if meta.get("numbering") is None else Numbering.of_record(meta["numbering"])
        sizes = ([] if first is None else [first]) + windows + ([] if prototypes is None else [prototypes])
        if not len(features) == len(labels) == sum(sizes) or features.shape[1] != held.channels:
            raise ValueError("its files do not belong together")
    except (
        OSError,
        EOFError,
        ValueError,
        RuntimeError,
        KeyError,
        TypeError,
        IndexError,
        AttributeError,
    ) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(f"{folder}: damaged context model ({reason}); {REMEDY}") from error
    if kind is not None:
        _require_kind(held, kind, folder)
    ends = np.cumsum(sizes)
    segments = [
        Segment(features[end - size : end], labels[end - size : end]) for size, end in zip(sizes, ends, strict=True)
    ]
    kept = None if prototypes is None else segments.pop()
    fitted = None if first is None else segments.pop(0)
    said = names_in(folder)
    names = None if said is None else read_names(said)
    return StoredContext(Context(fitted, tuple(segments), kept), held, grid, fitted_on, given, names)


def model_fingerprint(stored: StoredContext) -> str:
    """Hash of everything that predictions and updates depend on."""
    context = stored.context
    sizes = [len(segment.labels) for segment in context.segments]
    return fingerprint(
        asdict(stored.kind),
        stored.fitted_on,
        context.first is None,
        sizes,
        *(() if context.prototypes is None else ("prototypes",)),
        array_fingerprint(context.features),
        array_fingerprint(context.labels),
    )


def _require_kind(held: FeatureKind, kind: FeatureKind, folder: Path) -> None:
    if held == kind:
        return
    differing = next(
        f"{name} is {value!r} there and {getattr(kind, name)!r} here"
        for name, value in asdict(held).items()
        if value != getattr(kind, name)
    )
    raise DataError(
        f"{folder}: made from other features than this clip's ({differing}); "
        "use a context made with the same backbone, extract parameters and segment.features"
    )


def _read_meta(folder: Path) -> dict[str, Any]:
    if not folder.is_dir():
        raise DataError(f"{folder}: no such context model; {REMEDY}")
    try:
        meta = json.loads(folder.joinpath("meta.json").read_text())
    except (OSError, ValueError) as error:
        raise DataError(f"{folder}: not a context model (no readable meta.json); {REMEDY}") from error
    if not isinstance(meta, dict) or meta.get("schema") != SCHEMA:
        raise DataError(f"{folder}: not a context model (meta.json says otherwise); {REMEDY}")
    require_version(folder, meta, SCHEMA_VERSION, REMEDY)
    return meta

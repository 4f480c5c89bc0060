"""A concept on disk: a folder with `concept.zarr` and, where weights were tuned, `adapter.safetensors` (I/O module).

It holds all that applying it needs, and says what it was learned from: it can be copied to anywhere.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.errors import DataError, WeightsError
from pipeline.fewshot.segments import SegmentTable
from pipeline.files import Mark, refuse_foreign, replacing_folder
from pipeline.parameters import LearnParams, MapsParams, of_stored
from pipeline.stores.schemas import CONCEPT, ArraySpec
from pipeline.stores.store import Store, array_fingerprint, is_current, open_store
from pipeline.stores.store import fingerprint as content_fingerprint
from pipeline.stores.writer import StoreWriter

if TYPE_CHECKING:  # importing torch takes seconds, and seeing that a concept is there must not
    from pipeline.backbone.adapter import Adapter
    from pipeline.fewshot.concept import Concept

STORE, ADAPTER = "concept.zarr", "adapter.safetensors"
MARK = Mark(f"{STORE}/zarr.json", CONCEPT.name, ("attributes", "schema"), frozenset({STORE, ADAPTER}))
#: Attribute: fingerprint of the context and the adapter's SHA-256. Concepts of earlier versions have none.
LEARNED = "learned"
#: What stands in the log where nothing was done: stores hold finite numbers.
NOTHING = -1.0


def save_concept(
    folder: Path, concept: Concept, fingerprint: str, references: str, params: Mapping[str, Mapping[str, Any]]
) -> Path:
    """Write a concept: by one rename or not at all, and equal concepts give equal bytes.

    Args:
        fingerprint: of all that decides it.
        references: fingerprint of refs.zarr.
        params: the sections that decided it, as stores keep them: `learn`, `maps`, `backbone`.

    Raises:
        DataError: something else than a concept lies there.
    """
    from pipeline.backbone.adapter import save_adapter

    refuse_foreign(folder, MARK)
    tuned = None if concept.adapter is None else concept.adapter.sha256
    arrays = {
        "context": concept.context.numpy(),
        "positions": np.array(concept.positions, np.int32),
        "log": np.nan_to_num(concept.log, nan=NOTHING),
        "reference_numbers": concept.reference_numbers,
    }
    with replacing_folder(folder, folder.parent / "tmp" / f"{folder.name}.writing") as made:
        writer = StoreWriter(
            made / STORE,
            made / "tmp",
            CONCEPT,
            fingerprint,
            {name: ArraySpec(values.shape, str(values.dtype), max(len(values), 1)) for name, values in arrays.items()},
            params=params,
            backbone=concept.fingerprint,
            attrs={
                "references": references,
                "names": list(concept.references),
                "segments": concept.table.record(),
                "reference_iou": concept.reference_iou,
                "adapter": tuned,
                LEARNED: content_fingerprint(array_fingerprint(arrays["context"]), tuned),
            },
        )
        for name, values in arrays.items():
            writer.write(name, 0, values)
        writer.commit()
        if concept.adapter is not None:
            save_adapter(concept.adapter, made / ADAPTER)
    return folder


def open_concept(folder: Path) -> Store:
    """The store of a concept, without its adapter.

    Raises:
        DataError: there is none, or it is damaged or of another version.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such concept; run `vidseg learn` to make it")
    if not (folder / STORE).exists():
        if (folder / "images").is_dir():
            raise DataError(
                f"{folder}: annotated images, not a concept; run `vidseg learn {folder} -o CONCEPT` and give CONCEPT"
            )
        inside = folder.name == STORE
        raise DataError(
            f"{folder}: a part of a concept; give its folder, {folder.parent}"
            if inside
            else f"{folder}: no concept here; run `vidseg learn` to make one"
        )
    return open_store(folder / STORE, CONCEPT)


def what_decides(store: Store) -> list[str]:
    """Fingerprints of all that maps depend on in a concept: what it was learned from, and what came of it, which
    another machine rounds differently. In concepts of earlier versions the first alone, so that their maps stay valid.
    """
    return [store.fingerprint, *([store.attrs[LEARNED]] if LEARNED in store.attrs else [])]


def learned_grid(folder: Path) -> tuple[int, int]:
    """(h, w) of the maps that a concept was learned on; raises as `open_concept`."""
    return open_concept(folder).size("reference_numbers")


def load_concept(folder: Path) -> Concept:
    """Read a concept.

    Raises:
        DataError: there is none, or it is damaged or of another version.
        WeightsError: its adapter is missing, damaged, or another one.
    """
    import torch

    from pipeline.fewshot.concept import Concept

    store = open_concept(folder)
    log = store.read("log")
    return Concept(
        SegmentTable.of_record(store.attrs["segments"]),
        torch.from_numpy(store.read("context")),
        tuple(int(position) for position in store.read("positions")),
        _adapter(folder, store),
        np.where(log == NOTHING, np.float32(np.nan), log),
        store.read("reference_numbers"),
        float(store.attrs["reference_iou"]),
        tuple(store.attrs["names"]),
        str(store.params["backbone"]["name"]),
        str(store.attrs["backbone"]),
        of_stored(LearnParams, store.params["learn"]),
        of_stored(MapsParams, store.params["maps"]),
    )


def is_current_concept(folder: Path, fingerprint: str) -> bool:
    """Whether a whole concept with this fingerprint lies there."""
    if not is_current(folder / STORE, CONCEPT, fingerprint):
        return False
    expected, file = open_concept(folder).attrs["adapter"], folder / ADAPTER
    return expected is None or (file.is_file() and hashlib.sha256(file.read_bytes()).hexdigest() == expected)


def _adapter(folder: Path, store: Store) -> Adapter | None:
    from pipeline.backbone.adapter import load_adapter

    expected = store.attrs["adapter"]
    if expected is None:
        return None
    adapter = load_adapter(folder / ADAPTER)
    if adapter.sha256 != expected:
        raise WeightsError(f"{folder / ADAPTER}: is not this concept's own; copy both files again, or learn it again")
    return adapter

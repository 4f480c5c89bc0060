"""A context model of annotated images, for `vidseg run --references` and `vidseg context fit-references`."""

from __future__ import annotations

import shutil
import tempfile
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from stages.common import cli
from stages.common.settings import Settings

if TYPE_CHECKING:
    import numpy as np

    from pipeline.backbone import Backbone
    from pipeline.fewshot.references import References


#: The folder of the model, within that of what is computed of references.
CONTEXT = "context"


def checked_references(given: Path) -> References:
    """Annotated images; refuses what are none, before anything is computed.

    Args:
        given: a folder of them, or refs.zarr.

    Raises:
        DataError: as `read_references`, refs.zarr cannot be read, or a segment has a name that none can have.
    """
    from pipeline.fewshot.references import read_references
    from pipeline.naming.names import checked_name
    from stages.references import drawn_in, is_store

    drawn = drawn_in(given) if is_store(given) else read_references(given)
    for segment in drawn.table.segments:
        checked_name(segment.name)
    return drawn


def of_references(
    given: Path, folder: Path, settings: Settings, backbone: Backbone, drawn: References | None = None
) -> Path:
    """A model of annotated images, a folder or refs.zarr; returns its path in `folder`, which keeps their features.

    Args:
        drawn: what they are, of callers that have read them; then it is said what computing takes when it begins.
    """
    from stages import references
    from stages.commands import estimates

    refs = given if references.is_store(given) else references.run(given, folder, drawn=drawn)
    progress: cli.Progress = cli.progress
    if drawn is not None:
        progress = cli.announced(lambda: cli.note(f"references: {estimates.of_pictures(drawn, settings, backbone)}"))
    return fit_references(refs, folder / CONTEXT, settings, backbone, folder / "images", progress)


def fit_references(
    refs: Path,
    out_context: Path,
    settings: Settings,
    given: Backbone | None = None,
    kept: Path | None = None,
    progress: cli.Progress = cli.progress,
) -> Path:
    """Fit a model on annotated images, seen as frames of a clip are; returns `out_context`, which knows their names.

    Args:
        refs: refs.zarr of `vidseg references`; what has no label in it is not remembered.
        given: the backbone, of callers that have it at hand.
        kept: folder for the features of the images, which a later call uses again; None = they are not kept.
    """
    from pipeline.fewshot.reference_store import read_stored_references
    from pipeline.fewshot.segments import IGNORE
    from pipeline.files import refuse_foreign
    from pipeline.media.pictures import write_image
    from pipeline.media.resize import resize_nearest
    from pipeline.naming.names import checked_name
    from pipeline.segmentation import context_store, stores
    from pipeline.segmentation.context import fit_images
    from pipeline.segmentation.joined_features import context_features
    from pipeline.stores.schemas import FEATURES, REFS
    from pipeline.stores.store import fingerprint, open_store
    from stages import extract, ingest

    refuse_foreign(out_context, context_store.MARK)
    store = open_store(refs, REFS)
    drawn, params = read_stored_references(store), settings["segment"]
    names = {segment.id: checked_name(segment.name) for segment in drawn.table.segments}
    every = replace(settings["ingest"], frames=None, stride=1, seed="none", cuts="none")
    sizes = dict.fromkeys(image.shape for image in drawn.images)
    images: list[tuple[np.ndarray, np.ndarray]] = []
    with nullcontext(kept) if kept is not None else tempfile.TemporaryDirectory() as scratch:
        folders = {size: Path(scratch) / "x".join(map(str, size)) for size in sizes}
        for folder in set(Path(scratch).glob("*")) - set(folders.values()):
            shutil.rmtree(folder)  # of other images
        for size, folder in folders.items():  # a clip's frames have one size
            places = [place for place, image in enumerate(drawn.images) if image.shape == size]
            shutil.rmtree(folder / "frames", ignore_errors=True)
            for place in places:
                write_image(folder / "frames" / f"{place:05d}.png", drawn.images[place])
            clip = ingest.run(folder / "frames", folder, every)
            sections = settings["extract"], settings["diffusion"], settings["backbone"]
            source = open_store(extract.run(clip, folder, *sections, given, progress=progress), FEATURES)
            seen, grid = context_features(source, params), stores.store_grid(source)
            for frame, place in enumerate(places):
                labels = resize_nearest(drawn.labels[place], grid).reshape(-1)
                images.append((seen.read(frame, frame + 1)[0], labels))
        made = fingerprint("references", store.fingerprint, source.fingerprint)
        stored = context_store.StoredContext(fit_images(images, IGNORE), seen.kind, grid, made)
        return context_store.save_context(out_context, context_store.with_names(stored, names))

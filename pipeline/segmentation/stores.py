"""Between the window loop and the disk: stores as a `Clip`, a seed folder as labels, coarse.zarr."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import DataError
from pipeline.segmentation.births import Numbers
from pipeline.segmentation.context_store import StoredContext
from pipeline.segmentation.correspondence import Grid, Matches
from pipeline.segmentation.joined_features import JoinedFeatures
from pipeline.segmentation.window_loop import Clip, Start
from pipeline.stores.confidence import CONFIDENCE, in_levels
from pipeline.stores.numbering import ATTRIBUTE, Numbering
from pipeline.stores.schemas import COARSE, ArraySpec, label_dtype
from pipeline.stores.seed_folder import listed_masks
from pipeline.stores.shard_buffer import ShardBuffer
from pipeline.stores.store import Store, shard_frames
from pipeline.stores.writer import StoreWriter

#: The attribute of matches.zarr that lists where the clip is cut; a clip that is one shot has none.
CUTS = "cuts"
#: The attribute of coarse.zarr with the frame from which on nothing that enters becomes a segment, where there is one.
FULL = "full_from"


def cuts_of(matches: Store) -> tuple[int, ...]:
    """Positions of the frames that begin a shot, but for the first one: nothing is matched with them.

    Raises:
        DataError: the attribute is damaged.
    """
    listed = matches.attrs.get(CUTS, [])
    if not isinstance(listed, list) or not all(isinstance(cut, int) for cut in listed):
        raise DataError(f"{matches.path}: attribute '{CUTS}' is damaged; delete it and re-run `vidseg correspond`")
    return tuple(listed)


def store_grid(features: Store) -> Grid:
    """The (h, w) token grid of a features store."""
    height, width = features.attrs["grid"]
    return int(height), int(width)


def source_frames(features: Store) -> list[int]:
    """The frames of a features store in their source; of one that does not say, counted from 0."""
    named = "matching" if features.has("matching") else "encoder"
    return features.attrs.get("source_indices") or list(range(features.frames(named)))


def read_matches(matches: Store, start: int, stop: int) -> Matches:
    """The stop-start-1 transitions between frames start..stop."""
    return Matches(
        next=matches.read("next", start, stop - 1),
        similarity=matches.read("similarity", start, stop - 1).astype(np.float32),
    )


def read_labels(coarse: Store, name: str, frames: range) -> np.ndarray:
    """Labels (f, n) int32 of clip frames `frames` from a coarse store that covers them."""
    first = int(coarse.attrs["first_frame"])
    maps = coarse.read(name, frames.start - first, frames.stop - first)
    return maps.reshape(len(frames), -1).astype(np.int32)


def labels_in(coarse: Store) -> set[int]:
    """The labels that occur in a coarse store."""
    starts = range(0, coarse.frames("refined"), shard_frames(coarse.array("refined")))
    return {int(label) for at in starts for label in np.unique(coarse.read("refined", at, at + starts.step))}


def highest_label(coarse: Store) -> int:
    """The largest value that the store's label dtype holds: stores made from it get the same dtype."""
    return int(np.iinfo(coarse.array("initial").dtype).max)


def full_from(coarse: Store) -> int | None:
    """The first frame from which on nothing that enters becomes a segment, for want of numbers; None = there is none,
    or an earlier version made the store."""
    frame = coarse.attrs.get(FULL)
    return frame if isinstance(frame, int) else None


def make_clip(features: JoinedFeatures, matches: Store) -> Clip:
    """The stores as a clip for `segment_windows`.

    Raises:
        DataError: the matches were made from other features.
    """
    require_same_features(matches, features.store)
    return Clip(
        frames=features.frames,
        features=features.read,
        matches=lambda start, stop: read_matches(matches, start, stop),
        grid=store_grid(features.store),
        cuts=cuts_of(matches),
    )


def require_same_features(store: Store, features: Store) -> None:
    """Refuse a matches or coarse store that was made from other features.

    Raises:
        DataError: names both stores.
    """
    if store.attrs.get("features") != features.fingerprint:
        raise DataError(
            f"{store.path}: made from other features than {features.path}; re-run `vidseg {store.schema.stage}`"
        )


def require_same_source(first: Store, second: Store) -> None:
    """Refuse two stores that were made from different features.

    Raises:
        DataError: names both stores.
    """
    if first.attrs.get("features") != second.attrs.get("features"):
        raise DataError(
            f"{first.path} and {second.path} were made from different features; re-run the stages of one clip"
        )


def read_seed(folder: Path | None, grid: Grid, indices: Sequence[int] = range(1)) -> dict[int, np.ndarray]:
    """The masks of a seed folder on the token grid: (n,) label values by position in the clip, ascending.

    Each token takes the mask's value at its centre.

    Args:
        indices: of the clip's frames in their source; for the first one's mask alone, any.

    Raises:
        DataError: the folder or a mask cannot be read, or is of a frame that is not in the clip.
    """
    if folder is None:
        return {}
    from pipeline.media.pictures import read_label_png
    from pipeline.media.resize import resize_nearest

    files = listed_masks(folder, indices)
    return {place: resize_nearest(read_label_png(file), grid).reshape(-1) for place, file in files.items()}


def start_from(stored: StoredContext, features: Store, first_frame: int = 0, cuts: Sequence[int] = ()) -> Start:
    """Where prediction begins with a stored context.

    When it was just fitted on frame 1 of this very clip and `first_frame` is that frame, its labels are M^1.

    Args:
        cuts: positions of the frames that begin a shot, but for the first one.
    """
    context = stored.context
    fresh = context.first is not None and not context.windows
    own = stored.fitted_on == features.fingerprint and first_frame == 0
    first_labels = context.first.labels if fresh and own and context.first is not None else None
    shot = max((cut for cut in cuts if cut <= first_frame), default=0)
    return Start(context, first_labels, numbers_of(stored.numbering, features.fingerprint, shot))


def numbers_of(numbering: Numbering, clip: str, shot: int) -> Numbers:
    """The label values that a numbering has given, in the shot of a clip that begins at frame `shot`.

    Args:
        clip: fingerprint of the clip's features.
    """
    given = frozenset(numbering.labels)
    if not shot:
        return Numbers(given, numbering.born)
    later = {birth.label for birth in numbering.births if birth.clip == clip and birth.first >= shot}
    return Numbers(given, numbering.born, earlier=given - later)


class CoarseWriter:
    """Writes coarse.zarr from windows of labels (f, n); nothing appears at `path` before `commit`.

    Args:
        source: the store, of features or made from them, that gives grid and backbone.
        features: fingerprint of the features.
        frames: which frames of the clip the store covers.
        shard: frames per file.
        highest: largest label value that can occur.
        numbering: what gave the labels their numbers; None = nothing that others could share.
        confidence: whether the store says how sure the labels are; `add` then takes it.
    """

    def __init__(
        self,
        path: Path,
        scratch: Path,
        fingerprint: str,
        *,
        source: Store,
        features: str,
        frames: range,
        shard: int,
        highest: int,
        params: Mapping[str, Any],
        numbering: Numbering | None = None,
        confidence: bool = False,
    ) -> None:
        height, width = store_grid(source)
        spec = ArraySpec((len(frames), height, width), label_dtype(highest), shard)
        arrays = {
            "initial": spec,
            "refined": spec,
            **({CONFIDENCE: replace(spec, dtype="uint8")} if confidence else {}),
        }
        self._shape = (-1, height, width)
        self._writer = StoreWriter(
            path,
            scratch,
            COARSE,
            fingerprint,
            arrays,
            params=params,
            backbone=source.attrs.get("backbone"),
            attrs={
                "grid": [height, width],
                "features": features,
                "first_frame": frames.start,
                **({"arrays": list(arrays)} if confidence else {}),
                **({} if numbering is None else {ATTRIBUTE: numbering.record()}),
            },
        )
        self._buffer = ShardBuffer(self._writer, shard)

    def add(self, initial: np.ndarray, refined: np.ndarray, confidence: np.ndarray | None = None) -> None:
        """Append the labels (f, n) of the next frames, and how sure the refined ones are (f, n), from 0 to 1."""
        values = {"initial": initial, "refined": refined}
        if confidence is not None:
            values[CONFIDENCE] = in_levels(confidence)
        self._buffer.add({name: value.reshape(self._shape) for name, value in values.items()})

    def describe(self, numbering: Numbering, full_from: int | None = None) -> None:
        """Note what is known when all labels are written: what gave them their numbers, and `full_from`."""
        self._writer.describe({ATTRIBUTE: numbering.record(), **({} if full_from is None else {FULL: full_from})})

    def commit(self) -> Path:
        """Write what is left and move the store to its final path."""
        self._buffer.flush()
        return self._writer.commit()

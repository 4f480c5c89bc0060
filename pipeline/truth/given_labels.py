"""What a person says of the pixels of a clip: its ground truth, its classes, masks to begin with. (An I/O module.)"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from pipeline.errors import DataError
from pipeline.media.pictures import VOID, label_maps
from pipeline.truth.annotations import Annotations, find_annotations, is_placeholder, no_annotations
from pipeline.truth.class_list import ClassList, read_classes
from pipeline.truth.colours import classes_of_colours
from pipeline.truth.mask_files import MaskFiles, Masks, find_masks
from pipeline.truth.masks import lost_labels_warning


@dataclass(frozen=True)
class GivenLabels:
    """Ground truth and masks of one clip.

    Attributes:
        truth: checked; without files where there is none.
        masks: files of masks by their frame's position in the clip, ascending.
        unused: masks of a folder that are named like no frame of the clip.
        seed: what reads the label maps (H0, W0) that the labels begin with, by position: one is held at a time.
        of_colours: what was made of colours that no class list explains; None where there are none.
    """

    truth: Annotations
    masks: Mapping[int, Path]
    unused: Sequence[Path]
    seed: Mapping[int, Callable[[], np.ndarray]]
    of_colours: ClassList | None


def find_given_labels(
    ground_truth: Path | None,
    classes: Path | None,
    masks: Masks | None,
    rule: str,
    names: Sequence[str],
    indices: Sequence[int],
    size: tuple[int, int],
) -> GivenLabels:
    """Match what is given to the frames of a clip, and check the ground truth.

    Args:
        ground_truth: folder of label PNGs; one that holds only a README means "none".
        classes: its class list; default `classes.json` in the folder.
        masks: win over `rule`.
        rule: `truth` takes the first frame's ground truth as its mask (`ingest.seed`), `none` takes none.
        names, indices: of the clip's frames, the latter in the source.
        size: (H0, W0) of the source's frames.

    Raises:
        DataError: something cannot be read or fits no frame, or the rule finds no ground truth of the first frame.
        UsageError: a mask of a frame that is not in the clip.
    """
    found = MaskFiles({}) if masks is None else find_masks(masks, names, indices)
    listed = _class_list(classes, ground_truth)
    of_colours = _classes_of_colours(ground_truth, found) if listed is None else None
    listed = listed or of_colours
    if ground_truth is None or is_placeholder(ground_truth):
        truth = no_annotations(size)
    else:
        truth = find_annotations(ground_truth, names, size, listed)
    seed = _seed(found, truth, rule, names[0], listed or ClassList(()))
    return GivenLabels(truth, found.files, found.unused, seed, of_colours)


def check_mask(labels: np.ndarray, file: Path | None, frames: tuple[int, int], size: tuple[int, int]) -> str | None:
    """Look at one mask before anything is computed.

    Args:
        labels: (H0, W0) u8 or u16.
        file: where it was given; None = it is the ground truth of the first frame.
        frames, size: (H, W) of the source's frames, and at model size.

    Returns:
        what a person should know of labels that are smaller than the tokens that carry them; None = nothing.

    Raises:
        DataError: it is of another size than the frames, or says nothing.
    """
    if file is not None and (labels == VOID).all():
        raise DataError(f"{file}: the mask is void (255) everywhere; label at least one region")
    if labels.shape != frames:
        raise DataError(
            f"{file}: the mask is {labels.shape[1]}x{labels.shape[0]} pixels, the frames are {frames[1]}x{frames[0]}"
        )
    warning = lost_labels_warning(labels, size)
    return warning and f"{file or 'the first frame'}: {warning}"


def _class_list(classes: Path | None, ground_truth: Path | None) -> ClassList | None:
    if classes is not None:
        return read_classes(classes, ground_truth)
    beside = ground_truth / "classes.json" if ground_truth is not None else None
    return read_classes(beside, ground_truth) if beside is not None and beside.is_file() else None


def _classes_of_colours(ground_truth: Path | None, masks: MaskFiles) -> ClassList | None:
    maps = label_maps(ground_truth).values() if ground_truth is not None and ground_truth.is_dir() else ()
    return classes_of_colours([*maps, *masks.files.values()])


def _seed(
    masks: MaskFiles, truth: Annotations, rule: str, first: str, listed: ClassList
) -> dict[int, Callable[[], np.ndarray]]:
    if masks.files or rule == "none":
        return {position: partial(listed.read, mask) for position, mask in masks.files.items()}
    if 0 not in truth.indices:
        raise DataError(
            f"ingest.seed: truth needs a ground-truth PNG of the first frame ('{first}'); "
            "give --ground-truth or --mask, or start at an annotated frame (ingest.frames)"
        )
    return {0: lambda: truth.read(0, 1)[0]}

"""Rules of the recorded arrays of steps 7 and 8: decoded images, difference maps, final label maps.

The authors' maps and their corrections are compositions of the library's small functions; all of them start from
the same 8-bit images, as the recorded ones do.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from pipeline.upsampling import difference as maps
from pipeline.upsampling.labelling import RunningArgmax
from pipeline.upsampling.responses import Passes, responses
from tests.reference.cases import Case, Rule, equal_share, grey_levels, within
from tests.reference.diffusion import modulated

Images = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class MapRule:
    """From I+ and I- (H, W, 3) uint8 to a competing map, and how the mask of Eq. 7 is enlarged."""

    values: Callable[[np.ndarray, np.ndarray], np.ndarray]
    mask: str


def root(plus: np.ndarray, minus: np.ndarray) -> np.ndarray:
    return maps.root_difference(plus.astype(np.float32) - minus)


def squared(plus: np.ndarray, minus: np.ndarray) -> np.ndarray:
    return maps.squared_difference(plus.astype(np.float32) - minus)


def stored(values: np.ndarray) -> np.ndarray:
    return normalised(maps.jpeg_stored(values).astype(float))


def normalised(values: np.ndarray) -> np.ndarray:
    return maps.normalize(values, values.max())


MAP_RULES = {
    "": MapRule(lambda plus, minus: stored(maps.wrapped_difference(plus, minus)), "lanczos"),
    "nowrap": MapRule(lambda plus, minus: stored(maps.blur(root(plus, minus))), "lanczos"),
    "float": MapRule(lambda plus, minus: normalised(maps.blur(root(plus, minus))), "bilinear"),
    "nonorm": MapRule(lambda plus, minus: maps.blur(root(plus, minus)), "bilinear"),
    "paper": MapRule(squared, "bilinear"),
}
SEG = rf"seg_(?:({'|'.join(name for name in MAP_RULES if name)})_)?(unfiltered|filtered)"


def label_maps(
    pairs: Mapping[int, Images], coarse: np.ndarray, strength: float, variants: Collection[str]
) -> dict[str, np.ndarray]:
    """The final maps of one frame: `<variant>_unfiltered` and `_filtered`, each (H, W).

    Args:
        pairs: label -> I+, I-, all labels of the case, absent ones with equal images: these compete too.
        coarse: (h, w) labels.
    """
    size = next(iter(pairs.values()))[0].shape[:2]
    winners: dict[str, RunningArgmax] = {}
    for label, (plus, minus) in sorted(pairs.items()):
        for name in variants:
            rule = MAP_RULES[name]
            values = rule.values(plus, minus)
            mask = maps.resize_mask((coarse == label).astype(np.float32), size, rule.mask)
            for kind, competing in (("unfiltered", values), ("filtered", maps.filtered(values, mask, strength))):
                winners.setdefault(f"{name}_{kind}", RunningArgmax.empty(size)).add(label, competing)
    return {name: winner.labels for name, winner in winners.items()}


# --- of a case


def decoded_positions(case: Case, index: int) -> list[int]:
    """Where in a pass images are stored: the array holds frames of the clip (or, failing that, positions)."""
    frames = case.frames(index)
    stored_frames = case.recorded.get(f"p{index}_decoded_frames", np.empty(0, int))
    return [frames.index(frame) if frame in frames else int(frame) for frame in stored_frames.tolist()]


def check_positions(case: Case, index: int, match: re.Match[str]) -> np.ndarray:
    positions = decoded_positions(case, index)
    assert all(0 <= position < len(case.frames(index)) for position in positions)
    return case.recorded[match[0]]


def decoder_output(case: Case, index: int, label: int, sign: str, position: int) -> np.ndarray:
    """(3, H, W) of one label in one frame, from its recorded latents where they are given."""
    name = f"p{index}_mod_l{label}_{sign}_x{case.diffusion.steps - 1}"
    if name in case.given and name in case.recorded:
        latents = case.tensor(name)[position : position + 1]
    else:
        latents = modulated(case, index, label, sign, [position], case.rules)[case.diffusion.steps - 1].latents
    return case.vectors.backbone.decode(latents)[0].numpy()


def decoded_image(case: Case, index: int, label: int, sign: str, position: int) -> np.ndarray:
    """The 8-bit image (H, W, 3), computed."""
    if not case.is_recorded:
        return pass_pairs(case, index)[position][label][0 if sign == "pos" else 1]
    return maps.image_in_8_bits(decoder_output(case, index, label, sign, position), case.frame_size)


def known_image(case: Case, index: int, label: int, sign: str, position: int) -> np.ndarray:
    """The 8-bit image, recorded where it is given, else computed once."""
    name = f"p{index}_decoded_l{label}_{sign}"
    positions = decoded_positions(case, index)
    if position in positions and name in case.given and name in case.recorded:
        return case.recorded[name][positions.index(position)]
    return decoded_image(case, index, label, sign, position)


def pass_pairs(case: Case, index: int) -> dict[int, dict[int, Images]]:
    """Position -> label -> I+, I- of a pass, all through `responses`."""
    key = ("pairs", index)
    if key not in case.memo:
        case.memo[key] = dict(_pass_pairs(case, index))
    return case.memo[key]


def _pass_pairs(case: Case, index: int) -> Iterator[tuple[int, dict[int, Images]]]:
    coarse = case[f"p{index}_cbr_labels"].reshape(-1, *case.grid)
    pairs = responses(case.vectors.backbone, case.clean(index), coarse, case.rules, Passes(batch=4))
    size = case.frame_size
    nothing = np.zeros((*size, 3), np.uint8)
    for position, of_frame in groupby(pairs, key=lambda pair: pair.frame):
        images = {label: (nothing, nothing) for label in case.labels}
        for pair in of_frame:
            plus, minus = (maps.image_in_8_bits(image.numpy(), size) for image in (pair.plus, pair.minus))
            images[pair.group.labels[0]] = plus, minus
        yield position, images


def one_frames_pairs(case: Case, index: int, position: int) -> dict[int, Images]:
    if not case.is_recorded:
        return pass_pairs(case, index)[position]
    present = np.unique(case[f"p{index}_cbr_labels"][position])
    nothing = np.zeros((*case.frame_size, 3), np.uint8)
    pairs = {label: (nothing, nothing) for label in case.labels}
    for label in present.tolist():
        plus, minus = (known_image(case, index, label, sign, position) for sign in ("pos", "neg"))
        pairs[label] = plus, minus
    return pairs


def final_maps(case: Case, index: int) -> dict[str, np.ndarray]:
    """All recorded kinds of final maps of a pass, (b, H, W); frames that are not computed are masked."""
    key = ("maps", index)
    if key in case.memo:
        return case.memo[key]
    matches = [match for name in case.recorded if (match := re.fullmatch(rf"p{index}_{SEG}", name))]
    variants = sorted({match[1] or "" for match in matches})
    shape = len(case.frames(index)), *case.frame_size
    result: dict[str, np.ndarray] = {
        f"{name}_{kind}": np.ma.masked_all(shape, np.int64) for name in variants for kind in ("unfiltered", "filtered")
    }
    for position in map_positions(case, index):
        coarse = case[f"p{index}_cbr_labels"].reshape(-1, *case.grid)[position]
        pairs = one_frames_pairs(case, index, position)
        for name, labels in label_maps(pairs, coarse, case.meta["filter_s"], variants).items():
            result[name][position] = labels
    case.memo[key] = result
    return result


def map_positions(case: Case, index: int) -> list[int]:
    """Positions whose final maps are computed: those with stored images come first in the choice."""
    stored_there = decoded_positions(case, index)
    others = [position for position in range(len(case.frames(index))) if position not in stored_there]
    return sorted(case.map_frames([*stored_there, *others]))


def decoded(case: Case, index: int, match: re.Match[str]) -> np.ndarray:
    label, sign = match.groups()
    return np.stack([decoded_image(case, index, int(label), sign, at) for at in decoded_positions(case, index)])


def decoded_float(case: Case, index: int, match: re.Match[str]) -> np.ndarray:
    label, sign = match.groups()
    return decoder_output(case, index, int(label), sign, 0)


def difference(case: Case, index: int, match: re.Match[str]) -> np.ndarray:
    nowrap, label, quantised = match.groups()
    planes = []
    for position in decoded_positions(case, index):
        plus, minus = (known_image(case, index, int(label), sign, position) for sign in ("pos", "neg"))
        values = maps.blur(root(plus, minus)) if nowrap else maps.wrapped_difference(plus, minus)
        planes.append(maps.jpeg_stored(values) if quantised else values)
    return np.stack(planes)


def final_map(case: Case, index: int, match: re.Match[str]) -> np.ndarray:
    return final_maps(case, index)[f"{match[1] or ''}_{match[2]}"]


RULES = (
    Rule(r"p\d+_decoded_frames", check_positions, within(0)),
    Rule(r"p\d+_decoded_l(\d+)_(pos|neg)", decoded, grey_levels(0.01, 3)),
    Rule(r"p\d+_decoded_l(\d+)_(pos|neg)_float_first_frame", decoded_float, within(2e-3)),
    Rule(r"p\d+_difference_(nowrap_)?l(\d+)()", difference, equal_share(0.95, 0.5), within(1e-3)),
    Rule(r"p\d+_difference_()l(\d+)_(stored)", difference, equal_share(0.95), equal_share(0.9999)),
    Rule(rf"p\d+_{SEG}", final_map, equal_share(0.98)),
)


# --- unit_difference.npz


def unit_difference_arrays(unit: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays of unit_difference.npz that the library computes."""
    labels, size = unit["labels"].tolist(), unit["plus"].shape[1:3]
    pairs = dict(zip(labels, zip(unit["plus"], unit["minus"], strict=True), strict=True))
    masks = [(unit["coarse"] == label).astype(np.float32) for label in labels]
    differences = [maps.wrapped_difference(*pair) for pair in pairs.values()]
    computed = {
        "difference": np.stack(differences),
        "difference_stored": np.stack([maps.jpeg_stored(values) for values in differences]),
        "difference_nowrap": np.stack([maps.blur(root(*pair)) for pair in pairs.values()]),
        "mask_lanczos": np.stack([maps.resize_mask(mask, size, "lanczos") for mask in masks]),
        "mask_bilinear": np.stack([maps.resize_mask(mask, size, "bilinear") for mask in masks]),
    }
    for name, plane in label_maps(pairs, unit["coarse"], 0.7, MAP_RULES).items():
        computed["seg" + "_" * (not name.startswith("_")) + name] = plane
    return computed


#: Inputs of unit_difference.npz; every array that is computed depends on each of them.
UNIT_INPUTS = ("labels", "coarse", "plus", "minus")


def compare_unit(name: str, ours: np.ndarray, recorded: np.ndarray) -> str | None:
    rounded = name.startswith(("seg", "difference_stored"))
    return (equal_share(0.9999) if rounded else within(1e-4))(ours, recorded)

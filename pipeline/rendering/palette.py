"""Colours that tell labels apart when they are laid over a picture, for people with colour-blindness too."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

import numpy as np

#: How many colours there are before they repeat, and how many labels there can be.
COLOURS, LABELS = 256, 65536

#: The palette of Okabe and Ito (2008) without its black: made for colour-blind readers.
_FIRST = np.array(
    [[0, 114, 178], [230, 159, 0], [0, 158, 115], [204, 121, 167], [86, 180, 233], [213, 94, 0],
     [240, 228, 66]]
)  # fmt: skip

#: sRGB components that further colours are made of.
_LEVELS = np.array([0, 36, 73, 109, 146, 182, 219, 255])

#: Lightness (OKLab) that stays visible on dark and on bright pictures, and the least distance from grey.
_LIGHTNESS = (0.40, 0.93)
_CHROMA = 0.09

#: Weight of distances as colour-blind people see them: they have fewer colours to choose from.
_IMPAIRED_WEIGHT = 1.6

#: What people without green or red cones see of linear RGB: Machado et al. (2009), severity 1.
_DEUTERANOPIA = np.array(
    [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
)
_PROTANOPIA = np.array(
    [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
)

#: Linear RGB -> cone responses -> OKLab (Ottosson 2020); its distances are about how different colours look.
_CONES = np.array(
    [[0.4122214708, 0.5363325363, 0.0514459929], [0.2119034982, 0.6806995451, 0.1073969566],
     [0.0883024619, 0.2817188376, 0.6299787005]]
)  # fmt: skip
_OPPONENTS = np.array(
    [[0.2104542553, 0.7936177850, -0.0040720468], [1.9779984951, -2.4285922050, 0.4505937099],
     [0.0259040371, 0.7827717662, -0.8086757660]]
)  # fmt: skip


@cache
def overlay_colours() -> np.ndarray:
    """Colours (256, 3) u8 of labels 0, 1, ...; label l takes colour l modulo 256.

    After the first seven, each is the one farthest from all before it, to normal eyes and to people with
    either kind of red-green blindness; so the first are the most distinct. None is black, white or grey.
    """
    candidates = np.stack(np.meshgrid(_LEVELS, _LEVELS, _LEVELS, indexing="ij"), axis=-1).reshape(-1, 3)
    plain = oklab(candidates)
    chroma = np.hypot(plain[:, 1], plain[:, 2])
    vivid = (plain[:, 0] >= _LIGHTNESS[0]) & (plain[:, 0] <= _LIGHTNESS[1]) & (chroma >= _CHROMA)
    candidates = np.concatenate([_FIRST, candidates[vivid]])
    seen = appearances(candidates) * np.array([1, _IMPAIRED_WEIGHT, _IMPAIRED_WEIGHT])[:, None, None]
    chosen: list[int] = []
    nearest = np.full(len(candidates), np.inf)
    while len(chosen) < COLOURS:
        chosen.append(len(chosen) if len(chosen) < len(_FIRST) else int(nearest.argmax()))
        apart = np.linalg.norm(seen - seen[:, chosen[-1:]], axis=2).min(axis=0)
        nearest = np.minimum(nearest, apart)
    colours = candidates[chosen].astype(np.uint8)
    colours.flags.writeable = False
    return colours


def with_chosen(colours: np.ndarray, chosen: Mapping[int, tuple[int, int, int]]) -> np.ndarray:
    """Colours (k, 3) u8 in which some labels have the colour that a person chose for them."""
    if not chosen:
        return colours
    table = np.resize(colours, (LABELS, 3))  # which repeats them, as labels do
    table[list(chosen)] = list(chosen.values())
    return table


def appearances(colours: np.ndarray) -> np.ndarray:
    """OKLab (3, k, 3) of sRGB colours (k, 3) 0..255: seen normally, with deuteranopia, with protanopia."""
    linear = _linear(colours)
    impaired = [np.clip(linear @ matrix.T, 0, 1) for matrix in (_DEUTERANOPIA, _PROTANOPIA)]
    return np.stack([_linear_to_oklab(values) for values in (linear, *impaired)])


def oklab(colours: np.ndarray) -> np.ndarray:
    """OKLab (k, 3) of sRGB colours (k, 3) 0..255."""
    return _linear_to_oklab(_linear(colours))


def _linear(colours: np.ndarray) -> np.ndarray:
    values = np.asarray(colours, np.float64) / 255
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def _linear_to_oklab(linear: np.ndarray) -> np.ndarray:
    return np.cbrt(linear @ _CONES.T) @ _OPPONENTS.T

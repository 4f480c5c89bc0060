"""maps.npz and unit_maps.npz: maps of the segments, of the passes of unet.npz and of queries and keys alone."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.backbone import Tap
from pipeline.fewshot.attention_maps import (
    Grid,
    Kind,
    cross_maps,
    floored,
    rescaled,
    resized,
    spread,
    taps_of,
)
from tests.reference.cases import Compare, within
from tests.reference.smite import FOLDER, META, Arrays, Recorded, Rule
from tests.reference.smite_model import network, tensor
from tests.reference.smite_network import passed, passed_pair


@dataclass(frozen=True)
class Blocks:
    """The layers that the authors' code reads."""

    cross_blocks: tuple[int, ...] = (3, 4, 5, 6, 7)
    self_blocks: tuple[int, ...] = (9, 10, 11)


@dataclass(frozen=True)
class Read:
    """The attention of a pass over b frames, and the maps that are read from it."""

    taps: Mapping[Tap, Tensor]
    heads: Mapping[int, int]
    segments: int
    grid: Grid
    blocks: Blocks = Blocks()

    def cross(self, kind: Kind = "logits") -> Tensor:
        positions = range(self.segments)
        return cross_maps(self.taps, self.heads, positions, self.grid, self.blocks.cross_blocks, kind)

    def spread(self, maps: Tensor) -> Tensor:
        return spread(self.taps, self.heads, maps, self.blocks.self_blocks)

    def training(self) -> Tensor:
        return self.spread(self.cross().softmax(dim=1))

    def inference(self, size: Grid | None = None) -> Tensor:
        cross = self.cross()
        return rescaled(resized(self.spread(floored(cross, 0, "zero")), size or self.grid), cross)

    def explicit(self) -> Tensor:
        """A (b, queries, keys), the mean over heads and layers."""
        weights = []
        for block in self.blocks.self_blocks:
            query, key = (
                self.taps[Tap(block, "self", kind)].unflatten(-1, (self.heads[block], -1)).transpose(1, 2)
                for kind in ("query", "key")  # type: ignore[arg-type]
            )
            scores = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
            weights.append(scores.softmax(dim=-1).mean(dim=1))
        return torch.stack(weights).mean(dim=0)


# --- maps.npz


@cache
def read(name: str) -> Read:
    """A pass of unet.npz, from which maps.npz was recorded."""
    arrays = dict(np.load(FOLDER / "unet.npz"))
    taps, frames = taps_of(Blocks()), int(json.loads(str(arrays[META]))["frames"])
    if name == "pair":  # the conditional half is the second clip
        recorded = {tap: values[frames:] for tap, values in passed_pair(arrays, taps).taps.items()}
    else:
        kind = "_not_inflated" if name == "not_inflated" else ""
        recorded = dict(passed(arrays, "rect_sample" if name == "rect" else "sample", kind, taps).taps)
    backbone = network(tensor(arrays, "context"))
    height, width = arrays["rect_sample" if name == "rect" else "sample"].shape[-2:]
    segments = int(json.loads(str(np.load(FOLDER / "maps.npz")[META]))["K"])
    return Read(recorded, {block: backbone.heads(block) for block in range(3, 12)}, segments, (height, width))


def of_pass(compute: Callable[[Read], Tensor]) -> Callable[[Arrays, re.Match[str]], np.ndarray]:
    """A map of the pass that an array's name begins with."""
    return lambda arrays, match: compute(read(match[1] or "")).numpy()


def enlarged(arrays: Arrays, match: re.Match[str]) -> np.ndarray:
    height, width = read("").grid
    return read("").inference((8 * height, 8 * width))[0].numpy()


def cross_only(arrays: Arrays, match: re.Match[str]) -> np.ndarray:
    """The released switch that leaves out the sum leaves out the floor as well: what remains is the cross map."""
    cross = read("").cross()
    return rescaled(cross, cross).numpy()


def of_kind(arrays: Arrays, match: re.Match[str]) -> np.ndarray:
    return read("").cross(match[1]).numpy()  # type: ignore[arg-type]


def logits_of_block(arrays: Arrays, match: re.Match[str]) -> np.ndarray:
    found, block = read(""), int(match[1])
    stride = 4 if block < 6 else 2
    grid = found.grid[0] // stride, found.grid[1] // stride
    return cross_maps(found.taps, found.heads, range(found.segments), grid, [block]).numpy()


def hooked(arrays: Arrays, match: re.Match[str]) -> np.ndarray:
    """(heads of the frames, tokens, 64); keys and self-attention of the first frame only."""
    found, block = read(""), int(match[1])
    kind = "query" if match[3] == "q" else "key"
    values = found.taps[Tap(block, match[2], kind)].unflatten(-1, (found.heads[block], -1)).transpose(1, 2)  # type: ignore[arg-type]
    return (values[:1] if match[2] == "self" or kind == "key" else values).flatten(0, 1).numpy()


def self_map(arrays: Arrays, match: re.Match[str]) -> np.ndarray:
    """A as [key, query y, query x]."""
    found = read("")
    by_key = found.explicit()[0 if match[1] == "frame0" else -1].T.unflatten(-1, found.grid)
    return (by_key if match[1] == "frame0" else by_key[:, :2]).numpy()


CLOSE: Compare = within(1e-4)
TRAINING: Compare = within(1e-5)
PASS = r"(?:(pair|not_inflated|rect)_)?"
MAPS = Recorded(
    "maps.npz",
    (
        Rule(r"hook_block(\d+)_(cross|self)_(q|k)(?:_frame0)?", hooked, CLOSE),
        Rule(r"logits_block(\d+)", logits_of_block, CLOSE),
        Rule(PASS + "cross", of_pass(lambda found: found.cross()), CLOSE),
        Rule(r"cross_softmax_(segments|tokens)", of_kind, CLOSE),
        Rule(r"self_map_(frame0|last_frame_rows01)", self_map, TRAINING),
        Rule(PASS + "was_training", of_pass(lambda found: found.training()), TRAINING),
        Rule(PASS + "was_inference", of_pass(lambda found: found.inference()), CLOSE),
        Rule(r"was_inference_x8_frame0", enlarged, CLOSE),
        Rule(r"was_inference_cross_only", cross_only, CLOSE),
        Rule(PASS + "was_plain", of_pass(lambda found: found.spread(found.cross())), CLOSE),
    ),
)


# --- unit_maps.npz


def unit(arrays: Arrays) -> Read:
    """Its layers as taps: cross layers c0.. as blocks 3.., self layers s0.. as blocks 9.., conditional half."""
    meta: dict[str, Any] = json.loads(str(arrays[META]))
    taps: dict[Tap, Tensor] = {}
    heads: dict[int, int] = {}
    for name, count in meta["heads"].items():
        layer, block = ("cross", 3) if name[0] == "c" else ("self", 9)
        block += int(name[1:])
        heads[block] = count
        for letter, kind in (("q", "query"), ("k", "key")):
            values = tensor(arrays, f"{name}_{layer}_{letter}")
            if layer == "cross":  # (half, frame, head), tokens, 64
                by_head = values.unflatten(0, (2, meta["frames"], count))[1]
            else:  # (half, head), (frame, y, x), 64
                by_head = values.unflatten(0, (2, count))[1].unflatten(1, (meta["frames"], -1)).transpose(0, 1)
            taps[Tap(block, layer, kind)] = by_head.transpose(1, 2).flatten(2)  # type: ignore[arg-type]
    cross, own = (tuple(sorted({tap.block for tap in taps if tap.layer == layer})) for layer in ("cross", "self"))
    return Read(taps, heads, meta["K"], (meta["grid"], meta["grid"]), Blocks(cross, own))


def of_unit(compute: Callable[[Read], Tensor]) -> Callable[[Arrays, re.Match[str]], np.ndarray]:
    return lambda arrays, match: compute(unit(arrays)).numpy()


def unit_inference(arrays: Arrays, match: re.Match[str]) -> np.ndarray:
    return unit(arrays).inference((int(match[1]), int(match[1])) if match[1] else None).numpy()


def degenerate(arrays: Arrays, match: re.Match[str]) -> np.ndarray:
    """NaN where the record has it, because of a range of 0, and ours is what it must be: the constant cross map."""
    found, cross = unit(arrays), tensor(arrays, "degenerate_cross")
    ours = rescaled(found.spread(floored(cross, 0, "zero")), cross).numpy()
    return np.where(np.isnan(arrays[match[0]]) & (ours == cross.numpy()), np.nan, ours)


def close_where_finite(ours: np.ndarray, recorded: np.ndarray) -> str | None:
    """As `CLOSE`, and the same places are NaN."""
    return CLOSE(*(np.nan_to_num(values, nan=1e6) for values in (ours, recorded)))


UNIT_MAPS = Recorded(
    "unit_maps.npz",
    (
        Rule(r"cross", of_unit(lambda found: found.cross()), CLOSE),
        Rule(
            r"self_map",
            of_unit(lambda found: found.explicit().transpose(1, 2).unflatten(-1, found.grid)),
            TRAINING,
        ),
        Rule(r"was_inference(?:_(\d+))?", unit_inference, CLOSE),
        Rule(r"was_training", of_unit(lambda found: found.training()), TRAINING),
        Rule(r"degenerate_was", degenerate, close_where_finite),
    ),
    {r"c\d_cross_[qk]": "cross", r"s\d_self_[qk]": "self_map", "degenerate_cross": "degenerate_was"},
)

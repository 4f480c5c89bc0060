"""Maps of segments against literal versions of their equations, on queries and keys drawn at random."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from pipeline.backbone import Tap
from pipeline.fewshot.attention_maps import Floor, Kind, cross_maps, floored, rescaled, resized, spread, taps_of

FRAMES, TOKENS, GRID = 2, 9, (4, 6)
#: Block -> heads and stride of its grid; heads are 4 wide.
LAYERS = {3: (3, 2), 5: (2, 2), 6: (1, 1), 9: (2, 1), 11: (3, 1), 8: (1, 2)}
HEADS = {block: heads for block, (heads, _) in LAYERS.items()}
WIDTH = 4
CROSS, SELF, MIXED = (3, 5, 6), (9, 11), (8, 9)


@dataclass(frozen=True)
class Blocks:
    cross_blocks: tuple[int, ...] = CROSS
    self_blocks: tuple[int, ...] = (*SELF, 8)


@pytest.fixture(scope="module")
def taps() -> dict[Tap, Tensor]:
    generator, drawn = torch.Generator().manual_seed(0), {}
    for tap in taps_of(Blocks()):
        heads, stride = LAYERS[tap.block]
        places = GRID[0] * GRID[1] // stride**2
        tokens = TOKENS if (tap.layer, tap.tensor) == ("cross", "key") else places
        drawn[tap] = torch.randn(FRAMES, tokens, heads * WIDTH, dtype=torch.float64, generator=generator)
    return drawn


def random_maps(segments: int, grid: tuple[int, int] = GRID) -> Tensor:
    return torch.randn(FRAMES, segments, *grid, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def literal_attention(taps: dict[Tap, Tensor], block: int, layer: Any) -> Tensor:
    """softmax(q k / sqrt(d)) (b, heads, n, m), head by head."""
    query, key = taps[Tap(block, layer, "query")], taps[Tap(block, layer, "key")]
    rows = []
    for head in range(HEADS[block]):
        part = slice(head * WIDTH, (head + 1) * WIDTH)
        rows.append(query[..., part] @ key[..., part].transpose(1, 2) / WIDTH**0.5)
    return torch.stack(rows, dim=1)


# --- cross maps


@pytest.mark.parametrize("kind", ["logits", "segments", "tokens"])
def test_cross_maps_equal_a_literal_version(taps: dict[Tap, Tensor], kind: Kind) -> None:
    positions = [7, 2, 4]
    layers = []
    for block in CROSS:
        scores = literal_attention(taps, block, "cross")
        if kind == "tokens":
            scores = scores.softmax(dim=-1)
        scores = scores[..., positions]
        if kind == "segments":
            scores = scores.softmax(dim=-1)
        stride = LAYERS[block][1]
        grid = GRID[0] // stride, GRID[1] // stride
        by_place = scores.mean(dim=1).transpose(1, 2).reshape(FRAMES, len(positions), *grid)
        layers.append(resized(by_place, GRID))
    torch.testing.assert_close(cross_maps(taps, HEADS, positions, GRID, CROSS, kind), sum(layers) / len(CROSS))


def test_a_segment_s_map_depends_on_its_own_token_only(taps: dict[Tap, Tensor]) -> None:
    before = cross_maps(taps, HEADS, [1, 2], GRID, CROSS)
    changed = {tap: value.clone() for tap, value in taps.items()}
    for block in CROSS:
        changed[Tap(block, "cross", "key")][:, 2] += 1
    after = cross_maps(changed, HEADS, [1, 2], GRID, CROSS)
    assert torch.equal(after[:, 0], before[:, 0]) and not torch.allclose(after[:, 1], before[:, 1])


# --- Eq. 1


@pytest.mark.parametrize("segments", [1, 3, WIDTH, 2 * WIDTH + 1])
@pytest.mark.parametrize("blocks", [SELF, MIXED], ids=["one grid", "two grids"])
def test_eq1_spread_equals_the_explicit_sum(taps: dict[Tap, Tensor], blocks: tuple[int, ...], segments: int) -> None:
    """Also for more segments than a head is wide, which go through the kernel in parts."""
    maps, layers = random_maps(segments), []
    for block in blocks:
        weights = literal_attention(taps, block, "self").softmax(dim=-1).mean(dim=1)
        stride = LAYERS[block][1]
        grid = GRID[0] // stride, GRID[1] // stride
        small = resized(maps, grid).flatten(2)
        summed = torch.zeros_like(small)
        for place in range(small.shape[-1]):
            for other in range(small.shape[-1]):
                summed[:, :, place] += weights[:, place, other, None] * small[:, :, other]
        layers.append(resized(summed.unflatten(-1, grid), GRID))
    torch.testing.assert_close(spread(taps, HEADS, maps, blocks), sum(layers) / len(layers))


def test_eq1_training_maps_sum_to_one_over_the_segments(taps: dict[Tap, Tensor]) -> None:
    maps = spread(taps, HEADS, random_maps(5).softmax(dim=1), SELF)
    torch.testing.assert_close(maps.sum(dim=1), torch.ones(FRAMES, *GRID, dtype=torch.float64))
    assert float(maps.min()) > 0


def test_eq1_constant_map_stays_constant(taps: dict[Tap, Tensor]) -> None:
    """The rows of A sum to 1."""
    maps = torch.full((FRAMES, 1, *GRID), 0.3, dtype=torch.float64)
    torch.testing.assert_close(spread(taps, HEADS, maps, MIXED), maps)


def test_eq1_looks_at_the_own_frame_only(taps: dict[Tap, Tensor]) -> None:
    maps = random_maps(3)
    alone = {tap: value[1:] for tap, value in taps.items()}
    torch.testing.assert_close(spread(alone, HEADS, maps[1:], SELF), spread(taps, HEADS, maps, SELF)[1:])


class Largest(TorchDispatchMode):
    """Keeps the largest number of values that any operation gave out."""

    values = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = function(*args, **(kwargs or {}))
        for part in given if isinstance(given, tuple) else (given,):
            if isinstance(part, Tensor):
                self.values = max(self.values, part.numel())
        return given


@pytest.mark.parametrize("segments", [3, 20])
def test_no_weights_of_all_pairs_are_held(segments: int) -> None:
    """Neither forward nor backward: at SD 2.1's size they would be gigabytes."""
    side, width = 24, 16
    drawn = [torch.randn(1, side * side, width, requires_grad=True) for _ in range(2)]
    taps = {Tap(9, "self", "query"): drawn[0], Tap(9, "self", "key"): drawn[1]}
    maps = torch.randn(1, segments, side, side, requires_grad=True)
    with Largest() as largest:
        spread(taps, {9: 1}, maps, [9]).square().sum().backward()
    assert 0 < largest.values < side**4 / 10
    assert all(tensor.grad is not None for tensor in (*drawn, maps))


@pytest.mark.parametrize(("grid", "least"), [((32, 56), 25), ((64, 64), 60)], ids=["compact", "sd21"])
def test_eq1_is_exact_at_the_size_of_the_networks_and_holds_far_less(grid: tuple[int, int], least: int) -> None:
    """Five heads of 64, as SD 2.1 has them, in float32: against weights of all pairs, and how many values these are."""
    places, heads, width = grid[0] * grid[1], 5, 64
    generator = torch.Generator().manual_seed(0)
    query, key = (torch.randn(1, places, heads * width, generator=generator) for _ in range(2))
    maps = torch.randn(1, 8, *grid, generator=generator)
    with Largest() as largest:
        found = spread({Tap(9, "self", "query"): query, Tap(9, "self", "key"): key}, {9: heads}, maps, [9])
    expected = torch.zeros(places, 8)
    for head in range(heads):
        part = slice(head * width, (head + 1) * width)
        weights = (query[0, :, part] @ key[0, :, part].T / width**0.5).softmax(dim=-1)
        expected += weights @ maps[0].flatten(1).T / heads
    assert float((found[0].flatten(1).T - expected).abs().max()) < 1e-6
    assert heads * places**2 > least * largest.values


# --- the inference form

ROW = [[-4.0, 0.0], [2.0, 6.0]]  # mean 1


@pytest.mark.parametrize(
    ("floor", "background", "expected"),
    [
        ("none", 1, ROW),
        ("minimum", None, ROW),
        ("minimum", 1, [[-4.0, -4.0], [2.0, 6.0]]),
        ("zero", 1, [[0.0, 0.0], [2.0, 6.0]]),
    ],
)
def test_the_floor_under_the_background(floor: Floor, background: int | None, expected: list[list[float]]) -> None:
    other = torch.tensor([[9.0, -9.0], [1.0, 1.0]])
    cross = torch.stack([other, torch.tensor(ROW), other])[None]
    found = floored(cross, background, floor)
    assert torch.equal(found[0, 1], torch.tensor(expected))
    assert torch.equal(found[0, [0, 2]], cross[0, [0, 2]])


def test_the_floor_is_each_frame_s_own() -> None:
    row = torch.tensor(ROW)
    found = floored(torch.stack([row, row + 10])[:, None], 0, "minimum")
    assert torch.equal(found[1], found[0] + 10)


def test_rescaled_maps_have_the_range_of_the_cross_maps(taps: dict[Tap, Tensor]) -> None:
    cross = random_maps(3)
    maps = rescaled(resized(spread(taps, HEADS, cross, SELF), (8, 12)), cross)
    assert maps.shape == (FRAMES, 3, 8, 12)
    for which in ("amin", "amax"):
        ours, wanted = (getattr(values, which)(dim=(-2, -1)) for values in (maps, cross))
        torch.testing.assert_close(ours, wanted)
    # In the same order as before.
    large = resized(spread(taps, HEADS, cross, SELF), (8, 12)).flatten(2)
    assert torch.equal(maps.flatten(2).argsort(dim=-1), large.argsort(dim=-1))


def test_constant_map_becomes_the_least_of_its_range() -> None:
    """Where the authors' code divides by 0; its gradient is finite as well."""
    cross = random_maps(2).requires_grad_()
    maps = rescaled(0.5 + 0 * cross, cross)
    torch.testing.assert_close(maps, cross.amin(dim=(-2, -1), keepdim=True).expand_as(maps))
    (gradient,) = torch.autograd.grad(maps.sum(), cross)
    assert bool(torch.isfinite(gradient).all())


def test_gradients_agree_with_finite_differences(taps: dict[Tap, Tensor]) -> None:
    """Derivatives of the inference form with respect to queries and keys of both kinds of attention."""
    chosen = [Tap(5, "cross", "query"), Tap(5, "cross", "key"), Tap(9, "self", "query"), Tap(9, "self", "key")]

    def maps(*values: Tensor) -> Tensor:
        given = {**taps, **dict(zip(chosen, values, strict=True))}
        cross = cross_maps(given, HEADS, [0, 3], GRID, CROSS)
        return rescaled(spread(given, HEADS, floored(cross, 0, "minimum"), SELF), cross)

    inputs = [taps[tap].clone().requires_grad_() for tap in chosen]
    assert torch.autograd.gradcheck(maps, inputs, fast_mode=True)


def test_half_precision_is_computed_in_single(taps: dict[Tap, Tensor]) -> None:
    half = {tap: (value * 100).half() for tap, value in taps.items()}
    cross = cross_maps(half, HEADS, [0, 1], GRID, CROSS)
    maps = spread(half, HEADS, cross, SELF)
    assert cross.dtype == maps.dtype == torch.float32 and bool(torch.isfinite(maps).all())

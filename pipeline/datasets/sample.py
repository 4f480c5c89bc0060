"""The generated sample clip: a small painted world with exact labels, seen by a camera travelling sideways.

Everything has a place in depth, so that near things pass in front of far ones: sky, hills, a meadow with
houses and trees, a road with a parked car. A balloon leaves the picture on the left; at frame 18 a second car
drives in and then overtakes the parked one. Textures are fixed to the world and move with it.

Lengths are in *units*: 1/192 of the picture's height, the origin at the left end of the top edge. The label
of a pixel is that of its centre; its colour is the mean of 3x3 samples.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from pipeline.truth.class_list import LabelClass

CLASSES = (
    LabelClass(0, "sky", (70, 130, 180)),
    LabelClass(1, "hill", (102, 102, 156)),
    LabelClass(2, "meadow", (152, 251, 152)),
    LabelClass(3, "road", (128, 64, 128)),
    LabelClass(4, "house", (190, 110, 60)),
    LabelClass(5, "tree", (35, 110, 35)),
    LabelClass(6, "car", (220, 20, 60)),
    LabelClass(7, "balloon", (250, 170, 30)),
)
SKY, HILL, MEADOW, ROAD, HOUSE, TREE, CAR, BALLOON = range(8)

FPS = 12.5
ENTERS_AT = 18  # first frame with a part of the second car

_SUPER = 3  # samples per pixel and axis; odd, so that one of them is the centre
_HEIGHT = 192.0
_HORIZON = 84.0
_SPEED = 4.6  # units per frame at the bottom edge; less with distance
_ROAD = (143.0, 192.0)
_LANE_MARK = 164.0
_TILE = 256

Rgb = tuple[float, float, float]


@dataclass(frozen=True)
class SampleClip:
    """frames u8 (F, H, W, 3), labels u8 (F, H, W) with the ids of `classes`."""

    frames: np.ndarray
    labels: np.ndarray
    classes: tuple[LabelClass, ...] = CLASSES


def make_sample(seed: int = 0, frames: int = 42, size: tuple[int, int] = (192, 320)) -> SampleClip:
    """Paint the clip; the same arguments give the same bytes, a shorter clip is the start of a longer one.

    Args:
        seed: decides textures and where things stand.
        size: (H, W) of the frames.
    """
    world = _World(np.random.default_rng(seed))
    images = np.empty((frames, *size, 3), np.uint8)
    labels = np.empty((frames, *size), np.uint8)
    for frame in range(frames):
        images[frame], labels[frame] = _paint(world, frame, size)
    return SampleClip(images, labels)


class _World:
    """Textures and places that do not change over time."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.soft = _pink_noise(rng, 1.9)
        self.rough = _pink_noise(rng, 1.1)
        self.grain = _pink_noise(rng, 0.4)
        self.jitter = rng.uniform(-1, 1, 64)

    def wobble(self, number: int) -> float:
        """A fixed value in [-1, 1] for the thing of that number."""
        return float(self.jitter[number % 64])


class _Canvas:
    """The frame that is being painted, far things first; `x`, `y` are the samples' positions in units."""

    def __init__(self, size: tuple[int, int]) -> None:
        height, width = size
        unit = _HEIGHT / height
        self.x = ((np.arange(width * _SUPER) + 0.5) / _SUPER * unit).astype(np.float32)
        self.y = ((np.arange(height * _SUPER) + 0.5) / _SUPER * unit).astype(np.float32)
        self.width = width * unit
        self.rgb = np.zeros((height * _SUPER, width * _SUPER, 3), np.float32)
        self.label = np.zeros(self.rgb.shape[:2], np.uint8)

    def window(self, left: float, right: float, top: float, bottom: float) -> _Window:
        rows = slice(*np.searchsorted(self.y, (top, bottom)))
        columns = slice(*np.searchsorted(self.x, (left, right)))
        return _Window(self, rows, columns)

    def finish(self) -> tuple[np.ndarray, np.ndarray]:
        height, width = self.label.shape[0] // _SUPER, self.label.shape[1] // _SUPER
        mean = self.rgb.reshape(height, _SUPER, width, _SUPER, 3).mean(axis=(1, 3))
        centre = _SUPER // 2
        return np.clip(mean + 0.5, 0, 255).astype(np.uint8), self.label[centre::_SUPER, centre::_SUPER].copy()


class _Window:
    """A rectangle of the canvas that one thing is painted into."""

    def __init__(self, canvas: _Canvas, rows: slice, columns: slice) -> None:
        self.x = canvas.x[None, columns]
        self.y = canvas.y[rows, None]
        self._rgb = canvas.rgb[rows, columns]
        self._label = canvas.label[rows, columns]

    def fill(self, where: np.ndarray | bool, colour: np.ndarray | Rgb, label: int) -> None:
        np.copyto(self._rgb, np.asarray(colour, np.float32), where=np.asarray(where)[..., None])
        np.copyto(self._label, np.uint8(label), where=where)

    def shade(self, where: np.ndarray, factor: float | np.ndarray) -> None:
        """Darken or lighten what is there already; labels stay."""
        where = np.broadcast_to(where, self._label.shape)
        factors = np.broadcast_to(np.asarray(factor, np.float32), self._label.shape)
        self._rgb[where] *= factors[where][:, None]


def _paint(world: _World, frame: int, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    canvas = _Canvas(size)
    _paint_sky(canvas, world, frame)
    _paint_hills(canvas, world, frame)
    _paint_balloon(canvas, world, frame)
    _paint_ground(canvas, world, frame)
    for paint in _things(canvas, world, frame):
        paint()
    return canvas.finish()


def _things(canvas: _Canvas, world: _World, frame: int) -> list[Callable[[], None]]:
    """How to paint what stands on the ground, far to near; rows of trees and houses go on without end."""
    things: list[tuple[float, Callable[[], None]]] = []

    def repeat(base: float, spacing: float, first: float, paint: Callable[..., None]) -> None:
        start = frame * _speed(base) - first
        for number in range(int((start - 80) // spacing), int((start + canvas.width + 80) // spacing) + 1):
            x = number * spacing - start + 0.1 * spacing * world.wobble(7 * number + int(base))
            things.append((base, partial(paint, canvas, world, x, base, number)))

    repeat(104.0, 168.0, 12.0, _paint_tree)
    repeat(124.0, 168.0, 74.0, _paint_house)
    repeat(131.0, 168.0, 150.0, _paint_tree)
    repeat(140.0, 400.0, 28.0, _paint_tree)
    parked = canvas.width * 0.66 - frame * _speed(158.0)
    things.append((158.0, partial(_paint_car, canvas, world, parked, 158.0, (205, 45, 40))))
    driving = 6.2 * (frame - ENTERS_AT + 1) - _CAR_LENGTH / 2
    things.append((182.0, partial(_paint_car, canvas, world, driving, 182.0, (225, 70, 35))))
    return [paint for _, paint in sorted(things, key=lambda thing: thing[0])]


def _paint_sky(canvas: _Canvas, world: _World, frame: int) -> None:
    window = canvas.window(-1, 1e9, -1, _HORIZON + 1)
    height = np.clip(window.y / _HORIZON, 0, 1)
    blue = _mix((92, 158, 226), (206, 228, 242), height**1.3)
    cloud = _sample(world.soft, (window.x + 0.35 * frame) * 0.55, window.y * 1.5 + 40)
    cloud = np.clip((cloud - 0.25) * 0.9, 0, 0.85) * (1 - 0.6 * height)
    window.fill(True, _mix(blue, (255, 253, 248), cloud), SKY)


def _paint_hills(canvas: _Canvas, world: _World, frame: int) -> None:
    # Two ridges; the far one is paler and moves less.
    ridges = ((0.18, 36.0, 17.0, 0.21, (148, 142, 184)), (0.42, 20.0, 13.0, 0.33, (104, 98, 146)))
    for number, (speed, height, relief, scale, colour) in enumerate(ridges):
        window = canvas.window(-1, 1e9, 0, _HORIZON + 3)
        x = window.x + frame * speed
        waves = _sample(world.soft, x * scale, np.full_like(x, 71.0 + 90 * number))
        crest = _HORIZON - height - relief * 0.6 * waves
        slope = _sample(world.rough, x * 0.8 + window.y * 0.5, window.y * 1.1 - x * 0.2)
        fade = np.clip((window.y - crest) / 42, 0, 1)
        shaded = np.asarray(colour, np.float32) * (1 + 0.13 * slope)[..., None]
        window.fill(window.y > crest, _mix(shaded, (176, 178, 196), fade * 0.55), HILL)


def _paint_ground(canvas: _Canvas, world: _World, frame: int) -> None:
    window = canvas.window(-1, 1e9, _HORIZON, 1e9)
    depth = (_HEIGHT - _HORIZON) / np.maximum(window.y - _HORIZON, 0.7)
    across = (window.x - canvas.width / 2) * depth + frame * _SPEED
    sharp = np.clip(1.7 / depth, 0, 1)  # far texture is finer than the samples: fade it out
    tufts = _sample(world.grain, across * 0.8, depth * 90) * sharp
    patches = _sample(world.soft, across * 0.16, depth * 24)
    grass = _mix((152, 178, 78), (186, 194, 98), np.clip(0.5 + 0.4 * patches, 0, 1))
    grass = grass * (0.86 + 0.2 * sharp + 0.13 * tufts)[..., None]
    window.fill(True, _mix(grass, (190, 200, 140), np.clip((depth - 3) / 14, 0, 0.7)), MEADOW)

    top, bottom = _ROAD
    stones = _sample(world.grain, across * 1.3, depth * 170)
    asphalt = (108 + 9 * stones + 5 * _sample(world.soft, across * 0.5, depth * 60))[..., None]
    window.fill((window.y > top) & (window.y <= bottom), asphalt * np.array([0.98, 0.98, 1.03]), ROAD)
    window.fill((window.y > top) & (window.y < top + 2.2), (198, 194, 186), ROAD)
    dashes = (np.abs(window.y - _LANE_MARK) < 1.5) & (across % 78 < 40)
    window.fill(dashes, (232, 230, 220), ROAD)


def _paint_house(canvas: _Canvas, world: _World, x: float, base: float, number: int) -> None:
    half, wall, roof = 37 + 3 * world.wobble(number), 37.0, 27.0
    _shadow(canvas, x + 6, base, half + 5)
    window = canvas.window(x - half - 8, x + half + 8, base - wall - roof - 2, base + 1)
    u, v = window.x - x, base - window.y
    walls = (np.abs(u) < half) & (v > 0) & (v < wall)
    plaster = _sample(world.rough, u * 1.5 + 17 * number, v * 1.5)
    courses = np.where((v % 5.0) < 0.9, 0.9, 1.0)
    colour = np.asarray(((238, 214, 170), (232, 196, 160), (240, 224, 190))[number % 3], np.float32)
    window.fill(walls, colour * ((1 + 0.04 * plaster) * courses)[..., None], HOUSE)
    rise = (v - wall) / roof
    tiles = np.where((v % 4.2) < 1.2, 0.82, 1.0) * (1 + 0.07 * _sample(world.grain, u * 2 + 31, v * 2))
    slanted = (rise > -0.04) & (rise < 1) & (np.abs(u) < (half + 6) - rise * 18)
    window.fill(slanted, np.array([176, 84, 58], np.float32) * tiles[..., None], HOUSE)
    for centre in (-0.62, -0.08, 0.62):
        du, dv = np.abs(u - centre * half), np.abs(v - 22)
        window.fill((du < 6.2) & (dv < 7.7), (250, 246, 236), HOUSE)
        window.fill((du < 4.8) & (dv < 6.3) & (du > 0.6), (84, 110, 136), HOUSE)
    window.fill((np.abs(u - 0.28 * half) < 5) & (v > 0) & (v < 23), (116, 66, 44), HOUSE)


def _paint_tree(canvas: _Canvas, world: _World, x: float, base: float, number: int) -> None:
    scale = (0.62 + 0.6 * (base - 104) / 36) * (1 + 0.08 * world.wobble(number + 5))
    _shadow(canvas, x + 4 * scale, base, 22 * scale)
    window = canvas.window(x - 36 * scale, x + 36 * scale, base - 84 * scale, base + 1)
    u, v = (window.x - x) / scale, (base - window.y) / scale
    bark = 1 + 0.2 * _sample(world.grain, u * 3, v * 0.7 + 9 * number)
    trunk = (np.abs(u) < 3.4 + 1.5 * np.exp(-v / 5)) & (v > 0) & (v < 40)
    window.fill(trunk, np.array([104, 74, 50], np.float32) * bark[..., None], TREE)
    leaf = _sample(world.rough, u * 1.6 + 53 * number, v * 1.6)
    ragged = 1.2 * leaf
    lobes = ((0.0, 52.0, 27.0), (-14.0, 42.0, 17.0), (14.0, 43.0, 17.5), (-2.0, 66.0, 15.0))
    crown = np.zeros(np.broadcast_shapes(u.shape, v.shape), bool)
    for cu, cv, radius in lobes:
        crown |= np.hypot(u - cu, v - cv) < radius + ragged - 2
    light = np.clip(1.0 + 0.011 * (v - 50) - 0.009 * u, 0.62, 1.4) * (1 + 0.24 * leaf)
    window.fill(crown, np.array([50, 112, 52], np.float32) * light[..., None], TREE)


_CAR_LENGTH = 96.0


def _paint_car(canvas: _Canvas, world: _World, x: float, base: float, paint: Rgb) -> None:
    scale = _CAR_LENGTH / 78
    _shadow(canvas, x, base - 1, _CAR_LENGTH / 2 + 2)
    window = canvas.window(x - 40 * scale, x + 40 * scale, base - 36 * scale, base + 1)
    u, v, half = (window.x - x) / scale, (base - window.y) / scale, 39.0
    body = (np.abs(u) < half - 0.02 * (v - 12) ** 2) & (v > 5) & (v < 20)
    slant = (v - 18) * 0.75
    cabin = (u > -27 + slant) & (u < 20 - slant) & (v >= 18) & (v < 33)
    gloss = 1 + 0.014 * (v - 14) + 0.04 * _sample(world.soft, u + 70, v * 2)
    window.fill(body | cabin, np.asarray(paint, np.float32) * gloss[..., None], CAR)
    glass = (u > -23 + slant) & (u < 16 - slant) & (v > 20) & (v < 30.5) & (np.abs(u + 3) > 1.2)
    window.fill(glass, (58, 70, 84), CAR)
    window.fill((np.abs(v - 8) < 1.0) & (np.abs(u) < half - 1), (72, 24, 22), CAR)
    window.fill((u > half - 6) & (u < half - 1.5) & (np.abs(v - 15) < 2), (250, 240, 190), CAR)
    for wheel in (-23.0, 22.0):
        distance = np.hypot(u - wheel, v - 7.5)
        window.fill(distance < 7.5, (34, 34, 38), CAR)
        window.fill(distance < 3.6, (170, 172, 178), CAR)


def _paint_balloon(canvas: _Canvas, world: _World, frame: int) -> None:
    x, y = 98 - 4.5 * frame, 32 - 0.12 * frame
    window = canvas.window(x - 32, x + 32, y - 32, y + 50)
    u, v = window.x - x, window.y - y
    narrowing = np.where(v > 0, 1 - np.clip(v / 34, 0, 1) ** 2 * 0.72, 1.0)
    radius = 28.0
    dome = np.sqrt(np.clip(radius**2 - np.minimum(v, 0) ** 2, 0, None))
    envelope = (np.abs(u) < dome * narrowing) & (v > -radius) & (v < 33)
    around = np.arcsin(np.clip(u / (radius * narrowing), -1, 1))
    gores = np.floor(around / (np.pi / 7) + 0.5).astype(int) % 2
    colour = np.array([(250, 192, 42), (214, 48, 108)], np.float32)[gores]
    window.fill(envelope, colour * (1.02 - 0.16 * np.sin(around + 0.4))[..., None], BALLOON)
    window.fill((np.abs(np.abs(u) - 5.5) < 0.5) & (v >= 33) & (v < 40), (96, 72, 52), BALLOON)
    window.fill((np.abs(u) < 6.5) & (v >= 39) & (v < 47), (140, 92, 52), BALLOON)


def _shadow(canvas: _Canvas, x: float, base: float, half: float) -> None:
    window = canvas.window(x - half, x + half, base - 5, base + 5)
    inside = ((window.x - x) / half) ** 2 + ((window.y - base) / 4.2) ** 2
    window.shade(inside < 1, 0.72 + 0.28 * np.clip(inside, 0, 1) ** 2)


def _speed(row: float) -> float:
    """Units per frame by which ground at that row moves to the left."""
    return _SPEED * (row - _HORIZON) / (_HEIGHT - _HORIZON)


def _pink_noise(rng: np.random.Generator, falloff: float) -> np.ndarray:
    """A periodic texture f32 (_TILE, _TILE) of mean 0 and deviation 1 whose spectrum falls as 1/k^falloff."""
    k = np.hypot(np.fft.fftfreq(_TILE)[:, None], np.fft.rfftfreq(_TILE)[None, :]) * _TILE
    k[0, 0] = np.inf
    spectrum = np.fft.rfft2(rng.standard_normal((_TILE, _TILE))) / k**falloff
    noise = np.fft.irfft2(spectrum, (_TILE, _TILE))
    return (noise / noise.std()).astype(np.float32)


def _sample(tile: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The texture at positions x, y (broadcast), bilinear, repeated without end."""
    column, row = np.floor(x).astype(np.int32), np.floor(y).astype(np.int32)
    fx, fy = (x - column).astype(np.float32), (y - row).astype(np.float32)
    left, right = column % _TILE, (column + 1) % _TILE
    upper, lower = row % _TILE * _TILE, (row + 1) % _TILE * _TILE
    flat = tile.reshape(-1)
    a, b, c, d = (flat.take(start + offset) for start in (upper, lower) for offset in (left, right))
    above, below = a + (b - a) * fx, c + (d - c) * fx
    return above + (below - above) * fy


def _mix(first: np.ndarray | Rgb, second: np.ndarray | Rgb, amount: np.ndarray) -> np.ndarray:
    """Colours between `first` (amount 0) and `second` (1); amount (...), result (..., 3)."""
    first, second = np.asarray(first, np.float32), np.asarray(second, np.float32)
    return first + (second - first) * np.asarray(amount, np.float32)[..., None]

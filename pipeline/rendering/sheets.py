"""Pictures put together for people: legends, captioned montages, contact sheets, x-t slices."""

from __future__ import annotations

import unicodedata
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from pipeline.media.resize import resize_nearest
from pipeline.rendering.drawing import mark_row, resized, row_of, xt_slice

Colour = tuple[int, int, int]

INK: Colour = (32, 32, 32)
PAPER: Colour = (255, 255, 255)

#: Height of captions, and pixels between panels.
TEXT, GAP = 14, 8


@dataclass(frozen=True)
class LegendEntry:
    """One label in a legend: its colour and what is written beside it, in full and where space is short."""

    colour: Colour
    text: str
    short: str


@dataclass(frozen=True)
class Panel:
    """A picture (H, W, 3) with a caption above it ("" = none)."""

    image: np.ndarray
    caption: str = ""


def spread(total: int, count: int) -> list[int]:
    """At most `count` of the positions 0 .. total - 1, evenly spread, with the first and the last."""
    return np.unique(np.linspace(0, total - 1, min(total, count)).round().astype(int)).tolist()


def steps_of(positions: Sequence[int], sampled: Sequence[int]) -> list[int]:
    """Which of the ascending positions `sampled` come first at or behind one of `positions`; none behind the last."""
    steps = (bisect_left(sampled, position) for position in positions)
    return sorted({step for step in steps if step < len(sampled)})


def montage(rows: Sequence[Sequence[Panel]]) -> np.ndarray:
    """Captioned panels in rows, on white; columns are as wide as their widest panel, rows as their highest.

    A row without captions leaves no space for them.
    """
    columns = max(map(len, rows))
    widths = [max(row[c].image.shape[1] for row in rows if c < len(row)) for c in range(columns)]
    headers = [round(TEXT * 1.5) if any(panel.caption for panel in row) else 0 for row in rows]
    heights = [max(panel.image.shape[0] for panel in row) for row in rows]
    width, height = sum(widths) + GAP * (columns + 1), sum(headers) + sum(heights) + GAP * (len(rows) + 1)
    canvas = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(canvas)
    top = GAP
    for row, header, height in zip(rows, headers, heights, strict=True):
        left = GAP
        for panel, width in zip(row, widths, strict=False):
            caption = _shortened(panel.caption, width)
            draw.text((left, top + header // 2), caption, INK, font(TEXT), anchor="lm")
            canvas.paste(Image.fromarray(panel.image), (left, top + header))
            left += width + GAP
        top += header + height + GAP
    return np.array(canvas)


def contact_sheet(
    names: Sequence[str],
    frames: Sequence[np.ndarray],
    overlays: Sequence[np.ndarray],
    legend: Sequence[LegendEntry],
) -> np.ndarray:
    """Frames with their overlays below them, in columns, and a legend under all; pictures of one size."""
    upright = frames[0].shape[0] > frames[0].shape[1]
    columns = min(len(frames), 6 if upright else 4)
    rows: list[list[Panel]] = []
    for start in range(0, len(frames), columns):
        part = slice(start, start + columns)
        rows.append([Panel(image, name) for image, name in zip(frames[part], names[part], strict=True)])
        rows.append([Panel(image) for image in overlays[part]])
    sheet = montage(rows)
    border = np.full((GAP, sheet.shape[1], 3), PAPER, np.uint8)
    return np.concatenate([sheet, legend_panel(legend, sheet.shape[1]), border])


@dataclass
class SliceColumns:
    """Collects x-t slices of several kinds of pictures: one row over time, under a picture that marks it.

    Attributes:
        row: which row, 0 (top) .. 1 (bottom).
        width: pixels of a column.
        steps: time steps that will come.
        cuts: time steps that begin a shot: marked by a line.
        marked: by title, the first picture (H, width, 3).
        rows: by title, (steps, width, 3).
        taken: time steps so far.
    """

    row: float
    width: int
    steps: int
    cuts: Sequence[int] = ()
    marked: dict[str, np.ndarray] = field(default_factory=dict)
    rows: dict[str, np.ndarray] = field(default_factory=dict)
    taken: int = 0

    def add(self, pictures: Mapping[str, np.ndarray]) -> None:
        """Take the next time step's pictures by title."""
        for title, image in pictures.items():
            if title not in self.marked:
                small = resized(image, self.width)
                self.marked[title] = mark_row(small, row_of(small, self.row))
                # At once: many small arrays that outlive large ones would leave the heap full of holes.
                self.rows[title] = np.zeros((self.steps, self.width, 3), np.uint8)
            row = row_of(image, self.row)
            self.rows[title][self.taken] = resize_nearest(image[row : row + 1], (1, self.width))[0]
        self.taken += 1

    def over_time(self, height: int) -> dict[str, np.ndarray]:
        """The x-t slices by title, each at least about `height` pixels high."""
        return {title: xt_slice(rows, height, self.cuts) for title, rows in self.rows.items()}

    def picture(self, frames: int) -> np.ndarray:
        """All columns; `frames` is how many frames the time steps were taken from."""
        slices = [Panel(image) for image in self.over_time(round(self.width * 0.6)).values()]
        how = "; lines: cuts" if self.cuts else ", downwards"
        slices[0] = Panel(slices[0].image, f"the marked row over {frames} frames{how}")
        return montage([[Panel(image, title) for title, image in self.marked.items()], slices])


def legend_strip(image: np.ndarray, entries: Sequence[LegendEntry]) -> np.ndarray:
    """A copy of a picture with a dark, half transparent legend along its lower edge.

    It takes about an eighth of the height: full texts where they fit, else short ones, and where not even
    these fit the last entries give way to "+n". A picture too small for any text has none.
    """
    height, width = image.shape[:2]
    size = max(9, round(8 + height / 110))
    line = round(size * 1.5)
    if height < 3 * line:
        return image.copy()
    allowed = max(1, min(2, height // 60), height // 8 // line)
    flowed = _flow([(entry.colour, entry.text) for entry in entries], width, size)
    if len(flowed) > allowed:
        flowed = _flow([(entry.colour, entry.short) for entry in entries], width, size)
    if len(flowed) > allowed:
        flowed = _cut(flowed, allowed, width, size)
    strip = line * len(flowed) + size // 3
    result = image.copy()
    result[height - strip :] = (result[height - strip :] * 0.35).astype(np.uint8)
    canvas = Image.fromarray(result)
    _draw_flow(ImageDraw.Draw(canvas), flowed, height - strip + size // 6, size, PAPER)
    return np.array(canvas)


def legend_panel(entries: Sequence[LegendEntry], width: int) -> np.ndarray:
    """A legend of its own, on white, as wide as asked and as high as needed."""
    flowed = _flow([(entry.colour, entry.text) for entry in entries], width, TEXT)
    canvas = Image.new("RGB", (width, round(TEXT * 1.5) * len(flowed)), PAPER)
    _draw_flow(ImageDraw.Draw(canvas), flowed, 0, TEXT, INK)
    return np.array(canvas)


#: A swatch's colour (None = none) and the text beside it.
_Chip = tuple[Colour | None, str]


@cache
def font(size: int) -> ImageFont.FreeTypeFont:
    """The built-in font, so many pixels high."""
    built_in = ImageFont.load_default(size)
    assert isinstance(built_in, ImageFont.FreeTypeFont)  # given a size, Pillow returns its scalable font
    return built_in


def legible(text: str) -> str:
    """The text in letters that the built-in font has: without accents, a question mark for what is no Latin letter."""
    plain = unicodedata.normalize("NFKD", text.replace("ß", "ss"))
    return "".join(sign for sign in plain if not unicodedata.combining(sign)).encode("ascii", "replace").decode()


def _shortened(text: str, width: int) -> str:
    """The text, without its beginning where it is too wide: names differ at their ends."""
    text = legible(text)
    if font(TEXT).getlength(text) <= width:
        return text
    while text and font(TEXT).getlength("..." + text) > width:
        text = text[1:]
    return "..." + text


def _chip_width(chip: _Chip, size: int) -> int:
    swatch = 0 if chip[0] is None else round(size * 1.3)
    return swatch + round(font(size).getlength(chip[1])) + size


def _flow(chips: Sequence[_Chip], width: int, size: int) -> list[list[_Chip]]:
    """Chips in lines no wider than `width`."""
    lines: list[list[_Chip]] = [[]]
    used = size // 2
    for chip in chips:
        wide = _chip_width(chip, size)
        if lines[-1] and used + wide > width:
            lines.append([])
            used = size // 2
        lines[-1].append(chip)
        used += wide
    return lines


def _cut(flowed: list[list[_Chip]], lines: int, width: int, size: int) -> list[list[_Chip]]:
    """Only the first lines, the last of which ends with how many chips are left out."""
    last, left_out = list(flowed[lines - 1]), sum(map(len, flowed[lines:]))
    while last and sum(_chip_width(chip, size) for chip in [*last, _rest(left_out)]) > width - size // 2:
        last.pop()
        left_out += 1
    return [*flowed[: lines - 1], [*last, _rest(left_out)]]


def _rest(count: int) -> _Chip:
    return None, f"+{count}"


def _draw_flow(draw: ImageDraw.ImageDraw, flowed: list[list[_Chip]], top: int, size: int, ink: Colour) -> None:
    line = round(size * 1.5)
    for number, chips in enumerate(flowed):
        left, middle = size // 2, top + number * line + line // 2
        for colour, text in chips:
            at = left
            if colour is not None:
                square = (at, middle - size // 2, at + size - 1, middle - size // 2 + size - 1)
                draw.rectangle(square, colour, ink)
                at += round(size * 1.3)
            draw.text((at, middle), text, ink, font(size), anchor="lm")
            left += _chip_width((colour, text), size)

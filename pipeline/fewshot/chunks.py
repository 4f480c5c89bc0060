"""A long clip in parts: chunks that overlap, and groups of frames inside them (SMITE, section 7.5).

Frames that a chunk shares with the one before begin where that one ended: its maps of them are *carried* over as the
reference maps. The result of shared frames is taken from the later chunk.
"""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.errors import UsageError


@dataclass(frozen=True)
class Chunk:
    """Frames that are seen together.

    Attributes:
        frames: of the clip.
        carried: how many of the first of them the chunk before has too.
        taken: those whose result is this chunk's; may be empty.
        number, count: its place among the clip's chunks, from 0, and how many these are.
    """

    frames: range
    carried: int
    taken: range
    number: int
    count: int


def chunks(frames: int, size: int, overlap: int) -> tuple[Chunk, ...]:
    """The chunks of a clip of `frames` frames, in order.

    The last one is moved back so that it is full, and shares more with the one before; a clip shorter than `size` is
    one shorter chunk.

    Raises:
        UsageError: the overlap is not smaller than the size.
    """
    if not 0 <= overlap < size:
        raise UsageError(f"apply.overlap must be at least 0 and below apply.chunk ({size}), not {overlap}")
    starts = [0]
    while starts[-1] + size < frames:
        starts.append(min(starts[-1] + size - overlap, frames - size))
    stops = [min(start + size, frames) for start in starts]
    return tuple(
        Chunk(
            range(start, stop),
            carried=stops[number - 1] - start if number else 0,
            taken=range(start, starts[number + 1] if number + 1 < len(starts) else stop),
            number=number,
            count=len(starts),
        )
        for number, (start, stop) in enumerate(zip(starts, stops, strict=True))
    )


def groups(frames: int, size: int) -> tuple[range, ...]:
    """Consecutive groups of `size` of a chunk's frames, counted from the chunk's first; the last may be smaller.

    Raises:
        UsageError: groups of no frames.
    """
    if size < 1:
        raise UsageError(f"guidance.group must be at least 1 frame, not {size}")
    return tuple(range(start, min(start + size, frames)) for start in range(0, frames, size))

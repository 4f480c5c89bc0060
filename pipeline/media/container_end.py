"""Whether a video file ends where its container says: what a stated length, which may be stale, cannot tell."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

#: Matroska's elements that may have no stated size; what follows lies in them.
_OPEN_ELEMENTS = frozenset({0x18538067, 0x1F43B675})  # Segment, Cluster


def cut_off(path: Path, format_name: str) -> str | None:
    """Why a file must be cut off, by its container's own structure, or None.

    Args:
        format_name: FFmpeg's name of the container; of others than MP4, Matroska, AVI and MPEG-TS nothing is known.
    """
    for part, check in _CHECKS.items():
        if part in format_name.split(","):
            with path.open("rb") as file:
                return check(file, path.stat().st_size)
    return None


def _mp4(file: BinaryIO, size: int) -> str | None:
    at = 0
    while at + 8 <= size:
        file.seek(at)
        head = file.read(16)
        length, kind, least = int.from_bytes(head[:4], "big"), head[4:8], 8
        if length == 1:
            length, least = int.from_bytes(head[8:16], "big"), 16
        if length == 0 or length < least:  # to the end of the file; or no box
            return None
        at += length
        if at > size:
            return f"its box '{kind.decode('latin-1')}' ends {at - size} bytes behind the file"
    return None


def _riff(file: BinaryIO, size: int) -> str | None:
    at = 0
    while at + 12 <= size:
        file.seek(at)
        head = file.read(12)
        length = int.from_bytes(head[4:8], "little")
        if head[:4] != b"RIFF" or length in (0, 0xFFFFFFFF):
            return None
        at += 8 + length
        if at > size:
            return f"its RIFF chunk ends {at - size} bytes behind the file"
        at += length % 2
    return None


def _matroska(file: BinaryIO, size: int) -> str | None:
    at = 0
    while at + 2 <= size:
        file.seek(at)
        head = file.read(12)
        width = 9 - head[0].bit_length()
        if width > 4 or len(head) <= width or not head[width]:
            return None
        element = int.from_bytes(head[:width], "big")
        digits = 9 - head[width].bit_length()
        length = int.from_bytes(head[width : width + digits], "big") & ((1 << 7 * digits) - 1)
        at += width + digits
        if length == (1 << 7 * digits) - 1:  # not stated
            if element not in _OPEN_ELEMENTS:
                return None
            continue
        at += length
        if at > size:
            return f"its element {element:X} ends {at - size} bytes behind the file"
    return None


def _transport_stream(file: BinaryIO, size: int) -> str | None:
    head = file.read(209)
    for packet, at in ((188, 0), (192, 4), (204, 0)):
        if len(head) > at + packet and head[at] == head[at + packet] == 0x47:
            return "it ends in the middle of a packet" if size % packet else None
    return None


_CHECKS: dict[str, Callable[[BinaryIO, int], str | None]] = {
    "mp4": _mp4, "avi": _riff, "matroska": _matroska, "mpegts": _transport_stream,
}  # fmt: skip

"""What the packets of a video stream tell without decoding them: its rate, its frames, and what is missing."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av

from pipeline.media.container_end import cut_off
from pipeline.media.frame_source import Notes

#: Frames per second where neither the file nor the caller says it.
USUAL_FPS = 25.0


@dataclass(frozen=True)
class PacketTiming:
    """When the frames of a stream are shown.

    Attributes:
        fps: frames per second, on average.
        frames: how many are shown.
        order: their time stamps in presentation order, as far as packets have them, in units of the stream.
        shortfall: why the file cannot be whole, or None.
    """

    fps: float
    frames: int
    order: tuple[int, ...]
    shortfall: str | None

    @classmethod
    def read(
        cls, path: Path, container: av.container.InputContainer, stream: av.VideoStream, notes: Notes
    ) -> PacketTiming:
        """Average rate by the time stamps (a container may state a nominal one), and what is missing."""
        packets = hidden = 0
        shown: list[int] = []
        end = 0
        incomplete = False
        base = stream.time_base or Fraction(1)
        try:
            for packet in container.demux(stream):
                if not packet.size:
                    continue
                packets += 1
                hidden += packet.is_discard
                incomplete = packet.is_corrupt
                if packet.pts is not None and not packet.is_discard:
                    shown.append(packet.pts)
                    end = max(end, packet.pts + (packet.duration or 0))
        except av.error.FFmpegError:
            pass  # the decoding pass says how far it comes
        why = cut_off(path, container.format.name) or ("its last packet is incomplete" if incomplete else None)
        stated = _stated_more(container, stream, packets, float(end * base))
        if why and stated:
            why = f"{why}; {stated}"
        elif stated:
            notes.add(f"{stated}, but ends as it should: frames were dropped when it was recorded, or it was edited")
        seconds = [float(stamp * base) for stamp in shown]
        rate = _average_rate(stream, [] if why else seconds)
        return cls(rate, packets - hidden, tuple(sorted(shown)), why)


def _average_rate(stream: av.VideoStream, shown: list[float]) -> float:
    stated = float(stream.average_rate or stream.guessed_rate or USUAL_FPS)
    span = max(shown) - min(shown) if shown else 0.0
    if span <= 0:
        return stated
    measured = (len(shown) - 1) / span
    # Time stamps are rounded: within 2 % the stated rate is the exact one.
    return stated if abs(measured - stated) <= 0.02 * stated + 1 / span / len(shown) else measured


def _stated_more(
    container: av.container.InputContainer, stream: av.VideoStream, packets: int, end: float
) -> str | None:
    """What a file states, where it holds less."""
    # An mp4 is judged by its length: it also counts frames that its edit list cuts away.
    if stream.frames and "mp4" not in container.format.name:
        missing = stream.frames - packets
        return (
            f"it states {stream.frames} frames and holds {packets}" if missing > max(2, stream.frames // 50) else None
        )
    seconds = _stated_seconds(container, stream)
    if seconds and seconds - end > max(0.25, 0.02 * seconds):
        return f"it states {seconds:.2f} s and holds {end:.2f} s"
    return None


def _stated_seconds(container: av.container.InputContainer, stream: av.VideoStream) -> float | None:
    if stream.duration is not None and stream.time_base is not None:
        return float(stream.duration * stream.time_base)
    tag = re.fullmatch(r"(\d+):(\d+):(\d+(?:\.\d+)?)", stream.metadata.get("DURATION", ""))
    if tag:
        return int(tag[1]) * 3600 + int(tag[2]) * 60 + float(tag[3])
    alone = len(container.streams) == 1  # otherwise the sound may be what is longer
    return container.duration / av.time_base if alone and container.duration else None

"""The frames of a video file as the decoder gives them: which stream, in which order, and what fails."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import av
from av.stream import Disposition

from pipeline.errors import DataError, UsageError
from pipeline.media.deinterlacing import Deinterlacer
from pipeline.media.frame_source import Notes, Reading
from pipeline.media.pictures import MOST_PIXELS


@contextmanager
def open_stream(
    path: Path, number: int | None, notes: Notes
) -> Iterator[tuple[av.container.InputContainer, av.VideoStream]]:
    """The file and the stream that is read: number `number`, else the default one, else the largest.

    Raises:
        DataError: not a video, or its frames are too large.
        UsageError: it has no stream of that number.
    """
    try:
        # The protocol is named because FFmpeg would take a name like "concat:a" for another one.
        container = av.open(f"file:{path}")
    except av.error.FFmpegError as error:
        raise DataError(f"{path}: not a video, or cut off before its index ({error.strerror})") from error
    with container:
        if container.format.name == "tty":  # FFmpeg would draw the text as video
            raise DataError(f"{path}: not a video but text")
        stream = _chosen_stream(path, container, number, notes)
        if stream.width * stream.height > MOST_PIXELS:
            raise DataError(f"{path}: its frames have more than the {MOST_PIXELS} pixels that are read")
        yield container, stream


def _chosen_stream(
    path: Path, container: av.container.InputContainer, number: int | None, notes: Notes
) -> av.VideoStream:
    """The stream that is asked for, else the default one, else the largest; never a cover or a thumbnail."""
    stills = Disposition.attached_pic | Disposition.timed_thumbnails
    videos = [stream for stream in container.streams.video if not stream.disposition & stills]
    if not videos:
        kinds = sorted({stream.type for stream in container.streams})
        raise DataError(f"{path}: no video in this file (it holds: {', '.join(kinds) or 'nothing'})")
    if number is not None:
        for stream in videos:
            if stream.index == number:
                return stream
        known = ", ".join(f"{stream.index} ({stream.width}x{stream.height})" for stream in videos)
        raise UsageError(f"ingest.stream: {path} has no video stream {number}; there are: {known}")
    preferred = [stream for stream in videos if stream.disposition & Disposition.default] or videos
    chosen = max(preferred, key=lambda stream: stream.width * stream.height)  # the first of equal ones
    if len(videos) > 1:
        others = [stream for stream in videos if stream is not chosen]
        named = " and ".join(f"{stream.index} ({stream.width}x{stream.height})" for stream in others)
        notes.add(
            f"video stream {chosen.index} ({chosen.width}x{chosen.height}) is used, stream {named} left out; "
            f"ingest.stream: {others[0].index} chooses it"
        )
    return chosen


def decoded(
    path: Path, reading: Reading, shortfall: str | None, notes: Notes
) -> Iterator[tuple[av.VideoFrame | None, str]]:
    """All frames in presentation order, deinterlaced where that is asked for; None for what fails, and why.

    Of a file with a shortfall, the frames that the decoder holds back for reordering until the end are left
    out: those they wait for may be missing, so that there would be gaps. PyAV's default threading (by slice)
    is kept: decoding whole frames in parallel loses errors near the end.
    """
    fields = Deinterlacer(reading.deinterlace == "auto", notes)
    with open_stream(path, reading.stream, notes) as (container, stream):
        if stream.codec_context.name == "mjpeg":  # else its decoder hides damage
            stream.codec_context.options = {"err_detect": "explode"}
        packets = container.demux(stream)
        while True:
            try:
                packet = next(packets, None)
            except av.error.FFmpegError as error:
                yield from fields.rest()
                yield None, f"reading fails: {error.strerror}"
                return
            if packet is None:
                break
            flush = packet.dts is None and not packet.size  # the request to give out what is held back
            if shortfall and flush:
                break
            try:
                frames = packet.decode()
            except av.error.FFmpegError as error:
                yield from fields.rest()
                yield None, f"decoding fails: {error.strerror}"
                continue
            for frame in frames:
                yield from fields.add(frame)
        yield from fields.rest()

"""Files that people really have (tests/data/cases), each made after public bug reports of tools like this one."""

from __future__ import annotations

import shutil
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from pipeline.errors import DataError, UsageError
from pipeline.media.frame_source import FrameRange, Reading, SourceFrame, square_size
from pipeline.media.video import open_source, write_video
from tests.support.places import ROOT

CASES = ROOT / "tests" / "data" / "cases"


def read(
    name: str | Path, frames: str | None = None, reading: Reading = Reading()
) -> tuple[list[SourceFrame], list[str]]:
    """The frames of a file, and what is said about it."""
    source = open_source(CASES / name, reading=reading)
    found = list(source.frames(FrameRange.parse(frames)))
    assert all(frame.image.shape == (*source.size, 3) for frame in found)
    return found, [note.text for note in source.notes.found]


@pytest.mark.parametrize(
    ("name", "count", "said"),
    [
        ("dropped_frames.avi", 36, "it states 96 frames and holds 36, but ends as it should: frames were dropped"),
        ("stale_duration.mkv", 50, "it states 10.00 s and holds 2.00 s, but ends as it should"),
        ("matrix_8.mp4", 3, "matrix_coefficients 8 (YCgCo), and converted as such"),
        ("matrix_10.mp4", 3, "matrix_coefficients 10 (BT.2020 constant luminance); they are read as BT.2020"),
        ("hourly.mp4", 4, None),
        ("anamorphic.mp4", 3, None),
    ],
)
def test_what_others_play_is_read(name: str, count: int, said: str | None) -> None:
    found, notes = read(name)
    assert [frame.index for frame in found] == list(range(count))
    assert len(notes) == (said is not None) and all(str(said) in note for note in notes)


def test_the_frames_of_a_recording_with_drops_keep_their_times() -> None:
    times = [frame.time for frame in read("dropped_frames.avi")[0]]
    assert times[:4] == pytest.approx([0, 0.04, 0.08, 0.12]) and times[-2:] == pytest.approx([3.6, 3.8])
    assert [frame.time for frame in read("hourly.mp4")[0]] == [0, 3600, 7200, 10800]


@pytest.mark.parametrize("name", ["stale_duration.mkv", "dropped_frames.avi", "lost_packets.ts"])
def test_a_file_that_is_really_cut_off_is_still_found(tmp_path: Path, name: str) -> None:
    data = (CASES / name).read_bytes()
    (tmp_path / name).write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError, match="truncated or damaged, only the first "):
        read(tmp_path / name)
    found, notes = read(tmp_path / name, reading=Reading(damaged="skip"))
    assert len(found) > 5 and "cut off after frame" in notes[-1]


def test_a_range_behind_damage_is_read() -> None:
    found, notes = read("lost_packets.ts", "90:100")
    assert [frame.name for frame in found] == [f"{number:05d}" for number in range(90, 100)] and not notes


def test_damage_is_refused_with_its_place_and_the_remedy() -> None:
    with pytest.raises(DataError, match=r"frame 65 is damaged \(.*ingest\.damaged: skip.*ingest\.frames: 0:65"):
        read("lost_packets.ts")


def test_damaged_frames_are_skipped_or_repeated_and_numbers_stay() -> None:
    whole = list(range(120))
    skipped, said = read("lost_packets.ts", reading=Reading(damaged="skip"))
    assert [frame.index for frame in skipped] == whole[:65] + whole[66:]
    assert said == ["damaged frames are left out: 65 (ingest.damaged)"]
    repeated, said = read("lost_packets.ts", reading=Reading(damaged="repeat"))
    assert [frame.index for frame in repeated] == whole
    assert said == ["damaged frames are replaced by the frame before: 65 (ingest.damaged)"]
    np.testing.assert_array_equal(repeated[65].image, repeated[64].image)
    np.testing.assert_array_equal(repeated[66].image, skipped[65].image)
    only, _ = read("lost_packets.ts", "65:66", Reading(damaged="repeat"))
    np.testing.assert_array_equal(only[0].image, repeated[65].image)


def flipped(source: Path, path: Path, number: int) -> Path:
    """A copy with the second half of one packet flipped."""
    data = bytearray(source.read_bytes())
    with av.open(str(source)) as file:
        packet = [packet for packet in file.demux(video=0) if packet.size][number]
        at = data.index(bytes(packet)) + packet.size // 2
        data[at : at + packet.size // 3] = bytes(value ^ 0xFF for value in data[at : at + packet.size // 3])
    path.write_bytes(data)
    return path


def test_a_damaged_jpeg_frame_is_refused_as_those_of_other_codecs(tmp_path: Path) -> None:
    path = flipped(CASES / "dropped_frames.avi", tmp_path / "a.avi", 20)
    with pytest.raises(DataError, match=r"a\.avi: frame 20 is damaged \(decoding fails"):
        read(path)
    found, said = read(path, reading=Reading(damaged="skip"))
    assert len(found) == 35 and "damaged frames are left out" in said[-1]
    assert found[-1].index == 35


def test_the_default_stream_is_taken_else_the_one_that_is_chosen() -> None:
    found, said = read("two_streams.mkv")
    assert found[0].image.shape == (480, 854, 3)
    assert said == ["video stream 1 (854x480) is used, stream 0 (16x16) left out; ingest.stream: 0 chooses it"]
    chosen, said = read("two_streams.mkv", reading=Reading(stream=0))
    assert chosen[0].image.shape == (16, 16, 3) and not said
    with pytest.raises(UsageError, match=r"no video stream 7; there are: 0 \(16x16\), 1 \(854x480\)"):
        read("two_streams.mkv", reading=Reading(stream=7))


@pytest.mark.parametrize("name", ["anim.webp", "anim.png"])
def test_an_animation_is_all_its_frames(name: str) -> None:
    found, said = read(name)
    assert [(frame.name, frame.time) for frame in found] == [("00000", 0.0), ("00001", 0.1)] and not said
    assert found[0].image.shape == (64, 128, 3) and (found[0].image != found[1].image).any()
    assert [frame.index for frame in read(name, "1:")[0]] == [1]


@pytest.mark.parametrize("suffix", ["tiff", "avif"])
def test_stacks_and_sequences(tmp_path: Path, suffix: str) -> None:
    pages = [Image.new("RGB", (32, 16), (60 * number, 0, 0)) for number in range(4)]
    pages[0].save(tmp_path / f"a.{suffix}", save_all=True, append_images=pages[1:])
    found, _ = read(tmp_path / f"a.{suffix}")
    assert [round(float(frame.image[..., 0].mean()) / 60) for frame in found] == [0, 1, 2, 3]
    assert [frame.index for frame in read(tmp_path / f"a.{suffix}", "1:3")[0]] == [1, 2]


def test_pictures_of_several_formats_are_all_frames() -> None:
    found, said = read("mixed_pictures")
    assert [frame.name for frame in found] == ["0", "1", "1b", "2", "3"] and not said


@pytest.mark.parametrize("suffix", ["ppm", "pgm", "jp2", "avif"])
def test_more_formats(tmp_path: Path, suffix: str) -> None:
    Image.new("L" if suffix == "pgm" else "RGB", (32, 16)).save(tmp_path / f"a.{suffix}")
    assert len(read(tmp_path)[0]) == 1


def test_nothing_of_a_folder_is_left_out_silently(tmp_path: Path) -> None:
    shutil.copytree(CASES / "mixed_pictures", tmp_path / "f")
    shutil.copy(CASES / "anamorphic.mp4", tmp_path / "f" / "clip.mp4")
    assert read(tmp_path / "f")[1] == ["clip.mp4 is left out: videos among pictures"]
    for name in ("4.jxl", "5.gif"):
        (tmp_path / "f" / name).touch()
    with pytest.raises(DataError, match=r"f: 4\.jxl, 5\.gif would be left out, because the format is not read"):
        read(tmp_path / "f")


def test_heic_without_its_package_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    (tmp_path / "a.heic").touch()
    with pytest.raises(DataError, match=r"a\.heic: reading HEIC needs pillow-heif: pip install 'vidseg\[heif\]'"):
        read(tmp_path / "a.heic")


def test_heic_frames(tmp_path: Path) -> None:
    pytest.importorskip("pillow_heif", reason="the extra `heif` is not installed").register_heif_opener()
    for number in range(2):
        Image.new("RGB", (64, 48), (100 * number, 0, 0)).save(tmp_path / f"{number}.heic")
    found, said = read(tmp_path)
    assert [round(float(frame.image[..., 0].mean()) / 100) for frame in found] == [0, 1] and not said


def moving(number: int, height: int, width: int) -> np.ndarray:
    """A frame (height, width, 3) with a bright bar that moves by 12 pixels a frame."""
    image = np.full((height, width, 3), 40, np.uint8)
    image[:, 12 * number : 12 * number + 16] = 220
    return image


def encoded(path: Path, frames: list[np.ndarray], codec: str, form: str, options: dict[str, str]) -> Path:
    """A file of a codec and a container's format, with the codec's options."""
    with av.open(str(path), "w", format=form) as file:
        stream = file.add_stream(codec, rate=25, options=options)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            file.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        file.mux(stream.encode(None))
    return path


def test_interlaced_video_is_deinterlaced_unless_asked_otherwise(tmp_path: Path) -> None:
    """Rows of two moments in one frame make a comb at the edges of what moves."""
    frames = []
    for number in range(6):
        frame = moving(number, 64, 128)
        frame[1::2] = moving(number, 64, 136)[1::2, 6:134]  # the second field, half a frame later
        frames.append(frame)
    file = encoded(tmp_path / "a.mpg", frames, "mpeg2video", "mpeg", {"flags": "+ilme+ildct", "qscale": "2"})

    def comb(images: list[SourceFrame]) -> float:
        rows = images[3].image[8:-8, :, 0].astype(float)
        return float(np.abs(rows[1:-1] - (rows[:-2] + rows[2:]) / 2).mean())

    found, said = read(file)
    assert said == ["interlaced, and deinterlaced; ingest.deinterlace: never keeps its fields"]
    kept, nothing = read(file, reading=Reading(deinterlace="never"))
    assert not nothing and len(found) == len(kept) == 6
    assert comb(found) < comb(kept) / 3


def test_sizes_that_change_in_a_stream_are_scaled_back(tmp_path: Path) -> None:
    parts = [
        encoded(tmp_path / f"{height}.h264", [moving(n, height, 2 * height) for n in range(3)], "libx264", "h264", {})
        for height in (96, 48)
    ]
    whole = tmp_path / "whole.h264"
    whole.write_bytes(b"".join(part.read_bytes() for part in parts))
    found, said = read(whole)
    assert len(found) == 6 and said == ["frames change from 192x96 to 96x48 pixels and are scaled back"]
    assert found[4].image[:, 34:44].mean() > 150  # the bar, where it is in twice the width
    assert read(whole, "0:3")[1] == []


def test_the_shape_of_pixels_is_known_and_written(tmp_path: Path) -> None:
    source = open_source(CASES / "anamorphic.mp4")
    assert source.aspect == Fraction(16, 11) and square_size(source) == (96, 209)
    written = write_video(tmp_path / "a.mp4", (frame.image for frame in source.frames()), source.fps, source.aspect)
    assert open_source(written).aspect == Fraction(16, 11)


@pytest.mark.parametrize("fps", [1 / 86400, 1 / 3600, 0.3, 25, 1000])
def test_any_rate_is_written(tmp_path: Path, fps: float) -> None:
    written = write_video(tmp_path / "a.mp4", [np.zeros((16, 16, 3), np.uint8)] * 3, fps)
    source = open_source(written)
    assert source.fps == pytest.approx(fps, rel=1e-3) and source.expected == 3

from __future__ import annotations

import gc
import struct
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from pipeline.errors import DataError, UsageError
from pipeline.media.frame_source import FrameRange
from pipeline.media.pictures import write_image
from pipeline.media.video import open_source, write_video

HEIGHT, WIDTH = 48, 80


def picture(number: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """A frame that tells its number (grey level) and its orientation (red top left, blue bottom left)."""
    image = np.full((height, width, 3), 20 + 7 * number, np.uint8)
    image[: height // 2, : width // 4] = (250, 0, 0)
    image[height // 2 :, : width // 4] = (0, 0, 250)
    return image


def number_of(image: np.ndarray) -> int:
    """The number in a `picture`."""
    return round((float(image[:, image.shape[1] // 2 :].mean()) - 20) / 7)


def make_video(
    path: Path,
    count: int = 30,
    codec: str = "libx264",
    muxer: dict[str, str] | None = None,
    times: Sequence[int] | None = None,
) -> Path:
    """A test video at 25 fps, or with a frame at each of `times` (ms)."""
    with av.open(str(path), "w", options=muxer or {}) as file:
        stream = file.add_stream(codec, rate=25)
        stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "yuv420p"
        stream.codec_context.gop_size = 10
        stream.bit_rate = 4_000_000
        if times is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        for number in range(count):
            frame = av.VideoFrame.from_ndarray(picture(number), format="rgb24")
            if times is not None:
                frame.pts, frame.time_base = times[number], Fraction(1, 1000)
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return path


def make_sound(path: Path) -> Path:
    with av.open(str(path), "w") as file:
        stream = file.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        frame.sample_rate = 8000
        file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return path


def cut(path: Path, share: float) -> Path:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    return path


def make_folder(folder: Path, names: Sequence[str]) -> Path:
    """Pictures numbered in the order of `names`; JPEG etc. by suffix."""
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture(number)).save(folder / name)
    return folder


def read(path: Path, frames: str | None = None, stride: int = 1) -> dict[str, int]:
    """name -> number of every frame read, in order; checks that indices fit."""
    found = list(open_source(path).frames(FrameRange.parse(frames, stride)))
    assert all(frame.image.dtype == np.uint8 for frame in found)
    return {frame.name: number_of(frame.image) for frame in found}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_video(tmp_path_factory.mktemp("video") / "plain.mp4")


# Ranges


@pytest.mark.parametrize("text", [None, "0:28", "10:", ":5", " 3 : 9 ", "0:1", ":"])
@pytest.mark.parametrize("stride", [1, 3])
def test_a_range_selects_what_a_python_slice_does(text: str | None, stride: int) -> None:
    indices = FrameRange.parse(text, stride)
    start, _, stop = (text or ":").partition(":")
    expected = list(range(12))[int(start or 0) : int(stop) if stop.strip() else None : stride]
    assert [index for index in range(12) if index in indices] == expected
    assert indices.count(12) == len(expected)


@pytest.mark.parametrize("text", ["5", "-3:", "0:-1", "a:b", "0:10:2", "", "1.5:3"])
def test_other_ranges_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"ingest\.frames must be START:STOP"):
        FrameRange.parse(text)


def test_a_number_is_explained(plain: Path) -> None:
    with pytest.raises(UsageError, match="the number 628; put the range in quotes: frames: '10:28'"):
        FrameRange.parse(628)  # what YAML 1.1 makes of an unquoted 10:28


@pytest.mark.parametrize("text", ["5:5", "8:3", "0:0"])
def test_a_range_without_frames_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=f"ingest.frames: nothing is in {text}"):
        FrameRange.parse(text)


@pytest.mark.parametrize("stride", [0, -1])
def test_a_stride_below_one_is_refused(stride: int) -> None:
    with pytest.raises(UsageError, match=r"ingest\.stride"):
        FrameRange.parse(None, stride)


# Videos


def test_a_video_is_read_in_order(plain: Path) -> None:
    source = open_source(plain)
    assert (source.size, source.fps, source.expected) == ((HEIGHT, WIDTH), 25.0, 30)
    assert read(plain) == {f"{number:05d}": number for number in range(30)}


def test_ranges_and_strides_of_a_video(plain: Path) -> None:
    assert list(read(plain, "4:20", 5)) == ["00004", "00009", "00014", "00019"]
    assert list(read(plain, "28:99")) == ["00028", "00029"]
    with pytest.raises(DataError, match="99: selects none of the 30 frames"):
        read(plain, "99:")


def test_a_given_rate_wins(plain: Path) -> None:
    assert open_source(plain, fps=12.5).fps == 12.5


@pytest.mark.parametrize(
    ("suffix", "codec"), [("mkv", "libx264"), ("avi", "mpeg4"), ("webm", "libvpx-vp9"), ("ts", "libx264")]
)
def test_other_containers(tmp_path: Path, suffix: str, codec: str) -> None:
    source = open_source(make_video(tmp_path / f"a.{suffix}", codec=codec))
    assert (source.fps, source.expected) == (25.0, 30)
    assert [number_of(frame.image) for frame in source.frames()] == list(range(30))


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_variable_frame_rate(tmp_path: Path, suffix: str) -> None:
    times = np.cumsum(np.random.default_rng(1).integers(20, 200, 30)).tolist()
    path = make_video(tmp_path / f"a.{suffix}", times=times)
    assert list(read(path).values()) == list(range(30))
    assert open_source(path).fps == pytest.approx(29_000 / (times[-1] - times[0]), rel=0.03)


@pytest.mark.parametrize(
    ("matrix", "shown"),
    [
        ((1, 0, 0, 1), lambda image: image),
        ((0, -1, 1, 0), lambda image: np.rot90(image, 1)),
        ((-1, 0, 0, -1), lambda image: np.rot90(image, 2)),
        ((0, 1, -1, 0), lambda image: np.rot90(image, -1)),
        ((-1, 0, 0, 1), lambda image: image[:, ::-1]),
        ((1, 0, 0, -1), lambda image: image[::-1]),
        ((0, 1, 1, 0), lambda image: image.swapaxes(0, 1)),
    ],
)
def test_the_display_matrix_is_honoured(
    tmp_path: Path, matrix: tuple[int, int, int, int], shown: Callable[[np.ndarray], np.ndarray]
) -> None:
    """A source point (x, y) is shown at (a x + c y, b x + d y); phones store upright videos so."""
    path = make_video(tmp_path / "a.mp4", count=2)
    data = bytearray(path.read_bytes())
    at = data.find(b"tkhd") + 44  # behind the header's times, ids and volume: 9 fixed-point numbers
    a, b, c, d = (65536 * value for value in matrix)
    struct.pack_into(">5i", data, at, a, b, 0, c, d)
    path.write_bytes(data)
    source = open_source(path)
    frame = list(source.frames())[1].image
    expected = shown(picture(1))
    assert source.size == expected.shape[:2] == frame.shape[:2]
    assert np.abs(frame.astype(int) - expected).mean() < 12


def test_decoded_frames_do_not_pile_up(plain: Path) -> None:
    gc.collect()
    gc.disable()
    try:
        alive = [
            sum(type(item) is av.VideoFrame for item in gc.get_objects())
            for frame in open_source(plain).frames()
            if frame.index % 10 == 9
        ]
    finally:
        gc.enable()
    assert max(alive) < 10


def test_frames_hidden_by_an_edit_list_are_no_loss(tmp_path: Path) -> None:
    path = make_video(tmp_path / "a.mp4")
    data = bytearray(path.read_bytes())
    entry = data.find(b"elst") + 12
    duration, start = struct.unpack_from(">Ii", data, entry)
    step = 12800 // 25  # the muxer's time base
    struct.pack_into(">Ii", data, entry, duration - 12 * 40, start + 12 * step)
    path.write_bytes(data)
    assert list(read(path).values()) == list(range(12, 30))


def test_a_strange_file_name(tmp_path: Path, plain: Path) -> None:
    path = tmp_path / "concat:50%03d ü.mp4"
    path.write_bytes(plain.read_bytes())
    assert len(read(path)) == 30


@pytest.mark.parametrize(
    ("suffix", "codec", "muxer"),
    [
        ("mp4", "libx264", {"movflags": "faststart"}),
        ("mp4", "libx264", {"movflags": "frag_keyframe+empty_moov"}),
        ("mkv", "libx264", {}),
        ("avi", "mpeg4", {}),
    ],
)
def test_a_truncated_video_says_what_can_be_used(
    tmp_path: Path, suffix: str, codec: str, muxer: dict[str, str]
) -> None:
    path = cut(make_video(tmp_path / f"a.{suffix}", codec=codec, muxer=muxer), 0.75)
    with pytest.raises(DataError, match=r"only the first \d+ frames can be read") as caught:
        read(path)
    usable = str(caught.value).rpartition("ingest.frames: ")[2]
    count = int(usable.partition(":")[2])
    assert 0 < count < 30
    assert list(read(path, usable).values()) == list(range(count))
    with pytest.raises(DataError, match="truncated or damaged"):
        read(path, f"0:{count + 1}")


def test_a_video_cut_before_its_index(tmp_path: Path, plain: Path) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(plain.read_bytes())
    with pytest.raises(DataError, match=r"a\.mp4: not a video, or cut off before its index"):
        open_source(cut(path, 0.6))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.mp4", b"", "not a video"),
        ("a.mp4", b"hello" * 999, "not a video"),
        ("a.txt", b"hello world\n" * 99, "not a video but text"),
        ("a.srt", b"1\n00:00:00,000 --> 00:00:01,000\nhi\n", r"no video in this file \(it holds: subtitle\)"),
        ("a.mp4", None, "no such file or folder"),
    ],
)
def test_what_is_no_video(tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=rf"{name}: {message}"):
        open_source(tmp_path / name)


def test_sound_alone(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a\.wav: no video in this file \(it holds: audio\)"):
        open_source(make_sound(tmp_path / "a.wav"))


def test_a_video_without_frames(tmp_path: Path) -> None:
    path = make_video(tmp_path / "a.mp4", muxer={"movflags": "frag_keyframe+empty_moov"})
    data = path.read_bytes()
    path.write_bytes(data[: data.find(b"moof") - 4])  # all that comes before the first fragment
    with pytest.raises(DataError, match=r"a\.mp4: the video has no frames"):
        open_source(path)


def test_one_frame(tmp_path: Path) -> None:
    assert read(make_video(tmp_path / "a.mp4", count=1)) == {"00000": 0}


# Folders


def test_a_folder_in_natural_order(tmp_path: Path) -> None:
    folder = make_folder(
        tmp_path / "f",
        ["shot 1.png", "shot 2.JPG", "shot 10.jpeg", "shot 11.bmp", "shot 20.WebP", "shot 100.TIFF"],
    )
    (folder / "notes.txt").write_text("x")
    (folder / ".hidden.png").write_text("x")
    (folder / "sub.png").mkdir()
    source = open_source(folder)
    assert (source.size, source.fps, source.expected) == ((HEIGHT, WIDTH), 25.0, 6)
    expected = {"shot 1": 0, "shot 2": 1, "shot 10": 2, "shot 11": 3, "shot 20": 4, "shot 100": 5}
    assert list(read(folder).items()) == list(expected.items())
    assert open_source(folder, fps=8).fps == 8


def test_ranges_and_strides_of_a_folder(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "f", [f"{number}.png" for number in range(12)])
    frames = list(open_source(folder).frames(FrameRange.parse("1:9", 3)))
    assert [(frame.index, frame.name) for frame in frames] == [(1, "1"), (4, "4"), (7, "7")]
    with pytest.raises(DataError, match="20: selects none of the 12 frames"):
        read(folder, "20:")


def test_a_single_picture(tmp_path: Path) -> None:
    assert read(make_folder(tmp_path, ["holiday.png"]) / "holiday.png") == {"holiday": 0}


def test_frames_of_different_sizes(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "f", ["a.png", "b.png"])
    write_image(folder / "c.png", picture(2, height=50))
    with pytest.raises(DataError, match=rf"c\.png: is {WIDTH}x50 pixels, the first frame is {WIDTH}x{HEIGHT}"):
        open_source(folder)


def test_two_frames_of_one_name(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"1\.jpg and 1\.png have the same stem"):
        open_source(make_folder(tmp_path / "f", ["1.png", "1.jpg"]))


def test_a_damaged_frame_is_named(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "f", ["0.png", "1.png"])
    cut(folder / "1.png", 0.7)
    with pytest.raises(DataError, match=r"1\.png: damaged picture"):
        read(folder)
    (folder / "1.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"1\.png: not a picture"):
        open_source(folder)


def test_a_folder_without_pictures(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(DataError, match="no pictures in this folder"):
        open_source(tmp_path)


# Writing


@pytest.mark.parametrize("size", [(48, 80), (51, 77)])
@pytest.mark.parametrize("fps", [25, 12.5, 30000 / 1001])
def test_written_videos_read_back(tmp_path: Path, size: tuple[int, int], fps: float) -> None:
    path = write_video(tmp_path / "a.mp4", (picture(number, *size) for number in range(8)), fps)
    source = open_source(path)
    assert source.size == (size[0] + size[0] % 2, size[1] + size[1] % 2)
    assert source.fps == pytest.approx(fps)
    frames = [frame.image for frame in source.frames()]
    assert len(frames) == 8
    inside = frames[5][: size[0], : size[1]].astype(int)
    assert np.abs(inside - picture(5, *size)).mean() < 6
    assert np.abs(frames[5][size[0] - 1].astype(int) - frames[5][-1]).max() <= 6  # padding repeats the edge
    with av.open(str(path)) as file:
        assert file.streams.video[0].codec_context.name == "h264"
        assert file.streams.video[0].codec_context.pix_fmt == "yuv420p"


def test_the_same_frames_give_the_same_bytes(tmp_path: Path) -> None:
    first, second = (
        write_video(tmp_path / name, map(picture, range(10)), 25).read_bytes() for name in ("a.mp4", "b.mp4")
    )
    assert first == second


def test_nothing_is_left_of_a_video_that_fails(tmp_path: Path) -> None:
    def broken() -> Iterator[np.ndarray]:
        yield picture(0)
        raise RuntimeError("later stage")

    with pytest.raises(DataError, match="no frames to write"):
        write_video(tmp_path / "a.mp4", [], 25)
    with pytest.raises(DataError, match=r"frame 1 has the shape \(10, 80, 3\)"):
        write_video(tmp_path / "a.mp4", [picture(0), picture(1, 10)], 25)
    with pytest.raises(RuntimeError, match="later stage"):
        write_video(tmp_path / "a.mp4", broken(), 25)
    assert not list(tmp_path.iterdir())


# Real clips


@pytest.mark.parametrize(
    ("clip", "frames", "size", "fps"),
    [
        ("clips/highway_drive.mp4", 150, (480, 854), 25),
        ("clips/dog_walk.mp4", 150, (480, 854), 30),
        ("clips/vspw_1203_cars.mp4", 45, (480, 852), 8),
        ("davis/dog/frames", 60, (480, 854), 25),
    ],
)
def test_real_clips(shared_data: Path, clip: str, frames: int, size: tuple[int, int], fps: float) -> None:
    source = open_source(shared_data / clip)
    assert (source.expected, source.size, source.fps) == (frames, size, fps)
    first, second = source.frames(FrameRange.parse("0:2"))
    difference = np.abs(first.image.astype(int) - second.image).mean()
    assert 0 < difference < 40  # neighbours in time, not two copies and not noise

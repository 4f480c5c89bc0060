from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest

from pipeline.errors import DataError
from pipeline.media.colours import Colours
from pipeline.media.frame_source import Notes
from pipeline.media.video import open_source

PICTURE = np.zeros((32, 48, 3), np.uint8)
PICTURE[:, :16] = (200, 40, 40)
PICTURE[:, 16:32] = (40, 180, 60)
PICTURE[:, 32:] = (50, 60, 220)

#: Matrices by tag: what is said, or why it is refused.
MATRICES = {
    0: "", 1: "", 2: "", 4: "", 5: "", 6: "", 7: "", 9: "",
    3: "3 (reserved); they are read as BT.601",
    8: "8 (YCgCo), and converted as such",
    10: "10 (BT.2020 constant luminance); they are read as BT.2020",
    12: "12 (chromaticity-derived); they are read as BT.709",
    13: "13 (chromaticity-derived constant luminance); they are read as BT.709",
    11: "refused", 14: "refused", 15: "refused", 16: "refused", 17: "refused", 29: "refused",
}  # fmt: skip


def tagged(path: Path, matrix: int = 1, transfer: int = 1, primaries: int = 1) -> Path:
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=25)
        stream.height, stream.width, stream.pix_fmt = *PICTURE.shape[:2], "yuv420p"
        # By x264's own options: FFmpeg would refuse some of these values as settings of its encoder.
        context = stream.codec_context
        context.colorspace, context.color_trc, context.color_primaries = matrix, transfer, primaries
        for _ in range(2):
            frame = av.VideoFrame.from_ndarray(PICTURE, format="rgb24").reformat(
                format="yuv420p", dst_colorspace="ITU709", dst_color_range="MPEG"
            )
            frame.colorspace, frame.color_trc, frame.color_primaries = matrix, transfer, primaries
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return path


def frame_of(matrix: int, pixels: str = "yuv420p") -> av.VideoFrame:
    frame = av.VideoFrame.from_ndarray(PICTURE, format="rgb24").reformat(format=pixels, dst_colorspace="ITU709")
    frame.colorspace = matrix
    return frame


@pytest.mark.parametrize("pixels", ["yuv420p", "yuv422p10le", "yuvj444p", "nv12"])
@pytest.mark.parametrize("matrix", MATRICES)
def test_every_matrix_ends_in_a_picture_or_in_a_message_that_names_it(matrix: int, pixels: str) -> None:
    notes, said = Notes(), MATRICES[matrix]
    colours = Colours("a.mp4", "tonemap", notes)
    if said == "refused":
        with pytest.raises(DataError, match=rf"a\.mp4: its colours are tagged with matrix_coefficients {matrix}"):
            colours.rgb(frame_of(matrix, pixels))
        return
    assert colours.rgb(frame_of(matrix, pixels)).shape == PICTURE.shape
    assert [said in note.text for note in notes.found] == [True] * bool(said)


@pytest.mark.parametrize("pixels", ["gbrp", "gray", "rgb24", "bgr0", "gray10le"])
@pytest.mark.parametrize("matrix", MATRICES)
def test_pixels_without_chroma_need_no_matrix(matrix: int, pixels: str) -> None:
    notes = Notes()
    frame = frame_of(1, pixels)
    frame.colorspace = matrix
    assert Colours("a.mp4", "tonemap", notes).rgb(frame).shape == PICTURE.shape and not notes.found


@pytest.mark.parametrize("tag", range(1, 23))
def test_no_transfer_and_no_primaries_of_8_bits_change_a_picture(tag: int) -> None:
    frame, notes = frame_of(1), Notes()
    plain = Colours("a.mp4", "tonemap", notes).rgb(frame)
    frame.color_trc, frame.color_primaries = (1 if tag in (16, 18) else tag), tag
    np.testing.assert_array_equal(Colours("a.mp4", "tonemap", notes).rgb(frame), plain)


def test_ycgco_is_converted_exactly() -> None:
    red, green, blue = (PICTURE[..., channel].astype(int) for channel in range(3))
    planes = [(red + 2 * green + blue) / 4, (2 * green - red - blue) / 4 + 128, (red - blue) / 2 + 128]
    frame = av.VideoFrame.from_ndarray(np.stack(planes).round().astype(np.uint8), format="yuv444p")
    frame.colorspace, frame.color_range = 8, 2
    rgb = Colours("a.mp4", "tonemap", Notes()).rgb(frame)
    assert np.abs(rgb.astype(int) - PICTURE).max() <= 2
    limited = np.stack(
        [plane * 219 / 255 + (16 if not number else 128 * 36 / 255) for number, plane in enumerate(planes)]
    )
    frame = av.VideoFrame.from_ndarray(limited.round().astype(np.uint8), format="yuv444p")
    frame.colorspace, frame.color_range = 8, 1
    assert np.abs(Colours("a.mp4", "tonemap", Notes()).rgb(frame).astype(int) - PICTURE).max() <= 3


@pytest.mark.parametrize(
    ("matrix", "transfer", "primaries"), [(8, 1, 1), (10, 14, 9), (9, 14, 9), (7, 7, 7), (5, 4, 5)]
)
def test_tags_of_files(tmp_path: Path, matrix: int, transfer: int, primaries: int) -> None:
    source = open_source(tagged(tmp_path / "a.mp4", matrix, transfer, primaries))
    assert len(list(source.frames())) == 2
    assert [str(matrix) in note.text for note in source.notes.found] == [True] * bool(MATRICES[matrix])


def test_a_file_with_a_matrix_that_is_not_known(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a\.mp4: its colours are tagged with matrix_coefficients 14 \(ICtCp\)"):
        list(open_source(tagged(tmp_path / "a.mp4", 14)).frames())


@pytest.mark.slow  # swscale takes seconds to make its tables
@pytest.mark.parametrize(("transfer", "name"), [(16, "PQ"), (18, "HLG")])
def test_high_dynamic_range_is_tone_mapped_or_taken_as_it_is(transfer: int, name: str) -> None:
    ramp = np.repeat(np.linspace(0, 255, 64).astype(np.uint8)[None, :, None], 16, 0).repeat(3, 2)
    frame = av.VideoFrame.from_ndarray(ramp, format="rgb24").reformat(format="yuv420p10le", dst_colorspace="BT2020")
    frame.colorspace = frame.color_primaries = 9
    frame.color_trc, frame.color_range = transfer, 1
    said, kept = Notes(), Notes()
    mapped = Colours("a.mp4", "tonemap", said).rgb(frame).astype(int)[0, :, 1]
    plain = Colours("a.mp4", "asis", kept).rgb(frame).astype(int)[0, :, 1]
    assert name in said.found[0].text and "tone-mapped" in said.found[0].text and "as they are" in kept.found[0].text
    assert (np.diff(mapped) >= 0).all() and mapped[0] < 5 and mapped[-1] > 250
    assert np.abs(plain - ramp[0, :, 0]).max() <= 6
    assert mapped[40] > plain[40] + 15  # a display of this day shows it darker than it is

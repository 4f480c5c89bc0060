"""When frames are shown, in the files that are written."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from functools import partial
from pathlib import Path

import av
import numpy as np
import pytest

from pipeline.media.alpha_video import write_alpha_video
from pipeline.media.timing import timing
from pipeline.media.video import open_source, write_video

UNEVEN = [0.0, 0.04, 0.08, 0.5, 0.54, 3.0, 3.2]


@pytest.mark.parametrize(
    ("fps", "times"),
    [
        (25.0, None),
        (25.0, [7.0]),
        (25.0, [0.0, 0.0, 0.0]),
        (25.0, [0.0, 0.04, 0.08]),
        (25.0, [10.0, 10.04, 10.08]),
        (30.0, [0.0, 0.033, 0.067, 0.1, 0.133]),
        (1 / 3600, [0.0, 3600.0, 7200.5]),
    ],
)
def test_what_is_even_has_the_rate_alone(fps: float, times: list[float] | None) -> None:
    found = timing(fps, times)
    assert found.stamps is None and found.unit == 1 / found.rate and found.of(5) == (5, 1)
    assert float(found.rate) == pytest.approx(fps)


@pytest.mark.parametrize(
    ("fps", "times", "stamps", "unit"),
    [
        (25.0, [2.0, 2.04, 2.5, 2.54], [0, 3600, 45000, 48600], 90000),
        (10.0, [0.0, 0.04, 0.08], [0, 3600, 7200], 90000),  # even, but at another rate
        (25.0, [0.0, 1.0, 1.0, 1.0000001, 4.0], [0, 90000, 90001, 90002, 360000], 90000),
        (1e-5, [0.0, 86400.0, 86401.5], [0, 86400000, 86401500], 1000),
    ],
)
def test_what_is_uneven_has_a_stamp_each(fps: float, times: list[float], stamps: list[int], unit: int) -> None:
    found = timing(fps, times)
    assert (found.stamps, found.unit) == (stamps, Fraction(1, unit))
    assert found.of(1) == (stamps[1], stamps[2] - stamps[1])
    usual = times[-1] / (len(times) - 1) if times[0] == 0 else (times[-1] - times[0]) / (len(times) - 1)
    assert found.of(len(times) - 1)[1] == pytest.approx(usual * unit, rel=0.01)


@pytest.mark.parametrize(
    ("name", "channels", "write"),
    [
        ("a.mp4", 3, write_video),
        ("a.mov", 4, partial(write_alpha_video, codec="prores")),
        ("a.webm", 4, partial(write_alpha_video, codec="vp9")),
    ],
)
def test_files_show_frames_at_their_times(
    tmp_path: Path, rng: np.random.Generator, name: str, channels: int, write: Callable[..., Path]
) -> None:
    """Read back by ourselves, and as long as they should be; what is no square is told, too."""
    frames = rng.integers(0, 256, (len(UNEVEN), 32, 48, channels), dtype=np.uint8)
    file = write(tmp_path / name, frames, 25.0, aspect=Fraction(16, 11), times=[time + 5 for time in UNEVEN])
    source = open_source(file)
    assert [frame.time for frame in source.frames()] == pytest.approx(UNEVEN, abs=1e-3)
    assert source.timed and not source.notes.found
    assert (source.size, source.aspect) == ((32, 70), 1) if name == "a.webm" else ((32, 48), Fraction(16, 11))
    with av.open(str(file)) as container:
        assert container.duration == pytest.approx(3.2e6 + 3.2e6 / 6, rel=0.02)
    first = file.read_bytes()
    assert write(tmp_path / name, frames, 25.0, aspect=Fraction(16, 11), times=UNEVEN).read_bytes() == first or (
        name.endswith("webm")  # whose file numbers are drawn by chance
    )


def test_a_frame_may_last_for_days(tmp_path: Path) -> None:
    times = [0.0, 86400.0, 86401.5, 200000.0]
    file = write_video(tmp_path / "a.mp4", np.zeros((4, 16, 16, 3), np.uint8), 1e-5, times=times)
    assert [frame.time for frame in open_source(file).frames()] == pytest.approx(times)


def test_a_given_rate_wins_over_times(tmp_path: Path) -> None:
    file = write_video(tmp_path / "a.mp4", np.zeros((3, 16, 16, 3), np.uint8), 25.0, times=[0, 1, 5])
    source = open_source(file, fps=10)
    assert not source.timed and [frame.time for frame in source.frames()] == [0, 0.1, 0.2]

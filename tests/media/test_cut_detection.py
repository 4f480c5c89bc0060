"""Cuts that are found in frames, of scenes that move and of real clips that are joined."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import UsageError
from pipeline.media.cut_detection import DETECTORS, CutDetector
from pipeline.media.frame_source import FrameRange
from pipeline.media.resize import resize_frame
from pipeline.media.video import open_source


def shot(seed: int, frames: int, size: tuple[int, int] = (72, 128)) -> list[np.ndarray]:
    """A picture of coloured blocks over which the view moves, two pixels per frame."""
    blocks = np.random.default_rng(seed).integers(0, 256, (6, 20, 3), dtype=np.uint8)
    wide = blocks.repeat(size[0] // 6, axis=0).repeat(16, axis=1)
    return [wide[:, 2 * frame : 2 * frame + size[1]] for frame in range(frames)]


def found(frames: Sequence[np.ndarray], detector: str, threshold: float | None = None) -> tuple[int, ...]:
    cuts = CutDetector(detector, threshold)
    for frame in frames:
        cuts.add(frame)
    return cuts.cuts


@pytest.mark.parametrize("detector", DETECTORS)
@pytest.mark.parametrize("lengths", [(1,), (20,), (8, 12), (5, 9, 7)])
def test_shots_end_where_the_picture_is_another_one(detector: str, lengths: tuple[int, ...]) -> None:
    frames = [frame for seed, length in enumerate(lengths) for frame in shot(seed, length)]
    assert found(frames, detector) == tuple(np.cumsum(lengths)[:-1])


@pytest.mark.parametrize("detector", DETECTORS)
@pytest.mark.parametrize("length", [1, 2, 3])
def test_a_shot_of_three_frames_is_found_at_either_end(detector: str, length: int) -> None:
    """Shorter ones are not, but for the last one by `content`, which looks at no frames beyond the cut."""
    whole = length >= 3
    assert found([*shot(0, length), *shot(1, 12)], detector) == ((length,) if whole else ())
    assert found([*shot(0, 12), *shot(1, length)], detector) == ((12,) if whole or detector == "content" else ())


@pytest.mark.parametrize(
    ("length", "detector", "cuts"), [(8, "adaptive", ()), (8, "content", ()), (2, "content", (10,))]
)
def test_dissolves_are_no_cuts_unless_they_are_short(length: int, detector: str, cuts: tuple[int, ...]) -> None:
    first, second = shot(0, 10 + length), shot(1, 10 + length)
    shares = np.linspace(0, 1, length + 2)[1:-1, None, None, None]
    between = (np.stack(first[10:]) * (1 - shares) + np.stack(second[:length]) * shares).astype(np.uint8)
    assert found([*first[:10], *between, *second[length:]], detector) == cuts


@pytest.mark.parametrize("detector", DETECTORS)
def test_a_flash_is_at_most_one_cut(detector: str) -> None:
    frames = shot(0, 20)
    frames[9] = np.full_like(frames[9], 255)
    assert len(found(frames, detector)) <= 1


@pytest.mark.parametrize(("detector", "high"), [("adaptive", 250.0), ("content", 250.0)])
def test_a_higher_threshold_finds_fewer(detector: str, high: float) -> None:
    frames = [*shot(0, 8), *shot(1, 8)]
    assert found(frames, detector) == (8,)
    assert found(frames, detector, high) == ()


@pytest.mark.parametrize("size", [(36, 64), (720, 1280), (1, 1)])
def test_any_size(size: tuple[int, int]) -> None:
    dark, bright = np.zeros((*size, 3), np.uint8), np.full((*size, 3), 255, np.uint8)
    assert found([dark] * 6 + [bright] * 6, "adaptive") == (6,)


def test_an_unknown_detector_is_refused() -> None:
    with pytest.raises(UsageError, match="ingest.cut_detector must be one of adaptive, content, not 'hash'"):
        CutDetector("hash")


def test_real_clips_that_are_joined(shared_data: Path) -> None:
    """No cut within a clip, and one between each two."""
    clips = [shared_data / name for name in ("clips/dog_walk.mp4", "camvid/0016E5_15hz/frames", "davis/camel/frames")]
    sources = [open_source(clip).frames(FrameRange(0, 20)) for clip in clips]
    frames = [resize_frame(frame.image, (144, 256)) for source in sources for frame in source]
    assert found(frames, "adaptive") == (20, 40)

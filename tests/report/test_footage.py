from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.rendering.clip_frames import open_pictures
from pipeline.rendering.label_summary import LabelTally
from pipeline.rendering.palette import overlay_colours
from pipeline.report import footage
from pipeline.report.encoding import packed
from pipeline.report.footage import collect, columns_of, shown_seconds
from pipeline.report.thinning import Thinning
from pipeline.stores.clip_source import read_source
from pipeline.stores.schemas import CLIP, COARSE, FEATURES, LABELS
from pipeline.stores.store import open_store
from tests.support.scenes import FRAMES, SIZE, Scene, label_maps


def collected(scene: Scene, **more: object) -> footage.Footage:
    clip = open_store(scene.clip(scene.video_source()), CLIP)
    pictures = open_pictures(clip, read_source(scene.folder / "source"))
    labels = open_store(scene.labels_store(), LABELS)
    return collect(pictures, [labels], overlay_colours(), **more)  # type: ignore[arg-type]


def test_all_frames_of_a_short_clip_at_their_own_size(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    features, coarse = open_store(scene.features(), FEATURES), open_store(scene.coarse(), COARSE)
    found = collected(scene, features=features, coarse=coarse, row=0.5)
    assert (found.size, found.positions, found.step, found.total) == (SIZE, list(range(FRAMES)), 1, FRAMES)
    assert list(found.features) == ["block 7", "blocks 6, 7, 8, averaged"]
    assert list(found.slices) == ["frames", "coarse labels", "labels"]
    for texts in (found.pictures, *found.features.values(), found.runs[0].planes):
        assert len(texts) == FRAMES
    assert found.runs[0].tally.pixels[3] == (label_maps() == 3).sum()


def test_what_turns_out_too_large_is_thinned_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The plan is made of a few frames; the others may be larger."""
    scene = Scene(tmp_path)
    whole = collected(scene)
    taken = sum(map(len, (*whole.pictures, *whole.runs[0].planes)))
    monkeypatch.setattr(footage, "MOST_BYTES", taken)
    assert collected(scene).positions == [0, 2, 4]
    monkeypatch.setattr(footage, "_plan", lambda *_: Thinning(FRAMES, 3, 40))
    monkeypatch.setattr(footage, "MOST_BYTES", 10**9)
    planned = collected(scene)
    assert (planned.size, planned.positions, planned.step) == ((24, 40), [0, 3], 3)
    assert planned.runs[0].tally.seen == FRAMES  # shares are of all frames


def test_the_time_line_is_averaged_over_long_clips(monkeypatch: pytest.MonkeyPatch) -> None:
    tally = LabelTally()
    for number in range(6):
        plane = np.zeros((2, 2), np.uint8)
        plane.ravel()[: number % 4] = 5
        tally.add(plane)
    assert columns_of(tally)[0] == [0, 1, 2, 3, 4, 5]
    assert columns_of(tally)[1][5] == [0, 0.25, 0.5, 0.75, 0, 0.25]
    monkeypatch.setattr(footage, "_COLUMNS", 2)
    assert columns_of(tally) == ([0, 3], {0: [0.75, 0.66667], 5: [0.25, 0.33333]})


def test_confidence_is_kept_at_a_quarter_of_the_size(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    confidence = np.full((FRAMES, *SIZE), 200, np.uint8)
    labels = open_store(scene.labels_store(confidence=confidence), LABELS)
    pictures = open_pictures(open_store(scene.clip(scene.video_source()), CLIP), None)
    (run,) = collect(pictures, [labels], overlay_colours()).runs
    assert run.confidence == [packed(np.full((SIZE[0] // 4, SIZE[1] // 4), 200, np.uint8))] * FRAMES


@pytest.mark.parametrize(
    ("positions", "times", "seconds"),
    [
        ([0, 1, 2, 3], [0.0, 0.1, 0.2, 0.3], None),
        ([0, 1, 2, 3], [0.0, 0.1, 0.9, 1.2], [0.1, 0.8, 0.3, 0.4]),
        ([0, 2], [5.0, 5.1, 5.9, 6.2], [0.9, 0.7]),
        ([0], [0.0], None),
    ],
)
def test_frames_are_shown_until_the_next_ones_time(
    positions: list[int], times: list[float], seconds: list[float] | None
) -> None:
    assert shown_seconds(positions, times, 10 if seconds is None else 3 / (times[-1] - times[0])) == (
        None if seconds is None else pytest.approx(seconds, abs=1e-3)
    )

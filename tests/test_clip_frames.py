from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.artifacts import CLIP, LABELS, Store, open_store
from pipeline.errors import DataError
from pipeline.rendering.clip_frames import frames_of, open_pictures
from pipeline.video import write_video
from tests.commands import write_frames
from tests.scenes import FPS, SIZE, Scene


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


def opened(scene: Scene, source: Path, indices: list[int] | None = None) -> Store:
    return open_store(scene.clip(source, indices), CLIP)


def test_frames_of_reads_all_shards_in_order(scene: Scene) -> None:
    store = open_store(scene.labels_store(), LABELS)
    np.testing.assert_array_equal(np.stack(list(frames_of(store, "labels"))), scene.labels)


@pytest.mark.parametrize("indices", [None, [0, 2, 4], [3], [1, 2, 4]])
def test_pictures_come_from_the_source(scene: Scene, indices: list[int] | None) -> None:
    pictures = open_pictures(opened(scene, scene.frames_source(), indices))
    assert pictures.warning is None and pictures.size == SIZE
    expected = scene.images if indices is None else scene.images[indices]
    for _ in range(2):
        np.testing.assert_array_equal(np.stack(list(pictures.images())), expected)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ("gone", "no such file or folder"),
        ("smaller", "is now 40x24 pixels"),
        ("other", "is now another video"),
        ("damaged", "not a video"),
    ],
)
def test_a_changed_source_is_replaced_by_the_clip(scene: Scene, change: str, why: str) -> None:
    source = scene.video_source()
    store = opened(scene, source)
    if change == "gone":
        source.unlink()
    elif change == "smaller":
        write_video(source, scene.images[:, ::2, ::2], FPS)
    elif change == "other":
        write_video(source, 255 - scene.images, FPS)
    else:
        source.write_text("nothing")
    pictures = open_pictures(store)
    assert why in (pictures.warning or "")
    assert (pictures.warning or "").endswith("the clip's frames of 40x24 are enlarged instead")
    images = np.stack(list(pictures.images()))
    assert images.shape == scene.images.shape
    assert np.abs(images.astype(int) - scene.images).mean() < 12


def test_a_source_that_lost_its_end_is_an_error(scene: Scene) -> None:
    source = scene.frames_source()
    store = opened(scene, source)
    (source / "00004.png").unlink()
    with pytest.raises(DataError, match="source: has no frame 4 any more; run `vidseg ingest` again"):
        list(open_pictures(store).images())


def test_a_source_that_grew_is_used_as_far_as_the_clip_goes(scene: Scene) -> None:
    source = scene.frames_source()
    store = opened(scene, source, [0, 1])
    write_frames(source, np.concatenate([scene.images, scene.images]))
    assert len(list(open_pictures(store).images())) == 2

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import DataError
from pipeline.media.video import write_video
from pipeline.rendering.clip_frames import ClipPictures, frames_of, open_pictures
from pipeline.stores.clip_source import ClipSource, read_source, write_source
from pipeline.stores.schemas import CLIP, LABELS
from pipeline.stores.store import open_store
from tests.support.commands import write_frames
from tests.support.scenes import FPS, SIZE, Scene


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


def opened(scene: Scene, source: Path, indices: list[int] | None = None) -> Callable[[], ClipPictures]:
    """What opens the pictures of a clip of that source."""
    store = open_store(scene.clip(source, indices), CLIP)
    return lambda: open_pictures(store, ClipSource(source, FPS))


def test_frames_of_reads_all_shards_in_order(scene: Scene) -> None:
    store = open_store(scene.labels_store(), LABELS)
    np.testing.assert_array_equal(np.stack(list(frames_of(store, "labels"))), scene.labels)


@pytest.mark.parametrize("indices", [None, [0, 2, 4], [3], [1, 2, 4]])
def test_pictures_come_from_the_source(scene: Scene, indices: list[int] | None) -> None:
    pictures = opened(scene, scene.frames_source(), indices)()
    assert (pictures.warning, pictures.size, pictures.fps) == (None, SIZE, FPS)
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
    reopen = opened(scene, source)
    if change == "gone":
        source.unlink()
    elif change == "smaller":
        write_video(source, scene.images[:, ::2, ::2], FPS)
    elif change == "other":
        write_video(source, 255 - scene.images, FPS)
    else:
        source.write_text("nothing")
    pictures = reopen()
    assert pictures.fps == FPS
    assert why in (pictures.warning or "")
    assert (pictures.warning or "").endswith("the clip's frames of 40x24 are enlarged instead")
    images = np.stack(list(pictures.images()))
    assert images.shape == scene.images.shape
    assert np.abs(images.astype(int) - scene.images).mean() < 12


def test_a_source_that_lost_its_end_is_an_error(scene: Scene) -> None:
    source = scene.frames_source()
    reopen = opened(scene, source)
    (source / "00004.png").unlink()
    with pytest.raises(DataError, match=r"source of .*clip.zarr has no frame 4 any more; run `vidseg ingest` again"):
        list(reopen().images())


def test_a_source_that_grew_is_used_as_far_as_the_clip_goes(scene: Scene) -> None:
    source = scene.frames_source()
    reopen = opened(scene, source, [0, 1])
    write_frames(source, np.concatenate([scene.images, scene.images]))
    assert len(list(reopen().images())) == 2


def test_without_a_source_the_clip_is_enlarged_at_25_frames_per_second(scene: Scene) -> None:
    pictures = open_pictures(open_store(scene.clip(scene.frames_source()), CLIP), None)
    assert pictures.fps == 25
    assert "its source is not known; the clip's frames of 40x24 are enlarged instead" in (pictures.warning or "")
    assert np.stack(list(pictures.images())).shape == scene.images.shape


# source/source.json


def test_a_source_is_read_as_it_was_written(tmp_path: Path) -> None:
    for source in (ClipSource(Path("/a/b.mp4"), 30000 / 1001), ClipSource(Path("/a/c"), 25.0)):
        write_source(tmp_path / "source", source, tmp_path / "writing")
        assert read_source(tmp_path / "source") == source
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


@pytest.mark.parametrize(
    "content",
    [
        None,
        "{",
        "[]",
        '{"schema": "source", "schema_version": 9, "path": "/a", "fps": 25}',
        '{"schema": "source", "schema_version": 1, "path": "/a"}',
        '{"schema": "source", "schema_version": 1, "path": "/a", "fps": 0}',
    ],
)
def test_an_unreadable_source_is_explained(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "source.json").write_text(content)
    with pytest.raises(DataError, match=r"source.json: not readable \(.*run `vidseg ingest` again"):
        read_source(tmp_path)


@pytest.mark.parametrize("name", ["source.json", "frame.png"])
def test_a_folder_of_somebody_elses_source_is_not_replaced(tmp_path: Path, name: str) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / name).write_text("{}")
    with pytest.raises(DataError, match="source: was not written by vidseg; choose another place"):
        write_source(tmp_path / "source", ClipSource(tmp_path, 25.0), tmp_path / "writing")
    assert (tmp_path / "source" / name).read_text() == "{}"

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.errors import DataError, UsageError
from pipeline.rendering import method_figures
from pipeline.rendering.palette import overlay_colours
from pipeline.stores.schemas import FEATURES
from pipeline.stores.store import open_store
from pipeline.upsampling.labelling import LabelledFrame
from stages import extract
from stages.commands import figures
from stages.common.settings import Settings, load
from tests.support import scenes
from tests.support.scenes import Scene

SETS = ["diffusion.guidance=1", "diffusion.batch=2", "segment.clusters=3", "segment.restarts=2"]


@pytest.fixture(scope="module")
def settings(tiny_model: Path) -> Settings:
    return load(None, [f"backbone.path={tiny_model}", *SETS])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, settings: Settings) -> Path:
    """Folder of clip, features, latents and coarse labels of a 64x128 clip, made by the tiny model."""
    folder = tmp_path_factory.mktemp("figures")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scenes, "MODEL_SIZE", (64, 128))
        patch.setattr(scenes, "GRID", (4, 8))
        scene = Scene(folder, scenes.pictures(2), scenes.label_maps(2))
        clip = scene.clip(scene.frames_source())
        features = extract.run(clip, folder, settings["extract"], settings["diffusion"], settings["backbone"])
        scene.coarse(open_store(features, FEATURES).fingerprint)
    return folder


def test_middle_label_is_neither_the_largest_nor_the_smallest() -> None:
    assert method_figures.middle_label(np.array([[8, 8, 8, 8], [8, 2, 2, 5]])) == 2
    assert method_figures.middle_label(np.full((2, 2), 4)) == 4


def test_differences_figure_shows_mask_maps_and_labels() -> None:
    """Figure 7: the map of the chosen label, not of another one."""
    colours, image = overlay_colours(), np.full((20, 40, 3), 200, np.uint8)
    plane = np.repeat([[1, 2]], 2, axis=0)
    labels = np.repeat(np.repeat(plane, 10, axis=0), 20, axis=1)
    here, there = (labels == 1).astype(np.float32), (labels == 2).astype(np.float32)
    result = LabelledFrame(labels, np.ones(labels.shape, np.float32), {1: here, 2: there})
    picture = method_figures.differences_figure(image, plane, 1, {"without": result, "with": result}, colours, 1.0)
    size = method_figures.SIDE
    assert picture.shape[1] == 3 * size + 4 * 8
    header, height = 21, size // 2
    maps = picture[8 + header : 8 + header + height, 2 * 8 + size : 2 * 8 + 2 * size].astype(int).sum(axis=2)
    assert maps[:, : size // 2 - 20].min() > 500 and maps[:, size // 2 + 20 :].max() < 30
    mask = picture[-8 - height : -8, 8 : 8 + size]
    assert mask[:, : size // 2 - 20].min() > 190 and mask[:, size // 2 + 20 :].max() < 50
    below = picture[-8 - height : -8, 2 * 8 + size : 2 * 8 + 2 * size]
    np.testing.assert_array_equal(below[50, 50], colours[1])


def test_blocks_figure_gives_equal_segments_equal_colours() -> None:
    """Figure 6, where the two K-Means number their segments independently."""
    image = np.zeros((20, 40, 3), np.uint8)
    labels = np.repeat([[0] * 20 + [1] * 20], 20, axis=0)
    picture = method_figures.blocks_figure(image, {"one": labels, "other": 1 - labels}, overlay_colours(), 1.0)
    size = method_figures.SIDE
    left, right = (picture[29:-8, at : at + size] for at in (2 * 8 + size, 3 * 8 + 2 * size))
    np.testing.assert_array_equal(left, right)


def test_differences_with_a_model(made: Path, settings: Settings, tmp_path: Path) -> None:
    stores = [made / name for name in ("clip.zarr", "latents.zarr", "coarse.zarr")]
    outs = [figures.differences(*stores, tmp_path / f"{label}.png", settings, 1, label) for label in (None, 0, 3)]
    pictures = [np.asarray(Image.open(out)) for out in outs]
    assert pictures[1].shape[1] == 3 * method_figures.SIDE + 4 * 8
    assert (pictures[1] != pictures[2]).any()


def test_blocks_with_a_model(made: Path, settings: Settings, tmp_path: Path) -> None:
    """The frame, and its segments by the averaged blocks, the single one and the encoder."""
    stores = [made / name for name in ("clip.zarr", "features.zarr", "latents.zarr")]
    out = figures.blocks(*stores, tmp_path / "new" / "blocks.png", settings, 0)
    assert np.asarray(Image.open(out)).shape[1] == 4 * method_figures.SIDE + 5 * 8


@pytest.mark.parametrize(
    ("frame", "label", "message"),
    [
        (2, None, r"--frame must be between 0 and 1 for .*clip.zarr, not 2"),
        (-1, None, r"--frame must be between 0 and 1"),
        (0, 9, r"label 9 is not in frame 0 of .*coarse.zarr; there are: 0, 3"),
    ],
)
def test_unknown_frames_and_labels(
    made: Path, settings: Settings, tmp_path: Path, frame: int, label: int | None, message: str
) -> None:
    stores = [made / name for name in ("clip.zarr", "latents.zarr", "coarse.zarr")]
    with pytest.raises(UsageError, match=message):
        figures.differences(*stores, tmp_path / "x.png", settings, frame, label)
    assert not list(tmp_path.iterdir())


def test_another_noise_than_extracts_is_refused(made: Path, tiny_model: Path, tmp_path: Path) -> None:
    other = load(None, [f"backbone.path={tiny_model}", *SETS, "diffusion.seed=5"])
    stores = [made / name for name in ("clip.zarr", "latents.zarr", "coarse.zarr")]
    with pytest.raises(DataError, match="made with diffusion.seed = 0, now it is 5"):
        figures.differences(*stores, tmp_path / "x.png", other, 0, None)


def test_stores_that_do_not_belong_together_are_refused(made: Path, settings: Settings, tmp_path: Path) -> None:
    """A store that was made again, or of another clip, may have the same shapes."""
    scene = Scene(tmp_path, mark="other")
    other_clip, other_features, other_coarse = scene.clip(scene.frames_source()), scene.features(), scene.coarse()
    clip, features, latents, coarse = (made / f"{name}.zarr" for name in ("clip", "features", "latents", "coarse"))
    for draw, stores, message in (
        (figures.differences, (other_clip, latents, coarse), "latents.zarr does not belong to .*run `vidseg extract`"),
        (figures.differences, (clip, latents, other_coarse), "coarse.zarr does not belong to .*run `vidseg segment`"),
        (figures.blocks, (other_clip, features, latents), "latents.zarr does not belong to .*run `vidseg extract`"),
        (figures.blocks, (clip, other_features, latents), "were not made together; run `vidseg extract`"),
    ):
        label = (None,) if draw is figures.differences else ()
        with pytest.raises(DataError, match=message):
            draw(*stores, tmp_path / "x.png", settings, 0, *label)
    assert not (tmp_path / "x.png").exists()

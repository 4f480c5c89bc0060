from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline.backbone.image.model import StableDiffusion
from pipeline.datasets.sample import make_sample
from pipeline.features.diffusion import DiffusionSettings
from pipeline.parameters import BackboneParams
from pipeline.upsampling import difference as maps
from pipeline.upsampling.difference import MapSettings, difference_map
from pipeline.upsampling.exact import ImagePair, frame_groups, label_frame, upsample
from pipeline.upsampling.interpolation import METHODS
from pipeline.upsampling.modulation import ModulationSettings, jobs_of
from stages.common import backbones
from tests.support import tiny
from tests.support.plain import plain_modulated


def test_squared_difference_is_the_papers_norm() -> None:
    """Section 3.2: D_l = ||I+ - I-||^2 over the colour channels."""
    difference = np.array([[[1.0, 2.0, 2.0], [0.0, -3.0, 4.0]]], np.float32)
    np.testing.assert_allclose(maps.squared_difference(difference), [[9, 25]])
    np.testing.assert_allclose(maps.root_difference(difference), [[3, 5]])


@pytest.mark.parametrize("size", [(20, 30), (31, 47), (9, 13)])
def test_planes_are_enlarged_as_the_image_is(size: tuple[int, int]) -> None:
    image = np.random.default_rng(0).standard_normal((20, 30, 3), dtype=np.float32)
    planes = maps.resize_planes(np.ascontiguousarray(image.transpose(2, 0, 1)), size)
    np.testing.assert_array_equal(planes.transpose(1, 2, 0), maps.resize_image(image, size))


def test_eq7_filter() -> None:
    """Eq. 7: D~ = D M + s D (1 - M)."""
    values = np.array([[10.0, 10.0, 10.0]], np.float32)
    mask = np.array([[1.0, 0.5, 0.0]], np.float32)
    np.testing.assert_allclose(maps.filtered(values, mask, 0.7), [[10.0, 8.5, 7.0]], rtol=1e-6)
    np.testing.assert_allclose(maps.filtered(values, mask, 1.0), values)


def test_argmax_takes_the_lowest_label_on_ties_and_only_those_added() -> None:
    winner = maps.RunningArgmax.empty((1, 3))
    winner.add(2, np.array([[1.0, 0.0, 0.0]], np.float32))
    winner.add(5, np.array([[1.0, 3.0, 0.0]], np.float32))
    assert winner.labels.tolist() == [[2, 5, 2]]


def test_released_difference_wraps_modulo_256() -> None:
    plus, minus = np.full((9, 9, 3), 200, np.uint8), np.full((9, 9, 3), 180, np.uint8)
    np.testing.assert_allclose(maps.released_difference(plus, minus), np.sqrt(3 * (400 % 256)), rtol=1e-5)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (MapSettings("squared", blur=False, normalize=False), 3 * 4.0),
        (MapSettings("root", blur=False, normalize=False), np.sqrt(12.0)),
        (MapSettings("squared", blur=True, normalize=True), 1.0),
    ],
)
def test_difference_map_in_grey_levels(settings: MapSettings, expected: float) -> None:
    plus = np.full((3, 4, 4), 2 / 127.5, np.float32)
    result = difference_map(plus, np.zeros_like(plus), (6, 8), settings)
    assert result.shape == (6, 8)
    np.testing.assert_allclose(result, expected, rtol=1e-4)


def test_difference_is_not_clipped_and_not_quantised() -> None:
    plus, minus = np.full((3, 4, 4), 1.5, np.float32), np.full((3, 4, 4), 1.4999, np.float32)
    settings = MapSettings("root", blur=False, normalize=False)
    assert difference_map(plus, minus, (4, 4), settings).min() > 0.01


COARSE = np.array([[0, 0, 4, 4], [0, 0, 4, 4], [7, 7, 4, 4]])


@pytest.mark.parametrize("method", METHODS)
def test_interpolation_keeps_labels_and_cell_centres(method: str) -> None:
    guide = np.repeat(np.repeat(COARSE.astype(np.uint8)[..., None] * 30, 10, 0), 10, 1).repeat(3, 2)
    labels = METHODS[method](COARSE, guide)
    assert labels.shape == (30, 40)
    assert set(np.unique(labels)) == {0, 4, 7}
    np.testing.assert_array_equal(labels[5::10, 5::10], COARSE)


def test_joint_bilateral_follows_the_images_edge() -> None:
    """The cell border lies at column 20, the image's edge at 23."""
    coarse = np.array([[1, 1, 2, 2]] * 3)
    guide = np.zeros((30, 40, 3), np.uint8)
    guide[:, 23:] = 200
    labels = METHODS["joint_bilateral"](coarse, guide)
    borders = [int(np.argmax(row == 2)) for row in labels]
    assert set(borders) == {23}
    assert {int(np.argmax(row == 2)) for row in METHODS["nearest"](coarse, guide)} == {20}


def test_bilinear_ties_go_to_the_lowest_label() -> None:
    labels = METHODS["bilinear"](np.array([[3, 1]]), np.zeros((1, 3, 3), np.uint8))
    assert labels.tolist() == [[3, 1, 1]]


@pytest.fixture(scope="module")
def backbone() -> StableDiffusion:
    return StableDiffusion(tiny.make_unet(), tiny.make_vae(), tiny.make_context(), "tiny", "hash")


def run(backbone: StableDiffusion, coarse: np.ndarray, batch: int) -> list:  # type: ignore[type-arg]
    start = torch.randn(len(coarse), 4, 8, 16, generator=torch.Generator().manual_seed(0))
    diffusion = DiffusionSettings(guidance=1.0)
    settings = ModulationSettings(), MapSettings()
    return list(upsample(backbone, start, coarse, (60, 120), diffusion, *settings, batch))


def test_absent_labels_never_compete_and_one_label_fills_the_frame(backbone: StableDiffusion) -> None:
    coarse = np.zeros((2, 4, 8), np.uint8)
    coarse[0, :, 4:] = 9
    first, second = run(backbone, coarse, 8)
    assert set(np.unique(first.labels)) <= {0, 9}
    assert sorted(first.differences) == [0, 9]
    assert (second.labels == 0).all()


def test_modulated_labels_agree_with_the_coarse_map_inside_regions(backbone: StableDiffusion) -> None:
    coarse = np.zeros((1, 4, 8), np.uint8)
    coarse[0, :, 4:] = 9
    labels = run(backbone, coarse, 8)[0].labels
    assert (labels[:, :45] == 0).mean() > 0.7
    assert (labels[:, 75:] == 9).mean() > 0.7


@pytest.mark.parametrize("batch", [1, 3, 64])
def test_labels_do_not_depend_on_the_batch(backbone: StableDiffusion, batch: int) -> None:
    coarse = np.random.default_rng(0).integers(0, 3, (2, 4, 8)).astype(np.uint8)
    for one, other in zip(run(backbone, coarse, 2), run(backbone, coarse, batch), strict=True):
        assert (one.labels == other.labels).mean() > 0.999


@pytest.mark.parametrize(
    ("frames", "least", "groups"),
    [
        ([0, 0, 1, 1, 1, 1, 2, 2], 2, [(0, 2), (2, 6), (6, 8)]),
        ([0, 0, 1, 1, 1, 1, 2, 2], 4, [(0, 6), (6, 8)]),
        ([0, 0, 1, 1, 1, 1, 2, 2], 64, [(0, 8)]),
        ([3] * 6, 2, [(0, 6)]),
        ([], 2, []),
    ],
)
def test_jobs_of_a_frame_stay_together(frames: list[int], least: int, groups: list[tuple[int, int]]) -> None:
    assert [(group.start, group.stop) for group in frame_groups(frames, least)] == groups


@pytest.mark.parametrize("guidance", [1.0, 5.0])
def test_labels_of_the_embedded_model_are_those_of_the_plain_schedule(guidance: float) -> None:
    """Sharing what labels have in common changes rounding only: pixels at ties of two labels."""
    backbone = backbones.load_backbone(BackboneParams(dtype="float32"))
    assert isinstance(backbone, StableDiffusion)
    start = backbone.encode(make_sample(frames=1).frames[:, 64:128, 96:224])
    coarse = np.zeros((1, 4, 8), np.int64)
    coarse[0, 1:, 2:5], coarse[0, 2:, 6:] = 3, 7
    diffusion, settings, size = DiffusionSettings(guidance=guidance), ModulationSettings(), (120, 240)
    result = next(upsample(backbone, start, coarse, size, diffusion, settings, MapSettings(), batch=4))
    jobs = jobs_of(torch.from_numpy(coarse))
    images = [
        backbone.decode(plain_modulated(backbone, start, jobs.masks[i], float(jobs.signs[i]), diffusion, settings))
        for i in range(len(jobs))
    ]
    pairs = [
        ImagePair(0, jobs.labels[i], jobs.masks[i].numpy(), images[i][0].numpy(), images[i + 1][0].numpy())
        for i in range(0, len(jobs), 2)
    ]
    expected = label_frame(pairs, size, MapSettings())
    assert set(np.unique(expected.labels)) == {0, 3, 7}
    assert (result.labels == expected.labels).mean() >= 0.999
    for label, values in expected.differences.items():
        np.testing.assert_allclose(result.differences[label], values, atol=1e-2)  # 1e-3 with one processor, not all

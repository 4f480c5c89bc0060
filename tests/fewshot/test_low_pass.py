"""Equation 6 of SMITE: the low frequencies of maps."""

from __future__ import annotations

import math

import pytest
import scipy.fft
import torch

from pipeline.fewshot.energies import regularisation_energy
from pipeline.fewshot.low_pass import cosine_matrix, kept, low_frequencies, low_pass


def random_maps(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("length", [1, 2, 7, 16])
def test_the_matrix_is_the_orthonormal_cosine_transform(length: int) -> None:
    matrix = cosine_matrix(length)
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(length, dtype=torch.float64))
    values = random_maps(length)
    torch.testing.assert_close(matrix @ values, torch.from_numpy(scipy.fft.dct(values.numpy(), norm="ortho")))


def test_all_frequencies_are_the_three_dimensional_transform() -> None:
    maps = random_maps(4, 2, 6, 5)
    expected = scipy.fft.dctn(maps.numpy(), axes=(0, 2, 3), norm="ortho")
    torch.testing.assert_close(low_frequencies(maps, 1.0), torch.from_numpy(expected))
    torch.testing.assert_close(low_pass(maps, 1.0, temporal=True), maps)


@pytest.mark.parametrize(
    ("length", "threshold", "expected"), [(64, 0.4, 25), (64, 0.999, 63), (16, 0.4, 6), (2, 0.4, 1), (5, 1.0, 5)]
)
def test_how_many_are_kept(length: int, threshold: float, expected: int) -> None:
    assert kept(length, threshold) == expected


@pytest.mark.parametrize(("index", "seen"), [(0, True), (3, True), (4, False), (9, False)])
@pytest.mark.parametrize("axis", [2, 3])
def test_equation_6_sees_cosines_below_the_cutoff_only(index: int, seen: bool, axis: int) -> None:
    wave = cosine_matrix(10)[index].reshape((10, 1) if axis == 2 else (1, 10)).expand(10, 10)
    maps = wave.repeat(3, 2, 1, 1)
    energy = regularisation_energy(maps, torch.zeros_like(maps), 0.4)
    assert (energy > 1e-6) == seen


@pytest.mark.parametrize(("index", "seen"), [(0, True), (1, True), (2, False)])
def test_frequencies_over_frames_are_cut_only_when_asked_for(index: int, seen: bool) -> None:
    maps = cosine_matrix(5)[index].reshape(5, 1, 1, 1).expand(5, 2, 4, 4)
    nothing = torch.zeros_like(maps)
    assert regularisation_energy(maps, nothing, 0.4) > 1e-6
    assert (regularisation_energy(maps, nothing, 0.4, temporal=True) > 1e-6) == seen


def test_a_smoothed_map_has_the_kept_coefficients() -> None:
    maps = random_maps(4, 2, 8, 6)
    smooth = low_pass(maps, 0.5)
    torch.testing.assert_close(low_frequencies(smooth, 0.5), low_frequencies(maps, 0.5))
    torch.testing.assert_close(low_pass(smooth, 0.5), smooth)


def test_lengths_of_vectors_are_kept() -> None:
    maps = random_maps(4, 2, 8, 6)
    norm = torch.linalg.vector_norm
    torch.testing.assert_close(norm(low_frequencies(maps, 1.0)), norm(maps))
    assert norm(low_frequencies(maps, 0.4)) < norm(maps)


def test_single_precision_stays() -> None:
    assert low_frequencies(random_maps(1, 1, 4, 4).float(), 0.4).dtype == torch.float32
    assert math.isclose(float(cosine_matrix(1)[0, 0]), 1)

"""Mirrored margins: what networks see of a frame, and what is cut off again."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from pipeline.backbone.image.model import StableDiffusion
from pipeline.errors import UsageError
from pipeline.features.extraction import encoded, extract
from pipeline.features.padding import inner_tokens, margin_of, padded
from pipeline.parameters import DiffusionParams, ExtractParams
from tests.support import tiny
from tests.support.params import changed

DIFFUSION = DiffusionParams(start_step=24, guidance=1.0)
WITHOUT = ExtractParams()
WITH = ExtractParams(padding="reflect", padding_pixels=32)
FRAMES = np.random.default_rng(0).integers(0, 256, (2, 64, 128, 3), np.uint8)


@pytest.fixture(scope="module")
def backbone() -> StableDiffusion:
    return StableDiffusion(tiny.make_unet(), tiny.make_vae(), tiny.make_context(), "tiny", "hash")


class Averages:
    """An encoder whose token is the mean colour of its 16x16 pixels, so that no margin changes it."""

    fingerprint, channels, network = "averages", 3, None

    def __init__(self) -> None:
        self.seen: list[tuple[int, ...]] = []

    def tokens(self, frame: np.ndarray, grid: tuple[int, int]) -> torch.Tensor:
        self.seen.append((*frame.shape[:2], *grid))
        means = frame.reshape(grid[0], 16, grid[1], 16, 3).mean(axis=(1, 3), dtype=np.float32)
        return torch.from_numpy(means.reshape(-1, 3))


@pytest.mark.parametrize(("padding", "pixels", "expected"), [("none", 64, 0), ("reflect", 32, 32), ("reflect", 96, 96)])
def test_the_width_of_a_margin(padding: str, pixels: int, expected: int) -> None:
    assert margin_of(replace(WITHOUT, padding=padding, padding_pixels=pixels)) == expected  # type: ignore[arg-type]


@pytest.mark.parametrize("padding", ["none", "reflect"])
def test_a_margin_that_cuts_tokens_is_refused(padding: str) -> None:
    with pytest.raises(UsageError, match="extract.padding_pixels must be a multiple of 32, not 48"):
        margin_of(replace(WITHOUT, padding=padding, padding_pixels=48))  # type: ignore[arg-type]


def test_margins_mirror_the_frame_without_its_outermost_pixels() -> None:
    frame = np.array([[1, 2, 3], [4, 5, 6]], np.uint8)
    expected = [
        [6, 5, 4, 5, 6, 5, 4],
        [3, 2, 1, 2, 3, 2, 1],
        [6, 5, 4, 5, 6, 5, 4],
        [3, 2, 1, 2, 3, 2, 1],
    ]
    found = padded(frame[None, ..., None].repeat(3, -1), 2)
    np.testing.assert_array_equal(found[0, 1:5, :, 1], expected)
    assert found.shape == (1, 6, 7, 3)


def test_inner_tokens_are_those_of_the_middle() -> None:
    tokens = torch.arange(24.0).reshape(1, 24, 1).repeat(2, 1, 2)  # (2, 24, 2) on a grid of 4x6
    found = inner_tokens(tokens, (4, 6), (2, 2))
    assert found[1, :, 1].tolist() == [8, 9, 14, 15]
    assert inner_tokens(tokens, (4, 6), (4, 6)) is tokens


@pytest.mark.parametrize("encode", ["mode", "sample"])
def test_margins_change_the_features_alone(backbone: StableDiffusion, encode: str) -> None:
    """The latents are the frame's own, drawn with its own noise; all that is stored has the frame's grid."""
    plain, seen = (extract(backbone, FRAMES, [0, 3], DIFFUSION, changed(p, encode=encode)) for p in (WITHOUT, WITH))
    assert torch.equal(seen.latents, plain.latents)
    assert seen.reconstruction.shape == plain.reconstruction.shape
    for name in ("aggregated", "matching"):
        of_margins, without = getattr(seen, name), getattr(plain, name)
        assert of_margins.shape == without.shape == (2, 4 * 8, 16)
        assert not torch.allclose(of_margins, without)


def test_the_encoder_sees_the_margins_and_its_inner_tokens_count() -> None:
    encoder = Averages()
    expected = FRAMES.reshape(2, 4, 16, 8, 16, 3).mean(axis=(2, 4)).reshape(2, 32, 3)
    for margin in (0, 32):
        np.testing.assert_allclose(encoded(encoder, FRAMES, (4, 8), margin), expected, rtol=1e-5)
    assert encoder.seen == [(64, 128, 4, 8)] * 2 + [(128, 192, 8, 12)] * 2


def test_of_the_encoder_alone_nothing_is_denoised(backbone: StableDiffusion, monkeypatch: pytest.MonkeyPatch) -> None:
    params = replace(WITH, encoder="averages", parts="encoder")
    expected = extract(backbone, FRAMES, [0, 3], DIFFUSION, replace(params, parts="both"), Averages())
    monkeypatch.setattr(StableDiffusion, "denoise", lambda *_, **__: pytest.fail("denoised"))
    found = extract(backbone, FRAMES, [0, 3], DIFFUSION, params, Averages())
    assert (found.aggregated, found.matching) == (None, None)
    assert found.encoder is not None and expected.encoder is not None and torch.equal(found.encoder, expected.encoder)
    assert torch.equal(found.latents, expected.latents) and torch.equal(found.reconstruction, found.latents)

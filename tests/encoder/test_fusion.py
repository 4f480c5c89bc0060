"""Features of an encoder beside those of a diffusion model."""

from __future__ import annotations

import numpy as np

from pipeline.encoder.fusion import fused


def test_a_fused_token_is_the_diffusion_direction_beside_the_weighted_encoder_vector() -> None:
    diffusion = np.array([[[3.0, 4.0], [0.0, 0.0]]], np.float32)
    encoder = np.array([[[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]], np.float32)
    expected = [[[0.6, 0.8, 2.0, 0.0, 0.0], [0.0, 0.0, 0.0, 2.0, 0.0]]]
    np.testing.assert_allclose(fused(diffusion, encoder, 2.0), expected, rtol=1e-6)


def test_the_scale_of_the_diffusion_features_does_not_matter() -> None:
    drawn = np.random.default_rng(0)
    diffusion, encoder = drawn.normal(size=(2, 5, 4)), drawn.normal(size=(2, 5, 3))
    np.testing.assert_allclose(fused(7 * diffusion, encoder, 1.0), fused(diffusion, encoder, 1.0), rtol=1e-6)

"""The matrices between an encoder and the store."""

from __future__ import annotations

import torch

from pipeline.encoder.projection import principal, projected, random_orthonormal


def test_a_random_matrix_is_orthonormal_and_seeded():
    matrix = random_orthonormal(200, 128)
    torch.testing.assert_close(matrix.T @ matrix, torch.eye(128), atol=1e-5, rtol=0)
    assert torch.equal(matrix, random_orthonormal(200, 128))
    assert not torch.allclose(matrix, random_orthonormal(200, 128, seed=1))


def test_principal_directions_keep_what_varies_and_drop_the_mean():
    drawn = torch.Generator().manual_seed(0)
    plane, _ = torch.linalg.qr(torch.randn(20, 2, generator=drawn))
    tokens = torch.randn(500, 2, generator=drawn) @ plane.T + 5
    matrix = principal(tokens, 2)
    torch.testing.assert_close(matrix @ matrix.T, plane @ plane.T, atol=1e-4, rtol=0)


def test_projected_tokens_have_length_1():
    tokens = torch.randn(5, 6, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(projected(tokens, None).norm(dim=1), torch.ones(5))
    torch.testing.assert_close(projected(tokens, random_orthonormal(6, 3)).norm(dim=1), torch.ones(5))

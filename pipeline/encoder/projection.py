"""Fewer numbers per token: a fixed matrix between an encoder and the store."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

#: The most numbers per token that are stored and searched.
MOST_CHANNELS = 128


def random_orthonormal(inputs: int, outputs: int = MOST_CHANNELS, seed: int = 0) -> Tensor:
    """A seeded random matrix (inputs, outputs) float32 with orthonormal columns."""
    drawn = torch.randn(inputs, outputs, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    orthonormal, triangle = torch.linalg.qr(drawn)
    # The sign of a column is the library's choice otherwise.
    return (orthonormal * torch.sign(triangle.diagonal())).float()


def principal(tokens: Tensor, outputs: int = MOST_CHANNELS) -> Tensor:
    """The matrix (inputs, outputs) float32 onto the directions in which tokens (n, inputs) vary most."""
    centred = tokens.double() - tokens.double().mean(dim=0)
    _, directions = torch.linalg.eigh(centred.T @ centred)
    directions = directions.flip(1)[:, :outputs]
    largest = directions.gather(0, directions.abs().argmax(dim=0, keepdim=True))
    return (directions * torch.sign(largest)).float()


def projected(tokens: Tensor, matrix: Tensor | None) -> Tensor:
    """Tokens (n, c) float32 of length 1, after the matrix if there is one."""
    return normalize(tokens if matrix is None else tokens @ matrix, dim=-1)

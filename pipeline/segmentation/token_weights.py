"""How much a token counts in K-Means: much in detail, little on an even surface.

K-Means spends its segments where many tokens are. Half of a street scene is sky and road, so these are cut into bands
while a car and its shadow share a segment. A token that resembles many others says little that they do not say; it
counts for less here, so that segments go where the picture changes.
"""

from __future__ import annotations

import numpy as np

#: The neighbour whose distance tells how dense the tokens lie: that share of all tokens away. It does not depend on
#: the size of the grid.
SHARE = 1 / 50
#: Least distance that counts, in parts of the mean one: a token among its equals still counts a little.
LEAST = 0.01
#: Tokens whose distances to all others are held at a time.
BLOCK = 1024


def balanced_weights(tokens: np.ndarray, balance: float) -> np.ndarray | None:
    """Weights (n,) float32 of tokens (n, c), mean 1: distance to a near token to the power of `segment.balance`.

    Args:
        balance: 0 = all count alike (the paper), returned as None.
    """
    if balance == 0:
        return None
    values = np.ascontiguousarray(tokens, np.float32)
    squares = np.einsum("nc,nc->n", values, values)
    rank = min(max(1, round(SHARE * len(values))), len(values) - 1)
    distances = np.empty(len(values), np.float32)
    for start in range(0, len(values), BLOCK):
        part = slice(start, start + BLOCK)
        squared = 2 * values[part] @ values.T
        np.subtract(squares[part, None] + squares, squared, out=squared)
        squared.partition(rank, axis=1)
        distances[part] = np.sqrt(np.maximum(squared[:, rank], 0))
    typical = distances.mean(dtype=np.float64)
    if typical == 0:
        return None  # tokens coincide: none says more than another
    weights = np.maximum(distances / typical, LEAST) ** balance
    return (weights / weights.mean(dtype=np.float64)).astype(np.float32)

"""benchmarks/energies.py on made-up energies."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.energies import change, row


def test_pairs_whose_energy_fell() -> None:
    """Two chunks, one timestep, three updates, two groups: their mean falls by half in one, and rises in the other."""
    energies = np.zeros((2, 1, 3, 2, 3), np.float32)
    energies[0, 0, :, :, 0] = [[1, 3], [9, 9], [2, 0]]
    energies[1, 0, :, :, 0] = [[1, 3], [0, 0], [3, 3]]
    found = change(energies)
    assert found.tolist() == [[pytest.approx(0.5)], [pytest.approx(1.5)]]
    assert row("all", found.ravel()) == ("all", "2", "1", "50.0", "1.000")

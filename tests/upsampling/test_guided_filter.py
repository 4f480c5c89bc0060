from __future__ import annotations

import numpy as np

from pipeline.upsampling.guided_filter import GuidedFilter


def test_guided_filter_keeps_the_edge_of_the_guide(rng: np.random.Generator) -> None:
    guide = np.zeros((20, 40), np.float32)
    guide[:, 20:] = 1
    values = np.clip((np.arange(40, dtype=np.float32) - 14) / 12, 0, 1)[None].repeat(20, axis=0)  # a ramp
    filtered = GuidedFilter(guide, 6, 1e-4)(values)
    before, after = (plane[10, 20] - plane[10, 19] for plane in (values, filtered))
    assert after > 4 * before
    flat = GuidedFilter(np.zeros_like(guide), 2, 1e-2)(values)
    np.testing.assert_allclose(flat[5, 19:22], values[5, 19:22], atol=1e-5)

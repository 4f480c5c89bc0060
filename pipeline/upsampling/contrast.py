"""Where the response to a modulation lies: inside the segment that was modulated, or elsewhere."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.media.resize import resize_nearest
from pipeline.upsampling.difference import root_difference
from pipeline.upsampling.responses import Response


@dataclass(frozen=True)
class Contrast:
    """Mean |I+ - I-| in grey levels inside and outside one segment."""

    inside: float
    outside: float

    @property
    def ratio(self) -> float:
        """How many times stronger the response is inside."""
        return self.inside / self.outside if self.outside else float("inf")


def contrast(response: Response) -> Contrast:
    """Mean difference inside and outside one segment, at model size; its mask is enlarged by nearest."""
    difference = magnitude(response)
    inside = resize_nearest(response.group.mask.astype(np.uint8), difference.shape) > 0
    return Contrast(float(difference[inside].mean()), float(difference[~inside].mean()))


def magnitude(response: Response) -> np.ndarray:
    """|I+ - I-| (H, W) float32 in grey levels: the root of the sum of squares over RGB."""
    return root_difference((response.plus - response.minus).permute(1, 2, 0).cpu().numpy() * np.float32(127.5))

"""Boxes of latent cells, or of pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Box:
    """Rows top..bottom - 1 and columns left..right - 1, in latent cells or in pixels."""

    top: int
    bottom: int
    left: int
    right: int

    @classmethod
    def around(cls, mask: Tensor) -> Box:
        """The smallest box that holds all positive cells of a mask (h, w); at least one is."""
        rows, columns = ((mask.amax(dim=axis) > 0).nonzero().flatten() for axis in (1, 0))
        return cls(int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1)

    def grown(self, cells: int, size: tuple[int, int]) -> Box:
        """With so many more cells on each side, within (h, w)."""
        top, left = max(0, self.top - cells), max(0, self.left - cells)
        return Box(top, min(size[0], self.bottom + cells), left, min(size[1], self.right + cells))

    def scaled(self, factor: int) -> Box:
        """In pixels, `factor` to a cell."""
        return Box(*(factor * side for side in (self.top, self.bottom, self.left, self.right)))

    @property
    def size(self) -> tuple[int, int]:
        """Its height and width."""
        return self.bottom - self.top, self.right - self.left

    @property
    def slices(self) -> tuple[slice, slice]:
        """Its rows and its columns."""
        return slice(self.top, self.bottom), slice(self.left, self.right)

    def of(self, tensor: Tensor) -> Tensor:
        """That part of a tensor (..., h, w)."""
        return tensor[..., *self.slices]

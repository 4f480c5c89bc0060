"""One check for all arrays that come from a network: every number is finite."""

from __future__ import annotations

import numpy as np

from pipeline.errors import DataError


def first_broken(values: np.ndarray) -> int | None:
    """Position of the first of the (f, ...) that holds NaN or infinity; None when all are finite."""
    finite = np.isfinite(values.reshape(len(values), -1)).all(axis=1)
    return None if finite.all() else int(np.argmin(finite))


def broken_modulation(where: str) -> DataError:
    """What to raise when modulated images are not finite; `where` says which frame."""
    return DataError(
        f"the modulated images of {where} have NaN or infinite values; "
        "check the weights, or use float32 (backbone.dtype)"
    )


def require_finite(values: np.ndarray, what: str, first_frame: int = 0) -> None:
    """Refuse NaN and infinity in `values` (f, ...), whose first frame is frame `first_frame` of the clip.

    Raises:
        DataError: names the first frame with such a value.
    """
    broken = first_broken(values)
    if broken is not None:
        raise DataError(
            f"{what} of frame {first_frame + broken} have NaN or infinite values; run `vidseg extract` again with "
            "backbone.dtype=float32, and check that frame of the input"
        )

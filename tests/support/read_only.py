"""Arrays that may only be read, as pictures that are decoded or mapped from files are."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def read_only(array: np.ndarray) -> Iterator[np.ndarray]:
    """A copy that refuses to be written to; warnings are errors, torch's too, which it else shows only once."""
    locked, before = array.copy(), torch.is_warn_always_enabled()
    locked.flags.writeable = False
    torch.set_warn_always(True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            yield locked
    finally:
        torch.set_warn_always(before)

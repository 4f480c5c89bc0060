"""The one place that imports FAISS, so that its absence is explained once, and its products are as fast as NumPy's."""

from __future__ import annotations

import os
from collections.abc import Collection
from types import ModuleType

import numpy as np

from pipeline.errors import UsageError

#: Environment variable: the kernels that OpenBLAS takes where it is loaded.
CORE = "OPENBLAS_CORETYPE"
#: A processor's abilities, as NumPy calls them now and did before -> OpenBLAS' kernels for it, the fastest first.
_KERNELS = (({"X86_V4", "AVX512_SKX"}, "SkylakeX"), ({"X86_V3", "AVX2"}, "Haswell"))


def load_faiss() -> ModuleType:
    """The `faiss` module.

    Its wheel has an OpenBLAS of 2021, which takes kernels of 2004 on processors that it does not know: an exact search
    then takes four times as long. It is told what NumPy finds, unless somebody has set `OPENBLAS_CORETYPE`.

    Raises:
        UsageError: it is not installed; the message gives the command.
    """
    abilities = np.show_config(mode="dicts").get("SIMD Extensions", {})
    told = None if CORE in os.environ else kernels({*abilities.get("baseline", ()), *abilities.get("found", ())})
    if told is not None:
        os.environ[CORE] = told
    try:
        import faiss
    except ImportError as error:
        raise UsageError(
            f"FAISS cannot be imported ({str(error).splitlines()[0]}); run `pip install faiss-cpu`, or "
            "`pip install faiss-gpu` on Linux with an NVIDIA GPU: one of the two, they overwrite each other"
        ) from error
    finally:
        if told is not None:
            del os.environ[CORE]  # read when the library was loaded; others that come later choose for themselves
    return faiss


def kernels(found: Collection[str]) -> str | None:
    """OpenBLAS' kernels for a processor with these abilities, by NumPy's names; None = it is left the choice."""
    return next((name for needed, name in _KERNELS if needed & set(found)), None)

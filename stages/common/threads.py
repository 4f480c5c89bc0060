"""How the threads of numeric libraries wait."""

from __future__ import annotations

import os

#: What OpenBLAS takes the number of its threads from.
_THREADS_OF_OPENBLAS = ("OPENBLAS_NUM_THREADS", "GOTO_NUM_THREADS", "OMP_NUM_THREADS")


def let_waiting_threads_sleep() -> None:
    """Have threads that wait sleep instead of spinning; called before NumPy and torch are imported, which read it then.

    On a shared machine spinning costs several times the time. OpenBLAS' threads, which NumPy's products use, know no
    other way to wait for each other: for products of our sizes two of them take as long as one, and twice the CPU time.
    So they get one thread, unless somebody has set how many they, or all libraries, get.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    if not any(os.environ.get(name) for name in _THREADS_OF_OPENBLAS):
        os.environ["OPENBLAS_NUM_THREADS"] = "1"

"""How the threads of numeric libraries wait."""

from __future__ import annotations

import os


def let_waiting_threads_sleep() -> None:
    """Have threads that wait sleep instead of spinning; called before NumPy and torch are imported, which read it then.

    On a shared machine spinning costs several times the time. OpenBLAS' threads, which NumPy's products use, know no
    other way to wait for each other: for products of our sizes two of them take as long as one, and twice the CPU time.
    Whoever sets these variables has it as they say.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

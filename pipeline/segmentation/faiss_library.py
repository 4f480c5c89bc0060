"""The one place that imports FAISS, so that its absence is explained once."""

from __future__ import annotations

from types import ModuleType

from pipeline.errors import UsageError


def load_faiss() -> ModuleType:
    """The `faiss` module.

    Raises:
        UsageError: it is not installed; the message gives the command.
    """
    try:
        import faiss
    except ImportError as error:
        raise UsageError(
            f"FAISS cannot be imported ({str(error).splitlines()[0]}); run `pip install faiss-cpu`, or "
            "`pip install faiss-gpu` on Linux with an NVIDIA GPU: one of the two, they overwrite each other"
        ) from error
    return faiss

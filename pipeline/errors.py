"""The errors a user can cause or meet, each with the exit code of the command that meets it.

A message is one line: what is wrong, where (file, frame, key), and what to do about it.
"""

from __future__ import annotations


class VidsegError(Exception):
    """Base of all errors that are explained to the user without a traceback."""

    exit_code = 1


class UsageError(VidsegError):
    """A command line or a parameter that makes no sense (exit code 2)."""

    exit_code = 2


class DataError(VidsegError):
    """Input that cannot be used: videos, labels, artifacts, non-finite numbers (exit code 3)."""

    exit_code = 3


class WeightsError(VidsegError):
    """Weights that are missing, unsafe or of another kind than asked for (exit code 4)."""

    exit_code = 4


class ResourceError(VidsegError):
    """Out of memory or disk, or an output folder that cannot be written (exit code 5)."""

    exit_code = 5


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out: Python's, a GPU's (told by name, torch is not imported here) or torch's on a CPU."""
    out = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    return out or "can't allocate memory" in str(error)

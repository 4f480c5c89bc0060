"""git and DVC, run as programs in the project's folder."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryFile

from pipeline.errors import DataError


def git(*arguments: str) -> str:
    """Output of a git command in the project's folder.

    Raises:
        DataError: it failed; the message ends with git's own.
    """
    return _output("git", *arguments)


def dvc(*arguments: str, environment: Mapping[str, str] | None = None) -> str:
    """Output of a DVC command; raises as `git` does."""
    return _output(sys.executable, "-m", "dvc", *arguments, environment=environment)


def _output(*command: str, environment: Mapping[str, str] | None = None) -> str:
    # DVC's workers look for `dvc` and `vidseg` on the path, also where this interpreter's folder is not on it.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    variables = {**os.environ, "PATH": path, **(environment or {})}
    # Files, not pipes: `dvc queue start` leaves a worker behind that would hold a pipe open.
    with TemporaryFile("w+") as output, TemporaryFile("w+") as errors:
        code = subprocess.run(command, env=variables, stdin=subprocess.DEVNULL, stdout=output, stderr=errors).returncode
        output.seek(0)
        errors.seek(0)
        said, complaint = output.read(), errors.read()
    if code:
        last = (complaint.strip() or said.strip() or "no message").splitlines()[-1]
        raise DataError(f"{shlex.join(command)[:80]} failed: {last}")
    return said

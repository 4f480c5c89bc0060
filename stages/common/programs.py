"""Programs that are run to their end: git and DVC in the project's folder, others anywhere."""

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
    """Output of a git command in the project's folder; raises as `run` does."""
    return run("git", *arguments)


def dvc(*arguments: str, environment: Mapping[str, str] | None = None) -> str:
    """Output of a DVC command in the project's folder; raises as `run` does."""
    return run(sys.executable, "-m", "dvc", *arguments, environment=environment)


def run(*command: str, folder: Path | None = None, environment: Mapping[str, str] | None = None) -> str:
    """What a program prints on its standard output.

    Args:
        folder: where it runs; None = here.
        environment: all of its variables; None = the present ones.

    Raises:
        DataError: it failed; the message ends with the last line that it said.
    """
    variables = dict(os.environ if environment is None else environment)
    # DVC's workers look for `dvc` and `vidseg` on the path, also where this interpreter's folder is not on it.
    variables["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), variables.get("PATH", "")])
    # Files, not pipes: `dvc queue start` leaves a worker behind that would hold a pipe open.
    with TemporaryFile("w+") as output, TemporaryFile("w+") as errors:
        code = subprocess.run(
            command, cwd=folder, env=variables, stdin=subprocess.DEVNULL, stdout=output, stderr=errors
        ).returncode
        output.seek(0)
        errors.seek(0)
        said, complaint = output.read(), errors.read()
    if code:
        last = (complaint.strip() or said.strip() or "no message").splitlines()[-1]
        shown = command[2:] if command[:2] == (sys.executable, "-m") else command
        raise DataError(f"{shlex.join(shown)[:80]} failed: {last}")
    return said

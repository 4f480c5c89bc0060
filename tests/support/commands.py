"""Running the real commands, as a user would."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
import pytest

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "VIDSEG_DEVICE": "cpu", "COLUMNS": "200"}


def heed_interrupts() -> None:
    """For `preexec_fn`: a shell that starts the tests in the background has their children ignore SIGINT."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def vidseg_process(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run `vidseg ...` as a process of its own; fails the test unless it succeeds."""
    result = subprocess.run(
        [sys.executable, "-m", "stages.main", *map(str, arguments)],
        cwd=cwd,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, f"exit {result.returncode}\n{result.stdout}\n{result.stderr}"
    return result


def vidseg(*arguments: object, cwd: Path | None = None, check: int = 0) -> subprocess.CompletedProcess[str]:
    """Run `vidseg ...` in this process, which saves importing torch each time.

    Fails the test unless the exit code is `check`.
    """
    from stages.main import main

    words = ["vidseg", *map(str, arguments)]
    with (
        pytest.MonkeyPatch.context() as patch,
        redirect_stdout(io.StringIO()) as stdout,
        redirect_stderr(io.StringIO()) as stderr,
        pytest.raises(SystemExit) as stopped,
    ):
        patch.setattr(sys, "argv", list(words))
        patch.chdir(cwd or Path.cwd())
        main()
    result = subprocess.CompletedProcess(words, int(stopped.value.code or 0), stdout.getvalue(), stderr.getvalue())
    assert result.returncode == check, f"exit {result.returncode}\n{result.stdout}\n{result.stderr}"
    return result


def error_line(result: subprocess.CompletedProcess[str]) -> str:
    """The one line that explains a failure; fails the test when there is more than one, or a traceback."""
    lines = [line for line in result.stderr.splitlines() if line.startswith("error:")]
    assert len(lines) == 1, result.stderr
    assert "Traceback" not in result.stderr
    return lines[0]


def write_frames(folder: Path, frames: np.ndarray) -> Path:
    """Frames (f, H, W, 3) uint8 as 00000.png, 00001.png, ..."""
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    for number, frame in enumerate(frames):
        Image.fromarray(frame).save(folder / f"{number:05d}.png")
    return folder


def write_labels(folder: Path, labels: np.ndarray) -> Path:
    """Label maps (f, H, W) uint8 as grey PNGs 00000.png, ..."""
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    for number, plane in enumerate(labels):
        Image.fromarray(plane.astype(np.uint8)).save(folder / f"{number:05d}.png")
    return folder


def tree_bytes(folder: Path) -> dict[str, bytes]:
    """Every file below a folder: relative path -> content."""
    return {str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}

from __future__ import annotations

import errno
import subprocess
import sys
import time

import pytest
import typer

from pipeline.errors import DataError, ResourceError, UsageError, VidsegError, WeightsError
from stages.common import cli
from tests.support.commands import error_line, vidseg, vidseg_process


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (UsageError("a\nb"), 2, "a b"),
        (DataError("x"), 3, "x"),
        (WeightsError("x"), 4, "x"),
        (ResourceError("x"), 5, "x"),
        (MemoryError(), 5, "lower diffusion.batch and upsample.batch"),
        (OSError(errno.ENOSPC, "No space left on device", "/x"), 5, "disk full while writing /x"),
        (PermissionError(errno.EACCES, "Permission denied", "/x"), 5, "/x: cannot be written"),
        (OSError(errno.ENAMETOOLONG, "File name too long", "/x"), 3, "/x: longer than names of files may be"),
        (
            ZeroDivisionError("oops"),
            1,
            "internal error: ZeroDivisionError: oops (--debug shows the traceback)",
        ),
    ],
)
def test_exit_codes(error: Exception, code: int, message: str) -> None:
    found, text = cli.explain(error)
    assert found == code
    assert message in text
    assert "\n" not in text


def test_torch_out_of_memory_names_the_batch() -> None:
    import torch

    assert cli.explain(torch.OutOfMemoryError("CUDA out of memory"))[0] == 5


def test_all_errors_have_their_own_exit_code() -> None:
    codes = [kind.exit_code for kind in (VidsegError, UsageError, DataError, WeightsError, ResourceError)]
    assert codes == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("stage", "argument", "name"),
    [
        ("ingest", ["film.mp4"], "VIDEO"),
        ("ingest", ["--mask", "a.png"], "--mask"),
        ("extract", ["clip.zarr"], "CLIP"),
        ("correspond", ["features.zarr"], "FEATURES"),
        ("segment", ["--seed", "seed"], "--seed"),
        ("track", ["clip.zarr"], "CLIP"),
        ("upsample", ["clip.zarr", "latents.zarr"], "CLIP"),
        ("references", ["--classes", "a.json"], "--classes"),
    ],
)
def test_paths_beside_an_item_are_refused(stage: str, argument: list[str], name: str) -> None:
    line = error_line(vidseg(stage, "--item", "one", *argument, check=2))
    assert f"{name} does not go with --item, whose paths stand in videos.yaml" in line


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["--version"], 0, "vidseg "),
        ([], 0, "Training-free video segmentation"),
        (["--help"], 0, "upsample"),
        (["--help"], 0, "vidseg[cluster]"),
        (["extract", "--help"], 0, "--set"),
        (["sweep", "--help"], 0, "wins over params.yaml"),
    ],
)
def test_help_and_version(arguments: list[str], code: int, text: str) -> None:
    assert text in vidseg(*arguments, check=code).stdout


def test_the_module_runs_as_a_program() -> None:
    assert vidseg_process("--version").stdout.startswith("vidseg ")


@pytest.mark.parametrize("arguments", [["nonsense"], ["extract", "--nonsense"], ["run"]])
def test_usage_errors_exit_with_2(arguments: list[str]) -> None:
    result = vidseg(*arguments, check=2)
    assert "Traceback" not in result.stderr


def test_debug_shows_the_traceback() -> None:
    with pytest.raises(DataError, match="none.zarr"):
        vidseg("extract", "none.zarr", "out", "--debug")
    assert "none.zarr" in error_line(vidseg("extract", "none.zarr", "out", check=3))


def test_help_imports_nothing_heavy() -> None:
    """`vidseg --help` must stay under half a second: that is these packages' import time."""
    heavy = ("torch", "numpy", "zarr", "av", "cv2", "dvc", "yaml")
    script = f"import sys, stages.main; print([name for name in {heavy} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_every_stage_is_a_module_of_its_own() -> None:
    for stage in (
        "ingest",
        "extract",
        "correspond",
        "segment",
        "upsample",
        "evaluate",
        "render",
        "summarize",
    ):
        module = __import__(f"stages.{stage}", fromlist=["app"])
        assert isinstance(module.app, typer.Typer)
        assert callable(module.run)


def test_progress_logs_lines_when_there_is_no_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([0.0, 10.0, 31.0, 35.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    monkeypatch.setenv("DVC_STAGE", "extract@x")
    with cli.progress("extract", 100) as advance:
        for _ in range(3):
            advance(10)
    assert capsys.readouterr().err == "extract@x: extract: 20/100 frames, 0.65 frames/s, 124 s left\n"

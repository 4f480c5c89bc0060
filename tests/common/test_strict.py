"""Warnings: said at once, in run.json, again at the end of a command, and with `--strict` its end."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import yaml

from pipeline.errors import DataError
from stages.common import cli
from tests.support.commands import error_line, vidseg, write_frames
from tests.support.places import ROOT
from tests.support.scenes import pictures

CASES = ROOT / "tests" / "data" / "cases"


def test_a_warning_is_said_again_at_the_end(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    app = cli.new_app("one command")

    @app.command()
    def main() -> None:
        cli.warn("a.png: left out")
        cli.note("done")
        cli.warn("b.png: left out")
        cli.warn("a.png: left out")

    def run(*words: str) -> int:
        monkeypatch.setattr(sys, "argv", ["command", *words])
        with pytest.raises(SystemExit) as stopped:
            cli.run_app(app)
        return int(stopped.value.code or 0)

    for _ in range(2):  # what an earlier command warned of is not said
        assert run() == 0
        lines = capsys.readouterr().err.splitlines()
        assert lines == [
            "warning: a.png: left out", "done", "warning: b.png: left out", "warning: a.png: left out",
            "warnings: 2", "  a.png: left out", "  b.png: left out",
        ]  # fmt: skip
    assert run("--strict") == 3
    assert capsys.readouterr().err == "error: a.png: left out (a warning: --strict ends the command at the first)\n"
    assert run() == 0
    monkeypatch.setenv(cli.STRICT, "1")
    assert run() == 3


@pytest.mark.parametrize("value", ["", "0", None])
def test_the_variable_can_say_no(value: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(cli.STRICT, raising=False)
    if value is not None:
        monkeypatch.setenv(cli.STRICT, value)
    cli.warn("nothing")
    monkeypatch.setenv(cli.STRICT, "yes")
    with pytest.raises(DataError, match=r"nothing \(a warning"):
        cli.warn("nothing")


def test_what_follows_a_double_dash_is_no_option(tmp_path: Path) -> None:
    line = error_line(vidseg("ingest", "--", "--strict", "--debug", cwd=tmp_path, check=3))
    assert "--strict" in line and "Traceback" not in line


def test_ingest_writes_nothing_of_what_it_warns_of(tmp_path: Path) -> None:
    out, video = tmp_path / "out", CASES / "dropped_frames.avi"
    assert f"error: {video}: it states 96 frames" in vidseg("ingest", video, out, "--strict", check=3).stderr
    assert not out.exists()
    said = vidseg("ingest", video, out).stderr.splitlines()
    assert said[-2] == "warnings: 1" and said[-1].startswith(f"  {video}: it states 96 frames")


def test_a_run_warns_of_what_it_uses_again(tiny_model: Path, tmp_path: Path) -> None:
    """Also where the run before was stopped, or had an option that stopped it, after the stage that warned."""
    video, out = write_frames(tmp_path / "frames", pictures(2)), tmp_path / "out"
    sets = ("segment.clusters=2", "ingest.size=64", "upsample.method=nearest", "render.report=false")
    words = [
        "run",
        video,
        "-o",
        out,
        *(word for text in (f"backbone.path={tiny_model}", *sets) for word in ("--set", text)),
    ]
    poor = "the reconstruction of 1 of 1 windows is poor"  # by the tiny model
    line = error_line(vidseg(*words, "--strict", check=3))
    assert poor in line
    assert sorted(path.name for path in out.iterdir()) == ["artifacts"]
    assert not (out / "artifacts" / "features.zarr").exists()
    assert "warnings: 1" in vidseg(*words).stderr
    assert not (out / "artifacts" / "tmp").exists()
    (out / "run.json").unlink()
    said = vidseg(*words).stderr.splitlines()
    assert said[-5] == "warnings: 1" and poor in said[-4] and said[-3].startswith("found: ")
    assert [one["stage"] for one in json.loads((out / "run.json").read_text())["warnings"]] == ["extract"]
    assert poor in error_line(vidseg(*words, "--strict", check=3))


def test_a_dry_run_warns_of_the_video(tiny_model: Path, tmp_path: Path) -> None:
    words = ("run", CASES / "dropped_frames.avi", "-o", tmp_path / "out", "--set", f"backbone.path={tiny_model}")
    assert "it states 96 frames" in error_line(vidseg(*words, "--dry-run", "--strict", check=3))


def test_a_preset_is_not_applied_with_a_warning(tmp_path: Path) -> None:
    file = tmp_path / "params.yaml"
    file.write_text("segment: {clusterz: 3}\n")
    words = ("preset", "apply", "sd21", "--file", file)
    assert "unknown parameter 'segment.clusterz'" in error_line(vidseg(*words, "--strict", check=3))
    assert yaml.safe_load(file.read_text()) == {"segment": {"clusterz": 3}}


def test_training_says_which_share_of_a_folder_it_leaves_out(tmp_path: Path) -> None:
    images = write_frames(tmp_path / "images", pictures(2))
    (images / "broken.png").write_bytes(b"no picture")
    line = error_line(vidseg("pretrain", images, tmp_path / "out", "--strict", check=3))
    assert f"{images}: 1 image cannot be decoded and will be skipped" in line

"""`vidseg doctor --try`: what it finds with a model that works, with one that does not, and what it keeps to itself."""

from __future__ import annotations

import json
from pathlib import Path

from tests.support import tiny_video
from tests.support.commands import error_line, vidseg

SMALL = ("--set", "ingest.size=192")


def test_the_embedded_model_is_as_expected(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    printed = vidseg("doctor", "--try", "--report", report, *SMALL, cwd=tmp_path).stdout
    found = json.loads(report.read_text())
    assert found["fine"] and "TOO LOW" not in printed
    assert set(found["seconds"]) == {"load", "frames", "encode", "decode", "features", "modulation"}
    assert [finding["unit"] for finding in found["findings"]] == ["dB", "dB", "times"]
    assert found["findings"][2]["value"] > 10
    text = report.read_text()
    assert str(Path.home()) not in text and str(tmp_path) not in text


def test_a_model_that_knows_nothing_is_found_out(tiny_model: Path, tmp_path: Path) -> None:
    sets = ("--set", f"backbone.path={tiny_model}", "--set", "ingest.size=64")
    line = error_line(vidseg("doctor", "--try", *sets, check=3))
    assert "backbone.name = 'compact': autoencoder, features' clean pass" in line and "too low" in line
    video = tiny_video.save_model(tmp_path / "video")
    sets = ("--set", "backbone.name=svd", "--set", f"backbone.path={video}", "--set", "ingest.size=64")
    assert "backbone.name = 'svd': " in error_line(vidseg("doctor", "--try", *sets, check=3))


def test_a_report_is_of_a_trial() -> None:
    assert "--report is of `vidseg doctor --try`; add --try" in error_line(
        vidseg("doctor", "--report", "x.json", check=2)
    )

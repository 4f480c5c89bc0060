"""benchmarks/coarse.py at a small size: its rows, what it checks, and the disk's table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks import coarse as bench

SMALL = bench.Size(frames=3, grid=(6, 8), channels=16, clusters=3, restarts=2, pixels=(48, 64))


def test_features_are_those_of_the_reference() -> None:
    """At full size they have the stated mean and standard deviation."""
    features = bench.synthetic(bench.Size())
    assert features.shape == (14, 28 * 52, 640)
    assert features.mean(dtype=np.float64) == pytest.approx(0.0025242, abs=1e-7)
    assert features.std(dtype=np.float64) == pytest.approx(0.7428678, abs=1e-6)


def test_every_coarse_step_is_checked() -> None:
    steps = {step.name.split(",")[0].split(" (")[0]: step for step in bench.coarse_steps(SMALL, repeats=1)}
    assert list(steps) == ["K-Means", "kNN", "refinement", "**first and later pass**"]
    assert steps["kNN"].check == "100.00 % equal labels"
    assert steps["refinement"].check.endswith("100.00 % as in `pipeline.segmentation.authors_code`")
    assert all(len(step.cells) == 6 for step in steps.values())


def test_their_maps_are_those_of_the_wrapped_rule(tmp_path: Path) -> None:
    files, memory = bench.map_steps(SMALL, tmp_path)
    for step in (files, memory):
        assert step.check == "other rules; theirs: 100.00 % as our `difference: wrapped`"


def test_the_disk_table_has_both_rates(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bench.print_disk(tmp_path, SMALL, repeats=2)
    table = capsys.readouterr().out
    assert "| write, flushed | " in table
    assert "| read, cached | " in table
    assert table.count("MB/s (") == 4

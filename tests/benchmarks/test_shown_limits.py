"""benchmarks/shown_limits.py on pictures whose segments lie apart."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import shown_limits as bench
from pipeline.fewshot.segments import IGNORE
from tests.support.concepts import write_references


def test_segments_that_lie_apart_are_told(tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, classes = write_references(tmp_path / "halves"), tmp_path / "classes.json"
    classes.write_text('{"classes": ["background", "right"]}')
    bench.main([folder], folder, classes, 1e-4, [f"backbone.path={tiny_model}", "learn.size=64"])
    rows = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines()[2:]]
    assert [row[:2] for row in rows] == [["halves", "tied"], ["halves", "free"]]
    assert all(row[2] == row[3] for row in rows), "the other pictures are the same, with the same noise"
    assert float(rows[1][2]) > 90


def test_what_has_no_label_teaches_nothing() -> None:
    rng = np.random.default_rng(0)
    queries = torch.from_numpy(rng.normal(size=(60, 3))).float()
    numbers = (queries[:, 0] > 0).to(torch.uint8)
    found = bench.fitted(queries, numbers, 2, None, 1e-4)(queries)
    assert (found == numbers).all()
    spoilt = torch.cat([numbers, torch.full((20,), IGNORE, dtype=torch.uint8)])
    more = torch.cat([queries, torch.full((20, 3), 1e6)])
    assert (bench.fitted(more, spoilt, 2, None, 1e-4)(queries) == found).all()

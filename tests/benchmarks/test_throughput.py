"""benchmarks/throughput.py with the smallest frames."""

from __future__ import annotations

import pytest
import torch
import typer

from benchmarks import throughput as bench
from stages.common.settings import load


@pytest.mark.parametrize("row", bench.ROWS)
def test_every_row_is_valid_parameters(row: str) -> None:
    load(None, [f"upsample.{change}" for change in bench.ROWS[row]])


def test_the_table_has_a_row_per_mode(capsys: pytest.CaptureFixture[str]) -> None:
    bench.main("compact", "64x64", 2, 1, rows="**fast**", set_=["upsample.fast.steps=1"])
    name, _, heads, _, row = capsys.readouterr().out.strip().splitlines()
    assert name.startswith("CPU, ") and name.endswith("; compact at 64x64, K = 2")
    assert heads.split(" | ")[0] == "| row" and row.startswith("| **fast** | ")


def test_cells_are_ratios_of_what_was_measured() -> None:
    speed = bench.Speed(tflop=2.0, upsample=0.5, before=0.3, memory=3_000_000_000)
    assert bench.cells("a", speed, peak=8e12) == ["a", "2.0", "2", "50 %", "3.0 GB", "1.25"]
    assert bench.matmul_peak(torch.device("cpu"), torch.float32) > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": "100x64"}, "--size 100x64: expected HxW in multiples of 64"),
        ({"size": "64"}, "--size 64: expected HxW in multiples of 64"),
        ({"size": "64x64", "rows": "slow"}, "--rows: no row 'slow'; there are: exact"),
    ],
)
def test_bad_options_are_named(options: dict[str, str], message: str) -> None:
    with pytest.raises(typer.BadParameter, match=message):
        bench.main("compact", labels=2, frames=1, **{"rows": None, "set_": None, **options})

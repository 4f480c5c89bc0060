"""benchmarks/first_result.py with a tiny model."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from benchmarks import first_result as bench
from pipeline.encoder.efficientnet import EfficientNetLite0
from tests.support.commands import write_frames


def test_all_stages_and_networks_are_counted(
    tiny_model: Path, tmp_path: Path, rng: np.random.Generator, capsys: pytest.CaptureFixture[str]
) -> None:
    frames = write_frames(tmp_path / "frames", rng.integers(0, 256, (3, 64, 128, 3), np.uint8))
    maps = EfficientNetLite0.maps
    bench.main(frames, 2, [f"backbone.path={tiny_model}", "ingest.size=native", "segment.clusters=3"])
    lines = capsys.readouterr().out.strip().splitlines()
    names = [line.split(" | ")[0].strip("| ") for line in lines[2:-2]]
    stages = ["ingest", "extract", "correspond", "segment", "upsample", "render"]
    assert set(stages) < set(names) and {"denoiser", "autoencoder, encoding"} < set(names)
    by_cpu, on_the_clock = re.fullmatch("all to networks: (.+) by CPU, (.+) on the clock", lines[-1]).groups()  # type: ignore[union-attr]
    assert float(by_cpu) > 1 and float(on_the_clock) > 1
    assert EfficientNetLite0.maps is maps


def test_parts_within_parts_are_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = iter(range(100))
    monkeypatch.setattr("time.process_time", lambda: float(next(seconds)))
    monkeypatch.setattr("time.thread_time", lambda: float(next(seconds)))
    clocks = iter(range(0, 1000, 10))
    monkeypatch.setattr("time.perf_counter", lambda: float(next(clocks)))
    clock = bench.Clock()
    with clock.part("outer"):
        with clock.part("inner"):
            clock.network("n", lambda: None)()
        with clock.part(bench.ESTIMATE):
            clock.network("n", lambda: None)()
    assert clock.parts == {"inner": (3.0, 30.0), bench.ESTIMATE: (2.0, 20.0), "outer": (3.0, 30.0)}
    assert clock.networks == {"n": (1.0, 10.0)}

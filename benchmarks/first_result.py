"""Where the time goes from `vidseg run` to the first result, and how much of it the networks take.

    OMP_NUM_THREADS=1 python -m benchmarks.first_result VIDEO > table.md          # the first 28 frames
    OMP_NUM_THREADS=1 python -m benchmarks.first_result VIDEO --set upsample.method=modulation
    python -m benchmarks.first_result VIDEO                                       # the clock, on all cores

CPU seconds (user and system) and seconds on the clock of this process, which does what `vidseg run` does, from Python's
start to the page. Those of the networks are of the calls of autoencoder, denoiser and image encoder alone, in the same
run and without those of the estimate. The ratio is total to networks. CPU seconds of networks are of the thread that
calls them: right with one thread. Where parts run at the same time, the CPU seconds of one are in the other.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any
from unittest.mock import patch

import typer

from stages import main as command_line  # what `vidseg` imports, though only `run` is called
from stages.commands import estimates
from stages.common import memory, run_record, threads
from stages.common.settings import Settings, load

#: What takes time beside the stages of run.json.
START, LOADING, ESTIMATE, REST = "Python, the command line", "torch, weights", "the estimate", "run.json, the page"

#: CPU seconds, and those on the clock.
Seconds = tuple[float, ...]
NOTHING = (0.0, 0.0)


def total(seconds: Iterable[Seconds]) -> Seconds:
    """CPU seconds and those on the clock, of all of them."""
    return tuple(map(sum, zip(NOTHING, *seconds, strict=True)))


def since(begun: Seconds, now: Seconds) -> Seconds:
    """From one time to another, by both."""
    return tuple(after - before for before, after in zip(begun, now, strict=True))


@dataclass
class Clock:
    """CPU seconds and seconds on the clock of parts of a run.

    Attributes:
        parts: what is done -> seconds of the process, without those of parts within it.
        networks: network -> seconds of the thread that calls it.
    """

    parts: dict[str, Seconds] = field(default_factory=dict)
    networks: dict[str, Seconds] = field(default_factory=dict)
    _within: list[str] = field(default_factory=list)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count what is done while this is held."""
        begun, inner = (time.process_time(), time.perf_counter()), total(self.parts.values())
        self._within.append(name)
        yield
        self._within.pop()
        took = since(begun, (time.process_time(), time.perf_counter()))
        self.parts[name] = total([self.parts.get(name, NOTHING), since(since(inner, total(self.parts.values())), took)])

    def counted(self, part: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """A call, as a part."""

        def counting(*given: Any, **named: Any) -> Any:
            with self.part(part):
                return call(*given, **named)

        return counting

    def network(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """A call of a network, counted but for what the estimate tries."""

        def counting(*given: Any, **named: Any) -> Any:
            begun = time.thread_time(), time.perf_counter()
            found = call(*given, **named)
            if ESTIMATE not in self._within:
                took = since(begun, (time.thread_time(), time.perf_counter()))
                self.networks[name] = total([self.networks.get(name, NOTHING), took])
            return found

        return counting


def main(
    video: Annotated[Path, typer.Argument(help="video file or folder of frames")],
    frames: Annotated[int, typer.Option(help="how many, from the first")] = 28,
    set_: Annotated[list[str] | None, typer.Option("--set", metavar="SECTION.KEY=VALUE")] = None,
) -> None:
    """Print the table."""
    threads.let_waiting_threads_sleep()
    memory.keep_freed_memory()
    clock = Clock({START: (time.process_time(), time.process_time())})  # one thread, which did not wait
    with tempfile.TemporaryDirectory() as folder:
        measure(video, Path(folder) / "out", load(None, [f"ingest.frames=0:{frames}", *(set_ or ())]), clock)
    print(page(clock))


def measure(video: Path, out: Path, settings: Settings, clock: Clock) -> None:
    """Run the video as `vidseg run` does, and count."""
    from stages.common import backbones

    stage = run_record.RunRecord.stage

    @contextmanager
    def counted(record: run_record.RunRecord, name: str, store: Path | None = None) -> Iterator[None]:
        with clock.part(name), stage(record, name, store):
            yield

    with ExitStack() as undo, clock.part(REST):
        with clock.part(LOADING):
            backbone: Any = backbones.load_backbone(settings["backbone"])
            from pipeline.encoder.efficientnet import EfficientNetLite0
        networks = (
            ("autoencoder, encoding", backbone.vae, "encode"),
            ("autoencoder, decoding", backbone.vae, "decode"),
            ("denoiser", backbone.unet, "forward"),
            ("image encoder", EfficientNetLite0, "maps"),
        )
        for name, owner, method in networks:
            undo.enter_context(patch.object(owner, method, clock.network(name, getattr(owner, method))))
        undo.enter_context(patch.object(estimates, "announce", clock.counted(ESTIMATE, estimates.announce)))
        undo.enter_context(patch.object(run_record.RunRecord, "stage", counted))
        command_line.run_all.run(video, out, settings, backbone=backbone)


def page(clock: Clock) -> str:
    """The table, and the ratio."""
    from pipeline.tables.pages import markdown

    whole, pure = total(clock.parts.values()), total(clock.networks.values())
    rows = {**clock.parts, "**all**": whole, **clock.networks, "**networks**": pure}
    cells = (
        [name, f"{cpu:.2f}", f"{100 * cpu / whole[0]:.0f} %", f"{wall:.2f}", f"{100 * wall / whole[1]:.0f} %"]
        for name, (cpu, wall) in rows.items()
    )
    table = markdown(["", "CPU s", "share", "s on the clock", "share"], cells)
    cpu, wall = (one / of for one, of in zip(whole, pure, strict=True))
    return f"{table}\n\nall to networks: {cpu:.2f} by CPU, {wall:.2f} on the clock"


if __name__ == "__main__":
    typer.run(main)

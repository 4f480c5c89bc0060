"""`dvc repro` on many machines: items as Dask tasks, results through a shared DVC cache."""

from __future__ import annotations

import os
import re
import shutil
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.errors import DataError, ResourceError, UsageError, VidsegError, WeightsError
from stages.common import cli
from stages.common.printing import listed
from stages.common.programs import dvc

if TYPE_CHECKING:
    from stages.cluster.plan import Plan
    from stages.cluster.worker import Outcome, Site

BATCH = "Jobs of a batch system"
#: Exit code of an item's stage -> the error that the run then ends with; any other one is bad input.
KINDS = {kind.exit_code: kind for kind in (VidsegError, UsageError, DataError, WeightsError, ResourceError)}
#: Variables of the submitting process that stages see on every worker.
PASSED_ON = ("VIDSEG_", "HF_")

app = cli.new_app(r"Run the pipeline on many machines; needs the extra `cluster` (pip install 'vidseg\[cluster]').")


@app.callback()
def group() -> None:
    r"""Run the pipeline on many machines; needs the extra `cluster` (pip install 'vidseg\[cluster]')."""


@app.command()
def run(
    targets: Annotated[
        list[str] | None, typer.Argument(help="stages of dvc.yaml, or STAGE@ITEM; default: everything")
    ] = None,
    workers: Annotated[
        int, typer.Option(min=1, help="number of worker processes or jobs; each works on an item at a time")
    ] = 1,
    scheduler: Annotated[
        str, typer.Option(help="local, slurm, pbs, sge, lsf, or the address of a Dask scheduler")
    ] = "local",
    threads: Annotated[
        int, typer.Option(min=1, help="CPU threads of each stage; another number changes the last digits of results")
    ] = 1,
    retries: Annotated[int, typer.Option(min=0, help="how many lost workers an item survives")] = 3,
    clones: Annotated[
        Path | None,
        typer.Option(
            help="folder for the workers' clones of the project, shared or local to each; default: in .dvc/tmp/cluster"
        ),
    ] = None,
    gpu: Annotated[
        bool | None,
        typer.Option("--gpu/--no-gpu", help="one GPU per worker; default: yes if this machine has any"),
    ] = None,
    memory: Annotated[str | None, typer.Option(help="memory of a job, e.g. 16GB", rich_help_panel=BATCH)] = None,
    walltime: Annotated[
        str | None, typer.Option(help="time limit of a job, e.g. 04:00:00", rich_help_panel=BATCH)
    ] = None,
    queue: Annotated[
        str | None, typer.Option(help="queue or partition of the batch system", rich_help_panel=BATCH)
    ] = None,
    directive: Annotated[
        list[str] | None,
        typer.Option(
            help="one more line of the job script, e.g. '--account=vision'; repeatable", rich_help_panel=BATCH
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="print the plan and the job script, and stop")] = False,
) -> None:
    """Run the pipeline's items on many machines, then restore all results here.

    Each worker has a clone of the committed revision and shares DVC's cache. A lost worker's item is run again.

    Example: vidseg cluster run --workers 8 --scheduler slurm --gpu --memory 16GB --walltime 04:00:00
    """
    from stages.cluster import schedulers
    from stages.cluster.board import Board, plain_plan
    from stages.cluster.jobs import QUEUES, Job, job_script
    from stages.cluster.plan import make_plan

    _check_extra()
    from stages.cluster.distribute import distribute
    from stages.cluster.worker import remove_clones_of_the_dead

    of_jobs = {"--memory": memory, "--walltime": walltime, "--queue": queue, "--directive": directive}
    schedulers.check_scheduler(scheduler, of_jobs)
    plan = make_plan(targets or (), clones)
    gpus = schedulers.local_gpus() if scheduler == schedulers.LOCAL and gpu is not False else ()
    if gpus and workers > len(gpus):
        raise UsageError(f"--workers {workers}: there are {len(gpus)} GPUs, one for each worker (or use --no-gpu)")
    if scheduler in QUEUES:
        workers = min(workers, len(plan.chains))  # a job that finds no item would only wait for the others
    name = "vidseg-" + re.sub(r"[^\w.-]+", "-", plan.project.name)
    job = Job(threads, memory, walltime, queue, bool(gpus or gpu), tuple(directive or ()), name, plan.logs)
    if dry_run:
        what = f"{workers} of {scheduler}, OMP_NUM_THREADS={threads}{', a GPU each' if job.gpu else ''}"
        script = job_script(scheduler, job) if scheduler in QUEUES else None
        print(plain_plan(plan, [("workers", what)]))
        if script is not None:
            print(f"\njob script of each worker:\n{script}")
        return
    site = _prepare(plan, threads, gpus)
    board = Board(plan)
    with interrupted_by_sigterm():
        try:
            with schedulers.connect(scheduler, workers, job, retries, site.clones) as (client, jobs):
                outcomes = distribute(client, plan, site, job.gpu, board, retries, jobs)
        finally:
            remove_clones_of_the_dead(site.clones)
            shutil.rmtree(site.clones, ignore_errors=True)
            with suppress(OSError):
                site.scratch.rmdir()  # holds what an interrupted stage left, for the next run
        cli.note(f"{len(plan.chains)} items: {board.summary()}{_needs(outcomes)}")
        _restore(plan, [outcome for outcome in outcomes if outcome.error])


@contextmanager
def interrupted_by_sigterm() -> Iterator[None]:
    """While this is held SIGTERM is as Ctrl-C, in a main thread, which alone may say so.

    A batch system ends the job that this process may be in by this signal: its own jobs would live on.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    earlier = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL if earlier is None else earlier)


def _check_extra() -> None:
    from importlib.util import find_spec

    if not (find_spec("distributed") and find_spec("dask_jobqueue")):
        raise UsageError("this needs Dask: pip install 'vidseg[cluster]', here and where the workers run")


def _prepare(plan: Plan, threads: int, gpus: tuple[str, ...]) -> Site:
    from stages.cluster.worker import Site

    clones = plan.clones / f"{plan.revision[:12]}-{os.getpid()}"
    for needed in (clones, plan.scratch, plan.logs, plan.cache):
        needed.mkdir(parents=True, exist_ok=True)
    environment = {name: value for name, value in os.environ.items() if name.startswith(PASSED_ON)}
    return Site(plan.project, plan.revision, plan.cache, clones, plan.logs, plan.scratch, threads, gpus, environment)


def _needs(outcomes: Sequence[Outcome]) -> str:
    """What a job needed at most, for whoever asks for the next ones."""
    done = [outcome for outcome in outcomes if not outcome.error]
    if not done:
        return ""
    held = max((outcome.memory_mb for outcome in done if outcome.memory_mb), default=None)
    memory = "" if held is None else f", the largest process held {held} MB"
    return f"; the longest item took {timedelta(seconds=round(max(outcome.seconds for outcome in done)))}{memory}"


def _restore(plan: Plan, failed: Sequence[Outcome]) -> None:
    """Bring the results here from the cache; nothing of an item should have to run again.

    Raises:
        VidsegError: items have failed; with their exit code, if they have one of those in common.
        DataError: items have failed for several reasons, or the project is not up to date afterwards.
    """
    from stages.cluster.plan import succeeded

    targets = succeeded(plan, [outcome.key for outcome in failed]) if failed else list(plan.targets)
    if targets or not failed:
        cli.note("restoring the results here")
        text = dvc("--wait-for-lock", "repro", *targets)
        ran = [name for name in re.findall(r"Running stage '(.+?)'", text) if "@" in name]
        if ran:
            cli.warn(f"{len(ran)} stages of items had to run here: {', '.join(ran[:3])}")
    if failed:
        by_reason: dict[str, list[str]] = {}
        for outcome in sorted(failed, key=lambda outcome: outcome.key):
            by_reason.setdefault(str(outcome.error), []).append(outcome.key)
        reasons = "; ".join(f"{listed(keys)}: {reason}" for reason, keys in by_reason.items())
        kinds = {KINDS.get(outcome.exit_code, DataError) for outcome in failed}
        kind = kinds.pop() if len(kinds) == 1 else DataError
        raise kind(f"{len(failed)} of {len(plan.chains)} items failed: {reasons} (logs: {plan.logs})")
    status = dvc("--wait-for-lock", "status", *targets)
    if "up to date" not in status:
        raise DataError(f"the results are restored, but something changed meanwhile: {status.strip()}")
    cli.note("all results are here; `dvc status` is clean")


if __name__ == "__main__":
    cli.run_app(app)

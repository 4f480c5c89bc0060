"""Jobs of a batch system, each one a worker: their script, what became of them, and others in place of lost ones."""

from __future__ import annotations

import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import DataError, ResourceError, UsageError
from stages.common import cli, programs
from stages.common.printing import counted, listed

if TYPE_CHECKING:
    from dask_jobqueue import JobQueueCluster
    from distributed import Scheduler

#: Batch systems and their classes in dask_jobqueue.
QUEUES = {"slurm": "SLURMCluster", "pbs": "PBSCluster", "sge": "SGECluster", "lsf": "LSFCluster"}
#: How a job asks for a GPU, where every site does it alike.
GPU_DIRECTIVES = {"slurm": ["--gres=gpu:1"], "lsf": ["-gpu num=1"]}
#: Seconds between two looks at the queue, also while nothing but the end of jobs is awaited, and how long they may
#: take to end by themselves.
LOOK_EVERY = 5.0
LOOK_AT_ENDS_EVERY = 2.0
END_WITHIN = 60.0
SLURM = "slurm"
#: Name of a job's log in the folder of logs, as Slurm writes it; other systems name it themselves.
LOG = "job-%j.log"
#: What Slurm calls the end of a job, and what that is in words. A requeued job waits again.
ENDS = {
    "BOOT_FAIL": "lost its node",
    "CANCELLED": "was cancelled",
    "COMPLETED": "ended",
    "DEADLINE": "reached its deadline",
    "FAILED": "failed",
    "NODE_FAIL": "lost its node",
    "OUT_OF_MEMORY": "ran out of memory",
    "PREEMPTED": "was preempted",
    "TIMEOUT": "reached its time limit",
}


@dataclass(frozen=True)
class Job:
    """What one worker asks of a batch system; what is None comes from dask-jobqueue's own configuration.

    Attributes:
        threads: CPU cores.
        memory: e.g. 16GB.
        walltime: e.g. 04:00:00.
        queue: or partition.
        gpu: whether it gets one.
        directives: further lines of the job script, without its prefix (#SBATCH).
        name: what lists of the queue show.
        logs: folder for the batch system's output files.
    """

    threads: int
    memory: str | None
    walltime: str | None
    queue: str | None
    gpu: bool
    directives: tuple[str, ...]
    name: str
    logs: Path


class NoJobLeft(Exception):
    """All jobs have ended and no other can be had; the message says what became of the last one."""


@dataclass
class _Submitted:
    """A job that is not known to be over.

    Attributes:
        number: the batch system's.
        waits: the reason that Slurm gives while it is in the queue.
        worked: whether its worker was seen.
    """

    number: str
    waits: str | None = None
    worked: bool = False


@dataclass
class _Retired:
    """A job whose worker was told to end.

    Attributes:
        number: the batch system's.
        job: Dask's.
        until: when it is ended, if it still runs.
    """

    number: str
    job: Any
    until: float


class Jobs:
    """The jobs of a run, as long as it lasts.

    Attributes:
        cluster: Dask's, whose workers they are.
        scheduler: the batch system's name.
        job: what each asks for.
        retries: how many jobs in a row may end before a worker began in them.
    """

    def __init__(self, cluster: JobQueueCluster, scheduler: str, job: Job, retries: int) -> None:
        self.cluster = cluster
        self.scheduler = scheduler
        self.job = job
        self.retries = retries
        self._known: dict[str, _Submitted] = {}
        self._retired: list[_Retired] = []
        self._names = count()
        self._looked = time.monotonic()
        self._in_vain = 0
        self._last = "none was submitted"
        self._reasons_told = {"None"}
        self._is_mute = False

    def submit(self, number: int) -> None:
        """Ask for jobs.

        Raises:
            ResourceError: the batch system refuses them.
        """
        from distributed.core import Status

        # `scale` would submit in the background, where a refusal is only logged. A name is not given twice: Dask
        # cancels the job of that name some time after it has lost the worker.
        for _ in range(number):
            self.cluster.worker_spec[f"job-{next(self._names)}"] = self.cluster.new_spec
        try:
            self.cluster.sync(_awaited, self.cluster)
        except (OSError, RuntimeError, ValueError) as error:
            for refused in self.cluster.workers.values():
                if refused.status is Status.created:
                    refused.status = Status.failed  # else closing takes it for one that still runs
            reason = " ".join(str(error).partition("stderr:")[2].split()) or str(error)
            raise ResourceError(
                f"--scheduler {self.scheduler}: `{_kind(self.scheduler).job_cls.submit_command}` takes no job: {reason}"
            ) from error
        for name, worker in self.cluster.workers.items():
            self._known.setdefault(str(name), _Submitted(str(worker.job_id)))

    def numbers(self) -> str:
        """The batch system's numbers of the jobs, as people read them."""
        return listed([known.number for known in self._known.values()])

    def look(self, unfinished: int) -> None:
        """Now and then, tell what became of jobs, ask for others in place of lost ones, let surplus ones end.

        Args:
            unfinished: number of items that are not done.

        Raises:
            NoJobLeft: there are items, but no job.
        """
        if time.monotonic() < self._looked + LOOK_EVERY:
            return
        self._looked = time.monotonic()
        states = self._states([*self._known.values(), *self._retired])
        self._give_back(states)
        workers = self.cluster.sync(_busy, self.cluster.scheduler)
        for name, known in self._known.items():
            known.worked |= name in workers
            known.waits = states[known.number][1] if states.get(known.number, ("",))[0] == "PENDING" else None
        for name in list(self._known):
            state, _ = states.get(self._known[name].number, ("", ""))
            if state in ENDS or name not in self.cluster.workers:  # Dask has dropped it, and cancels it itself
                self._replace(name, ENDS[state] if name in self.cluster.workers else "is lost", state, unfinished)
        self._tell_why_they_wait()
        if not self._known:
            raise NoJobLeft(self._last)
        idle = [name for name, is_busy in workers.items() if name in self._known and not is_busy]
        surplus = [*(name for name, known in self._known.items() if known.waits), *idle]
        self._end(surplus[: max(len(self._known) - unfinished, 0)])

    def close(self) -> None:
        """Let all workers end, and wait for them."""
        with suppress(OSError):
            self._retire(self._known)
            while self._retired:
                self._give_back(self._states(self._retired))
                if self._retired:
                    time.sleep(LOOK_AT_ENDS_EVERY)

    def end(self) -> None:
        """End at once what was to end by itself: Dask does not know of it any more."""
        while self._retired:
            self.cluster.sync(self._retired.pop().job.close)

    def _retire(self, jobs: Mapping[str, _Submitted]) -> None:
        """Let workers end by themselves; jobs are given back when they have: else they are listed as cancelled."""
        # Dask forgets them: it ends a job some seconds after it has lost the worker, which still removes its clone.
        until = time.monotonic() + END_WITHIN
        for name, known in jobs.items():
            self.cluster.worker_spec.pop(name, None)
            if name in self.cluster.workers:
                self._retired.append(_Retired(known.number, self.cluster.workers.pop(name), until))
        self.cluster.sync(self.cluster.scheduler.retire_workers, names=list(jobs), close_workers=True)

    def _give_back(self, states: Mapping[str, tuple[str, str]]) -> None:
        """End the jobs of workers that have ended, or had the time to."""
        now = time.monotonic()
        for retired in list(self._retired):
            if states.get(retired.number, ("", ""))[0] != "RUNNING" or now > retired.until:
                self._retired.remove(retired)
                self.cluster.sync(retired.job.close)

    def _replace(self, name: str, what: str, state: str, unfinished: int) -> None:
        """Forget a job that is over, and ask for another one, unless a person wanted it to end."""
        ended = self._known.pop(name)
        self.cluster.worker_spec.pop(name, None)
        self.cluster.workers.pop(name, None)
        self._in_vain = 0 if ended.worked else self._in_vain + 1
        text = f"job {ended.number} {what}"
        if self.scheduler == SLURM:
            log = self.job.logs / LOG.replace("%j", ended.number)
            text += f" (log: {log}{'' if ended.worked else _last_line(log)})"
        self._last = text
        if state == "CANCELLED" or self._in_vain > self.retries or len(self._known) >= unfinished:
            cli.note(text)
            return
        try:
            self.submit(1)
        except ResourceError as error:
            cli.note(f"{text}; {error}")
            return
        cli.note(f"{text}; job {next(reversed(self._known.values())).number} takes its place")

    def _tell_why_they_wait(self) -> None:
        """Once per reason, for there may be thousands of looks."""
        for reason, jobs in Counter(known.waits for known in self._known.values() if known.waits).items():
            if reason not in self._reasons_told:
                self._reasons_told.add(reason)
                cli.note(f"in the queue, {counted(jobs, 'job')}: {reason}")

    def _end(self, names: Collection[str]) -> None:
        """Give jobs back that have nothing to do."""
        if not names:
            return
        ended = {name: self._known.pop(name) for name in names}
        cli.note(f"nothing is left for {counted(len(ended), 'job')}, given back")
        self._retire(ended)
        self._give_back(self._states(self._retired))

    def _states(self, jobs: Iterable[_Submitted | _Retired]) -> dict[str, tuple[str, str]]:
        """Slurm's state of each job, and why it waits; nothing where the batch system was not asked or is silent."""
        numbers = [job.number for job in jobs]
        if self.scheduler != SLURM or not numbers:
            return {}
        try:
            lines = programs.run("squeue", "-h", "-t", "all", "-j", ",".join(numbers), "-o", "%i|%T|%r").splitlines()
        except (DataError, OSError) as error:
            if not self._is_mute:
                cli.note(f"what became of jobs is not known: {error}")
            self._is_mute = True
            return {}
        self._is_mute = False
        parts = [line.split("|") for line in lines]
        return {number: (state, reason) for number, state, reason in parts}


def _last_line(log: Path) -> str:
    with suppress(OSError):
        lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
        return f", which ends: {lines[-1][:200]}" if lines else ", which is empty"
    return ", which is not there"


def _kind(scheduler: str) -> Any:
    """dask_jobqueue's class for a batch system."""
    kept = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    import dask_jobqueue

    for number, handler in kept.items():  # importing it lets Ctrl-C end a process without an error
        signal.signal(number, handler)
    return getattr(dask_jobqueue, QUEUES[scheduler])


def job_script(scheduler: str, job: Job) -> str:
    """The script that a batch system would get for each worker."""
    kind = _kind(scheduler)
    options = _options(scheduler, job)
    with _explained(scheduler):
        return str(kind.job_cls(scheduler="tcp://SUBMITTING_HOST:PORT", name="job-0", **options).job_script())


@contextmanager
def submitted(scheduler: str, workers: int, job: Job, retries: int) -> Iterator[Jobs]:
    """Jobs of a batch system, which end with this.

    Args:
        workers: how many.
        retries: how many in a row may end before a worker began in them.

    Raises:
        ResourceError: the batch system takes no jobs.
        UsageError: it is not here or not configured.
    """
    kind = _kind(scheduler)
    command = kind.job_cls.submit_command
    if shutil.which(command) is None:
        raise UsageError(f"--scheduler {scheduler}: there is no `{command}` here; run this where jobs are submitted")
    options = _options(scheduler, job)
    with _explained(scheduler):
        cluster: JobQueueCluster = kind(**options)
    with cluster:
        jobs = Jobs(cluster, scheduler, job, retries)
        jobs.submit(workers)
        cli.note(f"{counted(workers, 'job')} submitted ({jobs.numbers()}); items begin as soon as one of them runs")
        try:
            yield jobs
            jobs.close()
        finally:
            jobs.end()


async def _busy(scheduler: Scheduler) -> dict[str, bool]:
    """Whether each worker has something to do."""
    return {str(worker.name): bool(worker.processing) for worker in scheduler.workers.values()}


async def _awaited(cluster: JobQueueCluster) -> None:
    await cluster


@contextmanager
def _explained(scheduler: str) -> Iterator[None]:
    """dask-jobqueue says what its configuration lacks by a ValueError."""
    try:
        yield
    except ValueError as error:
        raise UsageError(
            f"--scheduler {scheduler}: {error}; give the option or set it in ~/.config/dask/jobqueue.yaml"
        ) from error


def _options(scheduler: str, job: Job) -> dict[str, Any]:
    """What dask_jobqueue's class of a batch system, which is imported by now, is given.

    Raises:
        UsageError: nobody says how much memory a job needs.
    """
    import dask

    if job.memory is None and dask.config.get(f"jobqueue.{scheduler}.memory", None) is None:
        raise UsageError(
            f"--scheduler {scheduler}: give --memory, what a job may hold, e.g. --memory 4GB (`vidseg cost` estimates "
            "it), or set it in ~/.config/dask/jobqueue.yaml"
        )
    # One item at a time: the cores are for the stage's own threads.
    arguments = ["--nthreads", "1", *(["--resources", "GPU=1"] if job.gpu else [])]
    given = {"memory": job.memory, "walltime": job.walltime, "queue": job.queue}
    directives = [*(GPU_DIRECTIVES.get(scheduler, []) if job.gpu else []), *job.directives]
    if scheduler == SLURM:  # one log per job, also where the folder's name has spaces
        directives = [f'--output="{job.logs / LOG}"', "--open-mode=append", *directives]
    return {
        "cores": job.threads,
        "processes": 1,
        "nanny": False,  # a job ends with its worker: no need to start one that died again within it
        "job_name": job.name if scheduler == SLURM else "vidseg",  # some others refuse long names
        "python": sys.executable,
        "worker_extra_args": arguments,
        "job_extra_directives": directives,
        "log_directory": None if scheduler == SLURM else str(job.logs),
        **{name: value for name, value in given.items() if value is not None},
    }

"""Where the workers of a distributed run come from: processes here, jobs of a batch system, or a running scheduler."""

from __future__ import annotations

import logging
import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import ResourceError, UsageError
from stages.common import cli

if TYPE_CHECKING:
    from dask_jobqueue import JobQueueCluster
    from distributed import Client

LOCAL = "local"
#: Batch systems and their classes in dask_jobqueue.
QUEUES = {"slurm": "SLURMCluster", "pbs": "PBSCluster", "sge": "SGECluster", "lsf": "LSFCluster"}
#: What workers on this machine load first: Ctrl-C on a terminal reaches them too, the submitting process stops them.
HEEDLESS = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)"
#: How a job asks for a GPU, where every site does it alike.
GPU_DIRECTIVES = {"slurm": ["--gres=gpu:1"], "lsf": ["-gpu num=1"]}


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
        logs: folder for the batch system's output files.
    """

    threads: int
    memory: str | None
    walltime: str | None
    queue: str | None
    gpu: bool
    directives: tuple[str, ...]
    logs: Path


def check_scheduler(name: str, of_jobs: Mapping[str, object]) -> None:
    """Refuse a scheduler that is neither known nor an address, and options that it has no use for.

    Args:
        of_jobs: options that only batch systems understand, with what was given.

    Raises:
        UsageError: names what there is.
    """
    if name not in (LOCAL, *QUEUES) and "://" not in name:
        raise UsageError(f"--scheduler {name}: give {LOCAL}, {', '.join(QUEUES)}, or an address like tcp://host:8786")
    useless = [option for option, value in of_jobs.items() if value]
    if useless and name not in QUEUES:
        raise UsageError(f"{useless[0]} is for jobs of {', '.join(QUEUES)}; --scheduler {name} starts none")


def local_gpus() -> tuple[str, ...]:
    """The GPUs of this machine that stages would use, as CUDA_VISIBLE_DEVICES names them."""
    if os.environ.get("VIDSEG_DEVICE", "cuda").partition(":")[0] != "cuda":
        return ()
    import torch

    count = torch.cuda.device_count()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return tuple(visible.split(",")[:count]) if visible else tuple(map(str, range(count)))


def job_script(scheduler: str, job: Job) -> str:
    """The script that a batch system would get for each worker."""
    import dask_jobqueue

    kind = getattr(dask_jobqueue, QUEUES[scheduler]).job_cls
    with _explained(scheduler):
        return str(
            kind(scheduler="tcp://SUBMITTING_HOST:PORT", name="vidseg", **_job_options(scheduler, job)).job_script()
        )


@contextmanager
def connect(scheduler: str, workers: int, job: Job, retries: int, folder: Path) -> Iterator[Client]:
    """Start workers, or find those of a running scheduler; stops what it started.

    Args:
        retries: how many lost workers an item survives.
        folder: for Dask's own files on this machine.

    Raises:
        ResourceError: no scheduler answers at an address; the batch system takes no jobs.
        UsageError: the batch system is not here or not configured, or the workers are started in another way.
    """
    import dask
    from distributed import Client

    with dask.config.set({"distributed.scheduler.allowed-failures": retries}):
        if "://" in scheduler:
            try:
                client = Client(scheduler)
            except OSError as error:
                raise ResourceError(f"--scheduler {scheduler}: no Dask scheduler answers there ({error})") from error
            with client:
                _check_workers(scheduler, client, job)
                yield client
            return
        with _cluster(scheduler, workers, job, folder) as cluster, Client(cluster) as client:
            yield client


def _check_workers(address: str, client: Client, job: Job) -> None:
    """Refuse workers that could not take an item, or would take several into one clone."""
    found = client.scheduler_info()["workers"].values()
    if any(worker["nthreads"] > 1 for worker in found):
        raise UsageError(f"--scheduler {address}: its workers take several items at once; start them with --nthreads 1")
    if found and job.gpu and not any("GPU" in worker["resources"] for worker in found):
        raise UsageError(
            f"--scheduler {address}: none of its {len(found)} workers offers a GPU; start them with "
            "--resources GPU=1, or leave out --gpu"
        )
    if not found:
        cli.note(f"{address} has no workers yet; waiting for them")


def _cluster(scheduler: str, workers: int, job: Job, folder: Path) -> Any:
    if scheduler == LOCAL:
        from distributed import LocalCluster

        return LocalCluster(
            n_workers=workers, threads_per_worker=1, processes=True, resources=_resources(job), memory_limit=0,
            dashboard_address=None, local_directory=str(folder), silence_logs=logging.ERROR, preload=[HEEDLESS],
        )  # fmt: skip
    return _cluster_of_jobs(scheduler, workers, job)


def _cluster_of_jobs(scheduler: str, workers: int, job: Job) -> JobQueueCluster:
    import dask_jobqueue
    from distributed.core import Status

    kind: Any = getattr(dask_jobqueue, QUEUES[scheduler])
    submit: str = kind.job_cls.submit_command
    if shutil.which(submit) is None:
        raise UsageError(f"--scheduler {scheduler}: there is no `{submit}` here; run this where jobs are submitted")
    with _explained(scheduler):
        cluster: JobQueueCluster = kind(**_job_options(scheduler, job))
    # `scale` would submit in the background, where a refusal is only logged.
    for _ in range(workers):
        cluster.worker_spec.update(cluster.new_worker_spec())
    try:
        cluster.sync(_submitted, cluster)
    except (OSError, RuntimeError, ValueError) as error:
        for refused in cluster.workers.values():
            if refused.status is Status.created:
                refused.status = Status.failed  # else closing takes it for one that still runs
        cluster.close()
        reason = " ".join(str(error).partition("stderr:")[2].split()) or str(error)
        raise ResourceError(f"--scheduler {scheduler}: `{submit}` takes no job: {reason}") from error
    cli.note(f"{workers} jobs are submitted; items begin as soon as one of them runs")
    return cluster


async def _submitted(cluster: JobQueueCluster) -> None:
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


def _resources(job: Job) -> dict[str, int] | None:
    return {"GPU": 1} if job.gpu else None


def _job_options(scheduler: str, job: Job) -> dict[str, Any]:
    # One item at a time: the cores are for the stage's own threads.
    arguments = ["--nthreads", "1", *(["--resources", "GPU=1"] if job.gpu else [])]
    given = {"memory": job.memory, "walltime": job.walltime, "queue": job.queue}
    return {
        "cores": job.threads,
        "processes": 1,
        "job_name": "vidseg",
        "python": sys.executable,
        "worker_extra_args": arguments,
        "job_extra_directives": [*(GPU_DIRECTIVES.get(scheduler, []) if job.gpu else []), *job.directives],
        "log_directory": str(job.logs),
        **{name: value for name, value in given.items() if value is not None},
    }

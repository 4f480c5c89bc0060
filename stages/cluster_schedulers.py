"""Where the workers of a distributed run come from: processes here, jobs of a batch system, or a running scheduler."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import ResourceError, UsageError

if TYPE_CHECKING:
    from dask_jobqueue import JobQueueCluster
    from distributed import Client

LOCAL = "local"
#: Batch systems and their classes in dask_jobqueue.
QUEUES = {"slurm": "SLURMCluster", "pbs": "PBSCluster", "sge": "SGECluster", "lsf": "LSFCluster"}
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


def check_scheduler(name: str) -> None:
    """Refuse a scheduler that is neither known nor an address.

    Raises:
        UsageError: names what there is.
    """
    if name not in (LOCAL, *QUEUES) and "://" not in name:
        raise UsageError(f"--scheduler {name}: give {LOCAL}, {', '.join(QUEUES)}, or an address like tcp://host:8786")


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
        ResourceError: no scheduler answers at an address.
        UsageError: the batch system is not configured.
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
                yield client
            return
        with _cluster(scheduler, workers, job, folder) as cluster, Client(cluster) as client:
            yield client


def _cluster(scheduler: str, workers: int, job: Job, folder: Path) -> Any:
    if scheduler == LOCAL:
        from distributed import LocalCluster

        return LocalCluster(
            n_workers=workers, threads_per_worker=1, processes=True, resources=_resources(job), memory_limit=0,
            dashboard_address=None, local_directory=str(folder),
        )  # fmt: skip
    import dask_jobqueue

    kind: type[JobQueueCluster] = getattr(dask_jobqueue, QUEUES[scheduler])
    with _explained(scheduler):
        cluster = kind(**_job_options(scheduler, job))
    cluster.scale(jobs=workers)
    return cluster


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

"""Where the workers of a distributed run come from: processes here, jobs of a batch system, or a running scheduler."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import ResourceError, UsageError
from stages.cluster.jobs import QUEUES, Job, Jobs, submitted
from stages.common import cli

if TYPE_CHECKING:
    from distributed import Client, LocalCluster

LOCAL = "local"
#: What workers on this machine load first: Ctrl-C on a terminal reaches them too, the submitting process stops them.
HEEDLESS = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)"


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


@contextmanager
def connect(scheduler: str, workers: int, job: Job, retries: int, folder: Path) -> Iterator[tuple[Client, Jobs | None]]:
    """Start workers, or find those of a running scheduler; stops what it started.

    Gives the client, and the jobs where workers are jobs of a batch system.

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
                yield client, None
        elif scheduler == LOCAL:
            with _processes(workers, job, folder) as cluster, Client(cluster) as client:
                yield client, None
        else:
            with submitted(scheduler, workers, job, retries) as jobs, Client(jobs.cluster) as client:
                yield client, jobs


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


def _processes(workers: int, job: Job, folder: Path) -> LocalCluster:
    from distributed import LocalCluster

    return LocalCluster(
        n_workers=workers, threads_per_worker=1, processes=True, resources={"GPU": 1} if job.gpu else None,
        memory_limit=0, dashboard_address=None, local_directory=str(folder), silence_logs=logging.ERROR,
        preload=[HEEDLESS],
    )  # fmt: skip

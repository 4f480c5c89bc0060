"""A real Slurm on this machine: munged, slurmctld and one slurmd, on the loopback, with a configuration of its own."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import psutil
import pytest

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scancel", "scontrol")
#: Seconds until a daemon, or what is waited for, has failed.
PATIENCE = 20.0
#: What the node says that it has, whatever this machine has.
CPUS, MEGABYTES = 4, 6000
CONFIGURATION = """
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerParameters=sched_interval=1,bf_interval=1
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=2
NodeName={host} NodeAddr=127.0.0.1 Port={node_port} CPUs={cpus} RealMemory={megabytes} State=UNKNOWN
PartitionName=all Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""
SBIN = ("/usr/sbin", "/sbin")  # where daemons are, which is not on everyone's path


class Slurm:
    """A running Slurm of one node.

    Attributes:
        environment: what its commands need beside the variables of this process.
    """

    def __init__(self, folder: Path, host: str) -> None:
        self._host = host
        # Dask's own connections stay on the loopback, too.
        self.environment = {"SLURM_CONF": str(folder / "slurm.conf"), "DASK_JOBQUEUE__SLURM__INTERFACE": "lo"}

    def call(self, *command: str) -> str:
        """What one of its commands prints; fails the test unless it succeeds."""
        variables = os.environ | self.environment
        result = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=PATIENCE)
        assert result.returncode == 0, f"{command}: {result.stdout}{result.stderr}"
        return result.stdout

    def jobs(self) -> dict[str, str]:
        """State of each job that is not over, e.g. RUNNING, by its number."""
        return dict(line.split() for line in self.call("squeue", "-h", "-o", "%i %T").splitlines())

    def drain(self) -> None:
        """Let the node take no further jobs; those that run go on."""
        self.call("scontrol", "update", f"nodename={self._host}", "state=drain", "reason=test")

    def resume(self) -> None:
        """Let the node take jobs again."""
        self.call("scontrol", "update", f"nodename={self._host}", "state=resume")


@contextmanager
def running() -> Iterator[Slurm]:
    """A Slurm that ends with this; skips the test where it is not installed."""
    path = os.pathsep.join((os.environ["PATH"], *SBIN))
    missing = [name for name in PROGRAMS if shutil.which(name, path=path) is None]
    if missing:
        pytest.skip(f"no Slurm is here ({', '.join(missing)}); on Debian: apt-get install slurm-wlm munge")
    host = socket.gethostname().partition(".")[0]
    # Not pytest's own folder: the path of a socket may have 108 characters only.
    with tempfile.TemporaryDirectory(prefix="slurm-") as name, ExitStack() as stack:
        folder = Path(name)
        folder.chmod(0o755)  # munged refuses a socket that others cannot reach
        for part in ("state", "spool"):
            (folder / part).mkdir()
        key = folder / "munge.key"
        key.touch(0o600)
        key.write_bytes(os.urandom(1024))
        controller_port, node_port = free_ports(2)
        (folder / "slurm.conf").write_text(
            CONFIGURATION.format(
                host=host, user=getpass.getuser(), folder=folder, cpus=CPUS, megabytes=MEGABYTES,
                controller_port=controller_port, node_port=node_port,
            )
        )  # fmt: skip
        slurm = Slurm(folder, host)

        def start(name: str, *arguments: str) -> None:
            program = shutil.which(name, path=path)
            assert program is not None
            stack.enter_context(_daemon(folder / f"{name}.output", program, *arguments, environment=slurm.environment))

        files = {"key-file": "key", "socket": "socket", "pid-file": "pid", "seed-file": "seed"}
        start("munged", "--foreground", *(f"--{option}={folder}/munge.{end}" for option, end in files.items()))
        _wait_for(lambda: (folder / "munge.socket").exists(), folder)
        start("slurmctld", "-D")
        start("slurmd", "-D", "-N", host)
        _wait_for(lambda: "idle" in _said("sinfo", "-h", "-o", "%T", environment=slurm.environment), folder)
        try:
            yield slurm
        finally:  # what failing tests have left would outlive its daemons
            slurm.call("scancel", "--full", f"--user={getpass.getuser()}")
            _wait_for(lambda: not slurm.jobs(), folder)
            for process in psutil.process_iter(["environ"]):  # without cgroups Slurm loses those whose script has died
                found = process.info["environ"] or {}
                if "SLURM_JOB_ID" in found and found.get("SLURM_CONF") == slurm.environment["SLURM_CONF"]:
                    process.kill()


@contextmanager
def _daemon(log: Path, *command: str, environment: dict[str, str]) -> Iterator[None]:
    with log.open("w") as output:
        process = subprocess.Popen(command, env=os.environ | environment, stdout=output, stderr=output)
    try:
        yield
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(10)
        process.kill()
        process.wait()


def _said(*command: str, environment: dict[str, str]) -> str:
    variables = os.environ | environment
    return subprocess.run(command, env=variables, capture_output=True, text=True, timeout=PATIENCE).stdout


def _wait_for(happened: Callable[[], bool], folder: Path) -> None:
    """Wait for something that daemons do; fails the test, with what they said, when it takes too long."""
    end = time.monotonic() + PATIENCE
    while not happened():
        if time.monotonic() > end:
            said = "\n".join(f"{log.name}: {log.read_text()[-2000:]}" for log in sorted(folder.glob("*.output")))
            pytest.fail(f"it did not happen in {PATIENCE:g} s\n{said}")
        time.sleep(0.1)


def free_ports(count: int) -> list[int]:
    """Ports of the loopback that nobody listens on."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]

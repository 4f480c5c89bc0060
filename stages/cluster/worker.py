"""What a worker of a distributed run does: a clone of its own, and `dvc repro` of one item in it."""

from __future__ import annotations

import errno
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from distributed import Worker, WorkerPlugin, get_worker

from pipeline.errors import DataError, ResourceError
from stages.cluster.plan import VIDEOS, Chain, relative_names
from stages.common import cli, programs, yaml_files

#: Topic of the events that workers send, and name of the plugin that holds a worker's clone.
TOPIC = "vidseg"
#: What DVC prints, and what that says of a stage.
LINES = {
    re.compile(r"Running stage '(.+?)'"): "running",
    re.compile(r"Stage '(.+?)' is cached"): "restored",
    re.compile(r"Stage '(.+?)' didn't change"): "restored",
    re.compile(r"failed to reproduce '(.+?)'"): "failed",
}
#: Variables that tell a process its job: of Slurm, PBS, LSF, SGE.
JOB_NUMBERS = ("SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID", "JOB_ID")
#: What programs say that may find room another time.
NO_ROOM = tuple(os.strerror(number) for number in (errno.ENOSPC, errno.EDQUOT, errno.ENOMEM))

#: Told of each stage's name and state: running, ran, restored, failed.
Report = Callable[[str, str], None]


class Interrupted(Exception):
    """The item did not fail, its worker did: it may be tried again."""


class NoClone(Exception):
    """This machine cannot have a clone. Another one may; the same command on the same machines ends so again."""


@dataclass(frozen=True)
class Site:
    """What all workers of a run share.

    Attributes:
        project: repository to clone, and folder of inputs that are not in git.
        revision: to check out.
        cache: absolute path of DVC's cache.
        clones: folder for this run's clones; may be a disk of each machine.
        logs: folder for a log per item.
        scratch: folder for unfinished stores, so that another worker can continue them.
        threads: how many a stage may use.
        gpus: devices of this machine to hand out, one per worker; none where the scheduler does so.
        environment: variables of the submitting process that stages should see.
    """

    project: Path
    revision: str
    cache: Path
    clones: Path
    logs: Path
    scratch: Path
    threads: int
    gpus: tuple[str, ...]
    environment: Mapping[str, str]


@dataclass(frozen=True)
class Outcome:
    """How an item ended.

    Attributes:
        states: of each stage that DVC named.
        error: the reason where one failed.
        exit_code: of the command that failed; that of `ResourceError` where the item is not at fault and the same
            command may succeed: its workers were lost, or had no room.
        seconds: that it took.
        memory_mb: most main memory that one process of its worker has held so far; None where nothing tells it.
    """

    key: str
    states: Mapping[str, str]
    error: str | None = None
    exit_code: int = 0
    seconds: float = 0.0
    memory_mb: int | None = None


class Clone:
    """One worker's working copy. Nobody else writes to it; results are shared through DVC's cache."""

    def __init__(self, site: Site, folder: Path, gpu: str | None = None) -> None:
        self.site = site
        self.folder = folder
        self._gpu = gpu
        self._process: subprocess.Popen[str] | None = None

    def make(self) -> None:
        """Clone the project at the revision, with the shared cache.

        Raises:
            NoClone: this machine does not see the shared folders, or git or DVC refuse.
            Interrupted: there is no room.
        """
        for shared in (self.site.project, self.site.cache, self.site.logs):
            if not shared.is_dir():
                raise NoClone(f"{socket.gethostname()} does not see {shared}; it must lie on a shared file system")
        shutil.rmtree(self.folder, ignore_errors=True)
        self._call("git", "clone", "--quiet", "--no-checkout", str(self.site.project), str(self.folder))
        self._call("git", "-C", str(self.folder), "checkout", "--quiet", "--detach", self.site.revision)
        self._call(sys.executable, "-m", "dvc", "cache", "dir", "--local", str(self.site.cache), folder=self.folder)
        self._name_inputs_as_the_project_does()

    def bring(self, inputs: tuple[str, ...]) -> None:
        """Link files of the project that git does not know; DVC reads through links to files, not to folders."""
        hidden = {str(folder / ".dvcignore") for name in inputs for folder in Path(name).parents}
        for name in (*inputs, *hidden):
            source = self.site.project / name
            inside = (Path(root, file) for root, _, files in os.walk(source, followlinks=True) for file in files)
            for file in [source] if source.is_file() else inside:
                link = self.folder / file.relative_to(self.site.project)
                if not link.exists():
                    link.parent.mkdir(parents=True, exist_ok=True)
                    link.symlink_to(file)

    def repro(self, chain: Chain, report: Report) -> Outcome:
        """Run or restore the stages of an item.

        Raises:
            Interrupted: a stage was killed, or this machine's memory or disk is full.
        """
        started = time.monotonic()
        self.bring(chain.inputs)
        command = [sys.executable, "-m", "dvc", "repro", *chain.targets]
        with (self.site.logs / f"{chain.key}.log").open("a", buffering=1) as log:
            place = f"job {job_number()} on " if job_number() else ""
            log.write(f"{place}{socket.gethostname()}:{self.folder}: {' '.join(command)}\n")
            code, states, tail = self._follow(command, log.write, report)
        if code == 0:
            took = time.monotonic() - started
            return Outcome(chain.key, states, seconds=took, memory_mb=cli.peak_memory_mb(of_children=True))
        message = _reason(tail)
        exited = re.findall(r"exited with (-?\d+)", "\n".join(tail))
        last = int(exited[-1]) if exited else code
        if last < 0 or last > 128 or last == ResourceError.exit_code:
            raise Interrupted(f"{socket.gethostname()}: {message}")
        return Outcome(chain.key, states, message, last if exited else DataError.exit_code)

    def remove(self) -> None:
        """Stop what runs here and delete the copy."""
        if self._process is not None and self._process.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGTERM)
            self._process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def environment(self) -> dict[str, str]:
        """What a stage sees: the code of the revision, one machine's own DVC state, its threads and GPU."""
        values = {name: value for name, value in os.environ.items() if name not in ("DVC_STAGE", "DVC_ROOT")}
        values |= self.site.environment
        values |= {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{values.get('PATH', '')}",
            "PYTHONUNBUFFERED": "1",
            "OMP_NUM_THREADS": str(self.site.threads),
            "OPENBLAS_NUM_THREADS": values.get("OPENBLAS_NUM_THREADS", "1"),  # as where nobody sets the number above
            "VIDSEG_SCRATCH": str(self.site.scratch),
            # DVC's state is SQLite, which a network file system breaks.
            "DVC_SITE_CACHE_DIR": str(Path(tempfile.gettempdir()) / f"vidseg-dvc-{os.getuid()}"),
        }
        if (self.folder / "stages" / "main.py").is_file():  # a checkout may change while the run goes on
            values["PYTHONPATH"] = str(self.folder)
        if self._gpu is not None:
            values["CUDA_VISIBLE_DEVICES"] = self._gpu
        return values

    def _follow(
        self, command: list[str], log: Callable[[str], object], report: Report
    ) -> tuple[int, dict[str, str], list[str]]:
        """Run a command and tell what its lines say; returns exit code, states of stages, last lines."""
        states: dict[str, str] = {}
        tail: deque[str] = deque(maxlen=30)

        def tell(stage: str, state: str) -> None:
            states[stage] = state
            report(stage, state)

        def end(state: str) -> None:
            for stage in [stage for stage, known in states.items() if known == "running"]:
                tell(stage, state)

        self._process = subprocess.Popen(
            command, cwd=self.folder, env=self.environment(), text=True, errors="replace", start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        assert self._process.stdout is not None
        for line in self._process.stdout:
            log(line)
            tail.append(line.rstrip())
            for pattern, state in LINES.items():
                if match := pattern.search(line):
                    end("failed" if state == "failed" else "ran")
                    tell(match[1].rpartition(":")[2], state)
        code = self._process.wait()
        end("failed" if code else "ran")
        return code, states, list(tail)

    def _name_inputs_as_the_project_does(self) -> None:
        """Let DVC name inputs that lie in the project by relative paths, also where videos.yaml has absolute ones.

        The name is part of the run-cache's key. To a clone an absolute path is outside, to the project it is inside:
        without this the project would not find what the clone has made.
        """
        content = yaml_files.read(self.folder / VIDEOS, "commit it")
        relative = relative_names(content, self.site.project)
        if relative == content:
            return
        names = ".videos-of-clone.yaml"
        yaml_files.write(self.folder / names, relative)
        pipeline = yaml_files.read(self.folder / "dvc.yaml", "commit it")
        pipeline["vars"] = [names if source == str(VIDEOS) else source for source in pipeline["vars"]]
        yaml_files.write(self.folder / "dvc.yaml", pipeline)

    def _call(self, *command: str, folder: Path | None = None) -> None:
        try:
            programs.run(*command, folder=folder, environment=self.environment())
        except (DataError, OSError) as error:
            kind = Interrupted if any(said in str(error) for said in NO_ROOM) else NoClone
            raise kind(f"{socket.gethostname()}: {error}") from error


class ClonePlugin(WorkerPlugin):
    """Holds a Dask worker's clone: made for its first item, removed when the worker stops."""

    name = TOPIC

    def __init__(self, site: Site) -> None:
        self.site = site
        self._clone: Clone | None = None
        self._made = False

    def setup(self, worker: Worker) -> None:
        """Called by Dask when a worker starts, also in place of a lost one."""
        number = int(worker.name) if str(worker.name).isdigit() else 0
        gpu = self.site.gpus[number % len(self.site.gpus)] if self.site.gpus else None
        self._clone = Clone(self.site, self.site.clones / f"{socket.gethostname()}-{os.getpid()}", gpu)

    def teardown(self, worker: Worker) -> None:
        """Called by Dask when the worker stops; a killed one leaves its clone to `remove_clones_of_the_dead`."""
        if self._clone is not None:
            self._clone.remove()

    def clone(self) -> Clone:
        """This worker's clone."""
        assert self._clone is not None
        if not self._made:
            remove_clones_of_the_dead(self.site.clones)
            self._clone.make()
            self._made = True
        return self._clone


def remove_clones_of_the_dead(clones: Path) -> None:
    """Stop stages that outlived their killed worker on this machine, and delete its clone."""
    import psutil

    for folder in clones.glob(f"{socket.gethostname()}-*"):
        if psutil.pid_exists(int(folder.name.rpartition("-")[2])):
            continue
        for process in psutil.process_iter(["cwd"]):
            if process.info["cwd"] and Path(process.info["cwd"]).is_relative_to(folder):
                with suppress(psutil.Error):
                    process.kill()
        shutil.rmtree(folder, ignore_errors=True)


def run_chain(chain: Chain, *needed: Outcome) -> Outcome:
    """The task: run one item in this worker's clone, and tell the submitter how it goes.

    Args:
        needed: how those ended that it needs.
    """
    for other in needed:
        if other.error:
            return Outcome(chain.key, {}, f"it needs {other.key}, which failed", other.exit_code)
    worker = get_worker()

    def report(stage: str, state: str) -> None:
        worker.log_event(TOPIC, {"key": chain.key, "stage": stage.partition("@")[0], "state": state})

    if job_number():
        worker.log_event(TOPIC, {"key": chain.key, "job": job_number()})
    plugin: ClonePlugin = worker.plugins[TOPIC]  # type: ignore[assignment]
    return plugin.clone().repro(chain, report)


def job_number() -> str | None:
    """The batch system's number of the job that this process is in."""
    return next((os.environ[name] for name in JOB_NUMBERS if name in os.environ), None)


def _reason(tail: list[str]) -> str:
    """The line of a log that explains a failure best: the stage's own, else DVC's."""
    own = [line for line in tail if line.startswith("error: ")]
    dvc = [line for line in tail if line.startswith("ERROR: ")]
    return (own or dvc or tail or ["it printed nothing"])[-1]

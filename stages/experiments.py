"""Rows of a table as DVC experiments: queued over the registered videos, run, found again, read.

An experiment runs the pipeline in a copy of what git knows, with a few parameters changed. Copies share DVC's cache,
so a stage whose inputs and parameters have run before is restored instead of run.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from pipeline.errors import DataError, ResourceError, UsageError
from stages import cli
from stages.layout import DATA, NONE, item_keys, item_videos
from stages.settings import load

PARAMS = Path("params.yaml")
#: What decides an experiment's results, beside its parameters and the commit; git must know all of it.
INPUTS = (PARAMS, Path("videos.yaml"), Path("dvc.yaml"), Path("versions.yaml"), Path("backbone.lock"))
#: Stages that lead to scores; `render` is left out.
TARGETS = ("ingest", "extract", "correspond", "segment", "upsample", "evaluate", "summarize")
#: Stages whose seconds count as the method's; the others read pictures and score.
TIMED = ("extract", "correspond", "segment", "upsample")


@dataclass(frozen=True)
class Experiment:
    """One set of parameters.

    Attributes:
        name: of the row, for people.
        sets: what differs from params.yaml, as `section.key=value`.
        mark: hash of all that decides the results: parameters, videos, pipeline, weights and commit.
    """

    name: str
    sets: tuple[str, ...]
    mark: str

    @property
    def full_name(self) -> str:
        """Its name in DVC: two rows of equal parameters have one mark, whatever their names."""
        return f"{self.name}-{self.mark}"

    def queue_command(self) -> list[str]:
        """The command that queues it."""
        changes = [word for text in self.sets for word in ("-S", text)]
        return ["dvc", "exp", "run", "--queue", "--name", self.full_name, *changes, *TARGETS]


@dataclass(frozen=True)
class Result:
    """A finished experiment.

    Attributes:
        revision: its commit.
        records: scores.json of each item.
        seconds: of each item, for extract to upsample together; items with a stage of unknown time are left out.
    """

    revision: str
    records: Mapping[str, Mapping[str, Any]]
    seconds: Mapping[str, float]


def describe(name: str, sets: Sequence[str]) -> Experiment:
    """The experiment with these parameters over the videos registered now.

    Raises:
        UsageError: an unknown parameter or a bad value.
    """
    sections = load(PARAMS, sets).as_dict()
    del sections["render"]
    content = [git("rev-parse", "HEAD"), json.dumps(sections, sort_keys=True)]
    content += [path.read_text() for path in INPUTS if path != PARAMS]
    return Experiment(name, tuple(sets), hashlib.sha256("\n".join(content).encode()).hexdigest()[:10])


def check_project() -> list[str]:
    """Refuse what experiments cannot work with; returns the files with uncommitted changes.

    Raises:
        UsageError: no project, no commit, a merge in progress, files that git does not know, relative paths.
        DataError: no video has ground truth.
    """
    missing = [str(path) for path in INPUTS if not path.is_file()]
    if missing:
        raise UsageError(f"{', '.join(missing)}: no such file; run in the project's folder, where dvc.yaml is")
    keys = item_keys()
    entries = {key: item_videos(key) for key in keys}
    try:
        git("rev-parse", "--verify", "HEAD")
    except (DataError, FileNotFoundError) as error:
        raise UsageError("experiments need git and one commit: git init && git add -A && git commit") from error
    if not Path(".dvc").is_dir():
        raise UsageError(".dvc: no such folder; run `dvc init`")
    if unmerged := git("diff", "--name-only", "--diff-filter=U").split():
        raise UsageError(f"{unmerged[0]}: unresolved merge; finish or abort it first")
    known = set(git("ls-files").splitlines())
    if unknown := [str(path) for path in INPUTS if str(path) not in known]:
        raise UsageError(f"{', '.join(unknown)}: unknown to git, so experiments would lack it; git add {unknown[0]}")
    for key, videos in entries.items():
        for video in videos:
            for name in ("path", "ground_truth", "classes", "mask"):
                _check_reachable(f"videos.yaml: {name} of item '{key}'", video.get(name), known)
    _check_reachable("params.yaml: backbone.path", load(PARAMS)["backbone"].path, known)
    if not any(_given(video.get("ground_truth")) for videos in entries.values() for video in videos):
        raise DataError("videos.yaml: no video has ground truth, so there is nothing to score (ground_truth: FOLDER)")
    return git("diff", "--name-only", "HEAD").splitlines()


def _given(path: Any) -> bool:
    return path is not None and str(path) != NONE


def _check_reachable(what: str, path: str | None, known: set[str]) -> None:
    """A relative path must be in the copy that the experiment runs in: known to git, or made by the pipeline."""
    if not _given(path) or Path(str(path)).is_absolute() or not Path(str(path)).exists():
        return
    inside = str(Path(str(path))).partition("#")[0]
    made = Path(inside).parts[:1] == DATA.parts
    if not made and not any(file == inside or file.startswith(f"{inside}/") for file in known):
        raise UsageError(f"{what} is relative and not in git: experiments run in a copy; give an absolute path")


def run(experiments: Sequence[Experiment], jobs: int, seconds_file: Path) -> None:
    """Run the experiments that have not been run yet, the first of them alone: the others find its features.

    An interrupted call stops its experiments; what their finished stages made stays in DVC's cache.

    Args:
        jobs: experiments at a time.
        seconds_file: gets a line per stage that runs.

    Raises:
        DataError: an experiment failed; names it with its log's last line. The others have run.
    """
    waiting = {experiment.full_name: experiment for experiment in experiments if experiment.mark not in finished()}
    waiting = {experiment.mark: experiment for experiment in waiting.values()}
    if not waiting:
        return
    names = {experiment.full_name for experiment in waiting.values()}
    _queue(list(waiting.values()))
    environment = {"VIDSEG_TIMINGS": str(seconds_file.resolve())}
    failed: set[str] = set()
    try:
        dvc("queue", "start", "--jobs", "1", environment=environment)
        for done in _watch(names):
            succeeded = {name for name in done if name.rpartition("-")[2] in finished()}
            failed |= done - succeeded
            for name in sorted(done):
                cli.note(f"{name}: {'done' if name in succeeded else 'failed'}")
            if jobs > 1:
                dvc("queue", "start", "--jobs", str(jobs), environment=environment)
    except KeyboardInterrupt:
        _stop(names)
        raise
    if failed:
        reasons = [f"{name}: {_last_line(name)}" for name in sorted(failed)]
        raise DataError(f"{'; '.join(reasons)} (`dvc queue logs NAME` shows all; run the same command to continue)")


def finished() -> dict[str, str]:
    """Mark -> commit of every experiment that git knows."""
    lines = git("for-each-ref", "refs/exps", "--format=%(refname) %(objectname)").splitlines()
    return {name.rpartition("-")[2]: commit for name, commit in (line.split() for line in lines)}


def read(experiment: Experiment, seconds: Mapping[str, float]) -> Result:
    """Scores and seconds of a finished experiment, from DVC's cache.

    Args:
        seconds: by stage as dvc.lock has it, see `stage_seconds`.
    """
    from dvc.api import DVCFileSystem

    from pipeline.score_files import parse

    revision = finished()[experiment.mark]
    files = DVCFileSystem(".", rev=revision)
    records = {}
    for key in item_keys():
        path = DATA / "evaluate" / key / "scores.json"
        records[key] = parse(path, files.read_text(str(path)))
    entries = lock_entries(revision)
    spent = {}
    for key in records:
        parts = [seconds.get(entries.get(f"{stage}@{key}", "")) for stage in TIMED]
        if None not in parts:
            spent[key] = sum(part for part in parts if part is not None)
    return Result(revision, records, spent)


def fetch(revision: str, stores: Sequence[str], folder: Path) -> None:
    """Copy stores (`ingest/KEY/clip.zarr`, below data/) of an experiment from DVC's cache into a folder."""
    from dvc.api import DVCFileSystem

    files = DVCFileSystem(".", rev=revision)
    for store in stores:
        (folder / store).parent.mkdir(parents=True, exist_ok=True)
        files.get(str(DATA / store), str(folder / store), recursive=True)


def lock_entries(revision: str) -> dict[str, str]:
    """Stage -> hash of its entry in an experiment's dvc.lock: of its inputs, parameters and outputs."""
    import yaml

    stages = yaml.safe_load(git("show", f"{revision}:./dvc.lock"))["stages"]
    return {
        name: hashlib.sha256(json.dumps([name, entry], sort_keys=True).encode()).hexdigest()
        for name, entry in stages.items()
    }


def stage_seconds(seconds_file: Path) -> dict[str, float]:
    """Seconds by hash of a stage's entry in dvc.lock, from the lines that stages wrote (`VIDSEG_TIMINGS`).

    A stage that later experiments restore from the cache keeps the seconds of the experiment that ran it.
    """
    if not seconds_file.is_file():
        return {}
    lines = [json.loads(line) for line in seconds_file.read_text().splitlines()]
    commits, entries, found = finished(), cache(lock_entries), {}
    for line in lines:
        commit = commits.get(str(line["experiment"]).rpartition("-")[2])
        if commit and line["stage"] in entries(commit):
            found[entries(commit)[line["stage"]]] = float(line["seconds"])
    return found


def _queue(experiments: Sequence[Experiment]) -> None:
    """Queue what is not queued or running; leftovers of failed and killed runs are removed first."""
    states, workers = _status()
    for experiment in experiments:
        name = experiment.full_name
        state = states.get(name)
        if state == "Running" and not workers:
            dvc("queue", "kill", name)
            state = "Failed"
        if state in ("Queued", "Running"):
            continue
        if state is not None:
            dvc("queue", "remove", name)
        cli.note(shlex.join(experiment.queue_command()))
        dvc(*experiment.queue_command()[1:])


def _watch(names: set[str]) -> Iterator[set[str]]:
    """Wait until none is queued or running; yields those that are new among the finished."""
    pause, waiting, lonely = 1.0, set(names), 0
    while waiting:
        time.sleep(pause)
        states, workers = _status()
        lonely = 0 if workers else lonely + 1
        if done := {name for name in waiting if states.get(name) not in ("Queued", "Running")}:
            yield done
            waiting, pause = waiting - done, 1.0
        elif lonely > 5:
            raise ResourceError(
                "the worker of DVC's queue has ended (out of memory?); run the same command to continue"
            )
        else:
            pause = min(pause * 1.5, 20.0)


def _stop(names: set[str]) -> None:
    states, _ = _status()
    for state, command in (("Queued", "remove"), ("Running", "kill")):
        if found := [name for name in names if states.get(name) == state]:
            dvc("queue", command, *found)


def _status() -> tuple[dict[str, str], int]:
    """State of each experiment of the queue by name, and the number of live workers."""
    lines = dvc("queue", "status").splitlines()
    rows = [line.split() for line in lines if line.strip()]
    states = {row[1]: row[-1] for row in rows if row[-1] in ("Queued", "Running", "Failed", "Success")}
    workers = next((row for row in rows if row[:2] == ["Worker", "status:"]), None)
    return states, int(workers[2]) + int(workers[4]) if workers else 0


def _last_line(name: str) -> str:
    lines = [line for line in dvc("queue", "logs", name).splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("error:")]
    return (errors or lines or ["no log"])[-1]


def git(*arguments: str) -> str:
    """Output of a git command in the project's folder.

    Raises:
        DataError: it failed; the message ends with git's own.
    """
    return _output("git", *arguments)


def dvc(*arguments: str, environment: Mapping[str, str] | None = None) -> str:
    """Output of a DVC command; raises as `git` does."""
    return _output(sys.executable, "-m", "dvc", *arguments, environment=environment)


def _output(*command: str, environment: Mapping[str, str] | None = None) -> str:
    # DVC's workers look for `dvc` and `vidseg` on the path, also where this interpreter's folder is not on it.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    variables = {**os.environ, "PATH": path, **(environment or {})}
    # Files, not pipes: `dvc queue start` leaves a worker behind that would hold a pipe open.
    with TemporaryFile("w+") as output, TemporaryFile("w+") as errors:
        code = subprocess.run(command, env=variables, stdin=subprocess.DEVNULL, stdout=output, stderr=errors).returncode
        output.seek(0)
        errors.seek(0)
        said, complaint = output.read(), errors.read()
    if code:
        last = (complaint.strip() or said.strip() or "no message").splitlines()[-1]
        raise DataError(f"{shlex.join(command)[:80]} failed: {last}")
    return said

"""Rows of a table as DVC experiments: queued over the registered videos, run, found again, read.

An experiment runs the pipeline in a copy of what git knows, with a few parameters changed. Copies share DVC's cache,
so a stage whose inputs and parameters have run before is restored instead of run.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from pipeline.errors import DataError, UsageError
from stages.common import cli, yaml_files
from stages.common.applied import Applied, concept_of
from stages.common.layout import COMPLETE, DATA, NONE, PATHS, item_keys, item_videos, read_part, without_names
from stages.common.programs import git
from stages.common.settings import WEIGHTS, load
from stages.tables import dvc_queue

PARAMS = Path("params.yaml")
PIPELINE = Path("dvc.yaml")
#: What decides an experiment's results, beside its parameters and the commit; git must know all of it.
TRACKED = (PARAMS, Path("videos.yaml"), PIPELINE, Path("versions.yaml"), Path("backbone.lock"))
#: Stages that lead to scores; `render` is left out.
TARGETS = ("ingest", "extract", "correspond", "segment", "upsample", "evaluate", "summarize")
#: Stages whose seconds count as the method's; the others read pictures and score.
TIMED = ("extract", "correspond", "segment", "upsample")


@dataclass(frozen=True)
class Experiment:
    """One set of parameters over some items.

    Attributes:
        name: what people call the row.
        sets: what differs from params.yaml, as `section.key=value`.
        items: keys of videos.yaml.
        targets: what DVC is asked to make.
        timed: item -> stages, as `stage@item`, whose seconds count as the method's.
        mark: hash of all that decides the results: parameters, videos, pipeline, weights and commit.
    """

    name: str
    sets: tuple[str, ...]
    items: tuple[str, ...]
    targets: tuple[str, ...]
    timed: Mapping[str, tuple[str, ...]]
    mark: str

    @property
    def full_name(self) -> str:
        """Its name in DVC: two rows of equal parameters have one mark, whatever their names."""
        return f"{self.name}-{self.mark}"

    def queue_command(self) -> list[str]:
        """The command that queues it; `++` also adds what params.yaml does not show, so that DVC sees it."""
        changes = [word for text in self.sets for word in ("-S", f"++{text}")]
        return ["dvc", "exp", "run", "--queue", "--name", self.full_name, *changes, *self.targets]


@dataclass(frozen=True)
class Result:
    """A finished experiment.

    Attributes:
        revision: its commit.
        records: scores.json of each item.
        seconds: what the timed stages took together, by item; items with a stage of unknown time are left out.
        memory: the most MB that one of them held, by item; items with a stage of which it is unknown are left out.
    """

    revision: str
    records: Mapping[str, Mapping[str, Any]]
    seconds: Mapping[str, float]
    memory: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Cost:
    """What a stage took: wall time in seconds, and the most memory in MB, None where nobody measured it."""

    seconds: float
    memory: float | None


def describe(name: str, sets: Sequence[str], items: Sequence[str]) -> Experiment:
    """The experiment with these parameters over these items, as they are registered now.

    Over all items whole stages run, with their summary; over some of them, what leads to the scores of each.

    Raises:
        UsageError: an unknown parameter or a bad value.
    """
    timed = {key: tuple(f"{stage}@{key}" for stage in TIMED) for key in items}
    if set(items) == set(item_keys()):
        return Experiment(name, tuple(sets), tuple(items), TARGETS, timed, _mark(sets))
    targets = tuple(f"evaluate@{key}" for key in items)
    return Experiment(name, tuple(sets), tuple(items), targets, timed, _mark(sets, *targets))


def describe_applied(name: str, sets: Sequence[str], applied: Sequence[Applied]) -> Experiment:
    """The experiment that finds the segments of concepts with these parameters; raises as `describe`.

    Learning, once per concept, is not among what is timed, nor are tracks that nothing follows.
    """
    tracks = ("track",) if load(PARAMS, sets)["guidance"].needs_tracks else ()
    timed = {
        each.name: (f"extract@{each.item}", *(f"{stage}@{each.name}" for stage in (*tracks, "apply")))
        for each in applied
    }
    targets = tuple(f"evaluate_applied@{each.name}" for each in applied)
    return Experiment(name, tuple(sets), tuple(timed), targets, timed, _mark(sets, *targets))


def describe_inputs(name: str, sets: Sequence[str], applied: Sequence[Applied]) -> Experiment:
    """The experiment that makes what a propagation of references needs; raises as `describe`.

    That is matches, the concepts' references, and tracks, which flicker is measured with.
    """
    timed = {each.name: (f"extract@{each.item}", f"correspond@{each.item}") for each in applied}
    made = ((f"correspond@{each.item}", f"references@{each.concept}", f"track@{each.name}") for each in applied)
    targets = tuple(dict.fromkeys(target for targets in made for target in targets))
    return Experiment(name, tuple(sets), tuple(timed), targets, timed, _mark(sets, *targets))


def _mark(sets: Sequence[str], *targets: str) -> str:
    """Hash of all that decides the results of an experiment, which stages it asks for included."""
    sections = load(PARAMS, sets).as_dict()
    del sections["render"]
    content = [git("rev-parse", "HEAD"), json.dumps(sections, sort_keys=True)]
    content += [path.read_text() for path in TRACKED if path != PARAMS]
    return hashlib.sha256("\n".join([*content, *targets]).encode()).hexdigest()[:10]


def check_project() -> list[str]:
    """Refuse what experiments cannot work with; returns the files with uncommitted changes.

    Raises:
        UsageError: no project, no commit, a merge in progress, files that git does not know, relative paths.
    """
    missing = [str(path) for path in TRACKED if not path.is_file()]
    if missing:
        raise UsageError(f"{', '.join(missing)}: no such file; run in the project's folder, where dvc.yaml is")
    entries = {key: item_videos(key) for key in item_keys()}
    if lacking := list(without_names(read_part("items"), read_part("applied"))):
        raise UsageError(f"videos.yaml: {lacking[0]} is of an earlier version, without `names`; {COMPLETE}")
    try:
        git("rev-parse", "--verify", "HEAD")
    except (DataError, FileNotFoundError) as error:
        raise UsageError("experiments need git and one commit: git init && git add -A && git commit") from error
    if not Path(".dvc").is_dir():
        raise UsageError(".dvc: no such folder; run `dvc init`")
    if unmerged := git("diff", "--name-only", "--diff-filter=U").split():
        raise UsageError(f"{unmerged[0]}: unresolved merge; finish or abort it first")
    known = set(git("ls-files").splitlines())
    if unknown := [str(path) for path in TRACKED if str(path) not in known]:
        raise UsageError(f"{', '.join(unknown)}: unknown to git, so experiments would lack it; git add {unknown[0]}")
    for key, videos in entries.items():
        for video in videos:
            for name in PATHS:
                _check_reachable(f"videos.yaml: {name} of item '{key}'", video.get(name), known)
    for key in read_part("concepts"):
        for name, path in concept_of(key)[1].paths.items():
            _check_reachable(f"videos.yaml: {name} of concept '{key}'", path, known)
    settings = load(PARAMS).flat()
    for name in WEIGHTS:
        _check_reachable(f"params.yaml: {name}", settings[name], known)
    return git("diff", "--name-only", "HEAD").splitlines()


def _check_reachable(what: str, path: str | None, known: set[str]) -> None:
    """A relative path must be in the copy that the experiment runs in: known to git, or made by the pipeline."""
    if path in (None, NONE) or Path(path).is_absolute() or not Path(path).exists():
        return
    inside = str(Path(path)).partition("#")[0]
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
    done = finished()
    waiting = {experiment.mark: experiment for experiment in experiments if experiment.mark not in done}
    if not waiting:
        return
    names = {experiment.full_name for experiment in waiting.values()}
    commands = {experiment.full_name: experiment.queue_command() for experiment in waiting.values()}
    environment = {"VIDSEG_TIMINGS": str(seconds_file.resolve())}

    def begin(those: set[str]) -> None:
        dvc_queue.add({name: command for name, command in commands.items() if name in those})
        dvc_queue.start(1, environment)

    failed: set[str] = set()
    try:
        begin(names)
        for ended in dvc_queue.watch(names, begin):
            succeeded = {name for name in ended if name.rpartition("-")[2] in finished()}
            failed |= ended - succeeded
            for name in sorted(ended):
                cli.note(f"{name}: {'done' if name in succeeded else 'failed'}")
            if jobs > 1:
                dvc_queue.start(jobs, environment)
    except KeyboardInterrupt:
        dvc_queue.stop(names)
        raise
    if failed:
        reasons = [f"{name}: {dvc_queue.reason(name)}" for name in sorted(failed)]
        raise DataError(f"{'; '.join(reasons)} (`dvc queue logs NAME` shows all; run the same command to continue)")


def finished() -> dict[str, str]:
    """Mark -> commit of every experiment that git knows."""
    lines = git("for-each-ref", "refs/exps", "--format=%(refname) %(objectname)").splitlines()
    return {name.rpartition("-")[2]: commit for name, commit in (line.split() for line in lines)}


def read(experiment: Experiment, costs: Mapping[str, Cost]) -> Result:
    """Scores and costs of a finished experiment, from DVC's cache.

    Args:
        costs: by stage as dvc.lock has it, see `stage_costs`.
    """
    from dvc.api import DVCFileSystem

    from pipeline.scoring.files import parse

    revision = finished()[experiment.mark]
    files = DVCFileSystem(".", rev=revision)
    records = {}
    for key in experiment.items:
        path = DATA / "evaluate" / key / "scores.json"
        records[key] = parse(path, files.read_text(str(path)))
    return Result(revision, records, *spent(experiment, costs))


def spent(experiment: Experiment, costs: Mapping[str, Cost]) -> tuple[dict[str, float], dict[str, float]]:
    """Seconds and memory of a finished experiment by item, as `Result` has them."""
    entries = lock_entries(finished()[experiment.mark])
    seconds, memory = {}, {}
    for key, stages in experiment.timed.items():
        found = [costs.get(entries.get(stage, "")) for stage in stages]
        known = [cost for cost in found if cost is not None]
        held = [cost.memory for cost in known if cost.memory is not None]
        if len(known) == len(stages):
            seconds[key] = sum(cost.seconds for cost in known)
        if len(held) == len(stages):
            memory[key] = max(held)
    return seconds, memory


def fetch(revision: str, stores: Sequence[str], folder: Path) -> None:
    """Copy stores (`ingest/KEY/clip.zarr`, below data/) of an experiment from DVC's cache into a folder."""
    from dvc.api import DVCFileSystem

    files = DVCFileSystem(".", rev=revision)
    for store in stores:
        (folder / store).parent.mkdir(parents=True, exist_ok=True)
        files.get(str(DATA / store), str(folder / store), recursive=True)


def lock_entries(revision: str) -> dict[str, str]:
    """Stage -> hash of its entry in an experiment's dvc.lock: of its inputs, parameters and outputs."""
    stages = yaml_files.parse(git("show", f"{revision}:./dvc.lock"), f"dvc.lock of {revision}")["stages"]
    return {
        name: hashlib.sha256(json.dumps([name, entry], sort_keys=True).encode()).hexdigest()
        for name, entry in stages.items()
    }


def stage_costs(seconds_file: Path) -> dict[str, Cost]:
    """Costs by hash of a stage's entry in dvc.lock, from the lines that stages wrote (`VIDSEG_TIMINGS`).

    A stage that later experiments restore from the cache keeps the costs of the experiment that ran it.
    """
    if not seconds_file.is_file():
        return {}
    lines = [json.loads(line) for line in seconds_file.read_text().splitlines()]
    commits, entries = finished(), cache(lock_entries)
    found: dict[str, Cost] = {}
    for line in lines:
        commit = commits.get(str(line["experiment"]).rpartition("-")[2])
        if commit and line["stage"] in entries(commit):
            found[entries(commit)[line["stage"]]] = Cost(float(line["seconds"]), line.get("peak_memory_mb"))
    return found

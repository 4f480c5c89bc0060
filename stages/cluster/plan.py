"""What a distributed run does: which revision, which stages of which items, where clones and cache lie."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import DataError, UsageError
from stages.common.applied import applied_of, concept_of
from stages.common.layout import DATA, NONE, PARTS, PATHS, VIDEOS, item_keys, item_videos, read_part
from stages.common.printing import listed
from stages.common.programs import git
from stages.common.settings import WEIGHTS, load

if TYPE_CHECKING:
    from dvc.repo import Repo

PARAMS = Path("params.yaml")
#: Folder of a project for clones, a log per item and unfinished stores.
SHARED = Path(".dvc/tmp/cluster")


@dataclass(frozen=True)
class Chain:
    """One task: the last stages of one item, concept, or name under `applied`. DVC runs what they need, or restores it.

    Attributes:
        key: its key in videos.yaml.
        targets: for `dvc repro`, e.g. render@KEY and evaluate@KEY.
        stages: all that belong to the item, in the order of dvc.yaml.
        inputs: files and folders of the project that git does not bring into a clone, relative.
        after: keys of the chains that make what this one needs.
    """

    key: str
    targets: tuple[str, ...]
    stages: tuple[str, ...]
    inputs: tuple[str, ...]
    after: tuple[str, ...] = ()


@dataclass(frozen=True)
class Plan:
    """A distributed run.

    Attributes:
        project: folder of the repository whose results these become.
        revision: the commit that workers check out.
        cache: DVC's cache, shared by all.
        clones: folder for the workers' clones; may be a disk of each machine.
        targets: what the project itself asks for at the end; none = everything.
        chains: one per item.
    """

    project: Path
    revision: str
    cache: Path
    clones: Path
    targets: tuple[str, ...]
    chains: tuple[Chain, ...]

    @property
    def stages(self) -> list[str]:
        """Names of the stages of all items, in the order of dvc.yaml."""
        return list(dict.fromkeys(stage for chain in self.chains for stage in chain.stages))

    @property
    def logs(self) -> Path:
        """Folder for a log per item, and for what a batch system writes."""
        return self.project / SHARED / "logs"

    @property
    def scratch(self) -> Path:
        """Folder for unfinished stores, so that another worker can continue them."""
        return Path(os.environ.get("VIDSEG_SCRATCH") or self.project / SHARED / "scratch").absolute()


def make_plan(targets: Sequence[str], clones: Path | None = None) -> Plan:
    """The plan for stages, items' stages (`extract@KEY`) or, without targets, everything that dvc.yaml lists.

    Raises:
        UsageError: no project, no commit, changes that git does not have, unsafe keys, a dvc.yaml that DVC refuses,
            unknown targets, missing inputs.
    """
    project = Path.cwd().resolve()
    if not (project / "dvc.yaml").is_file() or not (project / ".dvc").is_dir():
        raise UsageError(f"{project}: no dvc.yaml and .dvc here; run in the project's folder")
    revision = _revision(project)
    item_keys()  # they become names of files
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    repo = Repo(str(project))
    try:
        _refuse_changes(_written_by_dvc(repo))
        chains = _chains(repo, targets)
    except DvcException as error:
        raise UsageError(f"dvc.yaml: {' '.join(str(error).split())}") from error
    if not chains:
        raise UsageError(f"{' '.join(targets) or 'dvc.yaml'}: no stage of an item; `dvc repro` alone does this")
    clones = project / SHARED / "clones" if clones is None else clones.absolute()
    return Plan(project, revision, Path(repo.cache.local_cache_dir).resolve(), clones, tuple(targets), chains)


def in_project(path: str, project: Path) -> str | None:
    """The path relative to the project, as DVC names it; None where it lies outside."""
    if not Path(path).is_absolute():
        return path
    return str(Path(path).relative_to(project)) if Path(path).is_relative_to(project) else None


def _revision(project: Path) -> str:
    try:
        top, revision = git("rev-parse", "--show-toplevel", "HEAD").split("\n")[:2]
    except (DataError, FileNotFoundError) as error:
        raise UsageError(
            "workers clone the project: it needs git and one commit (git init, git add, commit)"
        ) from error
    if Path(top).resolve() != project:
        raise UsageError(f"{project}: lies inside the repository {top}; the project must be a repository of its own")
    return revision


def _written_by_dvc(repo: Repo) -> set[str]:
    """Files that `dvc repro` itself writes into the tree: dvc.lock, metrics, plots."""
    outs = {str(out) for stage in repo.index.stages for out in stage.outs if not out.use_cache}
    return {"dvc.lock", *outs}


def _refuse_changes(expected: set[str]) -> None:
    entries = iter(git("status", "--porcelain", "-z", "--untracked-files=all").split("\0"))
    changed = []
    for entry in entries:
        if entry[:1] in ("R", "C"):
            next(entries)  # where it came from
        if entry and entry[3:] not in expected:
            changed.append(entry[3:])
    if changed:
        raise UsageError(
            f"uncommitted changes: {listed(changed)}; workers see only what is committed: "
            "commit, stash or ignore them first"
        )


def _chains(repo: Repo, targets: Sequence[str]) -> tuple[Chain, ...]:
    """The items' stages that the targets need, those of an item together."""
    import networkx

    graph = networkx.DiGraph(
        (stage.addressing, needed.addressing) for stage, needed in repo.index.graph.edges
    )  # from each stage to those it needs
    order = [stage.addressing for stage in repo.index.stages]
    graph.add_nodes_from(order)
    chosen = {name for target in targets for name in _named(repo, target)} or set(order)
    wanted = chosen.union(*(networkx.descendants(graph, name) for name in chosen))
    by_item: dict[str, list[str]] = {}
    for name in order:
        if name in wanted and "@" in name:
            by_item.setdefault(name.partition("@")[2], []).append(name)
    settings = load(PARAMS if PARAMS.is_file() else None).flat()
    # What is no path is the name of weights that workers have.
    weights = [path for path in (settings[name] for name in WEIGHTS) if path is not None and Path(path).exists()]
    chains = []
    for key, names in by_item.items():
        last = tuple(name for name in names if not set(names).intersection(graph.predecessors(name)))
        needed = (other.partition("@")[2] for name in names for other in graph.successors(name))
        after = tuple(dict.fromkeys(other for other in needed if other not in ("", key)))
        stages = tuple(name.partition("@")[0] for name in names)
        chains.append(Chain(key, last, stages, _inputs([key, *after], weights), after))
    return tuple(sorted(chains, key=lambda chain: bool(chain.after)))


def _named(repo: Repo, target: str) -> list[str]:
    """The stages that a target of `dvc repro` stands for."""
    from dvc.exceptions import DvcException

    try:
        return [stage.addressing for stage in repo.stage.collect(target)]
    except DvcException as error:
        raise UsageError(f"{target}: {' '.join(str(error).split())}; give stages of dvc.yaml, or STAGE@ITEM") from error


def _inputs(keys: Sequence[str], weights: Sequence[str]) -> tuple[str, ...]:
    """Files of the project that the stages of these items and concepts read, beside what the pipeline makes."""
    from pipeline.datasets.index import index_of

    project = Path.cwd().resolve()
    items, concepts, applied = (read_part(part) for part in PARTS)
    texts = [
        (f"{VIDEOS}: {name} of item '{key}'", video.get(name))
        for key in keys
        if key in items
        for video in item_videos(key)
        for name in PATHS
    ]
    texts += [
        (f"{VIDEOS}: {name} of concept '{key}'", entry.get(name))
        for key in keys
        if key in concepts
        for entry in [concept_of(key)[1].paths]
        for name in entry
    ]
    texts += [(f"{VIDEOS}: names of applied '{key}'", applied_of(key).names) for key in keys if key in applied]
    found = []
    for what, text in texts:
        path = str(text or NONE).partition("#")[0]
        inside = in_project(path, project)
        if inside == NONE or (inside is not None and Path(inside).parts[:1] == DATA.parts):
            continue
        if not Path(path).exists():
            raise UsageError(f"{what}: no such file or folder: {path}")
        found.append(inside)
    # What DVC watches of an item whose files it does not look at.
    listings = [index_of(Path(video["path"])) for key in keys if key in items for video in item_videos(key)]
    found += [in_project(str(path), project) for path in listings if path is not None]
    found += [in_project(path, project) for path in weights]
    return tuple(dict.fromkeys(path for path in found if path is not None))


def succeeded(plan: Plan, failed: Iterable[str]) -> list[str]:
    """What the project may restore when some items have failed: the chains of the others."""
    bad = set(failed)
    return [target for chain in plan.chains if chain.key not in bad for target in chain.targets]


def relative_names(videos: Any, project: Path) -> Any:
    """The content of videos.yaml with all its paths as DVC names them within the project."""

    def relative(entry: Any, paths: Collection[str]) -> Any:
        return {n: (in_project(value, project) or value) if n in paths else value for n, value in entry.items()}

    items = {key: [relative(entry, PATHS) for entry in entries] for key, entries in videos["items"].items()}
    concepts = {key: relative(entry, entry) for key, entry in videos["concepts"].items()}
    applied = {key: relative(entry, ("names",)) for key, entry in videos["applied"].items()}
    return {**videos, "items": items, "concepts": concepts, "applied": applied}

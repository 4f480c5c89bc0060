"""A table's experiments, run and read, and its files."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from pipeline.errors import DataError
from pipeline.files import replacing
from pipeline.scoring.files import video_name, write_csv, write_json
from pipeline.tables.pages import page
from pipeline.tables.quoted import Quoted
from pipeline.tables.table import ALL, Row, Table, class_rows, difference_rows, plot, score_rows
from stages.common import cli
from stages.common.backbones import LOCK, choose_device
from stages.common.programs import git
from stages.common.settings import Settings, load
from stages.tables import experiments
from stages.tables.experiments import PARAMS, Cost, Experiment, Result
from stages.tables.items import Selection, paper_names, select
from stages.tables.rows import RowSpec

SECONDS = "seconds.jsonl"


@dataclass(frozen=True)
class Plan:
    """What a table is going to run.

    Attributes:
        specs: its measured rows, in order.
        experiments: what each row asks for, by the row's key.
        items: over which they run.
        changed: files with uncommitted changes.
        notes: what holds for all rows, in words; None = what `vidseg table` says of VidSeg's own rows.
        read: row and experiment -> its result; None = `experiments.read`.
    """

    specs: tuple[RowSpec, ...]
    experiments: Mapping[str, Experiment]
    items: Selection
    changed: tuple[str, ...]
    notes: tuple[str, ...] | None = None
    read: Callable[[str, Experiment, Mapping[str, Cost]], Result] | None = None

    def only(self, key: str) -> Plan:
        """The plan of one row."""
        return replace(self, specs=tuple(spec for spec in self.specs if spec.key == key))


@dataclass(frozen=True)
class Run:
    """What the experiments of a table gave.

    Attributes:
        rows: measured, in order.
        finished: row key -> experiment and result.
        datasets: video -> data set.
        papers: data set -> what the paper calls it, where that is known.
        windows: n of VC_n.
        notes: how it was made, in words.
        about: how the table was made, for the JSON file.
    """

    rows: tuple[Row, ...]
    finished: Mapping[str, tuple[Experiment, Result]]
    datasets: Mapping[str, str]
    papers: Mapping[str, str]
    windows: tuple[int, ...]
    notes: tuple[str, ...]
    about: Mapping[str, Any]

    def by_dataset(self, figures: Mapping[str, Quoted]) -> dict[str, Quoted]:
        """What the paper reports, by data set of this table."""
        return _by_dataset(figures, self.papers)

    def items_without_first_truth(self, key: str) -> list[str]:
        """Items of a row in which a video's first frame has no ground truth: nothing to propagate."""
        _, result = self.finished[key]
        return [
            item
            for item, record in result.records.items()
            if not all(video["ground_truth"] and video["per_frame"]["frame"][0] == 0 for video in record["videos"])
        ]


def plan(specs: tuple[RowSpec, ...], datasets: str | None) -> Plan:
    """Check the project and describe the rows' experiments.

    Args:
        datasets: registrations separated by commas; None = all.

    Raises:
        UsageError: the project cannot run experiments, or there are no such registrations.
        DataError: no video has ground truth.
    """
    changed = checked_project()
    items = select(datasets)
    planned = {spec.key: experiments.describe(spec.key, spec.sets, items.keys) for spec in specs}
    return Plan(specs, planned, items, changed)


def checked_project() -> tuple[str, ...]:
    """The files with uncommitted changes, which are told; raises as `experiments.check_project`."""
    changed = experiments.check_project()
    if changed:
        cli.warn(f"uncommitted changes are part of these experiments: {', '.join(changed[:5])}")
    return tuple(changed)


def run(plan: Plan, out: Path, jobs: int) -> Run:
    """Run the experiments that have not been run yet, and read all of them.

    Args:
        out: folder of the tables; gets the seconds of stages.
        jobs: experiments at a time.

    Raises:
        DataError: an experiment failed, or no frame has ground truth.
    """
    out.mkdir(parents=True, exist_ok=True)
    planned = {spec.key: plan.experiments[spec.key] for spec in plan.specs}
    experiments.run(list(planned.values()), jobs, out / SECONDS)
    costs = experiments.stage_costs(out / SECONDS)
    read = plan.read or (lambda _, experiment, costs: experiments.read(experiment, costs))
    finished = {key: (experiment, read(key, experiment, costs)) for key, experiment in planned.items()}
    papers = paper_names(plan.items.datasets.values())
    rows = tuple(
        Row(
            spec.key,
            spec.cells,
            scored_videos(result.records),
            _seconds(result),
            _memory(result),
            _by_dataset(spec.quoted, papers),
        )
        for spec in plan.specs
        for _, result in [finished[spec.key]]
    )
    if not rows[0].videos:
        raise DataError("no frame of any video has ground truth: nothing was scored")
    first = finished[rows[0].key][1]
    notes, about = _describe([result for _, result in finished.values()], plan)
    return Run(
        rows,
        finished,
        datasets={name: plan.items.datasets[name.partition("/")[0]] for name in rows[0].videos},
        papers=papers,
        windows=tuple(next(iter(first.records.values()))["windows"]),
        notes=notes,
        about=about,
    )


def _by_dataset(figures: Mapping[str, Quoted], papers: Mapping[str, str]) -> dict[str, Quoted]:
    known = {dataset: figures[paper] for dataset, paper in papers.items() if paper in figures}
    return {**known, **({ALL: figures[ALL]} if ALL in figures else {})}


def scored_videos(records: Mapping[str, Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """Scored videos by name."""
    return {
        video_name(item, record, video): video
        for item, record in records.items()
        for video in record["videos"]
        if video["ground_truth"]
    }


def _seconds(result: Result) -> dict[str, float]:
    """Seconds by video: an item's, shared out by frames."""
    return {
        video_name(item, record, video): result.seconds[item] * video["frames"] / total
        for item, record in result.records.items()
        if item in result.seconds
        for total in [sum(video["frames"] for video in record["videos"])]
        for video in record["videos"]
    }


def _memory(result: Result) -> dict[str, float]:
    """MB by video: an item's."""
    return {
        video_name(item, record, video): result.memory[item]
        for item, record in result.records.items()
        if item in result.memory
        for video in record["videos"]
    }


def _describe(results: Sequence[Result], plan: Plan) -> tuple[tuple[str, ...], dict[str, Any]]:
    """How the experiments were made: for people, and for the JSON file."""
    settings = load(PARAMS)
    records = [record for result in results for record in result.records.values()]
    oracle = any(record["oracle_assignment"] for record in records)
    about: dict[str, Any] = {
        "command": shlex.join(["vidseg", *sys.argv[1:]]),
        "commit": git("rev-parse", "HEAD").strip(),
        "items": list(plan.items.keys),
        "uncommitted": list(plan.changed),
        "created_by": f"vidseg {metadata.version('vidseg')}",
        "device": str(choose_device()),
        "params": settings.as_dict(),
        "weights": LOCK.read_text(),
    }
    modified = f" with changes to {', '.join(plan.changed)}" if plan.changed else ""
    made = f"`{about['command']}`, commit {about['commit'][:10]}{modified}, {about['created_by']}"
    if plan.notes is not None:
        return (made, *plan.notes, *plan.items.notes), about
    notes = (
        made,
        f"backbone {settings['backbone'].name}; ingest.size {settings['ingest'].size}, ingest.frames "
        f"{settings['ingest'].frames or 'all'}, K = {settings['segment'].clusters}; seeds: noise "
        f"{settings['diffusion'].seed}, K-Means {settings['segment'].seed}",
        f"protocol {records[0]['protocol']}, assignment of clusters {assignment_note(records)}"
        + (" (oracle: some clips are scored on the frame that assigns them)" if oracle else ""),
        *_labels_seen(settings),
        f"s/frame: wall time of extract to upsample on {about['device']}, loading of weights included; peak MB: the "
        "most main memory that one of them held",
        *plan.items.notes,
    )
    return notes, about


def assignment_note(records: Sequence[Mapping[str, Any]]) -> str:
    """The rules that were used; rows that begin with classes need none, beside others that do."""
    rules = {video["assigned"]["rule"] for record in records for video in _scored(record)}
    if rules == {"none"}:
        return "none"
    return ", ".join(sorted(rules - {"none"})) + (" (none where labels are classes)" if "none" in rules else "")


def _labels_seen(settings: Settings) -> tuple[str, ...]:
    """Says so where the segmentation itself looks at labels, which the method does not."""
    given, usual = settings.flat(), {"segment.init": "kmeans", "segment.parity.label_merge": "none"}
    seen = [f"{name} {given[name]}" for name, value in usual.items() if given[name] != value]
    return (f"{', '.join(seen)}: the segmentation saw labels of the first frame",) if seen else ()


def _scored(record: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [video for video in record["videos"] if video["ground_truth"]]


def write(table: Table, run: Run, out: Path) -> None:
    """Write the table as Markdown, CSV, chart and JSON, and print it."""
    text = page(table)
    files = {"": score_rows(table), "_classes": class_rows(table), "_differences": difference_rows(table)}
    for suffix, rows in files.items():
        if rows:
            write_csv(out / f"{table.name}{suffix}.csv", list(rows[0]), rows)
    write_json(out / f"{table.name}.vl.json", plot(table))
    write_json(out / f"{table.name}.json", record(table, run))
    with replacing(out / f"{table.name}.md") as temporary:
        temporary.write_text(text)
    print(text, end="")
    cli.note(f"{out / table.name}.md, .csv, _classes.csv, _differences.csv, .json and .vl.json written")


def record(table: Table, run: Run) -> dict[str, Any]:
    """How a table was made, and its rows with all that was counted, for a JSON file."""
    return {**run.about, "rows": [_row_record(row, run) for row in table.rows]}


def _row_record(row: Row, run: Run) -> dict[str, Any]:
    """A row with the counts of each video, from which its scores and intervals can be made again."""
    experiment, result = run.finished.get(row.key, (None, None))
    return {
        "row": row.key,
        "sets": list(experiment.sets) if experiment else None,
        "experiment": experiment.full_name if experiment else None,
        "revision": result.revision if result else None,
        "seconds": dict(row.seconds),
        "peak_memory_mb": dict(row.memory),
        "videos": {
            name: {"dataset": run.datasets[name], **{key: value for key, value in video.items() if key != "per_frame"}}
            for name, video in row.videos.items()
        },
    }

"""The paper's tables over the registered videos, each row a DVC experiment."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline.errors import DataError, UsageError
from stages import cli

if TYPE_CHECKING:
    from pipeline.tables import Row, Table
    from stages.experiments import Experiment, Result
    from stages.table_rows import RowSpec

SECONDS = "seconds.jsonl"
#: On a page, words by hand end here.
PAGE_MARK = "<!-- tables: written by `vidseg table page` -->"

app = cli.new_app("The paper's tables over the registered videos, as DVC experiments.")

OutOption = Annotated[Path, typer.Option(help="folder for the tables; also remembers the seconds of finished stages")]
RowsOption = Annotated[
    str | None, typer.Option(help="only these rows, by key, separated by commas; `--dry-run` shows the keys")
]
JobsOption = Annotated[int, typer.Option(min=1, help="experiments at a time")]
DryOption = Annotated[bool, typer.Option("--dry-run", help="print the commands that would queue the rows, and stop")]
OUT = Path("data/tables")


@app.callback()
def group() -> None:
    """The paper's tables over the registered videos, as DVC experiments.

    An interrupted table continues: rows with the same commit, parameters and videos are not run again.
    """


@app.command("1")
def methods(out: OutOption = OUT, rows: RowsOption = None, jobs: JobsOption = 1, dry_run: DryOption = False) -> None:
    """Methods by data set: mIoU, mVC_n and IoU by class of the configured method and of the baselines.

    Example: vidseg table 1
    """
    from itertools import combinations

    from pipeline.quoted import METHODS
    from pipeline.tables import Pair, Table
    from stages.table_rows import method_rows

    chosen = _choose(method_rows(), rows)
    run = _run(chosen, out, jobs, dry_run)
    if run is None:
        return
    beside = ("Ours (SD)", "EmerDiff (SD)")
    table = Table(
        name="table1",
        title="Table 1: methods",
        notes=(
            *run.notes,
            "`ours` is params.yaml; the baselines are the presets `coarse` (bilinear), `joint_bilateral` and "
            "`emerdiff` on top of it.",
            "Quoted figures are the paper's Table 1, over whole validation sets, beside `ours` and EmerDiff those of "
            "Stable Diffusion 2.1; nothing here measured them.",
        ),
        heads=("method",),
        rows=run.rows,
        pairs=tuple(Pair(f"{a.cells[0]} → {b.cells[0]}", a.key, b.key) for a, b in combinations(chosen, 2)),
        datasets=run.datasets,
        windows=run.windows,
        pooled=False,
        per_class=True,
        quoted_only={title: figures for title, figures in METHODS.items() if title not in beside},
    )
    _write(table, run, out)


@app.command("2")
def ablation(out: OutOption = OUT, rows: RowsOption = None, jobs: JobsOption = 1, dry_run: DryOption = False) -> None:
    """The eight rows of the ablation, and whether each difference has the paper's sign.

    Example: vidseg table 2 --jobs 1
    """
    from pipeline.tables import Table
    from stages.experiments import PARAMS
    from stages.settings import load
    from stages.table_rows import UNMASKED_STRENGTH, ablation_pairs, ablation_rows

    settings = load(PARAMS)
    chosen = _choose(ablation_rows(settings), rows)
    run = _run(chosen, out, jobs, dry_run)
    if run is None:
        return
    table = Table(
        name="table2",
        title="Table 2: ablation",
        notes=(
            *run.notes,
            f"With masked modulation lambda is {settings['upsample'].strength:g} (upsample.strength; the paper: 50), "
            f"blended; without it lambda is {UNMASKED_STRENGTH:g}, unblended. CBR is the vote along "
            f"trajectories and the filter s = {settings['upsample'].filter:g}; without it there is neither.",
            "Quoted figures are the paper's Table 2, Stable Diffusion 2.1 on the first 30 videos of VSPW val; "
            "nothing here measured them. `unclear`: the interval holds zero.",
        ),
        heads=("B", "masked modulation", "feature aggregation", "CBR"),
        rows=run.rows,
        pairs=ablation_pairs(chosen),
        datasets=run.datasets,
        windows=run.windows,
        pooled=True,
    )
    _write(table, run, out)


@app.command("errors")
def errors(out: OutOption = OUT, jobs: JobsOption = 1, dry_run: DryOption = False) -> None:
    """Where the points are lost: token grid, upsampler, propagation, clustering.

    Example: vidseg table errors
    """
    from pipeline.tables import Row, Table, perfect
    from stages import oracle
    from stages.experiments import PARAMS
    from stages.settings import load
    from stages.table_rows import ERROR_PAIRS, propagation_rows

    chosen = propagation_rows()
    run = _run(chosen, out, jobs, dry_run)
    if run is None:
        return
    experiment, result = run.finished["full"]
    settings = load(PARAMS, experiment.sets)
    oracles = oracle.run(result.revision, settings, out / "oracle" / experiment.mark)
    full = next(row for row in run.rows if row.key == "full")
    table = Table(
        name="errors",
        title="Where the points are lost",
        notes=(
            *run.notes,
            "Coarse truth is the ground truth on the token grid, so its rows measure the upsampler alone. "
            "Propagation starts from the first frame's ground truth and sees no other.",
        ),
        heads=("coarse map", "upsampler"),
        rows=(
            Row(
                "truth", ("the ground truth itself", ""), {name: perfect(video) for name, video in full.videos.items()}
            ),
            *(
                Row(f"oracle_{method}", ("coarse truth", method.replace("_", " ")), _videos(records))
                for method, records in oracles.items()
            ),
            *run.rows,
        ),
        pairs=ERROR_PAIRS,
        datasets=run.datasets,
        windows=run.windows,
        pooled=True,
    )
    _write(table, run, out)


@app.command()
def page(
    to: Annotated[Path, typer.Argument(help="Markdown file to write, e.g. docs/results.md")],
    out: OutOption = OUT,
) -> None:
    """Join the tables that were made into one page, after its line `<!-- tables: ... -->`; what precedes it stays.

    Example: vidseg table page docs/results.md
    """
    from pipeline.pictures import replacing

    tables = [out / f"{name}.md" for name in ("table1", "table2", "errors") if (out / f"{name}.md").is_file()]
    if not tables:
        raise DataError(f"{out}: no tables here; run `vidseg table 1`, `vidseg table 2` or `vidseg table errors` first")
    words, mark, _ = (to.read_text() if to.is_file() else f"# Results\n\n{PAGE_MARK}").partition(PAGE_MARK)
    if not mark:
        raise UsageError(f"{to}: has no line '{PAGE_MARK}'; what follows that line is replaced, what precedes it stays")
    with replacing(to) as temporary:
        temporary.write_text(f"{words}{PAGE_MARK}\n\n" + "\n".join(table.read_text() for table in tables))
    cli.note(f"{to}: {', '.join(table.stem for table in tables)}")


@dataclass(frozen=True)
class Run:
    """What the experiments of a table gave.

    Attributes:
        rows: measured, in order.
        finished: row key -> experiment and result.
        datasets: video -> data set.
        windows: n of VC_n.
        notes: how it was made, in words.
        about: the same for the JSON file.
    """

    rows: tuple[Row, ...]
    finished: Mapping[str, tuple[Experiment, Result]]
    datasets: Mapping[str, str]
    windows: tuple[int, ...]
    notes: tuple[str, ...]
    about: Mapping[str, Any]


def _choose(rows: tuple[RowSpec, ...], wanted: str | None) -> tuple[RowSpec, ...]:
    if wanted is None:
        return rows
    keys = [key.strip() for key in wanted.split(",")]
    known = [row.key for row in rows]
    if unknown := [key for key in keys if key not in known]:
        raise UsageError(f"--rows: no row '{unknown[0]}'; there are: {', '.join(known)}")
    return tuple(row for row in rows if row.key in keys)


def _run(specs: Sequence[RowSpec], out: Path, jobs: int, dry_run: bool) -> Run | None:
    """Run the rows' experiments; None after a dry run."""
    from pipeline.tables import Row
    from stages import experiments

    changed = experiments.check_project()
    planned = {spec.key: experiments.describe(spec.key, spec.sets) for spec in specs}
    if dry_run:
        for experiment in planned.values():
            print(shlex.join(experiment.queue_command()))
        return None
    if changed:
        cli.note(f"warning: uncommitted changes are part of these experiments: {', '.join(changed[:5])}")
    out.mkdir(parents=True, exist_ok=True)
    experiments.run(list(planned.values()), jobs, out / SECONDS)
    seconds = experiments.stage_seconds(out / SECONDS)
    finished = {key: (experiment, experiments.read(experiment, seconds)) for key, experiment in planned.items()}
    rows = tuple(
        Row(spec.key, spec.cells, _videos(result.records), _seconds(result), spec.quoted)
        for spec in specs
        for _, result in [finished[spec.key]]
    )
    if not rows[0].videos:
        raise DataError("no frame of any video has ground truth: nothing was scored")
    first = finished[rows[0].key][1]
    notes, about = _describe(first, changed)
    return Run(
        rows,
        finished,
        datasets={name: _data_set(name.partition("/")[0]) for name in rows[0].videos},
        windows=tuple(next(iter(first.records.values()))["windows"]),
        notes=notes,
        about=about,
    )


def _videos(records: Mapping[str, Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """Scored videos by name."""
    from pipeline.score_files import video_name

    return {
        video_name(item, record, video): video
        for item, record in records.items()
        for video in record["videos"]
        if video["ground_truth"]
    }


def _seconds(result: Result) -> dict[str, float]:
    """Seconds by video: an item's, shared out by frames."""
    from pipeline.score_files import video_name

    return {
        video_name(item, record, video): result.seconds[item] * video["frames"] / total
        for item, record in result.records.items()
        if item in result.seconds
        for total in [sum(video["frames"] for video in record["videos"])]
        for video in record["videos"]
    }


def _data_set(item: str) -> str:
    from stages.layout import item_videos

    return str(item_videos(item)[0].get("dataset") or "other")


def _describe(first: Result, changed: Sequence[str]) -> tuple[tuple[str, ...], dict[str, Any]]:
    """How the experiments were made: for people, and for the JSON file."""
    import sys
    from importlib import metadata

    from stages.backbones import LOCK, choose_device
    from stages.experiments import PARAMS, git
    from stages.settings import load

    settings = load(PARAMS)
    rules = next(iter(first.records.values()))
    assigned = sorted({video["assigned"]["rule"] for record in first.records.values() for video in _scored(record)})
    oracle = any(record["oracle_assignment"] for record in first.records.values())
    about: dict[str, Any] = {
        "command": shlex.join(["vidseg", *sys.argv[1:]]),
        "commit": git("rev-parse", "HEAD").strip(),
        "uncommitted": list(changed),
        "created_by": f"vidseg {metadata.version('vidseg')}",
        "device": str(choose_device()),
        "params": settings.as_dict(),
        "weights": LOCK.read_text(),
    }
    modified = f" with changes to {', '.join(changed)}" if changed else ""
    notes = (
        f"`{about['command']}`, commit {about['commit'][:10]}{modified}, {about['created_by']}",
        f"backbone {settings['backbone'].name}; ingest.size {settings['ingest'].size}, ingest.frames "
        f"{settings['ingest'].frames or 'all'}, K = {settings['segment'].clusters}; seeds: noise "
        f"{settings['diffusion'].seed}, K-Means {settings['segment'].seed}",
        f"protocol {rules['protocol']}, assignment of clusters {', '.join(assigned)}"
        + (" (oracle: some clips are scored on the frame that assigns them)" if oracle else ""),
        f"s/frame: wall time of extract to upsample on {about['device']}, start and loading of weights included",
    )
    return notes, about


def _scored(record: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [video for video in record["videos"] if video["ground_truth"]]


def _write(table: Table, run: Run, out: Path) -> None:
    """Write the table as Markdown, CSV, chart and JSON, and print it."""
    from pipeline.pictures import replacing
    from pipeline.score_files import write_csv, write_json
    from pipeline.table_pages import page
    from pipeline.tables import difference_rows, plot, score_rows

    text = page(table)
    for name, rows in ((table.name, score_rows(table)), (f"{table.name}_differences", difference_rows(table))):
        if rows:
            write_csv(out / f"{name}.csv", list(rows[0]), rows)
    write_json(out / f"{table.name}.vl.json", plot(table))
    write_json(out / f"{table.name}.json", {**run.about, "rows": [_row_record(row, run) for row in table.rows]})
    with replacing(out / f"{table.name}.md") as temporary:
        temporary.write_text(text)
    print(text, end="")
    cli.note(f"{out / table.name}.md, .csv, _differences.csv, .json and .vl.json written")


def _row_record(row: Row, run: Run) -> dict[str, Any]:
    """A row with the counts of each video, from which its scores and intervals can be made again."""
    experiment, result = run.finished.get(row.key, (None, None))
    return {
        "row": row.key,
        "sets": list(experiment.sets) if experiment else None,
        "experiment": experiment.full_name if experiment else None,
        "revision": result.revision if result else None,
        "seconds": dict(row.seconds),
        "videos": {
            name: {"dataset": run.datasets[name], **{key: value for key, value in video.items() if key != "per_frame"}}
            for name, video in row.videos.items()
        },
    }


if __name__ == "__main__":
    cli.run_app(app)

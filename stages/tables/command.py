"""The paper's tables over the registered videos, each row a DVC experiment."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.errors import DataError, UsageError
from stages.common import cli

if TYPE_CHECKING:
    from stages.common.settings import Settings
    from stages.tables.rows import RowSpec
    from stages.tables.run import Plan

#: On a page, words by hand end here.
PAGE_MARK = "<!-- tables: written by `vidseg table page` -->"

#: The tables that there are, as a page shows them.
MADE = ("table1", "table2", "errors", "smite", "smite_references")

app = cli.new_app("Make the paper's tables of the registered videos; each row is a DVC experiment.")

OutOption = Annotated[Path, typer.Option(help="folder for the tables; also remembers the seconds of finished stages")]
RowsOption = Annotated[
    str | None,
    typer.Option(help="keys of the rows to make, separated by commas (`--dry-run` shows them); default: all"),
]
DatasetsOption = Annotated[
    str | None,
    typer.Option(
        help="names of registered data sets, separated by commas; default: all, or every item of videos.yaml "
        "where there is none"
    ),
]
JobsOption = Annotated[int, typer.Option(min=1, help="experiments at a time")]
DryOption = Annotated[bool, typer.Option("--dry-run", help="print the commands that would queue the rows, and stop")]
OUT = Path("data/tables")


@app.callback()
def group() -> None:
    """Make the paper's tables of the registered videos; each row is a DVC experiment.

    An interrupted table continues: rows with the same commit, parameters and videos are not run again.
    """


@app.command("1")
def methods(
    out: OutOption = OUT,
    rows: RowsOption = None,
    datasets: DatasetsOption = None,
    jobs: JobsOption = 1,
    dry_run: DryOption = False,
) -> None:
    """Methods by data set: mIoU, mVC_n and IoU by class of the configured method and of the baselines.

    Example: vidseg table 1
    """
    from itertools import combinations

    from pipeline.tables.quoted import TABLE_1
    from pipeline.tables.table import Pair, Table
    from stages.tables import run as table_run
    from stages.tables.rows import method_rows, quoted_rows

    settings = _settings()
    plan = table_run.plan(_choose(method_rows(settings), rows), datasets)
    if dry_run:
        return _show(plan)
    run = table_run.run(plan, out, jobs)
    beside = quoted_rows(settings)
    table = Table(
        name="table1",
        title="Table 1: methods",
        notes=(
            *run.notes,
            "`ours` is params.yaml; the baselines are the presets `coarse` (bilinear), `joint_bilateral` and "
            "`emerdiff` on top of it.",
            "Quoted figures are the paper's Table 1, over whole validation sets, beside `ours` and EmerDiff those of "
            f"{' and '.join(beside)}; nothing here measured them. Class sets and clips are not the paper's: each "
            "heading says which were scored here, and for CamVid the authors name 32 classes in one place and 11 in "
            "another.",
        ),
        heads=("method",),
        rows=run.rows,
        pairs=tuple(Pair(f"{a.cells[0]} → {b.cells[0]}", a.key, b.key) for a, b in combinations(plan.specs, 2)),
        datasets=run.datasets,
        windows=run.windows,
        pooled=False,
        per_class=True,
        quoted_only={title: run.by_dataset(figures) for title, figures in TABLE_1.items() if title not in beside},
    )
    table_run.write(table, run, out)


@app.command("2")
def ablation(
    out: OutOption = OUT,
    rows: RowsOption = None,
    datasets: DatasetsOption = None,
    jobs: JobsOption = 1,
    dry_run: DryOption = False,
) -> None:
    """The eight rows of the ablation, and whether each difference has the paper's sign.

    Example: vidseg table 2 --jobs 1
    """
    from pipeline.tables.table import Table
    from stages.tables import run as table_run
    from stages.tables.rows import UNMASKED_STRENGTH, ablation_pairs, ablation_rows, quoted_rows

    settings = _settings()
    plan = table_run.plan(_choose(ablation_rows(settings), rows), datasets)
    if dry_run:
        return _show(plan)
    run = table_run.run(plan, out, jobs)
    table = Table(
        name="table2",
        title="Table 2: ablation",
        notes=(
            *run.notes,
            f"With masked modulation lambda is {settings['upsample'].strength:g} (upsample.strength; the paper: 50), "
            f"blended; without it lambda is {UNMASKED_STRENGTH:g}, unblended. CBR is the vote along "
            f"trajectories and the filter s = {settings['upsample'].filter:g}; without it there is neither.",
            f"Quoted figures are the paper's Table 2, {quoted_rows(settings)[0]}, on the first 30 videos of VSPW val; "
            "nothing here measured them. `unclear`: the interval holds zero.",
        ),
        heads=("B", "masked modulation", "feature aggregation", "CBR"),
        rows=run.rows,
        pairs=ablation_pairs(plan.specs),
        datasets=run.datasets,
        windows=run.windows,
        pooled=True,
    )
    table_run.write(table, run, out)


@app.command("errors")
def errors(
    out: OutOption = OUT, datasets: DatasetsOption = None, jobs: JobsOption = 1, dry_run: DryOption = False
) -> None:
    """Where the points are lost: token grid, upsampler, propagation, clustering.

    Propagation needs ground truth of the first frame; where a video lacks it, the rows about it are left out.

    Example: vidseg table errors
    """
    from pipeline.tables.table import Row, Table, perfect
    from stages.common.settings import load
    from stages.tables import oracle
    from stages.tables import run as table_run
    from stages.tables.experiments import PARAMS
    from stages.tables.rows import ERROR_PAIRS, propagation_rows

    plan = table_run.plan(propagation_rows(), datasets)
    if dry_run:
        return _show(plan)
    run = table_run.run(plan.only("full"), out, jobs)
    left_out: tuple[str, ...] = ()
    if bare := run.items_without_first_truth("full"):
        left_out = (f"propagation is left out: the first frame of {', '.join(bare)} has no ground truth",)
    else:
        run = table_run.run(plan, out, jobs)
    experiment, result = run.finished["full"]
    settings = load(PARAMS, experiment.sets)
    oracles = oracle.run(result.revision, plan.items.keys, settings, out / "oracle" / experiment.mark)
    full = next(row for row in run.rows if row.key == "full")
    rows = (
        Row("truth", ("the ground truth itself", ""), {name: perfect(video) for name, video in full.videos.items()}),
        *(
            Row(f"oracle_{method}", ("coarse truth", method.replace("_", " ")), table_run.scored_videos(records))
            for method, records in oracles.items()
        ),
        *run.rows,
    )
    table = Table(
        name="errors",
        title="Where the points are lost",
        notes=(
            *run.notes,
            *left_out,
            "Coarse truth is the ground truth on the token grid, void filled with the nearest class, so its rows "
            "measure the upsampler alone. Propagation starts from the first frame's ground truth and sees no other.",
        ),
        heads=("coarse map", "upsampler"),
        rows=rows,
        pairs=tuple(pair for pair in ERROR_PAIRS if {pair.base, pair.other} <= {row.key for row in rows}),
        datasets=run.datasets,
        windows=run.windows,
        pooled=True,
    )
    table_run.write(table, run, out)


@app.command("smite")
def smite(
    out: OutOption = OUT,
    rows: RowsOption = None,
    datasets: DatasetsOption = None,
    jobs: JobsOption = 1,
    dry_run: DryOption = False,
) -> None:
    """SMITE's ladder over all that is applied in videos.yaml, and its table by number of references.

    Concepts whose keys end in their number of references (cars-1, cars-5, cars-10) make the second table.

    Example: vidseg table smite --rows knn,baseline1,smite
    """
    from pipeline.tables.table import ALL, Table
    from stages.tables import run as table_run
    from stages.tables import smite as plans

    settings = _settings()
    made = plans.smite_tables(_choose(plans.all_rows(datasets, settings), rows), datasets, settings, out)
    if dry_run:
        for each in made:
            _show(each.plan)
        return
    plans.check_frames(datasets)
    for place, each in enumerate(made):
        if place:
            print()
        run = table_run.run(each.plan, out, jobs)
        here = {row.key for row in run.rows}
        table = Table(
            name=each.name,
            title=each.title,
            notes=(
                *run.notes,
                f"Quoted figures are those of SMITE's {each.quoted}, of Stable Diffusion 2.1; nothing here measured "
                "them. `unclear`: the interval holds zero.",
            ),
            heads=(each.head,),
            rows=run.rows,
            pairs=tuple(pair for pair in each.pairs if {pair.base, pair.other} <= here),
            datasets=run.datasets,
            windows=run.windows,
            pooled=True,
            more=plans.SCORES,
            quoted=("miou", "j_mean", "f_mean"),
            quoted_only={title: {ALL: figures} for title, figures in each.beside.items()},
        )
        table_run.write(table, run, out)


@app.command()
def page(
    to: Annotated[Path, typer.Argument(help="Markdown file to write, e.g. docs/reference/results.md")],
    out: OutOption = OUT,
) -> None:
    """Join the tables that were made into one page, after its line `<!-- tables: ... -->`; what precedes it stays.

    Example: vidseg table page docs/reference/results.md
    """
    from pipeline.files import replacing

    tables = [path for path in (out / f"{name}.md" for name in MADE) if path.is_file()]
    if not tables:
        raise DataError(f"{out}: no tables here; run `vidseg table 1`, `2`, `errors` or `smite` first")
    words, mark, _ = (to.read_text() if to.is_file() else f"# Results\n\n{PAGE_MARK}").partition(PAGE_MARK)
    if not mark:
        raise UsageError(f"{to}: has no line '{PAGE_MARK}'; what follows that line is replaced, what precedes it stays")
    with replacing(to) as temporary:
        temporary.write_text(f"{words}{PAGE_MARK}\n\n" + "\n".join(table.read_text() for table in tables))
    cli.note(f"{to}: {', '.join(table.stem for table in tables)}")


def _settings() -> Settings:
    """The project's own parameters: tables take no others."""
    from stages.common.settings import load
    from stages.tables.experiments import PARAMS

    if not PARAMS.is_file():
        raise UsageError(f"{PARAMS}: no such file; run in the project's folder, where dvc.yaml is")
    return load(PARAMS)


def _choose(rows: tuple[RowSpec, ...], wanted: str | None) -> tuple[RowSpec, ...]:
    if wanted is None:
        return rows
    keys = [key.strip() for key in wanted.split(",")]
    known = [row.key for row in rows]
    if unknown := [key for key in keys if key not in known]:
        raise UsageError(f"--rows: no row '{unknown[0]}'; there are: {', '.join(known)}")
    return tuple(row for row in rows if row.key in keys)


def _show(plan: Plan) -> None:
    for experiment in plan.experiments.values():
        print(shlex.join(experiment.queue_command()))


if __name__ == "__main__":
    cli.run_app(app)

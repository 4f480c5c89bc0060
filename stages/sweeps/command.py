"""`vidseg sweep`: settings side by side over registered videos, each a DVC experiment over cached features."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.errors import UsageError
from stages.common import cli

if TYPE_CHECKING:
    import numpy as np

    from pipeline.tables.sweep import Sweep
    from stages.sweeps.grid import Grid
    from stages.tables.run import Plan, Run


def plan(grid: Grid, items: Sequence[str], metric: str) -> Plan:
    """Check the project and describe the settings' experiments.

    Args:
        items: keys of videos.yaml; none = all that have ground truth.

    Raises:
        UsageError: the project cannot run experiments, an unknown item, or a score that there is not.
        DataError: an item without ground truth.
    """
    from stages.common.settings import load
    from stages.tables import experiments
    from stages.tables import run as table_run
    from stages.tables.items import select_items

    settings = load(experiments.PARAMS, grid.sets)
    known = ["miou", *(f"vc{n}" for n in settings["evaluate"].windows)]
    if metric not in known:
        raise UsageError(f"--metric: no score '{metric}'; there are: {', '.join(known)} (evaluate.windows)")
    changed = table_run.checked_project()
    chosen, specs = select_items(items), grid.rows
    planned = {
        spec.key: experiments.describe(re.sub(r"[^A-Za-z0-9]+", "_", spec.key), spec.sets, chosen.keys)
        for spec in specs
    }
    ingest, evaluate = settings["ingest"], settings["evaluate"]
    fixed = f"; for all settings: {', '.join(grid.sets)}" if grid.sets else ""
    notes = (
        f"backbone {settings['backbone'].name}; ingest.size {ingest.size}, ingest.frames {ingest.frames or 'all'}; "
        f"upsample.method {settings['upsample'].method}; seeds: noise {settings['diffusion'].seed}, K-Means "
        f"{settings['segment'].seed}{fixed}",
        f"protocol {evaluate.protocol}, assignment of clusters {evaluate.assignment}",
    )
    return table_run.Plan(specs, planned, chosen, changed, notes)


def make(grid: Grid, plan: Plan, metric: str, run: Run) -> Sweep:
    """The settings' scores as a sweep."""
    from pipeline.tables.sweep import Sweep
    from pipeline.tables.table import Table

    timed = any(row.seconds for row in run.rows)
    note = ("s/frame: wall time of extract to upsample, loading of weights included",) if timed else ()
    table = Table(
        name="-".join(grid.names),
        title=f"Sweep: {', '.join(grid.names)}",
        notes=(*run.notes, *note),
        heads=grid.names,
        rows=run.rows,
        pairs=(),
        datasets=run.datasets,
        windows=run.windows,
        pooled=True,
    )
    return Sweep(table, metric, grid.configured())


def write(sweep: Sweep, run: Run, out: Path) -> None:
    """Write the sweep as Markdown, CSV, JSON, Vega-Lite chart and picture, and print it."""
    from pipeline.files import replacing
    from pipeline.media.pictures import write_image
    from pipeline.scoring.files import write_csv, write_json
    from pipeline.tables.sweep import chart, page, setting_rows
    from stages.tables.run import record

    name, text, rows = sweep.table.name, page(sweep), setting_rows(sweep)
    write_csv(out / f"{name}.csv", list(rows[0]), rows)
    write_json(out / f"{name}.json", record(sweep.table, run))
    write_json(out / f"{name}.vl.json", chart(sweep))
    write_image(out / f"{name}.png", picture(sweep))
    with replacing(out / f"{name}.md") as temporary:
        temporary.write_text(text)
    print(text, end="")
    cli.note(f"{out / name}.md, .csv, .json, .vl.json and .png written")


def picture(sweep: Sweep) -> np.ndarray:
    """The chart as u8 (H, W, 3): a line for one parameter, a heat map for two; further ones make several of these."""
    import numpy as np

    from pipeline.rendering.charts import Axis, heat_map, line
    from pipeline.rendering.sheets import Panel, montage
    from pipeline.tables.sweep import BEST, WITHIN_NOISE, panel_title

    rows, heads = sweep.table.rows, sweep.table.heads
    percent = {row.key: 100 * (np.nan if (score := sweep.scores[row.key]) is None else score) for row in rows}
    axes = [Axis(head, list(dict.fromkeys(row.cells[place] for row in rows))) for place, head in enumerate(heads)]
    if len(heads) == 1:
        ends = [behind.interval if (behind := sweep.behind.get(row.key)) else None for row in rows]
        intervals = np.array([(np.nan, np.nan) if end is None else end for end in ends])
        scores = np.array([percent[row.key] for row in rows])
        around = percent[sweep.best.key] + 100 * intervals
        return line(scores, around, axes[0], f"{sweep.heading} in %", np.array([row is sweep.best for row in rows]))
    shape = len(axes[1].values), len(axes[0].values)
    limits = float(np.nanmin(list(percent.values()))), float(np.nanmax(list(percent.values())))
    panels = []
    for title in dict.fromkeys(panel_title(heads, row.cells) for row in rows):
        scores, best, near = np.full(shape, np.nan), np.zeros(shape, bool), np.zeros(shape, bool)
        for row in rows:
            if panel_title(heads, row.cells) == title:
                place = axes[1].values.index(row.cells[1]), axes[0].values.index(row.cells[0])
                standing = sweep.standing(row)
                scores[place], best[place], near[place] = percent[row.key], standing == BEST, standing == WITHIN_NOISE
        panels.append([Panel(heat_map(scores, axes[1], axes[0], best, near, limits), title)])
    return montage(panels)


def apply(sweep: Sweep) -> None:
    """Write the values of the best setting into params.yaml; comments and other values stay."""
    from pipeline.tables.sweep import WITHIN_NOISE
    from stages.common import yaml_files
    from stages.common.settings import load
    from stages.tables.experiments import PARAMS

    texts = [f"{name}={cell}" for name, cell in zip(sweep.table.heads, sweep.best.cells, strict=True)]
    best = load(PARAMS, texts).flat()
    if sweep.best.key == sweep.configured:
        cli.note(f"{PARAMS} has the best setting already: {', '.join(texts)}")
        return
    content = yaml_files.read(PARAMS, "run in the project's folder")
    yaml_files.put(content, {name: best[name] for name in sweep.table.heads})
    yaml_files.write(PARAMS, content)
    cli.note(f"{PARAMS}: {', '.join(texts)}")
    now = next((row for row in sweep.table.rows if row.key == sweep.configured), None)
    if now is not None and sweep.standing(now) == WITHIN_NOISE:
        cli.note(f"what it had ({', '.join(now.cells)}) is within noise of that")


def main(
    items: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[ITEM]...",
            help="keys of videos.yaml; default: what `vidseg table` takes, where it has ground truth",
            show_default=False,
        ),
    ] = None,
    over: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SECTION.KEY=VALUE,VALUE,...",
            help="a parameter and its values, as DVC reads grids: 4,8,12 or range(4,21,4) or [6,7,8],[7]. Repeatable: "
            "all combinations",
        ),
    ] = None,
    metric: Annotated[str, typer.Option(help="score that ranks: miou, or vc8 (n of evaluate.windows)")] = "miou",
    set_: Annotated[
        list[str] | None,
        cli.set_option("Value of one parameter for all settings; wins over params.yaml. Repeatable."),
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, help="experiments at a time, after the first")] = 1,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="print the commands that would queue the settings, and stop")
    ] = False,
    apply_: Annotated[
        bool, typer.Option("--apply", help="write the best setting into params.yaml; what --set says stays out")
    ] = False,
    out: Annotated[
        Path, typer.Option(help="folder for table and charts; also remembers the seconds of finished stages")
    ] = Path("data/sweeps"),
) -> None:
    """Score the combinations of some parameters' values, each a DVC experiment, and tell the best and what equals it.

    Only what differs runs. An interrupted sweep continues: the same command reads what is done.

    Example: vidseg sweep --over segment.clusters=8,12,20 --over segment.neighbors=1,4 --set upsample.method=bilinear
    """
    from stages.sweeps import grid as grids
    from stages.tables import run as table_run
    from stages.tables.experiments import PARAMS

    if not PARAMS.is_file():
        raise UsageError(f"{PARAMS}: no such file; run in the project's folder, where dvc.yaml is")
    if not over:
        raise UsageError("--over: say what to vary, e.g. --over segment.clusters=8,12,20")
    grid = grids.parse(over, set_ or ())
    planned = plan(grid, items or (), metric)
    if dry_run:
        for experiment in planned.experiments.values():
            print(shlex.join(experiment.queue_command()))
        return
    run = table_run.run(planned, out, jobs)
    sweep = make(grid, planned, metric, run)
    write(sweep, run, out)
    if apply_:
        apply(sweep)


if __name__ == "__main__":
    app = cli.new_app("Settings side by side.")
    app.command()(main)
    cli.run_app(app)

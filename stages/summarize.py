"""scores.json of all items, of one project or several -> metrics.json (about ten numbers) and plots/."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline.errors import UsageError
from stages.common import cli
from stages.common.applied import applied_keys
from stages.common.layout import DATA, VIDEOS, item_keys
from stages.common.printing import text_table

if TYPE_CHECKING:
    from pipeline.scoring.files import Summary


def run(scores_dir: Path, out: Path, items: Path | None = None) -> Path:
    """Summarise items below a folder; returns the path of metrics.json, plots/ lies beside it.

    Args:
        items: a videos.yaml, whose items count; None = all that are there.
    """
    return write(_summary(scores_dir, items), out)


def write(summary: Summary, out: Path) -> Path:
    """Write metrics.json, plots/per_video.json, plots/per_class.json and plots/per_frame.csv."""
    from pipeline.scoring.files import write_csv, write_json

    write_json(out / "plots" / "per_video.json", summary.per_video)
    write_json(out / "plots" / "per_class.json", summary.per_class)
    write_csv(out / "plots" / "per_frame.csv", ("video", "frame", "miou", "pixel_accuracy"), summary.per_frame)
    return write_json(out / "metrics.json", summary.metrics)


def table(summary: Summary) -> str:
    """The scores as text: one row per video, one for all together, and how they were made."""
    metrics = summary.metrics
    heads = {"video": "video", "frames": "frames", "scored_frames": "scored", "miou": "mIoU"}
    heads |= {key: f"VC_{key[2:]}" for key in metrics if key.startswith("vc")}
    heads |= {"pixel_accuracy": "pixel acc.", "fwiou": "fwIoU", "unassigned_share": "unassigned"}
    if metrics["jf_mean"] is not None:
        heads["jf_mean"] = "J&F"
    total = [{"video": "all", **metrics}] if len(summary.per_video) > 1 else []
    if "applied" in metrics:
        total = [{"video": "all items", **metrics}, {"video": "all applied", **metrics["applied"]}]
    rows = [[_cell(row[key]) for key in heads] for row in (*summary.per_video, *total)]
    lines = text_table(rows, list(heads.values()), left=(0,))
    if not metrics["scored_videos"]:
        return f"{lines}\nno ground truth: nothing was scored"
    rule = f"protocol {metrics['protocol']}, assignment {metrics['assignment']}"
    oracle = ", oracle assignment (the frame that assigns clusters is the frame that is scored)"
    return f"{lines}\n{rule}{oracle if metrics['oracle_assignment'] else ''}"


def _cell(value: Any) -> Any:
    return f"{value:.4f}" if isinstance(value, float) else value


def _records(scores_dir: Path, videos_file: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The scores of the items of a videos.yaml, and of what it applies."""
    from pipeline.scoring.files import read_items

    applied = applied_keys(videos_file)
    return read_items(scores_dir, item_keys(videos_file)), read_items(scores_dir, applied) if applied else {}


def _summary(scores_dir: Path, items: Path | None) -> Summary:
    from pipeline.scoring.files import read_items, summarize

    return summarize(read_items(scores_dir)) if items is None else summarize(*_records(scores_dir, items))


def _summary_of_projects(projects: Sequence[Path]) -> Summary:
    """All that the projects' videos.yaml list, as PROJECT/ITEM; a project is called by its folder.

    Raises:
        UsageError: one is no project, or two have one name.
    """
    from pipeline.scoring.files import summarize

    for project in projects:
        if not (project / VIDEOS).is_file():
            raise UsageError(f"{project}: no project, it has no {VIDEOS}; SCORES and OUT go without -o")
    names = [project.resolve().name for project in projects]
    if twice := next((name for name, count in Counter(names).items() if count > 1), None):
        raise UsageError(f"two projects are called {twice}, and so would their items be; rename one of the folders")
    found: tuple[dict[str, Any], dict[str, Any]] = {}, {}
    for name, project in zip(names, projects, strict=True):
        for joined, records in zip(found, _records(project / DATA / "evaluate", project / VIDEOS), strict=True):
            joined.update({f"{name}/{key}": record for key, record in records.items()})
    return summarize(*found)


app = cli.new_app("Join the scores of all items, of one project or several: metrics.json, plots/.")


@app.command()
def main(
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="SCORES OUT | PROJECT...",
            help="folder of <item>/scores.json (or of one scores.json) and folder for metrics.json and plots/; or, "
            "with -o, folders of projects",
        ),
    ],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="with projects: folder for metrics.json and plots/")
    ] = None,
    items: Annotated[
        Path | None, typer.Option(help="with SCORES: videos.yaml, whose items alone count; else all that are there")
    ] = None,
    json_: cli.JsonOption = False,
) -> None:
    """Join the scores of all items, of one project or several: metrics.json, plots/; prints the table.

    Example: vidseg summarize data/evaluate . --items videos.yaml

    Several projects: vidseg summarize part1 part2 part3 -o all
    """
    import json

    if out is not None:
        cli.refuse({"--items": items}, "goes with SCORES; a project has its own videos.yaml")
        summary = _summary_of_projects(paths)
    elif len(paths) == 2:
        summary, out = _summary(paths[0], items), paths[1]
    else:
        raise UsageError("give SCORES and OUT, or PROJECT ... and -o OUT")
    write(summary, out)
    print(json.dumps(summary.metrics, indent=1, allow_nan=False) if json_ else table(summary))


if __name__ == "__main__":
    cli.run_app(app)

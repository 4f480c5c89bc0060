"""How a command that labels a video ends: what was found, the page to look at, what to try next."""

from __future__ import annotations

import json
from pathlib import Path

from stages.common import cli, run_record
from stages.common.printing import counted, in_command


def of_video(out: Path) -> Path:
    """Say what a run warned of, and in three lines what it left in its folder; returns what to look at."""
    cli.warnings_again()
    labels = json.loads((out / "labels.json").read_text())
    took = run_record.read_run(out)
    assert took is not None
    frames, seconds, found = labels["frames"], took["total_seconds"], len(labels["labels"])
    cli.note(
        f"found: {counted(found, 'segment')} in {counted(frames, 'frame')}; "
        f"{counted(round(seconds), 'second')}, {seconds / frames:.2g} per frame"
    )
    return look_and_go_on(out)


def of_folder(videos: int, out: Path) -> Path:
    """Say what a run of several videos warned of, and in three lines what it left; returns the page that lists them."""
    cli.warnings_again()
    page, folder = out / "index.html", in_command(out)
    cli.note(f"found: the segments of {videos} videos, each in its folder")
    cli.note(f"look at it: {page}")
    cli.note(
        f"next: name the segments of a video in its page, save names.json, then: vidseg name {folder}/VIDEO "
        "--names names.json"
    )
    return page


def look_and_go_on(out: Path) -> Path:
    """Say what to look at in a folder of results, and what to try next: naming, or, with names, an export."""
    page = next(path for path in (out / "report.html", out / "overlay.mp4") if path.exists())
    cli.note(f"look at it: {page}")
    folder = in_command(out)
    if any(entry.get("name") for entry in json.loads((out / "labels.json").read_text())["labels"]):
        cli.note(f"next: vidseg export {folder} --format coco-instances -o {in_command(f'{out}-coco')}")
    else:
        cli.note(f"next: name the segments in the page, save names.json, then: vidseg name {folder} --names names.json")
    return page


def show(page: Path) -> None:
    """Open a page in the browser, or say that there is none."""
    import webbrowser

    if not webbrowser.open(page.resolve().as_uri()):
        cli.note(f"no browser could be opened; the page is {page}")

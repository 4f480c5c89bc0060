"""Pages to look at: report.html of runs and items, an index over several, two runs side by side."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline.errors import DataError, UsageError
from pipeline.parameters import RenderParams
from stages.common import cli
from stages.common.applied import applied_keys, applied_of, is_applied
from stages.common.layout import DATA, VIDEOS, Place, item_key, item_keys, names_of, place, videos_of
from stages.common.report_page import FILE, Reported, check_one_clip, colours_of, title_of, write_report
from stages.common.results import Results
from stages.common.run_record import read_run
from stages.common.settings import load

if TYPE_CHECKING:
    from pipeline.report.page import IndexRow
    from pipeline.stores.schemas import Schema
    from pipeline.stores.store import Store

#: Where pages of items lie.
REPORTS = DATA / "report"
INDEX = "index.html"
#: Side of the small pictures of an index.
_SMALL = 240


@dataclass(frozen=True)
class Target:
    """A run, or a video of an item: where its stores and scores are, and where its page goes.

    Attributes:
        name: in the index.
        stores: folder of each store by its name, like `clip.zarr`.
        scores: scores.json; may be absent.
        number: of the video in scores.json.
        page: file to write.
        folder: with run.json; None = there is none.
        names: names.json; None = there is none.
    """

    name: str
    stores: Callable[[str], Path]
    scores: Path
    number: int
    page: Path
    folder: Path | None = None
    names: Path | None = None


def run_folder(folder: Path) -> Target:
    """The results of `vidseg run` or `vidseg apply`, and DIR/report.html.

    Raises:
        DataError: there are none.
    """
    results = Results(folder).check()
    # What named.zarr was made of: names.json may be there and fit no more.
    names = results.names if results.named.exists() else None
    name = folder.resolve().name
    return Target(name, results.stores.__truediv__, folder / "scores.json", 0, folder / FILE, folder, names)


def targets_of(target: str, out: Path) -> list[Target]:
    """What a word of the command line stands for: a run, a folder of runs, or an item of videos.yaml.

    Args:
        out: folder for the pages of items.

    Raises:
        UsageError, DataError: neither.
    """
    folder = Path(target)
    if folder.is_dir() and not (folder / "artifacts").is_dir():
        inside = sorted(path for path in folder.iterdir() if (path / "artifacts" / "labels.zarr").exists())
        if inside:
            return [run_folder(path) for path in inside]
    if folder.is_dir():
        return [run_folder(folder)]
    if not VIDEOS.is_file():
        raise DataError(f"{target}: no such folder, and there is no {VIDEOS} here that could have an item of that key")
    key = item_key(target)
    applied = applied_of(key) if is_applied(key) else None
    if applied is None and key not in item_keys():
        known = ", ".join([*item_keys(), *applied_keys()])
        raise UsageError(f"{target}: neither a folder nor a key in {VIDEOS}; there are: {known}")
    names = videos_of(key) if applied is None else applied.videos()

    def stores_of(video: str | None) -> Callable[[str], Path]:
        stages = dict.fromkeys(("clip.zarr", "truth.zarr", "source", "cuts"), "ingest") | {"features.zarr": "extract"}
        if applied is not None:
            return lambda store: applied.place(stages.get(store, "apply"), video) / store
        own = {**stages, "coarse.zarr": "segment"}
        return lambda store: Place.__truediv__(place(own.get(store, "upsample"), key, video), store)

    return [
        Target(
            f"{key}/{video}" if video else key,
            stores_of(video),
            DATA / "evaluate" / key / "scores.json",
            number,
            out / (f"{key}/{video}.html" if video else f"{key}.html"),
            names=names_of(key, video) if applied is None else applied.names_of(video),
        )
        for number, video in enumerate(names)
    ]


def write(targets: Sequence[Target], params: RenderParams) -> list[Path]:
    """Write the page of each target; returns the pages.

    Raises:
        DataError: a store is missing or of another clip, or a file of another origin is in the way.
    """
    from pipeline.report.page import refuse_foreign_page

    for target in targets:
        refuse_foreign_page(target.page)
    runs = [opened(target) for target in targets]
    with cli.progress("report", sum(run.labels.frames("labels") for run in runs)) as advance:
        for target, run in zip(targets, runs, strict=True):
            write_report(target.page, _title(target), [("", run)], params, advance)
    return [target.page for target in targets]


def write_index(targets: Sequence[Target], title: str, index: Path) -> Path:
    """Write a page that lists the pages of targets with their scores.

    Raises:
        DataError: a store is missing, or a file of another origin is in the way.
    """
    from pipeline.report import page

    page.refuse_foreign_page(index)
    return page.write_index(index, title, [_row(target, opened(target), index) for target in targets])


def compare(first: Target, second: Target, out: Path, params: RenderParams) -> Path:
    """Write one page that shows two runs on the same frames in step.

    Raises:
        DataError: they are of different frames, or a file of another origin is in the way.
    """
    from pipeline.report.page import refuse_foreign_page

    refuse_foreign_page(out)
    runs = [opened(first), opened(second)]
    check_one_clip(runs[0].pictures.clip, runs[1].pictures.clip)
    names = [f"A: {first.name}", f"B: {second.name}"]
    with cli.progress("report", runs[0].labels.frames("labels")) as advance:
        return write_report(
            out, f"{first.name} and {second.name}", list(zip(names, runs, strict=True)), params, advance
        )


def opened(target: Target) -> Reported:
    """The stores of a target.

    Raises:
        DataError: one is missing or damaged, or its clip is another one.
    """
    from pipeline.naming.stores import with_names
    from pipeline.stores.schemas import CLIP, COARSE, FEATURES, LABELS, TRUTH
    from pipeline.stores.store import open_store
    from stages import render

    clip = open_store(target.stores("clip.zarr"), CLIP)

    def found(name: str, schema: Schema, *arrays: str) -> Store | None:
        path = target.stores(name)
        if not path.exists():
            return None
        return render.open_matching(path, schema, clip, *arrays) if arrays else open_store(path, schema)

    labels = render.open_matching(target.stores("labels.zarr"), LABELS, clip, "labels")
    scores = _scores(target)
    return Reported(
        render.open_pictures(clip, _given(target.stores("source")), _given(target.stores("cuts"))),
        labels,
        with_names(labels, target.names),
        found("features.zarr", FEATURES, "aggregated", "encoder"),
        found("coarse.zarr", COARSE, "refined"),
        scores,
        found("truth.zarr", TRUTH) if scores else None,
        None if target.folder is None else read_run(target.folder),
    )


def _given(folder: Path) -> Path | None:
    return folder if folder.is_dir() else None


def _scores(target: Target) -> Mapping[str, Any] | None:
    """The target's own part of its scores.json; None = it has none."""
    from pipeline.scoring.files import parse

    if not target.scores.is_file():
        return None
    content = parse(target.scores, target.scores.read_text())
    if target.number >= len(content["videos"]):
        raise DataError(f"{target.scores}: has no video {target.number + 1}; run `vidseg evaluate` again")
    video = content["videos"][target.number]
    return {**content, "videos": [video], "ground_truth": video["ground_truth"]}


def _title(target: Target) -> str:
    from pipeline.stores.clip_source import read_source

    source = _given(target.stores("source"))
    return title_of(read_source(source)) if target.folder and source else target.name


def _row(target: Target, run: Reported, index: Path) -> IndexRow:
    import os
    from urllib.parse import quote

    from pipeline.media.resize import resize_nearest
    from pipeline.naming.segments import void_of
    from pipeline.rendering.drawing import overlay, resized
    from pipeline.report.encoding import picture
    from pipeline.report.page import IndexRow

    middle = run.labels.frames("labels") // 2
    image = run.pictures.clip.read("frames", middle, middle + 1)[0]
    image = resized(image, min(_SMALL, image.shape[1]))
    plane = resize_nearest(run.named.read("labels", middle, middle + 1)[0], image.shape[:2])
    link = os.path.relpath(target.page, index.parent).replace(os.sep, "/")
    small = picture(overlay(image, plane, colours_of(run.named), 0.55, void_of(run.named)))
    return IndexRow(target.name, quote(link), small, _numbers(run))


def _numbers(run: Reported) -> dict[str, float]:
    numbers: dict[str, float] = {"frames": run.labels.frames("labels")}
    if run.took is not None:
        numbers["seconds"] = round(run.took["total_seconds"])
    if run.scores is not None and run.scores["ground_truth"]:
        scores = run.scores["videos"][0]["scores"]
        titles = {"miou": "mIoU", **{key: f"VC_{key[2:]}" for key in scores if key.startswith("vc")}}
        titles |= {"pixel_accuracy": "pixel accuracy", "jf_mean": "J&F"}
        numbers |= {title: scores[key] for key, title in titles.items() if scores.get(key) is not None}
    if run.features is not None and run.features.attrs.get("psnr"):
        numbers["lowest PSNR"] = min(run.features.attrs["psnr"].values())
    return numbers


def main(
    targets: Annotated[
        list[str] | None,
        typer.Argument(help="folders of `vidseg run`, or keys of videos.yaml; without any, all of videos.yaml"),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", help="folder for the pages of items and the index (data/report); with --compare, a file"
        ),
    ] = None,
    side_by_side: Annotated[
        bool, typer.Option("--compare", help="one page that shows two runs side by side, in step: --compare A B")
    ] = False,
    params: cli.ParamsOption = None,
    set_: cli.SetOption = None,
) -> None:
    """Make pages to look at in a browser: report.html per video, an index over several, two runs side by side.

    The page of a run lies in its folder; pages of items and the index lie in data/report. Without a project the index
    of runs lies beside their folders.

    Example: vidseg report holiday
    """
    from pipeline.report.page import refuse_foreign_page

    settings = load(params, set_ or ())["render"]
    folder = out or REPORTS
    given = list(targets or ())
    if not given:
        if not VIDEOS.is_file():
            raise UsageError(f"give the folder of a run, or run in the folder of a project (there is no {VIDEOS} here)")
        given = [*item_keys(), *applied_keys()]
    found = [[one for one in targets_of(target, folder)] for target in given]
    if side_by_side:
        if len(given) != 2 or any(len(one) != 1 for one in found):
            raise UsageError("--compare takes two runs of one video each: --compare A B")
        page = out or Path("compare.html")
        print(compare(found[0][0], found[1][0], page if page.suffix else page / "compare.html", settings))
        return
    if out is not None and out.suffix == ".html" and not out.is_dir():
        raise UsageError(f"-o {out}: must be a folder, for the pages of items and the index; --compare takes a file")
    flat = [target for one in found for target in one]
    index = _index(given, flat, out)
    if index is not None:
        refuse_foreign_page(index)
    pages = write(flat, settings)
    if index is not None:
        title = Path(given[0]).resolve().name if index.parent == Path(given[0]) else "Reports"
        pages.append(write_index(flat, title, index))
    for page in pages if len(pages) <= 3 else pages[-1:]:
        print(page)


def _index(given: Sequence[str], targets: Sequence[Target], out: Path | None) -> Path | None:
    """Where the index goes: into the folder of runs, else among the pages of items; one run alone has none.

    Raises:
        UsageError: there is no project here, and the runs lie in several folders.
    """
    if len(given) == 1 and len(targets) > 1 and targets[0].folder is not None:
        return (out or Path(given[0])) / INDEX
    if len(targets) == 1 and targets[0].folder is not None and out is None:
        return None
    if out is None and not VIDEOS.is_file():
        folders = {target.folder.resolve().parent for target in targets if target.folder is not None}
        if len(folders) > 1:
            raise UsageError("these runs lie in several folders; -o DIR says where the index of them goes")
        return folders.pop() / INDEX
    return (out or REPORTS) / INDEX

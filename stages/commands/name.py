"""What the segments of a video are called, which are one and which are none -> named.zarr, and everything redrawn."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.errors import DataError, UsageError
from stages.commands import conclusion
from stages.common import cli
from stages.common.results import Results
from stages.common.settings import Settings, load

if TYPE_CHECKING:
    from pipeline.naming.names import Names, NamesFile
    from pipeline.naming.stores import NamedLabels


def run(folder: Path, settings: Settings, names: Path | None = None, more: Names | None = None) -> Path:
    """Name the segments of one video; returns the path of named.zarr. What was drawn is drawn again with names.

    Args:
        folder: of the results of `vidseg run`.
        names: names.json; None = what was said of these segments before.
        more: names that win over those.

    Raises:
        DataError: no results, names for other segments or for labels that are not there, or names that make no sense.
    """
    from pipeline.naming.names import NamesFile, read_names
    from pipeline.stores.numbering import Numbering
    from pipeline.stores.schemas import LABELS
    from pipeline.stores.store import open_store
    from stages import render
    from stages.commands import report

    results = Results(folder).check()
    labels = open_store(results.labels, LABELS)
    numbering = Numbering.of_labels(labels)
    if more is not None:
        more.check(numbering)
    where = names or (results.names if results.names.exists() else None)
    content = NamesFile(numbering.origin, more) if more is not None and where is None else None
    if where is not None:
        given = read_names(where)
        given.names_for(numbering, str(where))
        content = given if more is None else NamesFile(given.fits, given.names.with_more(more))
    if content is None:
        raise UsageError("nothing to name: give --names FILE, or --name 3=road, --merge 5,7=car, --drop 9")
    render.check_replaceable(folder)
    named = write(results, content, str(where or "--name"))
    draw(results, named, settings, None if labels.stage == "apply" else results.coarse)
    if settings["render"].report:
        report.write([report.run_folder(folder)], settings["render"])
    return named


def draw(results: Results, labels: Path, settings: Settings, coarse: Path | None) -> None:
    """Draw labels of a video in the folder of its results, over what was drawn before; all but the page.

    Args:
        coarse: adds coarse labels to the x-t slice.
    """
    from stages import render

    # The page shows scores, and what the run took: it comes last, from `vidseg report`'s own code.
    params = replace(settings["render"], report=False)
    render.run(results.clip, labels, results.folder, params, features=results.features, coarse=coarse)


def named_again(results: Results, names: Path | None, known: Path | None = None) -> Path:
    """Apply names to labels that were just made; returns the path of the labels that hold: named.zarr or labels.zarr.

    Args:
        names: names.json; None = what was said of these segments before, if anything was, and fits still.
        known: names.json for where nothing was said, or what was does not fit; that file is kept under another name.

    Raises:
        DataError: the names that are given do not fit.
    """
    from pipeline.naming.names import MARK, read_names
    from pipeline.naming.stores import NAMED
    from pipeline.stores.numbering import Numbering
    from pipeline.stores.schemas import LABELS
    from pipeline.stores.store import open_store

    if names is not None:
        return write(results, read_names(names), str(names))
    if MARK.on(results.folder):
        content = read_names(results.names)
        if content.fits in Numbering.of_labels(open_store(results.labels, LABELS)).origins:
            return write(results, content, str(results.names))
        cli.warn(f"{results.names}: was made for other segments than this run found, and is not used")
    elif results.names.exists():
        cli.warn(f"{results.names}: is no file of names that can be read, and is not used")
    if known is not None:
        if results.names.exists():
            free = (results.names.with_suffix(f".{number}.json") for number in count(1))
            earlier = results.names.rename(next(path for path in free if not path.exists()))
            cli.note(f"{earlier.name}: what {results.names.name} was, which now has the names of these segments")
        return write(results, read_names(known), str(known))
    if NAMED.mark.on(results.named):
        shutil.rmtree(results.named)  # of the labels that were here before
    return results.labels


def write(results: Results, content: NamesFile, where: str) -> Path:
    """Write named.zarr and names.json of some results; returns the path of named.zarr.

    Args:
        where: the file that the names are from, for messages.
    """
    from pipeline.naming.names import write_names
    from pipeline.naming.stores import NAMED, NamedLabels
    from pipeline.stores import shard_claims
    from pipeline.stores.schemas import LABELS
    from pipeline.stores.store import is_current, open_store

    labels = NamedLabels(open_store(results.labels, LABELS), content, where)
    check_replaceable(results)
    if not is_current(results.named, NAMED, labels.named_fingerprint()):
        writer = labels.writer(results.named, results.stores / "tmp")
        with cli.progress("name", labels.frames("labels")) as advance:
            for shard in shard_claims.claimed((writer,)):
                for array in labels.arrays:
                    writer.write(array, shard.start, labels.read(array, shard.start, shard.stop))
                advance(len(shard))
        writer.commit()
    write_names(results.names, content)
    cli.note(_said(labels))
    return results.named


def check_replaceable(results: Results) -> None:
    """Refuse to write names.json and named.zarr over what others wrote.

    Raises:
        DataError: something of others is there.
    """
    from pipeline.files import refuse_foreign
    from pipeline.naming.names import MARK
    from pipeline.naming.stores import NAMED

    if results.names.exists() and not MARK.on(results.folder):
        raise DataError(f"{results.names}: was not written by vidseg; move it away, names are kept there")
    refuse_foreign(results.named, NAMED.mark)


def _said(labels: NamedLabels) -> str:
    """What the names are, in a line."""
    names, segments = labels.naming.names, {s.id: s for s in labels.naming.segments}
    said = [f"{s.id} {s.name}" for s in segments.values() if s.name is not None]
    ids = {names.target(label) for label in labels.naming.numbering.labels} - names.dropped
    nameless = sorted(ids - {s.id for s in segments.values() if s.name is not None})
    parts = [f"named: {', '.join(said) or 'none'}"]
    if names.merged:
        parts.append("merged: " + ", ".join(f"{label} into {names.target(label)}" for label in sorted(names.merged)))
    if names.dropped:
        parts.append(f"dropped: {', '.join(map(str, sorted(names.dropped)))}")
    if nameless:
        parts.append(f"without a name: {', '.join(map(str, nameless))}")
    return "; ".join(parts)


def parse_options(name: Sequence[str], color: Sequence[str], merge: Sequence[str], drop: Sequence[str]) -> Names | None:
    """The names that options give; None = there are no options.

    Raises:
        UsageError: an option in another form, two names for one label, or names that make no sense together.
    """
    from pipeline.naming.names import Named, Names, checked_name, merged_groups, parse_color

    if not (name or color or merge or drop):
        return None
    try:
        groups, titles = [], []
        for text in merge:
            listed, is_named, title = text.partition("=")
            groups.append(_labels(listed, "--merge", "5,7 or 5,7=car"))
            if is_named:
                titles.append((groups[-1][0], checked_name(title)))
        for text in name:
            label, is_named, title = text.partition("=")
            if not is_named:
                raise UsageError(f"--name must be like 3=road, not '{text}'")
            titles.append((_labels(label, "--name", "3=road", most=1)[0], checked_name(title)))
        called: dict[int, str] = {}
        for number, title in titles:
            if called.setdefault(number, title) != title:
                raise UsageError(f"label {number} gets two names: '{called[number]}' and '{title}'")
        colours = {}
        for text in color:
            label, _, value = text.partition("=")
            colours[_labels(label, "--color", "3=#80b1d3", most=1)[0]] = parse_color(value)
        named = {
            label: Named(called.get(label), colours.get(label)) for label in sorted({*called.keys(), *colours.keys()})
        }
        dropped = {label for text in drop for label in _labels(text, "--drop", "9 or 9,11")}
        return Names(named, merged_groups(groups), frozenset(dropped))
    except DataError as error:
        raise UsageError(str(error)) from error


def _labels(text: str, option: str, form: str, most: int | None = None) -> list[int]:
    numbers = [part.strip() for part in text.split(",")]
    if not all(re.fullmatch(r"\d{1,5}", number) for number in numbers) or (most and len(numbers) > most):
        raise UsageError(f"{option} must be like {form}, not '{text}'")
    return [int(number) for number in numbers]


def main(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="folder of the results of `vidseg run`")],
    names: Annotated[
        Path | None,
        typer.Option("--names", help="names.json, e.g. saved from report.html; takes the place of names given before"),
    ] = None,
    name: Annotated[
        list[str] | None,
        typer.Option("--name", metavar="LABEL=NAME", help="Name of a segment, like 3=road. Repeatable."),
    ] = None,
    merge: Annotated[
        list[str] | None,
        typer.Option(
            "--merge",
            metavar="LABEL,LABEL[=NAME]",
            help="Segments that are one: 5,7=car. It keeps number 5. Repeatable.",
        ),
    ] = None,
    drop: Annotated[
        list[str] | None,
        typer.Option("--drop", metavar="LABEL", help="A segment that is none: its pixels get no label. Repeatable."),
    ] = None,
    color: Annotated[
        list[str] | None,
        typer.Option("--color", metavar="LABEL=#RRGGBB", help="Colour of a segment in all pictures. Repeatable."),
    ] = None,
    params: cli.ParamsOption = None,
    set_: cli.SetOption = None,
) -> None:
    """Say what the segments of a video are; overlay, label PNGs, labels.json and contact sheet get the names.

    Example: vidseg name holiday --name 3=road --merge 5,7=car --drop 9

    The numbers are those in the legend of overlay.mp4. What was said before stays; --names FILE starts over with that
    file. DIR/names.json keeps what was said, DIR/artifacts/named.zarr the named labels; labels.zarr is not changed.
    """
    more = parse_options(name or (), color or (), merge or (), drop or ())
    settings = load(params, set_ or ())
    run(folder, settings, names, more)
    conclusion.look_and_go_on(folder)

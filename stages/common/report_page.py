"""report.html of opened stores: what the stages know of a run, handed to the page."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import DataError
from pipeline.parameters import SECTIONS, RenderParams, declared, flat, of_stored
from stages.common.settings import load

if TYPE_CHECKING:
    import numpy as np

    from pipeline.rendering.clip_frames import ClipPictures
    from pipeline.report.page import Segments
    from pipeline.report.scores import ScoreSheet
    from pipeline.report.story import Changed, Story
    from pipeline.stores.clip_source import ClipSource
    from pipeline.stores.store import Store

FILE = "report.html"
#: Cuts that are named, at most.
MOST_LISTED = 12


@dataclass(frozen=True)
class Reported:
    """One run, as a page shows it.

    Attributes:
        pictures: of its clip, which it holds.
        labels: as they were found.
        named: the same with names, some merged or dropped; the labels again where nothing was said of them.
        features, coarse: None = left out.
        scores: the content of its scores.json, of one video; None = none.
        truth: truth.zarr, where there are scores.
        took: the content of run.json; None = what it took is not told.
        repeatable: the page holds what the stores hold and nothing else, so that its bytes repeat; it says so.
    """

    pictures: ClipPictures
    labels: Store
    named: Store
    features: Store | None = None
    coarse: Store | None = None
    scores: Mapping[str, Any] | None = None
    truth: Store | None = None
    took: Mapping[str, Any] | None = None
    repeatable: bool = False


def write_report(
    path: Path,
    title: str,
    runs: Sequence[tuple[str, Reported]],
    params: RenderParams,
    advance: Callable[[int], None] = lambda _: None,
) -> Path:
    """Write the page of a run, or of two runs on one clip side by side.

    Args:
        runs: title and run; the first's pictures, features and slices are shown.
    """
    from pipeline.report.footage import collect
    from pipeline.report.page import Page, write_page

    first = runs[0][1]
    footage = collect(
        first.pictures,
        [run.labels for _, run in runs],
        _named_colours(first),
        features=first.features if params.extras else None,
        coarse=first.coarse,
        row=params.slice_row if params.extras else None,
        advance=advance,
    )
    partners = [{}, *(_partners(first.labels, run.labels) for _, run in runs[1:])]
    segments = [
        _segments(name, run, list(labelled.tally.pixels), pairs, editable=len(runs) == 1)
        for (name, run), labelled, pairs in zip(runs, footage.runs, partners, strict=True)
    ]
    stories = [_story(run, len(one.colours)) for (_, run), one in zip(runs, segments, strict=True)]
    scores = [_sheet(run) for _, run in runs]
    return write_page(path, Page(title, first.pictures.fps, params.opacity, footage, segments, stories, scores))


def title_of(source: ClipSource | None) -> str:
    """What a clip is called: its video's file, or the last two folders of its frames."""
    if source is None:
        return "clip"
    return source.path.name if source.path.suffix else "/".join(source.path.parts[-2:])


def _segments(
    title: str, run: Reported, labels: Sequence[int], partners: Mapping[int, int], editable: bool
) -> Segments:
    from pipeline.naming.segments import NAMING, segments_of, void_of
    from pipeline.report.page import Segments

    colours, void = colours_of(run.labels), void_of(run.labels)
    shown = {label: colours[partners.get(label, label) % len(colours)] for label in labels if label != void}
    return Segments(
        title,
        {label: segment.name for label, segment in segments_of(run.labels).items() if segment.name is not None},
        {label: "#" + bytes(colour.tolist()).hex() for label, colour in shown.items()},
        partners,
        _fits(run.labels) if editable else None,
        None if run.named is run.labels else run.named.attrs[NAMING],
    )


def colours_of(labels: Store) -> np.ndarray:
    """Colours (k, 3) u8 of labels; label l takes colour l modulo k."""
    from pipeline.naming.segments import segments_of
    from pipeline.rendering.palette import overlay_colours, with_chosen

    chosen = {label: one.color for label, one in segments_of(labels).items() if one.color is not None}
    return with_chosen(overlay_colours(), chosen)


def _named_colours(run: Reported) -> np.ndarray:
    """Colours of labels as they were found, by what a person said of them."""
    from pipeline.naming.stores import NamedLabels

    colours = colours_of(run.named)
    if not isinstance(run.named, NamedLabels):
        return colours
    return colours.take(run.named.naming.targets, axis=0, mode="wrap")


def _fits(labels: Store) -> str | None:
    """What names.json must say to fit these labels; None = they cannot be named, or have names for good."""
    from pipeline.naming.segments import NAMING
    from pipeline.stores.numbering import Numbering

    try:
        return None if NAMING in labels.attrs else Numbering.of_labels(labels).origin
    except DataError:  # of a version that did not note it
        return None


def _partners(first: Store, second: Store) -> dict[int, int]:
    from pipeline.rendering.comparison import matching

    return matching(first, second)


def _sheet(run: Reported) -> ScoreSheet | None:
    from pipeline.report.scores import score_sheet

    if run.scores is None or run.truth is None or not run.scores["ground_truth"]:
        return None
    return score_sheet(run.scores["videos"][0], run.scores["protocol"], run.pictures.clip, run.named, run.truth)


def _story(run: Reported, segments: int) -> Story:
    from pipeline.report.story import Story, psnr_of

    took = run.took or {}
    return Story(
        _facts(run, segments),
        _changed(run),
        psnr_of(run.features.attrs) if run.features is not None else (),
        list(took.get("seconds", {}).items()),
        [f"{one['stage']}: {one['text']}" for one in took.get("warnings", ())],
    )


def _facts(run: Reported, segments: int) -> list[tuple[str, str]]:
    labels, clip, took = run.labels, run.pictures.clip, run.took or {}
    indices = clip.attrs["source_indices"]
    height, width = clip.size("frames")
    step = indices[1] - indices[0] if len(indices) > 1 else 1
    every = "" if step == 1 else f", one in {step}"
    facts = [
        ("frames", f"{len(indices)}: {indices[0]} to {indices[-1]} of the source{every}"),
        ("size", f"{run.pictures.size[1]}x{run.pictures.size[0]}, seen by the model at {width}x{height}"),
        ("segments", str(segments)),
    ]
    if cuts := [str(clip.attrs["names"][cut]) for cut in run.pictures.cuts]:
        more = f", ... ({len(cuts)} in all)" if len(cuts) > MOST_LISTED else ""
        facts.append(("shots", f"{len(cuts) + 1}, cut at {', '.join(cuts[:MOST_LISTED])}{more}"))
    backbone = labels.params.get("backbone")
    if backbone and labels.attrs.get("backbone"):
        facts.append(("backbone", f"{backbone['name']} {labels.attrs['backbone'][:12]}, {backbone['dtype']}"))
    if run.features is not None and run.features.attrs.get("encoder"):
        encoder = Path(run.features.params["extract"]["encoder"]).name
        facts.append(("encoder", f"{encoder} {run.features.attrs['encoder'][:12]}"))
    if took:
        frames = max(1, len(indices))
        seconds = took["total_seconds"]
        facts += [
            ("time", f"{seconds:.0f} seconds, {seconds / frames:.2g} per frame, on {took['device']}"),
            *_memory("peak memory", took.get("peak_memory_mb")),
            *_memory("peak GPU memory", took.get("peak_gpu_memory_mb")),
            ("versions", ", ".join(f"{name} {version}" for name, version in took["versions"].items() if version)),
        ]
    else:
        facts.append(("made by", str(labels.attrs["created_by"])))
    if run.repeatable:
        facts.append(("not here", "scores, times and warnings, so that this file repeats; `vidseg report` adds them"))
    return facts


def _memory(title: str, megabytes: float | None) -> list[tuple[str, str]]:
    return [] if megabytes is None else [(title, f"{megabytes / 1000:.1f} GB")]


def _changed(run: Reported) -> list[Changed]:
    from pipeline.report.story import Changed

    if run.took is not None:
        found = [(one["name"], one["value"], one["default"]) for one in run.took["parameters"]]
    else:
        found = _differing(run.labels.params)
    helps = {f"{section}.{name}": one.help for section, cls in SECTIONS.items() for name, one in declared(cls).items()}
    return [Changed(name, _plain(value), _plain(default), helps.get(name, "")) for name, value, default in found]


def _differing(stored: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, Any, Any]]:
    """Name, value and default of what a store was made with, where these differ."""
    name = stored.get("backbone", {}).get("name")
    defaults = load(sets=[] if name is None else [f"backbone.name={name}"])
    found = []
    for section, values in stored.items():
        if section not in SECTIONS:
            continue
        usual = flat(defaults[section])
        for key, value in flat(of_stored(SECTIONS[section], values)).items():
            # Stores note the precision and the size that `auto` and a short side came to.
            if value != usual[key] and f"{section}.{key}" not in ("backbone.dtype", "ingest.size"):
                found.append((f"{section}.{key}", value, usual[key]))
    return found


def _plain(value: Any) -> str:
    """A value as a parameter file has it."""
    return value if isinstance(value, str) else json.dumps(value)


def check_one_clip(first: Store, second: Store) -> None:
    """Refuse to show two runs in step that are of different frames.

    Raises:
        DataError: names both stores.
    """
    for name in ("names", "source_size", "source_indices"):
        if first.attrs[name] != second.attrs[name]:
            raise DataError(
                f"{first.path} and {second.path} are of different frames; --compare takes two runs on the same ones"
            )

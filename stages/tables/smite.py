"""`vidseg table smite`: the plans of its two tables, over what is applied in videos.yaml."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

from pipeline.errors import UsageError
from pipeline.tables.quoted import SMITE_BESIDE, SMITE_REFERENCES_BESIDE, Quoted
from pipeline.tables.table import Pair
from stages.common.applied import Applied, concept_of, known_frames
from stages.common.settings import Settings, check_backbone, preset_backbones
from stages.tables import experiments, propagated
from stages.tables.experiments import Cost, Experiment, Result
from stages.tables.items import Selection, Series, dataset_of, select_applied, series_of
from stages.tables.rows import LADDER_PAIRS, PROPAGATED, RowSpec, ladder_rows, reference_rows
from stages.tables.run import Plan, checked_project

#: Scores beside mIoU and VC, by their headings. J and F are of `evaluate.objects: parts`.
SCORES = {"j_mean": "J", "f_mean": "F", "smite_miou": "mIoU, SMITE's", "smite_f": "F, SMITE's", "flicker": "flicker"}


def all_rows(datasets: str | None, settings: Settings) -> tuple[RowSpec, ...]:
    """The rows of both tables; those of the second are as many as there are numbers of references."""
    return (*ladder_rows(settings), *reference_rows(_counts(series_of(select_applied(datasets)))))


@dataclass(frozen=True)
class SmiteTable:
    """One of the two tables before it is measured.

    Attributes:
        name: of its files.
        title, head: above it, and above the names of its rows.
        quoted: the paper's tables that are quoted beside it.
        beside: their figures that no row here was made for: title -> figures.
        plan: its rows.
        pairs: rows that are compared.
    """

    name: str
    title: str
    head: str
    quoted: str
    beside: Mapping[str, Quoted]
    plan: Plan
    pairs: tuple[Pair, ...]


def smite_tables(
    specs: Sequence[RowSpec], datasets: str | None, settings: Settings, out: Path
) -> tuple[SmiteTable, ...]:
    """The tables that some of `all_rows` make; arguments and errors as of `ladder_plan` and `references_plan`."""
    ladder = {spec.key for spec in ladder_rows(settings)}
    first = tuple(spec for spec in specs if spec.key in ladder)
    second = tuple(spec for spec in specs if spec.key not in ladder)
    tables = []
    if first:
        plan = ladder_plan(first, datasets, settings, out)
        quoted = "Tables 1 and 2, on SMITE-50, and 9 and 10, on DAVIS-2016"
        tables.append(SmiteTable("smite", "SMITE: the ladder", "row", quoted, SMITE_BESIDE, plan, LADDER_PAIRS))
    if second:
        plan = references_plan(second, datasets, settings)
        pairs = tuple(Pair(f"{a.cells[0]} → {b.cells[0]}", a.key, b.key) for a, b in pairwise(plan.specs))
        title = "SMITE: by number of references"
        quoted = "Table 3, on SMITE-50, and 6 and 7, on PUMaVOS"
        beside = SMITE_REFERENCES_BESIDE
        tables.append(SmiteTable("smite_references", title, "references", quoted, beside, plan, pairs))
    return tuple(tables)


def ladder_plan(specs: Sequence[RowSpec], datasets: str | None, settings: Settings, out: Path) -> Plan:
    """The ladder, over all that is applied; of a series its largest number of references.

    Args:
        specs: rows of `ladder_rows`.
        out: folder of the tables; keeps the scores of what is propagated.

    Raises:
        UsageError: the project cannot run experiments, nothing is applied, or the backbone cannot learn.
        DataError: no item has ground truth.
    """
    found = select_applied(datasets)
    smaller = {each.name for series in series_of(found) for each in list(series.applied.values())[:-1]}
    chosen = tuple(each for each in found if each.name not in smaller)

    def read(key: str, experiment: Experiment, costs: Mapping[str, Cost]) -> Result:
        if key in PROPAGATED:
            return propagated.read(experiment, costs, chosen, out / "propagated")
        return experiments.read(experiment, costs)

    changed = _checked(settings)
    planned = {
        spec.key: (experiments.describe_inputs if spec.key in PROPAGATED else experiments.describe_applied)(
            spec.key, spec.sets, chosen
        )
        for spec in specs
    }
    datasets_of = {each.name: dataset_of(each.item) for each in chosen}
    left_out = tuple(sorted(smaller))
    return Plan(tuple(specs), planned, Selection(datasets_of, left_out), changed, notes(settings, chosen), read)


def references_plan(specs: Sequence[RowSpec], datasets: str | None, settings: Settings) -> Plan:
    """The table by number of references, over the series that have all of the numbers.

    Args:
        specs: rows of `reference_rows`.

    Raises:
        UsageError: as `ladder_plan`, or a concept has another number of references than its key says.
    """
    found = series_of(select_applied(datasets))
    counts = {row.key: count for count in _counts(found) for row in reference_rows([count])}
    wanted = [counts[spec.key] for spec in specs]
    chosen = tuple(series for series in found if set(wanted) <= set(series.applied))
    left_out = tuple(series.name for series in found if series not in chosen)
    if not chosen:
        raise UsageError(f"videos.yaml: no item has concepts of {', '.join(map(str, wanted))} references")
    for series in chosen:
        for count in wanted:
            _check_count(series.applied[count], count)
    by_row = {spec.key: {series.applied[counts[spec.key]].name: series.name for series in chosen} for spec in specs}

    def read(key: str, experiment: Experiment, costs: Mapping[str, Cost]) -> Result:
        result, names = experiments.read(experiment, costs), by_row[key]
        return replace(
            result,
            records={names[name]: record for name, record in result.records.items()},
            seconds={names[name]: seconds for name, seconds in result.seconds.items()},
            memory={names[name]: memory for name, memory in result.memory.items()},
        )

    applied = [series.applied[count] for series in chosen for count in wanted]
    changed = _checked(settings)
    planned = {
        spec.key: experiments.describe_applied(
            spec.key, spec.sets, [series.applied[counts[spec.key]] for series in chosen]
        )
        for spec in specs
    }
    datasets_of = {series.name: dataset_of(series.item) for series in chosen}
    return Plan(tuple(specs), planned, Selection(datasets_of, left_out), changed, notes(settings, applied), read)


def notes(settings: Settings, applied: Sequence[Applied]) -> tuple[str, ...]:
    """What holds for all rows, in words."""
    ingest, learn, guidance = (settings[name] for name in ("ingest", "learn", "guidance"))
    skipped = [f"{each.name} {', '.join(map(str, each.skip))}" for each in applied if each.skip]
    return (
        f"backbone {settings['backbone'].name}; ingest.size {ingest.size}, ingest.frames {ingest.frames or 'all'}; "
        f"learn.size {learn.size}, learn.epochs {learn.epochs}; guidance.iterations {guidance.iterations}; tracks "
        f"{settings['track'].method}; seeds: noise {settings['diffusion'].seed}, {settings['apply'].seed}, learning "
        f"{learn.seed}",
        *([f"frames that are not scored, for concepts know them: {'; '.join(skipped)}"] if skipped else []),
        "mIoU, mVC, J and F: protocol strict. J is of regions (IoU), F of contours, within 0.8 % of the diagonal, as "
        "for DAVIS, whose J&F is the mean of both: means over segments and frames, the background aside. SMITE's "
        "protocol: void is not left out, a segment that the ground truth never has counts as 0; means over videos.",
        "flicker: share of the points that are followed to the next frame and have another label there; less is "
        "steadier.",
        "s/frame: wall time of extract, track (where something follows points) and apply, loading of weights included, "
        "without learning; of `knn*` extract, correspond, segment and upsample. Peak MB: the most main memory that one "
        "of them held; of `knn*` that of the command itself, which segments and upsamples one video after the other.",
    )


def _counts(found: Sequence[Series]) -> list[int]:
    return sorted({count for series in found for count in series.applied})


def _checked(settings: Settings) -> tuple[str, ...]:
    """Refuse what cannot work; returns the changed files."""
    changed = checked_project()
    check_backbone(settings["backbone"].name, preset_backbones("smite"), "vidseg table smite")
    return changed


def check_frames(datasets: str | None) -> None:
    """Refuse to score frames that a concept has seen.

    Raises:
        UsageError: says which `skip` is lacking.
    """
    for each in select_applied(datasets):
        if unskipped := sorted(set(known_frames(each.item, each.concept)) - set(each.skip)):
            raise UsageError(
                f"videos.yaml: concept '{each.concept}' is learned from frames of item '{each.item}', which must not "
                f"be scored; add `skip: {sorted({*each.skip, *unskipped})}` to `applied: {each.name}`"
            )


def _check_count(applied: Applied, count: int) -> None:
    from pipeline.media.video import list_images

    folder = concept_of(applied.concept)[1].references / "images"
    found = len(list_images(folder)) if folder.is_dir() else count
    if found != count:
        raise UsageError(
            f"videos.yaml: concept '{applied.concept}' has {found} references; let the number at the end of its key be "
            "theirs"
        )

"""What VidSeg's context model makes of a concept's references: labels of the nearest tokens, with nothing learned.

Neither paper has this row of `vidseg table smite`. It is no stage of the pipeline: the table computes it from the
stores of an experiment, with the stages' own functions.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from stages import evaluate, segment, upsample
from stages.commands import reference_context
from stages.common import backbones, cli
from stages.common.applied import Applied
from stages.common.layout import Place, item_videos, videos_of
from stages.common.settings import Settings, load
from stages.tables import experiments
from stages.tables.experiments import PARAMS, Cost, Experiment, Result

if TYPE_CHECKING:
    from pipeline.backbone import Backbone

#: What segmenting and upsampling took, beside the scores; the last file that is written.
COST = "cost.json"
#: What it needs of an experiment, below data/.
STORES = (
    *("ingest/{item}/clip.zarr", "ingest/{item}/truth.zarr", "extract/{item}/features.zarr"),
    *("extract/{item}/latents.zarr", "correspond/{item}/matches.zarr", "track/{name}/tracks.zarr"),
    "references/{concept}/refs.zarr",
)


def read(experiment: Experiment, costs: Mapping[str, Cost], applied: Sequence[Applied], folder: Path) -> Result:
    """Scores and costs of what is applied.

    Args:
        experiment: finished; made the stores.
        folder: keeps the scores, one folder per name; those that are there are not made again.
    """
    from pipeline.scoring.files import parse

    settings, folder = load(PARAMS, experiment.sets), folder / experiment.mark
    revision = experiments.finished()[experiment.mark]
    backbone: Backbone | None = None
    for each in applied:
        if (folder / each.name / COST).is_file():
            continue
        backbone = backbone or backbones.load_backbone(settings["backbone"])
        data = folder / "tmp"
        shutil.rmtree(data, ignore_errors=True)  # of an interrupted call
        names = {"item": each.item, "name": each.name, "concept": each.concept}
        experiments.fetch(revision, [store.format(**names) for store in STORES], data)
        cli.note(f"references of '{each.concept}' propagated to '{each.item}'")
        _run(each, settings, data, folder / each.name, backbone)
        shutil.rmtree(data)
    paths = {each.name: folder / each.name / "scores.json" for each in applied}
    seconds, memory = experiments.spent(experiment, costs)
    own = {name: Cost(**json.loads(path.with_name(COST).read_text())) for name, path in paths.items()}
    return Result(
        revision,
        {name: parse(path, path.read_text()) for name, path in paths.items()},
        {name: before + own[name].seconds for name, before in seconds.items()},
        {name: max(before, held) for name, before in memory.items() if (held := own[name].memory) is not None},
    )


def _run(applied: Applied, settings: Settings, data: Path, out: Path, backbone: Backbone) -> None:
    from pipeline.scoring.files import write_json

    made, jobs, seconds = data / "propagated", [], 0.0
    size = item_videos(applied.item)[0].get("resize", settings["ingest"].size)
    seen = Settings({**settings.sections, "ingest": replace(settings["ingest"], size=size)})
    refs = data / "references" / applied.concept / "refs.zarr"
    known = reference_context.fit_references(refs, made / "known", seen, backbone)
    for video in videos_of(applied.item, data=data):
        ingested, extracted, matched = (
            Place(data / s / applied.item, video) for s in ("ingest", "extract", "correspond")
        )
        place, started = Place(made, video), time.monotonic()
        coarse = segment.run(
            extracted / "features.zarr", matched / "matches.zarr", place, settings["segment"], context=known
        )
        labels = upsample.run(
            ingested / "clip.zarr", extracted / "latents.zarr", coarse, place, settings["upsample"],
            settings["diffusion"], settings["backbone"], backbone,
        )  # fmt: skip
        seconds += time.monotonic() - started
        jobs.append(
            evaluate.Job(
                video or applied.name,
                labels,
                ingested / "truth.zarr",
                tracks=Place(data / "track" / applied.name, video) / "tracks.zarr",
                skip=evaluate.skipped_positions(applied, video, data),
            )
        )
    evaluate.run_videos(jobs, out, settings["evaluate"])
    write_json(out / COST, asdict(Cost(round(seconds, 3), cli.peak_memory_mb())))

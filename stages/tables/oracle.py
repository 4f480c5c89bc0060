"""What upsampling alone loses: the ground truth as the coarse map, through each upsampler.

An oracle is a measuring device of `vidseg table errors`, not part of the pipeline: no stage of it reads ground truth
before evaluate, no parameter leads here, and its stores say what they are.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages import evaluate, upsample
from stages.common import backbones, cli
from stages.common.layout import Place, videos_of
from stages.common.settings import Settings
from stages.tables import experiments

if TYPE_CHECKING:
    from pipeline.backbone import Backbone

UPSAMPLERS = ("nearest", "bilinear", "joint_bilateral", "modulation")
#: What it needs of an experiment, below data/.
STORES = ("ingest/{}/clip.zarr", "ingest/{}/truth.zarr", "extract/{}/latents.zarr", "segment/{}/coarse.zarr")


def run(revision: str, items: Sequence[str], settings: Settings, folder: Path) -> dict[str, dict[str, dict[str, Any]]]:
    """Upsampler -> item -> content of scores.json, for the videos of a finished experiment.

    Args:
        revision: the experiment's commit; its clips, latents and token grids are used, not its labels.
        items: those of the experiment.
        settings: its parameters.
        folder: keeps the scores, one folder per upsampler and item; those that are there are not made again.
    """
    from pipeline.scoring.files import parse

    backbone: Backbone | None = None
    for key in items:
        missing = [method for method in UPSAMPLERS if not _scores(folder, method, key).is_file()]
        if not missing:
            continue
        if backbone is None and "modulation" in missing:
            backbone = backbones.load_backbone(settings["backbone"])
        data = folder / "tmp"
        shutil.rmtree(data, ignore_errors=True)  # of an interrupted call
        experiments.fetch(revision, [store.format(key) for store in STORES], data)
        for method in missing:
            cli.note(f"ground truth as the coarse map of '{key}', upsampled by {method}")
            _run_item(key, method, settings, data, _scores(folder, method, key).parent, backbone)
        shutil.rmtree(data)
    return {
        method: {key: parse(_scores(folder, method, key), _scores(folder, method, key).read_text()) for key in items}
        for method in UPSAMPLERS
    }


def write_coarse(truth: Path, coarse: Path, out: Path | Place) -> Path:
    """The ground truth on the token grid of a coarse store; returns the path of the oracle's own coarse.zarr.

    Ignored tokens take the nearest class. A frame without ground truth gets one label.
    """
    import numpy as np

    from pipeline.scoring.coarse_truth import coarse_truth
    from pipeline.segmentation.stores import CoarseWriter, store_grid
    from pipeline.stores.schemas import COARSE, TRUTH
    from pipeline.stores.store import fingerprint, open_store, shard_frames

    known, template = open_store(truth, TRUTH), open_store(coarse, COARSE)
    grid, frames = store_grid(template), template.frames("refined")
    places = {int(position): index for index, position in enumerate(known.attrs["indices"])}
    highest = int(np.iinfo(known.array("ground_truth").dtype).max)
    writer = CoarseWriter(
        out / "coarse.zarr",
        out / "tmp",
        fingerprint("oracle", known.fingerprint, template.fingerprint),
        source=template,
        features=template.attrs["features"],
        frames=range(frames),
        shard=shard_frames(template.array("refined")),
        highest=highest,
        params={**template.params, "segment": {"oracle": "ground truth"}},
    )
    for frame in range(frames):
        labels = np.zeros((1, *grid), np.int64)
        if frame in places:
            plane = known.read("ground_truth", places[frame], places[frame] + 1)[0]
            labels[0] = coarse_truth(plane, grid, known.attrs["ignore"])
        writer.add(labels, labels)
    return writer.commit()


def _run_item(key: str, method: str, settings: Settings, data: Path, out: Path, backbone: Backbone | None) -> None:
    params = replace(settings["upsample"], method=method, confidence=False)
    jobs = []
    for video in videos_of(key, data=data):
        clip, truth, latents, coarse = (
            Place(data / stage / key, video) / name for stage, _, name in (store.split("/") for store in STORES)
        )
        made = Place(data / "oracle" / method / key, video)
        labels = upsample.run(
            clip, latents, write_coarse(truth, coarse, made), made, params,
            settings["diffusion"], settings["backbone"], backbone,
        )  # fmt: skip
        jobs.append(evaluate.Job(video or key, labels, truth))
    # Labels are classes already.
    evaluate.run_videos(jobs, out, replace(settings["evaluate"], assignment="none", objects="none"))


def _scores(folder: Path, method: str, key: str) -> Path:
    return folder / method / key / "scores.json"

"""What a video costs before anything is computed: arithmetic, memory, cache, and time on this machine."""

from __future__ import annotations

import json
import math
import re
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline.errors import UsageError
from stages.common import cli
from stages.common.printing import counted, text_table
from stages.common.settings import Settings, at_learned_size, load

if TYPE_CHECKING:
    from pipeline.backbone import Backbone
    from pipeline.cost.counting import Workload
    from pipeline.encoder.base import Encoder

Size = tuple[int, int]
STAGES = ("ingest", "extract", "correspond", "segment", "upsample")
#: Column -> its head, what it is divided by, and how it is written.
COLUMNS = {
    "tflop_per_frame": ("TFLOP", 1, ".3f"),
    "memory_gb": ("memory GB", 1, ".2f"),
    "cache_bytes_per_frame": ("cache MB", 1e6, ".3f"),
    "seconds_per_frame": ("seconds", 1, ".2f"),
}


def workload(settings: Settings, size: Size, source_size: Size) -> Workload:
    """What the parameters ask for, at these sizes (H, W) of the model and of the source."""
    import torch

    from pipeline.cost.counting import Workload
    from stages.common import encoders
    from stages.common.small_decoder import small_decoder_config

    diffusion, extract, upsample = (settings[section] for section in ("diffusion", "extract", "upsample"))
    small = small_decoder_config(upsample, settings["backbone"])
    encoder = encoders.loaded(settings, torch.device("meta"))
    return Workload(size, source_size, settings["segment"].clusters, diffusion, extract, upsample, encoder, small)


def seconds_per_frame(
    backbone: Backbone, load: Workload, encoder: Encoder | None, frames: float = math.inf
) -> dict[str, float]:
    """Seconds of extract and of upsample for one frame, by a short calibration on this machine.

    Args:
        frames: of the clip; a short one's calibration is shorter.
    """
    from pipeline.cost.counting import samples_per_frame
    from pipeline.cost.timing import calibrate, encoder_seconds
    from pipeline.features.steps import feature_schedule, remaining_steps

    small, seen = load.small_decoder(backbone.device), load.seen.size
    features = feature_schedule(load.extract, load.diffusion)
    # What upsampling denoises is timed where it denoises, else what extract does.
    costs = calibrate(backbone, load.size, load.diffusion if load.rules else features, load.rules, small, frames)
    growth = seen[0] * seen[1] / (load.size[0] * load.size[1])
    steps = len(remaining_steps(features))
    timed = len(load.rules.steps) if load.rules else steps
    extract = costs.encode
    if load.extract.parts == "both":
        latents = costs.encode if growth > 1 else 0.0
        extract = growth * (costs.encode + costs.clean * steps / timed) + latents
    if encoder is not None:
        extract += encoder_seconds(encoder, backbone.device, seen)
    return {"extract": extract, "upsample": costs.upsample(samples_per_frame(backbone, load))}


def collect(settings: Settings, source_size: Size, timed: bool) -> dict[str, Any]:
    """All findings as plain values, for frames of the source's size (H, W).

    Args:
        timed: whether to calibrate; it takes some seconds.
    """
    from pipeline.backbone.outline import filled, networks
    from pipeline.cost import counting as cost
    from pipeline.media.resize import model_size
    from stages.common import backbones, encoders
    from stages.common.provenance import check_backbone

    outline = backbones.outline(settings["backbone"])
    task = workload(settings, model_size(*source_size, settings["ingest"].size), source_size)
    check_backbone(settings, outline)
    if task.rules is not None:
        task.rules.check()
    weights = cost.weight_bytes(*networks(outline), *([task.encoder.network] if task.encoder else []))
    flops, peaks = cost.flops_per_frame(outline, task), cost.peak_bytes(outline, task)
    cache = cost.cache_bytes(outline, task, settings["extract"].dtype)
    device = backbones.choose_device()
    backbone = filled(outline, device) if timed else None
    seconds = {} if backbone is None else seconds_per_frame(backbone, task, encoders.loaded(settings, device))
    stages: dict[str, dict[str, float]] = {}
    for stage in STAGES:
        stages[stage] = {"cache_bytes_per_frame": cache[stage]}
        if stage in flops:
            stages[stage]["tflop_per_frame"] = sum(flops[stage].values()) / 1e12
            stages[stage]["memory_gb"] = (weights + peaks[stage]) / 1e9
        if stage in seconds:
            stages[stage]["seconds_per_frame"] = seconds[stage]
    windows: dict[str, Any] = {}
    if task.rules is not None:
        plain = cost.plain_schedule(outline, task)
        windows = {
            "window": task.together,
            "plain_schedule": {"denoiser_calls": plain.denoiser_calls, "tflop_per_window": plain.flops / 1e12},
        }
    return {
        "backbone": outline.name,
        "encoder": settings["extract"].encoder,
        "device": str(device),
        "dtype": backbones.dtype_name(settings["backbone"]),
        "model_size": list(task.size),
        "labels": task.labels,
        "guidance": task.diffusion.guidance,
        "upsample_guidance": None if task.rules is None else task.rules.denoising.guidance,
        "weights_gb": weights / 1e9,
        **windows,
        "stages": stages,
        **_shown(outline, task, settings, backbone),
    }


def _shown(outline: Backbone, task: Workload, settings: Settings, backbone: Backbone | None) -> dict[str, Any]:
    """What segments cost that a person shows, with a model that can learn them.

    Args:
        backbone: to be timed; None = nothing is.
    """
    from pipeline.backbone import PredictsNoise
    from pipeline.cost import concepts
    from pipeline.media.resize import model_size

    if not isinstance(outline, PredictsNoise):
        return {}
    maps, side = settings["maps"], settings["learn"].size
    size = model_size(*task.source_size, at_learned_size(settings, side)["ingest"].size)
    shown = (side, side) if settings["learn"].shape == "square" else model_size(*task.source_size, side)
    learning, applying = (concepts.Sight(outline, maps, task.labels, one) for one in (shown, size))
    sections = settings["apply"], settings["guidance"]
    flops = concepts.applying_flops(applying, *sections)
    learn: dict[str, Any] = {
        "tflop_per_step": concepts.learning_flops(learning) / 1e12,
        "steps_per_reference": settings["learn"].epochs,
        "most_steps": settings["learn"].most_iterations,
    }
    apply: dict[str, Any] = {
        "model_size": list(size),
        **{f"{name}_tflop_per_frame": count / 1e12 for name, count in flops.items()},
    }
    if backbone is not None:
        learn["seconds_per_step"] = concepts.learning_seconds(backbone, learning)
        apply["seconds_per_frame"] = concepts.applying_seconds(backbone, applying, *sections)
    return {"learn": learn, "apply": apply}


def main(
    backbone: Annotated[
        str | None, typer.Option(help="name of a backbone (backbone.name), whose weights need not be there")
    ] = None,
    size: Annotated[str, typer.Option(metavar="HxW", help="frame size of the video")] = "480x854",
    labels: Annotated[int | None, typer.Option(help="number of segments K (segment.clusters)")] = None,
    time: Annotated[
        bool, typer.Option(help="time a short calibration on this machine, which takes some seconds")
    ] = True,
    preset: cli.PresetOption = None,
    params: cli.ParamsOption = None,
    set_: cli.SetOption = None,
    as_json: cli.JsonOption = False,
) -> None:
    """Estimate arithmetic, memory, cache and time per frame and stage, without computing anything.

    A multiplication with its addition counts as 2 operations.

    Example: vidseg cost --backbone sd21 --size 448x832 --labels 20
    """
    sets = list(set_ or ())
    sets += [f"backbone.name={backbone}"] if backbone is not None else []
    sets += [f"segment.clusters={labels}"] if labels is not None else []
    found = collect(load(params, sets, preset), _parse_size(size), time)
    print(json.dumps(found, indent=2) if as_json else _table(found))


def _parse_size(text: str) -> Size:
    given = re.fullmatch(r"([1-9][0-9]{0,5})x([1-9][0-9]{0,5})", text)
    if given is None:
        raise UsageError(f"--size must be HxW in pixels, e.g. 480x854, not '{text}'")
    return int(given[1]), int(given[2])


def _table(found: dict[str, Any]) -> str:
    height, width = found["model_size"]
    upsample_guidance = found["upsample_guidance"]
    other = f" (upsample: {upsample_guidance:g})" if upsample_guidance not in (None, found["guidance"]) else ""
    head = (
        f"{found['backbone']} at {width}x{height}, {found['labels']} labels, guidance {found['guidance']:g}{other}, "
        f"{found['dtype']} on {found['device']}; per frame:"
    )
    totals = {name: [stage[name] for stage in found["stages"].values() if name in stage] for name in COLUMNS}
    largest = {"memory_gb": max(totals["memory_gb"], default=0)}
    whole = {name: largest.get(name, sum(values)) for name, values in totals.items() if values}
    rows = [
        [
            stage,
            *(
                format(values[name] / unit, form) if name in values else None
                for name, (_, unit, form) in COLUMNS.items()
            ),
        ]
        for stage, values in (*found["stages"].items(), ("all", whole))
    ]
    lines = [head, "", text_table(rows, ["stage", *(title for title, *_ in COLUMNS.values())], left=(0,))]
    if "plain_schedule" in found:
        plain = found["plain_schedule"]
        lines += [
            "",
            f"a window is {counted(found['window'], 'frame')}; with nothing shared it would be "
            f"{plain['denoiser_calls']} denoiser calls and {plain['tflop_per_window']:.0f} TFLOP",
        ]
    if "learn" in found:
        learned, applied = found["learn"], found["apply"]
        height, width = applied["model_size"]
        moved = applied.get("guidance_tflop_per_frame")
        views = f", {applied['views_tflop_per_frame']:.3f} for its parts" if "views_tflop_per_frame" in applied else ""
        guided = f" and {moved:.3f} of guidance" if moved is not None else ", without guidance"
        lines += [
            "",
            "segments that are shown:",
            f"learn  {learned['tflop_per_step']:.3f} TFLOP per step{_seconds(learned, 'seconds_per_step')}, "
            f"{learned['steps_per_reference']} steps per reference"
            + (f", {learned['most_steps']} at most" if learned["most_steps"] else ""),
            f"apply  at {width}x{height}: {applied['passes_tflop_per_frame']:.3f} TFLOP per frame of passes"
            f"{views}{guided}{_seconds(applied, 'seconds_per_frame')}",
        ]
    return "\n".join(lines)


def _seconds(found: dict[str, Any], name: str) -> str:
    return f", {found[name]:.2f} seconds" if name in found else ""

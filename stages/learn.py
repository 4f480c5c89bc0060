"""refs.zarr -> concept/: segments that a person drew in a few images, learned."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.errors import DataError, UsageError
from pipeline.parameters import BackboneParams, LearnParams, MapsParams
from stages import references
from stages.common import cli
from stages.common.applied import concept_of
from stages.common.backbones import in_single_precision, segment_model
from stages.common.layout import DATA
from stages.common.printing import counted
from stages.common.resources import stage_version
from stages.common.settings import Settings, load, plain

if TYPE_CHECKING:
    from pipeline.backbone import Backbone
    from pipeline.fewshot.learning import Plan, Step
    from pipeline.fewshot.references import References
    from stages.common.backbones import DeferredBackbone


def run(
    refs: Path,
    folder: Path,
    params: LearnParams,
    maps: MapsParams,
    backbone_params: BackboneParams,
    given: Backbone | DeferredBackbone | None = None,
    progress: cli.Progress = cli.steps,
) -> Path:
    """Learn a concept; returns its folder.

    Args:
        refs: refs.zarr.
        given: the backbone, of callers that have it at hand; None: the one that the parameters name.
    """
    from pipeline.fewshot import concept_store
    from pipeline.fewshot.reference_store import read_stored_references
    from pipeline.files import refuse_foreign
    from pipeline.stores.schemas import REFS
    from pipeline.stores.store import fingerprint, open_store
    from stages.common import backbones

    refuse_foreign(folder, concept_store.MARK)
    store, backbone_params = open_store(refs, REFS), in_single_precision(backbone_params)
    model = backbones.model_of(backbone_params, given)
    stored = {
        "learn": plain(params),
        "maps": plain(maps),
        "backbone": {"name": backbone_params.name, "dtype": backbones.dtype_name(backbone_params)},
    }
    words = None if params.init == "random" else backbones.words_hash(backbone_params)
    mark = fingerprint(
        "learn", stage_version("learn"), store.fingerprint, stored, model.fingerprint, *([words] if words else [])
    )
    if concept_store.is_current_concept(folder, mark):
        _warn(read_stored_references(store), params, concept_store.learned_grid(folder))
        return folder
    # These import torch, which takes seconds: not where there is nothing to do.
    from pipeline.fewshot.concept import Concept
    from pipeline.fewshot.learning import Plan, learn
    from pipeline.fewshot.tokens import first_context

    drawn, backbone = read_stored_references(store), segment_model(model.load())
    size, table = drawn.model_size(params), drawn.table
    _warn(drawn, params, _grid(drawn, params, backbone))
    numbers = [table.numbers(labels) for labels in drawn.labels]
    first_context(backbone, table, params)  # what does not fit is refused before anything is timed
    plan = Plan(len(drawn.images), params)
    if why := _why_untuned(plan):
        cli.note(f"learn: none of {counted(plan.iterations, 'step')} tunes weights{why}")
    with progress("learn", plan.iterations) as advance:

        def seen(step: Step) -> None:
            if not math.isfinite(step.total):
                raise _diverged(folder, f" at step {step.iteration + 1} of {step.iterations}")
            advance(1)

        learned = learn(backbone, drawn.images, numbers, size, table, params, maps, seen)
    if not learned.state.is_finite:
        raise _diverged(folder, " at its last step")
    held = "" if learned.holdout_iou is None else f", with those held out {learned.holdout_iou:.2f}"
    cli.note(f"learn: mean IoU with its own references {learned.reference_iou:.2f}{held}")
    concept = Concept.of(learned, table, drawn.names, backbone, params, maps, params.precision)
    return concept_store.save_concept(folder, concept, mark, store.fingerprint, stored)


def _warn(drawn: References, params: LearnParams, grid: tuple[int, int]) -> None:
    """Say what will hardly be learned on a grid (h, w); refuses what cannot be."""
    from pipeline.fewshot.references import warnings_about

    for warning in warnings_about(drawn.first(params.taught(len(drawn.images))), grid):
        cli.warn(warning)


def _grid(drawn: References, params: LearnParams, backbone: Backbone) -> tuple[int, int]:
    height, width = drawn.model_size(params)
    return height // backbone.latent_stride, width // backbone.latent_stride


def _diverged(folder: Path, when: str) -> DataError:
    return DataError(
        f"{folder}: learning diverged{when}, nothing is written; lower learn.lr_tokens, learn.lr_weights and "
        "learn.lr_tokens_phase2"
    )


def run_references(
    given: Path, out: Path, settings: Settings, classes: Path | None = None, dry_run: bool = False
) -> Path:
    """Learn a concept from a folder of annotated images, or from refs.zarr; says first what it will take.

    Args:
        classes: class list of a folder's labels.
        dry_run: only print what would be done.
    """
    from pipeline.fewshot.concept_store import MARK
    from pipeline.files import refuse_foreign
    from stages.common import backbones

    refuse_foreign(out, MARK)
    model = backbones.model_of(in_single_precision(settings["backbone"]), None)
    with references.as_store(given, classes) as refs:
        if dry_run:
            _print_plan(references.drawn_in(refs), out, settings, model.load())
            return out
        shown = cli.announced(lambda: cli.note(_estimate(references.drawn_in(refs), settings, model.load())), cli.steps)
        return run(refs, out, settings["learn"], settings["maps"], settings["backbone"], model, shown)


def _print_plan(drawn: References, out: Path, settings: Settings, backbone: Backbone) -> None:
    from pipeline.fewshot.learning import Plan
    from pipeline.fewshot.tokens import first_context

    first_context(segment_model(backbone), drawn.table, settings["learn"])
    _warn(drawn, settings["learn"], _grid(drawn, settings["learn"], backbone))
    (height, width), plan = drawn.model_size(settings["learn"]), Plan(len(drawn.images), settings["learn"])
    tuned = f"the last {plan.tuning} tune weights too" if plan.tuning else f"none tunes weights{_why_untuned(plan)}"
    lines = [
        f"segments   {len(drawn.table)}: {', '.join(drawn.table.names)}",
        f"backbone   {backbone.name} {backbone.fingerprint[:12]} on {backbone.device}",
        f"model size {width}x{height}",
        f"steps      {plan.iterations}, of which {tuned}",
        f"estimate   {_estimate(drawn, settings, backbone)}",
        f"outputs    {out}/concept.zarr{', adapter.safetensors' if plan.tuning else ''}",
    ]
    print("\n".join(map(cli.printable, lines)))


def _why_untuned(plan: Plan) -> str:
    """In brackets, where weights were to be tuned, which is done last, and too few steps are asked for: else empty."""
    params = plan.params
    if params.tune == "none" or plan.tuning:
        return ""
    if (epochs := params.parity.phase1_epochs) is not None:
        return f" (learn.parity.phase1_epochs is {epochs})"
    return f" (learn.phase1_iterations is {params.phase1_iterations})"


def _estimate(drawn: References, settings: Settings, backbone: Backbone) -> str:
    from pipeline.fewshot.learning import Plan
    from stages.commands import estimates

    images, size = len(drawn.images), drawn.model_size(settings["learn"])
    plan = Plan(images, settings["learn"])
    takes = estimates.of_learning(images, len(drawn.table), size, settings, backbone)
    return f"{counted(images, 'picture')}, {counted(plan.iterations, 'step')}: {takes}"


def run_item(item: str, settings: Settings) -> None:
    """Learn a concept of videos.yaml."""
    from stages.common import backbones

    key, _ = concept_of(item)
    model = backbones.locked(in_single_precision(settings["backbone"]))
    run(
        DATA / "references" / key / "refs.zarr",
        DATA / "learn" / key / "concept",
        settings["learn"],
        settings["maps"],
        settings["backbone"],
        model,
    )


app = cli.new_app("Learn segments from a few annotated images -> concept/.")


@app.command()
def main(
    refs: Annotated[
        Path | None,
        typer.Argument(metavar="[REFS]", help="folder with images/ and labels/, or refs.zarr"),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="folder for the concept")] = None,
    classes: references.ClassesOption = None,
    dry_run: cli.DryRunOption = False,
    preset: cli.PresetOption = None,
    params: cli.ParamsOption = None,
    set_: cli.SetOption = None,
    item: cli.ConceptOption = None,
) -> None:
    """Learn segments from a few annotated images: REFS -> concept/.

    Example: vidseg learn cars -o concepts/cars
    """
    if refs is not None and out is not None:
        run_references(refs, out, load(params, set_ or (), preset), classes, dry_run)
    elif item is not None:
        given = {"REFS": refs, "--out": out, "--classes": classes, "--dry-run": dry_run}
        cli.refuse_beside_item(given)
        run_item(item, load(params, set_ or (), preset))
    else:
        raise UsageError("give REFS and -o OUT, or --item KEY")


if __name__ == "__main__":
    cli.run_app(app)

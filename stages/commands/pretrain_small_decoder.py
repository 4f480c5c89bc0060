"""Image shards or a folder of images, and a model folder -> its small_decoder/, for `upsample.fast.decode: small`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.parameters import BackboneParams, param
from stages.commands.pretrain import images_in, load_section
from stages.common import cli

if TYPE_CHECKING:
    from pipeline.training.small_decoder import SmallDecoderSettings

SECTION = "pretrain_small_decoder"


@dataclass(frozen=True)
class Params:
    """Section `pretrain_small_decoder` of the file given with --params; no part of params.yaml."""

    minutes: float = param(40.0, "wall minutes", low=0.0)
    channels: int = param(32, "width of all layers", low=1)
    blocks: tuple[int, ...] = param((3, 3, 1, 0), "blocks of three convolutions at 1/8, 1/4, 1/2 and full size")
    batch: int = param(4, "crops per step, each decoded twice", low=1)
    crop: int = param(96, "side of a crop in pixels, a multiple of 8", low=32)
    rate: float = param(2e-3, "peak learning rate", low=0.0)
    difference_weight: float = param(1.0, "weight of differences beside images", low=0.0)
    held_out_every: int = param(50, "every n-th row of index.csv is held back for the figures", low=2)
    seed: int = param(0, "seed of weights, crops and perturbations", low=0)


def run(images: Path, model: Path, work: Path, params: Params) -> Path:
    """Train on a folder of images; an interrupted run is continued. Returns the folder `model/small_decoder`."""
    from pipeline.backbone.files import SMALL_DECODER
    from pipeline.backbone.small_decoder import load_small_decoder
    from pipeline.training.data import held_out_names
    from pipeline.training.export import export_small_decoder
    from pipeline.training.loop import Budget
    from pipeline.training.small_decoder import imitation, train_small_decoder
    from stages.common.backbones import load_backbone

    backbone = load_backbone(BackboneParams(path=str(model)))
    training, held_out = images_in(images).split(held_out_names(images, every=params.held_out_every))
    budget = Budget(minutes=params.minutes)
    trained = train_small_decoder(backbone, training, settings(params), budget, work, cli.note)
    out = export_small_decoder(trained, model / SMALL_DECODER)
    if held_out.images:
        found = imitation(backbone, load_small_decoder(out, backbone.device), held_out)
        cli.note(
            f"{len(held_out.images)} held-back images: {found.psnr:.2f} dB against the model's own decoder, "
            f"difference maps correlate by {found.correlation:.3f}"
        )
    cli.note(f"{out}: written ({training.unreadable} unreadable images skipped)")
    return out


def settings(params: Params) -> SmallDecoderSettings:
    """The library's settings for these parameters."""
    from pipeline.training.small_decoder import SmallDecoderSettings

    return SmallDecoderSettings(
        channels=params.channels,
        blocks=params.blocks,
        crop=params.crop,
        batch=params.batch,
        difference_weight=params.difference_weight,
        rate=params.rate,
        seed=params.seed,
    )


app = cli.new_app(
    "Train a small decoder that imitates a model's decoder: images, model folder -> small_decoder/ in it."
)


@app.command()
def main(
    images: Annotated[Path, typer.Argument(help="folder of .tar shards of images, or of images")],
    model: Annotated[Path, typer.Argument(help="diffusers folder of an image model, e.g. models/mine")],
    work: Annotated[Path | None, typer.Option(help="folder of the checkpoint; default MODEL/work")] = None,
    minutes: Annotated[
        float | None, typer.Option(help="time limit in minutes; wins over pretrain_small_decoder.minutes")
    ] = None,
    params: cli.ParamsOption = None,
    set_: cli.SetOption = None,
) -> None:
    """Train a small decoder that imitates a model's decoder: images, model folder -> small_decoder/ in it.

    Example: vidseg pretrain-small-decoder photos models/mine --minutes 40
    """
    given = [*(set_ or ()), *([f"{SECTION}.minutes={minutes}"] if minutes is not None else [])]
    run(images, model, work or model / "work", load_section(SECTION, Params, params, given))


if __name__ == "__main__":
    cli.run_app(app)

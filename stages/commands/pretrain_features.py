"""Image shards or a folder of images, and a model of `vidseg pretrain` -> the same model with better features."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.encoder.locate import EMBEDDED
from pipeline.errors import UsageError
from pipeline.parameters import BackboneParams, ExtractParams, param
from stages.commands.pretrain import images_in, load_section
from stages.common import cli

if TYPE_CHECKING:
    from pipeline.training.distillation import DistillationSettings

SECTION = "pretrain_features"


@dataclass(frozen=True)
class Params:
    """Section `pretrain_features` of the file given with --params; no part of params.yaml."""

    minutes: float = param(60.0, "wall minutes, after what the encoder says about the images was computed", low=0.0)
    encoder: str = param(EMBEDDED, "image encoder that teaches: efficientnet_lite0 (embedded) or a folder")
    encoder_scale: float = param(2.0, "efficientnet_lite0 sees pictures this many times larger", low=0.25, high=4.0)
    encoder_weight: float = param(2.0, "weight of the encoder beside the features that the model has", low=0.0)
    batch: int = param(8, "views of 24x24 latents per step; of other sizes, as many as cost the same", low=2)
    rate: float = param(1e-3, "peak learning rate", low=0.0)
    held_out_every: int = param(50, "every n-th row of index.csv is held back for the figures", low=2)
    seed: int = param(0, "seed of views, timesteps and noise", low=0)


def run(images: Path, model: Path, out: Path, work: Path, params: Params) -> Path:
    """Train on a folder of images and write the diffusers folder `out`; an interrupted run is continued."""
    from pipeline.encoder.load import load_encoder
    from pipeline.training.data import held_out_names
    from pipeline.training.distillation import distil
    from pipeline.training.export import export, read_networks
    from pipeline.training.loop import Budget
    from stages.common import encoders
    from stages.common.backbones import choose_device

    extract = ExtractParams(encoder=params.encoder, encoder_scale=params.encoder_scale)
    source = encoders.find(extract, BackboneParams(path=str(model)))
    if source is None:
        raise UsageError(f"{SECTION}.encoder is none; set {EMBEDDED} or a folder")
    training, held_out = images_in(images).split(held_out_names(images, every=params.held_out_every))
    device = choose_device()
    denoiser, autoencoder = read_networks(model)
    denoiser, autoencoder = denoiser.to(device), autoencoder.to(device)
    teacher, budget = load_encoder(source, extract, device), Budget(minutes=params.minutes)
    result = distil(denoiser, autoencoder, teacher, training, held_out, settings(params), budget, work, cli.note)
    export(result.denoiser, autoencoder, out)
    if result.before is not None:
        cli.note(f"agreement with held-back targets: {result.before:.3f} before, {result.after:.3f} after")
    cli.note(f"{out}: written ({training.unreadable} unreadable images skipped)")
    return out


def settings(params: Params) -> DistillationSettings:
    """The library's settings for these parameters."""
    from pipeline.training.distillation import DistillationSettings
    from pipeline.training.examples import ExampleSettings

    return DistillationSettings(
        examples=ExampleSettings(latents_per_batch=params.batch * 24 * 24),
        encoder_weight=params.encoder_weight,
        rate=params.rate,
        seed=params.seed,
    )


app = cli.new_app("Teach a model's features what an image encoder knows: images, model folder -> a diffusers folder.")


@app.command()
def main(
    images: Annotated[Path, typer.Argument(help="folder of .tar shards of images, or of images")],
    model: Annotated[Path, typer.Argument(help="diffusers folder that `vidseg pretrain` wrote")],
    out_dir: Annotated[Path, typer.Argument(help="diffusers folder to write, e.g. models/mine")],
    work: Annotated[Path | None, typer.Option(help="folder of the checkpoints; default OUT_DIR/work")] = None,
    minutes: Annotated[
        float | None, typer.Option(help="time limit in minutes; wins over pretrain_features.minutes")
    ] = None,
    params: cli.ParamsOption = None,
    set_: cli.SetOption = None,
) -> None:
    """Teach a model's features what an image encoder knows: images, model folder -> a diffusers folder.

    Example: vidseg pretrain-features photos models/mine models/taught --minutes 60
    """
    given = [*(set_ or ()), *([f"{SECTION}.minutes={minutes}"] if minutes is not None else [])]
    run(images, model, out_dir, work or out_dir / "work", load_section(SECTION, Params, params, given))


if __name__ == "__main__":
    cli.run_app(app)

"""Image shards or a folder of images -> a diffusers folder: train the embedded backbone `compact` anew."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from pipeline.errors import UsageError
from pipeline.parameters import param
from stages.common import cli, yaml_files
from stages.common.printing import counted
from stages.common.settings import from_mapping

if TYPE_CHECKING:
    from pipeline.training.compact import PretrainSettings
    from pipeline.training.data import ImageSet

Section = TypeVar("Section")


@dataclass(frozen=True)
class Params:
    """Section `pretrain` of the file given with --params; no part of params.yaml."""

    minutes: float = param(120.0, "wall minutes of all phases together", low=0.0)
    start: str = param("", "diffusers folder whose weights training goes on from; empty = random weights")
    autoencoder_share: float = param(0.33, "share of the minutes for the autoencoder", low=0.0, high=1.0)
    decoder_share: float = param(0.12, "share of the minutes for its decoder at the end", low=0.0, high=1.0)
    autoencoder_channels: tuple[int, ...] = param((24, 48, 72, 96), "widths of the autoencoder, full size first")
    autoencoder_batch: int = param(16, "crops per step of the autoencoder", low=1)
    autoencoder_crop: int = param(96, "side of a crop in pixels, a multiple of 8", low=32)
    autoencoder_rate: float = param(2e-3, "peak learning rate of the autoencoder", low=0.0)
    denoiser_channels: tuple[int, ...] = param((48, 96, 160, 160), "widths of the denoiser, full size first")
    denoiser_pairs: int = param(16, "view pairs of 16x16 latents per step of the denoiser", low=2)
    decoder_rate: float = param(1e-3, "peak learning rate of the decoder at the end", low=0.0)
    denoiser_rate: float = param(1e-3, "peak learning rate of the denoiser", low=0.0)
    variants: int = param(3, "encodings of every image, each with another window and other colours", low=1)
    low_noise: float = param(0.8, "share of training timesteps below 200 of 1000", low=0.0, high=1.0)
    dense_weight: float = param(0.3, "weight of the self-supervised loss beside denoising", low=0.0)
    held_out_every: int = param(50, "every n-th row of index.csv is held back for the PSNR", low=2)
    seed: int = param(0, "seed of weights, crops and noise", low=0)


def run(images: Path, out: Path, work: Path, params: Params) -> Path:
    """Train on a folder of images and write the diffusers folder `out`; an interrupted run is continued."""
    from pipeline.training.compact import pretrain
    from pipeline.training.data import held_out_names
    from pipeline.training.export import export, read_start
    from pipeline.training.loop import Budget
    from stages.common.backbones import choose_device

    found = images_in(images)
    training, held_out = found.split(held_out_names(images, every=params.held_out_every))
    budget = Budget(minutes=params.minutes)
    start = read_start(Path(params.start)) if params.start else None
    result = pretrain(training, held_out, settings(params), budget, work, choose_device(), cli.note, start)
    export(result.denoiser, result.autoencoder, out)
    if result.psnr is not None:
        cli.note(f"reconstruction of the {len(held_out.images)} held-back images: {result.psnr:.2f} dB")
    cli.note(f"{out}: written ({result.unreadable} unreadable images skipped)")
    return out


def images_in(folder: Path) -> ImageSet:
    """The training images of a folder, as `read_images` reads them; warns of those that are left out."""
    from pipeline.training.data import read_images

    found = read_images(folder)
    if found.unreadable:
        cli.warn(f"{folder}: {counted(found.unreadable, 'image')} cannot be decoded and will be skipped")
    return found


def settings(params: Params) -> PretrainSettings:
    """The library's settings for these parameters."""
    from pipeline.training.autoencoder import AutoencoderSettings
    from pipeline.training.compact import PhaseSettings, PretrainSettings
    from pipeline.training.denoiser import DenoiserSettings
    from pipeline.training.views import ViewSettings

    denoiser_share = 1 - params.autoencoder_share - params.decoder_share
    if denoiser_share <= 0:
        raise UsageError("pretrain.autoencoder_share and pretrain.decoder_share leave no time for the denoiser")
    return PretrainSettings(
        autoencoder=AutoencoderSettings(
            channels=params.autoencoder_channels,
            crop=params.autoencoder_crop,
            batch=params.autoencoder_batch,
        ),
        views=ViewSettings(variants=params.variants, latents_per_batch=2 * params.denoiser_pairs * 16 * 16),
        denoiser=DenoiserSettings(
            channels=params.denoiser_channels,
            low_noise=params.low_noise,
            dense_weight=params.dense_weight,
        ),
        autoencoder_phase=PhaseSettings(params.autoencoder_share, params.autoencoder_rate),
        denoiser_phase=PhaseSettings(denoiser_share, params.denoiser_rate, 40),
        decoder_phase=PhaseSettings(params.decoder_share, params.decoder_rate, 50),
        seed=params.seed,
    )


def load_section(name: str, kind: type[Section], params_file: Path | None, sets: Iterable[str]) -> Section:
    """A section that is no part of params.yaml: of a YAML file, then `name.key=value` strings.

    Raises:
        UsageError: names a bad key, or the file has no such section.
    """
    values: dict[str, Any] = {}
    if params_file is not None:
        content = yaml_files.load(params_file, f"give a parameter file with a section `{name}`") or {}
        section = (content.get(name) or {}) if isinstance(content, dict) else None
        if not isinstance(section, dict):
            raise UsageError(f"{params_file}: not a parameter file with a section `{name}`")
        values = {str(key): value for key, value in section.items()}
    for text in sets:
        left, equals, value = text.partition("=")
        prefix, _, key = left.strip().partition(".")
        if prefix != name or not equals or not key:
            raise UsageError(f"--set {text}: expected {name}.key=value, e.g. --set {name}.seed=1")
        values[key] = yaml_files.parse(value, f"--set {text}: the value")
    found: Section = from_mapping(name, kind, values)
    return found


app = cli.new_app("Train the embedded backbone `compact` anew: images -> a diffusers folder.")


@app.command()
def main(
    images: Annotated[Path, typer.Argument(help="folder of .tar shards of images, or of images")],
    out_dir: Annotated[Path, typer.Argument(help="diffusers folder to write, e.g. models/mine")],
    work: Annotated[Path | None, typer.Option(help="folder of the checkpoints; default OUT_DIR/work")] = None,
    minutes: Annotated[float | None, typer.Option(help="time limit in minutes; wins over pretrain.minutes")] = None,
    params: cli.ParamsOption = None,
    set_: cli.SetOption = None,
) -> None:
    """Train the embedded backbone `compact` anew: images -> a diffusers folder.

    Example: vidseg pretrain photos models/mine --minutes 120
    """
    chosen = [*(set_ or ()), *([f"pretrain.minutes={minutes}"] if minutes is not None else [])]
    run(images, out_dir, work or out_dir / "work", load_section("pretrain", Params, params, chosen))


if __name__ == "__main__":
    cli.run_app(app)

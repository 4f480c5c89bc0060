"""Training of the embedded backbone `compact`: autoencoder, then denoiser, then the decoder once more.

Each phase has its own checkpoint in a work folder, so an interrupted run continues where it was. Nothing but
the networks comes out: `pipeline.training.export` writes them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch
from torch import nn

from pipeline.errors import DataError, UsageError
from pipeline.training.autoencoder import (
    AutoencoderLoss,
    AutoencoderSettings,
    build_autoencoder,
    freeze_encoder,
    psnr,
    standardise,
)
from pipeline.training.data import ImageSet
from pipeline.training.denoiser import Denoiser, DenoiserLoss, DenoiserSettings
from pipeline.training.loop import Budget, LoopSettings, Schedule, train, write_checkpoint
from pipeline.training.views import Cache, ViewSettings, encode_variants

Log = Callable[[str], None]


@dataclass(frozen=True)
class PhaseSettings:
    """One phase: its share of the minutes, peak learning rate and warm-up steps."""

    share: float
    rate: float
    warmup: int = 200


@dataclass(frozen=True)
class PretrainSettings:
    """Everything that decides the trained weights, apart from the images."""

    autoencoder: AutoencoderSettings = field(default_factory=AutoencoderSettings)
    views: ViewSettings = field(default_factory=ViewSettings)
    denoiser: DenoiserSettings = field(default_factory=DenoiserSettings)
    autoencoder_phase: PhaseSettings = PhaseSettings(0.33, 2e-3)
    denoiser_phase: PhaseSettings = PhaseSettings(0.55, 1e-3, 40)
    decoder_phase: PhaseSettings = PhaseSettings(0.12, 1e-3, 50)
    denoiser_side: int = 150
    seed: int = 0

    def __post_init__(self) -> None:
        if self.autoencoder.crop % 8 or any(n % 8 for size in self.views.sizes for n in size):
            raise UsageError("crops must be multiples of 8 px and view sizes multiples of 8 latents")
        if max(n for size in self.views.sizes for n in size) > self.views.side:
            raise UsageError(f"view sizes must fit into {self.views.side} latents (views.side)")


@dataclass(frozen=True)
class Start:
    """Weights that training goes on from instead of random ones: state dicts of the two networks."""

    denoiser: dict[str, torch.Tensor]
    autoencoder: dict[str, torch.Tensor]


@dataclass(frozen=True)
class Pretrained:
    """Trained networks, mean PSNR of the held-back images in dB (None without any), files skipped."""

    denoiser: Denoiser
    autoencoder: nn.Module
    psnr: float | None
    unreadable: int


def pretrain(
    images: ImageSet,
    held_out: ImageSet,
    settings: PretrainSettings,
    budget: Budget,
    work: Path,
    device: torch.device,
    log: Log = print,
    start: Start | None = None,
) -> Pretrained:
    """Train all parts within `budget` (minutes are divided between the phases; steps hold for each phase).

    Args:
        images: training images; the autoencoder uses those of at least a crop's size, the denoiser those of
            at least `settings.denoiser_side` pixels.
        held_out: images never trained on, for the PSNR.
        work: folder of the checkpoints.
        start: weights to go on from, of networks of the same shape; None = random ones.

    Raises:
        DataError: `start` does not fit the settings, too few or too small images, or training diverged.
        UsageError: `work` has checkpoints of other parameters or images.
        ResourceError: a checkpoint cannot be written.
    """
    identity = fingerprint(images, settings, budget, start)
    counts = len(images.images), len(held_out.images), images.unreadable
    log("{} images, {} held back, {} unreadable skipped".format(*counts))
    autoencoder, fresh = _networks(settings, start)
    _train_autoencoder(autoencoder.to(device), images, settings, budget, work, identity, log)
    large = images.at_least(settings.denoiser_side)
    if len(large.images) < 2:
        raise DataError("the denoiser needs two images or more: add images to the training folder")
    standardise(autoencoder, large.images[:: max(1, len(large.images) // 400)])
    cache = _cached_variants(autoencoder, large, settings, work / "latents.pt", identity, log)
    denoiser = _train_denoiser(fresh.to(device), cache, settings, budget, work, identity, log)
    _refine_decoder(autoencoder, images, settings, budget, work, device, identity, log)
    quality = psnr(autoencoder, held_out.images) if held_out.images else None
    return Pretrained(denoiser, autoencoder, quality, images.unreadable)


def fingerprint(images: ImageSet, settings: PretrainSettings, budget: Budget, start: Start | None = None) -> str:
    """Hash of image names and sizes, settings, budget and first weights: what a continued run must share."""
    names = [(name, image.shape) for name, image in zip(images.names, images.images, strict=True)]
    text = json.dumps([names, asdict(settings), asdict(budget)], sort_keys=True, default=str)
    digest = hashlib.sha256(text.encode())
    for weights in (start.denoiser, start.autoencoder) if start is not None else ():
        for name, value in sorted(weights.items()):
            digest.update(name.encode() + value.contiguous().numpy().tobytes())
    return digest.hexdigest()


def _networks(settings: PretrainSettings, start: Start | None) -> tuple[nn.Module, Denoiser]:
    torch.manual_seed(settings.seed)
    autoencoder = build_autoencoder(settings.autoencoder)
    torch.manual_seed(settings.seed + 1)
    denoiser = Denoiser(settings.denoiser)
    if start is not None:
        try:
            autoencoder.load_state_dict(start.autoencoder)
            denoiser.load_state_dict(start.denoiser)
        except RuntimeError as error:
            raise DataError("the weights to start from have another shape: give the channels they have") from error
    return autoencoder, denoiser


def _train_autoencoder(
    model: nn.Module,
    images: ImageSet,
    settings: PretrainSettings,
    budget: Budget,
    work: Path,
    identity: str,
    log: Log,
) -> None:
    usable = images.at_least(settings.autoencoder.crop)
    loss = AutoencoderLoss(usable.images, settings.autoencoder, next(model.parameters()).device)
    loop = _loop(settings, settings.autoencoder_phase, budget)
    model.load_state_dict(train(model, loss, loop, work / "autoencoder.pt", identity, _prefixed("autoencoder", log)))
    model.eval()


def _cached_variants(
    autoencoder: nn.Module, images: ImageSet, settings: PretrainSettings, path: Path, identity: str, log: Log
) -> Cache:
    if path.is_file():
        stored = torch.load(path, weights_only=True)
        if stored["identity"] == identity:
            return Cache(stored["latents"], stored["windows"].numpy())

    def report(done: int, total: int) -> None:
        if done * 10 // total != max(0, done - 8) * 10 // total:
            log(f"latents: {done}/{total} images encoded")

    cache = encode_variants(autoencoder, images.images, settings.views, settings.seed, report)
    state = {"identity": identity, "latents": cache.latents, "windows": torch.from_numpy(cache.windows)}
    write_checkpoint(path, state)
    return cache


def _train_denoiser(
    model: Denoiser,
    cache: Cache,
    settings: PretrainSettings,
    budget: Budget,
    work: Path,
    identity: str,
    log: Log,
) -> Denoiser:
    loss = DenoiserLoss(cache, settings.views, settings.denoiser, next(model.parameters()).device)
    loop = _loop(settings, settings.denoiser_phase, budget)
    model.load_state_dict(train(model, loss, loop, work / "denoiser.pt", identity, _prefixed("denoiser", log)))
    return model.eval()


def _refine_decoder(
    autoencoder: nn.Module,
    images: ImageSet,
    settings: PretrainSettings,
    budget: Budget,
    work: Path,
    device: torch.device,
    identity: str,
    log: Log,
) -> None:
    freeze_encoder(autoencoder)
    usable = images.at_least(settings.autoencoder.crop)
    loss = AutoencoderLoss(usable.images, replace(settings.autoencoder, latent_weight=0.0), device)
    loop = _loop(settings, settings.decoder_phase, budget)
    weights = train(autoencoder, loss, loop, work / "decoder.pt", identity, _prefixed("decoder", log))
    autoencoder.load_state_dict(weights)
    autoencoder.eval()


def _loop(settings: PretrainSettings, phase: PhaseSettings, budget: Budget) -> LoopSettings:
    share = Budget(budget.minutes * phase.share, budget.steps)
    return LoopSettings(Schedule(phase.rate, phase.warmup), share, seed=settings.seed)


def _prefixed(phase: str, log: Log) -> Log:
    return lambda line: log(f"{phase}: {line}")

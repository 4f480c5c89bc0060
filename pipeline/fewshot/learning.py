"""Learning segments from a few annotated images (SMITE, section 4.2): a token for each, then the cross-attention.

In the first phase only the tokens move; in the second the weights that make keys and values of the context move as
well, at a far lower rate. Everything random is drawn on the CPU from (seed, iteration), so that a run can be repeated.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from pipeline.backbone import Backbone, Conditioning, PredictsNoise
from pipeline.backbone.adapter import changed_weights
from pipeline.errors import UsageError
from pipeline.features.noise import frame_noise
from pipeline.fewshot.augmentation import Sample, augmented, generator
from pipeline.fewshot.losses import class_weights, cross_entropy, map_error, noise_error, spectral_error
from pipeline.fewshot.reading import Look, SegmentReader, noised
from pipeline.fewshot.segments import IGNORE, SegmentTable
from pipeline.fewshot.tokens import SegmentContext, first_context, root_mean_square
from pipeline.media.resize import resize_frame, resize_nearest
from pipeline.parameters import LearnParams, MapsParams

#: The spectral loss counts from this epoch on, the first being 0 (authors' code).
FOURIER_FROM = 6
#: `learn.select: references` and `holdout` look at their images every so many iterations.
CHECK_EVERY = 10
#: Columns of a log.
LOG = ("total", "cross_entropy", "map_error", "noise_error", "phase", "iou")


class SegmentModel(Backbone, PredictsNoise, Protocol):
    """What learning needs of a backbone."""


@dataclass(frozen=True, eq=False)
class Batch:
    """What one iteration sees.

    Attributes:
        latents: (b, 4, h, w) float32, clean.
        labels: (b, h, w) integers, the segments' numbers on the latents' grid, `IGNORE` where there is no label.
        noise: (b, 4, h, w) standard normal.
        timesteps: (b,) at which the noise is added.
    """

    latents: Tensor
    labels: Tensor
    noise: Tensor
    timesteps: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Losses:
    """Scalars: the sum that is minimised, and its parts without their weights."""

    total: Tensor
    cross_entropy: Tensor
    map_error: Tensor
    noise_error: Tensor
    spectral_error: Tensor

    @property
    def row(self) -> tuple[float, ...]:
        """Those that a log holds."""
        return tuple(
            float(loss.detach()) for loss in (self.total, self.cross_entropy, self.map_error, self.noise_error)
        )


@dataclass(frozen=True)
class Step:
    """An iteration: the losses that it began with, and how well it told the segments of its picture.

    Attributes:
        iteration: of `iterations`, from 0.
        total, cross_entropy, map_error, noise_error: as in `Losses`.
        phase: 1 or 2.
        iou: mean IoU of the maps with the picture's labels, over the segments in it.
    """

    iteration: int
    iterations: int
    total: float
    cross_entropy: float
    map_error: float
    noise_error: float
    phase: float
    iou: float


@dataclass(frozen=True, eq=False)
class State:
    """What is learned: the context, and the changed weights by diffusers' names."""

    context: SegmentContext
    weights: Mapping[str, Tensor]

    @property
    def is_finite(self) -> bool:
        """Whether all of it are numbers: false where learning diverged."""
        return all(bool(torch.isfinite(values).all()) for values in (self.context.context, *self.weights.values()))


@dataclass(frozen=True, eq=False)
class Learned:
    """What learning leaves.

    Attributes:
        state: the last one, or the best (`learn.select`).
        log: (iterations, `LOG`) float32; NaN where nothing was done.
        reference_numbers: (n, h, w) u8, the segments that it finds in the references themselves.
        reference_iou: their mean IoU with the references' own labels.
        holdout_iou: that of those that were not learned from; None where none is held out.
    """

    state: State
    log: np.ndarray
    reference_numbers: np.ndarray
    reference_iou: float
    holdout_iou: float | None = None


def losses_of(reader: SegmentReader, batch: Batch, params: LearnParams, spectral: bool) -> tuple[Losses, Tensor]:
    """What the maps and the predicted noise of a batch lack: L_CE + mse L_MSE + ldm L_LDM (+ fourier L_Fourier).

    Args:
        spectral: whether the spectral loss counts; it is computed only where it has a weight.

    Returns:
        the losses, and the maps (b, k, h, w) that they are of.
    """
    look, predicted = seen(reader, batch, params.parity.ldm_guidance)
    weights = class_weights(batch.labels, len(reader.positions), reader.background)
    maps = look.learning
    entropy, error = cross_entropy(look.cross, batch.labels, weights), map_error(maps, batch.labels)
    noise = noise_error(predicted, batch.noise.to(predicted))
    total = entropy + params.mse * error + params.ldm * noise
    spectrum = torch.zeros_like(total)
    if spectral and params.parity.fourier:
        spectrum = spectral_error(maps, batch.labels)
        total = total + params.parity.fourier * spectrum
    return Losses(total, entropy, error, noise, spectrum), maps


def seen(reader: SegmentReader, batch: Batch, guidance: float) -> tuple[Look, Tensor]:
    """What the network sees in a noised batch, and the noise (b, 4, h, w) that it predicts.

    Args:
        guidance: of the prediction, against the empty prompt; 1 = none.
    """
    noisy = noised(reader.backbone, batch.latents, batch.noise, list(batch.timesteps))
    timesteps = torch.tensor(batch.timesteps, device=noisy.device)
    look = reader.look(noisy, timesteps)
    if guidance == 1:
        return look, look.noise
    empty = Conditioning(context=reader.backbone.context)
    plain = reader.backbone.predict(noisy, timesteps, conditioning=empty).noise
    return look, plain + guidance * (look.noise - plain)


@dataclass(frozen=True)
class Plan:
    """Which iteration does what.

    Attributes:
        images: how many there are.
        params: `epochs`, `most_iterations`, `batch`, what ends the first phase, and what is held out.

    Raises:
        UsageError: all are held out.
    """

    images: int
    params: LearnParams

    @property
    def taught(self) -> int:
        """How many images are learned from, the first ones."""
        return self.params.taught(self.images)

    @property
    def judges(self) -> slice:
        """The images that states are compared by: those that are held out; all where none is."""
        return slice(self.taught if self.holds_out else 0, None)

    @property
    def holds_out(self) -> bool:
        return self.taught < self.images

    @property
    def steps(self) -> int:
        """Iterations of an epoch, in which every image is seen once."""
        return math.ceil(self.taught / self.params.batch)

    @property
    def iterations(self) -> int:
        asked = self.params.epochs * self.steps
        return asked if self.params.most_iterations is None else min(asked, self.params.most_iterations)

    @property
    def tuning(self) -> int:
        """How many iterations tune weights."""
        return sum(self.phase(number) == 2 and not self.is_idle(number) for number in range(self.iterations))

    def epoch(self, iteration: int) -> int:
        return iteration // self.steps

    def phase(self, iteration: int) -> int:
        """1 or 2; only 1 where no weights are tuned."""
        if self.params.tune == "none":
            return 1
        epochs = self.params.parity.phase1_epochs
        is_first = iteration < self.params.phase1_iterations if epochs is None else self.epoch(iteration) < epochs
        return 1 if is_first else 2

    def is_idle(self, iteration: int) -> bool:
        """Whether the authors' code throws the iteration's gradients away."""
        every = self.params.parity.idle_every
        return bool(every) and self.phase(iteration) == 2 and self.epoch(iteration) % every == 0

    def batch(self, iteration: int) -> list[int]:
        """The images that it sees; every epoch has its own order."""
        order = np.random.default_rng((self.params.seed, self.epoch(iteration))).permutation(self.taught)
        first = iteration % self.steps * self.params.batch
        return [int(image) for image in order[first : first + self.params.batch]]


class Learner:
    """Tokens, the weights that may move with them, and Adam's memory of both.

    Within its context (`with`) it changes the backbone's own weights; on leaving it puts them back.

    Raises:
        UsageError: the backbone computes in half precision, where small steps are lost.
    """

    def __init__(
        self,
        backbone: PredictsNoise,
        start: SegmentContext,
        background: int | None,
        params: LearnParams,
        maps: MapsParams,
    ) -> None:
        if backbone.context.dtype in (torch.float16, torch.bfloat16):
            raise UsageError("segments are learned in single precision only; set backbone.dtype=float32")
        self.backbone, self.start, self.background = backbone, start, background
        self.params, self.maps = params, maps
        self.tokens = start.tokens.requires_grad_()
        self._phase = 0
        self._own: dict[str, Tensor] = {}
        self._optimizer = torch.optim.Adam([self.tokens])

    def __enter__(self) -> Learner:
        self._own = {name: weight.detach().clone() for name, weight in self.backbone.tunable().items()}
        return self

    def __exit__(self, *_: object) -> None:
        self._load(self._own)
        for weight in self.backbone.tunable().values():
            weight.requires_grad_(False)

    @property
    def state(self) -> State:
        """What was learned so far."""
        return State(self.start.at(self.tokens), changed_weights(self.backbone, self._own))

    @state.setter
    def state(self, state: State) -> None:
        self.tokens = state.context.tokens
        self._load({**self._own, **state.weights})

    @property
    def reader(self) -> SegmentReader:
        context = self.start.with_tokens(self.tokens)
        return SegmentReader(self.backbone, context, self.start.positions, self.background, self.maps)

    def enter(self, phase: int) -> None:
        """Begin a phase, unless it has begun; each has an optimiser of its own."""
        if phase == self._phase:
            return
        self._phase, params = phase, self.params
        weights = self.backbone.tunable().values() if phase == 2 else ()
        groups = [{"params": [weight], "lr": params.lr_weights * self._scale(weight)} for weight in weights]
        for weight in weights:
            weight.requires_grad_()
        if phase == 2 and params.parity.freeze_tokens:
            self.tokens = self.tokens.detach()
        else:
            rate = params.lr_tokens if phase == 1 else params.lr_tokens_phase2
            groups.append({"params": [self.tokens], "lr": rate * self._scale(self.backbone.context)})
        self._optimizer = torch.optim.Adam(groups)

    def step(self, batch: Batch, epoch: int) -> tuple[Losses, Tensor]:
        """Move by one step of Adam: the losses and the maps (b, k, h, w), both of before."""
        losses, maps = losses_of(self.reader, batch, self.params, spectral=epoch >= FOURIER_FROM)
        self._optimizer.zero_grad()
        (self.params.parity.loss_scale * losses.total).backward()
        self._optimizer.step()
        return losses, maps.detach()

    def _scale(self, values: Tensor) -> float:
        return root_mean_square(values) if self.params.rates == "relative" else 1.0

    @torch.no_grad()
    def _load(self, weights: Mapping[str, Tensor]) -> None:
        for name, weight in self.backbone.tunable().items():
            weight.copy_(weights[name])


def learn(
    model: SegmentModel,
    images: Sequence[np.ndarray],
    labels: Sequence[np.ndarray],
    size: tuple[int, int],
    table: SegmentTable,
    params: LearnParams,
    maps: MapsParams,
    report: Callable[[Step], None] = lambda step: None,
) -> Learned:
    """Learn segments; the backbone is left as it was.

    Args:
        images: (h, w, 3) u8 each, the references, of any sizes.
        labels: (h, w) u8 each, their segments' numbers, `IGNORE` where there is no label.
        size: (H, W) at which the network sees them, multiples of 64.
        report: is told of every iteration.

    Raises:
        UsageError: as `Plan`, `first_context` and `Learner`.
    """
    plan = Plan(len(images), params)
    log = np.full((plan.iterations, len(LOG)), np.nan, np.float32)
    best: tuple[float, State] | None = None
    with torch.no_grad():
        latents = torch.cat([model.encode(resize_frame(image, size)[None]) for image in images])
        start = first_context(model, table, params)
    truth = on_grid(labels, latents)
    judges = plan.judges
    with Learner(model, start, table.background, params, maps) as learner:
        for iteration in range(plan.iterations):
            if plan.is_idle(iteration):
                continue
            learner.enter(plan.phase(iteration))
            rng = generator(params.seed, iteration)
            pictures = [
                augmented(images[image], labels[image], size, params.augment, rng, turn=iteration)
                for image in plan.batch(iteration)
            ]
            batch = _batch(model, pictures, rng, params)
            losses, maps_seen = learner.step(batch, plan.epoch(iteration))
            iou = mean_iou(maps_seen.argmax(dim=1), batch.labels)
            log[iteration] = *losses.row, plan.phase(iteration), iou
            report(Step(iteration, plan.iterations, *log[iteration].tolist()))
            is_last = iteration + 1 == plan.iterations
            if params.select != "last" and (is_last or (iteration + 1) % CHECK_EVERY == 0):
                score = mean_iou(reference_numbers(learner.reader, latents[judges], params), truth[judges])
                if best is None or score >= best[0]:
                    best = score, learner.state
        if best is not None:
            learner.state = best[1]
        found = reference_numbers(learner.reader, latents, params)
        held = mean_iou(found[judges], truth[judges]) if plan.holds_out else None
        return Learned(learner.state, log, found.to(torch.uint8).cpu().numpy(), mean_iou(found, truth), held)


@torch.no_grad()
def reference_numbers(reader: SegmentReader, latents: Tensor, params: LearnParams) -> Tensor:
    """The segments (n, h, w) that are found in references, as they would be in a clip of one frame: at the last of
    `learn.t`, with noise of (seed, image)."""
    noise = frame_noise(params.seed, range(len(latents)), tuple(latents.shape[1:])).epsilon  # type: ignore[arg-type]
    timestep = params.t[1]
    noisy = noised(reader.backbone, latents, noise, [timestep] * len(latents))
    return torch.cat([reader.look(one[None], timestep).maps().argmax(dim=1) for one in noisy])


def on_grid(labels: Sequence[np.ndarray], latents: Tensor) -> Tensor:
    """Labels (H, W) each, as (n, h, w) on the grid of latents (n, 4, h, w), on their device."""
    grid = (latents.shape[-2], latents.shape[-1])
    return torch.from_numpy(np.stack([resize_nearest(one, grid) for one in labels])).to(latents.device)


def mean_iou(found: Tensor, truth: Tensor) -> float:
    """The mean IoU of segments that are there, in [0, 1]; pixels that are `IGNORE` do not count. NaN without any."""
    known = truth != IGNORE
    found, truth = found[known], truth[known]
    ious = [
        float(((found == number) & (truth == number)).sum() / ((found == number) | (truth == number)).sum())
        for number in truth.unique()
    ]
    return float(np.mean(ious)) if ious else float("nan")


@torch.no_grad()
def _batch(model: SegmentModel, pictures: Sequence[Sample], rng: np.random.Generator, params: LearnParams) -> Batch:
    frames = np.stack([frame for frame, _ in pictures])
    timesteps = tuple(int(t) for t in rng.integers(params.t[0], params.t[1], len(frames), endpoint=True))
    draws = torch.Generator().manual_seed(int(rng.integers(2**31)))
    shape = (len(frames), 4, *(side // model.latent_stride for side in frames.shape[1:3]))
    posterior, noise = (torch.randn(shape, generator=draws) for _ in range(2))
    latents = model.encode(frames, posterior if params.parity.encode == "sample" else None)
    return Batch(latents, on_grid([numbers for _, numbers in pictures], latents), noise, timesteps)

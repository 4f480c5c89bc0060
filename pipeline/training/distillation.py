"""An image encoder teaches the denoiser's tapped queries which tokens belong together.

Features are the mean of the queries of decoder blocks 6 to 8. Their target is that mean before training, joined with
the encoder's tokens, so that what the denoiser knew stays. Above all it must agree in how alike tokens are, since
clustering and matching use nothing else (relational distillation, Park et al. 2019; kernel alignment, Cortes et al.
2012). Noise prediction is held to that of the first weights; the first level, the embedding of timesteps and the prompt
keep their weights.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.encoder.base import Encoder
from pipeline.encoder.projection import principal
from pipeline.training.data import ImageSet, Picture
from pipeline.training.denoiser import Denoiser, DenoiserSettings, mean_queries, sample_timesteps, signal_levels
from pipeline.training.examples import (
    Example,
    ExampleSettings,
    Views,
    cut_views,
    fitting_sizes,
    last_timestep,
    make_examples,
)
from pipeline.training.loop import (
    Budget,
    LoopSettings,
    Schedule,
    Step,
    mixed_precision,
    read_checkpoint,
    train,
    write_checkpoint,
)

Log = Callable[[str], None]


@dataclass(frozen=True)
class DistillationSettings:
    """Everything that decides the trained weights, apart from the first ones, the encoder and the images.

    Attributes:
        encoder_weight: of the encoder's tokens beside the first weights' queries in a target; both have length 1.
        last: share of the views with clean latents that are noised to the last step's timestep; the others to one below
            `high_timestep`.
        kernel_weight, within_weight, across_weight, direct_weight: of the parts of the loss, see `DistillationLoss`.
        across: tokens that are compared across the images of a batch.
        noise_every, noise_views, noise_weight: one step in so many, at random, predicts the noise of a batch of so many
            smallest views too, with this weight.
    """

    examples: ExampleSettings = field(default_factory=ExampleSettings)
    encoder_weight: float = 2.0
    last: float = 0.5
    high_timestep: int = 80
    kernel_weight: float = 2.0
    within_weight: float = 1.0
    across_weight: float = 0.5
    direct_weight: float = 0.5
    across: int = 768
    noise_every: int = 6
    noise_views: int = 8
    noise_weight: float = 10.0
    rate: float = 1e-3
    warmup: int = 30
    average_decay: float = 0.998
    seed: int = 0


@dataclass(frozen=True)
class Distilled:
    """The trained denoiser, and how well its features agreed with held-back targets before and after.

    An agreement is 1 - `kernel_loss`, mean of the images; None without any.
    """

    denoiser: Denoiser
    before: float | None
    after: float | None


def joined_target(queries: Tensor, tokens: Tensor, weight: float) -> Tensor:
    """(..., q) and (..., c) to (..., q + c): both at length 1, the tokens times `weight`; of length 1 together."""
    return F.normalize(torch.cat([F.normalize(queries, dim=-1), weight * F.normalize(tokens, dim=-1)], -1), dim=-1)


def similarity_loss(found: Tensor, wanted: Tensor) -> Tensor:
    """How far the cosine similarities of n tokens are from those of their targets; 0 = equal, 1 = as good as none.

    The mean of a matrix is no matter. (..., n, q) and (..., n, d) in, scalar out.
    """
    own, aim = (_centred(x @ x.transpose(-1, -2)) for x in (F.normalize(found, dim=-1), F.normalize(wanted, dim=-1)))
    return (own - aim).square().mean() / aim.square().mean()


def kernel_loss(found: Tensor, wanted: Tensor) -> Tensor:
    """1 - the squared alignment of what K-Means and kNN see of tokens with the products of their targets.

    They see squared distances of queries that were divided by their largest absolute value. Scale and mean of
    the matrices are no matter. (..., n, q) and (..., n, d) in, scalar in [0, 1] out.
    """
    seen = found / found.abs().amax(-1, keepdim=True).clamp_min(1e-6)
    squares = seen.square().sum(-1)
    own = _centred(seen @ seen.transpose(-1, -2) - 0.5 * (squares[..., :, None] + squares[..., None, :]))
    aim = _centred(wanted @ wanted.transpose(-1, -2))
    return 1 - (own * aim).sum().square() / (own.square().sum() * aim.square().sum())


def direct_loss(guessed: Tensor, wanted: Tensor) -> Tensor:
    """1 - the mean cosine of (..., q) and (..., q)."""
    return 1 - F.cosine_similarity(guessed, wanted, dim=-1).mean()


def _centred(matrices: Tensor) -> Tensor:
    return matrices - matrices.mean((-1, -2), keepdim=True)


@dataclass(frozen=True)
class Directions:
    """Where targets lie: their mean (d,), and the q directions in which they vary most, (d, q)."""

    mean: Tensor
    axes: Tensor

    @classmethod
    def of(cls, targets: Tensor, count: int) -> Directions:
        """From targets (n, d)."""
        return cls(targets.mean(0), principal(targets, count))

    def coordinates(self, targets: Tensor) -> Tensor:
        """(..., d) to (..., q)."""
        return (targets - self.mean) @ self.axes


class Pupil(nn.Module):
    """A denoiser that is trained in part, and a linear layer that guesses a target's coordinates from its queries."""

    def __init__(self, denoiser: Denoiser) -> None:
        super().__init__()
        width = int(denoiser.tapped()[0].out_features)  # type: ignore[arg-type]
        self.denoiser, self.head = denoiser, nn.Linear(width, width)
        unet = denoiser.unet
        for part in (unet.conv_in, unet.time_embedding, unet.down_blocks[0]):
            part.requires_grad_(False)
        denoiser.prompt.requires_grad_(False)

    @torch.no_grad()
    def fit_head(self, queries: Tensor, coordinates: Tensor) -> None:
        """Make the linear layer the least-squares map of (n, q) to (n, q), slightly regularised."""
        mean, aim = queries.mean(0), coordinates.mean(0)
        known = queries - mean
        ridge = 1e-2 * len(known) * known.var() * torch.eye(known.shape[1], device=known.device)
        weight = torch.linalg.solve(known.T @ known + ridge, known.T @ (coordinates - aim))
        self.head.weight.copy_(weight.T)
        self.head.bias.copy_(aim - mean @ weight)


class DistillationLoss:
    """The loss of a batch of views against their targets.

    It is the sum, each with its weight, of `kernel_loss` within each image, `similarity_loss` within each image,
    `similarity_loss` across the images of a batch, `direct_loss` of the pupil's head and, in some steps, the squared
    difference of predicted noise to what the first weights predict.

    Args:
        first: the denoiser with its first weights; it is not trained.
    """

    def __init__(
        self, examples: Sequence[Example], first: Denoiser, settings: DistillationSettings, device: torch.device
    ) -> None:
        self.examples, self.first, self.settings, self.device = examples, first, settings, device
        self.sizes = fitting_sizes(examples, settings.examples)
        self.last_timestep = last_timestep(settings.examples)
        self.levels = signal_levels().to(device)
        width = examples[0].queries.shape[-1]
        self.directions = Directions.of(self._some_targets(np.random.default_rng(settings.seed)), width)

    def __call__(self, model: nn.Module, rng: np.random.Generator, noise: torch.Generator) -> Step:
        assert isinstance(model, Pupil)
        s = self.settings
        views = self.sample(rng)
        targets = self.targets(views)
        queries = self.queries(model.denoiser, views, rng, noise)
        picks = torch.from_numpy(rng.integers(0, targets.shape[0] * targets.shape[1], s.across)).to(self.device)
        everywhere = [values.flatten(0, 1)[picks] for values in (queries, targets)]
        parts = {
            "kernel": (s.kernel_weight, kernel_loss(queries, targets)),
            "within": (s.within_weight, similarity_loss(queries, targets)),
            "across": (s.across_weight, similarity_loss(*everywhere)),
            "direct": (s.direct_weight, direct_loss(model.head(queries), self.directions.coordinates(targets))),
        }
        if rng.random() * s.noise_every < 1:
            parts["noise"] = (s.noise_weight, self.noise_difference(model.denoiser, rng, noise))
        loss = torch.stack([weight * value for weight, value in parts.values()]).sum()
        return Step(loss, {name: float(value.detach()) for name, (_, value) in parts.items()}, len(queries))

    def sample(self, rng: np.random.Generator) -> Views:
        """Random views of one size."""
        size, fit = self.sizes[int(rng.integers(len(self.sizes)))]
        count = max(2, round(self.settings.examples.latents_per_batch / (size[0] * size[1])))
        chosen = [self.examples[fit[i]] for i in rng.integers(0, len(fit), count)]
        return cut_views(chosen, size, self.settings.examples, rng)

    def targets(self, views: Views) -> Tensor:
        """(b, n, d) f32."""
        queries, tokens = views.queries.to(self.device), views.tokens.to(self.device)
        return joined_target(queries, tokens, self.settings.encoder_weight)

    def queries(self, denoiser: Denoiser, views: Views, rng: np.random.Generator, noise: torch.Generator) -> Tensor:
        """Queries (b, n, q) f32 of views: of those that were denoised as they are, of the others with noise."""
        s, count = self.settings, len(views.latents)
        drawn = np.where(rng.random(count) < s.last, self.last_timestep, rng.integers(0, s.high_timestep, count))
        timesteps = torch.where(views.denoised, self.last_timestep, torch.from_numpy(drawn)).to(self.device)
        latents = views.latents.to(self.device)
        noisy = self._noised(latents, timesteps, noise)
        given = torch.where(views.denoised.to(self.device)[:, None, None, None], latents, noisy)
        with mixed_precision(self.device):
            return mean_queries(denoiser, given, timesteps, torch.ones(count, device=self.device))

    def noise_difference(self, denoiser: Denoiser, rng: np.random.Generator, noise: torch.Generator) -> Tensor:
        """Mean squared difference of the noise that both denoisers predict, at the timesteps of pretraining; scalar."""
        s, pretraining = self.settings, DenoiserSettings()
        chosen = [self.examples[i] for i in rng.integers(0, len(self.examples), s.noise_views)]
        latents = cut_views(chosen, s.examples.smallest, s.examples, rng).latents.to(self.device)
        timesteps = sample_timesteps(len(latents), pretraining, rng).to(self.device)
        kept = (rng.random(len(latents)) >= pretraining.zero_context).astype(np.float32)
        keep = torch.from_numpy(kept).to(self.device)
        noisy = self._noised(latents, timesteps, noise)
        with mixed_precision(self.device):
            with torch.no_grad():
                aim = self.first(noisy, timesteps, keep).float()
            return F.mse_loss(denoiser(noisy, timesteps, keep).float(), aim)

    def start(self, pupil: Pupil, rng: np.random.Generator, noise: torch.Generator, batches: int = 12) -> None:
        """Fit the pupil's head to the queries that it has."""
        found, aims = [], []
        with torch.no_grad():
            for _ in range(batches):
                views = self.sample(rng)
                found.append(self.queries(pupil.denoiser, views, rng, noise).flatten(0, 1))
                aims.append(self.directions.coordinates(self.targets(views)).flatten(0, 1))
        pupil.fit_head(torch.cat(found), torch.cat(aims))

    def _noised(self, latents: Tensor, timesteps: Tensor, noise: torch.Generator) -> Tensor:
        level = self.levels[timesteps][:, None, None, None]
        epsilon = torch.randn(latents.shape, generator=noise).to(self.device)
        return level.sqrt() * latents + (1 - level).sqrt() * epsilon

    def _some_targets(self, rng: np.random.Generator, images: int = 1000, tokens: int = 24) -> Tensor:
        found = []
        for i in rng.permutation(len(self.examples))[:images]:
            queries, seen = (x.flatten(0, 1).float() for x in (self.examples[i].queries, self.examples[i].tokens))
            picks = torch.from_numpy(rng.integers(0, len(queries), tokens))
            found.append(joined_target(queries[picks], seen[picks], self.settings.encoder_weight))
        return torch.cat(found).to(self.device)


def distil(
    denoiser: Denoiser,
    autoencoder: nn.Module,
    encoder: Encoder,
    images: ImageSet,
    held_out: ImageSet,
    settings: DistillationSettings,
    budget: Budget,
    work: Path,
    log: Log = print,
) -> Distilled:
    """Train a denoiser's features within `budget`; an interrupted run is continued.

    The budget is that of training. What the frozen networks say about the images is computed before, once.

    Args:
        denoiser, autoencoder, encoder: on one device, in evaluation mode; all stay as they are.
        images: training images; those of at least `settings.examples.short_sides[0]` pixels are used.
        held_out: images never trained on, for the agreement.
        work: folder of the checkpoints `examples.pt` and `features.pt`.

    Raises:
        DataError: the images are too small, or training diverged.
        UsageError: `work` has a checkpoint of other parameters, images or weights.
        ResourceError: a checkpoint cannot be written.
    """
    device = next(denoiser.parameters()).device
    least = settings.examples.short_sides[0]
    usable = images.at_least(least)
    tested = [image for image in held_out.images if min(image.shape[:2]) >= least]
    log(f"{len(usable.images)} images, {len(tested)} held back, {images.unreadable} unreadable skipped")
    training, held, made_from = _examples(
        denoiser, autoencoder, encoder, usable, tested, settings, work / "examples.pt", log
    )
    identity = json.dumps([made_from, asdict(settings), asdict(budget)], sort_keys=True)
    first = copy.deepcopy(denoiser).requires_grad_(False)
    loss = DistillationLoss(training, first, settings, device)
    torch.manual_seed(settings.seed)
    pupil = Pupil(copy.deepcopy(denoiser))
    loss.start(pupil, np.random.default_rng(settings.seed), torch.Generator().manual_seed(settings.seed))
    before = agreement(pupil.denoiser, held, settings)
    schedule = Schedule(settings.rate, settings.warmup)
    loop = LoopSettings(schedule, budget, average_decay=settings.average_decay, seed=settings.seed)
    pupil.load_state_dict(train(pupil, loss, loop, work / "features.pt", identity, log))
    return Distilled(pupil.denoiser, before, agreement(pupil.denoiser, held, settings))


@torch.no_grad()
def agreement(denoiser: Denoiser, examples: Sequence[Example], settings: DistillationSettings) -> float | None:
    """1 - `kernel_loss` of each whole example as extraction sees it, mean; None without any."""
    device = next(denoiser.parameters()).device
    timestep = torch.tensor([last_timestep(settings.examples)], device=device)
    found = []
    for example in examples:
        with mixed_precision(device):
            latents = example.denoised[None].float().to(device)
            queries = mean_queries(denoiser, latents, timestep, torch.ones(1, device=device))
        own, tokens = (values.flatten(0, 1)[None].float().to(device) for values in (example.queries, example.tokens))
        found.append(1 - float(kernel_loss(queries, joined_target(own, tokens, settings.encoder_weight))))
    return float(np.mean(found)) if found else None


def _examples(
    denoiser: Denoiser,
    autoencoder: nn.Module,
    encoder: Encoder,
    images: ImageSet,
    held_out: Sequence[Picture],
    settings: DistillationSettings,
    path: Path,
    log: Log,
) -> tuple[list[Example], list[Example], str]:
    """Examples for training and held-back ones, and a hash of all that decides them; read from `path` if there."""
    names = [(name, image.shape) for name, image in zip(images.names, images.images, strict=True)]
    shown = [picture.shape for picture in held_out]
    told = [encoder.fingerprint, names, shown, asdict(settings.examples), settings.seed]
    digest = hashlib.sha256(json.dumps(told, sort_keys=True).encode())
    for picture in (*images.images, *held_out):
        digest.update(np.ascontiguousarray(picture).data)
    for network in (denoiser, autoencoder):
        for name, value in sorted(network.state_dict().items()):
            digest.update(name.encode() + value.cpu().contiguous().numpy().tobytes())
    identity = digest.hexdigest()
    if path.is_file():
        stored = read_checkpoint(path, identity)
    else:
        pictures = [*images.images, *held_out]
        every = max(1, len(pictures) // 10)

        def report(done: int, total: int) -> None:
            if done % every == 0:
                log(f"examples: {done}/{total} images")

        made = make_examples(pictures, denoiser, autoencoder, encoder, settings.examples, settings.seed, report)
        stored = {"identity": identity, "examples": [vars(example) for example in made]}
        write_checkpoint(path, stored)
    examples = [Example(**values) for values in stored["examples"]]
    return examples[: len(images.images)], examples[len(images.images) :], identity

"""The interface that the pipeline needs of a diffusion model.

Terms. A *latent* is the autoencoder's code of a frame, scaled to unit-like variance. *Step* i of a schedule of S
steps goes from noise level sigma_i to sigma_{i+1}; the last step ends at sigma_S = 0. *Block* i (0..11) is the
paper's numbering of decoder blocks (section 3.1). A *tap* names one tensor inside a block's attention.
With guidance a denoiser runs two *halves*: first the unconditional (all-zero context), then the conditional.
Tensors carry gradients where the caller asks for them; whoever wants none enters torch's inference mode.
A *window* is the frames that a model sees together: for an image model one frame. A *pass* is what goes through the
network at once: one window of a video model, or any number of an image model's.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

from pipeline.errors import UsageError

if TYPE_CHECKING:  # importing torch takes seconds, and finding weights must not
    import numpy as np
    import torch
    from torch import Tensor
    from torch.nn import Parameter

    from pipeline.backbone.boxes import Box
    from pipeline.backbone.training_schedule import TrainingSchedule
    from pipeline.parameters import DiffusionVideo

#: The attentions of a decoder block. The temporal ones are a video model's: sequences of b frames, one per token.
Layer = Literal["self", "cross", "temporal_self", "temporal_cross"]
#: What Eq. 2 offsets, by the names of `upsample.video.attention`; which of them a model has is `Backbone.modulated`.
AttentionName = Literal["cross_spatial", "self_spatial", "self_temporal", "self_spatial_temporal"]


@dataclass(frozen=True)
class Tap:
    """One attention tensor, (halves * b, n, c); of a temporal layer (halves * n, b, c).

    `query` and `key` are taken after their linear map, before the split into heads; `output` after the projection f.
    """

    block: int
    layer: Layer
    tensor: Literal["query", "key", "output"]


@dataclass(frozen=True)
class Conditioning:
    """What the denoising of a window is conditioned on beside its latents; an image model needs nothing.

    Attributes:
        context: (t, c) float for all frames or (b, t, c) for each, in place of an image model's empty prompt.
        latent: (4, h, w) float32 of the window's first frame, in the autoencoder's own scale.
        token: (1, c) float32, that frame's embedding.
        ids: (3,) float32: fps, motion bucket, noise level.
    """

    latent: Tensor | None = None
    token: Tensor | None = None
    ids: Tensor | None = None
    context: Tensor | None = None


#: What an image model is conditioned on where nothing is said: its empty prompt.
UNCONDITIONED = Conditioning()


@dataclass(frozen=True)
class Together:
    """How many frames of a batch an image model sees together (section 3 of SMITE: its network, inflated).

    A batch of b frames is b / frames clips, one after the other.

    Attributes:
        frames: of each clip; 1 = every frame alone, the plain network.
        norm: whether the residual blocks' normalisations take their statistics over a clip (`joint`, as the authors'
            code) or over each frame.
        attention: whether self-attention reads the tokens of a clip (`joint`) or of each frame; the latter is the
            authors' switch "not inflated", which leaves their norms joint.
    """

    frames: int = 1
    norm: Literal["joint", "frame"] = "joint"
    attention: Literal["joint", "frame"] = "joint"


#: Every frame alone.
ALONE = Together()


@dataclass(frozen=True)
class Share:
    """What a step shares with variants of its frames, so that they need not compute it again.

    Attributes:
        attention: the attention of the decoder blocks; variants take over its queries and keys (injection).
        block: b_m, the decoder block whose attention the variants offset; they share all that lies before. None:
            variants differ in their latents.
        deep: what lies below the network's top level; variants take it over and run that level alone. Not with `block`.
    """

    attention: bool = False
    block: int | None = None
    deep: bool = False


@dataclass(frozen=True)
class Offset:
    """The modulation +-lambda * M_l of Eq. 2 on an attention of the shared block.

    Attributes:
        values: (j, n) float, signed strength times the mask of each token; the same for all channels and halves.
        place: `after` adds to the output of the projection f, as the authors' code; `inside` adds to its input,
            as Eq. 2 is printed.
        attention: which attention, one of the model's `modulated`.
    """

    values: Tensor
    place: Literal["after", "inside"] = "after"
    attention: AttentionName = "cross_spatial"

    def __getitem__(self, part: slice) -> Offset:
        return replace(self, values=self.values[part])


@dataclass(frozen=True)
class Schedule:
    """Noise levels: `sigmas` (steps + 1,) float32, the last one 0, and the model's `timesteps` (steps,)."""

    sigmas: Tensor
    timesteps: tuple[float, ...]

    def without(self, skipped: Collection[int]) -> Schedule:
        """The schedule in which the step before a skipped one goes to where that one would have gone.

        Step numbers stay; the skipped steps are not to be run.
        """
        sigmas = self.sigmas.clone()
        for step in sorted(skipped, reverse=True):
            sigmas[step] = sigmas[step + 1]
        return Schedule(sigmas, self.timesteps)


class Variants(Protocol):
    """A step that is repeated with changes; what the changes leave alone was computed once, for each of its frames."""

    def denoise(self, latents: Tensor, frames: Sequence[int], offset: Offset | None = None) -> Tensor:
        """The next latents (j, 4, h, w) of j variants.

        Args:
            latents: (j, 4, h, w); at a step that shares its block, they are those of the frames themselves.
            frames: (j,) which frame of the step each variant is of; a video model's are whole windows, each
                all frames in order.
            offset: modulation, at a step that shares its block.
        """
        ...


class RepeatableStep(Protocol):
    """A step of some frames that can be repeated with changes."""

    def variants(self, frames: Collection[int]) -> Variants:
        """Get ready for variants of these frames.

        Holds the attention weights of each of them: halves * heads * n^2 values per decoder block.
        """
        ...


@dataclass(frozen=True)
class Denoised:
    """Result of one step: the next latents (b, 4, h, w) float32, and the tapped tensors."""

    latents: Tensor
    taps: Mapping[Tap, Tensor] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class RepeatableDenoised(Denoised):
    """Result of one step that can be repeated with changes."""

    repeatable: RepeatableStep


@dataclass(frozen=True)
class Prediction:
    """The noise (b, 4, h, w) float32 that a network finds in latents, and the tapped tensors."""

    noise: Tensor
    taps: Mapping[Tap, Tensor] = field(default_factory=dict)


class PartDecoder(Protocol):
    """A decoder that holds the statistics of one whole image fixed, so that parts of variants can be decoded alone."""

    @property
    def whole(self) -> Tensor:
        """(1, 3, H, W) float32, the image itself."""
        ...

    def part(self, latents: Tensor, box: Box) -> Tensor:
        """The box of the image (3, 8h, 8w) float32 of other latents (4, H/8, W/8)."""
        ...


class Backbone(Protocol):
    """A latent diffusion model that sees windows of frames; callers do not need to know how long they are."""

    #: Name in params.yaml, e.g. `compact`.
    name: str
    #: SHA-256 (hex) of the weights.
    fingerprint: str
    #: Pixels per latent cell.
    latent_stride: int
    #: Frames that it was trained to see together; an image model's window is one frame.
    window: int

    @property
    def device(self) -> torch.device:
        """Where its tensors live."""
        ...

    def token_shape(self, block: int, size: tuple[int, int]) -> tuple[int, int, int]:
        """(h, w, c): token grid and query width of a decoder block, for frames of size (H, W)."""
        ...

    def schedule(self, steps: int) -> Schedule:
        """The noise schedule with that many Euler steps."""
        ...

    def frames_per_pass(self, together: int, batch: int) -> int:
        """How many frames go through it at once, where `together` are seen together and `batch` is asked for."""
        ...

    def guidance_of(self, first: float, last: float, frames: int) -> float | tuple[float, ...]:
        """The guidance of a pass of so many frames, given that of a window's first and last frame."""
        ...

    def encode(self, frames: np.ndarray, noise: Tensor | None = None) -> Tensor:
        """Scaled latents (b, 4, H/8, W/8) float32 of frames (b, H, W, 3) uint8.

        `noise`, of the latents' shape, gives a sample of the posterior; without it its mode.
        """
        ...

    def condition(self, frame: np.ndarray, noise: Tensor, told: DiffusionVideo) -> Conditioning:
        """What a window is conditioned on, from its first frame (H, W, 3) uint8.

        Args:
            noise: (3, H, W) standard normal, for the noise augmentation.
            told: what the model is told beside.
        """
        ...

    def denoise(
        self,
        latents: Tensor,
        step: int,
        schedule: Schedule,
        guidance: float | Sequence[float],
        *,
        record: Collection[Tap] = (),
        conditioning: Conditioning = UNCONDITIONED,
    ) -> Denoised:
        """One Euler step of the noisy latents (b, 4, h, w) of a pass.

        Args:
            guidance: scale against the all-zero context; 1 runs the conditional half only. A video model's may
                differ by frame: (b,).
            record: taps to return.
            conditioning: of this window, from `condition`.

        Raises:
            UsageError: the conditioning's context is not one that this model takes.
        """
        ...

    def decode(self, latents: Tensor, together: int = 1) -> Tensor:
        """Images (b, 3, H, W) float32, nominally in [-1, 1] but not clipped, of clean latents (b, 4, h, w).

        Args:
            together: a video model decodes so many consecutive frames as one clip; b is a multiple of it.
        """
        ...


@runtime_checkable
class DecodesParts(Protocol):
    """What a backbone has beside, if parts of its images can be decoded alone."""

    def part_decoder(self, latents: Tensor) -> PartDecoder:
        """Ready to decode parts of variants of one frame's clean latents (1, 4, h, w)."""
        ...


@runtime_checkable
class Modulates(Protocol):
    """What a backbone has beside, if its steps can be repeated with changes: labels are upsampled by modulation."""

    #: The attentions that can be modulated.
    modulated: tuple[AttentionName, ...]

    def denoise_repeatably(
        self,
        latents: Tensor,
        step: int,
        schedule: Schedule,
        guidance: float | Sequence[float],
        share: Share,
        *,
        record: Collection[Tap] = (),
        conditioning: Conditioning = UNCONDITIONED,
    ) -> RepeatableDenoised:
        """The step that `Backbone.denoise` takes, with what variants of it will share."""
        ...


def modulating(backbone: Backbone) -> Modulates:
    """The backbone itself, whose steps can be repeated with changes.

    Raises:
        UsageError: they cannot.
    """
    if not isinstance(backbone, Modulates):
        raise UsageError(f"{backbone.name} cannot be modulated; set upsample.method to bilinear or joint_bilateral")
    return backbone


@runtime_checkable
class PredictsNoise(Protocol):
    """What a backbone has beside, if segments can be learned with it: predictions at any training timestep.

    Latents are here in the variance-preserving scale: signal^2 + noise^2 = 1, as `training_schedule` mixes them.
    """

    #: (t, c) the embedding of the empty prompt, in the network's precision.
    context: Tensor
    #: The noise of every training timestep.
    training_schedule: TrainingSchedule

    @property
    def has_text(self) -> bool:
        """Whether `encode_text` can be called."""
        ...

    def encode_text(self, prompt: str) -> Tensor:
        """The (t, c) float32 embedding of a prompt, padded to the text encoder's length.

        Raises:
            UsageError: the model has no text encoder.
            WeightsError: its files are damaged.
        """
        ...

    def text_pieces(self, text: str) -> int:
        """How many tokens of a prompt a text takes; raises as `encode_text`."""
        ...

    def heads(self, block: int) -> int:
        """Heads of the attentions of a decoder block."""
        ...

    def tunable(self) -> dict[str, Parameter]:
        """The weights that make keys and values of the context, `attn2.to_k` and `attn2.to_v`, by diffusers' names."""
        ...

    def predict(
        self,
        latents: Tensor,
        timestep: float | Tensor,
        *,
        conditioning: Conditioning = UNCONDITIONED,
        record: Collection[Tap] = (),
        together: Together = ALONE,
    ) -> Prediction:
        """The noise in noisy latents (b, 4, h, w), which the network takes as they are; the conditional half only.

        Args:
            timestep: 0..999, of all frames, or (b,) of each.
            record: taps to return.

        Raises:
            UsageError: the context does not fit the model, or b is no multiple of `together.frames`.
        """
        ...

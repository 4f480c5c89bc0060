"""What a clip asks of a backbone and of the disk, counted by running the real code on torch's meta device.

A multiplication with its addition counts as 2 floating-point operations. Counted is what torch does; matching,
K-Means and nearest neighbours run outside of it, and are small beside the networks. What repeats is counted twice and
multiplied: all steps of all labels would take minutes even without arithmetic.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from pipeline.backbone import Backbone, Conditioning
from pipeline.backbone.small_decoder import SmallDecoder, outlined
from pipeline.encoder.base import Encoder
from pipeline.features.diffusion import CleanPass, clean_pass, condition
from pipeline.features.extraction import encoded, extract, feature_arrays, feature_shape, latent_shape
from pipeline.features.padding import margin_of
from pipeline.features.steps import feature_schedule, remaining_steps
from pipeline.parameters import DiffusionParams, ExtractParams, UpsampleParams
from pipeline.stores.feature_codec import array_specs
from pipeline.stores.schemas import ArraySpec, label_dtype
from pipeline.upsampling.modulation import to_share
from pipeline.upsampling.responses import Passes, Window, calls, compared, modulated, windows_of
from pipeline.upsampling.rules import EXACT, Rules

Result = TypeVar("Result")
Size = tuple[int, int]


@dataclass(frozen=True)
class Workload:
    """What is to be computed for a clip.

    Attributes:
        size, source_size: (H, W) at model size and of the source.
        labels: of every frame; all are taken to be present in all frames, each in two places.
        diffusion, extract, upsample: sections of the parameters.
        encoder: the image encoder on the meta device, where one is used.
        small: configuration of the small decoder; empty = AutoencoderTiny's usual size.
    """

    size: Size
    source_size: Size
    labels: int
    diffusion: DiffusionParams
    extract: ExtractParams
    upsample: UpsampleParams
    encoder: Encoder | None = None
    small: Mapping[str, Any] = field(default_factory=dict)

    @property
    def together(self) -> int:
        """Frames of a window."""
        return self.extract.frames_together or 1

    @property
    def seen(self) -> Workload:
        """This work with the margins that the networks see in `extract`."""
        height, width = self.size
        margins = 2 * margin_of(self.extract)
        return replace(self, size=(height + margins, width + margins))

    @property
    def rules(self) -> Rules | None:
        """How labels are upsampled; None where they are enlarged without the backbone."""
        return Rules(self.diffusion, self.upsample) if self.upsample.method == "modulation" else None

    @property
    def decoded_together(self) -> int:
        """Frames that are decoded in one call."""
        return self.together if self.upsample.video.decode == "joint" else 1

    def small_decoder(self, device: torch.device) -> SmallDecoder | None:
        """A small decoder of that size without trained weights, where one is used."""
        return outlined(self.small, device) if self.rules and self.rules.fast.decode == "small" else None


@dataclass(frozen=True)
class PlainSchedule:
    """A window by the plain schedule: every label and sign runs all steps, nothing is shared.

    Attributes:
        denoiser_calls: on all halves of the window.
        decoded: frames, with the unmodulated ones.
        flops: of all of it.
    """

    denoiser_calls: int
    decoded: int
    flops: float


def flops_per_frame(outline: Backbone, load: Workload) -> dict[str, dict[str, float]]:
    """Floating-point operations of the stages that run a backbone: stage -> operation -> per frame of a window.

    Args:
        outline: the backbone on the meta device. Its operations are `encode`, `denoise` and `decode`, those of an image
            encoder `encoder`.
    """
    found = {"extract": _extracted_flops(outline, load)}
    if load.rules is not None:
        conditioned = conditioning_flops(outline, load)
        found["upsample"] = {
            "denoise": (conditioned + _modulated_flops(outline, load, load.rules)) / load.together,
            "decode": _compared_flops(outline, load, load.rules),
        }
    return found


def _extracted_flops(outline: Backbone, load: Workload) -> dict[str, float]:
    seen, latents = load.seen, encoded_flops(outline, load)
    found = {"encode": latents}
    if load.extract.parts == "both":
        # With margins there are latents with them too.
        encoded_twice = encoded_flops(outline, seen) if seen.size != load.size else 0.0
        found["encode"] += encoded_twice + conditioning_flops(outline, seen) / load.together
        steps = len(remaining_steps(feature_schedule(load.extract, load.diffusion)))
        found["denoise"] = steps * denoised_flops(outline, seen, load.diffusion) / load.together
    if load.encoder is not None:
        encoder, grid = load.encoder, feature_shape(outline, load.size, load.extract)[:2]
        margin = margin_of(load.extract)
        found["encoder"] = flops_of(lambda: encoded(encoder, _frames(load, 1), grid, margin))[1]
    return found


def samples_per_frame(outline: Backbone, load: Workload) -> int:
    """Modulated samples of a frame: each group with each sign."""
    rules = load.rules
    return 0 if rules is None else len(_window(outline, load, rules).groups) * len(rules.directions)


def plain_schedule(outline: Backbone, load: Workload) -> PlainSchedule:
    """A window of this workload by the plain schedule, as the authors' code runs it."""
    calls = len(remaining_steps(load.diffusion)) * (1 + 2 * load.labels)
    decoded = load.together * (1 + 2 * load.labels)
    flops = (
        calls * denoised_flops(outline, load, load.diffusion)
        + load.together * encoded_flops(outline, load)
        + conditioning_flops(outline, load)
        + decoded * decoded_flops(outline, load)
    )
    return PlainSchedule(calls, decoded, flops)


def encoded_flops(outline: Backbone, load: Workload) -> float:
    """Operations of encoding one frame."""
    return flops_of(lambda: outline.encode(_frames(load, 1)))[1]


def conditioning_flops(outline: Backbone, load: Workload) -> float:
    """Operations that get the conditioning of one window ready."""
    return flops_of(lambda: _conditioned(outline, load))[1]


def denoised_flops(outline: Backbone, load: Workload, diffusion: DiffusionParams) -> float:
    """Operations of one step of a window, in all its halves."""
    last, start = replace(diffusion, start_step=diffusion.steps - 1), _latents(outline, load)
    conditioning = _conditioned(outline, load)
    return flops_of(lambda: clean_pass(outline, start, last, conditioning=conditioning))[1]


def decoded_flops(outline: Backbone, load: Workload) -> float:
    """Operations of decoding one frame as the workload says."""
    latents = _latents(outline, load)[: load.decoded_together]
    return flops_of(lambda: outline.decode(latents, len(latents)))[1] / len(latents)


def peak_bytes(outline: Backbone, load: Workload) -> dict[str, int]:
    """Bytes of tensors that are alive at once in the stages that run a backbone, beside the weights."""
    frames = _frames(load, outline.frames_per_pass(load.together, load.diffusion.batch))
    last = load.diffusion.steps - 1
    diffusion, params = (
        replace(load.diffusion, start_step=last),
        replace(load.extract, start_step=None, feature_step=last),
    )
    batch = frames, range(len(frames)), diffusion, params, load.encoder
    found = {"extract": peak_of(lambda: extract(outline, *batch))}
    rules = load.rules
    if rules is not None:
        # Each step keeps the same for the modulated passes.
        peak = _extended(len(rules.modulated_steps), lambda n: peak_of(lambda: _upsampled(outline, load, rules, n)))
        found["upsample"] = int(peak)
    return found


def weight_bytes(*networks: torch.nn.Module) -> int:
    """Bytes of the networks' parameters."""
    return sum(weight.numel() * weight.element_size() for network in networks for weight in network.parameters())


def cache_bytes(outline: Backbone, load: Workload, encoding: str) -> dict[str, float]:
    """Bytes per frame of each stage's stores, before compression.

    Args:
        encoding: of the features, `extract.dtype`.
    """
    height, width, channels = feature_shape(outline, load.size, load.extract)
    tokens = height * width
    features = {
        name: (1, tokens, load.encoder.channels if name == "encoder" and load.encoder else channels)
        for name in feature_arrays(load.extract)
    }
    labels, confidence = label_dtype(load.labels), ["uint8"] * load.upsample.confidence
    specs = {
        "ingest": [ArraySpec((1, *load.size, 3), "uint8")],
        "extract": [
            *array_specs(features, encoding, 1).values(),
            ArraySpec((1, *latent_shape(outline, load.size)), "float32"),
        ],
        "correspond": [ArraySpec((1, tokens), "int32"), ArraySpec((1, tokens), "float16")],
        "segment": [*[ArraySpec((1, tokens), labels)] * 2, ArraySpec((1, tokens), "uint8")],
        "upsample": [ArraySpec((1, *load.source_size), kind) for kind in (labels, *confidence)],
    }
    return {stage: float(sum(_bytes(spec) for spec in arrays)) for stage, arrays in specs.items()}


def _bytes(spec: ArraySpec) -> int:
    return int(np.prod(spec.shape)) * np.dtype(spec.dtype).itemsize


def flops_of(work: Callable[[], Result]) -> tuple[Result, float]:
    """The result of work on the meta device, and its floating-point operations."""
    with _FusedAttention(), FlopCounterMode(display=False) as counter:
        result = work()
    return result, float(counter.get_total_flops())


def peak_of(work: Callable[[], object]) -> int:
    """The most bytes that tensors made by work on the meta device hold at once."""
    with _FusedAttention(), _LiveBytes() as memory:
        work()
    return memory.peak


def segment_map(outline: Backbone, load: Workload) -> np.ndarray:
    """A coarse map (h, w) of K segments, each in two places: a token has the label of the nearest of 2 K seeded points.

    In one place each they would need fewer passes than those of real clips when several share one
    (docs/explanation/performance.md).
    """
    shape = outline.token_shape(load.upsample.block, load.size)[:2]
    points = np.random.default_rng(0).random((2 * load.labels, 2)) * np.array(shape)
    tokens = np.moveaxis(np.indices(shape), 0, -1) + 0.5
    return np.square(tokens[:, :, None] - points).sum(axis=-1).argmin(axis=-1) % load.labels


def _extended(count: int, of_first: Callable[[int], float]) -> float:
    """The sum over so many, of which all but the first are equal: `of_first(k)` is that over the first k."""
    one = of_first(1)
    return one if count == 1 else one + (count - 1) * (of_first(2) - one)


def _modulated_flops(outline: Backbone, load: Workload, rules: Rules) -> float:
    """Operations of the clean pass of a window and of its modulated passes."""
    steps, groups = len(rules.modulated_steps), len(_window(outline, load, rules).groups) * len(rules.directions)
    before = len(rules.steps) - steps
    whole = denoised_flops(outline, load, rules.denoising) if before else 0.0
    # What the groups of a window share is counted with the first of them.
    counted = cache(lambda some, of_groups: _clean_and_varied(outline, load, rules, some, of_groups))
    clean = _extended(steps, lambda some: counted(some, 1)[0])
    varied = _extended(groups, lambda some: _extended(steps, lambda of_steps: counted(of_steps, some)[1]))
    return before * whole + clean + varied


def _clean_and_varied(outline: Backbone, load: Workload, rules: Rules, steps: int, groups: int) -> tuple[float, float]:
    """Operations of the last steps of a window: of the clean pass, and of so many groups with one sign."""
    last = _last_steps(rules, steps)
    window = _window(outline, load, last)
    repeated = replace(window, groups=[window.groups[0]] * groups)
    conditioning = _conditioned(outline, load)
    clean, unvaried = flops_of(lambda: _clean(outline, load, last, load.together, conditioning))
    one_sign = replace(last, upsample=replace(last.upsample, mode="fast", fast=replace(last.fast, signs="plus")))
    _, varied = flops_of(lambda: modulated(outline, clean, [repeated], one_sign, load.together))
    return unvaried, varied


def _compared_flops(outline: Backbone, load: Workload, rules: Rules) -> float:
    """Operations of what is compared in one frame."""
    window, small = _window(outline, load, rules), load.small_decoder(outline.device)
    asked = range(load.decoded_together)

    def of(count: int) -> float:
        some = replace(window, asked=asked, groups=window.groups[:count])
        reference = _latents(outline, load)
        latents = reference.expand(count, len(rules.directions), -1, -1, -1, -1)
        return flops_of(lambda: list(compared(outline, reference, some, latents, rules, small)))[1] / len(asked)

    # Boxes differ in size.
    return of(len(window.groups)) if rules.fast.decode == "box" else _extended(len(window.groups), of)


def _upsampled(outline: Backbone, load: Workload, rules: Rules, steps: int) -> None:
    """One call of modulated windows through the last steps, compared in one frame."""
    last, batch = _last_steps(rules, steps), load.upsample.batch
    frames = outline.frames_per_pass(load.together, load.diffusion.batch)
    clean = _clean(outline, load, last, frames, _conditioned(outline, load))
    planes = np.broadcast_to(plane := segment_map(outline, load), (frames, *plane.shape))
    passes = Passes(batch, load.together, small=load.small_decoder(outline.device))
    windows = windows_of(planes, last, passes)
    windows = windows[next(calls(windows, last, batch))]
    most = max(1, batch // load.together // len(last.directions))
    windows = [replace(window, groups=window.groups[:most]) for window in windows]
    latents = modulated(outline, clean, windows, last, batch)
    first = replace(windows[0], asked=range(load.decoded_together))
    for _ in compared(outline, clean.final[: load.together], first, latents[0], last, passes.small):
        pass


def _last_steps(rules: Rules, steps: int) -> Rules:
    """The rules as if these were the only steps, modulated at the first."""
    first, last = rules.diffusion.steps - steps, rules.diffusion.steps - 1
    params = rules.upsample
    parity = replace(params.parity, blend_last_step=last)
    fast = replace(rules.fast, steps=EXACT.steps)
    return Rules(
        replace(rules.diffusion, start_step=first),
        replace(params, mode="fast", modulate_step=first, parity=parity, fast=fast),
    )


def _window(outline: Backbone, load: Workload, rules: Rules) -> Window:
    """A window whose frames all have the same segments."""
    planes = np.broadcast_to(plane := segment_map(outline, load), (load.together, *plane.shape))
    return windows_of(planes, rules, Passes(load.upsample.batch, load.together))[0]


def _clean(outline: Backbone, load: Workload, rules: Rules, frames: int, conditioning: Conditioning) -> CleanPass:
    start = _latents(outline, load, frames)
    return clean_pass(outline, start, rules.denoising, share=to_share(rules), conditioning=conditioning)


def _conditioned(outline: Backbone, load: Workload) -> Conditioning:
    return condition(outline, _frames(load, 1)[0], 0, load.diffusion)


def _frames(load: Workload, count: int) -> np.ndarray:
    return np.zeros((count, *load.size, 3), np.uint8)


def _latents(outline: Backbone, load: Workload, frames: int | None = None) -> Tensor:
    """Noised latents of a window, or of so many frames."""
    return torch.empty(frames or load.together, *latent_shape(outline, load.size), device=outline.device)


class _FusedAttention(TorchFunctionMode):
    """Attention as one operation, as on a CPU or GPU; on the meta device torch would take it apart."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is not torch.nn.functional.scaled_dot_product_attention:
            return function(*args, **(kwargs or {}))
        query, key, value = args
        return torch.ops.aten._scaled_dot_product_efficient_attention(query, key, value, None, False)[0]


class _LiveBytes(TorchDispatchMode):
    """The most bytes that storages made inside the context hold at once."""

    def __init__(self) -> None:
        super().__init__()
        self.peak = self._live = 0
        self._seen: set[int] = set()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and tensor.device.type == "meta":
                self._watch(tensor.untyped_storage())
        return result

    def _watch(self, storage: torch.UntypedStorage) -> None:
        if storage._cdata in self._seen:
            return
        self._seen.add(storage._cdata)
        self._live += storage.nbytes()
        self.peak = max(self.peak, self._live)
        weakref.finalize(storage, self._forget, storage._cdata, storage.nbytes())

    def _forget(self, key: int, size: int) -> None:
        self._seen.discard(key)
        self._live -= size

"""What a clip asks of a backbone and of the disk, counted by running the real code on torch's meta device.

A multiplication with its addition counts as 2 floating-point operations. Counted is what torch does; matching,
K-Means and nearest neighbours run outside of it, and are small beside the networks.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from pipeline.backbone import Backbone
from pipeline.backbone.small_decoder import SmallDecoder, outlined
from pipeline.features.diffusion import CleanPass, DiffusionSettings, clean_pass
from pipeline.features.extraction import ExtractionSettings, extract, feature_shape, latent_shape
from pipeline.stores.feature_codec import array_specs
from pipeline.stores.schemas import ArraySpec, label_dtype
from pipeline.upsampling.label_groups import Group
from pipeline.upsampling.modulation import ModulationSettings, jobs_of, modulate, to_keep
from pipeline.upsampling.upsample import EXACT, FastSettings, Response, compared, fast_keep, modulated_groups

Result = TypeVar("Result")
Size = tuple[int, int]


@dataclass(frozen=True)
class Workload:
    """What is to be computed for a clip.

    Attributes:
        size, source_size: (H, W) at model size and of the source.
        labels: of every frame; all are taken to be present in all frames, each in two places.
        frames: per pass of the encoder and the clean denoising.
        samples: modulated samples per pass.
        modulation: None where labels are enlarged without the backbone.
        fast: None in the exact mode.
        small: configuration of the small decoder; empty = AutoencoderTiny's usual size.
        window: frames that a video model sees together; None = each frame alone (see `window_cost`).
        together: frames that it decodes together.
    """

    size: Size
    source_size: Size
    labels: int
    frames: int
    samples: int
    diffusion: DiffusionSettings
    extraction: ExtractionSettings
    modulation: ModulationSettings | None
    fast: FastSettings | None = None
    small: Mapping[str, Any] = field(default_factory=dict)
    window: int | None = None
    together: int = 1

    @property
    def decode(self) -> str:
        """As in `WindowPasses`."""
        return "joint" if self.together > 1 else "single"

    @property
    def upsample_guidance(self) -> float | None:
        """The guidance of modulated passes; None without any."""
        if self.modulation is None:
            return None
        return (self.fast or EXACT).diffusion(self.diffusion, self.modulation).guidance

    def small_decoder(self, device: torch.device) -> SmallDecoder | None:
        """A small decoder of that size without trained weights, where one is used."""
        return outlined(self.small, device) if self.fast is not None and self.fast.decode == "small" else None


def flops_per_frame(outline: Backbone, load: Workload) -> dict[str, dict[str, float]]:
    """Floating-point operations of the stages that run a backbone: stage -> operation -> per frame.

    Args:
        outline: the backbone on the meta device. Its operations are `encode`, `denoise` and `decode`.
    """
    one = replace(load, frames=1, samples=2 * load.labels)
    frame = np.zeros((1, *load.size, 3), np.uint8)
    _, encoding = flops_of(lambda: outline.encode(frame))
    _, extracting = flops_of(lambda: extract(outline, frame, [0], load.diffusion, load.extraction))
    found = {"extract": {"encode": encoding, "denoise": extracting - encoding}}
    if load.modulation is not None and load.fast is None:
        latents, denoising = flops_of(lambda: _modulated(outline, one))
        _, decoding = flops_of(lambda: outline.decode(latents))
        found["upsample"] = {"denoise": denoising, "decode": decoding}
    elif load.modulation is not None:
        passes, denoising = flops_of(lambda: _Passes.of(outline, one))
        _, decoding = flops_of(passes.decode)
        found["upsample"] = {"denoise": denoising, "decode": decoding}
    return found


def samples_per_frame(outline: Backbone, load: Workload) -> int:
    """Modulated samples of a frame: both signs of each label, or what the fast mode makes of them."""
    if load.modulation is None:
        return 0
    if load.fast is None:
        return 2 * load.labels
    return len(load.fast.regrouped(segment_map(outline, load)[None])) * len(load.fast.directions)


def peak_bytes(outline: Backbone, load: Workload) -> dict[str, int]:
    """Bytes of tensors that are alive at once in the stages that run a backbone, beside the weights."""
    frames = np.zeros((load.frames, *load.size, 3), np.uint8)
    found = {"extract": peak_of(lambda: extract(outline, frames, range(load.frames), load.diffusion, load.extraction))}
    if load.modulation is not None and load.fast is None:
        found["upsample"] = peak_of(lambda: outline.decode(_modulated(outline, load)))
    elif load.modulation is not None:
        found["upsample"] = peak_of(lambda: _Passes.of(outline, load).decode())
    return found


def weight_bytes(*networks: torch.nn.Module) -> int:
    """Bytes of the networks' parameters."""
    return sum(weight.numel() * weight.element_size() for network in networks for weight in network.parameters())


def cache_bytes(outline: Backbone, load: Workload, encoding: str) -> dict[str, float]:
    """Bytes per frame of each stage's stores, before compression.

    Args:
        encoding: of the features, `extract.dtype`.
    """
    grid = feature_shape(outline, load.size, load.extraction)
    tokens = grid[0] * grid[1]
    labels = label_dtype(load.labels)
    specs = {
        "ingest": [ArraySpec((1, *load.size, 3), "uint8")],
        "extract": [
            *array_specs((1, tokens, grid[2]), encoding, 1).values(),
            ArraySpec((1, *latent_shape(outline, load.size)), "float32"),
        ],
        "correspond": [ArraySpec((1, tokens), "int32"), ArraySpec((1, tokens), "float16")],
        "segment": [ArraySpec((1, tokens), labels)] * 2,
        "upsample": [ArraySpec((1, *load.source_size), labels)],
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


def _modulated(outline: Backbone, load: Workload) -> Tensor:
    """The first pass of samples through all steps, after the clean pass of the frames: (j, 4, h, w)."""
    assert load.modulation is not None
    plane = torch.from_numpy(segment_map(outline, load))
    jobs = jobs_of(plane.expand(load.frames, -1, -1))[: load.samples]
    start = torch.empty(load.frames, *latent_shape(outline, load.size), device=outline.device)
    clean = clean_pass(outline, start, load.diffusion, keep=to_keep(load.modulation, load.diffusion))
    return modulate(outline, clean, jobs, load.diffusion, load.modulation, load.samples).final


def segment_map(outline: Backbone, load: Workload) -> np.ndarray:
    """A coarse map (h, w) of K segments, each in two places: a token has the label of the nearest of 2 K seeded points.

    In one place each they would need fewer passes than those of real clips when several share one
    (docs/explanation/performance.md).
    """
    assert load.modulation is not None
    shape = outline.token_shape(load.modulation.block, load.size)[:2]
    points = np.random.default_rng(0).random((2 * load.labels, 2)) * np.array(shape)
    tokens = np.moveaxis(np.indices(shape), 0, -1) + 0.5
    return np.square(tokens[:, :, None] - points).sum(axis=-1).argmin(axis=-1) % load.labels


@dataclass(frozen=True)
class _Passes:
    """The passes of one frame in the fast mode, after the clean pass of all."""

    outline: Backbone
    load: Workload
    clean: CleanPass
    groups: list[Group]
    latents: Tensor

    @classmethod
    def of(cls, outline: Backbone, load: Workload) -> _Passes:
        fast, modulation = load.fast, load.modulation
        assert fast is not None and modulation is not None
        steps = fast.diffusion(load.diffusion, modulation)
        start = torch.empty(load.frames, *latent_shape(outline, load.size), device=outline.device)
        clean = clean_pass(outline, start, steps, keep=fast_keep(modulation, steps, fast))
        groups = fast.regrouped(segment_map(outline, load)[None])
        latents = modulated_groups(outline, clean, [0], groups, steps, modulation, fast, load.samples)
        return cls(outline, load, clean, groups, latents)

    def decode(self) -> list[Response]:
        assert self.load.fast is not None and self.load.modulation is not None
        arguments = self.latents, self.groups, self.load.modulation, self.load.fast, "single"
        small = self.load.small_decoder(self.outline.device)
        return list(compared(self.outline, self.clean.final[:1], [0], *arguments, small))


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

"""Recorded cases of the authors' video scripts, and the same passes computed by the library."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pipeline.backbone import Conditioning, Share, Tap
from pipeline.backbone.attention import GivenPattern, attention_of, processed
from pipeline.backbone.base import Layer
from pipeline.backbone.video.model import StableVideoDiffusion
from pipeline.backbone.video.variants import NetworkInput, RepeatableWindow
from pipeline.features.diffusion import CleanPass, clean_pass
from pipeline.features.noise import Noise, window_noise
from pipeline.media.resize import model_size, resize_frame
from pipeline.parameters import DiffusionParams, DiffusionVideo
from pipeline.upsampling.modulation import Jobs, ModulatedStep, modulate, to_share
from pipeline.upsampling.rules import Rules
from tests.reference.cases import Case
from tests.support.params import changed, make_rules
from tests.support.places import SHARED

DEFAULT_FOLDER = SHARED / "reference" / "svd"
GIVEN_FOLDER = os.environ.get("VIDSEG_SVD_REFERENCE")
FOLDER = Path(GIVEN_FOLDER) if GIVEN_FOLDER is not None else DEFAULT_FOLDER

TEMPORAL: tuple[Layer, ...] = ("temporal_self",)
ALL_SELF: tuple[Layer, ...] = ("self", "temporal_self")  # a single key makes those of cross-attention indifferent
SIGNS = {"pos": 1.0, "neg": -1.0}
#: What is recorded of the clean pass: step -> taps.
RECORDED = {
    17: [Tap(8, layer, "output") for layer in ("self", "temporal_self", "cross")]  # type: ignore[arg-type]
    + [Tap(8, "temporal_self", kind) for kind in ("query", "key")],  # type: ignore[arg-type]
    24: [Tap(block, "self", "query") for block in (6, 7, 8)]
    + [Tap(8, "self", "key"), Tap(8, "cross", "query"), Tap(8, "cross", "key")],
}


@dataclass(frozen=True)
class VideoVectors:
    """What all cases share: the clip and the networks; the recorded stand-in is the image embedding."""

    clip: Mapping[str, np.ndarray]
    backbone: StableVideoDiffusion

    @cached_property
    def network_frames(self) -> np.ndarray:
        return network_frames(self.clip)

    def injecting(self, injected: tuple[Layer, ...]) -> StableVideoDiffusion:
        """The backbone with other attentions taken over from the clean pass."""
        model = self.backbone
        return StableVideoDiffusion(model.unet, model.vae, model.embed, model.name, "", injected=injected)


def network_frames(clip: Mapping[str, np.ndarray]) -> np.ndarray:
    frames = clip["frames"]
    size = model_size(*frames.shape[1:3], "native")
    return np.stack([resize_frame(frame, size) for frame in frames])


def load_vectors(folder: Path) -> VideoVectors:
    """The clip and networks of a folder; what it does not repeat is taken from the default folder."""
    from diffusers import AutoencoderKLTemporalDecoder, UNetSpatioTemporalConditionModel

    clip = dict(np.load(_part(folder, "svd_clip.npz")))
    parts = _part(folder, "weights")
    options = {"torch_dtype": torch.float32, "low_cpu_mem_usage": False}
    unet = UNetSpatioTemporalConditionModel.from_pretrained(parts / "unet", **options).eval()
    vae = AutoencoderKLTemporalDecoder.from_pretrained(parts / "vae", **options).eval()
    stand_in = dict(
        zip((frame.tobytes() for frame in network_frames(clip)), clip["image_embedding"][:, None], strict=True)
    )
    backbone = StableVideoDiffusion(
        unet, vae, lambda frame: torch.from_numpy(stand_in[frame.tobytes()]), "reference", ""
    )
    return VideoVectors(clip, backbone)


def _part(folder: Path, name: str) -> Path:
    return folder / name if (folder / name).exists() else DEFAULT_FOLDER / name


class VideoCase(Case):
    """A `Case` of a video script: passes are windows with a conditioning of their own."""

    vectors: VideoVectors  # type: ignore[assignment]

    @property
    def is_single(self) -> bool:
        """Whether it is of the single-video script: one pass, no nearest neighbours, an early start."""
        return bool(self.meta["script"] == "single-video script")

    @property
    def frame_count(self) -> int:
        return int(self.meta["batch_size"])

    @property
    def diffusion(self) -> DiffusionParams:
        meta = self.meta
        fps, bucket, augmentation = meta["added_time_ids"]
        assert augmentation == meta["image_noise_scale"]
        told = DiffusionVideo(meta["guidance_min"], fps, bucket, augmentation)
        steps = meta["num_steps"], meta["start_step"]
        return DiffusionParams(*steps, meta["guidance_max"], seed=meta["seed"], video=told)

    @property
    def rules(self) -> Rules:
        """The released rules."""
        meta = self.meta
        return make_rules(
            self.diffusion,
            strength=meta["offset_lambda"],
            block=meta["modulated_block"],
            modulate_step=meta["modulated_step"],
            blend_last_step=max(meta["blended_steps"]),
            mask_resize="nearest",
            attention="cross_spatial" if self.is_single else "self_spatial_temporal",
        )

    @cached_property
    def draws(self) -> tuple[Noise, Tensor]:
        """The released noise of every pass: of latents, and of the conditioning image."""
        size = self.meta["network_height"], self.meta["network_width"]
        return window_noise(self.meta["seed"], self.latent_shape, size, unused=int(self.is_single))

    def conditioning(self, index: int) -> Conditioning:
        """What a pass is conditioned on: the recorded arrays where they are given."""
        ids = torch.tensor(self.meta["added_time_ids"])
        return Conditioning(self.tensor(f"p{index}_cond_latent"), self.tensor(f"p{index}_image_embedding"), ids)

    def passed(self, index: int, inject: bool = True, injected: tuple[Layer, ...] = TEMPORAL) -> CleanPass:
        """The clean pass, kept for modulation; from the recorded start where it is given."""
        key = (f"clean {inject} {injected}", index)
        if key not in self.memo:
            settings = self.diffusion
            share = to_share(Rules(settings, changed(self.rules.upsample, inject=inject)))
            backbone, start = self.vectors.injecting(injected), self.tensor(f"p{index}_x_start")
            self.memo[key] = clean_pass(backbone, start, settings, RECORDED, share, self.conditioning(index))
        return self.memo[key]

    def clean(self, index: int, inject: bool = True) -> CleanPass:
        return self.passed(index, inject)

    def modulated(
        self,
        index: int,
        label: int,
        sign: str,
        rules: Rules | None = None,
        injected: tuple[Layer, ...] = TEMPORAL,
        early: bool = True,
    ) -> dict[int, ModulatedStep]:
        """Step -> latents of one label in all frames of a pass.

        Args:
            rules: None = the released rules, whose result is kept.
            early: whether the single-video script's runs begin at its early step.
        """
        key = (f"modulated l{label} {sign}", index)
        if rules is None and key in self.memo:
            return self.memo[key]
        chosen = rules or self.rules
        inject = chosen.upsample.parity.inject
        clean = self.passed(index, inject, injected)
        if early:
            clean = self.met_early(clean, index, inject, injected)
        todo = self.jobs(index, label, sign)
        steps = modulate(self.vectors.backbone, clean, todo, chosen, batch=self.frame_count)
        result = {after.step: after for after in steps}
        if rules is None:
            self.memo[key] = result
        return result

    def met_early(
        self, clean: CleanPass, index: int, inject: bool = True, injected: tuple[Layer, ...] = TEMPORAL
    ) -> CleanPass:
        """A clean pass as modulated runs meet it, from `before`: they differ from it ahead of the block already."""
        step, start = self.diffusion.start_step, self.before(index)
        if self.meta["modulation_start_step"] == step:
            return clean
        key = (f"met {inject} {injected}", index)
        if key not in self.memo:
            self.memo[key] = self._kept_of(clean, start, index, inject, injected)
        return replace(clean, start=start, repeatable={**clean.repeatable, step: self.memo[key]})

    @torch.inference_mode()
    def _kept_of(
        self, clean: CleanPass, start: Tensor, index: int, inject: bool, injected: tuple[Layer, ...]
    ) -> RepeatableWindow:
        """The first kept step, with other latents ahead of the modulated block and all its attention taken over."""
        settings, backbone, given = self.diffusion, self.vectors.injecting(injected), self.conditioning(index)
        schedule = backbone.schedule(settings.steps)
        guidance = backbone.guidance_of(settings.video.guidance_first, settings.guidance, len(start))
        own = backbone.denoise_repeatably(
            clean.start, settings.start_step, schedule, guidance, Share(inject), conditioning=given
        ).repeatable
        kept = clean.repeatable[settings.start_step]
        assert isinstance(own, RepeatableWindow) and isinstance(kept, RepeatableWindow)
        halves = []
        for half, all_blocks in zip(kept.halves, own.halves, strict=True):
            patterns = {attention_of(kept.unet, *at): GivenPattern(w) for at, w in all_blocks.patterns.items()}
            whole = NetworkInput.of(kept.unet, start[None], kept.move, given, half.conditional)
            with processed(patterns):
                halves.append(replace(half, midway=whole.first_part(kept.unet, self.rules.upsample.block)))
        return replace(kept, halves=tuple(halves))

    def jobs(self, index: int, label: int, sign: str) -> Jobs:
        planes = self.tensor(f"p{index}_cbr_labels").reshape(-1, *self.grid)
        frames = list(range(len(planes)))
        signs = torch.full((len(planes),), SIGNS[sign])
        return Jobs(frames, signs, (planes == label).float())

    def before(self, index: int) -> Tensor:
        """The latents at which modulated runs meet the modulated step: those of the early start are an evident slip."""
        start = self.tensor(f"p{index}_x_start")
        key = ("before", index)
        if key not in self.memo:
            settings, backbone = self.diffusion, self.vectors.backbone
            schedule = backbone.schedule(settings.steps)
            guidance = backbone.guidance_of(settings.video.guidance_first, settings.guidance, len(start))
            for step in range(self.meta["modulation_start_step"], settings.start_step):
                conditioning = self.conditioning(index)
                start = backbone.denoise(start, step, schedule, guidance, conditioning=conditioning).latents
            self.memo[key] = start
        return self.memo[key]

"""Recorded cases and the same quantities computed by the library.

A `Rule` computes one kind of array from others and says how close it must come to the recorded one. A `Case`
answers for every array: with the recorded values where they are `given`, else by its rule. With all of them given
each step starts *from recorded inputs*; with only the first frame's labels given the case runs *freely*, from the
frames to the final maps.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.backbone import Tap
from pipeline.backbone.image.model import StableDiffusion
from pipeline.features.diffusion import CleanPass, clean_pass
from pipeline.features.steps import remaining_steps
from pipeline.media.resize import model_size, resize_frame
from pipeline.parameters import DiffusionParams
from pipeline.upsampling.modulation import to_share
from pipeline.upsampling.rules import Rules
from tests.support.params import changed, make_rules
from tests.support.places import SHARED

DEFAULT_FOLDER = SHARED / "reference"
GIVEN_FOLDER = os.environ.get("VIDSEG_REFERENCE")
FOLDER = Path(GIVEN_FOLDER) if GIVEN_FOLDER is not None else DEFAULT_FOLDER

Compute = Callable[[Any, int, re.Match[str]], np.ndarray]  # of a Case or a kind of it
Compare = Callable[[np.ndarray, np.ndarray], str | None]


@dataclass(frozen=True)
class Rule:
    """How arrays of a pattern of names are computed, and compared: the complaint, or None when they agree.

    Attributes:
        compare: bounds for a computation that starts from the frames.
        strict: bounds for one whose inputs are all recorded, where they are tighter.
    """

    pattern: str
    compute: Compute
    compare: Compare
    strict: Compare | None = None


def within(bound: float) -> Compare:
    """No value is off by more than `bound`, or by the last place of a value recorded in half precision."""

    def compare(ours: np.ndarray, recorded: np.ndarray) -> str | None:
        rounding = np.spacing(np.abs(recorded)) if recorded.dtype == np.float16 else 0
        error = float((np.abs(np.asarray(ours, np.float64) - recorded) - rounding).max())
        return None if error <= bound else f"off by up to {error:.2g}, allowed {bound:.2g}"

    return compare


def equal_share(share: float, tolerance: float = 0.0) -> Compare:
    """At least this share of the entries is identical, or as close as `tolerance`; masked ones do not count."""

    def compare(ours: np.ndarray, recorded: np.ndarray) -> str | None:
        error = np.ma.abs(np.ma.asarray(ours, np.float64).reshape(recorded.shape) - recorded)
        found = float((error <= tolerance).mean())
        return None if found >= share else f"{found:.4%} identical, needed {share:.2%}"

    return compare


def grey_levels(share: float, levels: int) -> Compare:
    """At most this share of the 8-bit values differs, by at most so many levels."""

    def compare(ours: np.ndarray, recorded: np.ndarray) -> str | None:
        error = np.abs(ours.astype(int) - recorded)
        found, largest = float((error > 0).mean()), int(error.max())
        agrees = found <= share and largest <= levels
        return None if agrees else f"{found:.4%} differ, by up to {largest}; allowed {share:.2%}, {levels}"

    return compare


@dataclass(frozen=True)
class Vectors:
    """What all cases share: the clip and the networks."""

    clip: Mapping[str, np.ndarray]
    backbone: StableDiffusion

    @cached_property
    def network_frames(self) -> np.ndarray:
        frames = self.clip["frames"]
        size = model_size(*frames.shape[1:3], "native")
        return np.stack([resize_frame(frame, size) for frame in frames])


def load_vectors(folder: Path) -> Vectors:
    """The clip and networks of a folder; what it does not repeat is taken from the default folder."""
    from diffusers import AutoencoderKL, UNet2DConditionModel

    clip = dict(np.load(_part(folder, "clip.npz")))
    parts = _part(folder, "weights")
    unet = UNet2DConditionModel.from_pretrained(parts / "unet", torch_dtype=torch.float32).eval()
    vae = AutoencoderKL.from_pretrained(parts / "vae", torch_dtype=torch.float32).eval()
    vae = vae.to(memory_format=torch.channels_last)  # as `load_model` does
    return Vectors(clip, StableDiffusion(unet, vae, torch.from_numpy(clip["context_cond"]), "reference", ""))


def _part(folder: Path, name: str) -> Path:
    return folder / name if (folder / name).exists() else DEFAULT_FOLDER / name


class Case(Mapping[str, np.ndarray]):
    """One case: arrays by name, recorded where `given`, else computed by `rules` (and kept)."""

    def __init__(
        self,
        recorded: Mapping[str, np.ndarray],
        vectors: Vectors,
        rules: Sequence[Rule],
        given: Collection[str],
        map_frames: Callable[[Sequence[int]], Sequence[int]] = lambda positions: positions,
    ) -> None:
        """`map_frames` chooses, from positions in a pass, those whose final maps are computed."""
        self.recorded = recorded
        self.vectors = vectors
        self.given = given
        self.map_frames = map_frames
        self.meta = json.loads(str(recorded["meta_json"]))
        self._rules = rules
        self._computed: dict[str, np.ndarray] = {}
        self._clean: dict[tuple[int, bool], CleanPass] = {}
        self.memo: dict[tuple[str, int], Any] = {}

    def __getitem__(self, name: str) -> np.ndarray:
        if name in self.given and name in self.recorded:
            return self.recorded[name]
        twin = self._twin(name)
        if twin is not None:
            return self.recorded[twin]
        if name not in self._computed:
            self._computed[name] = self.compute(name)
        return self._computed[name]

    def __contains__(self, name: object) -> bool:
        if name in self.recorded and name in self.given:
            return True
        # Passes over the same frames with recorded features share them; others have theirs computed.
        computable = re.fullmatch(r"p(\d+)_(feature_norm|q_block\d+)", str(name))
        return computable is not None and int(computable[1]) < self.passes and self._twin(str(name)) is None

    def __iter__(self) -> Iterator[str]:
        return iter(self.recorded)

    def __len__(self) -> int:
        return len(self.recorded)

    def find(self, name: str) -> tuple[Rule, re.Match[str]] | None:
        """The rule of an array, None when no rule knows its name."""
        for rule in self._rules:
            if match := re.fullmatch(rule.pattern, name):
                return rule, match
        return None

    def compute(self, name: str) -> np.ndarray:
        """The array by its rule, whatever was recorded under that name."""
        found = self.find(name)
        if found is None:
            raise KeyError(f"no rule computes {name}")
        rule, match = found
        return rule.compute(self, pass_of(name), match)

    def complaint(self, name: str) -> str | None:
        """What is wrong with the computed array; None when it agrees with the recorded one."""
        found = self.find(name)
        if found is None:
            return "no rule knows this name"
        compare = found[0].strict if self.is_recorded and found[0].strict else found[0].compare
        return compare(self.compute(name), self.recorded[name])

    @property
    def is_recorded(self) -> bool:
        """Whether every step starts from recorded inputs."""
        return len(self.given) == len(self.recorded)

    def _twin(self, name: str) -> str | None:
        # What depends on the frames alone is recorded once for passes over the same frames.
        shared = re.fullmatch(r"p(\d+)_(latent|x_start|xt\d+|q_block\d+|feature_avg|feature_norm)", name)
        if shared is None or name in self.recorded:
            return None
        frames = self.frames(int(shared[1]))
        for other in range(self.passes):
            twin = f"p{other}_{shared[2]}"
            if twin in self.given and twin in self.recorded and self.frames(other) == frames:
                return twin
        return None

    @property
    def passes(self) -> int:
        return len(self.meta["passes"])

    @property
    def grid(self) -> tuple[int, int]:
        return self.meta["feature_height"], self.meta["feature_width"]

    @property
    def frame_size(self) -> tuple[int, int]:
        return self.meta["frame_height"], self.meta["frame_width"]

    @property
    def labels(self) -> list[int]:
        return [int(label) for label in self.recorded["labels"]]

    @property
    def latent_shape(self) -> tuple[int, int, int, int]:
        return self.meta["batch_size"], 4, self.meta["network_height"] // 8, self.meta["network_width"] // 8

    @property
    def diffusion(self) -> DiffusionParams:
        meta = self.meta
        return DiffusionParams(meta["num_steps"], meta["start_step"], meta["cfg_scale"], seed=meta["seed"])

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
        )

    def frames(self, index: int) -> list[int]:
        """The clip's frames of a pass."""
        return list(range(*self.meta["passes"][index]))

    def tensor(self, name: str) -> torch.Tensor:
        return torch.from_numpy(np.array(self[name]))

    def clean(self, index: int, inject: bool = True) -> CleanPass:
        """The clean pass, with all attention taps of every step, kept for modulation.

        Where latents after a step are given, the next step starts from these.
        """
        if (index, inject) not in self._clean:
            self._clean[index, inject] = self._denoised(index, inject)
        return self._clean[index, inject]

    def _denoised(self, index: int, inject: bool) -> CleanPass:
        start, settings, backbone = self.tensor(f"p{index}_x_start"), self.diffusion, self.vectors.backbone
        share = to_share(Rules(settings, changed(self.rules.upsample, inject=inject)))
        free = clean_pass(backbone, start, settings, {step: RECORDED for step in remaining_steps(settings)}, share)
        states, taps, kept = dict(free.states), dict(free.taps), dict(free.repeatable)
        schedule = backbone.schedule(settings.steps)
        for step in remaining_steps(settings)[1:]:
            given = self._given_state(index, step - 1)
            if given is not None:
                again, restarted = (given, step, schedule, settings.guidance), None
                if step in share:
                    restarted = backbone.denoise_repeatably(*again, share[step], record=RECORDED)
                    kept[step] = restarted.repeatable
                denoised = restarted or backbone.denoise(*again, record=RECORDED)
                states[step], taps[step] = denoised.latents, denoised.taps
        return CleanPass(start, states, taps, kept)

    def from_given(self, index: int, inject: bool = True) -> CleanPass:
        """The clean pass as the modulated passes see it: recorded latents where they are given."""
        clean = self.clean(index, inject)
        states = {step: self._given_state(index, step) for step in clean.states}
        chosen = {step: clean.states[step] if state is None else state for step, state in states.items()}
        return replace(clean, states=chosen)

    def _given_state(self, index: int, step: int) -> torch.Tensor | None:
        name = f"p{index}_xt{step}"
        recorded = name if name in self.given and name in self.recorded else self._twin(name)
        return None if recorded is None else torch.from_numpy(self.recorded[recorded])


#: What the authors' code stored of its clean pass.
RECORDED = tuple(
    Tap(block, layer, tensor) for block in range(3, 12) for layer in ("self", "cross") for tensor in ("query", "key")
)


def pass_of(name: str) -> int:
    """The pass that an array belongs to; 0 for those of the whole case."""
    prefix = re.match(r"p(\d+)_", name)
    return int(prefix[1]) if prefix else 0


@dataclass
class Tally:
    """Which of a file's `total` arrays agree, and what is wrong with the others."""

    title: str
    total: int
    compared: int = 0
    complaints: list[str] = field(default_factory=list)

    def add(self, name: str, complaint: str | None) -> None:
        self.compared += 1
        if complaint:
            self.complaints.append(f"{name}: {complaint}")

    def report(self) -> None:
        """Print the count, and fail unless all arrays were compared and agree."""
        summary = f"{self.title}: {self.compared} of {self.total} arrays compared, {len(self.complaints)} differ"
        print(summary)
        assert not self.complaints, "\n".join([summary, *self.complaints])
        assert self.compared == self.total, summary


def report_clip(
    title: str,
    recorded: Mapping[str, np.ndarray],
    computed: Mapping[str, np.ndarray],
    bounds: Mapping[str, float],
    inputs: Mapping[str, str],
) -> None:
    """Compare every recorded array of the clip; the test fails on a name that no rule knows.

    Args:
        bounds: array -> how far it may be off.
        inputs: arrays that others are computed from -> one that is, and stands for them.
    """
    tally = Tally(title, len(recorded))
    complaints = {name: within(bound)(computed[name], recorded[name]) for name, bound in bounds.items()}
    for name in recorded:
        known = inputs.get(name, name)
        tally.add(name, complaints.get(known, "no rule knows this name"))
    tally.report()

"""The pipeline in memory, for comparing many settings on few frames: every step is computed once per setting."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from pipeline.backbone import Backbone
from pipeline.features.diffusion import add_noise, clean_pass, draw_noise
from pipeline.features.extraction import extract, feature_arrays, feature_shape
from pipeline.scoring.assignment import assign, hungarian
from pipeline.scoring.metrics import Confusion
from pipeline.scoring.scores import ScoredClasses
from pipeline.segmentation.authors_code import authors_kept, authors_passes, authors_trajectories, authors_vote
from pipeline.segmentation.correspondence import next_tokens
from pipeline.segmentation.joined_features import joined
from pipeline.segmentation.voting import vote
from pipeline.segmentation.window_loop import Start, fit_context, predict_window, update_context, window_ranges
from pipeline.stores.schemas import CLIP, TRUTH
from pipeline.stores.store import open_store
from pipeline.upsampling.interpolation import METHODS, nearest
from pipeline.upsampling.labelling import label_frame
from pipeline.upsampling.modulation import to_share
from pipeline.upsampling.responses import Passes, Response, responses
from pipeline.upsampling.rules import Rules
from pipeline.upsampling.upsample import Inputs, shown_map, upsample
from stages import ingest
from stages.common import encoders
from stages.common.settings import Settings
from stages.common.small_decoder import small_decoder

Result = TypeVar("Result")


@dataclass(frozen=True)
class LabelledClip:
    """Frames (f, H, W, 3) uint8 at model size, ground truth (a, H0, W0) of the frames at `positions`."""

    name: str
    frames: np.ndarray
    truth: np.ndarray
    positions: list[int]
    classes: ScoredClasses

    @property
    def size(self) -> tuple[int, int]:
        """(H0, W0) of the source."""
        height, width = self.truth.shape[1:]
        return height, width


@dataclass(frozen=True)
class Grouping:
    """What the released code does and no parameter can: rules that depend on how frames fall into batches."""

    noise_by_position: bool = False
    released_passes: bool = False
    released_refinement: str | None = None  # "mixed positive", "plain symmetric", ...


#: None of them.
GROUPING = Grouping()


@dataclass(frozen=True)
class Outcome:
    """Coarse labels (f, n), final labels (m, H0, W0) of some frames, and their mIoU in percent."""

    coarse: np.ndarray
    final: np.ndarray
    coarse_miou: float
    final_miou: float


def read_clip(frames: Path, labels: Path, settings: Settings) -> LabelledClip:
    """Read a folder of frames and its label PNGs as `vidseg ingest` does."""
    with tempfile.TemporaryDirectory() as scratch:
        ingest.run(frames, Path(scratch), settings["ingest"], ground_truth=labels)
        clip, truth = open_store(Path(scratch) / "clip.zarr", CLIP), open_store(Path(scratch) / "truth.zarr", TRUTH)
        names = {int(entry["id"]): str(entry["name"]) for entry in truth.attrs["classes"]}
        return LabelledClip(
            frames.parent.name,
            clip.read("frames", 0, clip.frames("frames")),
            truth.read("ground_truth", 0, truth.frames("ground_truth")),
            [int(position) for position in truth.attrs["indices"]],
            ScoredClasses(names, tuple(int(value) for value in truth.attrs["ignore"])),
        )


class Runner:
    """Runs one clip under many settings; steps whose settings did not change are not repeated.

    Args:
        map_frames: how many frames, evenly spread and with the first one, get final labels.
    """

    def __init__(self, backbone: Backbone, clip: LabelledClip, map_frames: int) -> None:
        self.backbone = backbone
        self.clip = clip
        chosen = np.linspace(0, len(clip.positions) - 1, min(map_frames, len(clip.positions))).round()
        self.scored = sorted({int(index) for index in chosen})
        self._cache: dict[Hashable, Any] = {}

    def run(self, settings: Settings, grouping: Grouping = GROUPING) -> Outcome:
        coarse = self._coarse(settings, grouping)
        final = self.upsampled(self.coarse(settings, grouping), settings, grouping)
        height, width = self.grid(settings)
        guide = np.empty((*self.clip.size, 0))
        enlarged = [nearest(coarse[at].reshape(height, width), guide).labels for at in self.clip.positions]
        return Outcome(
            coarse,
            final,
            self._miou(enlarged, range(len(self.clip.positions))),
            self._miou(final, self.scored),
        )

    def _once(self, key: Hashable, compute: Callable[[], Result]) -> Result:
        if key not in self._cache:
            self._cache[key] = compute()
        return self._cache[key]

    def grid(self, settings: Settings) -> tuple[int, int]:
        """(h, w) of the token grid."""
        height, width, _ = feature_shape(self.backbone, self._model_size, settings["extract"])
        return height, width

    @property
    def _model_size(self) -> tuple[int, int]:
        height, width = self.clip.frames.shape[1:3]
        return height, width

    def _sources(self, settings: Settings, grouping: Grouping) -> list[int]:
        period = settings["segment"].window if grouping.noise_by_position else len(self.clip.frames)
        return [frame % period for frame in range(len(self.clip.frames))]

    def _features(self, settings: Settings, grouping: Grouping) -> dict[str, np.ndarray]:
        sources = self._sources(settings, grouping)

        def compute() -> dict[str, np.ndarray]:
            batch, encoder = settings["diffusion"].batch, encoders.loaded(settings, self.backbone.device)
            parts = [
                extract(
                    self.backbone, self.clip.frames[at : at + batch], sources[at : at + batch],
                    settings["diffusion"], settings["extract"], encoder,
                )
                for at in range(0, len(sources), batch)
            ]  # fmt: skip
            names = ("latents", *feature_arrays(settings["extract"]))
            return {name: torch.cat([getattr(part, name) for part in parts]).cpu().numpy() for name in names}

        return self._once((tuple(sources), settings["diffusion"], settings["extract"]), compute)

    def _coarse(self, settings: Settings, grouping: Grouping) -> np.ndarray:
        key = (grouping, *(settings[section] for section in ("diffusion", "extract", "correspond", "segment")))
        return self._once(key, lambda: self._segment(settings, grouping))

    def _segment(self, settings: Settings, grouping: Grouping) -> np.ndarray:
        features = self._features(settings, grouping)
        loop, of_encoder = settings["segment"], features.get("encoder")
        context_features = joined(
            features.get(loop.features), of_encoder, loop.encoder_weight, normalize=loop.features == "matching"
        )
        matching = joined(features.get("matching"), of_encoder, settings["correspond"].encoder_weight)
        total = len(matching)
        cut = authors_passes if grouping.released_passes else window_ranges
        mask = None
        if loop.init == "mask" or loop.parity.label_merge == "first_frame":
            mask = _sampled(self.clip.truth[0], self.grid(settings)).reshape(-1)
        start = fit_context(context_features[: loop.window], loop, mask)
        coarse = np.zeros(matching.shape[:2], np.int32)
        for window in cut(total, loop.window):
            here = slice(window.start, window.stop)
            initial = predict_window(context_features[here], start, loop)
            coarse[here] = self._refine(matching[here], initial, settings, grouping)
            start = Start(update_context(start.context, context_features[here], coarse[here], loop))
        return coarse

    def _refine(self, matching: np.ndarray, labels: np.ndarray, settings: Settings, grouping: Grouping) -> np.ndarray:
        if grouping.released_refinement is not None:
            similarity, moves = grouping.released_refinement.split()
            tracks = authors_trajectories(matching, similarity)  # type: ignore[arg-type]
            kept = authors_kept(tracks, self.grid(settings), moves)  # type: ignore[arg-type]
            return authors_vote(labels, tracks, kept)
        params = settings["correspond"]
        matches = next_tokens(matching, self.grid(settings), params.max_squared_distance, params.parity.rule)
        return vote(labels, matches, settings["segment"].vote)

    def upsampled(self, planes: np.ndarray, settings: Settings, grouping: Grouping = GROUPING) -> np.ndarray:
        """Final labels (m, H0, W0) of the coarse maps (m, h, w) of the m frames that get some."""
        positions = [self.clip.positions[index] for index in self.scored]
        params = settings["upsample"]
        if params.method != "modulation":
            guides = self.clip.truth[..., None].repeat(3, -1)[: len(positions)]
            if params.method == "joint_bilateral":
                from pipeline.upsampling.difference import resize_image

                guides = np.stack([resize_image(self.clip.frames[at], self.clip.size) for at in positions])
            return np.stack([METHODS[params.method](*pair).labels for pair in zip(planes, guides, strict=True)])
        rules, size = Rules(settings["diffusion"], params), self.clip.size
        inputs = Inputs(self._start(settings, grouping), planes, self.clip.frames[positions])
        if params.mode == "fast":
            passes = Passes(params.batch, small=small_decoder(params, settings["backbone"]))
            return np.stack([frame.labels for frame in upsample(self.backbone, inputs, size, rules, passes)])
        labels = []
        for plane, guide, pairs in zip(planes, inputs.guides, self.pairs(planes, settings, grouping), strict=True):
            shown = [shown_map(pair, guide, size, rules) for pair in pairs]
            labels.append(label_frame(shown, plane, size, params).labels)
        return np.stack(labels)

    def coarse(self, settings: Settings, grouping: Grouping = GROUPING) -> np.ndarray:
        """Refined coarse maps (m, h, w) of the m frames that get final labels."""
        positions = [self.clip.positions[index] for index in self.scored]
        return self._coarse(settings, grouping)[positions].reshape(-1, *self.grid(settings))

    def pairs(self, planes: np.ndarray, settings: Settings, grouping: Grouping = GROUPING) -> list[list[Response]]:
        """I+ and I- of every label, for each of the m coarse maps (m, h, w)."""
        rules, sources = Rules(settings["diffusion"], settings["upsample"]), self._sources(settings, grouping)

        def compute() -> list[list[Response]]:
            start = self._start(settings, grouping)
            clean = clean_pass(self.backbone, start, rules.denoising, share=to_share(rules), skip=rules.skip)
            pairs = responses(self.backbone, clean, planes, rules, Passes(rules.upsample.batch))
            return [list(of_frame) for _, of_frame in groupby(pairs, key=lambda pair: pair.frame)]

        # What is made of the images changes none of them.
        parity = replace(
            rules.upsample.parity, difference="squared", blur=True, normalize=True, filter_resize="bilinear"
        )
        modulation = replace(rules.upsample, filter=1.0, parity=parity)
        encode = settings["extract"].parity.encode
        return self._once((planes.tobytes(), tuple(sources), encode, rules.diffusion, modulation), compute)

    def prepare(self, settings: Settings) -> None:
        """Compute what `upsampled` needs of the clip, so that it can be timed alone."""
        self._features(settings, GROUPING)

    def _start(self, settings: Settings, grouping: Grouping) -> torch.Tensor:
        """Noised latents (m, 4, h, w) of the m frames that get final labels."""
        positions = [self.clip.positions[index] for index in self.scored]
        diffusion = settings["diffusion"]
        sources = self._sources(settings, grouping)
        latents = torch.from_numpy(self._features(settings, grouping)["latents"][positions])
        noise = draw_noise(diffusion, [sources[at] for at in positions], latents.shape[1:])  # type: ignore[arg-type]
        return add_noise(latents.to(self.backbone.device), noise.epsilon, diffusion, self.backbone)

    def _miou(self, labels: Sequence[np.ndarray] | np.ndarray, truth_indices: Sequence[int]) -> float:
        """In percent; clusters take the class that covers most of them in the first frame."""
        classes, truth = self.clip.classes, self.clip.truth
        first = np.asarray(labels[0])
        rule = assign("majority", first, truth[0], classes.ignore, (1, 1), classes.unassigned)
        protocol = classes.protocol("strict")
        total = Confusion(len(protocol.class_values))
        for plane, index in zip(labels, truth_indices, strict=True):
            decoded = protocol.decode(truth[index], rule.apply(np.asarray(plane)))
            total += Confusion.of(decoded, len(protocol.class_values))
        return 100 * total.scores().miou


def changed(labels: np.ndarray, baseline: np.ndarray) -> float:
    """Share of labels in percent that differ; another numbering of the same clusters is no difference."""
    flat = labels.reshape(len(labels), -1)
    table = hungarian(flat, baseline.reshape(len(labels), -1))
    renamed = np.vectorize(lambda value: table.get(int(value), -1))(flat)
    return 100 * float((renamed != baseline.reshape(renamed.shape)).mean())


def _sampled(mask: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    from pipeline.media.resize import resize_nearest

    return resize_nearest(mask, grid)

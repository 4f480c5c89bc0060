"""Proof that the wiring is right: the whole pipeline on the sample, with a backbone that knows the classes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from pipeline.datasets.sample import CAR, SampleClip, make_sample
from pipeline.parameters import (
    BackboneParams,
    CorrespondParams,
    DiffusionParams,
    EvaluateParams,
    ExtractParams,
    IngestParams,
    SegmentParams,
    UpsampleParams,
)
from pipeline.stores.schemas import LABELS
from pipeline.stores.store import open_store
from stages import correspond, evaluate, extract, ingest, segment, upsample
from tests.support.commands import write_frames, write_labels
from tests.support.oracle import STRIDE, OracleBackbone

DIFFUSION = DiffusionParams(guidance=1.0)
FLICKER = {5: 0.3, 11: 0.3, 20: 0.3, 27: 0.3, 33: 0.3}


@pytest.fixture(scope="module")
def sample() -> SampleClip:
    return make_sample()


@pytest.fixture(scope="module")
def clip_folder(sample: SampleClip, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sample at model size (192x320), ingested."""
    folder = tmp_path_factory.mktemp("sample")
    write_frames(folder / "frames", sample.frames)
    write_labels(folder / "truth", at_token_resolution(sample.labels))
    ingest.run(folder / "frames", folder, IngestParams(), ground_truth=folder / "truth")
    return folder


def at_token_resolution(labels: np.ndarray) -> np.ndarray:
    """Labels (f, H, W) that tokens of the oracle can express: thin borders would hide a wiring mistake."""
    half = STRIDE // 2
    return labels[:, half::STRIDE, half::STRIDE].repeat(STRIDE, axis=1).repeat(STRIDE, axis=2)


def first_frame_classes(sample: SampleClip) -> int:
    return len(np.unique(sample.labels[0]))


def extracted(clip_folder: Path, out: Path, sample: SampleClip, flicker: Mapping[int, float] | None) -> Path:
    """Features, latents and matches by the oracle; returns their folder."""
    backbone = OracleBackbone(sample.frames, sample.labels, flicker=flicker)
    extract.run(clip_folder / "clip.zarr", out, ExtractParams(), DIFFUSION, BackboneParams(), backbone)
    correspond.run(out / "features.zarr", out, CorrespondParams())
    return out


@pytest.fixture(scope="module")
def right(clip_folder: Path, sample: SampleClip, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stores of the oracle that is always right."""
    return extracted(clip_folder, tmp_path_factory.mktemp("right"), sample, None)


@pytest.fixture(scope="module")
def flickering(clip_folder: Path, sample: SampleClip, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stores of the oracle that errs in some frames."""
    return extracted(clip_folder, tmp_path_factory.mktemp("flickering"), sample, FLICKER)


def segmented(clip_folder: Path, stores: Path, out: Path, sample: SampleClip, **changes: object) -> Path:
    """labels.zarr, segmented from these stores."""
    params = SegmentParams(**{"clusters": first_frame_classes(sample), **changes})
    segment.run(stores / "features.zarr", stores / "matches.zarr", out, params, seed=clip_folder / "seed")
    nearest = UpsampleParams(method="nearest")
    clip, latents = clip_folder / "clip.zarr", stores / "latents.zarr"
    return upsample.run(clip, latents, out / "coarse.zarr", out, nearest, DIFFUSION, BackboneParams())


def scores_of(clip_folder: Path, labels: Path, out: Path) -> dict[str, float]:
    scores = evaluate.run(labels, clip_folder / "truth.zarr", out, EvaluateParams())
    return json.loads(scores.read_text())["videos"][0]["scores"]


@pytest.fixture(scope="module")
def labels(clip_folder: Path, right: Path, sample: SampleClip, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """labels.zarr of the oracle that is always right."""
    return segmented(clip_folder, right, tmp_path_factory.mktemp("labels"), sample)


def test_the_oracle_reaches_the_ground_truth(clip_folder: Path, labels: Path, tmp_path: Path) -> None:
    assert scores_of(clip_folder, labels, tmp_path)["miou"] >= 0.95


def test_refinement_raises_the_consistency_of_flickering_predictions(
    clip_folder: Path, flickering: Path, sample: SampleClip, tmp_path: Path
) -> None:
    """Section 4.2: CBR against `vote: none` on the flickering version."""
    consistency = {}
    for vote in ("forward", "none"):
        voted = segmented(clip_folder, flickering, tmp_path / vote, sample, vote=vote)
        consistency[vote] = scores_of(clip_folder, voted, tmp_path / vote)["vc8"]
    assert consistency["forward"] > consistency["none"] + 0.02


def test_an_object_that_enters_takes_an_existing_label(labels: Path, sample: SampleClip) -> None:
    """The label set is closed; the second car, which enters at frame 18, takes the label of the first."""
    planes = open_store(labels, LABELS).read("labels")
    first = np.bincount(planes[0][sample.labels[0] == CAR]).argmax()
    entering = planes[30][:, :100][sample.labels[30][:, :100] == CAR]
    assert len(entering) > 500
    assert (entering == first).mean() > 0.9
    assert set(np.unique(planes[14:])) <= set(np.unique(planes[0]))


def test_a_first_frame_mask_is_propagated(clip_folder: Path, right: Path, sample: SampleClip, tmp_path: Path) -> None:
    """segment.init: mask is a training-free mask propagator: labels keep the mask's values."""
    ingest.run(
        clip_folder / "frames", tmp_path, IngestParams(), mask=clip_folder / "truth" / "00000.png",
        ground_truth=clip_folder / "truth",
    )  # fmt: skip
    kept = open_store(segmented(tmp_path, right, tmp_path / "out", sample, init="mask"), LABELS).read("labels")
    assert (kept == at_token_resolution(sample.labels)).mean() >= 0.97

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


def run_oracle(
    clip_folder: Path,
    out: Path,
    sample: SampleClip,
    flicker: Mapping[int, float] | None = None,
    **changes: object,
) -> dict:  # type: ignore[type-arg]
    """All stages with the oracle; returns the item's scores."""
    backbone = OracleBackbone(sample.frames, sample.labels, flicker=flicker)
    diffusion, named = DiffusionParams(guidance=1.0), BackboneParams()
    clip = clip_folder / "clip.zarr"
    extract.run(clip, out, ExtractParams(), diffusion, named, backbone)
    correspond.run(out / "features.zarr", out, CorrespondParams())
    params = SegmentParams(**{"clusters": first_frame_classes(sample), **changes})
    segment.run(out / "features.zarr", out / "matches.zarr", out, params, seed=clip_folder / "seed")
    nearest = UpsampleParams(method="nearest")
    upsample.run(clip, out / "latents.zarr", out / "coarse.zarr", out, nearest, diffusion, named)
    scores = evaluate.run(out / "labels.zarr", clip_folder / "truth.zarr", out, EvaluateParams())
    return json.loads(scores.read_text())["videos"][0]


def test_the_oracle_reaches_the_ground_truth(clip_folder: Path, sample: SampleClip, tmp_path: Path) -> None:
    scores = run_oracle(clip_folder, tmp_path, sample)["scores"]
    assert scores["miou"] >= 0.95


def test_refinement_raises_the_consistency_of_flickering_predictions(
    clip_folder: Path, sample: SampleClip, tmp_path: Path
) -> None:
    """Section 4.2: CBR against `vote: none` on the flickering version."""
    voted = run_oracle(clip_folder, tmp_path / "forward", sample, FLICKER)
    alone = run_oracle(clip_folder, tmp_path / "none", sample, FLICKER, vote="none")
    assert voted["scores"]["vc8"] > alone["scores"]["vc8"] + 0.02


def test_an_object_that_enters_takes_an_existing_label(clip_folder: Path, sample: SampleClip, tmp_path: Path) -> None:
    """The label set is closed; the second car, which enters at frame 18, takes the label of the first."""
    run_oracle(clip_folder, tmp_path, sample)
    labels = open_store(tmp_path / "labels.zarr", LABELS).read("labels")
    first = np.bincount(labels[0][sample.labels[0] == CAR]).argmax()
    entering = labels[30][:, :100][sample.labels[30][:, :100] == CAR]
    assert len(entering) > 500
    assert (entering == first).mean() > 0.9
    assert set(np.unique(labels[14:])) <= set(np.unique(labels[0]))


def test_a_first_frame_mask_is_propagated(sample: SampleClip, clip_folder: Path, tmp_path: Path) -> None:
    """segment.init: mask is a training-free mask propagator: labels keep the mask's values."""
    ingest.run(
        clip_folder / "frames", tmp_path, IngestParams(), mask=clip_folder / "truth" / "00000.png",
        ground_truth=clip_folder / "truth",
    )  # fmt: skip
    run_oracle(tmp_path, tmp_path / "out", sample, init="mask")
    labels = open_store(tmp_path / "out" / "labels.zarr", LABELS).read("labels")
    assert (labels == at_token_resolution(sample.labels)).mean() >= 0.97

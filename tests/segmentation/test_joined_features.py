"""The diffusion model's features, an encoder's, or both: what context model and matching see of a store."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import DataError, UsageError
from pipeline.parameters import CorrespondParams, EncoderWeight, SegmentParams, SegmentParity
from pipeline.segmentation.correspondence import next_tokens
from pipeline.segmentation.joined_features import context_features, match_features
from pipeline.stores.feature_codec import read_features
from pipeline.stores.schemas import COARSE, FEATURES, MATCHES
from pipeline.stores.store import Store, open_store
from stages import correspond, segment
from stages.commands import context
from tests.support.feature_store import CHANNELS, GRID, OF_ENCODER, make_features

PARAMS = SegmentParams(clusters=2, restarts=2, window=5)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(make_features(tmp_path, frames=6, encoder="lite"), FEATURES)


def test_weight_0_is_the_diffusion_model_s_part_as_before(store: Store) -> None:
    seen = context_features(store, PARAMS)
    np.testing.assert_array_equal(seen.read(1, 5), read_features(store, "aggregated", 1, 5))
    assert (seen.frames, seen.shard, seen.channels) == (6, 4, CHANNELS)
    raw = read_features(store, "matching", 1, 5)
    expected = raw / np.abs(raw).max(axis=-1, keepdims=True)
    np.testing.assert_allclose(context_features(store, replace(PARAMS, features="matching")).read(1, 5), expected)
    np.testing.assert_array_equal(match_features(store, CorrespondParams()).read(1, 5), raw)


@pytest.mark.parametrize("name", ["aggregated", "matching"])
def test_a_weight_joins_both_parts(store: Store, name: str) -> None:
    """The diffusion part has length 1, the encoder's the weight."""
    seen = context_features(store, replace(PARAMS, features=name, encoder_weight=2.5))  # type: ignore[arg-type]
    values = seen.read(1, 5)
    assert values.shape == (4, 24, seen.channels) == (4, 24, CHANNELS + OF_ENCODER)
    assert values.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(values[..., :CHANNELS], axis=-1), 1, rtol=1e-3)
    np.testing.assert_allclose(np.linalg.norm(values[..., CHANNELS:], axis=-1), 2.5, rtol=1e-3)
    first = read_features(store, name, 1, 5)
    along = (first * values[..., :CHANNELS]).sum(axis=-1)
    np.testing.assert_allclose(along, np.linalg.norm(first, axis=-1), rtol=1e-5)
    np.testing.assert_allclose(values[..., CHANNELS:], 2.5 * read_features(store, "encoder", 1, 5), rtol=1e-6)


def test_only_is_the_encoder_s_part_as_it_is_stored(tmp_path: Path) -> None:
    store = open_store(make_features(tmp_path, encoding="int8", encoder="lite", parts="encoder"), FEATURES)
    for seen in (
        context_features(store, replace(PARAMS, encoder_weight="only")),
        match_features(store, CorrespondParams(encoder_weight="only")),
    ):
        np.testing.assert_array_equal(seen.read(0, 12), read_features(store, "encoder", 0, 12))
        assert (seen.frames, seen.shard, seen.channels) == (12, 4, OF_ENCODER)


@pytest.mark.parametrize(
    ("encoder", "parts", "weight", "message"),
    [
        (
            None,
            "both",
            2.0,
            "has no encoder's features, but segment.encoder_weight is 2.0; set segment.encoder_weight=0",
        ),
        (None, "both", "only", "has no encoder's features, but segment.encoder_weight is only; set"),
        (
            "lite",
            "encoder",
            0.0,
            r"has only an encoder's features \(extract.parts=encoder\), but segment.encoder_weight is 0.0; set "
            "segment.encoder_weight=only, or re-run `vidseg extract` with extract.parts=both",
        ),
        ("lite", "encoder", 2.0, "has only an encoder's features .* segment.encoder_weight is 2.0; set .*=only"),
    ],
)
def test_features_that_are_not_there_are_refused(
    tmp_path: Path, encoder: str | None, parts: str, weight: EncoderWeight, message: str
) -> None:
    path = make_features(tmp_path, encoder=encoder, parts=parts)
    store = open_store(path, FEATURES)
    with pytest.raises(UsageError, match=f"features.zarr: {message}"):
        context_features(store, replace(PARAMS, encoder_weight=weight))
    of_matching = message.replace("segment", "correspond")
    with pytest.raises(UsageError, match=f"features.zarr: {of_matching}"):
        correspond.run(path, tmp_path / "out", CorrespondParams(encoder_weight=weight))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("weight", [0.5, "only"])
def test_matching_follows_its_own_weight(store: Store, tmp_path: Path, weight: EncoderWeight) -> None:
    plain, params = CorrespondParams(), CorrespondParams(encoder_weight=weight)
    found = [open_store(correspond.run(store.path, tmp_path / "out", one), MATCHES) for one in (plain, params)]
    values = match_features(store, params).read(0, 6)
    np.testing.assert_array_equal(found[1].read("next"), next_tokens(values, GRID, 2.0, "constrained").next)
    assert found[0].fingerprint != found[1].fingerprint
    assert "encoder_weight" not in found[0].params["correspond"]
    assert found[1].params["correspond"]["encoder_weight"] == weight


def test_segments_follow_the_weight(store: Store, tmp_path: Path) -> None:
    """The encoder tells rows apart alone: with it two clusters are the upper and the lower half."""
    matches = correspond.run(store.path, tmp_path, CorrespondParams())
    params = replace(PARAMS, encoder_weight="only", vote="none", parity=SegmentParity(kmeans_frames="window"))
    labels = open_store(segment.run(store.path, matches, tmp_path / "only", params), COARSE).read("initial")
    np.testing.assert_array_equal(labels[:, :2], labels[0, 0, 0])
    np.testing.assert_array_equal(labels[:, 2:], 1 - labels[0, 0, 0])
    marks = {
        open_store(segment.run(store.path, matches, tmp_path / "out", replace(params, encoder_weight=weight)), COARSE)
        .fingerprint
        for weight in (0.0, 1.0, 2.0, "only")
    }  # fmt: skip
    assert len(marks) == 4


@pytest.mark.parametrize(
    ("encoder", "weight", "message"),
    [
        ("lite", 0.0, "recipe is 'blocks 6, 7, 8, step 24, encoder lite, weight 2' there and 'blocks .* max_abs' here"),
        ("lite", 3.0, "weight 2' there and '.*weight 3' here"),
        ("lite", "only", "backbone is 'weights' there and 'any' here"),
        ("other", 2.0, "encoder lite, weight 2' there and '.*encoder other, weight 2' here"),
    ],
)
def test_a_context_of_other_features_is_refused(
    store: Store, tmp_path: Path, encoder: str, weight: EncoderWeight, message: str
) -> None:
    model = context.fit(store.path, tmp_path / "context", replace(PARAMS, encoder_weight=2.0))
    other = make_features(tmp_path / "other", encoder=encoder)
    with pytest.raises(DataError, match=message):
        context.predict(model, other, tmp_path / "out", replace(PARAMS, encoder_weight=weight))


def test_a_context_of_the_encoder_alone_serves_any_backbone(store: Store, tmp_path: Path) -> None:
    params = replace(PARAMS, encoder_weight="only")
    model = context.fit(store.path, tmp_path / "context", params)
    other = make_features(tmp_path / "other", backbone="others", encoder="lite", seed=1)
    found = open_store(context.predict(model, other, tmp_path / "out", params), COARSE).read("initial")
    np.testing.assert_array_equal(found[:, 0], found[0, 0, 0])

"""The scene context model and its folder."""

from __future__ import annotations

import builtins
import json
from dataclasses import replace
from pathlib import Path

import faiss
import numpy as np
import pytest

from pipeline.errors import DataError, UsageError
from pipeline.parameters import MemoryPolicy, parse_memory
from pipeline.segmentation.context import (
    Context,
    fit,
    make_segment,
    merge_by_mask,
    nearest_tokens,
)
from pipeline.segmentation.context_store import (
    FeatureKind,
    StoredContext,
    load_context,
    model_fingerprint,
    save_context,
)
from pipeline.stores.numbering import Numbering
from tests.support.commands import tree_bytes

KIND = FeatureKind("weights", "aggregated", "blocks 6, 7, 8, step 24, max_abs", 4)


def literal_vote(memory: np.ndarray, labels: np.ndarray, token: np.ndarray, neighbors: int) -> int:
    """The most frequent label of the nearest tokens, the smallest on ties."""
    distance = ((memory.astype(float) - token) ** 2).sum(axis=1)
    nearest = labels[np.argsort(distance)[:neighbors]].tolist()
    return min(set(nearest), key=lambda label: (-nearest.count(label), label))


@pytest.mark.parametrize("neighbors", [1, 4, 5])
def test_prediction_against_the_literal_version(neighbors: int, rng: np.random.Generator) -> None:
    memory = rng.standard_normal((40, 4)).astype(np.float32)
    labels = rng.choice([3, 200, 7], 40)
    queries = rng.standard_normal((2, 9, 4)).astype(np.float16)
    predicted = fit(memory, labels).predict(queries, neighbors)
    expected = [[literal_vote(memory, labels, token, neighbors) for token in frame] for frame in queries]
    assert predicted.tolist() == expected


def test_ties_go_to_the_smallest_label() -> None:
    memory = np.array([[0.0], [0.1], [0.2], [0.3]], np.float32)
    assert fit(memory, np.array([9, 2, 9, 2])).predict(np.zeros((1, 1, 1)), 4).tolist() == [[2]]


def test_more_neighbors_than_memory_is_refused() -> None:
    with pytest.raises(UsageError, match=r"segment.neighbors is 4, but the context model remembers only 3 tokens"):
        fit(np.eye(3), np.arange(3)).predict(np.eye(3)[None], 4)


def test_nan_names_the_frame() -> None:
    features = np.ones((3, 2, 3))
    features[1, 1, 2] = np.inf
    with pytest.raises(DataError, match="features of frame 15 have NaN or infinite"):
        fit(np.eye(3), np.arange(3)).predict(features, 1, first_frame=14)
    with pytest.raises(DataError, match="features of frame 0 have NaN"):
        fit(np.full((3, 3), np.nan), np.arange(3))


def test_another_number_of_channels_is_refused() -> None:
    with pytest.raises(DataError, match="holds features of 3 channels, this clip has 5"):
        fit(np.eye(3), np.arange(3)).predict(np.ones((1, 2, 5)), 1)


def test_no_gpu_function_is_called_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def abort(*args: object) -> None:
        raise AssertionError("this would abort the process")

    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 0)
    monkeypatch.setattr(faiss, "index_cpu_to_gpu", abort, raising=False)
    monkeypatch.setattr(faiss, "StandardGpuResources", abort, raising=False)
    assert nearest_tokens(np.eye(3, dtype=np.float32), np.eye(3, dtype=np.float32), 1).ravel().tolist() == [
        0,
        1,
        2,
    ]


def test_a_usable_gpu_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    moved = []
    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 1)
    monkeypatch.setattr(faiss, "StandardGpuResources", lambda: "resources", raising=False)
    monkeypatch.setattr(faiss, "index_cpu_to_gpu", lambda *args: moved.append(args[:2]) or args[2], raising=False)
    nearest_tokens(np.eye(3, dtype=np.float32), np.eye(3, dtype=np.float32), 1)
    assert moved == [("resources", 0)]


def test_missing_faiss_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without_faiss(name: str, *args: object, **kwargs: object) -> object:
        if name == "faiss":
            raise ImportError("No module named 'faiss'")
        return real(name, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", without_faiss)
    with pytest.raises(UsageError, match="pip install faiss-cpu"):
        fit(np.eye(3), np.arange(3)).predict(np.eye(3)[None], 1)


@pytest.mark.parametrize(
    ("memory", "expected"),
    [
        ("last_window", [[3]]),
        ("first_and_last", [[0], [3]]),
        ("sliding:1", [[3]]),
        ("sliding:2", [[2], [3]]),
        ("sliding: 5", [[1], [2], [3]]),
    ],
)
def test_memory_after_three_windows(memory: str, expected: list[list[int]]) -> None:
    context = fit(np.eye(4)[:2], np.array([0, 0]))
    for window in (1, 2, 3):
        context = context.update(np.ones((1, 3, 4)) * window, np.full((1, 3), window), parse_memory(memory))
    assert [np.unique(segment.labels).tolist() for segment in context.segments] == expected
    np.testing.assert_array_equal(context.features[-3:], np.full((3, 4), 3))


def test_keeping_the_first_of_a_model_that_forgot_it_keeps_the_oldest_window() -> None:
    window = [make_segment(np.ones((1, 2, 4)), np.full((1, 2), label)) for label in (4, 5)]
    context = Context(None, tuple(window)).update(
        np.ones((1, 2, 4)), np.full((1, 2), 6), MemoryPolicy(keep_first=True, windows=1)
    )
    assert [int(segment.labels[0]) for segment in context.segments] == [4, 6]


def test_changing_to_a_longer_memory_drops_no_window() -> None:
    context = fit(np.eye(4), np.zeros(4)).update(np.ones((1, 4, 4)), np.ones((1, 4)), parse_memory("first_and_last"))
    context = context.update(np.ones((1, 4, 4)), np.full((1, 4), 2), parse_memory("sliding:3"))
    assert [int(segment.labels[0]) for segment in context.segments] == [1, 2]


def test_prototypes_are_a_few_tokens_of_every_label_ever_seen(rng: np.random.Generator) -> None:
    groups = np.repeat(np.eye(4), 10, axis=0)

    def tokens(labels: list[int]) -> tuple[np.ndarray, np.ndarray]:
        values = groups + 0.1 * rng.standard_normal(groups.shape)
        return values[None].astype(np.float32), np.repeat(labels, 10)[None]

    features, labels = tokens([0, 1, 2, 2])
    context, memory = fit(features[0], labels[0]), parse_memory("prototypes:3")
    for named in ([0, 1, 5, 5], [0, 0, 0, 0]):
        context = context.update(*tokens(named), memory)
    assert context.first is None
    assert [len(window.labels) for window in context.windows] == [40]
    assert context.prototypes is not None
    values, counts = np.unique(context.prototypes.labels, return_counts=True)
    assert (values.tolist(), counts.tolist()) == ([0, 1, 2, 5], [3, 3, 3, 3])
    assert context.latest_labels == {0}
    known = context.predict(np.eye(4, dtype=np.float32)[None, 1:2], 1)
    assert known.tolist() in ([[0]], [[1]])


@pytest.mark.parametrize(
    "text", ["first", "sliding", "sliding:0", "sliding:-1", "sliding:2x", "prototypes", "prototypes:0", ""]
)
def test_an_unknown_memory_is_named(text: str) -> None:
    with pytest.raises(UsageError, match=rf"segment.memory must be .*, not '{text}'"):
        parse_memory(text)


@pytest.mark.parametrize(
    ("clusters", "mask", "expected"),
    [
        ([0, 0, 0, 1, 1], [5, 5, 2, 2, 2], [5, 5, 5, 2, 2]),
        ([3, 3, 8], [7, 4, 200], [4, 4, 200]),  # a tie takes the smallest value
        ([1, 0], [9, 9], [9, 9]),
    ],
)
def test_clusters_take_their_most_frequent_mask_value(
    clusters: list[int], mask: list[int], expected: list[int]
) -> None:
    assert merge_by_mask(np.array(clusters), np.array(mask, np.uint8)).tolist() == expected


# --- on disk


@pytest.fixture
def stored(rng: np.random.Generator) -> StoredContext:
    context = fit(rng.standard_normal((6, 4)), np.arange(6) * 50).update(
        rng.standard_normal((2, 6, 4)), rng.integers(0, 300, (2, 6)), parse_memory("first_and_last")
    )
    return StoredContext(context, KIND, (2, 3), "features")


def test_a_context_survives_the_disk(tmp_path: Path, stored: StoredContext) -> None:
    loaded = load_context(save_context(tmp_path / "context", stored), KIND)
    assert sorted(path.name for path in (tmp_path / "context").iterdir()) == [
        "index.faiss",
        "labels.npy",
        "meta.json",
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["context"]
    assert len(loaded.context.windows) == 1
    np.testing.assert_array_equal(loaded.context.features, stored.context.features)
    np.testing.assert_array_equal(loaded.context.labels, stored.context.labels)
    assert replace(loaded, context=stored.context) == stored
    assert model_fingerprint(loaded) == model_fingerprint(stored)


def test_prototypes_survive_the_disk(tmp_path: Path, stored: StoredContext) -> None:
    context = stored.context.update(np.ones((1, 6, 4)), np.arange(6)[None], parse_memory("prototypes:1"))
    loaded = load_context(save_context(tmp_path / "context", replace(stored, context=context)))
    assert loaded.context.prototypes is not None
    assert context.prototypes is not None
    np.testing.assert_array_equal(loaded.context.prototypes.features, context.prototypes.features)
    assert [len(window.labels) for window in loaded.context.windows] == [6]
    without = replace(loaded, context=Context(None, loaded.context.segments))
    assert model_fingerprint(loaded) != model_fingerprint(without)


def test_equal_models_have_equal_bytes(tmp_path: Path, stored: StoredContext) -> None:
    first = tree_bytes(save_context(tmp_path / "a", stored))
    assert first == tree_bytes(save_context(tmp_path / "b", load_context(tmp_path / "a")))


def test_a_model_hands_on_what_numbers_its_labels(tmp_path: Path, stored: StoredContext) -> None:
    """Its own labels, unless it has them from another, some of which it may have forgotten."""
    assert stored.numbering == Numbering(model_fingerprint(stored), tuple(np.unique(stored.context.labels).tolist()))
    given = Numbering("first", (0, 7, 400))
    assert load_context(save_context(tmp_path / "context", replace(stored, given=given))).numbering == given


def test_saving_replaces_what_was_there(tmp_path: Path, stored: StoredContext) -> None:
    save_context(tmp_path / "context", stored)
    emptier = replace(stored, context=Context(None, stored.context.windows))
    assert load_context(save_context(tmp_path / "context", emptier)).context.first is None


def test_a_context_of_another_backbone_is_refused(tmp_path: Path, stored: StoredContext) -> None:
    folder = save_context(tmp_path / "context", stored)
    with pytest.raises(DataError, match="backbone is 'weights' there and 'others' here"):
        load_context(folder, replace(KIND, backbone="others"))
    with pytest.raises(DataError, match="name is 'aggregated' there and 'matching' here"):
        load_context(folder, replace(KIND, name="matching"))


def test_damaged_contexts_are_explained(tmp_path: Path, stored: StoredContext) -> None:
    with pytest.raises(DataError, match="nowhere: no such context model"):
        load_context(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty: not a context model \(no readable meta.json\)"):
        load_context(tmp_path / "empty")
    folder = save_context(tmp_path / "context", stored)
    meta = json.loads((folder / "meta.json").read_text())
    cases = [
        ("meta.json", json.dumps({**meta, "schema": "clip"}).encode(), "not a context model"),
        (
            "meta.json",
            json.dumps({**meta, "schema_version": 9}).encode(),
            "schema version 9, this program reads 1",
        ),
        ("meta.json", json.dumps({**meta, "windows": [3]}).encode(), "its files do not belong together"),
        ("index.faiss", b"IxF2", "damaged context model"),
        ("labels.npy", b"", "damaged context model"),
    ]
    for name, content, message in cases:
        whole = (folder / name).read_bytes()
        (folder / name).write_bytes(content)
        with pytest.raises(DataError, match=message):
            load_context(folder)
        (folder / name).write_bytes(whole)
    load_context(folder)

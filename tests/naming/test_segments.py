from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.errors import DataError
from pipeline.naming.names import Named, Names, NamesFile
from pipeline.naming.segments import Naming, Segment, segments_of, void_of
from pipeline.naming.stores import NAMED, NamedLabels
from pipeline.stores.numbering import Numbering
from pipeline.stores.schemas import LABELS
from pipeline.stores.store import open_store
from tests.support.scenes import Scene, label_maps

NUMBERING = Numbering("abc", (0, 3, 7, 8))
PLANE = np.array([[0, 3], [7, 8]], np.uint8)


@pytest.mark.parametrize(
    ("names", "labels", "segments"),
    [
        (Names(), [[0, 3], [7, 8]], ()),
        (Names({3: Named("road")}), [[0, 3], [7, 8]], (Segment(3, "road"),)),
        (Names({8: Named("car")}, {8: 7}), [[0, 3], [7, 7]], (Segment(7, "car"),)),
        (Names({7: Named(None, (1, 2, 3)), 8: Named("car", (9, 9, 9))}, {8: 7}),
         [[0, 3], [7, 7]], (Segment(7, "car", (1, 2, 3)),)),
        (Names(merged={8: 7, 7: 3}), [[0, 3], [3, 3]], ()),
        (Names(dropped=frozenset({0})), [[255, 3], [7, 8]], ()),
        (Names(merged={8: 7}, dropped=frozenset({7})), [[0, 3], [255, 255]], ()),
    ],
)  # fmt: skip
def test_what_names_make_of_labels(names: Names, labels: list[list[int]], segments: tuple[Segment, ...]) -> None:
    naming = Naming(NUMBERING, names, {})
    applied = naming.apply(PLANE)
    assert applied.tolist() == labels
    assert applied.dtype == np.uint8
    assert naming.segments == segments


def test_learned_names_stay_until_they_are_replaced() -> None:
    naming = Naming(NUMBERING, Names({3: Named("lane")}, {8: 7}), {3: "road", 7: "cat", 8: "dog"})
    assert naming.segments == (Segment(3, "lane"), Segment(7, "cat"))


def test_dropped_pixels_never_get_the_number_of_a_label() -> None:
    naming = Naming(Numbering("abc", (0, 255)), Names(dropped=frozenset({0})), {})
    assert naming.void == 65535
    applied = naming.apply(np.array([0, 255], np.uint8))
    assert applied.tolist() == [65535, 255]
    assert applied.dtype == np.uint16


def scene_names(**more: Any) -> NamesFile:
    return NamesFile("scene", Names({3: Named("square", (1, 2, 3))}, merged={7: 0}, **more))


def test_labels_are_named_as_they_are_read(tmp_path: Path) -> None:
    named = NamedLabels(open_store(Scene(tmp_path).labels_store(), LABELS), scene_names(), "f")
    expected = np.where(label_maps() == 7, 0, label_maps())
    np.testing.assert_array_equal(named.read("labels"), expected)
    np.testing.assert_array_equal(named.read("labels", 1, 3), expected[1:3])
    assert segments_of(named) == {3: Segment(3, "square", (1, 2, 3))}
    assert void_of(named) is None
    assert named.stage == "upsample"


def test_a_store_of_named_labels_reads_like_one_of_labels(tmp_path: Path) -> None:
    confidence = np.where(label_maps() == 7, 40, 255).astype(np.uint8)
    labels = open_store(Scene(tmp_path).labels_store(confidence=confidence), LABELS)
    named = NamedLabels(labels, scene_names(), "f")
    writer = named.writer(tmp_path / "named.zarr", tmp_path / "tmp")
    for shard in writer.shards():
        for array in named.arrays:
            writer.write(array, shard.start, named.read(array, shard.start, shard.stop))
    store = open_store(writer.commit(), NAMED)
    np.testing.assert_array_equal(store.read("confidence"), confidence)
    np.testing.assert_array_equal(store.read("labels"), named.read("labels"))
    assert store.fingerprint == named.named_fingerprint() != labels.fingerprint
    assert store.attrs["labels"] == labels.fingerprint
    assert segments_of(store) == segments_of(named)
    assert Numbering.of_labels(store) == Numbering.of_labels(labels)
    assert store.stage == "name"


def test_learned_segments_have_names_and_can_be_merged(tmp_path: Path) -> None:
    """The concept numbers them: names fit every video that it is applied to."""
    record = [
        {"id": label, "name": name, "color": [label, 0, 0]} for label, name in ((3, "head"), (0, "legs"), (7, "tail"))
    ]
    labels = Scene(tmp_path).applied_labels(record)
    assert segments_of(labels) == {0: Segment(0, "legs"), 3: Segment(3, "head"), 7: Segment(7, "tail")}
    assert Numbering.of_labels(labels) == Numbering("concept", (0, 3, 7))
    content = NamesFile("concept", Names({3: Named("skull")}, merged={7: 0}))
    assert segments_of(NamedLabels(labels, content, "f")) == {0: Segment(0, "legs"), 3: Segment(3, "skull")}


def test_labels_of_an_earlier_version_cannot_be_named(tmp_path: Path) -> None:
    labels = open_store(Scene(tmp_path).labels_store(origin=None), LABELS)
    with pytest.raises(DataError, match="an earlier version made it.*delete it and run `vidseg upsample`"):
        NamedLabels(labels, scene_names(), "f")

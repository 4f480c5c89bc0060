"""From difference maps to labels."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.parameters import UpsampleParams
from pipeline.upsampling.label_groups import Group
from pipeline.upsampling.labelling import GroupMap, RunningArgmax, label_frame


def test_argmax_takes_the_lowest_label_on_ties_and_only_those_added() -> None:
    winner = RunningArgmax.empty((1, 3))
    winner.add(2, np.array([[1.0, 0.0, 0.0]], np.float32))
    winner.add(5, np.array([[1.0, 3.0, 0.0]], np.float32))
    assert winner.labels.tolist() == [[2, 5, 2]]


def test_the_margin_is_to_the_second_label_as_a_share_of_the_first() -> None:
    winner = RunningArgmax.empty((1, 5))
    winner.add(2, np.array([[4.0, 1.0, 0.0, 2.0, -1.0]]))
    assert winner.decision.margin.tolist() == [[1, 1, 0, 1, 0]]  # nothing else competes; 0 wins nothing
    winner.add(5, np.array([[1.0, 2.0, 0.0, 2.0, 3.0]]))
    winner.add(7, np.array([[3.0, -np.inf, 0.0, 1.0, 1.0]]))
    assert winner.decision.labels.tolist() == [[2, 5, 2, 2, 5]]
    assert winner.decision.margin[0].tolist() == pytest.approx([1 / 4, 1 / 2, 0, 0, 2 / 3])


def test_a_label_that_several_maps_show_is_no_rival_of_its_own() -> None:
    winner = RunningArgmax.empty((1, 2))
    winner.add(np.array([[3, 3]]), np.array([[4.0, 2.0]]))
    winner.add(np.array([[3, 6]]), np.array([[2.0, 1.0]]))
    winner.add(np.array([[6, 3]]), np.array([[1.0, 4.0]]))
    assert winner.decision.labels.tolist() == [[3, 3]]
    assert winner.decision.margin.tolist() == [[0.75, 0.75]]


def test_a_pass_competes_with_the_label_that_it_shows() -> None:
    """Section 3.2 and Eq. 7 with owners: each label's map is divided by its own largest value."""
    plane = np.array([[0, 1, 2, 2]])
    size, ends = (1, 4), Group(plane != 1, np.array([[0, 0, 2, 2]]))
    middle = Group(plane == 1, np.ones((1, 4), int))
    shown = [
        GroupMap(ends, np.array([[10.0, 6.0, 2.0, 4.0]], np.float32)),
        GroupMap(middle, np.array([[1.0, 5.0, 4.0, 1.0]], np.float32)),
    ]
    frame = label_frame(shown, plane, size, UpsampleParams(filter=1.0))
    # Label 0 has 1, 0.6; label 2 has 0.5, 1; label 1 has 0.2, 1, 0.8, 0.2.
    assert frame.labels.tolist() == [[0, 1, 1, 2]]
    assert frame.differences[2][0].tolist() == pytest.approx([0, 0, 0.5, 1], abs=1e-5)
    inside = label_frame(shown, plane, size, UpsampleParams(filter=0.0))
    assert inside.labels.tolist() == [[0, 1, 2, 2]]

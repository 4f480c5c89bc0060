from __future__ import annotations

import numpy as np

from pipeline.rendering.label_summary import LabelTally, LabelUse, corresponding, listing
from pipeline.rendering.palette import overlay_colours


def test_tally_counts_shares_and_frames() -> None:
    tally = LabelTally()
    for plane in ([[5, 5], [5, 0]], [[5, 5], [5, 5]], [[5, 0], [9, 9]]):
        tally.add(np.array(plane, np.uint8))
    assert tally.uses() == [
        LabelUse(5, 8 / 12, 3, 0, 2),
        LabelUse(0, 2 / 12, 2, 0, 2),
        LabelUse(9, 2 / 12, 1, 2, 2),
    ]


def test_listing_names_frames_and_both_colours() -> None:
    uses = [LabelUse(300, 0.75, 2, 0, 1), LabelUse(1, 0.25, 1, 1, 1)]
    content = listing(uses, ["a", "b"], (4, 6), overlay_colours(), {})
    assert (content["frames"], content["width"], content["height"]) == (2, 6, 4)
    one, large = content["labels"]
    assert one == {
        "id": 1,
        "name": None,
        "colour": overlay_colours()[1].tolist(),
        "png_colour": [128, 0, 0],
        "share": 0.25,
        "frames": 1,
        "first_frame": "b",
        "last_frame": "b",
    }
    assert "born" not in large
    with_born = listing(uses, ["a", "b"], (4, 6), overlay_colours(), {}, born={1})
    assert [entry.get("born") for entry in with_born["labels"]] == [True, None]
    assert "cuts" not in content
    assert listing(uses, ["a", "b"], (4, 6), overlay_colours(), {}, cuts=[1])["cuts"] == ["b"]
    assert (large["id"], large["png_colour"], large["first_frame"]) == (300, None, "a")
    assert large["colour"] == overlay_colours()[300 % 256].tolist()


def test_renumbered_labels_find_their_partners(rng: np.random.Generator) -> None:
    reference = rng.integers(0, 5, (2, 20, 20))
    renamed = np.array([3, 0, 4, 1, 2])[reference]
    renamed[0, 0, :3] = 4  # a little disagreement does not matter
    table = corresponding(renamed, reference)
    assert table == {3: 0, 0: 1, 4: 2, 1: 3, 2: 4}


def test_labels_without_a_partner_get_unused_numbers() -> None:
    reference = np.zeros((4, 4), int)
    labels = np.repeat([[0], [1], [1], [2]], 4, axis=1)
    assert corresponding(labels, reference) == {1: 0, 0: 1, 2: 2}

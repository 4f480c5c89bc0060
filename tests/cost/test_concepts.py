"""What learning and applying cost, from networks without weights."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pipeline.cost.concepts import Sight, applied_bytes, applying_flops, learning_flops
from pipeline.parameters import ApplyParams, BackboneParams, GuidanceParams, MapsParams
from stages.common import backbones

FREE = GuidanceParams(lambda_track=0, lambda_reg=0)
APPLY = ApplyParams(timesteps=(100, 99), chunk=4, overlap=2)
ALONE = replace(APPLY, frames="one", norm="frame")
SIZE = 64, 128


@pytest.fixture(scope="module")
def outline(tiny_model):  # type: ignore[no-untyped-def]
    return backbones.outline(BackboneParams(path=str(tiny_model)))


def test_a_step_of_learning_grows_with_the_picture(outline) -> None:  # type: ignore[no-untyped-def]
    small, large = (learning_flops(Sight(outline, MapsParams(), 2, (size, size))) for size in (64, 128))
    assert 4 * small < large < 16 * small  # pixels, and pairs of them


def test_what_chunks_share_is_computed_twice(outline) -> None:  # type: ignore[no-untyped-def]
    found = [applying_flops(Sight(outline, MapsParams(), 2, SIZE), replace(APPLY, overlap=n), FREE) for n in (0, 2)]
    assert set(found[0]) == {"passes"}
    assert found[1]["passes"] == pytest.approx(2 * found[0]["passes"])


def test_guidance_is_counted_by_its_iterations(outline) -> None:  # type: ignore[no-untyped-def]
    one, three = (
        applying_flops(Sight(outline, MapsParams(), 2, SIZE), APPLY, GuidanceParams(iterations=n, group=2))
        for n in (1, 3)
    )
    assert three["guidance"] == pytest.approx(3 * one["guidance"])
    free = applying_flops(Sight(outline, MapsParams(), 2, SIZE), APPLY, FREE)
    assert one["passes"] == three["passes"] == pytest.approx(2 * free["passes"])  # two timesteps instead of one


def test_boxes_take_another_look_and_are_encoded(outline) -> None:  # type: ignore[no-untyped-def]
    sight, boxed = Sight(outline, MapsParams(), 2, SIZE), replace(APPLY, focus="box")
    free, focused = (applying_flops(sight, apply, FREE) for apply in (APPLY, boxed))
    assert focused["passes"] == free["passes"] < focused["views"]
    guided = applying_flops(sight, boxed, GuidanceParams(iterations=3, group=2))
    assert guided["views"] == focused["views"]  # the first look is not guided


def test_crops_are_each_as_dear_as_a_frame(outline) -> None:  # type: ignore[no-untyped-def]
    sight, guidance = Sight(outline, MapsParams(), 2, SIZE), GuidanceParams(iterations=3, group=2)
    whole, four = (applying_flops(sight, replace(APPLY, patches=n), guidance) for n in (1, 2))
    boxed, free = (applying_flops(sight, replace(APPLY, focus=focus), FREE) for focus in ("box", "none"))
    encoded = boxed["views"] - free["passes"]
    assert four == pytest.approx({**{name: 4 * count for name, count in whole.items()}, "views": 4 * encoded})


def test_frames_alone_cost_less_than_frames_together(outline) -> None:  # type: ignore[no-untyped-def]
    alone = applying_flops(Sight(outline, MapsParams(), 2, SIZE), ALONE, FREE)
    together = applying_flops(Sight(outline, MapsParams(), 2, SIZE), APPLY, FREE)
    assert alone["passes"] < together["passes"]


@pytest.mark.parametrize(("frames", "computed"), [(3, 3), (7, 12)])
def test_a_short_clip_is_counted_chunk_by_chunk(outline, frames: int, computed: int) -> None:  # type: ignore[no-untyped-def]
    """Frames alone cost the same wherever they are; the last chunk is moved back so that it is full."""
    sight = Sight(outline, MapsParams(), 2, SIZE)
    whole = applying_flops(sight, replace(ALONE, overlap=0), FREE)["passes"]
    found = applying_flops(sight, ALONE, FREE, frames)["passes"]
    assert frames * found == pytest.approx(computed * whole)


def test_bytes_of_what_apply_leaves() -> None:
    """A clip of six frames in chunks of 0:4 and 2:6."""
    labels = 6 * 10 * 20
    soft = 8 * (3 * 12 * (2 + 4) + 10 * 20)
    assert applied_bytes((3, 4), (10, 20), 3, APPLY, None, 6) == labels + soft
    assert applied_bytes((3, 4), (10, 20), 3, APPLY, None, 6, confidence=True) == labels + soft + 6 * 10 * 20
    crops = replace(APPLY, patches=2, patch_share=0.5)  # maps of 6 x 8 cells
    assert applied_bytes((3, 4), (10, 20), 3, crops, None, 6) == labels + soft + 8 * 3 * 36 * (2 + 4)
    assert applied_bytes((3, 4), (10, 20), 3, APPLY, 29, 6) == labels + soft + 6 * 6 * 12 * 5

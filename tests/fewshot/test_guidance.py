"""Equations 7 and 8 on a network: energies fall, gradients are right; chunks, and rows that must be equal."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.backbone import ALONE, Together
from pipeline.backbone.image.model import StableDiffusion
from pipeline.errors import DataError
from pipeline.features.noise import Noise, TurnNoise
from pipeline.fewshot.apply import Asked, Segmented, segment_chunk, segment_patches
from pipeline.fewshot.chunks import chunks
from pipeline.fewshot.guidance import Aims, energy_gradient, guided
from pipeline.fewshot.latent_update import AdamState, update_rate, updated
from pipeline.fewshot.reading import SegmentReader, inflation, noised
from pipeline.fewshot.views import Patches, View
from pipeline.parameters import ApplyParams, ApplyParity, GuidanceParams, GuidanceVote, MapsParams
from pipeline.tracking.static import StaticTracker
from pipeline.tracking.tracks import Tracks, track
from tests.support import tiny

GRID, SIZE, SEGMENTS = (8, 16), (40, 90), 3
MAPS = MapsParams()
APPLY = ApplyParams(timesteps=(100, 99, 98), chunk=4, overlap=2)
TOGETHER = inflation(APPLY)
GUIDANCE = GuidanceParams(lambda_track=0.5, lambda_reg=8.0, iterations=3, vote=GuidanceVote(window=3))
UNGUIDED = replace(GUIDANCE, lambda_track=0.0, lambda_reg=0.0)


@pytest.fixture(scope="module")
def backbone() -> StableDiffusion:
    unet = tiny.make_unet().requires_grad_(False)
    return StableDiffusion(unet, tiny.make_vae(), tiny.make_context(), "tiny", "hash")


def reader_of(backbone: StableDiffusion, together: Together = TOGETHER) -> SegmentReader:
    extra = torch.randn(SEGMENTS, 16, generator=torch.Generator().manual_seed(5))
    return SegmentReader(backbone, torch.cat([backbone.context, extra]), (8, 9, 10), 0, MAPS, together)


def latents_of(frames: int) -> Tensor:
    return torch.randn(frames, 4, *GRID, generator=torch.Generator().manual_seed(0))


def still(frames: int, window: int = 5) -> Tracks:
    return track(StaticTracker(), np.zeros((frames, 8, 8, 3), np.uint8), None, GRID, window)


def aims_for(frames: int) -> Aims:
    generator = torch.Generator().manual_seed(1)
    tracked, reference = (torch.randn(frames, SEGMENTS, *GRID, generator=generator) for _ in range(2))
    return Aims(tracked, reference, 0.4)


def part(tracks: Tracks, frames: range) -> Tracks:
    here = slice(frames.start, frames.stop)
    return Tracks(tracks.yx[here], tracks.visible[here], tracks.start[here])


def clip(
    reader: SegmentReader,
    frames: int,
    apply: ApplyParams = APPLY,
    guidance: GuidanceParams = GUIDANCE,
    tracks: Tracks | None = None,
) -> list[Segmented]:
    """The chunks of a whole clip."""
    tracks = tracks or still(frames)
    found: list[Segmented] = []
    for chunk in chunks(frames, apply.chunk, apply.overlap):
        latents = latents_of(frames)[chunk.frames.start : chunk.frames.stop]
        carried = found[-1].maps[-chunk.carried :] if chunk.carried else None
        of_chunk = part(tracks, chunk.frames)
        found.append(segment_chunk(reader, latents, Asked(chunk, SIZE, apply, guidance, of_chunk, carried)))
    return found


@pytest.mark.parametrize(
    "params",
    [GUIDANCE, replace(GUIDANCE, lambda_reg=0.0), replace(GUIDANCE, lambda_track=0.0)],
    ids=["both", "track", "reg"],
)
def test_equation_7_energy_falls(backbone: StableDiffusion, params: GuidanceParams) -> None:
    _, energies = guided(reader_of(backbone), latents_of(2), 100, aims_for(2), replace(params, iterations=15))
    total, track_term, low_pass_term = energies[:, 0].T
    assert total[-1] < total[0]
    torch.testing.assert_close(total, params.lambda_track * track_term + params.lambda_reg * low_pass_term)


def test_equation_8_gradient_agrees_with_finite_differences(backbone: StableDiffusion) -> None:
    reader, latents, aims = reader_of(backbone), latents_of(2), aims_for(2)
    params = replace(GUIDANCE, lambda_reg=0.0, targets="soft")  # smooth, where float32 maps allow no small steps
    _, _, gradient = energy_gradient(reader, latents, 100, aims, params)
    for entry in gradient.abs().flatten().topk(5).indices.tolist():
        energies = []
        for change in (1e-2, -1e-2):
            moved = latents.clone()
            moved.view(-1)[entry] += change
            energies.append(float(energy_gradient(reader, moved, 100, aims, params)[0].total))
        expected = float(gradient.flatten()[entry])
        assert (energies[0] - energies[1]) / 2e-2 == pytest.approx(expected, rel=0.05, abs=2e-5)


def test_equation_8_is_a_step_of_adam(backbone: StableDiffusion) -> None:
    reader, latents, aims = reader_of(backbone), latents_of(2), aims_for(2)
    moved, _ = guided(reader, latents, 100, aims, replace(GUIDANCE, iterations=1))
    _, _, gradient = energy_gradient(reader, latents, 100, aims, GUIDANCE)
    rate = update_rate(1 - backbone.training_schedule.beta(100), GUIDANCE.rate)
    assert torch.equal(moved, updated(latents, gradient, AdamState.zeros_like(latents), rate)[0])


def test_groups_are_moved_alone(backbone: StableDiffusion) -> None:
    """Also where the last is smaller, which the authors' code cannot do."""
    reader, latents, aims = reader_of(backbone), latents_of(3), aims_for(3)
    params = replace(GUIDANCE, group=2, iterations=2)
    moved, energies = guided(reader, latents, 100, aims, params)
    assert energies.shape == (2, 2, 3)
    last, _ = guided(reader, latents[2:], 100, aims.of(range(2, 3)), params)
    assert torch.equal(moved[2:], last)


def test_a_long_chunk_is_the_whole_clip(backbone: StableDiffusion) -> None:
    whole, longer = (clip(reader_of(backbone), 3, replace(APPLY, chunk=size)) for size in (3, 16))
    assert len(whole) == len(longer) == 1
    assert torch.equal(whole[0].maps, longer[0].maps)
    assert whole[0].labels.shape == (3, *SIZE) and whole[0].labels.dtype == torch.uint8
    assert whole[0].energies.shape == (2, 3, 1, 3)


def test_chunks_hand_on_their_maps(backbone: StableDiffusion) -> None:
    first, second = clip(reader_of(backbone), 5, replace(APPLY, chunk=4, overlap=2))
    assert torch.equal(second.initial[:3], first.maps[1:])  # the last chunk was moved back
    assert not torch.equal(second.maps[:3], first.maps[1:])


def test_a_chunk_alone_gives_the_same_bytes(backbone: StableDiffusion) -> None:
    """What is needed to go on after a kill: the chunk's latents and tracks, and what is carried."""
    found, frames = clip(reader_of(backbone), 6), chunks(6, APPLY.chunk, APPLY.overlap)[1]
    again = segment_chunk(
        reader_of(backbone), latents_of(6)[2:],
        Asked(frames, SIZE, APPLY, GUIDANCE, part(still(6), frames.frames), found[0].maps[2:].clone()),
    )  # fmt: skip
    for name in ("initial", "maps", "labels", "energies"):
        assert torch.equal(getattr(again, name), getattr(found[1], name)), name


def test_noise_is_of_the_source_frame(backbone: StableDiffusion) -> None:
    """With frames alone, a frame's maps do not depend on the chunk that it is in."""
    alone = reader_of(backbone, ALONE)
    whole, late = latents_of(4), chunks(2, 2, 0)[0]
    (all_four,) = clip(alone, 4, replace(APPLY, chunk=4), UNGUIDED)
    two = segment_chunk(alone, whole[2:], Asked(late, SIZE, APPLY, UNGUIDED, sources=range(2, 4)))
    torch.testing.assert_close(two.maps, all_four.maps[2:], atol=1e-5, rtol=0)


@pytest.mark.parametrize("frames", [1, 2])
def test_short_clips(backbone: StableDiffusion, frames: int) -> None:
    (found,) = clip(reader_of(backbone), frames)
    assert torch.isfinite(found.maps).all() and len(found.labels) == frames


def test_baseline_3_is_guidance_without_energies(backbone: StableDiffusion) -> None:
    """In one pass; the first maps of the guided run are the same."""
    (single,), (run,) = clip(reader_of(backbone), 3, guidance=UNGUIDED), clip(reader_of(backbone), 3)
    assert torch.equal(single.maps, single.initial) and torch.equal(single.maps, run.initial)
    assert single.energies.numel() == 0
    assert not torch.equal(run.maps, run.initial)


def test_baseline_1_on_one_frame_is_baseline_3(backbone: StableDiffusion) -> None:
    alone = reader_of(backbone, ALONE)
    (first,), (third,) = (clip(reader, 1, guidance=UNGUIDED) for reader in (alone, reader_of(backbone)))
    assert torch.equal(first.maps, third.maps) and torch.equal(first.labels, third.labels)


def test_baseline_2_with_itself_alone_is_baseline_1(backbone: StableDiffusion) -> None:
    """A vote of one frame on a point that stays."""
    alone = reader_of(backbone, ALONE)
    for space in ("maps", "labels"):
        voted = replace(UNGUIDED, vote=GuidanceVote(window=1, space=space))
        (first,), (second,) = (clip(alone, 3, guidance=guidance) for guidance in (UNGUIDED, voted))
        assert torch.equal(first.maps, second.maps)
    assert torch.equal(first.labels, second.labels)  # those voted on at full size are enlarged as without a vote


def test_segments_below_the_threshold_are_absent(backbone: StableDiffusion) -> None:
    look = reader_of(backbone).look(latents_of(2), 100)
    peaks = look.cross.amax(dim=(-2, -1))
    between = float(peaks[0].sort().values[:2].mean())  # the weakest segment of the first frame lies below
    weakest = int(peaks[0].argmin())
    assert (look.labels(SIZE, between)[0] != weakest).all()
    everything = look.labels(SIZE)
    expected = torch.stack([maps.argmax(dim=0) for maps in look.enlarged(SIZE)])
    assert torch.equal(everything.long(), expected)


def test_segments_below_the_threshold_are_absent_after_a_vote_too(backbone: StableDiffusion) -> None:
    voted = replace(UNGUIDED, vote=GuidanceVote(window=3, space="maps"))
    alone = reader_of(backbone, ALONE)
    (everything,) = clip(alone, 3, guidance=voted)
    peaks = everything.initial.amax(dim=(-2, -1))  # of the cross maps, whose range these maps have
    between = float(peaks.sort(dim=1).values[:, 1].min()) - 1e-4  # two of three segments stay in each frame
    (some,) = clip(alone, 3, replace(APPLY, threshold=between), voted)
    absent = [set((row < between).nonzero().flatten().tolist()) for row in peaks]
    lost = [there & set(frame.unique().tolist()) for there, frame in zip(absent, everything.labels, strict=True)]
    assert any(lost)
    assert not any(there & set(frame.unique().tolist()) for there, frame in zip(absent, some.labels, strict=True))
    assert torch.equal(everything.maps, some.maps)


@pytest.mark.parametrize("guidance", [GUIDANCE, UNGUIDED, replace(UNGUIDED, vote=GuidanceVote(window=3, space="maps"))])
def test_a_box_that_is_the_whole_frame_changes_nothing(backbone: StableDiffusion, guidance: GuidanceParams) -> None:
    frames, whole = chunks(3, 4, 2)[0], np.array([[0, 64, 0, 128]] * 3, np.int32)
    plain, boxed = (
        segment_chunk(reader_of(backbone), latents_of(3), Asked(frames, SIZE, APPLY, guidance, still(3)), view)
        for view in (None, View(whole, (64, 128)))
    )
    for name in ("initial", "maps", "labels", "energies"):
        assert torch.equal(getattr(plain, name), getattr(boxed, name)), name


def test_labels_of_a_box_go_back_where_it_was(backbone: StableDiffusion) -> None:
    """As those of the same latents do at the size of the box; outside all is background."""
    alone, frames = reader_of(backbone, ALONE), chunks(2, 2, 0)[0]
    boxes = np.array([[16, 48, 0, 64], [0, 64, 0, 128]], np.int32)
    seen = View(boxes, (64, 128))
    found = segment_chunk(alone, latents_of(2), Asked(frames, (128, 256), APPLY, UNGUIDED), seen)
    small, large = (
        segment_chunk(alone, latents_of(2), Asked(frames, size, APPLY, UNGUIDED)) for size in [(64, 128), (128, 256)]
    )
    assert torch.equal(found.labels[0, 32:96, :128], small.labels[0]) and torch.equal(found.labels[1], large.labels[1])
    outside = torch.ones(128, 256, dtype=torch.bool)
    outside[32:96, :128] = False
    assert (found.labels[0][outside] == 0).all()


def crop_by_crop(
    reader: SegmentReader, latents: Tensor, apply: ApplyParams, guidance: GuidanceParams, carried: Tensor | None = None
) -> tuple[Patches, Segmented]:
    """Each crop shows the same latents."""
    patches, frames = Patches.of(apply, GRID), chunks(len(latents), len(latents), 0)[0]
    views, parts = patches.views(len(latents), (64, 128)), [latents] * len(patches.cells)
    asked = Asked(frames, SIZE, apply, guidance, still(len(latents)), carried)
    return patches, segment_patches(reader, parts, asked, patches, views)


@pytest.mark.parametrize("space", ["none", "maps", "labels"])
def test_crops_that_are_the_whole_frame_change_nothing(
    backbone: StableDiffusion, space: Literal["none", "maps"]
) -> None:
    """But that labels are of maps which are enlarged after they got their range."""
    guidance = replace(GUIDANCE, vote=GuidanceVote(window=3, space=space))
    patches, found = crop_by_crop(
        reader_of(backbone), latents_of(3), replace(APPLY, patches=2, patch_share=1.0), guidance
    )
    (whole,) = clip(reader_of(backbone), 3, guidance=guidance)
    assert patches.canvas == GRID
    for name in ("initial", "maps", "energies"):
        torch.testing.assert_close(getattr(found, name), getattr(whole, name), atol=1e-5, rtol=1e-5)
    assert (found.labels == whole.labels).float().mean() > 0.95


def test_maps_of_crops_lie_where_the_crops_do(backbone: StableDiffusion) -> None:
    alone, apply = reader_of(backbone, ALONE), replace(APPLY, patches=2, patch_share=0.5)
    patches, found = crop_by_crop(alone, latents_of(2), apply, UNGUIDED)
    (whole,) = clip(alone, 2, guidance=UNGUIDED)
    assert found.maps.shape == (2, SEGMENTS, 16, 32) and found.labels.shape == (2, *SIZE)
    for cells in patches.cells:
        torch.testing.assert_close(cells.of(found.maps), whole.maps)


def test_each_crop_holds_on_to_its_part_of_the_chunk_before(backbone: StableDiffusion) -> None:
    apply = replace(APPLY, patches=2, patch_share=0.5)
    carried = torch.randn(1, SEGMENTS, 16, 32, generator=torch.Generator().manual_seed(3))
    _, found = crop_by_crop(reader_of(backbone), latents_of(2), apply, GUIDANCE, carried)
    torch.testing.assert_close(found.initial[:1], carried)


def test_a_segment_that_is_absent_from_a_crop_adds_nothing(backbone: StableDiffusion) -> None:
    alone, apply = reader_of(backbone, ALONE), replace(APPLY, patches=2, patch_share=0.5)
    (whole,) = clip(alone, 2, guidance=UNGUIDED)
    peaks = whole.maps.amax(dim=(-2, -1))
    between = float(peaks.flatten().sort().values[2:4].mean())
    _, found = crop_by_crop(alone, latents_of(2), replace(apply, threshold=between), UNGUIDED)
    absent = peaks < between
    assert absent.any() and not found.maps[absent].any() and found.maps[~absent].any()
    for labels, there in zip(found.labels, absent, strict=True):
        assert not set(there.nonzero().flatten().tolist()) & set(labels.unique().tolist())


def test_separate_reference_maps(backbone: StableDiffusion) -> None:
    first, separate = (
        clip(reader_of(backbone), 3, replace(APPLY, reference=reference))[0] for reference in ("first_step", "separate")
    )
    assert not torch.equal(first.initial, separate.initial)


def test_the_reference_pass_is_the_result_where_nothing_is_guided(backbone: StableDiffusion) -> None:
    """As in the authors' code; guided, it is S_ref as ever."""
    reader, separate = reader_of(backbone), replace(APPLY, reference="separate")
    code = replace(separate, parity=ApplyParity(unguided="reference"))
    (step,), (single,) = (clip(reader, 3, apply, UNGUIDED) for apply in (separate, code))
    (run,), (same) = clip(reader, 3, separate), clip(reader, 3, code)[0]
    assert torch.equal(single.maps, single.initial) and torch.equal(single.maps, run.initial)
    assert not torch.equal(step.maps, single.maps) and torch.equal(run.maps, same.maps)


@pytest.mark.parametrize("has_text", [True, False])
def test_the_reference_pass_sees_the_tail_of_the_empty_prompt(has_text: bool, backbone: StableDiffusion) -> None:
    """With a text encoder a context is a prompt's, else the empty one's and the segments' behind it."""
    reader = reader_of(backbone)
    if has_text:
        prompt = torch.randn(*backbone.context.shape, generator=torch.Generator().manual_seed(6))
        reader = replace(reader, context=prompt, positions=(0, 1, 2))
    found = reader.with_empty_tail().context
    assert torch.equal(found[list(reader.positions)], reader.context[list(reader.positions)])
    rest = [place for place in range(len(found)) if place not in reader.positions]
    assert torch.equal(found[rest], backbone.context[rest])
    separate = replace(APPLY, reference="separate")
    applied = (separate, replace(separate, parity=ApplyParity(reference_tail="empty")))
    own, empty = (clip(reader, 2, apply)[0] for apply in applied)
    assert torch.equal(own.initial, empty.initial) == (not has_text)


@pytest.mark.parametrize("unguided", ["first_step", "reference"])
def test_a_pass_takes_the_noise_that_was_drawn_for_it(
    unguided: Literal["first_step", "reference"], backbone: StableDiffusion, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reference pass its own, and the timestep; which pass it is in the order is said in the stage's tests."""
    draws = Noise(latents_of(4)[2:], latents_of(6)[4:])
    noise, timestep = (draws.epsilon, 100) if unguided == "first_step" else (draws.posterior, 93)
    monkeypatch.setattr(TurnNoise, "of", lambda self, turn: (draws, 93))
    parity, alone = ApplyParity(unguided=unguided), reader_of(backbone, ALONE)
    apply = replace(APPLY, noise="by_chunk", reference="separate", parity=parity)
    found = segment_chunk(alone, latents_of(2), Asked(chunks(2, 2, 0)[0], SIZE, apply, UNGUIDED))
    noisy = noised(backbone, latents_of(2), noise, [timestep] * 2)
    assert torch.equal(found.maps, alone.look(noisy, timestep, frames=2).maps())


def test_guidance_needs_tracks(backbone: StableDiffusion) -> None:
    chunk = chunks(2, 2, 0)[0]
    with pytest.raises(DataError, match="guidance follows points; run `vidseg track` on this clip"):
        segment_chunk(reader_of(backbone), latents_of(2), Asked(chunk, SIZE, APPLY, GUIDANCE))

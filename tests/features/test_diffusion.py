from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from pipeline.backbone import Offset, Share, Tap
from pipeline.backbone.attention import recorded
from pipeline.backbone.image.model import StableDiffusion
from pipeline.backbone.image.schedule import scaled_linear_schedule
from pipeline.backbone.midway import at_timestep, first_part, second_part
from pipeline.errors import UsageError
from pipeline.features.diffusion import CleanPass, add_noise, clean_pass, draw_noise, psnr
from pipeline.features.extraction import extract, feature_shape
from pipeline.features.noise import TurnNoise, batch_noise, frame_noise
from pipeline.features.steps import remaining_steps
from pipeline.parameters import DiffusionParams, ExtractParams
from pipeline.upsampling.modulation import Jobs, ModulatedStep, blend, enlarge, modulate, to_share
from pipeline.upsampling.rules import Rules
from tests.support import tiny
from tests.support.params import make_rules
from tests.support.plain import plain_modulated

DIFFUSION = DiffusionParams(guidance=1.0)


@pytest.fixture(scope="module")
def backbone() -> StableDiffusion:
    return StableDiffusion(tiny.make_unet(), tiny.make_vae(), tiny.make_context(), "tiny", "hash")


@pytest.fixture(scope="module")
def frames() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (3, 64, 128, 3), dtype=np.uint8)


def clean_of(backbone: StableDiffusion, frames: np.ndarray, rules: Rules) -> CleanPass:
    latents = backbone.encode(frames)
    noise = draw_noise(rules.diffusion, range(len(frames)), tuple(latents.shape[1:]))
    start = add_noise(latents, noise.epsilon, rules.diffusion, backbone)
    return clean_pass(backbone, start, rules.diffusion, share=to_share(rules))


def modulated(
    backbone: StableDiffusion,
    clean: CleanPass,
    masks: torch.Tensor,
    frames: list[int],
    rules: Rules,
    batch: int = 8,
) -> list[ModulatedStep]:
    """Jobs with these masks (j, h, w), signs +1."""
    return list(modulate(backbone, clean, Jobs(frames, torch.ones(len(frames)), masks), rules, batch))


def test_schedule_equals_a_literal_computation() -> None:
    schedule = scaled_linear_schedule(25)
    assert schedule.timesteps == tuple(int(999 - 39.96 * i) for i in range(25))
    product, alphas = 1.0, []
    for i in range(1000):
        product *= 1 - (0.00085**0.5 + (0.012**0.5 - 0.00085**0.5) * i / 999) ** 2
        alphas.append(product)
    literal = [((1 - alphas[t]) / alphas[t]) ** 0.5 for t in schedule.timesteps] + [0.0]
    np.testing.assert_allclose(schedule.sigmas.numpy(), literal, rtol=1e-6)
    assert schedule.sigmas[22] == pytest.approx(0.3866, abs=1e-4)


def test_noise_of_a_frame_depends_on_its_source_index_only() -> None:
    all_frames = frame_noise(3, [0, 1, 2], (4, 2, 2))
    alone = frame_noise(3, [2], (4, 2, 2))
    torch.testing.assert_close(all_frames.epsilon[2:], alone.epsilon, rtol=0, atol=0)
    assert not torch.equal(all_frames.epsilon[0], all_frames.epsilon[1])
    assert not torch.equal(alone.epsilon, frame_noise(4, [2], (4, 2, 2)).epsilon)
    assert not torch.equal(alone.epsilon, alone.posterior)


@pytest.mark.parametrize(("noise", "equal"), [("shared", True), ("per_frame", False)])
def test_noise_rules(noise: str, equal: bool) -> None:
    drawn = draw_noise(DiffusionParams(noise=noise), [5, 9], (4, 2, 2)).epsilon
    assert torch.equal(drawn[0], drawn[1]) == equal


def test_batch_noise_is_the_authors_order_of_draws() -> None:
    generator = torch.Generator().manual_seed(1)
    posterior, epsilon = (torch.randn(2, 4, 3, 3, generator=generator) for _ in range(2))
    drawn = batch_noise(1, (2, 4, 3, 3))
    assert torch.equal(drawn.posterior, posterior)
    assert torch.equal(drawn.epsilon, epsilon)


@pytest.mark.parametrize("guidance", [1.0, 5.0])
def test_denoise_is_one_guided_euler_step(backbone: StableDiffusion, guidance: float) -> None:
    latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    schedule = backbone.schedule(25)
    sigma, following = schedule.sigmas[22], schedule.sigmas[23]
    with torch.inference_mode():
        scaled = latents / (1 + sigma**2) ** 0.5
        context = backbone.context.expand(2, -1, -1)
        conditional = backbone.unet(scaled, 119, context).sample
        unconditional = backbone.unet(scaled, 119, torch.zeros_like(context)).sample
    epsilon = unconditional + guidance * (conditional - unconditional)
    result = backbone.denoise(latents, 22, schedule, guidance).latents
    torch.testing.assert_close(result, latents + (following - sigma) * epsilon, rtol=1e-4, atol=1e-5)


def test_taps_are_the_queries_and_hooks_are_removed(backbone: StableDiffusion) -> None:
    latents = torch.randn(1, 4, 8, 16, generator=torch.Generator().manual_seed(0))
    layer = backbone.unet.up_blocks[2].attentions[1].transformer_blocks[0].attn1.to_q
    seen = []
    handle = layer.register_forward_hook(lambda module, inputs, output: seen.append(output))
    tap = Tap(7, "self", "query")
    taps = backbone.denoise(latents, 24, backbone.schedule(25), 1.0, record=[tap]).taps
    handle.remove()
    assert torch.equal(taps[tap], seen[0])
    assert taps[tap].shape == (1, *np.prod([backbone.token_shape(7, (64, 128))[:2]], axis=1), 16)
    assert not layer._forward_hooks


def changes(unet: torch.nn.Module) -> list[object]:
    """Hooks of all modules, and attention processors: what could be left behind."""
    hooks = [hook for module in unet.modules() for hook in (*module._forward_hooks, *module._forward_pre_hooks)]
    return [*hooks, *(module.processor for module in unet.modules() if hasattr(module, "processor"))]


def test_the_network_is_left_as_it_was_after_an_error(backbone: StableDiffusion) -> None:
    before, tap = changes(backbone.unet), Tap(6, "self", "query")
    with pytest.raises(ZeroDivisionError), recorded(backbone.unet, [tap]):
        raise ZeroDivisionError
    latents = torch.zeros(1, 4, 8, 16)
    step = (latents, 22, backbone.schedule(25), 1.0)
    kept = backbone.denoise_repeatably(*step, Share(attention=True, block=7)).repeatable
    with pytest.raises(RuntimeError):
        kept.variants([0]).denoise(latents, [0], Offset(torch.zeros(1, 3)))
    assert changes(backbone.unet) == before


@pytest.mark.parametrize("block", [0, 2, 12, -1])
def test_blocks_without_attention_are_refused(backbone: StableDiffusion, block: int) -> None:
    with (
        pytest.raises(UsageError, match=f"decoder block {block} has no attention; choose one of 3..11"),
        recorded(backbone.unet, [Tap(block, "self", "query")]),
    ):
        pass


@pytest.mark.parametrize("share", [Share(), Share(attention=True), Share(block=5), Share(attention=True, block=5)])
@pytest.mark.parametrize("guidance", [1.0, 5.0])
def test_variants_without_a_change_repeat_the_step(backbone: StableDiffusion, share: Share, guidance: float) -> None:
    latents = torch.randn(3, 4, 8, 16, generator=torch.Generator().manual_seed(0))
    result = backbone.denoise_repeatably(latents, 22, backbone.schedule(25), guidance, share)
    frames = [2, 0, 2, 1]
    again = result.repeatable.variants(set(frames)).denoise(latents[frames], frames)
    torch.testing.assert_close(again, result.latents[frames], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("block", range(3, 12))
@pytest.mark.parametrize("linear_projection", [True, False])
def test_the_two_parts_of_a_pass_are_the_networks_own(block: int, linear_projection: bool) -> None:
    unet = tiny.make_unet(use_linear_projection=linear_projection)
    sample = torch.randn(2, 4, 8, 16, generator=torch.Generator().manual_seed(0))
    context = tiny.make_context().expand(2, -1, -1)
    with torch.inference_mode():
        expected = unet(sample, 119, context).sample
        parted = second_part(unet, first_part(unet, sample, at_timestep(unet, sample, 119, context), block))
    torch.testing.assert_close(parted, expected, rtol=0, atol=1e-6)


def test_eq2_offset_after_the_projection_shifts_the_output(backbone: StableDiffusion) -> None:
    """Eq. 2: f(softmax(QK/sqrt d) V) + lambda M; inside: f(softmax(QK/sqrt d) V + lambda M)."""
    cross = backbone.unet.up_blocks[2].attentions[1].transformer_blocks[0].attn2
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    values, tap = torch.arange(16.0)[None], Tap(7, "cross", "output")
    clean = backbone.denoise_repeatably(latents, 22, backbone.schedule(25), 1.0, Share(block=7), record=[tap])
    outputs = {}
    for place in ("after", "inside"):
        with recorded(backbone.unet, [tap]) as taps:
            clean.repeatable.variants([0]).denoise(latents, [0], Offset(values, place))
        outputs[place] = taps[tap]
    torch.testing.assert_close(outputs["after"], clean.taps[tap] + values[..., None], rtol=1e-5, atol=1e-4)
    projected = cross.to_out[0](values[..., None].expand(-1, -1, 16)) - cross.to_out[0].bias
    torch.testing.assert_close(outputs["inside"], clean.taps[tap] + projected, rtol=1e-4, atol=1e-4)


SCHEDULES = {
    "defaults": ({}, {}),
    "guided": ({"guidance": 5.0}, {}),
    "inside": ({}, {"offset": "inside"}),
    "no injection": ({}, {"inject": False}),
    "guided, no injection": ({"guidance": 5.0}, {"inject": False}),
    "no blending": ({}, {"blend": False}),
    "later": ({"start_step": 20, "guidance": 5.0}, {"modulate_step": 22}),
    "last step": ({"guidance": 5.0}, {"modulate_step": 24, "blend_last_step": 24}),
    "first block": ({}, {"block": 3}),
    "last block": ({}, {"block": 11}),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_modulation_equals_the_plain_schedule(backbone: StableDiffusion, frames: np.ndarray, name: str) -> None:
    """Sharing changes nothing but rounding: for jobs of several frames, in batches that cut through frames."""
    given, changed = SCHEDULES[name]
    rules = make_rules(replace(DIFFUSION, **given), **changed)
    clean = clean_of(backbone, frames, rules)
    plane = torch.tensor([[0, 3, 3, 5, 5, 5, 0, 0]]).expand(4, -1).clone().triu()
    masks = torch.stack([(plane == label).float() for label in (0, 3, 0, 0, 0, 3)])
    jobs = Jobs([0, 0, 1, 1, 2, 2], torch.tensor([1.0, -1.0, 1.0, -1.0, 1.0, -1.0]), masks)
    *_, last = modulate(backbone, clean, jobs, rules, batch=4)
    for job, frame in enumerate(jobs.frames):
        start, sign = clean.start[[frame]], float(jobs.signs[job])
        expected = plain_modulated(backbone, start, jobs.masks[job], sign, rules)
        assert (expected[0] - clean.final[frame]).abs().max() > 1e-3
        torch.testing.assert_close(last.latents[job], expected[0], rtol=1e-4, atol=1e-4)


def test_eq6_blend() -> None:
    """Eq. 6: z~ = z (1 - M) + z^ M."""
    clean, modulated = torch.zeros(1, 4, 2, 2), torch.ones(1, 4, 2, 2)
    mask = torch.tensor([[[[0.0, 0.25], [0.5, 1.0]]]])
    torch.testing.assert_close(blend(modulated, clean, mask), mask.expand(1, 4, 2, 2))


def test_modulation_moves_the_mask_and_blending_leaves_the_rest_untouched(
    backbone: StableDiffusion, frames: np.ndarray
) -> None:
    rules = make_rules(DIFFUSION, mask_resize="nearest", blend_last_step=24)
    clean = clean_of(backbone, frames, rules)
    masks = torch.zeros(1, 4, 8)
    masks[0, 1:3, 2:4] = 1
    result = modulated(backbone, clean, masks, [1], rules)
    inside = enlarge(masks, (8, 16), "nearest")[0].bool()
    for after in result:
        change = (after.latents[0] - clean.states[after.step][1]).abs().amax(dim=0)
        assert change[~inside].max() == 0
        assert change[inside].min() > 0
    images = backbone.decode(torch.cat([result[-1].latents, clean.final[1:2]]))
    difference = (images[0] - images[1]).abs().sum(dim=0)
    pixels = enlarge(masks, (64, 128), "nearest")[0].bool()
    # The decoder's group norms carry a little of the change everywhere.
    assert difference[pixels].mean() > 2 * difference[~pixels].mean()


def test_without_blending_the_outside_moves_too(backbone: StableDiffusion, frames: np.ndarray) -> None:
    rules = make_rules(DIFFUSION, blend=False)
    clean = clean_of(backbone, frames, rules)
    masks = torch.zeros(1, 4, 8)
    masks[0, 1:3, 2:4] = 1
    result = modulated(backbone, clean, masks, [0], rules)
    assert (result[-1].latents[0] - clean.final[0]).abs()[:, 6:].max() > 0


@pytest.mark.parametrize("inject", [True, False])
@pytest.mark.parametrize("guidance", [1.0, 5.0])
def test_zero_strength_reproduces_the_clean_pass(
    backbone: StableDiffusion, frames: np.ndarray, inject: bool, guidance: float
) -> None:
    rules = make_rules(DiffusionParams(guidance=guidance), strength=0.0, inject=inject, mask_resize="nearest")
    clean = clean_of(backbone, frames, rules)
    result = modulated(backbone, clean, torch.ones(3, 4, 8), [0, 1, 2], rules)
    torch.testing.assert_close(result[-1].latents, clean.final, rtol=1e-5, atol=1e-5)


def test_an_empty_mask_returns_the_clean_latents(backbone: StableDiffusion, frames: np.ndarray) -> None:
    rules = make_rules(DIFFUSION, blend_last_step=24)
    clean = clean_of(backbone, frames, rules)
    result = modulated(backbone, clean, torch.zeros(2, 4, 8), [0, 0], rules)
    torch.testing.assert_close(result[-1].latents, clean.final[[0, 0]], rtol=0, atol=0)


@pytest.mark.parametrize("batch", [1, 3, 4])
def test_jobs_do_not_depend_on_their_batch(backbone: StableDiffusion, frames: np.ndarray, batch: int) -> None:
    rules = make_rules(DIFFUSION)
    clean = clean_of(backbone, frames, rules)
    masks = (torch.rand(4, 4, 8, generator=torch.Generator().manual_seed(0)) > 0.5).float()
    together = modulated(backbone, clean, masks, [0, 0, 2, 1], rules)[-1].latents
    cut = modulated(backbone, clean, masks, [0, 0, 2, 1], rules, batch)[-1].latents
    torch.testing.assert_close(cut, together, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"modulate_step": 21}, "upsample.modulate_step must be between diffusion.start_step = 22"),
        ({"modulate_step": 25}, "upsample.modulate_step must be"),
        ({"blend_last_step": 25}, "upsample.parity.blend_last_step must be between"),
        ({"modulate_step": 24}, "upsample.parity.blend_last_step must be .*modulate_step = 24"),
    ],
)
def test_steps_outside_the_schedule_are_refused(values: dict[str, int], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make_rules(DIFFUSION, **values).check()


def test_start_step_outside_the_schedule_is_refused() -> None:
    with pytest.raises(UsageError, match="diffusion.start_step must be between 0 and diffusion.steps - 1 = 9"):
        remaining_steps(DiffusionParams(steps=10, start_step=10))


def test_extract_gives_aggregated_matching_and_latents(backbone: StableDiffusion, frames: np.ndarray) -> None:
    """Section 4.1: F~ is the mean of blocks 6, 7, 8; the matching features are block 7 alone, unnormalised."""
    settings = ExtractParams()
    result = extract(backbone, frames, [0, 1, 2], DIFFUSION, settings)
    h, w, c = feature_shape(backbone, (64, 128), settings)
    assert result.aggregated.shape == result.matching.shape == (3, h * w, c)
    torch.testing.assert_close(result.aggregated.abs().amax(dim=-1), torch.ones(3, h * w))
    taps = [Tap(block, "self", "query") for block in (6, 7, 8)]
    noise = draw_noise(DIFFUSION, [0, 1, 2], (4, 8, 16))
    start = add_noise(backbone.encode(frames), noise.epsilon, DIFFUSION, backbone)
    clean = clean_pass(backbone, start, DIFFUSION, {24: taps})
    mean = sum(clean.taps[24].values()) / 3
    torch.testing.assert_close(result.aggregated, mean / mean.abs().amax(dim=-1, keepdim=True))
    torch.testing.assert_close(result.matching, clean.taps[24][taps[1]], rtol=0, atol=0)
    torch.testing.assert_close(result.latents, backbone.encode(frames), rtol=0, atol=0)


def test_extract_reads_the_conditional_half(backbone: StableDiffusion, frames: np.ndarray) -> None:
    diffusion = DiffusionParams(start_step=24, guidance=5.0)
    guided = extract(backbone, frames, [0, 1, 2], diffusion, ExtractParams())
    alone = extract(backbone, frames, [0, 1, 2], DiffusionParams(start_step=24, guidance=1.0), ExtractParams())
    torch.testing.assert_close(guided.matching, alone.matching, rtol=1e-4, atol=1e-5)


def test_a_sampled_posterior_differs_from_its_mode(backbone: StableDiffusion, frames: np.ndarray) -> None:
    noise = torch.ones(3, 4, 8, 16)
    moments = backbone.vae.encode(torch.from_numpy(frames).permute(0, 3, 1, 2).float() * 2 / 255 - 1).latent_dist
    expected = (moments.mean + moments.std) * 0.18215
    torch.testing.assert_close(backbone.encode(frames, noise), expected.detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            ExtractParams(feature_step=21),
            "extract.feature_step must be between diffusion.start_step = 22 and 24",
        ),
        (ExtractParams(feature_step=25), "extract.feature_step must be"),
    ],
)
def test_feature_step_must_be_run(
    backbone: StableDiffusion, frames: np.ndarray, settings: ExtractParams, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        extract(backbone, frames, [0, 1, 2], DIFFUSION, settings)


def test_blocks_of_different_resolution_are_refused(backbone: StableDiffusion) -> None:
    with pytest.raises(UsageError, match="must share one resolution and width"):
        feature_shape(backbone, (64, 128), ExtractParams(blocks=(6, 9)))


def test_psnr() -> None:
    frames = torch.zeros(1, 3, 4, 4)
    assert psnr(frames + 0.2, frames).item() == pytest.approx(20.0, abs=1e-4)


def test_passes_in_turn_draw_what_each_draws_alone() -> None:
    """In the order of two looks that take turns, then from the beginning again."""
    given = (7, (2, 4, 3, 5), range(91, 101))
    together = TurnNoise(*given)
    for turn in (0, 3, 1, 4, 2, 5, 0, 3):
        (found, timestep), (alone, expected) = together.of(turn), TurnNoise(*given).of(turn)
        assert timestep == expected
        assert torch.equal(found.posterior, alone.posterior) and torch.equal(found.epsilon, alone.epsilon)

"""The network that sees several frames at once: what it must have in common with the plain one (section 3)."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pipeline.backbone import Tap, Together
from pipeline.backbone.image.model import StableDiffusion
from pipeline.backbone.together import inflated
from pipeline.errors import UsageError
from tests.support import tiny

FRAMES, TIMESTEP = 3, 100
TAPS = [Tap(11, "self", "query"), Tap(6, "cross", "key")]
NORMS = pytest.mark.parametrize("norm", ["joint", "frame"])


@pytest.fixture(scope="module")
def backbone() -> StableDiffusion:
    return StableDiffusion(tiny.make_unet().double(), tiny.make_vae(), tiny.make_context(), "tiny", "hash")


@pytest.fixture(scope="module")
def latents() -> Tensor:
    return torch.randn(2 * FRAMES, 4, 8, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def noise(backbone: StableDiffusion, latents: Tensor, frames: int, norm: str) -> Tensor:
    return backbone.predict(latents, TIMESTEP, together=Together(frames, norm)).noise  # type: ignore[arg-type]


@NORMS
def test_one_frame_gives_the_plain_network(backbone: StableDiffusion, latents: Tensor, norm: str) -> None:
    context = backbone.context.expand(len(latents), -1, -1)
    plain = backbone.unet(latents, TIMESTEP, context, return_dict=False)[0].float()
    assert torch.equal(noise(backbone, latents, 1, norm), plain)
    assert not torch.allclose(noise(backbone, latents, FRAMES, norm), plain, atol=1e-4)


@NORMS
def test_equal_frames_give_what_one_gives(backbone: StableDiffusion, latents: Tensor, norm: str) -> None:
    one = noise(backbone, latents[:1], 1, norm)
    same = noise(backbone, latents[:1].repeat(FRAMES, 1, 1, 1), FRAMES, norm)
    torch.testing.assert_close(same, one.repeat(FRAMES, 1, 1, 1), atol=1e-6, rtol=0)


@NORMS
def test_the_order_of_frames_does_not_matter(backbone: StableDiffusion, latents: Tensor, norm: str) -> None:
    clip, order = latents[:FRAMES], [2, 0, 1]
    moved = noise(backbone, clip[order], FRAMES, norm)
    torch.testing.assert_close(moved, noise(backbone, clip, FRAMES, norm)[order], atol=1e-6, rtol=0)


@NORMS
def test_the_clips_of_a_batch_do_not_meet(backbone: StableDiffusion, latents: Tensor, norm: str) -> None:
    both = noise(backbone, latents, FRAMES, norm)
    apart = torch.cat([noise(backbone, clip, FRAMES, norm) for clip in latents.split(FRAMES)])
    torch.testing.assert_close(both, apart, atol=1e-6, rtol=0)


def test_frames_alone_do_not_see_each_other(backbone: StableDiffusion, latents: Tensor) -> None:
    changed = torch.cat([latents[:1], 2 * latents[1:FRAMES]])
    alone = [noise(backbone, clip, 1, "frame")[0] for clip in (latents[:FRAMES], changed)]
    torch.testing.assert_close(*alone, atol=1e-6, rtol=0)
    together = [noise(backbone, clip, FRAMES, "frame")[0] for clip in (latents[:FRAMES], changed)]
    assert not torch.allclose(*together, atol=1e-4)
    apart = Together(FRAMES, norm="frame", attention="frame")
    neither = backbone.predict(latents[:FRAMES], TIMESTEP, together=apart).noise
    torch.testing.assert_close(neither[0], alone[0], atol=1e-6, rtol=0)


def test_joint_attention_and_norms_equal_a_literal_version(latents: Tensor) -> None:
    """One attention and one normalisation of a block, computed by hand."""
    unet = tiny.make_unet().double()
    attention, norm = unet.up_blocks[3].attentions[2].transformer_blocks[0].attn1, unet.conv_norm_out
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(FRAMES, 12, attention.to_q.in_features, dtype=torch.float64, generator=generator)
    image = torch.randn(FRAMES, norm.num_channels, 4, 5, dtype=torch.float64, generator=generator)
    with inflated(unet, Together(FRAMES), FRAMES):
        attended, normalised = attention(hidden), norm(image)

    tokens = hidden.flatten(0, 1)  # (frames * n, c): one sequence
    query, key, value = (
        linear(tokens).unflatten(-1, (attention.heads, -1)).transpose(0, 1)
        for linear in (attention.to_q, attention.to_k, attention.to_v)
    )
    weights = (query @ key.transpose(1, 2) * query.shape[-1] ** -0.5).softmax(dim=-1)
    expected = attention.to_out[0]((weights @ value).transpose(0, 1).flatten(1))
    torch.testing.assert_close(attended.flatten(0, 1), expected)

    for group, channels in enumerate(torch.arange(norm.num_channels).chunk(norm.num_groups)):
        own = image[:, channels]
        scaled = (own - own.mean()) / (own.var(correction=0) + norm.eps).sqrt()
        by_channel = [norm.weight[channels][:, None, None], norm.bias[channels][:, None, None]]
        torch.testing.assert_close(normalised[:, channels], scaled * by_channel[0] + by_channel[1], msg=str(group))


def test_taps_keep_their_shape_and_gradients(backbone: StableDiffusion, latents: Tensor) -> None:
    given = latents[:FRAMES].clone().requires_grad_()
    found = backbone.predict(given, TIMESTEP, record=TAPS, together=Together(FRAMES))
    alone = backbone.predict(given, TIMESTEP, record=TAPS)
    for tap in TAPS:
        assert found.taps[tap].shape == alone.taps[tap].shape
    (gradient,) = torch.autograd.grad(found.taps[TAPS[0]][0].sum(), given)
    assert gradient[1:].abs().sum() > 0  # the first frame's query depends on the others


def test_the_network_is_left_as_it_was(backbone: StableDiffusion) -> None:
    def state() -> list[object]:
        modules = list(backbone.unet.modules())
        processors = [module.processor for module in modules if hasattr(module, "processor")]
        return [*processors, *("forward" in vars(module) for module in modules)]

    before = state()
    with pytest.raises(ZeroDivisionError), inflated(backbone.unet, Together(2), 4):
        assert state() != before
        raise ZeroDivisionError
    assert state() == before


@pytest.mark.parametrize("frames", [2, 4, 0])
def test_part_of_a_clip_is_refused(backbone: StableDiffusion, latents: Tensor, frames: int) -> None:
    with pytest.raises(UsageError, match=f"3 frames are not whole clips of {frames} frames; choose a divisor"):
        noise(backbone, latents[:3], frames, "joint")

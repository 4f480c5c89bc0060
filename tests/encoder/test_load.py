"""Encoders from their folders: what they give, what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from pipeline.encoder.load import load_encoder
from pipeline.encoder.locate import PROJECTION, identify
from pipeline.encoder.map_encoder import MapEncoder
from pipeline.errors import UsageError, VidsegError
from pipeline.parameters import ExtractParams
from tests.support.places import ROOT
from tests.support.tiny_encoder import save_dinov2, save_dinov3, save_siglip, save_whole_siglip

EMBEDDED = ROOT / "models" / "compact" / "encoder"
CPU = torch.device("cpu")
MAPS = ExtractParams.encoder_maps
#: First four numbers of tokens 0, 13 and 31 of a picture of ramps.
RECORDED = [[0.3078, 0.2795, -0.0633, 0.2155], [0.5079, 0.2226, 0.0364, 0.1436], [0.4151, 0.2242, -0.0428, 0.2827]]


def frame(height: int = 64, width: int = 128) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def load(folder: Path, maps: tuple[str, ...] = MAPS):
    return load_encoder(identify("x", folder), ExtractParams(encoder_maps=maps), CPU)


@pytest.mark.parametrize(
    ("save", "channels"),
    [
        (save_dinov2, 16),
        (save_dinov3, 16),
        (save_siglip, 16),
        (save_whole_siglip, 16),
        (lambda folder: save_siglip(folder, hidden=192), 128),
    ],
    ids=["dinov2", "dinov3", "siglip", "siglip with text", "siglip projected"],
)
def test_a_vision_transformer_gives_a_vector_of_length_1_per_token(tmp_path, save, channels):
    encoder = load(save(tmp_path))
    tokens = encoder.tokens(frame(), (4, 8))
    assert tokens.shape == (32, encoder.channels) == (32, channels)
    torch.testing.assert_close(tokens.norm(dim=1), torch.ones(32))
    again = load(tmp_path)
    assert again.fingerprint == encoder.fingerprint
    torch.testing.assert_close(again.tokens(frame(), (4, 8)), tokens)


@pytest.mark.parametrize("save", [save_dinov2, save_dinov3, save_siglip, save_whole_siglip])
def test_a_patch_falls_on_its_token(tmp_path, save):
    """Another picture in one token's patch changes that token most of all."""
    encoder = load(save(tmp_path))
    changed = frame()
    changed[16:32, 48:64] = 255 - changed[16:32, 48:64]
    moved = (encoder.tokens(frame(), (4, 8)) - encoder.tokens(changed, (4, 8))).norm(dim=1)
    assert int(moved.argmax()) == 1 * 8 + 3


def test_a_patch_s_pixels_are_normalised_as_the_model_s_own_configuration_says(tmp_path):
    save_dinov2(tmp_path)
    before = load(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0, 0, 0], "image_std": [1, 1, 1]}))
    after = load(tmp_path)
    assert after.fingerprint != before.fingerprint
    assert not torch.allclose(after.tokens(frame(), (4, 8)), before.tokens(frame(), (4, 8)))


@pytest.mark.parametrize("one", [0.5, [0.5]])
def test_one_number_serves_all_colour_channels(tmp_path, one):
    save_siglip(tmp_path)
    before = load(tmp_path).tokens(frame(), (4, 8))
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"image_mean": one, "image_std": one}))
    torch.testing.assert_close(load(tmp_path).tokens(frame(), (4, 8)), before)


def test_loading_says_nothing(tmp_path, capfd):
    save_siglip(tmp_path)
    capfd.readouterr()
    load(tmp_path)
    assert capfd.readouterr() == ("", "")


def test_the_embedded_encoder_gives_128_numbers_of_its_four_maps():
    encoder = load(EMBEDDED)
    tokens = encoder.tokens(frame(), (4, 8))
    assert tokens.shape == (32, 128) and encoder.channels == 128
    torch.testing.assert_close(tokens.norm(dim=1), torch.ones(32))
    assert isinstance(encoder, MapEncoder)
    torch.testing.assert_close(encoder.matrix, load_file(EMBEDDED / PROJECTION)["matrix"].float())


def test_the_embedded_encoder_s_numbers_are_those_of_its_weights():
    """Recorded numbers: a slip in the network, its maps or its matrix would change every default result in silence."""
    rows, columns = np.mgrid[:64, :128]
    picture = np.stack([2 * columns, 4 * rows, columns + rows], axis=-1).astype(np.uint8)
    tokens = load(EMBEDDED).tokens(picture, (4, 8))
    torch.testing.assert_close(tokens[[0, 13, 31], :4], torch.tensor(RECORDED), atol=2e-3, rtol=0)


def test_other_maps_than_those_of_the_matrix_take_none_or_a_random_one():
    assert load(EMBEDDED, ("block7",)).channels == 80
    assert load(EMBEDDED, ("block14",)).channels == 128
    assert len({load(EMBEDDED, maps).fingerprint for maps in (MAPS, ("block7",), ("block14",))}) == 3


def test_an_unknown_map_is_refused():
    with pytest.raises(UsageError, match=r"no map block16; there are block0 to block15"):
        load(EMBEDDED, ("block16",))


def _empty(folder: Path) -> None:
    pass


def _pickled(folder: Path) -> None:
    (folder / "config.json").write_text("{}")
    (folder / "pytorch_model.bin").write_bytes(b"x")


def _without_patches(folder: Path) -> None:
    from transformers import ResNetConfig, ResNetModel

    ResNetModel(ResNetConfig(embedding_size=8, hidden_sizes=[8], depths=[1])).save_pretrained(folder)


def _vision_transformer_that(kind: str) -> Callable[[Path], None]:
    """Models with a patch size whose tokens are not one per patch of a picture."""

    def make(folder: Path) -> None:
        import transformers

        sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
        small = {**sizes, "image_size": 64, "patch_size": 16}
        swin = {"image_size": 64, "patch_size": 4, "embed_dim": 8, "depths": [1, 1], "num_heads": [1, 1]}
        config = {
            "merges patches": lambda: transformers.SwinConfig(**swin),
            "leaves patches out": lambda: transformers.ViTMAEConfig(**small),
            "takes videos": lambda: transformers.VideoMAEConfig(**small),
            "takes packed patches": lambda: transformers.Siglip2VisionConfig(**sizes, num_patches=16, patch_size=16),
        }[kind]()
        transformers.AutoModel.from_config(config).save_pretrained(folder)

    return make


def _damaged(folder: Path) -> None:
    save_dinov2(folder)
    (folder / "model.safetensors").write_bytes(b"nothing")


def _other_embedded(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "efficientnet_lite0"}')
    save_file({"x": torch.zeros(1)}, folder / "model.safetensors")


def _other_projection(folder: Path) -> None:
    save_dinov2(folder)
    save_file({"matrix": torch.zeros(12, 8)}, folder / PROJECTION)


def _flat_projection_of_the_embedded(folder: Path) -> None:
    shutil.copytree(EMBEDDED, folder, dirs_exist_ok=True)
    save_file({"matrix": torch.zeros(704)}, folder / PROJECTION, {"maps": ",".join(MAPS)})


def _preprocessing(key: str, value: object) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        save_dinov2(folder)
        (folder / "preprocessor_config.json").write_text(json.dumps({key: value}))

    return make


def _no_json(folder: Path) -> None:
    save_dinov2(folder)
    (folder / "config.json").write_text("[")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (_empty, "no encoder; extract.encoder takes a folder with config.json and safetensors .* hf download"),
        (_pickled, "pytorch_model.bin: pickled weights are refused"),
        (_without_patches, "a resnet does not give a token for each patch of a picture; take a vision transformer"),
        (_vision_transformer_that("merges patches"), "config.json: a swin does not give a token for each patch"),
        (_vision_transformer_that("leaves patches out"), "a vit_mae does not give a token for each patch"),
        (_vision_transformer_that("takes videos"), "a videomae does not give a token for each patch"),
        (_vision_transformer_that("takes packed patches"), "a siglip2_vision_model does not give a token for each"),
        (_damaged, "cannot be loaded .*; fetch the weights again"),
        (_other_embedded, "model.safetensors: cannot be loaded"),
        (
            _other_projection,
            "projection.safetensors: the matrix is 12x8, but the encoder has 16 numbers per token; fit it",
        ),
        (_flat_projection_of_the_embedded, "the matrix is 704, but the encoder has 704 numbers .* or remove the file"),
        (_preprocessing("image_mean", [0.5, 0.5]), "image_mean must be three numbers; fetch the model's configuration"),
        (_preprocessing("image_mean", None), "preprocessor_config.json: image_mean must be three numbers"),
        (_preprocessing("image_mean", "abc"), "image_mean must be three numbers"),
        (_preprocessing("image_std", [1, float("nan"), 10**400]), "image_std must be three numbers"),
        (_preprocessing("image_std", [0.2, 0, 0.2]), "image_std must be three numbers above 0; fetch"),
        (_no_json, "config.json: not a JSON object; fetch the model's configuration again"),
    ],
)
def test_what_is_no_encoder_is_refused(tmp_path, make, message):
    make(tmp_path)
    with pytest.raises(VidsegError, match=message) as error:
        load(tmp_path)
    assert error.value.exit_code == 4
    assert "\n" not in str(error.value)

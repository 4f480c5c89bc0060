"""Which encoder the parameters name, whether weights of features fit it, and its entry in backbone.lock."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.errors import UsageError, WeightsError
from pipeline.parameters import BackboneParams, ExtractParams
from stages.common import encoders
from stages.common.settings import load
from tests.support import tiny_encoder
from tests.support.commands import error_line, vidseg
from tests.support.places import ROOT

EMBEDDED = ROOT / "models" / "compact" / "encoder"
LITE = ExtractParams(encoder="efficientnet_lite0")


def test_the_embedded_encoder_serves_where_the_backbone_has_none(tiny_model: Path, tmp_path: Path) -> None:
    for path in (None, str(tiny_model), str(tmp_path / "not there")):
        source = encoders.find(LITE, BackboneParams(path=path))
        assert source is not None and (source.name, source.folder) == ("efficientnet_lite0", EMBEDDED)


def test_a_backbone_s_own_encoder_comes_first(tiny_model: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_model, tmp_path / "model")
    own = tiny_encoder.save_siglip(tmp_path / "model" / "encoder")
    source = encoders.find(LITE, BackboneParams(path=str(tmp_path / "model")))
    assert source is not None and source.folder == own


def test_a_folder_is_an_encoder_by_itself(tmp_path: Path) -> None:
    folder = tiny_encoder.save_dinov2(tmp_path / "dinov2")
    source = encoders.find(replace(LITE, encoder=str(folder)), BackboneParams())
    assert source is not None and source.folder == folder
    assert encoders.find(ExtractParams(), BackboneParams()) is None


@pytest.mark.parametrize(
    ("base", "change", "counts"),
    [
        ({}, {"padding_pixels": 96}, False),
        ({"padding": "reflect"}, {"padding_pixels": 96}, True),
        ({}, {"encoder_maps": ("block7",)}, True),
        ({}, {"encoder_scale": 1.5}, True),
        ({"encoder": "none"}, {"encoder_maps": ("block7",), "encoder_scale": 1.5}, False),
        ({"encoder": "FOLDER"}, {"encoder_maps": ("block7",), "encoder_scale": 1.5}, False),
        ({"encoder": "FOLDER"}, {"start_step": 23}, True),
    ],
)
def test_what_has_no_effect_makes_no_other_features(
    tmp_path: Path, base: dict[str, object], change: dict[str, object], counts: bool
) -> None:
    folder = tiny_encoder.save_dinov2(tmp_path / "dinov2")
    first = replace(LITE, **{name: str(folder) if value == "FOLDER" else value for name, value in base.items()})  # type: ignore[arg-type]
    kept = [
        encoders.with_effect(params, encoders.find(params, BackboneParams()))
        for params in (first, replace(first, **change))  # type: ignore[arg-type]
    ]
    assert (kept[0] != kept[1]) == counts


def test_a_missing_preprocessing_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for make, warns in ((tiny_encoder.save_dinov2, True), (tiny_encoder.save_siglip, False)):
        folder = make(tmp_path / make.__name__)
        if warns:
            (folder / "preprocessor_config.json").unlink()
        source = encoders.find(replace(LITE, encoder=str(folder)), BackboneParams())
        assert source is not None
        encoders.warn_of_guesses(source)
        said = "preprocessor_config.json is missing: colours are normalised by 0.5"
        assert (said in capsys.readouterr().err) == warns


@pytest.mark.parametrize("name", ["efficientnet-lite0", "weights/dinov2-base", __file__])
def test_what_is_no_folder_is_named_with_what_may_be_given(name: str) -> None:
    message = (
        f"extract.encoder is {name}, which is no folder; take none, efficientnet_lite0, or a folder with config.json "
        "and safetensors of a vision model (for DINOv2: hf download facebook/dinov2-base "
        "--local-dir weights/dinov2-base)"
    )
    with pytest.raises(WeightsError, match=f"^{re.escape(message)}$") as error:
        encoders.find(replace(LITE, encoder=name), BackboneParams())
    assert error.value.exit_code == 4


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors", "projection.safetensors"])
def test_the_embedded_encoder_is_got_from_the_repository(
    missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "compact" / "encoder"
    shutil.copytree(EMBEDDED, folder)
    (folder / missing).unlink()
    monkeypatch.setattr(encoders, "resource", lambda name: tmp_path)
    message = (
        f"{folder}: {missing} of the embedded encoder is missing; get it with: git checkout -- models/compact/encoder"
    )
    for backbone in (BackboneParams(path=str(tmp_path / "nowhere")), BackboneParams(path=str(folder.parent))):
        with pytest.raises(WeightsError, match=f"^{re.escape(message)}$"):
            encoders.find(LITE, backbone)


def test_a_backbone_s_own_folder_without_an_encoder_may_be_removed(tiny_model: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_model, tmp_path / "model")
    own = tmp_path / "model" / "encoder"
    own.mkdir()
    message = f"{own}: no encoder; .* --local-dir {own}\\), or remove {own}, and the embedded one serves$"
    with pytest.raises(WeightsError, match=message):
        encoders.find(LITE, BackboneParams(path=str(tmp_path / "model")))


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        (
            ("extract.encoder=none", "segment.encoder_weight=2", "correspond.encoder_weight=1"),
            "segment.encoder_weight is 2.0 and correspond.encoder_weight is 1.0, but extract.encoder is none; set "
            "segment.encoder_weight=0 and correspond.encoder_weight=0, or extract.encoder=efficientnet_lite0",
        ),
        (
            ("extract.encoder=none", "segment.encoder_weight=0", "correspond.encoder_weight=only"),
            "correspond.encoder_weight is only, but extract.encoder is none; set correspond.encoder_weight=0, or "
            "extract.encoder=efficientnet_lite0",
        ),
        (
            ("extract.parts=encoder", "segment.encoder_weight=only", "correspond.encoder_weight=0"),
            "correspond.encoder_weight is 0.0, but extract.parts is encoder, which leaves out the diffusion model's "
            "features; set correspond.encoder_weight=only, or extract.parts=both",
        ),
        (
            ("extract.parts=encoder", "segment.encoder_weight=3", "correspond.encoder_weight=only"),
            "segment.encoder_weight is 3.0, but extract.parts is encoder, .* set segment.encoder_weight=only",
        ),
        (
            ("backbone.name=sd21", "track.method=features", "track.encoder_weight=1"),
            "^track.encoder_weight is 1.0, but extract.encoder is none; set track.encoder_weight=0, or",
        ),
    ],
)
def test_weights_of_features_that_are_not_extracted_are_refused(
    sets: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=message):
        encoders.check_weights(load(None, sets))
    given = [word for text in sets for word in ("--set", text)]
    line = error_line(vidseg("extract", "clip.zarr", "out", *given, cwd=tmp_path, check=2))
    assert "encoder_weight is " in line


@pytest.mark.parametrize(
    "sets",
    [
        ("extract.encoder=none", "segment.encoder_weight=0", "correspond.encoder_weight=0"),
        ("segment.encoder_weight=only", "correspond.encoder_weight=1"),
        ("extract.parts=encoder", "segment.encoder_weight=only", "correspond.encoder_weight=only"),
        ("backbone.name=sd21",),
        ("backbone.name=sd21", "track.method=flow", "track.encoder_weight=1"),
    ],
)
def test_weights_that_fit(sets: tuple[str, ...]) -> None:
    encoders.check_weights(load(None, sets))


def test_weights_of_stages_that_are_not_to_run_are_not_looked_at() -> None:
    settings = load(None, ("extract.encoder=none", "segment.encoder_weight=1", "correspond.encoder_weight=0"))
    encoders.check_weights(settings, ("correspond", "track"))


def test_the_lock_pins_the_encoder(tmp_path: Path) -> None:
    """Its hash is written, another one refused before anything is read, and none is no contradiction."""
    first, second = (tiny_encoder.save_dinov2(tmp_path / str(seed), seed) for seed in (0, 1))
    chosen, other = ([f"--set=extract.encoder={folder}"] for folder in (first, second))
    said = vidseg("backbone", "lock", *chosen, cwd=tmp_path).stderr
    source = encoders.find(replace(LITE, encoder=str(first)), BackboneParams())
    assert source is not None and f"encoder {source.sha256[:12]}" in said
    assert json.loads((tmp_path / "backbone.lock").read_text())["encoder"] == source.sha256
    assert json.loads(vidseg("backbone", "show", "--json", *chosen).stdout)["encoder"] == source.sha256
    line = error_line(vidseg("extract", "--item", "one", *other, cwd=tmp_path, check=4))
    assert "backbone.lock has another encoder; run `vidseg backbone lock --params params.yaml`" in line
    vidseg("backbone", "lock", "--set=extract.encoder=none", cwd=tmp_path)
    line = error_line(vidseg("extract", "--item", "one", *chosen, cwd=tmp_path, check=4))
    assert "backbone.lock has no encoder; run `vidseg backbone lock --params params.yaml`" in line

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipeline.errors import UsageError
from pipeline.parameters import SECTIONS, declared, param, renamed
from pipeline.stores.store import fingerprint
from stages.common import settings
from stages.common.resources import resource, stage_number
from tests.support import yaml
from tests.support.places import ROOT


def test_defaults_are_those_of_the_design() -> None:
    params = settings.load(sets=["backbone.name=sd21"])
    assert params["diffusion"].guidance == 5.0
    assert params["extract"].blocks == (6, 7, 8)
    assert (params["segment"].clusters, params["segment"].window, params["segment"].neighbors) == (20, 14, 4)
    assert (params["upsample"].strength, params["upsample"].filter) == (50.0, 0.7)
    assert settings.load()["diffusion"].guidance == 1.0


def test_params_yaml_shows_the_defaults_of_its_backbone() -> None:
    """So that a first `dvc repro` does what a first `vidseg run` does, but for the sample's own size and number.

    And for label PNGs: a file per frame is what DVC is slow with.
    """
    shown, plain = settings.load(resource("params.yaml"), []).flat(), settings.load(None, []).flat()
    assert {key: (value, plain[key]) for key, value in shown.items() if value != plain[key]} == {
        "ingest.size": (384, 512),
        "segment.clusters": (12, 20),
        "render.labels": (False, True),
    }


def test_params_yaml_has_every_section_that_dvc_watches() -> None:
    given = yaml.safe_load(resource("params.yaml").read_text())
    assert set(given) == set(SECTIONS)
    assert 20 <= sum(map(len, given.values())) <= 40


def test_later_layers_win_key_by_key(tmp_path: Path) -> None:
    file = tmp_path / "params.yaml"
    file.write_text("segment: {clusters: 5, window: 7}\nupsample: {fast: {steps: 4, gap: 3}, parity: null}\n")
    given = settings.load(file, ["segment.clusters=6", "upsample.fast.gap=1", "backbone.name=svd"]).flat()
    assert (given["segment.clusters"], given["segment.window"]) == (6, 7)
    fast = {name: given[f"upsample.fast.{name}"] for name in ("steps", "gap", "groups")}
    assert fast == {"steps": 4, "gap": 1, "groups": "labels"}
    assert given["upsample.parity.blend_last_step"] == 24  # of presets/svd.yaml


def test_a_named_preset_lies_under_the_file(tmp_path: Path) -> None:
    """And what it gives a backbone where nothing else says something lies under both."""
    file = tmp_path / "params.yaml"
    file.write_text("segment: {clusters: 5}\nupsample: {strength: 7.0}\n")
    given = settings.load(file, ["upsample.strength=8"], preset="paper").flat()
    assert (given["segment.clusters"], given["upsample.strength"]) == (5, 8.0)
    assert (given["diffusion.start_step"], given["upsample.mode"], given["extract.encoder"]) == (21, "exact", "none")
    of_preset = settings.read_preset("paper", "compact")["ingest.size"]
    assert given["ingest.size"] == of_preset != settings.load()["ingest"].size
    file.write_text("ingest: {size: 64}\n")
    assert settings.load(file, preset="paper")["ingest"].size == 64
    assert settings.load(None, ["ingest.size=native"], preset="paper")["ingest"].size == "native"
    # That of presets/sd21.yaml: with this backbone the preset says nothing.
    assert settings.load(None, ["backbone.name=sd21"], preset="paper")["ingest"].size == "native"


def test_a_preset_names_its_backbone() -> None:
    assert settings.load(preset="emerdiff_svd")["backbone"].name == "svd"
    with pytest.raises(UsageError, match="preset 'emerdiff_svd' is for backbone svd, but backbone.name is 'sd21'"):
        settings.load(None, ["backbone.name=sd21"], preset="emerdiff_svd")
    with pytest.raises(UsageError, match="preset 'paper' is for backbone compact or sd21, but backbone.name is 'svd'"):
        settings.load(None, ["backbone.name=svd"], preset="paper")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("segment.clusters", "expected section.key=value"),
        ("segment.cluster=3", r"unknown parameter 'segment.cluster' \(in --set\); did you mean 'segment.clusters'\?"),
        ("segmnt.clusters=3", r"unknown section 'segmnt' \(in --set\); did you mean 'segment'"),
        ("segment.clusters=0", r"segment.clusters must be .*not 0 \(in --set\)"),
        ("segment.clusters=2.5", "segment.clusters must be a whole number, not 2.5"),
        ("segment.clusters=true", "segment.clusters must be a whole number, not true"),
        ("upsample.filter=1.5", "upsample.filter must be between 0.0 and 1.0, not 1.5"),
        ("upsample.strength=.nan", "upsample.strength must be a number, not nan"),
        ("upsample.blend=1", "upsample.blend must be true or false, not 1"),
        (
            "upsample.method=cubic",
            "upsample.method must be one of modulation, guided, bilinear, nearest, joint_bilateral",
        ),
        ("extract.blocks=7", "extract.blocks must be a list, not 7"),
        ("segment.encoder_weight=all", "segment.encoder_weight must be a number or only, not 'all'"),
        ("segment.encoder_weight=-1", "segment.encoder_weight must be at least 0.0, not -1"),
        ("extract.encoder=null", "extract.encoder must be a word, not null"),
        ("extract.blocks=[2]", "extract.blocks must be between 3 and 11, not 2"),
        ("maps.cross_blocks=[]", r"maps.cross_blocks must name at least one decoder block, like \[3, 4, 5, 6, 7\]"),
        ("maps.self_blocks=[]", r"maps.self_blocks must name at least one decoder block, like \[9, 10, 11\]"),
        ("extract.dtype=[", "the value is not valid YAML"),
        (
            "upsample.fast.stepz=3",
            r"unknown parameter 'upsample.fast.stepz' \(in --set\); did you mean 'upsample.fast.steps'\?",
        ),
        ("upsample.fst.steps=3", "unknown parameter 'upsample.fst.steps' .* did you mean 'upsample.fast.steps'"),
        ("upsample.gap=3", "unknown parameter 'upsample.gap' .* did you mean 'upsample.fast.gap'"),
        ("upsample.fast.gap=0", r"upsample.fast.gap must be at least 1, not 0 \(in --set\)"),
        ("upsample.fast.decode=none", "upsample.fast.decode must be one of full, box, small, latent, not 'none'"),
        ("upsample.fast={gap: 3}", "--set upsample.fast={gap: 3}: one parameter at a time"),
        ("upsample.fast=gap: 3", "one parameter at a time, e.g. --set upsample.fast.steps=3"),
        ("backbone.path={a: 1}", "one parameter at a time"),
        ("upsample.fast=3", r"upsample.fast is a group of parameters \(guidance, signs, .*\), not 3 \(in --set\)"),
        ("segment.label_merge=none", "segment.label_merge is now segment.parity.label_merge"),
        ("upsample.fast_steps=3", "upsample.fast_steps is now upsample.fast.steps"),
        ("extract.window=14", "extract.window is now extract.frames_together"),
    ],
)
def test_refused(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        settings.load(sets=[text])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("segment: [", "not valid YAML"),
        ("- a", "expected sections with keys"),
        (
            "segment: {windw: 3}",
            r"unknown parameter 'segment.windw' \(in .*params.yaml\); did you mean 'segment.window'",
        ),
        ("upsample: {fast: 3}", r"upsample.fast is a group of parameters .* not 3 \(in .*params.yaml\)"),
        ("segmnt: {window: 3}", r"unknown section 'segmnt' \(in .*params.yaml\); did you mean 'segment'"),
        ("segment: 3", "expected sections with keys"),
        ("defaults: 3", "defaults must be sections by backbone, like `compact: {ingest: {size: 256}}`"),
        ("defaults: {compact: 3}", "expected sections with keys"),
        ("defaults: {compact: {segment: {cluster: 3}}}", "unknown parameter 'segment.cluster'; did you mean"),
        ("defaults: {compct: {segment: {clusters: 3}}}", "params.yaml: defaults are for an unknown backbone 'compct'"),
        (
            "upsample: {blur: false}",
            r"params.yaml: 1 renamed parameter: upsample.blur -> upsample.parity.blur; `vidseg preset migrate .*yaml`",
        ),
        (
            "upsample: {blur: false, fast_gap: 1, offset: after, inject: true, decode: joint, normalize: true}\n"
            "extract: {window: 3}",
            "7 renamed parameters: upsample.blur -> upsample.parity.blur, upsample.fast_gap -> upsample.fast.gap, "
            "upsample.offset -> .*, upsample.inject -> .*, upsample.decode -> upsample.video.decode, and 2 more; ",
        ),
    ],
)
def test_refused_files(tmp_path: Path, content: str, message: str) -> None:
    file = tmp_path / "params.yaml"
    file.write_text(content)
    with pytest.raises(UsageError, match=message):
        settings.load(file)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file; give a parameter file"):
        settings.load(tmp_path / "none.yaml")


def test_whole_numbers_are_numbers() -> None:
    assert settings.load(sets=["diffusion.guidance=3"])["diffusion"].guidance == 3.0


@pytest.mark.parametrize("text", ["10:28", "0:28", '"10:28"', "9:"])
def test_a_frame_range_is_not_a_number(text: str) -> None:
    assert settings.load(sets=[f"ingest.frames={text}"])["ingest"].frames == text.strip('"')


def test_unknown_preset_lists_those_that_exist() -> None:
    with pytest.raises(UsageError, match="unknown preset 'x'; there are: .*compact.*sd21"):
        settings.read_preset("x")


DEFAULTS = ROOT / "tests" / "data" / "defaults.json"


def watched() -> dict[str, list[str]]:
    """Stage of dvc.yaml -> the sections of params.yaml that it depends on."""
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    found = {
        name: [one for one in stage.get("do", stage)["params"] if isinstance(one, str)]
        for name, stage in stages.items()
        if not name.endswith("_applied")  # the stage of that name, of what a concept is applied to
    }
    return {name: sections for name, sections in found.items() if sections}


@pytest.mark.parametrize("backbone", settings.backbone_names())
@pytest.mark.parametrize("stage", watched())
def test_a_default_changes_only_with_the_number_of_its_stage(stage: str, backbone: str) -> None:
    """DVC sees what params.yaml shows and the numbers, not the defaults of what it does not show."""
    loaded = settings.load(sets=[f"backbone.name={backbone}"])
    now = fingerprint({section: settings.plain(loaded[section]) for section in watched()[stage]})
    number = f"{stage_number(stage):g}"
    assert json.loads(DEFAULTS.read_text())[stage].get(number, {}).get(backbone) == now, (
        f"the defaults of {stage} with {backbone} are new to its number {number}: raise `{stage}` in versions.yaml by "
        "a decimal, or to the next integer if results of the same parameters change, and add "
        f'"{backbone}": "{now}" under that number to tests/data/defaults.json. Entries of earlier numbers stay as they '
        "are."
    )


@pytest.mark.parametrize(
    ("backbone", "recorded"),
    [("sd21", "9afaaef8876d5b3c9382bf77fa0e5943"), ("svd", "d0df4f99df8ebebe0ce4b5ab5651ca85")],
)
def test_features_of_flat_parameters_stay_valid(backbone: str, recorded: str) -> None:
    """The fingerprint as it was made before parameters had groups: what is in stores keeps its names."""
    loaded = settings.load(sets=[f"backbone.name={backbone}"])
    shown = {
        "extract": settings.plain(loaded["extract"]),
        "diffusion": settings.plain(loaded["diffusion"]),
        "backbone": {"name": backbone, "dtype": "float32"},
    }
    assert fingerprint("extract", 1, "clip", shown, "weights") == recorded


def test_what_stores_leave_out_is_what_was_before_and_not_the_default() -> None:
    """A default may change later: a store of the earlier one must not pass for one of the new."""

    @dataclass(frozen=True)
    class Section:
        always: int = param(1, "is always stored")
        new: int = param(3, "came later", before=1)

    assert settings.plain(Section()) == {"always": 1, "new": 3}
    assert settings.plain(Section(new=1)) == {"always": 1}


def test_stored_names_are_one_per_parameter() -> None:
    """Two parameters of one stored name would be one in a fingerprint; an old name must not be a new one."""
    for section, kind in SECTIONS.items():
        stored = [one.stored for one in declared(kind).values()]
        assert len(set(stored)) == len(stored), section
    assert not set(renamed()) & set(settings.load().flat())

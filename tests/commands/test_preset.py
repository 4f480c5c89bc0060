from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.errors import UsageError
from stages.commands import preset
from stages.common import settings
from stages.common.resources import resource
from tests.support import yaml
from tests.support.commands import error_line, vidseg
from tests.support.places import ROOT

NAMES = sorted(path.stem for path in resource("presets").glob("*.yaml"))

#: Each place where the authors' code leaves the paper and a parameter can follow: paper, code.
CHOICES = {
    ("diffusion", "start_step"): (21, 22),
    ("extract", "normalize"): ("none", "max_abs"),
    ("correspond", "rule"): ("constrained", "reject"),
    ("segment", "kmeans_frames"): ("first", "window"),
    ("segment", "first_frame"): ("keep", "predict"),
    ("upsample", "offset"): ("inside", "after"),
    ("upsample", "blend_last_step"): (24, 23),
    ("upsample", "mask_resize"): ("bilinear", "nearest"),
    ("upsample", "difference"): ("squared", "wrapped"),
    ("upsample", "blur"): (False, True),
    ("upsample", "normalize"): (False, True),
    ("upsample", "filter_resize"): ("bilinear", "lanczos"),
}
#: Stated by neither as a choice, but set by both presets so that a set does not depend on what was there before.
SHARED = {
    ("diffusion", "guidance"): 5.0,
    ("extract", "blocks"): (6, 7, 8),
    ("segment", "window"): 14,
    ("segment", "neighbors"): 4,
    ("upsample", "strength"): 50.0,
    ("upsample", "inject"): True,
    ("upsample", "filter"): 0.7,
}


#: The authors' two video scripts and our defaults for the same model, where they differ: default, data set, single.
VIDEO_CHOICES = {
    ("extract", "encode"): ("mode", "sample", "sample"),
    ("correspond", "rule"): ("constrained", "reject", "reject"),
    ("segment", "kmeans_frames"): ("first", "window", "window"),
    ("segment", "first_frame"): ("keep", "predict", "predict"),
    ("upsample", "attention"): ("self_spatial_temporal", "self_spatial_temporal", "cross_spatial"),
    ("upsample", "mask_resize"): ("bilinear", "nearest", "nearest"),
    ("upsample", "difference"): ("squared", "wrapped", "wrapped"),
    ("upsample", "filter_resize"): ("bilinear", "lanczos", "lanczos"),
}
VIDEO_SHARED = {
    ("backbone", "name"): "svd",
    ("diffusion", "start_step"): 17,
    ("diffusion", "guidance"): 2.5,
    ("diffusion", "guidance_first"): 1.0,
    ("diffusion", "fps_id"): 14,
    ("diffusion", "motion_bucket"): 127,
    ("diffusion", "noise_augmentation"): 0.02,
    ("extract", "window"): 14,
    ("extract", "blocks"): (6, 7, 8),
    ("extract", "matching_block"): 7,
    ("upsample", "block"): 8,
    ("upsample", "modulate_step"): 17,
    ("upsample", "blend_last_step"): 24,
    ("upsample", "strength"): 50.0,
    ("upsample", "decode"): "single",
}
BACKBONES = ("compact", "sd21", "svd")


@pytest.mark.parametrize(("column", "name"), [*enumerate(("svd", "svd_reference", "svd_reference_single"))])
def test_presets_of_the_video_model(column: int, name: str) -> None:
    loaded = settings.load(resource("presets") / f"{name}.yaml")
    for (section, key), values in VIDEO_CHOICES.items():
        assert getattr(loaded[section], key) == values[column], f"{section}.{key}"
    for (section, key), value in VIDEO_SHARED.items():
        assert getattr(loaded[section], key) == value, f"{section}.{key}"


def test_a_backbone_brings_its_defaults() -> None:
    for name in BACKBONES:
        chosen = settings.load(None, [f"backbone.name={name}"]).as_dict()
        assert chosen == settings.load(resource("presets") / f"{name}.yaml").as_dict()


def test_backbones_set_the_same_parameters() -> None:
    """Going from one backbone to another leaves nothing of the first behind."""
    keys = [
        {(section, key) for section, values in settings.read_preset(name).items() for key in values}
        for name in BACKBONES
    ]
    assert keys[0] == keys[1] == keys[2]


@pytest.mark.parametrize(
    ("name", "backbone", "remedy"),
    [("svd_reference", "compact", "svd"), ("emerdiff_svd", "sd21", "svd"), ("paper", "svd", "sd21")],
)
def test_presets_of_another_backbone_are_refused(name: str, backbone: str, remedy: str, tmp_path: Path) -> None:
    file = tmp_path / "params.yaml"
    file.write_text(f"backbone: {{name: {backbone}}}\n")
    line = error_line(vidseg("preset", "apply", name, "--file", file, check=2))
    assert f"preset '{name}' is for backbone" in line
    assert f"backbone.name is '{backbone}'; `vidseg preset apply {remedy}` first" in line
    assert file.read_text() == f"backbone: {{name: {backbone}}}\n"
    preset.apply(remedy, file)
    preset.apply(name, file)
    with pytest.raises(UsageError, match=f"{name}.yaml is for backbone .*, but backbone.name is '{backbone}'"):
        settings.load(resource("presets") / f"{name}.yaml", [f"backbone.name={backbone}"])


@pytest.mark.parametrize("name", NAMES)
def test_presets_are_valid(name: str) -> None:
    settings.load(resource("presets") / f"{name}.yaml")


@pytest.mark.parametrize(("column", "name"), [(0, "paper"), (1, "reference"), (1, "reference_gt")])
def test_presets_of_the_paper_and_the_code(column: int, name: str) -> None:
    loaded = settings.load(resource("presets") / f"{name}.yaml")
    given = settings.read_preset(name)
    for (section, key), values in CHOICES.items():
        assert getattr(loaded[section], key) == values[column], f"{section}.{key}"
        assert key in given[section]
    for (section, key), value in SHARED.items():
        assert getattr(loaded[section], key) == value, f"{section}.{key}"
        assert key in given[section]


def test_presets_set_the_same_parameters() -> None:
    """Applying one after another leaves nothing of the first behind, except where the frames come from."""
    keys = [
        {(section, key) for section, values in settings.read_preset(name).items() for key in values}
        for name in ("paper", "reference", "reference_gt")
    ]
    only_the_code = {("diffusion", "seed"), ("ingest", "size")}
    assert keys[1] - keys[0] == only_the_code
    assert keys[2] - keys[1] == {("ingest", "seed")}


def test_class_aware_differs_by_the_mask_alone() -> None:
    agnostic, aware = (
        settings.load(resource("presets") / f"{name}.yaml").as_dict() for name in ("reference", "reference_gt")
    )
    different = {
        (section, key)
        for section, values in agnostic.items()
        for key, value in values.items()
        if aware[section][key] != value
    }
    assert different == {("ingest", "seed"), ("segment", "label_merge")}


def test_apply_keeps_comments_and_other_values(tmp_path: Path) -> None:
    file = tmp_path / "params.yaml"
    file.write_text((ROOT / "params.yaml").read_text())
    before = yaml.safe_load(file.read_text())
    vidseg("preset", "apply", "reference", "--file", file)
    text, after = file.read_text(), yaml.safe_load(file.read_text())
    assert after["upsample"]["difference"] == "wrapped"
    assert after["render"] == before["render"]
    assert after["backbone"] == before["backbone"]
    assert "# t_inv" in text
    assert "blocks: [6, 7, 8]" in text and "revision: null\n" in text
    comments = [line.partition("#")[2] for line in (ROOT / "params.yaml").read_text().splitlines() if "#" in line]
    assert [comment for comment in comments if comment not in text] == []
    assert settings.load(file)["segment"].first_frame == "predict"
    assert [path.name for path in tmp_path.iterdir()] == ["params.yaml"]


@pytest.mark.parametrize(
    ("names", "kept", "set_again"),
    [
        (("svd", "svd_reference", "svd"), 'upsample.difference = "wrapped"', "upsample.block"),
        (("svd", "emerdiff_svd", "sd21"), "upsample.blend = false", "backbone.name"),
        (("paper",), "ingest.size = 128", "upsample.offset"),
    ],
)
def test_apply_names_what_stays_of_an_earlier_preset(
    names: tuple[str, ...], kept: str, set_again: str, tmp_path: Path
) -> None:
    file = tmp_path / "params.yaml"
    file.write_text((ROOT / "params.yaml").read_text())
    for name in names[:-1]:
        preset.apply(name, file)
    printed = vidseg("preset", "apply", names[-1], "--file", file).stderr
    assert kept in printed and set_again not in printed


def test_apply_names_nothing_where_all_is_the_backbone_s_default(tmp_path: Path) -> None:
    file = tmp_path / "params.yaml"
    file.write_text("ingest: {size: 64}\n")
    assert "keeps" not in vidseg("preset", "apply", "svd", "--file", file).stderr


def test_apply_warns_of_what_the_file_has_wrong(tmp_path: Path) -> None:
    file = tmp_path / "params.yaml"
    file.write_text("segment: {clusterz: 3}\nextract:\n")
    printed = vidseg("preset", "apply", "sd21", "--file", file).stderr
    assert "preset 'sd21' applied" in printed
    assert "warning: unknown parameter 'segment.clusterz'" in printed
    assert yaml.safe_load(file.read_text())["extract"] == {"window": None}


def test_apply_fills_a_file_without_sections(tmp_path: Path) -> None:
    file = tmp_path / "params.yaml"
    file.write_text("extract:\n  blocks: [7]\n")
    preset.apply("paper", file)
    assert "blocks: [6, 7, 8]" in file.read_text()
    assert settings.load(file).as_dict() == settings.load(resource("presets") / "paper.yaml").as_dict()


def test_show_and_list_print_the_presets() -> None:
    shown = vidseg("preset", "show", "paper").stdout
    assert yaml.safe_load(shown) == yaml.safe_load((resource("presets") / "paper.yaml").read_text())
    listed = vidseg("preset", "list").stdout.splitlines()
    assert [line.split()[0] for line in listed] == NAMES
    assert all(len(line.split()) > 3 for line in listed)


def test_unknown_names_and_files_are_explained(tmp_path: Path) -> None:
    unknown = error_line(vidseg("preset", "show", "papr", check=2))
    assert (
        "unknown preset 'papr'; there are: coarse, compact, emerdiff, emerdiff_svd, joint_bilateral, paper" in unknown
    )
    with pytest.raises(UsageError, match="no such file; run in the project's folder or give --file"):
        preset.apply("paper", tmp_path / "params.yaml")

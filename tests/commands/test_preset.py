from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from unittest.mock import Mock

import pytest

from pipeline.errors import UsageError
from pipeline.fewshot.learning import Plan
from stages.commands import preset
from stages.common import settings
from stages.common.apply_task import Sections, check_concept
from stages.common.resources import resource
from stages.common.settings import Settings
from tests.support import yaml
from tests.support.commands import error_line, vidseg
from tests.support.places import ROOT

NAMES = sorted(path.stem for path in resource("presets").glob("*.yaml"))

#: Each place where the authors' code leaves the paper and a parameter can follow: paper, code.
CHOICES = {
    "diffusion.start_step": (21, 22),
    "extract.parity.normalize": ("none", "max_abs"),
    "correspond.parity.rule": ("constrained", "reject"),
    "segment.parity.kmeans_frames": ("first", "window"),
    "segment.parity.first_frame": ("keep", "predict"),
    "upsample.parity.offset": ("inside", "after"),
    "upsample.parity.blend_last_step": (24, 23),
    "upsample.parity.mask_resize": ("bilinear", "nearest"),
    "upsample.parity.difference": ("squared", "wrapped"),
    "upsample.parity.blur": (False, True),
    "upsample.parity.normalize": (False, True),
    "upsample.parity.filter_resize": ("bilinear", "lanczos"),
}
#: Stated by neither as a choice, but set by both presets so that a set does not depend on what was there before.
SHARED = {
    "diffusion.guidance": 5.0,
    "extract.blocks": [6, 7, 8],
    "segment.window": 14,
    "segment.neighbors": 4,
    "upsample.strength": 50.0,
    "upsample.parity.inject": True,
    "upsample.filter": 0.7,
}


#: The authors' two video scripts and our defaults for the same model, where they differ: default, data set, single.
VIDEO_CHOICES = {
    "extract.parity.encode": ("mode", "sample", "sample"),
    "correspond.parity.rule": ("constrained", "reject", "reject"),
    "segment.parity.kmeans_frames": ("first", "window", "window"),
    "segment.parity.first_frame": ("keep", "predict", "predict"),
    "upsample.video.attention": ("self_spatial_temporal", "self_spatial_temporal", "cross_spatial"),
    "upsample.parity.mask_resize": ("bilinear", "nearest", "nearest"),
    "upsample.parity.difference": ("squared", "wrapped", "wrapped"),
    "upsample.parity.filter_resize": ("bilinear", "lanczos", "lanczos"),
}
VIDEO_SHARED = {
    "backbone.name": "svd",
    "diffusion.start_step": 17,
    "diffusion.guidance": 2.5,
    "diffusion.video.guidance_first": 1.0,
    "diffusion.video.fps_id": 14,
    "diffusion.video.motion_bucket": 127,
    "diffusion.video.noise_augmentation": 0.02,
    "extract.frames_together": 14,
    "extract.blocks": [6, 7, 8],
    "extract.matching_block": 7,
    "upsample.block": 8,
    "upsample.modulate_step": 17,
    "upsample.parity.blend_last_step": 24,
    "upsample.strength": 50.0,
    "upsample.video.decode": "single",
}
BACKBONES = ("compact", "sd21", "svd")


#: SMITE's rows, and where each leaves the first of them: frame by frame, tokens alone, without guidance, ...
SEGMENTS_SHOWN = ("smite", "smite_track", "smite_ca", "baseline1", "baseline2", "baseline3", "slime", "smite_reference")
SHOWN_SECTIONS = ("learn.", "maps.", "guidance.", "apply.")
FREE = {"guidance.lambda_track": 0.0, "guidance.lambda_reg": 0.0}
TOKENS = {"learn.tune": "none"}
ALONE = {"apply.frames": "one", "apply.norm": "frame"}
#: What a backbone may take for speed or accuracy, and every row says itself.
QUICK = {
    *("apply.frames", "apply.norm", "apply.overlap", "apply.upsample"),
    *("guidance.lambda_track", "guidance.lambda_reg", "guidance.vote.space", "guidance.vote.window"),
}
LADDER: dict[str, dict[str, object]] = {
    "smite_track": {"guidance.lambda_reg": 0.0},
    "smite_ca": FREE,
    "baseline1": FREE | TOKENS | ALONE,
    "baseline2": FREE | TOKENS | ALONE | {"guidance.vote.space": "maps"},
    "baseline3": FREE | TOKENS,
}


#: What each preset for a backbone came to before there were encoders, as what differs from `sd21/sd21`.
EARLIER = json.loads((ROOT / "tests" / "data" / "presets.json").read_text())
#: What was added since, where it changes nothing.
NEUTRAL = {
    "extract.encoder": "none",
    "extract.parts": "both",
    "extract.padding": "none",
    "correspond.encoder_weight": 0,
    "segment.encoder_weight": 0,
    "segment.balance": 0,
    "segment.births": "none",
    "upsample.confidence": False,
    "ingest.cuts": "none",
    "segment.after_cut": "continue",
}


@pytest.mark.parametrize("case", EARLIER)
def test_presets_of_the_paper_and_its_code_come_to_what_they_were(case: str) -> None:
    name, backbone = case.split("/")
    loaded = settings.load(resource("presets") / f"{name}.yaml", [f"backbone.name={backbone}"]).flat()
    expected = {**EARLIER["sd21/sd21"], **EARLIER[case], **NEUTRAL}
    assert {key: loaded[key] for key in expected} == expected


@pytest.mark.parametrize(
    "name",
    [
        name
        for name in NAMES
        if name not in (*BACKBONES, *SEGMENTS_SHOWN, "smite_compact", "coarse", "joint_bilateral", "quality")
    ],
)
def test_presets_of_the_paper_and_its_code_set_all_that_is_not_neutral_with_compact(name: str) -> None:
    """So that each can be applied to any parameter file."""
    given = settings.read_preset(name, "compact")
    compact, plain = settings.load().flat(), settings.load(sets=["backbone.name=sd21"]).flat()
    assert {key for key in NEUTRAL if compact[key] != plain[key]} <= set(given)
    assert {"upsample.mode"} <= set(given)


def of_preset(name: str) -> Settings:
    return settings.load(resource("presets") / f"{name}.yaml")


@pytest.mark.parametrize(("column", "name"), [*enumerate(("svd", "svd_reference", "svd_reference_single"))])
def test_presets_of_the_video_model(column: int, name: str) -> None:
    loaded = of_preset(name).flat()
    assert {key: loaded[key] for key in VIDEO_CHOICES} == {key: row[column] for key, row in VIDEO_CHOICES.items()}
    assert {key: loaded[key] for key in VIDEO_SHARED} == VIDEO_SHARED


def test_a_backbone_brings_its_defaults() -> None:
    for name in BACKBONES:
        chosen = settings.load(None, [f"backbone.name={name}"]).as_dict()
        assert chosen == of_preset(name).as_dict()


def test_backbones_set_the_same_parameters() -> None:
    """Going from one backbone to another leaves nothing of the first behind."""
    keys = [set(settings.read_preset(name)) for name in BACKBONES]
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
    of_preset(name)


@pytest.mark.parametrize(("column", "name"), [(0, "paper"), (1, "reference"), (1, "reference_gt")])
def test_presets_of_the_paper_and_the_code(column: int, name: str) -> None:
    loaded = of_preset(name).flat()
    given = settings.read_preset(name)
    assert {key: loaded[key] for key in CHOICES} == {key: row[column] for key, row in CHOICES.items()}
    assert {key: loaded[key] for key in SHARED} == SHARED
    assert {*CHOICES, *SHARED} <= set(given)


def test_presets_set_the_same_parameters() -> None:
    """Applying one after another leaves nothing of the first behind, except where the frames come from."""
    keys = [set(settings.read_preset(name)) for name in ("paper", "reference", "reference_gt")]
    only_the_code = {"diffusion.seed", "ingest.size"}
    assert keys[1] - keys[0] == only_the_code
    assert keys[2] - keys[1] == {"ingest.seed"}


def test_presets_of_smite_set_the_same_parameters() -> None:
    """All but what is tied to a backbone: its layers, its timesteps, the scale of its rates, sizes, the number of
    steps. The released code has all of these but rates and sizes."""
    *rows, code = [set(settings.read_preset(name)) for name in SEGMENTS_SHOWN]
    assert all(one == rows[0] for one in rows)
    of_backbones = {key for key in settings.read_preset("sd21") if key.startswith(SHOWN_SECTIONS)}
    assert rows[0] & of_backbones == QUICK
    assert code - rows[0] == {
        *("maps.cross_blocks", "maps.self_blocks", "maps.spread"),
        *("learn.t", "learn.epochs", "learn.most_iterations", "apply.timesteps"),
    }


@pytest.mark.parametrize("backbone", ["compact", "sd21"])
@pytest.mark.parametrize("name", SEGMENTS_SHOWN)
def test_rows_of_smite_tune_weights_however_many_pictures(name: str, backbone: str) -> None:
    params = settings.load(sets=[f"backbone.name={backbone}"], preset=name)["learn"]
    tuned = [Plan(images, params).tuning > 0 for images in (1, 5, 8, 10)]
    assert tuned == [params.tune != "none"] * 4


@pytest.mark.parametrize("backbone", ["compact", "sd21"])
@pytest.mark.parametrize("name", [name for name in SEGMENTS_SHOWN if name != "smite_reference"])
def test_rows_of_smite_read_the_layers_of_the_backbone(name: str, backbone: str) -> None:
    """So that a concept that was learned with its defaults can be applied as any row."""
    given = [f"backbone.name={backbone}"]
    row, plain = settings.load(sets=given, preset=name), settings.load(sets=given)
    concept = Mock(params={"maps": asdict(plain["maps"])}, attrs={"backbone": "weights"})
    check_concept(concept, "weights", Sections.of(row))
    assert row["maps"].spread == plain["maps"].spread


@pytest.mark.parametrize("name", LADDER)
def test_rows_of_smite_differ_in_what_they_are_named_after(name: str) -> None:
    first, other = settings.read_preset("smite"), settings.read_preset(name)
    assert {key: value for key, value in other.items() if first[key] != value} == LADDER[name]


def test_slime_has_its_own_steps_where_the_backbone_is_its_own() -> None:
    rows = {name: settings.load(sets=[f"backbone.name={name}"], preset="slime") for name in ("sd21", "compact")}
    plain = settings.load()
    assert (rows["sd21"]["learn"].epochs, rows["sd21"]["apply"].timesteps) == (200, (100,))
    assert rows["compact"]["learn"].epochs == plain["learn"].epochs
    assert rows["compact"]["apply"].timesteps == plain["apply"].timesteps
    given = settings.load(sets=["backbone.name=sd21", "learn.epochs=5"], preset="slime")
    assert given["learn"].epochs == 5


def test_smite_is_what_the_backbones_do() -> None:
    """The paper's choices are the defaults, and `compact` has its own rates."""
    loaded = settings.load(sets=["backbone.name=sd21"]).flat()
    assert all(loaded[key] == value for key, value in settings.read_preset("smite").items())


def test_compact_is_smite_compact_without_gradients() -> None:
    quick, guided = settings.read_preset("compact"), settings.read_preset("smite_compact")
    assert {key for key in quick if key.startswith(SHOWN_SECTIONS)} == set(guided)
    assert {key: quick[key] for key in guided if quick[key] != guided[key]} == {
        "guidance.lambda_track": 0.0,
        "guidance.vote.space": "maps",
        "guidance.vote.window": 7,
        **ALONE,
    }


def test_class_aware_differs_by_the_mask_alone() -> None:
    agnostic, aware = of_preset("reference").flat(), of_preset("reference_gt").flat()
    assert {name for name, value in agnostic.items() if aware[name] != value} == {
        "ingest.seed",
        "segment.parity.label_merge",
    }


def test_apply_keeps_comments_and_other_values(tmp_path: Path) -> None:
    file = tmp_path / "params.yaml"
    file.write_text((ROOT / "params.yaml").read_text())
    before = yaml.safe_load(file.read_text())
    vidseg("preset", "apply", "reference", "--file", file)
    text, after = file.read_text(), yaml.safe_load(file.read_text())
    assert after["upsample"]["parity"]["difference"] == "wrapped"
    assert after["render"] == before["render"]
    assert after["backbone"] == before["backbone"]
    assert "# frames per pass" in text
    assert "blocks: [6, 7, 8]" in text and "path: null  " in text
    comments = [line.partition("#")[2] for line in (ROOT / "params.yaml").read_text().splitlines() if "#" in line]
    assert [comment for comment in comments if comment not in text] == []
    assert settings.load(file)["segment"].parity.first_frame == "predict"
    assert [path.name for path in tmp_path.iterdir()] == ["params.yaml"]


@pytest.mark.parametrize(
    ("names", "kept", "set_again"),
    [
        (("svd", "svd_reference", "svd"), 'upsample.parity.difference = "wrapped"', "upsample.block"),
        (("svd", "emerdiff_svd", "sd21"), "upsample.blend = false", "backbone.name"),
        (("paper",), "ingest.size = 384", "upsample.parity.offset"),
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
    assert yaml.safe_load(file.read_text())["extract"]["frames_together"] is None


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
        "unknown preset 'papr'; there are: baseline1, baseline2, baseline3, coarse, compact, emerdiff, emerdiff_svd, "
        "joint_bilateral, paper" in unknown
    )
    with pytest.raises(UsageError, match="no such file; run in the project's folder or give --file"):
        preset.apply("paper", tmp_path / "params.yaml")


OLD = """\
# mine
segment:
  # how many
  clusters: 5            # K

  # after the paper
  label_merge: none      # or first_frame
  seed: 3                # of K-Means

extract: {window: 14, blocks: [6, 7]}  # svd
upsample:
  fast_gap: 1            # tokens
  strength: 50.0
  offset: inside
  fast_steps: 3
  decode: joint          # a window's frames

# the end
render:
  opacity: 0.4
"""
NEW = """\
# mine
segment:
  # how many
  clusters: 5            # K

  # after the paper
  parity:
    label_merge: none    # or first_frame
  seed: 3                # of K-Means

extract: {frames_together: 14, blocks: [6, 7]} # svd
upsample:
  fast:
    gap: 1               # tokens
    steps: 3
  strength: 50.0
  parity:
    offset: inside
  video:
    decode: joint        # a window's frames

# the end
render:
  opacity: 0.4
"""


def test_migrate_renames_and_keeps_comments(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(OLD)
    with pytest.raises(UsageError, match=r"mine.yaml: 6 renamed parameters: .* `vidseg preset migrate .*mine.yaml`"):
        settings.load(file)
    with pytest.raises(UsageError, match="6 renamed parameters"):
        preset.apply("coarse", file)
    assert file.read_text() == OLD
    said = vidseg("preset", "migrate", file).stderr
    assert file.read_text() == NEW
    assert "mine.yaml: segment.label_merge -> segment.parity.label_merge, extract.window -> extract.frames_toge" in said
    assert "upsample.decode -> upsample.video.decode" in said
    assert settings.load(file).flat()["upsample.fast.gap"] == 1
    assert "nothing to rename" in vidseg("preset", "migrate", file).stderr
    assert file.read_text() == NEW and [path.name for path in tmp_path.iterdir()] == ["mine.yaml"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("upsample: {blur: true, parity: {blur: false}}", "upsample.parity.blur is there by its old and its new name"),
        ("segmnt: {clusters: 3}", "unknown section 'segmnt'"),
        ("[1, 2]", "expected a mapping"),
        ("segment: 3", "expected sections with keys"),
    ],
)
def test_migrate_refuses_what_it_cannot_rename(content: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "params.yaml"
    file.write_text(content)
    with pytest.raises(UsageError, match=f"params.yaml: {message}" if "upsample" in content else message):
        preset.migrate(file)
    assert file.read_text() == content

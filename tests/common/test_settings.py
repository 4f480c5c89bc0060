from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.errors import UsageError
from stages.common import settings
from stages.common.resources import resource
from tests.support import yaml


def test_defaults_are_those_of_the_design() -> None:
    params = settings.load(sets=["backbone.name=sd21"])
    assert params["diffusion"].guidance == 5.0
    assert params["extract"].blocks == (6, 7, 8)
    assert (params["segment"].clusters, params["segment"].window, params["segment"].neighbors) == (20, 14, 4)
    assert (params["upsample"].strength, params["upsample"].filter) == (50.0, 0.7)
    assert settings.load()["diffusion"].guidance == 1.0


def test_params_yaml_lists_every_parameter() -> None:
    given = yaml.safe_load(resource("params.yaml").read_text())
    assert {section: set(values) for section, values in given.items()} == {
        section: set(values) for section, values in settings.load().as_dict().items()
    }


def test_later_layers_win(tmp_path: Path) -> None:
    file = tmp_path / "params.yaml"
    file.write_text("segment: {clusters: 5, window: 7}\n")
    params = settings.load(file, ["segment.clusters=6"])
    assert (params["segment"].clusters, params["segment"].window) == (6, 7)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("segment.clusters", "expected section.key=value"),
        ("segment.cluster=3", r"unknown parameter 'segment.cluster' \(in --set\); did you mean 'clusters'\?"),
        ("segmnt.clusters=3", "unknown section 'segmnt' .* did you mean 'segment'"),
        ("segment.clusters=0", r"segment.clusters must be .*not 0 \(in --set\)"),
        ("segment.clusters=2.5", "segment.clusters must be a whole number, not 2.5"),
        ("segment.clusters=true", "segment.clusters must be a whole number, not True"),
        ("upsample.filter=1.5", "upsample.filter must be between 0.0 and 1.0, not 1.5"),
        ("upsample.strength=.nan", "upsample.strength must be a number, not nan"),
        ("upsample.blend=1", "upsample.blend must be true or false, not 1"),
        (
            "upsample.method=cubic",
            "upsample.method must be one of modulation, bilinear, nearest, joint_bilateral",
        ),
        ("extract.blocks=7", "extract.blocks must be a list, not 7"),
        ("extract.blocks=[2]", "extract.blocks must be between 3 and 11, not 2"),
        ("extract.dtype=[", "the value is not valid YAML"),
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
            r"unknown parameter 'segment.windw' \(in .*params.yaml\); did you mean 'window'",
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

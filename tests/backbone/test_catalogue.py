"""Each name that params.yaml takes has a family, and no module asks for the name again."""

from __future__ import annotations

import re

import pytest

from pipeline.backbone.catalogue import CATALOGUE, family_of, published
from stages.common.settings import backbone_names
from tests.support.places import ROOT


def test_the_names_are_those_of_the_parameters() -> None:
    assert set(CATALOGUE) == set(backbone_names())


@pytest.mark.parametrize("name", CATALOGUE)
def test_a_familys_published_model_is_of_that_family(name: str) -> None:
    model = CATALOGUE[published(family_of(name))]
    assert model.hub is not None
    assert model.family is family_of(name)


def test_families_are_told_apart() -> None:
    families = list({id(named.family): named.family for named in CATALOGUE.values()}.values())
    for mark in ("denoiser", "conditioning"):
        assert len({getattr(family, mark) for family in families}) == len(families), mark


def test_no_module_switches_on_a_name() -> None:
    """A backbone's name is looked up in the catalogue; anything that depends on it belongs to its family."""
    switch = re.compile(rf"""(==|!=|\bin\b|\bcase\b)[^\n:]*["']({"|".join(CATALOGUE)})["']""")
    for file in [*(ROOT / "pipeline").rglob("*.py"), *(ROOT / "stages").rglob("*.py")]:
        assert not switch.search(file.read_text()), file

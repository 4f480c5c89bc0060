"""Sections of the parameters for tests."""

from __future__ import annotations

import dataclasses
from typing import Any, TypeVar

from pipeline.parameters import DiffusionParams, UpsampleParams
from pipeline.upsampling.rules import Rules

Section = TypeVar("Section")

#: `compact` without what its defaults change of the method: the diffusion model's features alone, exact modulation.
PLAIN = (
    *("extract.encoder=none", "extract.padding=none", "correspond.encoder_weight=0", "segment.encoder_weight=0"),
    *("segment.balance=0", "segment.births=none", "segment.parity.kmeans_frames=first"),
    *("upsample.method=modulation", "upsample.mode=exact"),
)


def changed(params: Section, **values: Any) -> Section:
    """A section with other values; those of a group go by their own name, like `inject` for `parity.inject`."""
    own = {field.name: getattr(params, field.name) for field in dataclasses.fields(params)}  # type: ignore[arg-type]
    for name, value in values.items():
        if name in own:
            own[name] = value
            continue
        (group,) = (key for key, inner in own.items() if name in getattr(inner, "__dataclass_fields__", ()))
        own[group] = dataclasses.replace(own[group], **{name: value})
    return type(params)(**own)


def make_rules(diffusion: DiffusionParams, **values: Any) -> Rules:
    """Rules with these values of section `upsample`; those of its groups go by their own name."""
    return Rules(diffusion, changed(UpsampleParams(), **values))

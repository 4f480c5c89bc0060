"""What happened: how a run was made, as a page tells it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Changed:
    """A parameter that is not at its default: whole name, value, default, and what it is."""

    name: str
    value: str
    default: str
    help: str


@dataclass(frozen=True)
class Story:
    """How a run was made.

    Attributes:
        facts: what and its value, one line each.
        changed: parameters that differ from the defaults of the backbone.
        psnr: per window, the first frame and the PSNR in dB of the clean pass.
        seconds: per stage; empty where it is not known.
        warnings: what the run warned of.
    """

    facts: Sequence[tuple[str, str]]
    changed: Sequence[Changed]
    psnr: Sequence[tuple[int, float]] = ()
    seconds: Sequence[tuple[str, float]] = ()
    warnings: Sequence[str] = ()


def psnr_of(attributes: Mapping[str, Any]) -> list[tuple[int, float]]:
    """The PSNR per window that a store of features tells of, by the window's first frame."""
    return sorted((int(start), float(value)) for start, value in (attributes.get("psnr") or {}).items())

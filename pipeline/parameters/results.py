"""Scores and pictures: `evaluate` and `render`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pipeline.parameters.declare import param


@dataclass(frozen=True)
class EvaluateParity:
    """Group `evaluate.parity`: where the paper and the authors' code differ."""

    coarse_stride: int = param(16, "pixels per cell of the coarse grid of assignment: official", low=1)


@dataclass(frozen=True)
class EvaluateParams:
    """Section `evaluate`."""

    protocol: Literal["strict", "official"] = param("strict", "void is void, or the published evaluator with its slips")
    assignment: Literal["auto", "majority", "official", "hungarian", "none", "names"] = param(
        "auto",
        "clusters to classes by the first annotated frame; auto = majority, none where labels are classes; "
        "names = by the names that a person gave segments, which are the classes'",
    )
    windows: tuple[int, ...] = param((8, 16), "n of VC_n", low=1)
    objects: Literal["auto", "none", "semi_supervised", "unsupervised", "parts"] = param(
        "auto",
        "DAVIS J and F; parts: of every class in every frame, and SMITE's scores; auto = semi_supervised where a "
        "first-frame mask was carried along, parts of segments that were shown",
    )
    ignore_below: float = param(
        0.0, "pixels whose label is less sure than this are not scored; needs upsample.confidence", low=0.0, high=1.0
    )
    parity: EvaluateParity = EvaluateParity()


@dataclass(frozen=True)
class RenderParams:
    """Section `render`."""

    opacity: float = param(0.55, "how much of the picture the labels hide: 0 = nothing, 1 = all", low=0.0, high=1.0)
    extras: bool = param(True, "feature PCA, x-t slices and the sheet of confidence")
    slice_row: float = param(0.5, "row of the x-t slices: 0 = top, 1 = bottom", low=0.0, high=1.0)
    report: bool = param(True, "report.html, one page to look at in a browser")
    labels: bool = param(True, "label PNGs, a file per frame; without, labels.zarr alone has them, for `vidseg export`")

"""The sections of params.yaml by name."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

from pipeline.parameters.clips import CorrespondParams, ExtractParams, IngestParams
from pipeline.parameters.declare import declared
from pipeline.parameters.diffusion import BackboneParams, DiffusionParams
from pipeline.parameters.fewshot import ApplyParams, GuidanceParams, LearnParams, MapsParams, TrackParams
from pipeline.parameters.results import EvaluateParams, RenderParams
from pipeline.parameters.segmentation import SegmentParams
from pipeline.parameters.upsampling import UpsampleParams

#: The sections of params.yaml.
SECTIONS: dict[str, type] = {
    "backbone": BackboneParams,
    "diffusion": DiffusionParams,
    "ingest": IngestParams,
    "extract": ExtractParams,
    "correspond": CorrespondParams,
    "segment": SegmentParams,
    "upsample": UpsampleParams,
    "maps": MapsParams,
    "learn": LearnParams,
    "track": TrackParams,
    "guidance": GuidanceParams,
    "apply": ApplyParams,
    "evaluate": EvaluateParams,
    "render": RenderParams,
}


@cache
def renamed() -> Mapping[str, str]:
    """Flat names of earlier versions, which stores still have, to names: `upsample.blur` to `upsample.parity.blur`."""
    return {
        f"{section}.{one.stored}": f"{section}.{name}"
        for section, kind in SECTIONS.items()
        for name, one in declared(kind).items()
        if one.stored != name
    }

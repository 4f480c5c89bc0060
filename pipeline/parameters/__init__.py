"""Every parameter, declared once: a frozen dataclass per section of params.yaml, with groups of what is rarely changed.

The library takes these classes as they are. Nothing heavy is imported here.
"""

from pipeline.parameters.clips import (
    MOST_FPS,
    CorrespondParams,
    CorrespondParity,
    ExtractParams,
    ExtractParity,
    IngestParams,
)
from pipeline.parameters.declare import Declared, choices, declared, flat, groups, of_stored, param
from pipeline.parameters.diffusion import BackboneParams, DiffusionParams, DiffusionVideo
from pipeline.parameters.fewshot import (
    ApplyParams,
    ApplyParity,
    GuidanceLowPass,
    GuidanceParams,
    GuidanceVote,
    LearnAugment,
    LearnParams,
    LearnParity,
    MapsParams,
    TrackParams,
    check_odd,
)
from pipeline.parameters.results import EvaluateParams, EvaluateParity, RenderParams
from pipeline.parameters.sections import SECTIONS, renamed
from pipeline.parameters.segmentation import EncoderWeight, MemoryPolicy, SegmentParams, SegmentParity, parse_memory
from pipeline.parameters.upsampling import UpsampleFast, UpsampleParams, UpsampleParity, UpsampleVideo

__all__ = [
    "MOST_FPS",
    "SECTIONS",
    "ApplyParams",
    "ApplyParity",
    "BackboneParams",
    "CorrespondParams",
    "CorrespondParity",
    "Declared",
    "DiffusionParams",
    "DiffusionVideo",
    "EncoderWeight",
    "EvaluateParams",
    "EvaluateParity",
    "ExtractParams",
    "ExtractParity",
    "GuidanceLowPass",
    "GuidanceParams",
    "GuidanceVote",
    "IngestParams",
    "LearnAugment",
    "LearnParams",
    "LearnParity",
    "MapsParams",
    "MemoryPolicy",
    "RenderParams",
    "SegmentParams",
    "SegmentParity",
    "TrackParams",
    "UpsampleFast",
    "UpsampleParams",
    "UpsampleParity",
    "UpsampleVideo",
    "check_odd",
    "choices",
    "declared",
    "flat",
    "groups",
    "of_stored",
    "param",
    "parse_memory",
    "renamed",
]

"""From the weights of a model to a backbone that is ready to run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.backbone.catalogue import family_of

if TYPE_CHECKING:
    import torch

    from pipeline.backbone.base import Backbone
    from pipeline.backbone.family import WeightsSource


def load_model(source: WeightsSource, dtype: torch.dtype, device: torch.device) -> Backbone:
    """Load a backbone.

    Raises:
        WeightsError: a file is missing or damaged, or the model predicts something else than its family does.
    """
    backbone: Backbone = family_of(source.name).builder().load(source, dtype, device)
    return backbone

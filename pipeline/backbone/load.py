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


def load_autoencoder(source: WeightsSource, device: torch.device) -> Backbone:
    """A backbone that encodes and decodes only: its denoiser has shapes, but no weights.

    Raises:
        WeightsError: as `load_model`.
    """
    import torch

    from pipeline.backbone.networks import frozen

    builder = family_of(source.name).builder()
    shapes = builder.outline(source.name, source.path, torch.float32)
    denoiser, _, *others = builder.networks(shapes)
    autoencoder = frozen(builder.autoencoder(source.path).to(device))
    backbone: Backbone = builder.rebuilt(shapes, denoiser, autoencoder, *others)
    backbone.fingerprint = source.sha256
    return backbone

"""A backbone without weights: its networks' shapes on torch's meta device, for counting what a run costs."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.backbone.catalogue import family_of
from pipeline.backbone.locate import check_family
from pipeline.backbone.networks import frozen

if TYPE_CHECKING:
    import torch

    from pipeline.backbone.base import Backbone


def outline(name: str, path: Path | None, dtype: torch.dtype) -> Backbone:
    """The networks of a backbone on the meta device.

    Args:
        path: its folder or checkpoint; what this does not say, or None, is that of the published model.

    Raises:
        WeightsError: it is a model of another family, its configuration is damaged, or its parts do not fit.
    """
    if path is not None:
        check_family(name, path)
    backbone: Backbone = family_of(name).builder().outline(name, path, dtype)
    return backbone


def networks(outline: Backbone) -> tuple[Any, ...]:
    """All networks that a run of the backbone keeps in memory."""
    return family_of(outline.name).builder().networks(outline)


def filled(outline: Backbone, device: torch.device) -> Backbone:
    """The backbone with its networks on a device, and weights that mean nothing, for timing."""
    copies = (_filled(network, device) for network in networks(outline))
    backbone: Backbone = family_of(outline.name).builder().rebuilt(outline, *copies)
    return backbone


def _filled(network: Any, device: torch.device) -> Any:
    network = copy.deepcopy(network).to_empty(device=device)
    for parameter in network.parameters():
        parameter.data.fill_(1e-3)
    return frozen(network)

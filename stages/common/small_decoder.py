"""From the section `upsample` to the small decoder that it names."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import UsageError, WeightsError
from pipeline.parameters import BackboneParams, UpsampleParams
from stages.common import backbones

if TYPE_CHECKING:
    from pipeline.backbone.small_decoder import SmallDecoder


def small_decoder(params: UpsampleParams, backbone: BackboneParams) -> SmallDecoder | None:
    """The small decoder, where the parameters use it.

    Raises:
        UsageError: they do not say which, and the backbone's folder has none.
        WeightsError: it cannot be loaded.
    """
    folder = _small_decoder_folder(params, backbone)
    if folder is None:
        return None
    from pipeline.backbone.small_decoder import load_small_decoder

    return load_small_decoder(folder, backbones.choose_device())


def small_decoder_hash(params: UpsampleParams, backbone: BackboneParams) -> str | None:
    """Hash of the small decoder's weights, where the parameters use it, without loading them.

    Raises:
        UsageError: they do not say which, and the backbone's folder has none.
        WeightsError: it has no weights.
    """
    from pipeline.backbone.files import small_decoder_fingerprint

    folder = _small_decoder_folder(params, backbone)
    return None if folder is None else small_decoder_fingerprint(folder)


def _small_decoder_folder(params: UpsampleParams, backbone: BackboneParams) -> Path | None:
    if not decodes_small(params):
        return None
    folder = backbones.small_decoder_folder(params.fast.small_decoder, backbone)
    if folder is None:
        raise UsageError(
            "upsample.fast.decode = small needs upsample.fast.small_decoder: a folder with an AutoencoderTiny for this "
            "backbone's latents (for SD 2.1: hf download madebyollin/taesd --local-dir FOLDER; "
            "for a model of your own: vidseg pretrain-small-decoder)"
        )
    return folder


def decodes_small(params: UpsampleParams) -> bool:
    """Whether the parameters use a small decoder."""
    return params.method == "modulation" and params.mode == "fast" and params.fast.decode == "small"


def small_decoder_config(params: UpsampleParams, backbone: BackboneParams) -> dict[str, Any]:
    """The small decoder's configuration, for counting; empty where none is used, or none is on this machine."""
    from pipeline.backbone.small_decoder import read_config

    if not decodes_small(params):
        return {}
    try:
        folder = backbones.small_decoder_folder(params.fast.small_decoder, backbone)
    except WeightsError:
        return {}
    return read_config(folder) if folder is not None else {}

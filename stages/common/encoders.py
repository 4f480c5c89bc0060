"""From `extract.encoder` to an image encoder: where it lies, its hash, its entry in backbone.lock."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.encoder.locate import EMBEDDED, PREPROCESSING, identify
from pipeline.errors import UsageError, WeightsError
from pipeline.parameters import BackboneParams, ExtractParams
from stages.common import backbones, cli
from stages.common.resources import resource

if TYPE_CHECKING:
    import torch

    from pipeline.encoder.base import Encoder
    from pipeline.encoder.locate import EncoderSource
    from stages.common.settings import Settings

#: Folder of the encoder within a backbone's.
FOLDER = "encoder"
#: Sections of the stages that read an encoder's features.
READERS = ("segment", "correspond", "track")
_ADD_ENCODER = f"extract.encoder={EMBEDDED}"


def find(params: ExtractParams, backbone: BackboneParams) -> EncoderSource | None:
    """Locate and hash the encoder that the parameters name, without loading it; None for `none`.

    Raises:
        UsageError: only its features are wanted, and there is none.
        WeightsError: it is missing; the message has the command that gets it.
    """
    if params.encoder != "none":
        folder, of_backbone = _folder(params.encoder, backbone)
        return identify(params.encoder, folder, of_backbone)
    if params.parts == "encoder":
        raise UsageError(f"extract.parts is encoder, but extract.encoder is none; set {_ADD_ENCODER}, or parts to both")
    return None


def _folder(name: str, backbone: BackboneParams) -> tuple[Path, bool]:
    """Where the encoder lies, and whether a backbone that we do not ship brought it."""
    if name != EMBEDDED:
        return Path(name).expanduser(), False
    embedded = resource("models") / "compact" / FOLDER
    with suppress(WeightsError):
        own = backbones.located(backbone) / FOLDER
        if own.is_dir():
            return own, own != embedded
    return embedded, False


def with_effect(params: ExtractParams, source: EncoderSource | None) -> ExtractParams:
    """The parameters of extract without those that change nothing, for what stores and fingerprints say.

    An encoder's maps and scale are of the embedded network, a margin's width is of frames that have one; and where a
    folder lies is no part of what was made: the encoder's hash is.
    """
    neutral: dict[str, Any] = {"encoder": Path(params.encoder).name}
    if source is None or not source.is_embedded:
        neutral |= {"encoder_maps": ExtractParams.encoder_maps, "encoder_scale": ExtractParams.encoder_scale}
    if params.padding == "none":
        neutral |= {"padding_pixels": ExtractParams.padding_pixels}
    return replace(params, **neutral)


def warn_of_guesses(source: EncoderSource) -> None:
    """Say that colours are normalised by a guess where a model's own configuration is not there."""
    file = source.folder / PREPROCESSING
    if not source.is_embedded and not file.is_file():
        cli.warn(
            f"{file} is missing: colours are normalised by 0.5, which is right for SigLIP and wrong for DINO; fetch it"
        )


def loaded(settings: Settings, device: torch.device) -> Encoder | None:
    """The encoder that the parameters name, on a device; None for `none`."""
    from pipeline.encoder.load import load_encoder

    source = find(settings["extract"], settings["backbone"])
    return None if source is None else load_encoder(source, settings["extract"], device)


def check_lock(settings: Settings) -> None:
    """Refuse another encoder than the locked one; WeightsError names the remedy."""
    source = find(settings["extract"], settings["backbone"])
    backbones.check_part_lock("encoder", source.sha256 if source else None)


def check_weights(settings: Settings, sections: Sequence[str] = READERS) -> None:
    """Refuse weights of features that extract is not to write: hours may lie between.

    Args:
        sections: of the stages that are to read the features; `track` reads them with `track.method=features` only.

    Raises:
        UsageError: names the parameters.
    """
    extract = settings["extract"]
    reading = [section for section in sections if section != "track" or settings[section].method == "features"]
    weights = {f"{section}.encoder_weight": settings[section].encoder_weight for section in reading}
    if extract.encoder == "none":
        unfit = {name: weight for name, weight in weights.items() if weight != 0}
        why, fit, instead = "extract.encoder is none", "0", _ADD_ENCODER
    elif extract.parts == "encoder":
        unfit = {name: weight for name, weight in weights.items() if weight != "only"}
        why = "extract.parts is encoder, which leaves out the diffusion model's features"
        fit, instead = "only", "extract.parts=both"
    else:
        return
    if unfit:
        given = " and ".join(f"{name} is {weight}" for name, weight in unfit.items())
        remedy = " and ".join(f"{name}={fit}" for name in unfit)
        raise UsageError(f"{given}, but {why}; set {remedy}, or {instead}")

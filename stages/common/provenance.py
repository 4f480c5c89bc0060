"""Refuse stores and parameters that do not belong together."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import DataError
from pipeline.parameters import BackboneParams, DiffusionParams, renamed
from stages.common.backbones import dtype_name
from stages.common.settings import plain

if TYPE_CHECKING:
    from pipeline.backbone import Backbone
    from pipeline.stores.store import Store
    from stages.common.settings import Settings


def check_latents(latents: Store, clip: Store) -> None:
    """Stores of different clips may agree in every shape: their fingerprints tell.

    Raises:
        DataError: the latents are of another clip.
    """
    if latents.attrs.get("clip") != clip.fingerprint:
        raise DataError(f"{latents.path} does not belong to {clip.path}; run `vidseg extract` for this clip")


def check_of_clip(store: Store, clip: Store) -> None:
    """Refuse a store that says of which clip it is, if that is another.

    Raises:
        DataError: names the stage to run.
    """
    if store.attrs.get("clip", clip.fingerprint) != clip.fingerprint:
        raise DataError(f"{store.path} does not belong to {clip.path}; run `vidseg {store.stage}` for this clip")


def check_coarse(coarse: Store, latents: Store) -> None:
    """Coarse labels must have been made from the features that lie beside the latents.

    Raises:
        DataError: they were made from other features than those that were computed with the latents.
    """
    if coarse.attrs.get("features") != latents.fingerprint:
        raise DataError(f"{coarse.path} does not belong to {latents.path}; run `vidseg segment` for this clip")


def check_same_weights(latents: Store, backbone: BackboneParams, weights_hash: str) -> None:
    """Latents must have been made with the weights that go on with them.

    Raises:
        DataError: names both.
    """
    if latents.attrs["backbone"] != weights_hash:
        raise DataError(
            f"{latents.path} was made with other weights ({latents.params['backbone']['name']} "
            f"{latents.attrs['backbone'][:12]}) than backbone.name = '{backbone.name}' now has "
            f"({weights_hash[:12]}); run `vidseg extract` with these parameters first"
        )


def check_same_diffusion(
    latents: Store, diffusion: DiffusionParams, backbone: BackboneParams, weights_hash: str
) -> None:
    """The modulated passes continue extract's clean pass, so model, precision, schedule and noise must be extract's.

    Raises:
        DataError: names what differs.
    """
    check_same_weights(latents, backbone, weights_hash)
    now = {f"diffusion.{key}": value for key, value in plain(diffusion).items() if key != "batch"}
    made = {f"diffusion.{key}": value for key, value in latents.params["diffusion"].items()}
    now["backbone.dtype"], made["backbone.dtype"] = dtype_name(backbone), latents.params["backbone"]["dtype"]
    for key, value in now.items():
        if made.get(key, value) != value:  # an older store lacks what came later and does not concern it
            raise DataError(
                f"{latents.path} was made with {renamed().get(key, key)} = {made[key]}, now it is {value}; "
                "run `vidseg extract` with these parameters first"
            )


def stored_window(latents: Store) -> int:
    """The frames that were seen together when the latents were made."""
    return latents.params["extract"].get("window") or 1


def check_same_window(latents: Path, settings: Settings) -> None:
    """A video model's features depend on the window, so upsampling must be asked for the same.

    Raises:
        DataError: the latents were made with another window length.
    """
    from pipeline.stores.schemas import LATENTS
    from pipeline.stores.store import open_store

    made, now = stored_window(open_store(latents, LATENTS)), settings["extract"].frames_together
    if settings["upsample"].method == "modulation" and made != (now or 1):
        raise DataError(
            f"{latents} was made with extract.frames_together = {made}, now it is {now or 'null'}; "
            "run `vidseg extract` with these parameters first"
        )


def check_backbone(settings: Settings, backbone: Backbone) -> None:
    """Refuse parameters of another kind of model.

    Raises:
        UsageError: names the parameter.
    """
    from pipeline.features.windows import check_window
    from pipeline.upsampling.rules import Rules

    check_window(settings["extract"].frames_together, backbone)
    if settings["upsample"].method == "modulation":
        Rules(settings["diffusion"], settings["upsample"]).check_backbone(backbone)

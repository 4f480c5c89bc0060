"""clip.zarr, latents.zarr, coarse.zarr -> labels.zarr: labels at the source's full resolution."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline.errors import DataError, UsageError, WeightsError
from pipeline.parameters import BackboneParams, DiffusionParams, UpsampleParams, renamed
from stages.common import cli
from stages.common.layout import EVERY_SHARD, Out, item_key, parse_shards, place, scratch_of, videos_of
from stages.common.resources import stage_version
from stages.common.settings import load, plain

if TYPE_CHECKING:
    import numpy as np

    from pipeline.backbone import Backbone
    from pipeline.backbone.small_decoder import SmallDecoder
    from pipeline.features.windows import Pass
    from pipeline.stores.store import Store
    from pipeline.upsampling.rules import Rules
    from pipeline.upsampling.upsample import Inputs
    from stages.common.backbones import Model
    from stages.common.settings import Settings


def run(
    clip: Path,
    latents: Path,
    coarse: Path,
    out: Out,
    params: UpsampleParams,
    diffusion: DiffusionParams,
    backbone_params: BackboneParams,
    given: Backbone | Model | None = None,
    shards: slice = EVERY_SHARD,
    progress: cli.Progress = cli.progress,
) -> Path:
    """Upsample one clip's coarse labels; returns the path of labels.zarr.

    Args:
        given: the backbone, of callers that have it at hand; None: the one that the parameters name.
        shards: only those, by number; the store appears when the last shard is written, by whichever process.
    """
    from pipeline.stores import shard_claims
    from pipeline.stores.schemas import CLIP, COARSE, LABELS, LATENTS, ArraySpec
    from pipeline.stores.store import fingerprint, is_current, open_store, shard_frames
    from pipeline.stores.writer import StoreWriter
    from pipeline.upsampling.rules import Rules
    from stages.common import backbones

    modulates, rules = params.method == "modulation", Rules(diffusion, params)
    if modulates:
        rules.check()
    frames_store = open_store(clip, CLIP)
    latents_store = open_store(latents, LATENTS)
    coarse_store = open_store(coarse, COARSE)
    check_latents(latents_store, frames_store)
    check_coarse(coarse_store, latents_store)
    stored = {"upsample": plain(params)}
    small_mark = small_decoder_hash(params, backbone_params)
    model = backbones.model_of(backbone_params, given) if modulates else None
    if model is not None:
        check_same_diffusion(latents_store, diffusion, backbone_params, model.fingerprint)
        stored["diffusion"] = plain(diffusion)
    total, size = frames_store.frames("frames"), tuple(frames_store.attrs["source_size"])
    mark = fingerprint(
        "upsample", stage_version("upsample"), stored, model and model.fingerprint, frames_store.fingerprint,
        size, coarse_store.fingerprint, latents_store.fingerprint if modulates else None,
        *([small_mark] if small_mark else []),
    )  # fmt: skip
    path = out / "labels.zarr"
    if is_current(path, LABELS, mark):
        return path
    modulation = None
    if model is not None:
        # Only now: this imports torch, which takes seconds.
        small, backbone = small_decoder(params, backbone_params), model.load()
        rules.check_backbone(backbone)
        modulation = _Modulation(frames_store, latents_store, coarse_store, size, rules, backbone, small)
    dtype = str(coarse_store.array("refined").dtype)
    writer = StoreWriter(
        path,
        scratch_of(out),
        LABELS,
        mark,
        {"labels": ArraySpec((total, *size), dtype, shard_frames(coarse_store.array("refined")))},
        params={**coarse_store.params, **stored},
        backbone=coarse_store.attrs.get("backbone"),
        attrs={"clip": frames_store.fingerprint, "names": frames_store.attrs["names"]},
    )
    writers = (writer,)
    with progress("upsample", sum(len(shard) for shard in shard_claims.lacking(writers, shards))) as advance:
        for shard in shard_claims.claimed(writers, shards):
            if modulation is not None:
                labels = modulation.labels(shard, advance)
            else:
                labels = _interpolated(shard, frames_store, coarse_store, size, params, advance)
            writer.write("labels", shard.start, labels.astype(dtype))
    if left := shard_claims.lacking(writers):
        cli.note(f"upsample: {len(left)} of {len(writer.shards())} shards are still to be written")
        return path
    return writer.commit()


def inputs_of(
    clip: Store, latents: Store, planes: np.ndarray, frames: range, diffusion: DiffusionParams, backbone: Backbone
) -> Inputs:
    """What the frames of a pass with coarse labels (f, h, w) are upsampled from; denoising starts as in `extract`."""
    import torch

    from pipeline.features.diffusion import add_noise, condition, draw_noise
    from pipeline.upsampling.upsample import Inputs

    clean = torch.from_numpy(latents.read("latents", frames.start, frames.stop)).to(backbone.device)
    indices = latents.attrs["source_indices"][frames.start : frames.stop]
    noise = draw_noise(diffusion, indices, tuple(clean.shape[1:]))  # type: ignore[arg-type]
    images = clip.read("frames", frames.start, frames.stop)
    start = add_noise(clean, noise.epsilon, diffusion, backbone)
    return Inputs(start, planes, images, condition(backbone, images[0], indices[0], diffusion))


@dataclass(frozen=True)
class _Modulation:
    """What upsamples one clip by modulation: its stores, the source's size (H0, W0), the rules, the networks."""

    clip: Store
    latents: Store
    coarse: Store
    size: tuple[int, int]
    rules: Rules
    backbone: Backbone
    small: SmallDecoder | None

    def labels(self, shard: range, advance: cli.Advance) -> np.ndarray:
        """Labels (f, H0, W0) of a shard, in the passes in which `extract` saw it: the start is the same."""
        import numpy as np

        from pipeline.features.windows import passes_of

        labels = []
        for each in passes_of(shard, self.backbone, stored_window(self.latents), self.rules.diffusion.batch):
            labels += self._pass(each)
            advance(len(each.asked))
        return np.stack(labels)

    def _pass(self, each: Pass) -> list[np.ndarray]:
        """Labels (H0, W0) of the frames that are asked for of a pass."""
        from pipeline.features import micro_batches
        from pipeline.features.windows import pass_limit
        from pipeline.upsampling.responses import Passes
        from pipeline.upsampling.upsample import upsample

        rules, backbone = self.rules, self.backbone
        planes = self.coarse.read("refined", each.frames.start, each.frames.stop)
        inputs = inputs_of(self.clip, self.latents, planes, each.frames, rules.diffusion, backbone)
        together, batch = min(stored_window(self.latents), len(planes)), rules.upsample.batch
        limit = pass_limit(together, rules.diffusion.batch)

        def work(sizes: micro_batches.Sizes) -> list[np.ndarray]:
            (frames,) = (sizes[name] for name in limit)
            passes = Passes(sizes.get("upsample.batch", batch), min(together, frames), each.first, self.small)
            return [frame.labels for frame in upsample(backbone, inputs[:frames], self.size, rules, passes)]

        # A batch of less than two windows is one window.
        sizes = {"upsample.batch": batch} if batch >= 2 * together else {}
        return micro_batches.compute(work, {**sizes, **limit})


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
    from stages.common.backbones import choose_device

    return load_small_decoder(folder, choose_device())


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
    from stages.common.backbones import small_decoder_folder

    if not decodes_small(params):
        return None
    folder = small_decoder_folder(params.fast.small_decoder, backbone)
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
    """Its configuration, for counting; empty where none is used, or none is on this machine."""
    from pipeline.backbone.small_decoder import read_config
    from stages.common.backbones import small_decoder_folder

    if not decodes_small(params):
        return {}
    try:
        folder = small_decoder_folder(params.fast.small_decoder, backbone)
    except WeightsError:
        return {}
    return read_config(folder) if folder is not None else {}


def _interpolated(
    shard: range, clip: Store, coarse: Store, size: tuple[int, int], params: UpsampleParams, advance: cli.Advance
) -> np.ndarray:
    import numpy as np

    from pipeline.upsampling.difference import resize_image
    from pipeline.upsampling.interpolation import METHODS

    results = []
    for frame in shard:
        guide = resize_image(clip.read("frames", frame, frame + 1)[0], size)
        results.append(METHODS[params.method](coarse.read("refined", frame, frame + 1)[0], guide))
        advance(1)
    return np.stack(results)


def check_latents(latents: Store, clip: Store) -> None:
    """Stores of different clips may agree in every shape: their fingerprints tell.

    Raises:
        DataError: the latents are of another clip.
    """
    if latents.attrs.get("clip") != clip.fingerprint:
        raise DataError(f"{latents.path} does not belong to {clip.path}; run `vidseg extract` for this clip")


def check_coarse(coarse: Store, latents: Store) -> None:
    """Coarse labels must have been made from the features that lie beside the latents.

    Raises:
        DataError: they were made from other features than those that were computed with the latents.
    """
    if coarse.attrs.get("features") != latents.fingerprint:
        raise DataError(f"{coarse.path} does not belong to {latents.path}; run `vidseg segment` for this clip")


def check_same_diffusion(
    latents: Store, diffusion: DiffusionParams, backbone: BackboneParams, weights_hash: str
) -> None:
    """The modulated passes continue extract's clean pass, so model, precision, schedule and noise must be extract's.

    Raises:
        DataError: names what differs.
    """
    from stages.common.backbones import dtype_name

    if latents.attrs["backbone"] != weights_hash:
        raise DataError(
            f"{latents.path} was made with other weights ({latents.params['backbone']['name']} "
            f"{latents.attrs['backbone'][:12]}) than backbone.name = '{backbone.name}' now has "
            f"({weights_hash[:12]}); run `vidseg extract` with these parameters first"
        )
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


def run_item(item: str, params_file: Path | None, sets: list[str] | None, shards: slice = EVERY_SHARD) -> None:
    """Upsample every video of an item, loading the backbone once and only if it is needed."""
    from stages.common import backbones

    settings = load(params_file, sets or ())
    key, model = item_key(item), None
    if settings["upsample"].method == "modulation":
        model = backbones.locked(settings["backbone"])
        small = small_decoder_hash(settings["upsample"], settings["backbone"])
        if small is not None:
            backbones.check_small_decoder_lock(small)
    for video in videos_of(key):
        check_same_window(place("extract", key, video) / "latents.zarr", settings)
        run(
            place("ingest", key, video) / "clip.zarr",
            place("extract", key, video) / "latents.zarr",
            place("segment", key, video) / "coarse.zarr",
            place("upsample", key, video),
            settings["upsample"],
            settings["diffusion"],
            settings["backbone"],
            model,
            shards,
        )


app = cli.new_app("Upsample coarse labels to the source's size: clip, latents, coarse -> labels.zarr.")


@app.command()
def main(
    clip: Annotated[Path | None, typer.Argument(help="clip.zarr of ingest")] = None,
    latents: Annotated[Path | None, typer.Argument(help="latents.zarr of extract")] = None,
    coarse: Annotated[Path | None, typer.Argument(help="coarse.zarr of segment")] = None,
    out_dir: Annotated[Path | None, typer.Argument(help="folder for labels.zarr")] = None,
    params: cli.ParamsOption = None,
    set_: cli.SetOption = None,
    item: cli.ItemOption = None,
    shards: cli.ShardsOption = None,
) -> None:
    """Upsample coarse labels to the source's size: clip, latents, coarse -> labels.zarr.

    Example: vidseg upsample work/clip.zarr work/latents.zarr work/coarse.zarr work --set upsample.method=bilinear
    """
    part = parse_shards(shards)
    if clip and latents and coarse and out_dir:
        settings = load(params, set_ or ())
        check_same_window(latents, settings)
        sections = settings["upsample"], settings["diffusion"], settings["backbone"]
        run(clip, latents, coarse, out_dir, *sections, shards=part)
    elif item is not None:
        run_item(item, params, set_, part)
    else:
        raise UsageError("give CLIP, LATENTS, COARSE and OUT_DIR, or --item KEY")


if __name__ == "__main__":
    cli.run_app(app)

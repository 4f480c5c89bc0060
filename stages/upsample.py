"""clip.zarr, latents.zarr, coarse.zarr -> labels.zarr: labels at the source's full resolution."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline.errors import DataError, UsageError, WeightsError
from stages import cli
from stages.layout import EVERY_SHARD, Out, item_key, parse_shards, place, scratch_of, videos_of
from stages.resources import stage_version
from stages.settings import BackboneParams, DiffusionParams, load, param, plain

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from pipeline.artifacts import Store
    from pipeline.backbone import Backbone
    from pipeline.backbone.small_decoder import SmallDecoder
    from pipeline.diffusion import DiffusionSettings
    from pipeline.fast import FastSettings
    from pipeline.modulation import ModulationSettings
    from pipeline.upsampling import MapSettings


@dataclass(frozen=True)
class Params:
    """Section `upsample`."""

    method: str = param(
        "modulation",
        "masked modulation, or interpolation of the coarse map",
        choices=("modulation", "bilinear", "nearest", "joint_bilateral"),
    )
    strength: float = param(50.0, "lambda of Eq. 2; 10 without blending", low=0.0)
    block: int = param(7, "b_m: decoder block whose attention is modulated", low=3, high=11)
    modulate_step: int = param(22, "t_m: step at which it is modulated", low=0)
    offset: str = param("after", "offset after or inside the output projection", choices=("after", "inside"))
    blend: bool = param(True, "latent blending (Eq. 6)")
    blend_last_step: int = param(23, "last step that is blended", low=0)
    mask_resize: str = param("bilinear", "enlargement of masks to the latents", choices=("bilinear", "nearest"))
    inject: bool = param(True, "queries and keys of blocks 3-11 from the clean pass")
    difference: str = param("squared", "squared or root norm; wrapped = the authors' 8-bit maps",
                            choices=("squared", "root", "wrapped"))  # fmt: skip
    blur: bool = param(True, "5x5 Gaussian blur of difference maps")
    normalize: bool = param(True, "difference maps divided by their own maximum")
    filter: float = param(0.7, "s of Eq. 7; 1 = unfiltered", low=0.0, high=1.0)
    filter_resize: str = param("bilinear", "enlargement of masks in Eq. 7", choices=("bilinear", "lanczos"))
    batch: int = param(
        8, "modulated samples per pass; a video model's are whole windows of frames, at least one", low=1
    )
    attention: str = param(
        "cross_spatial",
        "which attention of the block is modulated; image models have the first only",
        choices=("cross_spatial", "self_spatial", "self_temporal", "self_spatial_temporal"),
    )
    decode: str = param(
        "single", "video models: frames decoded alone, or a window's together", choices=("single", "joint")
    )
    mode: str = param(
        "exact", "exact, or fast: the approximations that the parameters fast_* choose", choices=("exact", "fast")
    )
    fast_guidance: float | None = param(
        1.0, "guidance of upsampling, a video model's at a window's last frame; null = diffusion.guidance", low=0.0
    )
    fast_signs: str = param("both", "I+ against I-, or plus: against the clean image", choices=("both", "plus"))
    fast_steps: int = param(2, "steps that are run from modulate_step on, evenly spread", low=1)
    fast_groups: str = param(
        "labels",
        "modulated in one pass: a single label, labels that do not touch, connected parts of labels that do not touch; "
        "a video model's do not in any frame of the window",
        choices=("single", "labels", "parts"),
    )
    fast_gap: int = param(2, "tokens between what is modulated in one pass", low=1)
    fast_decode: str = param(
        "latent",
        "full images, the box around the label, the small decoder, or none: latents enlarged along the image's edges",
        choices=("full", "box", "small", "latent"),
    )
    fast_small_decoder: str | None = param(
        None,
        "folder of the small decoder (diffusers' AutoencoderTiny) for this backbone's latents; null = small_decoder/ "
        "in the backbone's folder",
    )
    fast_deep: str = param(
        "clean", "deep features after modulate_step: own, or the clean pass's", choices=("own", "clean")
    )


def run(
    clip: Path,
    latents: Path,
    coarse: Path,
    out: Out,
    params: Params,
    diffusion: DiffusionParams,
    backbone_params: BackboneParams,
    backbone: Backbone | None = None,
    shards: slice = EVERY_SHARD,
) -> Path:
    """Upsample one clip's coarse labels; returns the path of labels.zarr.

    Args:
        shards: only those, by number; the store appears when the last shard is written, by whichever process.
    """
    from pipeline import artifacts, shard_claims
    from stages import backbones
    from stages.backbones import diffusion_settings
    from stages.windows import check_upsampling, stored_window, upsample_shard

    if params.method == "modulation":
        modulation_settings(params).check(diffusion_settings(diffusion))
    frames_store = artifacts.open_store(clip, artifacts.CLIP)
    latents_store = artifacts.open_store(latents, artifacts.LATENTS)
    coarse_store = artifacts.open_store(coarse, artifacts.COARSE)
    check_latents(latents_store, frames_store)
    check_coarse(coarse_store, latents_store)
    modulates = params.method == "modulation"
    shown = {"upsample": plain(params)}
    weights_hash = None
    small = small_decoder(params, backbone_params)
    if modulates:
        source = backbones.find(backbone_params) if backbone is None else None
        weights_hash = source.sha256 if source else backbone.fingerprint  # type: ignore[union-attr]
        check_same_diffusion(latents_store, diffusion, backbone_params, weights_hash)
        shown["diffusion"] = plain(diffusion)
    total, size = frames_store.frames("frames"), tuple(frames_store.attrs["source_size"])
    mark = artifacts.fingerprint(
        "upsample", stage_version("upsample"), shown, weights_hash, frames_store.fingerprint,
        size, coarse_store.fingerprint, latents_store.fingerprint if modulates else None,
        *([small.fingerprint] if small else []),
    )  # fmt: skip
    path = out / "labels.zarr"
    if artifacts.is_current(path, artifacts.LABELS, mark):
        return path
    if modulates and backbone is None:
        backbone = backbones.load_backbone(backbone_params, source)
    if modulates:
        check_upsampling(params, backbone)  # type: ignore[arg-type]
    window = stored_window(latents_store) if modulates else None
    dtype = str(coarse_store.array("refined").dtype)
    writer = artifacts.StoreWriter(
        path,
        scratch_of(out),
        artifacts.LABELS,
        mark,
        {
            "labels": artifacts.ArraySpec(
                (total, *size), dtype, window or artifacts.shard_frames(coarse_store.array("refined"))
            )
        },
        params={**coarse_store.params, **shown},
        backbone=coarse_store.attrs.get("backbone"),
        attrs={"clip": frames_store.fingerprint, "names": frames_store.attrs["names"]},
    )
    writers = (writer,)
    with cli.progress("upsample", sum(len(shard) for shard in shard_claims.lacking(writers, shards))) as advance:
        for shard in shard_claims.claimed(writers, shards):
            if window is not None:
                assert backbone is not None
                labels = upsample_shard(
                    frames_store, latents_store, coarse_store, shard, window, size, backbone,
                    diffusion_settings(diffusion), params, small,
                )  # fmt: skip
                advance(len(shard))
            elif modulates:
                assert backbone is not None
                stores = frames_store, latents_store, coarse_store
                labels = _modulated(shard, *stores, size, params, diffusion, backbone, small, advance)
            else:
                labels = _interpolated(shard, frames_store, coarse_store, size, params, advance)
            writer.write("labels", shard.start, labels.astype(dtype))
    if left := shard_claims.lacking(writers):
        cli.note(f"upsample: {len(left)} of {len(writer.shards())} shards are still to be written")
        return path
    return writer.commit()


def noisy_latents(latents: Store, frames: range, diffusion: DiffusionSettings, backbone: Backbone) -> Tensor:
    """(b, 4, h, w): what denoising started from in `extract`, from the stored latents."""
    import torch

    from pipeline.diffusion import add_noise, draw_noise

    clean = torch.from_numpy(latents.read("latents", frames.start, frames.stop)).to(backbone.device)
    indices = latents.attrs["source_indices"][frames.start : frames.stop]
    noise = draw_noise(diffusion, indices, tuple(clean.shape[1:]))  # type: ignore[arg-type]
    return add_noise(clean, noise.epsilon, diffusion, backbone)


def _modulated(
    shard: range,
    clip: Store,
    latents: Store,
    coarse: Store,
    size: tuple[int, int],
    params: Params,
    diffusion: DiffusionParams,
    backbone: Backbone,
    small: SmallDecoder | None,
    advance: cli.Advance,
) -> np.ndarray:
    import numpy as np

    from pipeline import micro_batches
    from pipeline.fast import upsample_fast
    from pipeline.upsampling import upsample
    from pipeline.window_upsampling import WindowPasses
    from stages.backbones import diffusion_settings

    steps, modulation = diffusion_settings(diffusion), modulation_settings(params)
    maps, fast = map_settings(params), fast_settings(params)
    sizes = {"upsample.batch": params.batch, "diffusion.batch": diffusion.batch}
    results = []
    # The same groups of frames as in extract, so that the clean pass is the same to the last bit.
    for first in range(shard.start, shard.stop, diffusion.batch):
        last = min(first + diffusion.batch, shard.stop)
        start = noisy_latents(latents, range(first, last), steps, backbone)
        planes = coarse.read("refined", first, last)

        def work(
            sizes: micro_batches.Sizes,
            start: Tensor = start,
            planes: np.ndarray = planes,
            frames: tuple[int, int] = (first, last),
        ) -> list[np.ndarray]:
            part, batch = slice(sizes["diffusion.batch"]), sizes["upsample.batch"]
            if fast is None:
                labelled = upsample(backbone, start[part], planes[part], size, steps, modulation, maps, batch)
            else:
                guides = clip.read("frames", *frames)
                passes = WindowPasses(batch)
                rules = steps, modulation, maps, fast
                labelled = upsample_fast(backbone, start[part], planes[part], guides[part], size, *rules, passes, small)
            return [frame.labels for frame in labelled]

        results += micro_batches.compute(work, sizes)
        advance(last - first)
    return np.stack(results)


def fast_settings(params: Params) -> FastSettings | None:
    """The library's settings for the fast mode; None in the exact mode."""
    from pipeline.fast import FastSettings

    if params.mode == "exact":
        return None
    return FastSettings(
        params.fast_guidance, params.fast_signs, params.fast_steps, params.fast_groups,  # type: ignore[arg-type]
        params.fast_gap, params.fast_decode, params.fast_deep,  # type: ignore[arg-type]
    )  # fmt: skip


def small_decoder(params: Params, backbone: BackboneParams) -> SmallDecoder | None:
    """The small decoder, where the parameters use it.

    Raises:
        UsageError: they do not say which, and the backbone's folder has none.
        WeightsError: it cannot be loaded.
    """
    from pipeline.backbone.small_decoder import load_small_decoder
    from stages.backbones import choose_device, small_decoder_folder

    if not decodes_small(params):
        return None
    folder = small_decoder_folder(params.fast_small_decoder, backbone)
    if folder is None:
        raise UsageError(
            "upsample.fast_decode = small needs upsample.fast_small_decoder: a folder with an AutoencoderTiny for this "
            "backbone's latents (for SD 2.1: hf download madebyollin/taesd --local-dir FOLDER; "
            "for a model of your own: vidseg pretrain-small-decoder)"
        )
    return load_small_decoder(folder, choose_device())


def decodes_small(params: Params) -> bool:
    """Whether the parameters use a small decoder."""
    return params.method == "modulation" and params.mode == "fast" and params.fast_decode == "small"


def small_decoder_config(params: Params, backbone: BackboneParams) -> dict[str, Any]:
    """Its configuration, for counting; empty where none is used, or none is on this machine."""
    from pipeline.backbone.small_decoder import read_config
    from stages.backbones import small_decoder_folder

    if not decodes_small(params):
        return {}
    try:
        folder = small_decoder_folder(params.fast_small_decoder, backbone)
    except WeightsError:
        return {}
    return read_config(folder) if folder is not None else {}


def map_settings(params: Params) -> MapSettings:
    """The library's settings for difference maps."""
    from pipeline.upsampling import MapSettings

    return MapSettings(params.difference, params.blur, params.normalize, params.filter, params.filter_resize)


def modulation_settings(params: Params) -> ModulationSettings:
    """The library's settings for modulation."""
    from pipeline.modulation import ModulationSettings

    return ModulationSettings(
        params.strength, params.block, params.modulate_step, params.offset, params.blend,  # type: ignore[arg-type]
        params.blend_last_step, params.mask_resize, params.inject, params.attention,  # type: ignore[arg-type]
    )  # fmt: skip


def _interpolated(
    shard: range, clip: Store, coarse: Store, size: tuple[int, int], params: Params, advance: cli.Advance
) -> np.ndarray:
    import numpy as np

    from pipeline.difference import resize_image
    from pipeline.interpolation import METHODS

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
    """The same for coarse labels.

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
    from stages.backbones import dtype_name

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
                f"{latents.path} was made with {key} = {made[key]}, now it is {value}; "
                "run `vidseg extract` with these parameters first"
            )


def run_item(item: str, params_file: Path | None, sets: list[str] | None, shards: slice = EVERY_SHARD) -> None:
    """Upsample every video of an item, loading the backbone once and only if it is needed."""
    from stages import backbones
    from stages.windows import check_same_window

    settings = load(params_file, sets or ())
    key, backbone = item_key(item), None
    if settings["upsample"].method == "modulation":
        source = backbones.find(settings["backbone"])
        backbones.check_lock(source)
        small = small_decoder(settings["upsample"], settings["backbone"])
        if small is not None:
            backbones.check_small_decoder_lock(small.fingerprint)
        backbone = backbones.load_backbone(settings["backbone"], source)
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
            backbone,
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
        from stages.windows import check_same_window

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

"""clip.zarr -> features.zarr (aggregated, matching, encoder) and latents.zarr: the expensive cache that is shared."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.errors import DataError, UsageError
from pipeline.parameters import BackboneParams, DiffusionParams, ExtractParams
from stages.common import cli
from stages.common.encoders import check_weights
from stages.common.layout import EVERY_SHARD, Out, item_key, parse_shards, place, scratch_of, videos_of
from stages.common.resources import stage_version
from stages.common.settings import load, plain

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pipeline.backbone import Backbone
    from pipeline.encoder.base import Encoder
    from pipeline.features.extraction import Extracted
    from pipeline.features.windows import Pass
    from pipeline.stores.store import Store
    from stages.common.backbones import DeferredBackbone


#: Below this the clean reconstruction has lost what should be segmented.
LOW_PSNR = 18.0


def run(
    clip: Path,
    out: Out,
    params: ExtractParams,
    diffusion: DiffusionParams,
    backbone_params: BackboneParams,
    given: Backbone | DeferredBackbone | None = None,
    shards: slice = EVERY_SHARD,
    progress: cli.Progress = cli.progress,
) -> Path:
    """Extract the features of one clip.

    Args:
        given: the backbone, of callers that have it at hand; None: the one that the parameters name.
        shards: only those, by number; the stores appear when the last shard is written, by whichever process.

    Returns:
        the path of features.zarr; latents.zarr lies beside it.
    """
    from pipeline.stores import feature_codec, shard_claims
    from pipeline.stores.schemas import CLIP, FEATURES, LATENTS, ArraySpec
    from pipeline.stores.store import fingerprint, is_current, open_store
    from pipeline.stores.writer import StoreWriter
    from stages.common import backbones, encoders

    source = open_store(clip, CLIP)
    model, encoder_source = backbones.model_of(backbone_params, given), encoders.find(params, backbone_params)
    stored = {
        "extract": plain(encoders.with_effect(params, encoder_source)),
        "diffusion": plain(diffusion),
        "backbone": {"name": backbone_params.name, "dtype": backbones.dtype_name(backbone_params)},
    }
    mark = fingerprint(
        "extract", stage_version("extract"), source.fingerprint, stored, model.fingerprint,
        *([encoder_source.sha256] if encoder_source else []),
    )  # fmt: skip
    features_path, latents_path = out / "features.zarr", out / "latents.zarr"
    if is_current(features_path, FEATURES, mark) and is_current(latents_path, LATENTS, mark):
        _warn_of_poor_reconstruction(clip, open_store(features_path, FEATURES).attrs.get("psnr", {}))
        return features_path
    _say_why_anew(features_path, model.fingerprint)
    # These import torch, which takes seconds: not where there is nothing to do.
    from pipeline.encoder.load import load_encoder
    from pipeline.features import extraction
    from pipeline.features.padding import margin_of
    from pipeline.features.steps import feature_schedule
    from pipeline.features.windows import check_window, passes_of

    feature_schedule(params, diffusion)
    margin_of(params)
    encoder = load_encoder(encoder_source, params, backbones.choose_device()) if encoder_source else None
    if encoder_source:
        encoders.warn_of_guesses(encoder_source)
    deferred = given is None or isinstance(given, backbones.DeferredBackbone)
    without_denoiser = params.parts == "encoder" and deferred
    backbone = backbones.load_autoencoder(backbone_params) if without_denoiser else model.load()
    together = check_window(params.frames_together, backbone)

    frames, size = source.frames("frames"), source.size("frames")
    indices = source.attrs["source_indices"]
    per_file = params.shard if together == 1 else together
    if frames < together:
        cli.note(f"extract: {clip} has {frames} frames, extract.frames_together is {together}: one shorter window")
    *grid, channels = extraction.feature_shape(backbone, size, params)
    tokens, arrays = grid[0] * grid[1], extraction.feature_arrays(params)
    widths = {"encoder": encoder.channels} if encoder else {}
    shapes = {name: (frames, tokens, widths.get(name, channels)) for name in arrays}
    features = StoreWriter(
        features_path,
        scratch_of(out),
        FEATURES,
        mark,
        feature_codec.array_specs(shapes, params.dtype, per_file),
        attrs={
            "grid": grid,
            "encoding": params.dtype,
            "clip": source.fingerprint,
            "names": source.attrs["names"],
            "source_indices": indices,
            **({"encoder": encoder.fingerprint, "arrays": arrays} if encoder else {}),
        },
        params=stored,
        backbone=model.fingerprint,
    )
    latents = StoreWriter(
        latents_path,
        scratch_of(out),
        LATENTS,
        mark,
        {"latents": ArraySpec((frames, *extraction.latent_shape(backbone, size)), "float32", per_file)},
        attrs={"clip": source.fingerprint, "source_indices": indices},
        params=stored,
        backbone=model.fingerprint,
    )
    writers = (latents, features)
    missing = shard_claims.lacking(writers, shards)
    if len(shard_claims.lacking(writers)) < len(features.shards()):
        cli.note(f"extract: continuing at frame {missing[0].start if missing else frames} of {frames}")
    with progress("extract", sum(len(shard) for shard in missing)) as advance:
        for shard in shard_claims.claimed(writers, shards):
            parts = []
            for each in passes_of(shard, backbone, together, diffusion.batch):
                parts.append(_extract(source, each, backbone, encoder, params, diffusion, together))
                advance(len(each.asked))
            for name in arrays:
                values = extraction.gather(parts, name)
                for array, encoded in feature_codec.encode(name, values, params.dtype).items():
                    features.write(array, shard.start, encoded)
            try:
                image = source.read("frames", shard.start, shard.start + 1)[0]
                value = extraction.reconstruction_psnr(backbone, parts[0].reconstruction[0], image)
            except DataError as error:
                raise DataError(f"{clip}: frame {shard.start}: {error}") from error
            features.merge_attr("psnr", {shard.start: round(value, 2)})
            # Last: a shard of latents says that all of its frames' results are there.
            latents.write("latents", shard.start, extraction.gather(parts, "latents"))
    if left := shard_claims.lacking(writers):
        cli.note(f"extract: {len(left)} of {len(features.shards())} shards are still to be written")
        return features_path
    _warn_of_poor_reconstruction(clip, features.attribute("psnr"))
    latents.commit()
    return features.commit()


def _warn_of_poor_reconstruction(clip: Path, psnr: Mapping[str, float]) -> None:
    low = {int(start): value for start, value in psnr.items() if value < LOW_PSNR}
    if low:
        cli.warn(
            f"{clip}: the reconstruction of {len(low)} of {len(psnr)} windows is poor (lowest "
            f"{min(low.values()):.1f} dB, window at frame {min(low, key=lambda k: low[k])}); "
            "what the autoencoder loses cannot be segmented"
        )


def _say_why_anew(features: Path, weights_hash: str) -> None:
    """A line for features that are there, and are made again because the model is not the one that made them."""
    from pipeline.stores.schemas import FEATURES
    from pipeline.stores.store import open_store

    with suppress(DataError):
        made = str(open_store(features, FEATURES).attrs["backbone"])
        if made != weights_hash:
            cli.note(
                f"extract: {features} was made with another model, or its configuration has changed since "
                f"({made[:12]}, now {weights_hash[:12]}): features are made anew"
            )


def _extract(
    clip: Store,
    each: Pass,
    backbone: Backbone,
    encoder: Encoder | None,
    params: ExtractParams,
    diffusion: DiffusionParams,
    together: int,
) -> Extracted:
    """Features of the frames that are asked for of a pass."""
    from pipeline.features import extraction, micro_batches
    from pipeline.features.windows import pass_limit

    images = clip.read("frames", each.frames.start, each.frames.stop)
    indices = clip.attrs["source_indices"][each.frames.start : each.frames.stop]
    limit = pass_limit(min(together, len(images)), diffusion.batch)

    def work(sizes: micro_batches.Sizes) -> Extracted:
        frames = slice(min(sizes.values()))
        return extraction.extract(backbone, images[frames], indices[frames], diffusion, params, encoder)

    return micro_batches.compute(work, limit).since(each.first)


def run_item(item: str, params_file: Path | None, sets: list[str] | None, shards: slice = EVERY_SHARD) -> None:
    """Extract every video of an item, loading the backbone once and only if it is needed."""
    from stages.common import backbones, encoders

    settings = load(params_file, sets or ())
    check_weights(settings)
    key = item_key(item)
    model = backbones.locked(settings["backbone"])
    encoders.check_lock(settings)
    for video in videos_of(key):
        run(
            place("ingest", key, video) / "clip.zarr",
            place("extract", key, video),
            settings["extract"],
            settings["diffusion"],
            settings["backbone"],
            model,
            shards,
        )


app = cli.new_app("Read diffusion features of a clip: clip.zarr -> features.zarr, latents.zarr.")


@app.command()
def main(
    clip: Annotated[Path | None, typer.Argument(help="clip.zarr of ingest")] = None,
    out_dir: Annotated[Path | None, typer.Argument(help="folder for features.zarr and latents.zarr")] = None,
    params: cli.ParamsOption = None,
    set_: cli.SetOption = None,
    item: cli.ItemOption = None,
    shards: cli.ShardsOption = None,
) -> None:
    """Read diffusion features of a clip: clip.zarr -> features.zarr, latents.zarr.

    Example: vidseg extract work/clip.zarr work --set backbone.name=compact
    """
    part = parse_shards(shards)
    if clip is not None and out_dir is not None:
        settings = load(params, set_ or ())
        check_weights(settings)
        run(clip, out_dir, settings["extract"], settings["diffusion"], settings["backbone"], shards=part)
    elif item is not None:
        cli.refuse_beside_item({"CLIP": clip, "OUT_DIR": out_dir})
        run_item(item, params, set_, part)
    else:
        raise UsageError("give CLIP and OUT_DIR, or --item KEY")


if __name__ == "__main__":
    cli.run_app(app)

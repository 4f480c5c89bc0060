"""clip.zarr, latents.zarr, coarse.zarr -> labels.zarr: labels at the source's full resolution."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.errors import UsageError
from pipeline.parameters import BackboneParams, DiffusionParams, UpsampleParams
from stages.common import cli
from stages.common.layout import EVERY_SHARD, Out, item_key, parse_shards, place, scratch_of, videos_of
from stages.common.provenance import check_coarse, check_latents, check_same_diffusion, check_same_window, stored_window
from stages.common.resources import stage_version
from stages.common.settings import load, plain
from stages.common.small_decoder import small_decoder, small_decoder_hash

if TYPE_CHECKING:
    import numpy as np

    from pipeline.backbone import Backbone
    from pipeline.backbone.small_decoder import SmallDecoder
    from pipeline.features.windows import Pass
    from pipeline.stores.frames import Frames
    from pipeline.stores.store import Store
    from pipeline.upsampling.labelling import Decision
    from pipeline.upsampling.rules import Rules
    from pipeline.upsampling.upsample import Inputs
    from stages.common.backbones import DeferredBackbone


def run(
    clip: Path,
    latents: Path,
    coarse: Path,
    out: Out,
    params: UpsampleParams,
    diffusion: DiffusionParams,
    backbone_params: BackboneParams,
    given: Backbone | DeferredBackbone | None = None,
    shards: slice = EVERY_SHARD,
    progress: cli.Progress = cli.progress,
) -> Path:
    """Upsample one clip's coarse labels; returns the path of labels.zarr.

    Args:
        given: the backbone, of callers that have it at hand; None: the one that the parameters name.
        shards: only those, by number; the store appears when the last shard is written, by whichever process.
    """
    from pipeline.stores import numbering, shard_claims
    from pipeline.stores.confidence import CONFIDENCE
    from pipeline.stores.frames import frames_of
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
        planes = frames_of(coarse_store, "refined")
        modulation = Modulation(frames_store, latents_store, planes, size, rules, backbone, small)
    refined = coarse_store.array("refined")
    spec = ArraySpec((total, *size), str(refined.dtype), shard_frames(refined))
    arrays = {"labels": spec, **({CONFIDENCE: replace(spec, dtype="uint8")} if params.confidence else {})}
    kept = Kept(str(refined.dtype), _confidence(coarse_store) if params.confidence else None)
    writer = StoreWriter(
        path,
        scratch_of(out),
        LABELS,
        mark,
        arrays,
        params={**coarse_store.params, **stored},
        backbone=coarse_store.attrs.get("backbone"),
        attrs={
            "clip": frames_store.fingerprint,
            "names": frames_store.attrs["names"],
            numbering.ATTRIBUTE: numbering.Numbering.of_coarse(coarse_store).record(),
            **({"arrays": list(arrays)} if params.confidence else {}),
        },
    )
    writers = (writer,)
    with progress("upsample", sum(len(shard) for shard in shard_claims.lacking(writers, shards))) as advance:
        for shard in shard_claims.claimed(writers, shards):
            found = (
                _interpolated(shard, frames_store, coarse_store, size, params, kept, advance)
                if modulation is None
                else kept.of_each(shard, modulation.decisions(shard, advance))
            )
            for name, values in stacked(found).items():
                writer.write(name, shard.start, values)
    if left := shard_claims.lacking(writers):
        cli.note(f"upsample: {len(left)} of {len(writer.shards())} shards are still to be written")
        return path
    return writer.commit()


#: A frame's number and what was decided of it -> confidence (H0, W0) u8.
ConfidenceOf = Callable[[int, "Decision"], "np.ndarray"]


def _confidence(coarse: Store) -> ConfidenceOf:
    """How sure pixels are, from what is known of their tokens."""
    from pipeline.stores.confidence import CONFIDENCE
    from pipeline.stores.frames import frames_of
    from pipeline.upsampling.confidence import pixel_confidence

    if not coarse.has(CONFIDENCE):
        cli.note(
            f"{coarse.path}: does not say how sure its labels are, since it was made step by step or by an earlier "
            "version; upsample.confidence will tell how sure upsampling is, and no more"
        )
        return lambda frame, decided: pixel_confidence(decided.margin, None)
    tokens = frames_of(coarse, CONFIDENCE)
    return lambda frame, decided: pixel_confidence(decided.margin, tokens[frame])


@dataclass(frozen=True)
class Kept:
    """What labels.zarr keeps of what was decided of a frame: at most three bytes of a pixel's twelve.

    Attributes:
        dtype: of labels.
        confidence: None = none is kept.
    """

    dtype: str
    confidence: ConfidenceOf | None

    def of(self, frame: int, decided: Decision) -> dict[str, np.ndarray]:
        """By array, a frame's values (H0, W0)."""
        from pipeline.stores.confidence import CONFIDENCE

        labels = {"labels": decided.labels.astype(self.dtype)}
        return labels if self.confidence is None else {**labels, CONFIDENCE: self.confidence(frame, decided)}

    def of_each(self, frames: range, decisions: Iterable[Decision]) -> Iterator[dict[str, np.ndarray]]:
        """As `of`, for frames that are decided one after the other."""
        for frame, decided in zip(frames, decisions, strict=True):
            yield self.of(frame, decided)


def stacked(frames: Iterable[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """What a shard of labels.zarr holds, by array (f, H0, W0), of what is kept of its frames."""
    import numpy as np

    found: dict[str, list[np.ndarray]] = {}
    for kept in frames:
        for name, plane in kept.items():
            found.setdefault(name, []).append(plane)
    return {name: np.stack(planes) for name, planes in found.items()}


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
class Modulation:
    """What upsamples one clip by modulation: its stores, its coarse labels (h, w), the source's size (H0, W0), the
    rules, the networks."""

    clip: Store
    latents: Store
    planes: Frames
    size: tuple[int, int]
    rules: Rules
    backbone: Backbone
    small: SmallDecoder | None

    def decisions(self, shard: range, advance: cli.Advance) -> Iterator[Decision]:
        """Labels (H0, W0) of a shard's frames, in the passes in which `extract` saw it: the start is the same."""
        from pipeline.features.windows import passes_of

        for each in passes_of(shard, self.backbone, stored_window(self.latents), self.rules.diffusion.batch):
            yield from self._pass(each)
            advance(len(each.asked))

    def _pass(self, each: Pass) -> list[Decision]:
        """Those of the frames that are asked for of a pass."""
        from pipeline.features import micro_batches
        from pipeline.features.windows import pass_limit
        from pipeline.upsampling.labelling import Decision
        from pipeline.upsampling.responses import Passes
        from pipeline.upsampling.upsample import upsample

        rules, backbone = self.rules, self.backbone
        planes = self.planes.read(each.frames.start, each.frames.stop)
        inputs = inputs_of(self.clip, self.latents, planes, each.frames, rules.diffusion, backbone)
        together, batch = min(stored_window(self.latents), len(planes)), rules.upsample.batch
        limit = pass_limit(together, rules.diffusion.batch)

        def work(sizes: micro_batches.Sizes) -> list[Decision]:
            (frames,) = (sizes[name] for name in limit)
            passes = Passes(sizes.get("upsample.batch", batch), min(together, frames), each.first, self.small)
            found = upsample(backbone, inputs[:frames], self.size, rules, passes)
            return [Decision(frame.labels, frame.margin) for frame in found]  # without their maps, which are large

        # A batch of less than two windows is one window.
        sizes = {"upsample.batch": batch} if batch >= 2 * together else {}
        return micro_batches.compute(work, {**sizes, **limit})


def _interpolated(
    shard: range,
    clip: Store,
    coarse: Store,
    size: tuple[int, int],
    params: UpsampleParams,
    kept: Kept,
    advance: cli.Advance,
) -> Iterator[dict[str, np.ndarray]]:
    from pipeline.ahead import mapped
    from pipeline.upsampling.difference import resize_image
    from pipeline.upsampling.interpolation import METHODS

    def work(frame: int) -> dict[str, np.ndarray]:
        guide = resize_image(clip.read("frames", frame, frame + 1)[0], size)
        return kept.of(frame, METHODS[params.method](coarse.read("refined", frame, frame + 1)[0], guide))

    with closing(mapped(work, shard)) as found:
        for planes in found:
            yield planes
            advance(1)


def run_item(item: str, params_file: Path | None, sets: list[str] | None, shards: slice = EVERY_SHARD) -> None:
    """Upsample every video of an item, loading the backbone once and only if it is needed."""
    from stages.common import backbones

    settings = load(params_file, sets or ())
    key, model = item_key(item), None
    if settings["upsample"].method == "modulation":
        model = backbones.locked(settings["backbone"])
        backbones.check_part_lock("small_decoder", small_decoder_hash(settings["upsample"], settings["backbone"]))
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
        cli.refuse_beside_item({"CLIP": clip, "LATENTS": latents, "COARSE": coarse, "OUT_DIR": out_dir})
        run_item(item, params, set_, part)
    else:
        raise UsageError("give CLIP, LATENTS, COARSE and OUT_DIR, or --item KEY")


if __name__ == "__main__":
    cli.run_app(app)

"""Pictures of how the method works, for one frame: the paper's figures 6 and 7 (2 and 5: `vidseg render`)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.errors import DataError, UsageError
from pipeline.parameters import UpsampleParams
from stages import render
from stages.common import backbones, cli, provenance
from stages.common.settings import Settings, load
from stages.common.small_decoder import small_decoder
from stages.upsample import inputs_of

if TYPE_CHECKING:
    import numpy as np

    from pipeline.backbone import Backbone
    from pipeline.stores.store import Store
    from pipeline.upsampling.labelling import LabelledFrame

#: lambda where nothing is blended (paper, section 5.2): blending is what asks for more.
UNBLENDED_STRENGTH = 10.0


def differences(
    clip: Path, latents: Path, coarse: Path, out: Path, settings: Settings, frame: int, label: int | None
) -> Path:
    """Draw one label's difference map and all labels of a frame, without and with latent blending (Eq. 6).

    Args:
        frame: position in the clip.
        label: None = the one of middle area.

    Raises:
        UsageError: no such frame, or the label is absent from it.
        DataError: the stores do not belong to each other.
    """
    from pipeline.media.pictures import write_image
    from pipeline.rendering.method_figures import differences_figure, middle_label
    from pipeline.rendering.palette import overlay_colours
    from pipeline.stores.schemas import COARSE
    from pipeline.stores.store import open_store

    shot = _Shot.open(clip, latents, settings, frame)
    store = open_store(coarse, COARSE)
    provenance.check_coarse(store, shot.latents)
    planes = store.read("refined", shot.frames.start, shot.frames.stop)
    plane = planes[shot.position]
    present = sorted({int(value) for value in plane.flat})
    if label is None:
        label = middle_label(plane)
    if label not in present:
        listed = ", ".join(map(str, present))
        raise UsageError(f"label {label} is not in frame {frame} of {coarse}; there are: {listed}")
    params = settings["upsample"]
    variants = (
        replace(params, blend=False, strength=min(params.strength, UNBLENDED_STRENGTH)),
        replace(params, blend=True),
    )
    results = {}
    for variant in variants:
        title = f"{'blended' if variant.blend else 'not blended'}, strength {variant.strength:g}"
        results[title] = shot.upsample(planes, variant)
    image, opacity = shot.picture(), settings["render"].opacity
    return write_image(out, differences_figure(image, plane, label, results, overlay_colours(), opacity))


def blocks(clip: Path, features: Path, latents: Path, out: Path, settings: Settings, frame: int) -> Path:
    """Draw a frame's segments found by K-Means on the averaged blocks' features, the single block's, an encoder's.

    Raises:
        UsageError: no such frame.
        DataError: the stores do not belong to each other.
    """
    from pipeline.media.pictures import write_image
    from pipeline.rendering.feature_pages import feature_titles
    from pipeline.rendering.method_figures import blocks_figure
    from pipeline.rendering.palette import overlay_colours
    from pipeline.segmentation.context import fit
    from pipeline.segmentation.kmeans import kmeans
    from pipeline.segmentation.token_weights import balanced_weights
    from pipeline.stores.feature_codec import read_features
    from pipeline.stores.schemas import FEATURES
    from pipeline.stores.store import open_store

    shot = _Shot.open(clip, latents, settings, frame)
    store = open_store(features, FEATURES)
    if store.fingerprint != shot.latents.fingerprint:
        raise DataError(f"{features} and {latents} were not made together; run `vidseg extract` for this clip")
    segment, titles = settings["segment"], feature_titles(store)
    results = {}
    for name in sorted(titles, key=("aggregated", "matching", "encoder").index):
        tokens = read_features(store, name, shot.frames.start, shot.frames.stop)
        weights = balanced_weights(tokens[shot.position], segment.balance)
        found = kmeans(tokens[shot.position], segment.clusters, segment.restarts, segment.seed, weights).labels
        planes = fit(tokens[shot.position], found).predict(tokens, 1)  # of the frame itself: what was found
        planes = planes.reshape(-1, *store.attrs["grid"])
        results[titles[name]] = shot.upsample(planes, settings["upsample"]).labels
    opacity = settings["render"].opacity
    return write_image(out, blocks_figure(shot.picture(), results, overlay_colours(), opacity))


@dataclass(frozen=True)
class _Shot:
    """One frame of a clip, ready to be upsampled.

    Attributes:
        frames: those that are modulated together, the frame among them: itself, or a video model's window.
    """

    clip: Store
    latents: Store
    frame: int
    frames: range
    settings: Settings
    backbone: Backbone

    @classmethod
    def open(cls, clip: Path, latents: Path, settings: Settings, frame: int) -> _Shot:
        from pipeline.features.windows import window_with
        from pipeline.stores.schemas import CLIP, LATENTS
        from pipeline.stores.store import open_store

        clip_store = open_store(clip, CLIP)
        latents_store = open_store(latents, LATENTS)
        provenance.check_latents(latents_store, clip_store)
        total = clip_store.frames("frames")
        if not 0 <= frame < total:
            raise UsageError(f"--frame must be between 0 and {total - 1} for {clip}, not {frame}")
        source = backbones.find(settings["backbone"])
        provenance.check_same_diffusion(latents_store, settings["diffusion"], settings["backbone"], source.sha256)
        provenance.check_same_window(latents, settings)
        backbone = backbones.load_backbone(settings["backbone"], source)
        provenance.check_backbone(settings, backbone)
        frames = window_with(frame, provenance.stored_window(latents_store), total).frames
        return cls(clip_store, latents_store, frame, frames, settings, backbone)

    @property
    def position(self) -> int:
        """The frame's place among those that are modulated with it."""
        return self.frame - self.frames.start

    def picture(self) -> np.ndarray:
        """The frame at the source's size."""
        from itertools import islice

        return next(islice(render.open_pictures(self.clip).images(), self.frame, None))

    def upsample(self, planes: np.ndarray, params: UpsampleParams) -> LabelledFrame:
        """Masked modulation of the frame, with coarse labels (f, h, w) of all that are modulated together."""
        from pipeline.upsampling.responses import Passes
        from pipeline.upsampling.rules import Rules
        from pipeline.upsampling.upsample import upsample as upsample_frames

        rules = Rules(self.settings["diffusion"], replace(params, method="modulation"))  # however the labels were made
        rules.check()
        rules.check_backbone(self.backbone)
        inputs = inputs_of(self.clip, self.latents, planes, self.frames, rules.diffusion, self.backbone)
        small = small_decoder(rules.upsample, self.settings["backbone"])
        passes = Passes(params.batch, len(self.frames), self.position, small)
        size = tuple(self.clip.attrs["source_size"])
        return next(upsample_frames(self.backbone, inputs, size, rules, passes))


FrameOption = Annotated[int, typer.Option(help="number of the frame in the clip, from 0")]

app = cli.new_app("Draw how the method works, for one frame.")


@app.callback()
def group() -> None:
    """Draw how the method works, for one frame. Feature PCA and x-t slices: `vidseg render`."""


@app.command("differences")
def differences_command(
    clip: Annotated[Path, typer.Argument(help="clip.zarr of ingest")],
    latents: Annotated[Path, typer.Argument(help="latents.zarr of extract")],
    coarse: Annotated[Path, typer.Argument(help="coarse.zarr of segment")],
    out: Annotated[Path, typer.Argument(help="the picture to write, e.g. differences.png")],
    frame: FrameOption = 0,
    label: Annotated[int | None, typer.Option(help="label to modulate; default: the one of middle area")] = None,
    params: cli.ParamsOption = None,
    set_: cli.SetOption = None,
) -> None:
    """Difference maps of one label with and without latent blending (the paper's figure 7).

    Example: vidseg figures differences work/clip.zarr work/latents.zarr work/coarse.zarr differences.png
    """
    differences(clip, latents, coarse, out, load(params, set_ or ()), frame, label)


@app.command("blocks")
def blocks_command(
    clip: Annotated[Path, typer.Argument(help="clip.zarr of ingest")],
    features: Annotated[Path, typer.Argument(help="features.zarr of extract")],
    latents: Annotated[Path, typer.Argument(help="latents.zarr of extract")],
    out: Annotated[Path, typer.Argument(help="the picture to write, e.g. blocks.png")],
    frame: FrameOption = 0,
    params: cli.ParamsOption = None,
    set_: cli.SetOption = None,
) -> None:
    """Segments of one frame by averaged blocks and by a single one (the paper's figure 6).

    Example: vidseg figures blocks work/clip.zarr work/features.zarr work/latents.zarr blocks.png
    """
    blocks(clip, features, latents, out, load(params, set_ or ()), frame)


if __name__ == "__main__":
    cli.run_app(app)

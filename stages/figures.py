"""Pictures of how the method works, for one frame: the paper's figures 6 and 7 (2 and 5: `vidseg render`)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.errors import UsageError
from stages import backbones, cli, render, upsample
from stages.settings import DiffusionParams, Settings, load

if TYPE_CHECKING:
    import numpy as np

    from pipeline.artifacts import Store
    from pipeline.backbone import Backbone
    from pipeline.upsampling import LabelledFrame

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
    """
    from pipeline import artifacts
    from pipeline.pictures import write_image
    from pipeline.rendering.method_figures import differences_figure, middle_label
    from pipeline.rendering.palette import overlay_colours

    shot = _Shot.open(clip, latents, settings, frame)
    store = artifacts.open_store(coarse, artifacts.COARSE)
    plane = store.read("refined", frame, frame + 1)[0]
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
        results[title] = shot.upsample(plane, variant)
    image, opacity = shot.picture(), settings["render"].opacity
    return write_image(out, differences_figure(image, plane, label, results, overlay_colours(), opacity))


def blocks(clip: Path, features: Path, latents: Path, out: Path, settings: Settings, frame: int) -> Path:
    """Draw a frame's segments found by K-Means on the averaged blocks' features, and on the single block's.

    Raises:
        UsageError: no such frame.
    """
    from pipeline import artifacts
    from pipeline.feature_codec import read_features
    from pipeline.kmeans import kmeans
    from pipeline.pictures import write_image
    from pipeline.rendering.method_figures import blocks_figure
    from pipeline.rendering.palette import overlay_colours

    shot = _Shot.open(clip, latents, settings, frame)
    store = artifacts.open_store(features, artifacts.FEATURES)
    made_with, segment = store.params["extract"], settings["segment"]
    titles = {
        "aggregated": f"blocks {', '.join(map(str, made_with['blocks']))}, averaged",
        "matching": f"block {made_with['matching_block']}",
    }
    results = {}
    for name, title in titles.items():
        tokens = read_features(store, name, frame, frame + 1)[0]
        found = kmeans(tokens, segment.clusters, segment.restarts, segment.seed).labels
        plane = found.reshape(store.attrs["grid"])
        results[title] = shot.upsample(plane, settings["upsample"]).labels
    opacity = settings["render"].opacity
    return write_image(out, blocks_figure(shot.picture(), results, overlay_colours(), opacity))


@dataclass(frozen=True)
class _Shot:
    """One frame of a clip, ready to be upsampled."""

    clip: Store
    latents: Store
    frame: int
    diffusion: DiffusionParams
    backbone: Backbone

    @classmethod
    def open(cls, clip: Path, latents: Path, settings: Settings, frame: int) -> _Shot:
        from pipeline import artifacts

        clip_store = artifacts.open_store(clip, artifacts.CLIP)
        latents_store = artifacts.open_store(latents, artifacts.LATENTS)
        total = min(clip_store.frames("frames"), latents_store.frames("latents"))
        if not 0 <= frame < total:
            raise UsageError(f"--frame must be between 0 and {total - 1} for {clip}, not {frame}")
        source = backbones.find(settings["backbone"])
        given = settings["diffusion"]
        upsample.check_same_diffusion(latents_store, given, settings["backbone"], source.sha256)
        backbone = backbones.load_backbone(settings["backbone"], source)
        if backbone.window is not None:
            raise UsageError(
                f"{backbone.name} sees a window of frames together; these pictures of one frame need an image model, "
                "e.g. --set backbone.name=compact with stores made by it"
            )
        return cls(clip_store, latents_store, frame, given, backbone)

    def picture(self) -> np.ndarray:
        """The frame at the source's size."""
        from itertools import islice

        return next(islice(render.open_pictures(self.clip).images(), self.frame, None))

    def upsample(self, plane: np.ndarray, params: upsample.Params) -> LabelledFrame:
        """Masked modulation of the frame with coarse labels (h, w)."""
        import torch

        from pipeline.diffusion import add_noise, draw_noise
        from pipeline.upsampling import upsample as modulated

        steps = backbones.diffusion_settings(self.diffusion)
        modulation, maps = upsample.modulation_settings(params), upsample.map_settings(params)
        modulation.check(steps)
        clean = torch.from_numpy(self.latents.read("latents", self.frame, self.frame + 1))
        indices = self.latents.attrs["source_indices"][self.frame : self.frame + 1]
        noise = draw_noise(steps, indices, tuple(clean.shape[1:]))  # type: ignore[arg-type]
        start = add_noise(clean.to(self.backbone.device), noise.epsilon, steps, self.backbone)
        size = tuple(self.clip.attrs["source_size"])
        return next(modulated(self.backbone, start, plane[None], size, steps, modulation, maps, params.batch))


FrameOption = Annotated[int, typer.Option(help="which frame of the clip, from 0")]

app = cli.new_app("Pictures of how the method works, for one frame.")


@app.callback()
def group() -> None:
    """Pictures of how the method works, for one frame. Feature PCA and x-t slices: `vidseg render`."""


@app.command("differences")
def differences_command(
    clip: Annotated[Path, typer.Argument(help="clip.zarr of ingest")],
    latents: Annotated[Path, typer.Argument(help="latents.zarr of extract")],
    coarse: Annotated[Path, typer.Argument(help="coarse.zarr of segment")],
    out: Annotated[Path, typer.Argument(help="the picture to write, e.g. differences.png")],
    frame: FrameOption = 0,
    label: Annotated[int | None, typer.Option(help="which label; default: the one of middle area")] = None,
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

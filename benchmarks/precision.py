"""How many labels change when the denoiser runs in half precision.

    python -m benchmarks.precision                      # on the recorded vectors (VIDSEG_REFERENCE)
    python -m benchmarks.precision --clip DIR/camel     # on a real clip with the chosen backbone

The autoencoder stays in float32, as in the authors' code. On the vectors every precision runs freely from the
frames, with the first frame's labels given, and is compared with what was recorded in float32; on a clip, with the
same pipeline in float32.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer

from benchmarks.in_memory import Runner, changed, read_clip
from pipeline.backbone.image.model import StableDiffusion
from stages.common import backbones
from stages.common.settings import load

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def main(
    clip: Annotated[list[Path] | None, typer.Option(help="folder with frames/ and labels/; repeatable")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", metavar="SECTION.KEY=VALUE")] = None,
    map_frames: Annotated[int, typer.Option(help="frames that get final labels")] = 3,
) -> None:
    """Print a table for the vectors, or for the given clips."""
    if clip:
        _clips(clip, list(set_ or ()), map_frames)
    else:
        _vectors(map_frames)


def _vectors(map_frames: int) -> None:
    from tests.reference.cases import FOLDER, Case, load_vectors
    from tests.reference.rules import FREE_INPUTS, RULES

    vectors = load_vectors(FOLDER)
    on_device = vectors.backbone.device
    print(f"Recorded vectors on {on_device}; share of labels that differ from the recorded ones.\n")
    print("| case | precision | largest error of the features | kNN labels | refined labels | final maps |")
    print("|---|---|---|---|---|---|")
    for path in sorted(FOLDER.glob("case_*.npz")):
        recorded = dict(np.load(path))
        for name, dtype in PRECISIONS.items():
            cast = replace(vectors, backbone=in_precision(vectors.backbone, dtype))
            case = Case(recorded, cast, RULES, FREE_INPUTS, lambda positions: positions[:map_frames])
            error = np.abs(case["p0_feature_norm"] - recorded["p0_feature_norm"]).max()
            shares = [
                np.mean([_differing(case, f"p{index}_{kind}") for index in range(case.passes)])
                for kind in ("knn_labels", "cbr_labels")
            ]
            # All frames' images are made, so the long case stops at its labels.
            few = len(case.labels) * case.meta["batch_size"] <= 32
            final = f"{_differing(case, 'p0_seg_filtered'):.2%}" if few else "-"
            print(f"| {path.stem} | {name} | {error:.1e} | {shares[0]:.2%} | {shares[1]:.2%} | {final} |", flush=True)


def _differing(case: object, name: str) -> float:
    computed, recorded = case[name], case.recorded[name]  # type: ignore[index,attr-defined]
    return float((computed.reshape(recorded.shape) != recorded).mean())


def _clips(folders: list[Path], sets: list[str], map_frames: int) -> None:
    settings = load(None, [*sets, "backbone.dtype=float32"])
    backbone = backbones.load_backbone(settings["backbone"])
    clips = [read_clip(folder / "frames", folder / "labels", settings) for folder in folders]
    outcomes = {
        name: [Runner(in_precision(backbone, dtype), clip, map_frames).run(settings) for clip in clips]
        for name, dtype in PRECISIONS.items()
    }
    print(f"{backbone.name} on {backbone.device}; labels that differ from float32, mIoU.\n")
    print("| clip | precision | coarse labels | final labels | mIoU coarse | mIoU final |")
    print("|---|---|---|---|---|---|")
    for position, clip in enumerate(clips):
        exact = outcomes["float32"][position]
        for name in PRECISIONS:
            found = outcomes[name][position]
            shares = changed(found.coarse, exact.coarse), changed(found.final, exact.final)
            scores = f"{found.coarse_miou:.1f} | {found.final_miou:.1f}"
            print(f"| {clip.name} | {name} | {shares[0]:.2f} % | {shares[1]:.2f} % | {scores} |")


def in_precision(backbone: StableDiffusion, dtype: torch.dtype) -> StableDiffusion:
    """A copy of the backbone with its denoiser in another precision."""
    unet = torch.nn.Module.to(copy.deepcopy(backbone.unet), dtype)
    return StableDiffusion(unet, backbone.vae, backbone.context, backbone.name, backbone.fingerprint)


if __name__ == "__main__":
    typer.run(main)

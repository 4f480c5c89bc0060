"""What segments that are shown could reach at best: a linear classifier of the queries that their maps are read from.

    python -m benchmarks.shown_limits ONE TEN --other CLIP --classes classes.json > table.md

ONE, TEN and CLIP hold annotated images (`images/`, `labels/`, as for `vidseg learn`), CLIP those of another video. A
map is a product of the cross-attention's queries with keys of the segment. With `tied` keys one token gives those of
all layers, as before weights are tuned; with `free` ones each layer has keys of its own, which is more than tuned
weights can give. They are fitted to the references by convex optimisation with the cross-entropy of learning, and a
penalty that keeps them from learning the pictures by heart. Shown is the mean IoU on the latents' grid, in percent.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import torch.nn.functional as F
import typer
from torch import Tensor

from pipeline.backbone import Conditioning, Tap
from pipeline.features.noise import frame_noise
from pipeline.fewshot.attention_maps import resized, taps_of
from pipeline.fewshot.learning import SegmentModel, mean_iou, on_grid
from pipeline.fewshot.losses import class_weights
from pipeline.fewshot.reading import noised
from pipeline.fewshot.references import References, read_references
from pipeline.fewshot.segments import IGNORE
from pipeline.media.resize import resize_frame
from pipeline.tables.pages import markdown
from stages.common import backbones
from stages.common.backbones import in_single_precision, segment_model
from stages.common.settings import Settings, load

COLUMNS = ("references", "keys", "with themselves", "with the other video")


@dataclass(frozen=True, eq=False)
class Seen:
    """What is seen in n pictures of h w cells.

    Attributes:
        queries: `tied` and `free` -> (n h w, c) float32.
        numbers: (n h w,) the segments, `IGNORE` where there is no label.
    """

    queries: dict[str, Tensor]
    numbers: Tensor


def main(
    references: Annotated[list[Path], typer.Argument(help="folders with images/ and labels/")],
    other: Annotated[Path, typer.Option(help="the same, of another video")],
    classes: Annotated[Path, typer.Option(help="class list of all")],
    penalty: Annotated[float, typer.Option(help="of squared keys")] = 0.01,
    set_: Annotated[list[str] | None, typer.Option("--set", metavar="SECTION.KEY=VALUE")] = None,
) -> None:
    """Print what classifiers of the references find in them, and in the other video."""
    settings = load(None, set_ or ())
    model = segment_model(backbones.load_backbone(in_single_precision(settings["backbone"])))
    there = read_references(other, classes)
    elsewhere, rows = seen(there, model, settings), []
    for folder in references:
        own = seen(read_references(folder, classes), model, settings)
        for keys, queries in own.queries.items():
            found = fitted(queries, own.numbers, len(there.table), there.table.background, penalty)
            own_iou = mean_iou(found(queries), own.numbers)
            ious = (own_iou, mean_iou(found(elsewhere.queries[keys]), elsewhere.numbers))
            rows.append([folder.name, keys, *(f"{100 * iou:.1f}" for iou in ious)])
    sys.stdout.write(markdown(COLUMNS, rows) + "\n")


@torch.no_grad()
def seen(drawn: References, model: SegmentModel, settings: Settings) -> Seen:
    """The queries of annotated pictures, with the noise that `apply` begins with."""
    size, timestep = drawn.model_size(settings["learn"]), settings["apply"].timesteps[0]
    queries: dict[str, list[Tensor]] = {"tied": [], "free": []}
    latents = torch.cat([model.encode(resize_frame(image, size)[None]) for image in drawn.images])
    noise = frame_noise(settings["apply"].seed, range(len(latents)), tuple(latents.shape[1:])).epsilon
    for noisy in noised(model, latents, noise, [timestep] * len(latents)).split(1):
        for keys, found in _queries(noisy, timestep, model, settings["maps"].cross_blocks, settings).items():
            queries[keys].append(found)
    numbers = on_grid([drawn.table.numbers(labels) for labels in drawn.labels], latents)
    return Seen({keys: torch.cat(found) for keys, found in queries.items()}, numbers.flatten())


def _queries(
    noisy: Tensor, timestep: int, model: SegmentModel, blocks: tuple[int, ...], settings: Settings
) -> dict[str, Tensor]:
    """(h w, c) of one picture; tied ones are mapped to the tokens' channels by the weights that make keys of tokens."""
    taps = model.predict(
        noisy, timestep, conditioning=Conditioning(context=model.context), record=taps_of(settings["maps"])
    ).taps
    grid = (noisy.shape[-2], noisy.shape[-1])
    free, tied = [], []
    for block in blocks:
        query = taps[Tap(block, "cross", "query")][0].float()
        stride = round((grid[0] * grid[1] / len(query)) ** 0.5)
        inner, heads = (grid[0] // stride, grid[1] // stride), model.heads(block)
        (weight,) = (
            weight
            for name, weight in model.tunable().items()
            if name.startswith(f"up_blocks.{block // 3}.attentions.{block % 3}.") and "to_k" in name
        )
        scale = (query.shape[1] // heads) ** -0.5 / heads / len(blocks)
        for parts, values in ((free, query), (tied, query @ weight.float() * scale)):
            parts.append(resized(values.T.unflatten(1, inner)[None], grid)[0].flatten(1).T)
    return {"tied": torch.stack(tied).sum(dim=0), "free": torch.cat(free, dim=1)}


def fitted(
    queries: Tensor, numbers: Tensor, segments: int, background: int | None, penalty: float
) -> Callable[[Tensor], Tensor]:
    """What tells the segments (m,) of queries (m, c), fitted to those of given queries (n, c)."""
    weights, known = class_weights(numbers, segments, background), numbers != IGNORE
    mean, deviation = queries[known].mean(dim=0), queries[known].std(dim=0) + 1e-6
    inputs, targets = (queries[known] - mean) / deviation, numbers[known].long()
    keys = torch.zeros(queries.shape[1], segments, requires_grad=True)
    offsets = torch.zeros(segments, requires_grad=True)
    optimizer = torch.optim.LBFGS([keys, offsets], max_iter=60, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        found = F.cross_entropy(inputs @ keys + offsets, targets, weights) + penalty * keys.square().sum()
        found.backward()
        return found

    optimizer.step(loss)
    return lambda others: ((others - mean) / deviation @ keys + offsets).argmax(dim=-1)


if __name__ == "__main__":
    typer.run(main)

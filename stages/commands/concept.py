"""Concepts: what they were learned from, and whether they still do what they did."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from pipeline.errors import DataError
from stages import references
from stages.common import cli
from stages.common.backbones import in_single_precision, segment_model
from stages.common.printing import text_table
from stages.common.settings import load

#: Share of its references in which a concept must find what it found in them first; other machines round otherwise.
SAME = 0.99

app = cli.new_app("Show and check concepts, the folders that `vidseg learn` makes.")


@app.callback()
def group() -> None:
    """Show and check concepts, the folders that `vidseg learn` makes."""


@app.command()
def show(
    concept: Annotated[Path, typer.Argument(help="folder of a concept")],
    json_: cli.JsonOption = False,
) -> None:
    """Print the segments of a concept, what it was learned from, and how well.

    Example: vidseg concept show concepts/cars
    """
    import json

    about = describe(concept)
    if json_:
        print(json.dumps(about, indent=1))
        return
    losses = [
        (f"phase {number}", f"{row['iterations']} steps", f"loss {row['first']:.3f} to {row['last']:.3f}")
        for number, row in about["phases"].items()
    ]
    print(text_table([(entry["id"], entry["name"]) for entry in about["segments"]], ["id", "segment"]))
    print(text_table(losses))
    print(
        text_table(
            [
                ("references", f"{len(about['references'])}: {', '.join(about['references'])}"),
                ("IoU with them", f"{about['reference_iou']:.3f}"),
                ("backbone", f"{about['backbone']} {about['weights'][:12]}"),
                ("tuned weights", f"{about['adapter_mb']:.1f} MB" if about["adapter_mb"] else "none"),
            ]
        )
    )


def describe(concept: Path) -> dict[str, Any]:
    """What a concept says of itself; nothing of it is computed anew."""
    from pipeline.fewshot.concept_store import ADAPTER, NOTHING, open_concept

    store = open_concept(concept)
    log = store.read("log")
    log = log[log[:, 0] != NOTHING]
    phases = {
        int(number): {"iterations": len(rows), "first": float(rows[0, 0]), "last": float(rows[-1, 0])}
        for number in sorted(set(log[:, 4].tolist()))
        for rows in [log[log[:, 4] == number]]
    }
    adapter = concept / ADAPTER
    return {
        "segments": store.attrs["segments"],
        "references": store.attrs["names"],
        "reference_iou": store.attrs["reference_iou"],
        "phases": phases,
        "backbone": store.params["backbone"]["name"],
        "weights": store.attrs["backbone"],
        "adapter_mb": adapter.stat().st_size / 1e6 if adapter.is_file() else 0.0,
        "params": store.params,
        "fingerprint": store.fingerprint,
    }


@app.command()
def check(
    concept: Annotated[Path, typer.Argument(help="folder of a concept")],
    refs: Annotated[
        Path, typer.Argument(metavar="REFS", help="folder of the images that it was learned from, or their refs.zarr")
    ],
    classes: references.ClassesOption = None,
    preset: cli.PresetOption = None,
    params: cli.ParamsOption = None,
    set_: cli.SetOption = None,
) -> None:
    """Check that a concept is whole, fits the backbone, and finds in its references what it found in them before.

    Example: vidseg concept check concepts/cars cars
    """
    import torch

    from pipeline.fewshot.concept import agreement
    from pipeline.fewshot.concept_store import load_concept
    from stages.common import backbones

    settings, learned = load(params, set_ or (), preset), load_concept(concept)
    with references.as_store(refs, classes) as store:
        drawn = references.drawn_in(store)
    if drawn.names != learned.references:
        raise DataError(
            f"{refs}: holds {', '.join(drawn.names[:5])}, but {concept} was learned from "
            f"{', '.join(learned.references[:5])}; give its own references"
        )
    model = segment_model(backbones.load_backbone(in_single_precision(settings["backbone"])))
    images, _ = drawn.at_size(drawn.model_size(learned.learn))
    with torch.no_grad():
        latents = torch.cat([model.encode(image[None]) for image in images])
    share = agreement(learned, model, latents)
    if share < SAME:
        raise DataError(
            f"{concept}: finds {share:.1%} of what it found in its references when it was learned; "
            "the references have changed, or the concept is damaged: run `vidseg learn` again"
        )
    cli.note(f"{concept}: whole; finds {share:.1%} of what it found in its references when it was learned")


if __name__ == "__main__":
    cli.run_app(app)

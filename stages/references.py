"""Annotated images -> refs.zarr: what a concept is learned from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline.errors import UsageError
from stages.common import cli
from stages.common.applied import concept_of
from stages.common.layout import DATA
from stages.common.resources import stage_version


def run(folder: Path, out: Path, classes: Path | None = None) -> Path:
    """Read annotated images; returns the path of refs.zarr.

    Args:
        folder: with images/ and labels/.
        classes: class list of the labels; None = the folder's own classes.json, if there is one.
    """
    from pipeline.fewshot.reference_store import write_references
    from pipeline.fewshot.references import read_references
    from pipeline.files import refuse_foreign
    from pipeline.stores.schemas import REFS

    path = out / "refs.zarr"
    refuse_foreign(path, REFS.mark)
    return write_references(path, out / "tmp", read_references(folder, classes), stage_version("references"))


def run_item(item: str) -> None:
    """Read the images of a concept of videos.yaml."""
    key, concept = concept_of(item)
    run(concept.references, DATA / "references" / key, concept.classes)


app = cli.new_app("Read annotated images: a folder with images/ and labels/ -> refs.zarr.")


@app.command()
def main(
    references: Annotated[Path | None, typer.Argument(help="folder with images/ and labels/")] = None,
    out_dir: Annotated[Path | None, typer.Argument(help="folder for refs.zarr")] = None,
    classes: Annotated[
        Path | None, typer.Option(help="class list of the labels (JSON); default: classes.json in the folder")
    ] = None,
    item: cli.ConceptOption = None,
) -> None:
    """Read annotated images: a folder with images/ and labels/ -> refs.zarr.

    Example: vidseg references cars work
    """
    if references is not None and out_dir is not None:
        run(references, out_dir, classes)
    elif item is not None:
        run_item(item)
    else:
        raise UsageError("give REFERENCES and OUT_DIR, or --item KEY")


if __name__ == "__main__":
    cli.run_app(app)

"""Annotated images -> refs.zarr: what a concept is learned from."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.errors import UsageError
from stages.common import cli
from stages.common.applied import concept_of
from stages.common.layout import DATA
from stages.common.resources import stage_version

if TYPE_CHECKING:
    from pipeline.fewshot.references import References

ClassesOption = Annotated[
    Path | None, typer.Option(help="class list of a folder's labels (JSON); default: classes.json in the folder")
]


def run(folder: Path, out: Path, classes: Path | None = None, drawn: References | None = None) -> Path:
    """Read annotated images; returns the path of refs.zarr.

    Args:
        folder: with images/ and labels/.
        classes: class list of the labels; None = the folder's own classes.json, if there is one.
        drawn: what the folder holds, of callers that have read it.
    """
    from pipeline.fewshot.reference_store import write_references
    from pipeline.fewshot.references import read_references
    from pipeline.files import refuse_foreign
    from pipeline.stores.schemas import REFS

    path = out / "refs.zarr"
    refuse_foreign(path, REFS.mark)
    found = read_references(folder, classes) if drawn is None else drawn
    return write_references(path, out / "tmp", found, stage_version("references"))


def is_store(given: Path) -> bool:
    """Whether it is a refs.zarr, and no folder of annotated images."""
    return (given / "zarr.json").is_file()


@contextmanager
def as_store(given: Path, classes: Path | None = None) -> Iterator[Path]:
    """refs.zarr: the one that is given, or one made of a folder of annotated images, which is gone on leaving.

    Args:
        classes: as in `run`; goes with a folder only.
    """
    if is_store(given):
        cli.refuse({"--classes": classes}, "goes with a folder; refs.zarr has its class list already")
        yield given
        return
    with TemporaryDirectory() as scratch:
        yield run(given, Path(scratch), classes)


def drawn_in(refs: Path) -> References:
    """What a refs.zarr holds."""
    from pipeline.fewshot.reference_store import read_stored_references
    from pipeline.stores.schemas import REFS
    from pipeline.stores.store import open_store

    return read_stored_references(open_store(refs, REFS))


def run_item(item: str) -> None:
    """Read the images of a concept of videos.yaml."""
    key, concept = concept_of(item)
    run(concept.references, DATA / "references" / key, concept.classes)


app = cli.new_app("Read annotated images: a folder with images/ and labels/ -> refs.zarr.")


@app.command()
def main(
    references: Annotated[Path | None, typer.Argument(help="folder with images/ and labels/")] = None,
    out_dir: Annotated[Path | None, typer.Argument(help="folder for refs.zarr")] = None,
    classes: ClassesOption = None,
    item: cli.ConceptOption = None,
) -> None:
    """Read annotated images: a folder with images/ and labels/ -> refs.zarr.

    Example: vidseg references cars work
    """
    if references is not None and out_dir is not None:
        run(references, out_dir, classes)
    elif item is not None:
        cli.refuse_beside_item({"REFERENCES": references, "OUT_DIR": out_dir, "--classes": classes})
        run_item(item)
    else:
        raise UsageError("give REFERENCES and OUT_DIR, or --item KEY")


if __name__ == "__main__":
    cli.run_app(app)

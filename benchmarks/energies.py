"""Does guidance lower the energy that it is to lower?

    python -m benchmarks.energies data/apply/*/soft.zarr

Each chunk of a clip is guided once at every timestep but the last. A pair of both counts as lower where E_total, the
mean over its groups of frames, was less before the last of its updates than before the first: what the last one gained
is not recorded.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from pipeline.errors import DataError
from pipeline.stores.schemas import SOFT
from pipeline.stores.store import open_store
from pipeline.tables.pages import markdown, number, percent


def change(energies: np.ndarray) -> np.ndarray:
    """E_total before the last update, as a share of that before the first.

    Args:
        energies: (C, steps, iterations, groups, 3) as soft.zarr has them.

    Returns:
        (C, steps), below 1 where the energy fell.
    """
    total = energies[..., 0].astype(np.float64).mean(axis=-1)
    return total[:, :, -1] / total[:, :, 0]


def row(name: str, changes: np.ndarray) -> tuple[str, ...]:
    """A line of the table."""
    lower = changes < 1
    return (
        name,
        str(changes.size),
        str(int(lower.sum())),
        percent(float(lower.mean())),
        number(float(changes.mean()), 3),
    )


def main(stores: Annotated[list[Path], typer.Argument(help="soft.zarr of clips that were guided")]) -> None:
    """Print a line for each store, and one for all."""
    found: dict[str, np.ndarray] = {}
    for path in stores:
        soft = open_store(path, SOFT)
        if not soft.has("energies"):
            raise DataError(f"{path}: nothing was guided; give soft.zarr of a run with guidance.lambda_track above 0")
        found[str(path)] = change(soft.read("energies")).ravel()
    heads = ("store", "pairs", "lower", "lower, %", "end / begin, mean")
    lines = [row(name, changes) for name, changes in found.items()]
    print(markdown(heads, [*lines, row("all", np.concatenate([*found.values()]))]))


if __name__ == "__main__":
    typer.run(main)

"""The folder in which `vidseg run` leaves one video's results, and what is found in it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import DataError


@dataclass(frozen=True)
class Results:
    """Results of `vidseg run` or `vidseg apply`."""

    folder: Path

    @property
    def stores(self) -> Path:
        """Where the stores lie."""
        return self.folder / "artifacts"

    @property
    def clip(self) -> Path:
        """clip.zarr."""
        return self.stores / "clip.zarr"

    @property
    def features(self) -> Path:
        """features.zarr."""
        return self.stores / "features.zarr"

    @property
    def coarse(self) -> Path:
        """coarse.zarr; learned segments have none."""
        return self.stores / "coarse.zarr"

    @property
    def labels(self) -> Path:
        """labels.zarr, as the segments were found."""
        return self.stores / "labels.zarr"

    @property
    def named(self) -> Path:
        """named.zarr, the labels with names; there only once names were given."""
        return self.stores / "named.zarr"

    @property
    def names(self) -> Path:
        """names.json, which says how they are named; there only once names were given."""
        from pipeline.naming.names import FILE

        return self.folder / FILE

    def check(self) -> Results:
        """Refuse a folder that holds no results; returns this.

        Raises:
            DataError: there are none.
        """
        if not self.folder.is_dir():
            raise DataError(f"{self.folder}: no such folder; give the one that followed `vidseg run ... -o`")
        for store in (self.clip, self.labels):
            if not (store / "zarr.json").is_file():
                raise DataError(
                    f"{self.folder}: holds no results of `vidseg run` (no artifacts/{store.name}); {self._instead()}"
                )
        return self

    def _instead(self) -> str:
        """What to give in place of a folder without results."""
        inside = sorted(labels.parent.parent for labels in self.folder.glob("*/artifacts/labels.zarr"))
        if not inside:
            return "give the folder that followed its -o"
        return f"give one of those in it: {', '.join(map(str, inside[:3]))}{', ...' if len(inside) > 3 else ''}"

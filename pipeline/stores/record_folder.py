"""A folder that holds one small JSON file of ours beside the Zarr stores: one rename writes it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pipeline.errors import DataError
from pipeline.files import Mark, refuse_foreign, replacing_folder

T = TypeVar("T")


@dataclass(frozen=True)
class RecordFolder:
    """One kind of such folders.

    Attributes:
        file: name of the JSON file.
        schema, version: what the file says of itself.
    """

    file: str
    schema: str
    version: int = 1

    @property
    def mark(self) -> Mark:
        """How a folder of this kind is known."""
        return Mark(self.file, self.schema, holds=frozenset({self.file}))

    def write(self, folder: Path, content: Mapping[str, Any], scratch: Path) -> None:
        """Write a folder anew, by one rename; `scratch` is a path for it on the same disk.

        Raises:
            DataError: something else lies there.
        """
        refuse_foreign(folder, self.mark)
        record = {"schema": self.schema, "schema_version": self.version, **content}
        with replacing_folder(folder, scratch) as made:
            (made / self.file).write_text(json.dumps(record, indent=1) + "\n")

    def read(self, folder: Path, parse: Callable[[dict[str, Any]], T]) -> T:
        """What `parse` makes of the file's content; it may raise ValueError, KeyError or TypeError.

        Raises:
            DataError: the file is missing, damaged or of another version.
        """
        path = Path(folder) / self.file
        try:
            content = json.loads(path.read_text())
            if (content["schema"], content["schema_version"]) != (self.schema, self.version):
                raise ValueError(f"it holds {content['schema']} {content['schema_version']}")
            return parse(content)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path}: not readable ({error}); run `vidseg ingest` again") from error

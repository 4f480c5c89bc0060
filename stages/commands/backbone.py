"""`vidseg backbone`: pin the weights by hash in backbone.lock, or show which ones the parameters name."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from stages.common import cli, encoders
from stages.common.backbones import LOCK, LOCK_VERSION, find, small_decoder_folder
from stages.common.settings import load

if TYPE_CHECKING:
    from pipeline.backbone.family import WeightsSource

app = cli.new_app("Show which diffusion model is read, or pin it by its hash.")


@app.callback()
def group() -> None:
    """Show which diffusion model is read, or pin it by its hash."""


@app.command()
def lock(params: cli.ParamsOption = None, set_: cli.SetOption = None) -> None:
    """Write backbone.lock: name, revision and hashes of the weights, which extract and upsample depend on.

    Example: vidseg backbone lock --params params.yaml
    """
    found = _found(params, set_)
    write_lock(found, LOCK)
    parts = [f"{part.replace('_', ' ')} {value[:12]}" for part, value in found.parts.items() if value]
    cli.note(f"{LOCK}: " + ", ".join([f"{found.source.name} {found.source.sha256[:12]}", *parts]))


@app.command()
def show(params: cli.ParamsOption = None, set_: cli.SetOption = None, as_json: cli.JsonOption = False) -> None:
    """Print where the weights lie and what their hash is.

    Example: vidseg backbone show --set backbone.name=sd21
    """
    found = _found(params, set_)
    values = {"name": found.source.name, "path": str(found.source.path), **found.record()}
    print(json.dumps(values) if as_json else "\n".join(f"{key}: {value}" for key, value in values.items()))


@dataclass(frozen=True)
class Locked:
    """The weights that parameters name, and the hashes of what belongs to them."""

    source: WeightsSource
    parts: dict[str, str | None]

    def record(self) -> dict[str, str | int | None]:
        """The content of backbone.lock: no path, since it is shared between machines."""
        source = self.source
        return {
            "version": LOCK_VERSION,
            "name": source.name,
            "revision": source.revision,
            "sha256": source.sha256,
            **self.parts,
        }


def _found(params: Path | None, sets: list[str] | None) -> Locked:
    from pipeline.backbone.files import small_decoder_fingerprint

    settings = load(params, sets or ())
    folder = small_decoder_folder(settings["upsample"].fast.small_decoder, settings["backbone"])
    encoder = encoders.find(settings["extract"], settings["backbone"])
    small = None if folder is None else small_decoder_fingerprint(folder)
    return Locked(find(settings["backbone"]), {"small_decoder": small, "encoder": encoder.sha256 if encoder else None})


def write_lock(found: Locked, path: Path) -> None:
    """Write name, revision and hashes as JSON."""
    path.write_text(json.dumps(found.record(), indent=2) + "\n")


if __name__ == "__main__":
    cli.run_app(app)

"""`vidseg backbone`: pin the weights by hash in backbone.lock, or show which ones the parameters name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from stages.common import cli
from stages.common.backbones import LOCK, find, small_decoder_folder
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
    source, small = _found(params, set_)
    write_lock(source, small, LOCK)
    cli.note(f"{LOCK}: {source.name} {source.sha256[:12]}" + (f", small decoder {small[:12]}" if small else ""))


@app.command()
def show(params: cli.ParamsOption = None, set_: cli.SetOption = None, as_json: cli.JsonOption = False) -> None:
    """Print where the weights lie and what their hash is.

    Example: vidseg backbone show --set backbone.name=sd21
    """
    source, small = _found(params, set_)
    values = {"name": source.name, "path": str(source.path), **_lock_record(source, small)}
    print(json.dumps(values) if as_json else "\n".join(f"{key}: {value}" for key, value in values.items()))


def _found(params: Path | None, sets: list[str] | None) -> tuple[WeightsSource, str | None]:
    """The weights that the parameters name, and the hash of the small decoder that belongs to them."""
    from pipeline.backbone.files import small_decoder_fingerprint

    settings = load(params, sets or ())
    folder = small_decoder_folder(settings["upsample"].fast.small_decoder, settings["backbone"])
    return find(settings["backbone"]), None if folder is None else small_decoder_fingerprint(folder)


def write_lock(source: WeightsSource, small_decoder: str | None, path: Path) -> None:
    """Write name, revision and hashes as JSON (no path: the lock is shared between machines)."""
    path.write_text(json.dumps(_lock_record(source, small_decoder), indent=2) + "\n")


def _lock_record(source: WeightsSource, small_decoder: str | None) -> dict[str, str | None]:
    return {
        "name": source.name,
        "revision": source.revision,
        "sha256": source.sha256,
        "small_decoder": small_decoder,
    }


if __name__ == "__main__":
    cli.run_app(app)

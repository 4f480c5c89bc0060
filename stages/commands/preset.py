"""Presets: named sets of parameters (presets/*.yaml), shown or written into params.yaml."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from pipeline.errors import UsageError
from pipeline.parameters import BackboneParams, renamed
from stages.common import cli, yaml_files
from stages.common.printing import text_table
from stages.common.settings import (
    check_backbone,
    check_names,
    load,
    preset_backbones,
    preset_files,
    read_preset,
    whole_names,
)

app = cli.new_app(
    "List, show and apply named sets of parameters (presets/*.yaml); migrate files of an earlier version."
)


@app.callback()
def group() -> None:
    """List, show and apply named sets of parameters (presets/*.yaml); migrate files of an earlier version."""


@app.command("list")
def list_presets() -> None:
    """List the presets with their first line.

    Example: vidseg preset list
    """
    print(
        text_table(
            [(name, path.read_text().splitlines()[0].lstrip("# ")) for name, path in sorted(preset_files().items())]
        )
    )


@app.command()
def show(name: Annotated[str, typer.Argument(help="name of a preset")]) -> None:
    """Print a preset.

    Example: vidseg preset show sd21
    """
    read_preset(name)
    print(preset_files()[name].read_text(), end="")


@app.command()
def apply(
    name: Annotated[str, typer.Argument(help="name of a preset")],
    file: Annotated[Path, typer.Option(help="parameter file to change")] = Path("params.yaml"),
) -> None:
    """Write a preset's values into params.yaml; comments and other values stay, and those that matter are named.

    Example: vidseg preset apply sd21
    """
    values = read_preset(name)
    content = yaml_files.read(file, "run in the project's folder or give --file")
    present = whole_names(content, file)
    check_names(present, file)
    backbone = str(present.get("backbone.name", BackboneParams.name))
    check_backbone(backbone, preset_backbones(name), f"preset '{name}'")
    defaults = {key: value for key, value in read_preset(name, backbone).items() if key not in present}
    preset = {**defaults, **values}
    kept: list[str] = []
    try:
        kept = _kept(file, preset)
    except UsageError as error:  # the preset is applied all the same
        cli.warn(str(error))
    yaml_files.put(content, preset)
    yaml_files.write(file, content)
    cli.note(f"{file}: preset '{name}' applied")
    if kept:
        cli.note(f"{file} keeps, other than the backbone's defaults: {', '.join(kept)}")


@app.command()
def migrate(
    file: Annotated[Path, typer.Argument(help="parameter file of an earlier version")] = Path("params.yaml"),
) -> None:
    """Rewrite a parameter file of an earlier version with today's names; values and comments stay.

    Example: vidseg preset migrate params.yaml
    """
    content = yaml_files.read(file, "give a parameter file like params.yaml")
    old = [name for name in whole_names(content, file) if name in renamed()]
    for section in dict.fromkeys(name.partition(".")[0] for name in old):
        names = {name: renamed()[name] for name in old if name.startswith(f"{section}.")}
        within = {name.partition(".")[2]: new.partition(".")[2] for name, new in names.items()}
        try:
            yaml_files.rename_keys(content[section], within)
        except UsageError as error:
            raise UsageError(f"{file}: {section}.{error}") from error
    if not old:
        cli.note(f"{file}: nothing to rename")
        return
    yaml_files.write(file, content)
    cli.note(f"{file}: {', '.join(f'{name} -> {renamed()[name]}' for name in old)}")


def _kept(file: Path, preset: Mapping[str, Any]) -> list[str]:
    """`section.key = value` of all in a file that neither the preset nor the backbone's defaults set."""
    now = load(file, [f"{name}={json.dumps(value)}" for name, value in preset.items()])
    defaults = load(sets=[f"backbone.name={now['backbone'].name}"]).flat()
    return [
        f"{name} = {json.dumps(value)}"
        for name, value in now.flat().items()
        if name not in preset and value != defaults[name]
    ]


if __name__ == "__main__":
    cli.run_app(app)

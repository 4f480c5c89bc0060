"""Presets: named sets of parameters (presets/*.yaml), shown or written into params.yaml."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from pipeline.errors import UsageError
from pipeline.parameters import SECTIONS
from stages.common import cli, yaml_files
from stages.common.printing import text_table
from stages.common.settings import (
    check_backbone,
    from_mapping,
    load,
    preset_backbones,
    preset_files,
    read_preset,
)

app = cli.new_app("List, show and apply named sets of parameters (presets/*.yaml).")


@app.callback()
def group() -> None:
    """List, show and apply named sets of parameters (presets/*.yaml)."""


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
    preset = read_preset(name)
    content = yaml_files.read(file, "run in the project's folder or give --file")
    check_backbone(content, preset_backbones(name), f"preset '{name}'")
    for section, values in preset.items():
        from_mapping(section, SECTIONS[section], values)
        if content.get(section) is None:  # the bare name `extract:` stands for an empty section
            content[section] = {}
        present = content[section]
        for key, value in values.items():
            if key in present and present[key] == value:
                continue
            present[key] = yaml_files.flow_list(value) if isinstance(value, list) else value
    yaml_files.write(file, content)
    cli.note(f"{file}: preset '{name}' applied")
    try:
        kept = _kept(file, preset)
    except UsageError as error:  # the preset is applied all the same
        cli.note(f"warning: {error}")
        return
    if kept:
        cli.note(f"{file} keeps, other than the backbone's defaults: {', '.join(kept)}")


def _kept(file: Path, preset: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """`section.key = value` of all that neither the preset nor the backbone's defaults set."""
    now = load(file)
    defaults = load(sets=[f"backbone.name={now['backbone'].name}"]).as_dict()
    return [
        f"{section}.{key} = {json.dumps(value)}"
        for section, values in now.as_dict().items()
        for key, value in values.items()
        if key not in preset.get(section, {}) and value != defaults[section][key]
    ]


if __name__ == "__main__":
    cli.run_app(app)

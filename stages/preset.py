"""Presets: named sets of parameters (presets/*.yaml), shown or written into params.yaml."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stages import cli, yaml_files
from stages.resources import resource
from stages.settings import check_backbone, from_mapping, preset_backbones, read_preset

app = cli.new_app("Named sets of parameters.")


@app.callback()
def group() -> None:
    """Named sets of parameters."""


@app.command("list")
def list_presets() -> None:
    """The presets that there are, with their first line."""
    for path in sorted(resource("presets").glob("*.yaml")):
        print(f"{path.stem:<14} {path.read_text().splitlines()[0].lstrip('# ')}")


@app.command()
def show(name: Annotated[str, typer.Argument(help="name of a preset")]) -> None:
    """Print a preset."""
    read_preset(name)
    print((resource("presets") / f"{name}.yaml").read_text(), end="")


@app.command()
def apply(
    name: Annotated[str, typer.Argument(help="name of a preset")],
    file: Annotated[Path, typer.Option(help="parameter file to change")] = Path("params.yaml"),
) -> None:
    """Write a preset's values into params.yaml; comments and other values stay."""
    from stages.settings import declared

    preset = read_preset(name)
    content = yaml_files.read(file, "run in the project's folder or give --file")
    check_backbone(content, preset_backbones(name), f"preset '{name}'")
    for section, values in preset.items():
        from_mapping(section, declared(section), values)
        present = content.setdefault(section, {})
        for key, value in values.items():
            if key in present and present[key] == value:
                continue
            present[key] = yaml_files.flow_list(value) if isinstance(value, list) else value
    yaml_files.write(file, content)
    cli.note(f"{file}: preset '{name}' applied")


if __name__ == "__main__":
    cli.run_app(app)

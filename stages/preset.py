"""Presets: named sets of parameters (presets/*.yaml), shown or written into params.yaml."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline.errors import UsageError
from stages import cli
from stages.resources import resource
from stages.settings import from_mapping, read_preset

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
    from ruamel.yaml import YAML
    from ruamel.yaml.comments import CommentedSeq

    from stages.settings import declared

    preset = read_preset(name)
    if not file.is_file():
        raise UsageError(f"{file}: no such file; run in the project's folder or give --file")
    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 200
    content = yaml.load(file.read_text()) or {}
    for section, values in preset.items():
        from_mapping(section, declared(section), values)
        present = content.setdefault(section, {})
        for key, value in values.items():
            if key in present and present[key] == value:
                continue
            present[key] = CommentedSeq(value) if isinstance(value, list) else value
            if isinstance(value, list):
                present[key].fa.set_flow_style()
    partial = file.with_suffix(".partial")
    with partial.open("w") as stream:
        yaml.dump(content, stream)
    partial.replace(file)
    cli.note(f"{file}: preset '{name}' applied")


if __name__ == "__main__":
    cli.run_app(app)

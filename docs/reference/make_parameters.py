"""Write parameters.md from the stages' `Params` classes: `python docs/reference/make_parameters.py`."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from pipeline.parameters import SECTIONS

HEAD = """# Parameters

Written by `docs/reference/make_parameters.py` from the stages' `Params` classes; a test keeps it up to date. These are
the built-in defaults (those of Stable Diffusion 2.1); `presets/<backbone>.yaml` changes some for a backbone, and
`params.yaml` sets all of them for `dvc repro`. Where each default comes from: `docs/explanation/paper-and-code.md`.
"""


def render() -> str:
    """The whole page."""
    parts = [HEAD]
    for section in SECTIONS:
        parts.append(f"\n## {section}\n\n| parameter | default | meaning | accepts |\n|---|---|---|---|\n")
        for field in dataclasses.fields(SECTIONS[section]):
            default = json.dumps(list(field.default) if isinstance(field.default, tuple) else field.default)
            parts.append(f"| `{section}.{field.name}` | `{default}` | {field.metadata['help']} | {accepts(field)} |\n")
    return "".join(parts)


def accepts(field: dataclasses.Field) -> str:  # type: ignore[type-arg]
    """Choices or bounds, in words."""
    limits = field.metadata
    if limits["choices"]:
        return ", ".join(limits["choices"])
    if limits["low"] is not None and limits["high"] is not None:
        return f"{limits['low']:g} to {limits['high']:g}"
    return f"at least {limits['low']:g}" if limits["low"] is not None else ""


if __name__ == "__main__":
    Path(__file__).with_name("parameters.md").write_text(render())

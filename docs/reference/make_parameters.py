"""Write parameters.md from `pipeline/parameters/`: `python docs/reference/make_parameters.py`."""

from __future__ import annotations

import json
import typing
from pathlib import Path

from pipeline.parameters import SECTIONS, Declared, declared

HEAD = """# Parameters

Written by `docs/reference/make_parameters.py` from `pipeline/parameters/`; a test keeps it up to date. These are all
parameters with their built-in defaults (those of Stable Diffusion 2.1). `presets/<backbone>.yaml` changes some for a
backbone. `params.yaml` shows those that people change; any other may be added to it. Where each default comes from:
`docs/explanation/paper-and-code.md`.

A name with three parts is in a group: `upsample.fast.steps` is `upsample: {fast: {steps: 2}}` in a file. The groups
`parity` hold what only the presets of the paper and of the authors' code set, the groups `video` what only video models
have.
"""


def render() -> str:
    """The whole page."""
    parts = [HEAD]
    for section, kind in SECTIONS.items():
        parts.append(f"\n## {section}\n\n| parameter | default | meaning | accepts |\n|---|---|---|---|\n")
        for name, one in declared(kind).items():
            default = json.dumps(list(one.default) if isinstance(one.default, tuple) else one.default)
            parts.append(f"| `{section}.{name}` | `{default}` | {one.help} | {accepts(one)} |\n")
    return "".join(parts)


def accepts(one: Declared) -> str:
    """Choices or bounds, in words."""
    if typing.get_origin(one.kind) is typing.Literal:
        return ", ".join(typing.get_args(one.kind))
    if one.low is not None and one.high is not None:
        return f"{one.low:g} to {one.high:g}"
    return f"at least {one.low:g}" if one.low is not None else ""


if __name__ == "__main__":
    Path(__file__).with_name("parameters.md").write_text(render())

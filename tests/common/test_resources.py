"""What travels with the code."""

from __future__ import annotations

import tomllib

from tests.support.places import ROOT


def test_a_wheel_holds_all_of_the_embedded_model() -> None:
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    included = wheel["force-include"]
    kinds = (".safetensors", ".json", ".md")
    files = [file for file in (ROOT / "models" / "compact").rglob("*") if file.suffix in kinds]
    assert len(files) >= 11
    for file in files:
        name = file.relative_to(ROOT).as_posix()
        (entry,) = (entry for entry in included if name == entry or name.startswith(f"{entry}/"))
        assert included[entry] == f"stages/resources/{entry}"

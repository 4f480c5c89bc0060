"""The documentation says what the code does."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pipeline import artifacts

ROOT = Path(__file__).resolve().parents[1]
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]


def test_the_parameter_page_is_up_to_date() -> None:
    spec = importlib.util.spec_from_file_location("page", ROOT / "docs/reference/make_parameters.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert (ROOT / "docs/reference/parameters.md").read_text() == module.render()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", page.read_text()):
        if not target.startswith(("http:", "https:")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_map_names_every_module_and_marks_those_that_take_paths() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    listed = set(re.findall(r"\w+\*?", re.sub(r"(?<= )_(?=[a-z])", "pretraining_", text.split("```")[3])))
    for file in sorted((ROOT / "pipeline").rglob("[a-z]*.py")):
        star = "*" if re.search(r"\bPath\b", file.read_text()) else ""
        assert file.stem + star in listed, f"the map lacks {file.stem}{star}"
    for file in sorted((ROOT / "stages").glob("[a-z]*.py")):
        assert file.stem in listed, f"the map lacks {file.stem}"


def test_every_command_is_in_the_reference() -> None:
    from typer.main import get_command

    from stages.main import app

    text = (ROOT / "docs/reference/commands.md").read_text()
    for name, command in get_command(app).commands.items():  # type: ignore[attr-defined]
        assert f"`vidseg {name}" in text, name
        for part in getattr(command, "commands", {}):
            assert re.search(rf"`vidseg {name} [^`]*\b{part}\b", text), f"{name} {part}"


def test_the_ten_line_reader_needs_only_zarr(tmp_path: Path) -> None:
    code = re.search(r"```python\n(.*?)```", (ROOT / "docs/artifacts.md").read_text(), re.DOTALL)
    assert code is not None
    assert set(re.findall(r"^import (\w+)", code[1], re.MULTILINE)) == {"sys", "zarr"}
    specs = {"labels": artifacts.ArraySpec((2, 4, 4), "uint8")}
    store = artifacts.StoreWriter(tmp_path / "labels.zarr", tmp_path / "tmp", artifacts.LABELS, "m", specs, params={})
    store.write("labels", 0, np.full((2, 4, 4), 7, np.uint8))
    path = store.commit()
    result = subprocess.run([sys.executable, "-c", code[1], str(path)], capture_output=True, text=True, check=True)
    assert "fingerprint     m" in result.stdout
    assert "labels          (2, 4, 4) uint8" in result.stdout
    assert "min 7 max 7" in result.stdout

"""The documentation says what the code does."""

from __future__ import annotations

import ast
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pipeline.stores.schemas import LABELS, ArraySpec
from pipeline.stores.writer import StoreWriter
from tests.support.places import ROOT

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


MAP = re.findall(r"^\| `([\w/]+)`(\*?) \| [^|]+ \| ([^|]*)\|$", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE)


def folders() -> dict[str, set[str]]:
    """Every folder of modules, and the folders that its modules import."""
    found: dict[str, set[str]] = {}
    for file in [*(ROOT / "pipeline").rglob("*.py"), *(ROOT / "stages").rglob("*.py")]:
        folder = str(file.parent.relative_to(ROOT))
        found.setdefault(folder, set())
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(("pipeline", "stages")):
                place = str(node.module).replace(".", "/")
                found[folder].add(place.rpartition("/")[0] if (ROOT / f"{place}.py").exists() else place)
        found[folder] -= {folder, "pipeline"}
    return {folder: imported for folder, imported in found.items() if folder != "pipeline"}


def test_the_map_names_every_folder_and_what_it_imports() -> None:
    listed = {}
    for folder, _, imported in MAP:
        top = folder.partition("/")[0]
        names = re.findall(r"`([\w/]+)`", imported)
        listed[folder] = {name if name.startswith("stages") else f"{top}/{name}" for name in names}
    found = {
        folder: {name for name in imported if name.partition("/")[0] == folder.partition("/")[0]}
        for folder, imported in folders().items()
    }
    assert listed == found


def test_pipeline_never_imports_stages() -> None:
    for folder, imported in folders().items():
        assert not folder.startswith("pipeline") or not any(name.startswith("stages") for name in imported), folder


def test_the_map_marks_the_folders_whose_modules_take_paths() -> None:
    for folder, star, _ in MAP:
        takes_paths = any(re.search(r"\bPath\b", file.read_text()) for file in (ROOT / folder).glob("*.py"))
        assert takes_paths == bool(star) or folder.startswith("stages"), folder


def test_no_module_imports_itself_through_others() -> None:
    """At import time or within a function: a circle of modules can only be understood as one."""
    imports: dict[str, set[str]] = {}
    for file in [*(ROOT / "pipeline").rglob("*.py"), *(ROOT / "stages").rglob("*.py")]:
        module = ".".join(file.relative_to(ROOT).with_suffix("").parts)
        imports[module] = set()
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module:
                imports[module] |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    left = {module: {name for name in names if name in imports} for module, names in imports.items()}
    while free := {module for module, names in left.items() if not names}:
        left = {module: names - free for module, names in left.items() if module not in free}
    assert not left, f"circles among: {sorted(left)}"


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
    specs = {"labels": ArraySpec((2, 4, 4), "uint8")}
    store = StoreWriter(tmp_path / "labels.zarr", tmp_path / "tmp", LABELS, "m", specs, params={})
    store.write("labels", 0, np.full((2, 4, 4), 7, np.uint8))
    path = store.commit()
    result = subprocess.run([sys.executable, "-c", code[1], str(path)], capture_output=True, text=True, check=True)
    assert "fingerprint     m" in result.stdout
    assert "labels          (2, 4, 4) uint8" in result.stdout
    assert "min 7 max 7" in result.stdout

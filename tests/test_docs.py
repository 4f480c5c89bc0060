"""The documentation says what the code does."""

from __future__ import annotations

import ast
import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.stores.schemas import LABELS, ArraySpec
from pipeline.stores.writer import StoreWriter
from tests.support.places import ROOT

PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), ROOT / "models/compact/MODEL_CARD.md"]
TEXT = {".md", ".py", ".yaml", ".toml"}


def texts(*folders: str) -> list[Path]:
    """Text files of the repository below these folders, `.` for those at its top."""
    found = [file for folder in folders for file in (ROOT / folder).glob("*" if folder == "." else "**/*")]
    return sorted(file for file in found if file.suffix in TEXT)


def anchors(page: Path) -> set[str]:
    """The links that a page's headings can be reached by, as GitHub forms them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_parameter_page_is_up_to_date() -> None:
    spec = importlib.util.spec_from_file_location("page", ROOT / "docs/reference/make_parameters.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert (ROOT / "docs/reference/parameters.md").read_text() == module.render()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target, anchor in re.findall(r"\]\(([^)#\s]*)#?([^)\s]*)\)", page.read_text()):
        if not target.startswith(("http:", "https:")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
            assert not anchor or anchor in anchors(page.parent / target if target else page), f"{page.name}: {anchor}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_named_by_a_page_exist(page: Path) -> None:
    for name in re.findall(r"`((?:pipeline|stages|tests|benchmarks|docs|presets|models)/[\w/.-]+)", page.read_text()):
        assert (ROOT / name).exists(), f"{page.name}: {name}"


def test_files_named_by_messages_and_comments_exist() -> None:
    for file in texts("pipeline", "stages", "benchmarks", "tests", "presets", "."):
        for name in re.findall(r"\b(?:docs|pipeline|presets|benchmarks|tests)/[\w/-]+\.(?:md|py)\b", file.read_text()):
            assert (ROOT / name).exists(), f"{file.relative_to(ROOT)}: {name}"


def test_every_page_lies_in_a_section_and_in_the_table_of_contents() -> None:
    contents = (ROOT / "docs/README.md").read_text()
    for page in (ROOT / "docs").rglob("*.md"):
        name = str(page.relative_to(ROOT / "docs"))
        assert name == "README.md" or f"({name})" in contents, name
        assert name == "README.md" or name.partition("/")[0] in ("how-to", "reference", "explanation"), name


#: Words about the circumstances of a measurement, which tell a reader nothing that holds for him.
CIRCUMSTANCES = (
    r"this machine|had here|there was none|no real weights|busy|shared machine|shared 2-core|other (?:work|load)\b"
)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_no_page_tells_of_the_machine_that_measured(page: Path) -> None:
    found = re.search(CIRCUMSTANCES, " ".join(page.read_text().split()))
    assert found is None, f"{page.name}: {found}"


def test_no_code_names_a_document_that_is_not_in_the_repository() -> None:
    absent = "DES" + "IGN"
    for file in texts("pipeline", "stages", "benchmarks", "tests", "presets", "docs", "."):
        assert absent not in file.read_text(), file


MAP = re.findall(r"^\| `([\w/]+)`(\*?) \| [^|]+ \| ([^|]*)\|$", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE)


def folders() -> dict[str, set[str]]:
    """Every folder of modules, and the folders that its modules import, but for that of parameters, which all do."""
    found: dict[str, set[str]] = {}
    for file in [*(ROOT / "pipeline").rglob("*.py"), *(ROOT / "stages").rglob("*.py")]:
        folder = str(file.parent.relative_to(ROOT))
        found.setdefault(folder, set())
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(("pipeline", "stages")):
                place = str(node.module).replace(".", "/")
                found[folder].add(place.rpartition("/")[0] if (ROOT / f"{place}.py").exists() else place)
        found[folder] -= {folder, "pipeline", "pipeline/parameters"}
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


def test_where_to_change_what_names_code_that_exists() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text().partition("## Where do I change X?")[2].partition("\n## ")[0]
    rows = dict(re.findall(r"^\| an? ([\w ]+) \| (.*) \|$", text, re.MULTILINE))
    assert list(rows) == [
        "data set", "backbone", "encoder", "upsampler", "tracker", "metric",
        "stage", "parameter", "store", "picture", "export", "command", "preset",
    ]  # fmt: skip
    code = "\n".join(file.read_text() for file in texts("pipeline", "stages"))
    for thing, row in rows.items():
        names = re.findall(r"`([^`]+)`", row)
        paths = [name for name in names if re.fullmatch(r"[\w.-]+(/[\w.-]*)+|\w+\.yaml", name)]
        assert len(paths) >= 3, thing
        for path in paths:
            assert (ROOT / path).exists(), f"{thing}: {path}"
        for name in names:  # constants and classes
            assert not re.fullmatch(r"[A-Z]\w+", name) or re.search(rf"^(class )?{name}\b", code, re.MULTILINE), name


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


def commands() -> dict[str, Any]:
    """Every command by the words that call it, without the groups."""
    from typer.main import get_command

    from stages.main import app

    found: dict[str, Any] = {}
    groups = [("vidseg", get_command(app))]
    while groups:
        name, group = groups.pop()
        for part, command in group.commands.items():  # type: ignore[attr-defined]
            if hasattr(command, "commands"):
                groups.append((f"{name} {part}", command))
            else:
                found[f"{name} {part}"] = command
    return found


def test_every_command_is_in_the_reference() -> None:
    text = (ROOT / "docs/reference/commands.md").read_text()
    for name in commands():
        group, _, part = name.removeprefix("vidseg ").partition(" ")
        assert re.search(rf"`vidseg {group} [^`]*\b{part}\b" if part else rf"`vidseg {group}\b", text), name


def test_help_can_be_read_without_its_neighbours() -> None:
    leaning = re.compile(r"(of|its|their|the same|which|only these|as above)\b", re.IGNORECASE)
    for name, command in commands().items():
        assert f"Example: {name}" in command.help, name
        assert not leaning.match(command.help), name
        for parameter in command.params:
            assert getattr(parameter, "help", None), f"{name}: {parameter.name}"
            assert not leaning.match(parameter.help), f"{name}: {parameter.name}"


def test_docstrings_can_be_read_without_their_neighbours() -> None:
    for file in texts("pipeline", "stages", "benchmarks", "tests"):
        name = str(file.relative_to(ROOT))
        if file.suffix == ".py":
            found = re.search(r'("""|^ *#: )(Of|The same)\b.*', file.read_text(), re.MULTILINE)
            assert found is None, f"{name}: {found}"


def test_the_ten_line_reader_needs_only_zarr(tmp_path: Path) -> None:
    code = re.search(r"```python\n(.*?)```", (ROOT / "docs/reference/artifacts.md").read_text(), re.DOTALL)
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

"""What `make` says before it installs anything."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(shutil.which("make") is None, reason="there is no make here")
def test_a_zip_without_git_is_told_before_anything_is_installed(tmp_path: Path) -> None:
    shutil.copy(ROOT / "Makefile", tmp_path)
    made = subprocess.run(
        ["make", "demo"], cwd=tmp_path, capture_output=True, text=True, env={"PATH": "/usr/bin:/bin", "GIT_DIR": "none"}
    )
    assert made.returncode == 2
    assert "is no git repository, which DVC needs; run: git init && git add -A" in made.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["Makefile"]

"""A worker's clone of the project."""

from __future__ import annotations

from pathlib import Path

from stages.cluster.worker import Clone, Site


def test_inputs_are_linked_with_what_hides_their_files_from_dvc(tmp_path: Path) -> None:
    """DVC would otherwise watch in the clone what the project's own DVC does not, and find other inputs."""
    project, clone = tmp_path / "project", tmp_path / "clone"
    item = project / "inputs/vspw/vspw-000"
    (item / "a/frames").mkdir(parents=True)
    files = ("inputs/vspw/.dvcignore", "inputs/vspw/vspw-000/index.json", "inputs/vspw/vspw-000/a/frames/0.png")
    for name in files:
        (project / name).write_text(name)
    other = "inputs/vspw/registration.json"
    (project / other).write_text("not read by stages")
    site = Site(project, "HEAD", tmp_path, tmp_path, tmp_path, tmp_path, 1, (), {})
    Clone(site, clone).bring(("inputs/vspw/vspw-000/a/frames", "inputs/vspw/vspw-000/index.json"))
    assert [(clone / name).read_text() for name in files] == list(files)
    assert not (clone / other).exists()

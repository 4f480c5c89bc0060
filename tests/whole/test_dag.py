"""The DVC pipeline: the real `dvc repro` on a tiny model, and which stages a change runs again."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.support import tiny, yaml
from tests.support.commands import ENVIRONMENT, write_frames, write_labels
from tests.support.places import ROOT

ITEM_STAGES = ("ingest", "extract", "correspond", "segment", "upsample", "evaluate", "render")


class Project:
    """A checkout's pipeline files in a folder of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("dvc.yaml", "versions.yaml", "inputs"):
            source = ROOT / name
            copy = shutil.copytree if source.is_dir() else shutil.copy
            copy(source, folder / name)
        self.params = yaml.safe_load((ROOT / "params.yaml").read_text())
        bin_folder = Path(sys.executable).parent
        self.environment = {**ENVIRONMENT, "PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}"}
        self.environment["DVC_SITE_CACHE_DIR"] = str(folder / "site")
        self.run("dvc", "init", "--no-scm", "-q")
        self.run("dvc", "config", "core.analytics", "false")

    def run(self, *command: str) -> str:
        result = subprocess.run(
            command, cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=600
        )
        assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
        return result.stdout + result.stderr

    def write_params(self) -> None:
        (self.folder / "params.yaml").write_text(yaml.safe_dump(self.params))

    def write_videos(self, items: dict[str, list[dict[str, object]]]) -> None:
        none = dict.fromkeys(("ground_truth", "classes", "mask"), "inputs/none")
        content = {key: [none | entry for entry in entries] for key, entries in items.items()}
        (self.folder / "videos.yaml").write_text(yaml.safe_dump({"items": content}))

    def repro(self, *targets: str) -> list[str]:
        """Run `dvc repro`; returns the stages that ran, in order."""
        return self.run_stages(*(targets or ITEM_STAGES), "summarize")

    def run_stages(self, *targets: str) -> list[str]:
        """Run `dvc repro` of just these stages; returns those that ran, in order."""
        return re.findall(r"Running stage '([^']+)'", self.run("dvc", "repro", *targets))


def stages_of(names: list[str]) -> list[str]:
    return sorted({name.partition("@")[0] for name in names})


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Two items: one video with ground truth, and one item of two videos without."""
    folder = tmp_path_factory.mktemp("project")
    made = Project(folder)
    model = tiny.save_model(folder / "model")
    frames = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
    frames[:, :, 32:] //= 4
    labels = np.zeros((3, 64, 64), np.uint8)
    labels[:, :, 32:] = 1
    write_frames(folder / "one", frames)
    write_labels(folder / "truth", labels)
    write_frames(folder / "two-a", frames[::-1])
    write_frames(folder / "two-b", frames[:1])
    made.params["backbone"]["path"] = str(model)
    made.params["ingest"]["size"] = "native"
    made.params["segment"]["clusters"] = 2
    made.write_params()
    made.write_videos(
        {
            "one": [{"path": "one", "ground_truth": "truth"}],
            "two": [{"path": "two-a", "name": "a"}, {"path": "two-b", "name": "b"}],
        }
    )
    made.run("vidseg", "backbone", "lock", "--params", "params.yaml")
    ran = made.repro()
    assert stages_of(ran) == sorted([*ITEM_STAGES, "summarize"])
    return made


def test_every_store_lies_where_the_design_says(project: Project) -> None:
    data = project.folder / "data"
    for path in (
        "ingest/one/clip.zarr", "ingest/one/truth.zarr", "ingest/one/seed", "ingest/one/source/source.json",
        "extract/one/features.zarr",
        "extract/one/latents.zarr", "correspond/one/matches.zarr", "segment/one/coarse.zarr",
        "segment/one/context", "upsample/one/labels.zarr", "evaluate/one/scores.json", "render/one/overlay.mp4",
        "extract/two/features.zarr/a/zarr.json", "extract/two/features.zarr/b/zarr.json",
        "ingest/two/source/b/source.json",
    ):  # fmt: skip
        assert (data / path).exists(), path
    assert (project.folder / "metrics.json").is_file()
    assert not list(data.rglob("tmp"))


def test_nothing_changed_nothing_runs(project: Project) -> None:
    assert project.repro() == []
    assert "up to date" in project.run("dvc", "status", *ITEM_STAGES, "summarize")


def change(section: str, key: str, value: object):  # type: ignore[no-untyped-def]
    def apply(project: Project) -> None:
        project.params[section][key] = value
        project.write_params()

    return apply


def correct_a_label(project: Project) -> None:
    labels = np.zeros((1, 64, 64), np.uint8)
    labels[:, :, 30:] = 1
    write_labels(project.folder / "truth", labels)


@pytest.mark.parametrize(
    ("apply", "expected"),
    [
        pytest.param(
            change("upsample", "strength", 20.0),
            ["evaluate", "render", "summarize", "upsample"],
            id="strength",
        ),
        pytest.param(
            change("segment", "clusters", 3),
            ["evaluate", "render", "segment", "summarize", "upsample"],
            id="clusters",
        ),
        pytest.param(correct_a_label, ["evaluate", "ingest", "summarize"], id="ground-truth"),
        pytest.param(change("render", "opacity", 0.4), ["render"], id="opacity"),
        pytest.param(change("ingest", "fps", 5.0), ["ingest", "render"], id="fps"),
    ],
)
def test_what_a_change_runs_again(project: Project, apply, expected: list[str]) -> None:  # type: ignore[no-untyped-def]
    apply(project)
    assert stages_of(project.repro()) == expected
    assert "up to date" in project.run("dvc", "status", *ITEM_STAGES, "summarize")


def test_only_the_changed_item_runs(project: Project) -> None:
    project.write_videos(
        {
            "one": [{"path": "one", "ground_truth": "truth"}],
            "two": [{"path": "two-a", "name": "a"}],
        }
    )
    assert all(name.endswith("@two") or name == "summarize" for name in project.repro())


def test_an_item_that_is_no_more_leaves_the_summary(project: Project) -> None:
    def videos() -> int:
        return int(json.loads((project.folder / "metrics.json").read_text())["videos"])

    one: dict[str, object] = {"path": "one", "ground_truth": "truth"}
    project.write_videos({"one": [one], "more": [{"path": "two-b"}]})
    project.repro()
    assert videos() == 2
    project.write_videos({"one": [one]})
    assert project.repro() == ["summarize"]
    assert videos() == 1
    assert (project.folder / "data/evaluate/more/scores.json").is_file()


def test_a_mask_is_watched(project: Project) -> None:
    """By its content too, not only by its entry in videos.yaml."""
    for value in (0, 1):
        mask = write_labels(project.folder / "mask", np.full((1, 64, 64), value, np.uint8)) / "00000.png"
        project.write_videos({"one": [{"path": "one", "ground_truth": "truth", "mask": str(mask)}]})
        ran = stages_of(project.repro("ingest", "segment"))
        assert {"ingest", "segment"} <= set(ran) and "extract" not in ran


def test_an_earlier_parameter_comes_back_from_the_cache(project: Project) -> None:
    before = (project.folder / "data/upsample/one/labels.zarr/zarr.json").read_bytes()
    change("upsample", "method", "nearest")(project)
    project.repro()
    change("upsample", "method", "modulation")(project)
    output = project.run("dvc", "repro", "upsample@one")
    assert "is cached - skipping run" in output
    assert (project.folder / "data/upsample/one/labels.zarr/zarr.json").read_bytes() == before


def test_locked_weights_guard_the_pipeline(project: Project) -> None:
    lock = project.folder / "backbone.lock"
    kept = lock.read_text()
    lock.write_text('{"name": "compact", "revision": null, "sha256": "0"}')
    result = subprocess.run(
        ["vidseg", "extract", "--item", "one", "--params", "params.yaml"],
        cwd=project.folder, env=project.environment, capture_output=True, text=True,
    )  # fmt: skip
    lock.write_text(kept)
    assert result.returncode == 4
    assert "run `vidseg backbone lock --params params.yaml`" in result.stderr


@pytest.mark.slow
def test_another_small_decoder_runs_upsample_alone(project: Project) -> None:
    """And none that the lock does not know is used."""
    upsample = dict(project.params["upsample"])
    project.params["upsample"] |= {"mode": "fast", "fast_decode": "small"}
    project.write_params()
    for seed, refused in enumerate(("no small decoder", "another small decoder")):
        tiny.save_small_decoder(project.folder / "model" / "small_decoder", seed)
        result = subprocess.run(
            ["vidseg", "upsample", "--item", "one", "--params", "params.yaml"],
            cwd=project.folder, env=project.environment, capture_output=True, text=True,
        )  # fmt: skip
        assert result.returncode == 4
        assert f"backbone.lock has {refused}; run `vidseg backbone lock --params params.yaml`" in result.stderr
        project.run("vidseg", "backbone", "lock", "--params", "params.yaml")
        ran = stages_of(project.repro("upsample"))
        assert "upsample" in ran and "extract" not in ran
        assert "up to date" in project.run("dvc", "status", "extract", "upsample")
    shutil.rmtree(project.folder / "model" / "small_decoder")
    project.params["upsample"] = upsample
    project.write_params()
    project.run("vidseg", "backbone", "lock", "--params", "params.yaml")


@pytest.mark.parametrize("key", ["a;touch x", "../x", "a b", "a.b"])
def test_keys_that_are_not_safe_in_a_path_are_refused(project: Project, key: str) -> None:
    result = subprocess.run(
        ["vidseg", "extract", "--params", "params.yaml"],
        cwd=project.folder, env={**project.environment, "DVC_STAGE": f"extract@{key}"}, capture_output=True, text=True,
    )  # fmt: skip
    assert result.returncode == 2
    assert "keys may hold letters" in result.stderr

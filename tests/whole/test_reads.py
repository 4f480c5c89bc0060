"""What every stage of dvc.yaml reads is among its dependencies and parameters: else `dvc repro` would not notice.

Each stage runs for real while its reads are recorded. Meanwhile videos.yaml and backbone.lock hold only what the stage
declares of them; what else they need to hold leads nowhere.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dvc.dependency.param import ParamsDependency
from dvc.repo import Repo
from dvc.stage import Stage

from pipeline.naming.names import Named, Names, NamesFile, write_names
from pipeline.stores.numbering import Numbering
from pipeline.stores.schemas import APPLIED_LABELS, LABELS
from pipeline.stores.store import open_store
from pipeline.truth.class_list import ClassList, LabelClass, write_classes
from stages.common import resources
from stages.common.settings import Settings
from tests.support import reads, tiny, yaml
from tests.support.commands import vidseg, write_frames, write_labels
from tests.support.project import APPLIED_STAGES, ITEM_STAGES, Project

ONE, SEVERAL, CONCEPT, APPLIED = "one", "set-000", "cars", "fast"
#: In the order in which they can run.
ITEMS = [f"{stage}@{key}" for key in (ONE, SEVERAL) for stage in ITEM_STAGES]
SHOWN = [f"{stage}@{CONCEPT if stage in ('references', 'learn') else APPLIED}" for stage in APPLIED_STAGES]

#: What a stage reads of params.yaml although it does not watch it, and why no result depends on it.
SECTIONS_BESIDE = {
    "extract": {section: "weights of features it is not to write are refused" for section in
                ("correspond", "segment", "track")},
    "upsample": {"extract": "another window than the latents' is refused; they are watched"},
}  # fmt: skip
#: Files likewise, by how their paths below the project begin.
FILES_BESIDE = {
    "ingest": {
        "inputs/set/.dvcignore": "whether DVC looks at frames themselves is found by it",
        "inputs/set/set-000": "compared with index.json, which is watched, before they are used",
    },
    "segment": {"data/ingest/set-000/clip.zarr": "names of the item's videos, those of the features"},
    "correspond": {"data/ingest/set-000/clip.zarr": "names of the item's videos, those of the features"},
    "render": {
        "one": "pictures of clip.zarr, which is watched, in their own size",
        "inputs/set/set-000": "pictures of clip.zarr, which is watched, in their own size",
    },
}
FILES_BESIDE["render_applied"] = FILES_BESIDE["render"]
#: Files that a stage watches by the names in them.
PARAMETER_FILES = ("params.yaml", "versions.yaml", "videos.yaml", "backbone.lock")


@dataclass
class Read:
    """What a stage has read: paths below the project, sections of params.yaml, numbers of versions.yaml, weights."""

    files: list[str]
    sections: set[str]
    numbers: set[str]
    weights: list[str]


class Reads:
    """A project, and what its stages read, each of which runs once, after those before it."""

    def __init__(self, root: Path) -> None:
        self.root, self.folder = root, root / "project"
        self.folder.mkdir()
        project = Project(self.folder)
        self.model = tiny.save_model(root / "model")
        tiny.save_small_decoder(self.model / "small_decoder")
        project.params["backbone"]["path"] = str(self.model)
        project.params["ingest"] |= {"size": "native", "seed": "truth"}
        project.params["segment"] |= {"init": "mask", "direction": "both"}
        project.params["upsample"] |= {"method": "modulation", "mode": "fast", "fast": {"decode": "small"}}
        project.params["learn"] |= {"size": 64, "epochs": 2, "phase1_iterations": 2}
        project.write_params()
        self._write_inputs()
        (self.folder / "videos.yaml").write_text("items: {}\nconcepts: {}\napplied: {}\n")
        self._vidseg("dataset", "register", root / "set", "--dataset", "folders", "--name", "set", "--per-item", "2")
        self._vidseg("backbone", "lock", "--params", "params.yaml")
        self.videos = yaml.safe_load((self.folder / "videos.yaml").read_text())
        several, applied = self.videos["items"][SEVERAL][0], {"item": ONE, "concept": CONCEPT, "skip": [0]}
        one = {"path": "one", "ground_truth": "truth", "classes": "classes.json", "mask": "mask", "names": "one.json"}
        several["names"] = "names"
        self.videos = {
            "items": {ONE: [one], SEVERAL: [several]},
            "concepts": {CONCEPT: {"references": "cars", "classes": "inputs/none"}},
            "applied": {APPLIED: applied | {"names": "fast.json"}},
        }
        self.lock = json.loads((self.folder / "backbone.lock").read_text())
        self._write_videos(self.videos)
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(self.folder)
            with Repo() as repo:
                self.stages: dict[str, Stage] = {stage.addressing: stage for stage in repo.index.stages}
        self._made: dict[str, Read] = {}

    def read_by(self, name: str) -> Read:
        """What `stage@key` reads when it runs."""
        order = ITEMS if name in ITEMS else [*ITEMS[: len(ITEM_STAGES)], *SHOWN]
        for earlier in order[: order.index(name) + 1]:
            if earlier not in self._made:
                self._made[earlier] = self._run(earlier)
        return self._made[name]

    def watched(self, name: str) -> tuple[list[Path], dict[str, list[str]]]:
        """Paths that a stage depends on, and the names that it watches in files of parameters."""
        deps = self.stages[name].deps
        params = {Path(dep.fs_path).name: list(dep.params) for dep in deps if isinstance(dep, ParamsDependency)}
        return [Path(dep.fs_path) for dep in deps if not isinstance(dep, ParamsDependency)], params

    def _run(self, name: str) -> Read:
        stage, (_, params) = name.partition("@")[0], self.watched(name)
        self._write_videos(_only(self.videos, params.get("videos.yaml", [])))
        locked = {"version", *params.get("backbone.lock", [])}
        lock = {key: value if key in locked else "elsewhere" for key, value in self.lock.items()}
        (self.folder / "backbone.lock").write_text(json.dumps(lock))
        sections, numbers = set[str](), set[str]()
        section_of, number_of = Settings.__getitem__, resources.stage_number

        def section(settings: Settings, name: str) -> Any:
            if "ingest.size" in settings.given:  # of the project; others are defaults, to compare with
                sections.add(name)
            return section_of(settings, name)

        def number(stage: str) -> float:
            numbers.add(stage)
            return number_of(stage)

        command, key = stage.removesuffix("_applied"), name.partition("@")[2]
        if command == "evaluate":
            self._write_names(key)
        with pytest.MonkeyPatch.context() as patch, reads.recorded(self.root) as found:
            patch.setattr(Settings, "__getitem__", section)
            patch.setattr(resources, "stage_number", number)
            patch.setenv("DVC_STAGE", name)
            self._vidseg(command, *([] if command == "references" else ["--params", "params.yaml"]))
        own = [Path(out.fs_path) for out in self.stages[name].outs]
        scratch = self.folder / "data" / command / key / "tmp"
        files = [path.relative_to(self.folder) for path in found if path.is_relative_to(self.folder) and path.exists()]
        kept = [file for file in files if not any((self.folder / file).is_relative_to(out) for out in (*own, scratch))]
        weights = [str(path.relative_to(self.model)) for path in found if path.is_relative_to(self.model)]
        return Read(sorted(map(str, kept)), sections, numbers, sorted(weights))

    def _write_inputs(self) -> None:
        frames = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
        frames[:, :, 32:] //= 4
        labels = np.zeros((3, 64, 64), np.uint8)
        labels[:, :, 32:] = 1
        write_frames(self.folder / "one", frames)
        for place in ("truth", "mask"):
            write_labels(self.folder / place, labels)
        classes = ClassList(tuple(LabelClass(number, name, (number, 0, 0)) for number, name in enumerate("ab")))
        write_classes(self.folder / "classes.json", classes)
        for name in ("a", "b"):
            write_frames(self.root / "set" / name / "frames", frames)
            write_labels(self.root / "set" / name / "labels", labels)
        write_frames(self.folder / "cars" / "images", frames[:2])
        write_labels(self.folder / "cars" / "labels", labels[:2])

    def _write_names(self, key: str) -> None:
        """names.json of what was labelled: each fits the segments that it names, and no others."""
        video, named = ("a", "names/a/names.json") if key == SEVERAL else ("", f"{key}.json")
        stage, schema = ("apply", APPLIED_LABELS) if key == APPLIED else ("upsample", LABELS)
        labels = open_store(self.folder / "data" / stage / key / "labels.zarr" / video, schema)
        place = self.folder / named
        place.parent.mkdir(parents=True, exist_ok=True)
        write_names(place, NamesFile(Numbering.of_labels(labels).origin, Names({1: Named("right")})))

    def _write_videos(self, content: Any) -> None:
        (self.folder / "videos.yaml").write_text(yaml.safe_dump(content))

    def _vidseg(self, *arguments: object) -> None:
        vidseg(*arguments, cwd=self.folder)


def _only(videos: Any, watched: list[str]) -> Any:
    """videos.yaml of what is watched in it, and of what makes it valid: keys, and paths that lead nowhere.

    `names` stay: they are dependencies by themselves.
    """
    items = {
        key: entries if f"items.{key}" in watched else [{"path": "nowhere", "names": entries[0]["names"]}]
        for key, entries in videos["items"].items()
    }
    concepts = {
        key: entry if f"concepts.{key}" in watched else {"references": "nowhere"}
        for key, entry in videos["concepts"].items()
    }
    applied = {
        key: entry if f"applied.{key}" in watched else {name: entry[name] for name in entry if name != "skip"}
        for key, entry in videos["applied"].items()
    }
    return {"items": items, "concepts": concepts, "applied": applied}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reads]:
    yield Reads(tmp_path_factory.mktemp("reads"))


@pytest.mark.parametrize("name", [*ITEMS, *(pytest.param(name, marks=pytest.mark.slow) for name in SHOWN)])
def test_a_stage_reads_what_dvc_watches(made: Reads, name: str) -> None:
    stage, read, (paths, params) = name.partition("@")[0], made.read_by(name), made.watched(name)
    beside = [made.folder / file for file in (*PARAMETER_FILES, *FILES_BESIDE.get(stage, ()))]
    known = [*paths, *beside]
    assert [file for file in read.files if not any((made.folder / file).is_relative_to(one) for one in known)] == []
    assert read.sections - set(params.get("params.yaml", ())) - set(SECTIONS_BESIDE.get(stage, ())) == set()
    assert read.numbers <= set(params["versions.yaml"])
    locked = set(params.get("backbone.lock", ()))
    assert bool(read.weights) == ("sha256" in locked)
    assert any("small_decoder" in file for file in read.weights) <= ("small_decoder" in locked)


def test_what_is_read_beside_is_read(made: Reads) -> None:
    """Else the lists of exceptions would outlive their reasons."""
    for name in ITEMS:
        stage, read = name.partition("@")[0], made.read_by(name)
        assert set(SECTIONS_BESIDE.get(stage, ())) <= read.sections
        if name.endswith(SEVERAL):
            both = [*read.files, *made.read_by(f"{stage}@{ONE}").files]
            for place in FILES_BESIDE.get(stage, ()):
                assert any(file.startswith(place) for file in both), (stage, place)

"""A project in git for the tests of distributed runs: a pipeline of two quick stages, or the real one."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.support import yaml
from tests.support.commands import ENVIRONMENT, heed_interrupts

#: Each stage notes that it ran, and where; `hold` is a file that lets the item `slow` wait in it, while it exists.
#: A clone is named after its worker, which the item `deadly` kills.
STAGE = """
stage=${DVC_STAGE%@*} key=${DVC_STAGE#*@}
echo "$DVC_STAGE $(basename "$PWD")" >> "$VIDSEG_TEST_RAN"
while [ "$key" = slow ] && [ -e "$VIDSEG_TEST_RAN.hold" ]; do sleep 0.1; done
if [ "$key" = deadly ]; then kill -9 "${PWD##*-}"; sleep 60; fi
if [ "$key" = broken ]; then echo "error: videos/broken: frame 3 is damaged"; exit 3; fi
mkdir -p "data/$stage/$key"
cat "$1/$key"/* > "data/$stage/$key/out"
echo "$stage" >> "data/$stage/$key/out"
"""
PIPELINE = {
    "vars": ["videos.yaml"],
    "stages": {
        "extract": {
            "foreach": "${items}",
            "do": {
                "cmd": "sh stage.sh videos",
                "deps": ["${item[0].path}"],
                "outs": ["data/extract/${key}"],
            },
        },
        "render": {
            "foreach": "${items}",
            "do": {
                "cmd": "sh stage.sh data/extract",
                "deps": ["data/extract/${key}"],
                "outs": ["data/render/${key}"],
            },
        },
        "summarize": {
            "cmd": "cat data/render/*/out > metrics.txt",
            "deps": ["data/render"],
            "outs": [{"metrics.txt": {"cache": False}}],
        },
    },
}


class Checkout:
    """A repository with a DVC pipeline."""

    def __init__(self, folder: Path, site: Path) -> None:
        self.folder = folder
        self.ran_file = site / f"{folder.name}.ran"
        self.environment = {
            **ENVIRONMENT,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "DVC_SITE_CACHE_DIR": str(site / "dvc"),
            "TMPDIR": str(site),
            "VIDSEG_TEST_RAN": str(self.ran_file),
            "GIT_CONFIG_GLOBAL": os.devnull,
        }
        for role in ("AUTHOR", "COMMITTER"):
            self.environment |= {f"GIT_{role}_NAME": "tester", f"GIT_{role}_EMAIL": "tester@example.org"}

    def init(self) -> None:
        """Make it a repository of git and of DVC."""
        (self.folder / ".gitignore").write_text("/data/\n/videos/\n/.dvc/tmp/\n/.dvc/cache/\n")
        self.run("git", "init", "--quiet")
        self.run("dvc", "init", "--quiet")
        self.run("dvc", "config", "core.analytics", "false")
        self.commit()

    def commit(self) -> None:
        """Commit all that is not ignored."""
        self.run("git", "add", "--all")
        self.run("git", "commit", "--quiet", "--message", "project")

    def start(self, *command: str, terminal: bool = False) -> subprocess.Popen[str]:
        """Start a command here; as on a terminal of its own, if so: signals to its group reach its children."""
        return subprocess.Popen(
            command, cwd=self.folder, env=self.environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            start_new_session=terminal, preexec_fn=heed_interrupts,
        )  # fmt: skip

    def run(self, *command: str, check: int = 0) -> str:
        """Run a command here; returns what it prints. Fails the test unless the exit code is `check`."""
        process = self.start(*command)
        try:
            output, _ = process.communicate(timeout=1800)
        finally:
            process.terminate()
        assert process.returncode == check, f"{command}: exit {process.returncode}\n{output}"
        return output

    def cluster(self, *arguments: str, check: int = 0) -> str:
        """`vidseg cluster run`."""
        return self.run(*cluster_command(*arguments), check=check)

    def ran(self) -> list[tuple[str, str]]:
        """(stage@item, folder) of each run of the quick stages."""
        lines = self.ran_file.read_text().splitlines() if self.ran_file.exists() else []
        return [(stage, place) for stage, place in map(str.split, lines)]

    def copy(self, folder: Path, site: Path) -> Checkout:
        """The folder as it is now, in another place; absolute paths lead to it as well."""
        shutil.copytree(self.folder, folder)
        other = Checkout(folder, site)
        videos = folder / "videos.yaml"
        videos.write_text(videos.read_text().replace(str(self.folder), str(folder)))
        other.commit()
        return other

    def clone(self, folder: Path, site: Path) -> Checkout:
        """Another clone, with the same shared cache."""
        self.run("git", "clone", "--quiet", str(self.folder), str(folder))
        other = Checkout(folder, site)
        other.run("dvc", "cache", "dir", "--local", str(self.folder / ".dvc/cache"))
        return other


def cluster_command(*arguments: str) -> list[str]:
    """The words of `vidseg cluster run`."""
    return [sys.executable, "-m", "stages.main", "cluster", "run", *arguments]


def write_items(folder: Path, paths: Mapping[str, str], truth: str = "inputs/none") -> None:
    """videos.yaml with one video per item."""
    none = {"ground_truth": truth} | dict.fromkeys(("classes", "mask", "names"), "inputs/none")
    content = {key: [{"path": path, **none}] for key, path in paths.items()}
    (folder / "videos.yaml").write_text(yaml.safe_dump(yaml.videos(content)))


def write_video(folder: Path, key: str) -> None:
    """What the quick stages take for a video."""
    (folder / "videos" / key).mkdir(parents=True)
    (folder / "videos" / key / "0.png").write_text(f"frame of {key}\n")


def quick_project(folder: Path, site: Path, keys: list[str]) -> Checkout:
    """A project of the quick stages. Its videos are not in git; every other one has an absolute path."""
    made = Checkout(folder, site)
    folder.mkdir()
    (folder / "stage.sh").write_text(STAGE)
    (folder / "dvc.yaml").write_text(yaml.safe_dump(PIPELINE))
    paths = {}
    for number, key in enumerate(keys):
        write_video(folder, key)
        paths[key] = str(folder / "videos" / key) if number % 2 else f"videos/{key}"
    write_items(folder, paths)
    made.init()
    return made


def real_project(folder: Path, site: Path, root: Path, model: Path, paths: Mapping[str, str], truth: Path) -> Checkout:
    """A project of the real pipeline with a tiny model, with settings that take seconds."""
    made = Checkout(folder, site)
    for name in ("dvc.yaml", "versions.yaml"):
        shutil.copy(root / name, folder / name)
    shutil.copytree(root / "inputs/none", folder / "inputs/none")
    params = yaml.safe_load((root / "params.yaml").read_text())
    params["backbone"]["path"] = str(model)
    params["ingest"]["size"] = "native"
    params["segment"]["clusters"] = 2
    params["upsample"]["method"] = "nearest"
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    write_items(folder, paths, str(truth))
    made.run(sys.executable, "-m", "stages.main", "backbone", "lock", "--params", "params.yaml")
    made.init()
    return made

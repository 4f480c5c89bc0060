"""run.json: what a run took and warned of. Artifacts hold no times, so that their bytes repeat; this file does."""

from __future__ import annotations

import json
import platform
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from pipeline.errors import DataError
from pipeline.files import Mark, replacing, require_version
from stages.common import cli
from stages.common.settings import Settings, load

FILE = "run.json"
SCHEMA = "run"
SCHEMA_VERSION = 1
MARK = Mark(FILE, SCHEMA)
#: The sections of parameters that a run of a video goes by, and those that a concept is applied by.
SECTIONS = ("backbone", "diffusion", "ingest", "extract", "correspond", "segment", "upsample", "evaluate", "render")
APPLIED_SECTIONS = (
    "backbone", "diffusion", "ingest", "extract", "track", "maps", "guidance", "apply", "upsample", "evaluate", "render"
)  # fmt: skip
#: Packages whose versions may change a result.
PACKAGES = ("vidseg", "torch", "diffusers", "transformers", "numpy", "opencv-python-headless", "av", "zarr")


@dataclass
class RunRecord:
    """What a run of several stages takes and warns of, collected while it runs.

    Attributes:
        video: name of what it is run on.
        device: that it computes on.
        sections: of the parameters that it goes by.
        earlier: the run.json of an earlier run into this folder: what stages took whose stores are used again.
        seconds: per stage.
        warnings: stage and text.
    """

    video: str
    device: str
    settings: Settings
    sections: Sequence[str] = SECTIONS
    earlier: Mapping[str, Any] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    warnings: list[dict[str, str]] = field(default_factory=list)
    reused: bool = False

    @contextmanager
    def stage(self, name: str, store: Path | None = None) -> Iterator[None]:
        """Measure a stage, and hear its warnings.

        Args:
            store: that it makes, or folder of a context model; where this is the same afterwards, the stage was not run
                again.
        """
        heard: list[str] = []
        before, begun = _mark(store), time.monotonic()
        with cli.warnings_heard(heard.append):
            yield
        self.seconds[name] = round(time.monotonic() - begun, 2)
        if before is not None and before == _mark(store):
            self.reused = True
            del self.seconds[name]  # it took nothing now; what it took then is told where it is known
            self.seconds |= {known: took for known, took in self.earlier.get("seconds", {}).items() if known == name}
        self.warnings += [{"stage": name, "text": text} for text in dict.fromkeys(heard)]

    @property
    def total_seconds(self) -> float:
        """Seconds of all stages so far."""
        return sum(self.seconds.values())

    def content(self) -> dict[str, Any]:
        """What run.json holds; peak memory is of the whole process, and of the GPU where there is one."""
        return {
            "schema": SCHEMA,
            "schema_version": SCHEMA_VERSION,
            "video": self.video,
            "device": self.device,
            "seconds": self.seconds,
            "total_seconds": round(self.total_seconds, 2),
            "peak_memory_mb": self._largest("peak_memory_mb", cli.peak_memory_mb()),
            "peak_gpu_memory_mb": self._largest("peak_gpu_memory_mb", _peak_gpu_memory_mb()),
            "warnings": self.warnings,
            "parameters": changed_parameters(self.settings, self.sections),
            "versions": {"python": platform.python_version(), **{name: package_version(name) for name in PACKAGES}},
        }

    def write(self, folder: Path) -> Path:
        """Write run.json into a folder; callers make sure that it may be replaced, by `check_replaceable`."""
        path = folder / FILE
        with replacing(path) as temporary:
            temporary.write_text(json.dumps(self.content(), indent=1) + "\n")
        return path

    def _largest(self, name: str, now: int | None) -> int | None:
        earlier = self.earlier.get(name) if self.reused else None
        return max((value for value in (earlier, now) if value is not None), default=None)


def begin(video: str, device: str, settings: Settings, folder: Path, sections: Sequence[str] = SECTIONS) -> RunRecord:
    """The record of a run into a folder; an earlier one that cannot be read counts as none."""
    try:
        earlier = read_run(folder) or {}
    except DataError:
        earlier = {}
    return RunRecord(video, device, settings, sections, earlier)


def check_replaceable(folder: Path) -> None:
    """Refuse to replace a run.json of another origin.

    Raises:
        DataError: there is one.
    """
    if (folder / FILE).exists() and not MARK.on(folder):
        raise DataError(f"{folder / FILE}: was not written by `vidseg run`; choose another folder or move it away")


def read_run(folder: Path) -> dict[str, Any] | None:
    """The content of a folder's run.json; None = there is none.

    Raises:
        DataError: it is damaged or of another version.
    """
    path = folder / FILE
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text())
    except ValueError as error:
        raise DataError(f"{path}: not valid JSON; run `vidseg run` again, or delete it") from error
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        raise DataError(f"{path}: was not written by `vidseg run`; move it away")
    require_version(path, content, SCHEMA_VERSION, "run `vidseg run` again, or delete it")
    return content


def changed_parameters(settings: Settings, sections: Sequence[str]) -> list[dict[str, Any]]:
    """The parameters of a run that are not at the default of their backbone: name, value, default."""
    defaults = load(sets=[f"backbone.name={settings['backbone'].name}"]).flat()
    return [
        {"name": name, "value": value, "default": defaults[name]}
        for name, value in settings.flat().items()
        if name.partition(".")[0] in sections and value != defaults[name]
    ]


def _mark(store: Path | None) -> str | None:
    """The fingerprint of a store, or of what a context model was fitted on; None where there is neither."""
    if store is None:
        return None
    try:
        if (store / "meta.json").is_file():
            return str(json.loads((store / "meta.json").read_text())["fitted_on"])
        return str(json.loads((store / "zarr.json").read_text())["attributes"]["fingerprint"])
    except (OSError, ValueError, LookupError, TypeError):
        return None


def _peak_gpu_memory_mb() -> int | None:
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return None
    return round(torch.cuda.max_memory_allocated() / 1e6)


def package_version(package: str) -> str | None:
    """The version of an installed package; None = it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None

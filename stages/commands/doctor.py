"""What this machine has: versions, devices, FAISS build, weights, concepts, DVC's cache, free disk."""

from __future__ import annotations

import json
import platform
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from pipeline.errors import DataError, UsageError
from stages.common import cli
from stages.common.printing import text_table
from stages.common.run_record import package_version
from stages.common.settings import Settings, backbone_names, load

PACKAGES = (
    "vidseg",
    "torch",
    "diffusers",
    "transformers",
    "zarr",
    "numcodecs",
    "numpy",
    "av",
    "dvc",
    "typer",
)

#: Where concepts lie in a project: those of DVC, and those that were learned by hand as the documentation does it.
CONCEPTS = ("data/learn/*/concept", "concepts/*")
#: What a CPU is told of that multiplies bfloat16 in hardware; docs/explanation/precision.md has the measurements.
BFLOAT16 = "multiplies bfloat16: backbone.dtype=bfloat16 denoises a little faster, but finds other segments"
#: DVC's ways to place a file without copying it.
LINKS = ("reflink", "hardlink", "symlink")


def collect(settings: Settings) -> dict[str, Any]:
    """All findings as plain values; a problem is text starting with `missing` or `problem`."""
    return {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "versions": {name: _version(name) for name in PACKAGES},
        "device": _device(),
        "faiss": _faiss(),
        "backbones": {name: _weights(name) for name in backbone_names()},
        "encoders": {name: _encoder(settings, name) for name in _encoders(settings)},
        "concepts": {str(folder.relative_to(Path.cwd())): _concept(folder) for folder in _concept_folders(Path.cwd())},
        "free_disk_gb": _free_gb(Path.cwd()),
        "dvc_cache": _dvc_cache(Path.cwd()),
    }


def _version(package: str) -> str:
    return package_version(package) or "missing: pip install -e '.[cpu]'"


def _device() -> str:
    import torch

    if torch.cuda.is_available():
        names = ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
        return f"cuda ({names})"
    faster = f"; {BFLOAT16}" if _multiplies_bfloat16() else ""
    return f"cpu ({torch.get_num_threads()} threads{faster})"


def _multiplies_bfloat16() -> bool:
    """Whether the CPU does so in hardware, as far as torch tells."""
    import torch

    if not hasattr(torch.cpu, "get_capabilities"):  # torch of old
        return False
    found = torch.cpu.get_capabilities()
    return any(found.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))


def _faiss() -> str:
    from pipeline.segmentation.faiss_library import load_faiss

    try:
        faiss = load_faiss()  # loaded as the stages do: `--try` runs them in this process
    except UsageError as error:
        return f"missing: {error}"
    builds = [name for name in ("faiss-cpu", "faiss-gpu") if package_version(name)]
    if len(builds) > 1:
        return (
            "problem: faiss-cpu and faiss-gpu are both installed and overwrite each other; uninstall both, install one"
        )
    return f"{faiss.__version__} ({builds[0] if builds else 'unknown build'}, {faiss.get_num_gpus()} GPUs usable)"


def _weights(name: str) -> str:
    from pipeline.errors import WeightsError
    from stages.common.backbones import find

    try:
        source = find(load(sets=[f"backbone.name={name}"])["backbone"])
    except WeightsError as error:
        return f"missing: {error}"
    return f"{source.path} (sha256 {source.sha256[:12]})"


def _encoders(settings: Settings) -> list[str]:
    """The embedded encoder, and another one that the parameters name."""
    from pipeline.encoder.locate import EMBEDDED

    return [EMBEDDED, *({settings["extract"].encoder} - {EMBEDDED, "none"})]


def _encoder(settings: Settings, name: str) -> str:
    from dataclasses import replace

    from pipeline.errors import WeightsError
    from stages.common import encoders

    try:
        source = encoders.find(replace(settings["extract"], encoder=name), settings["backbone"])
    except WeightsError as error:
        return f"missing: {error}"
    assert source is not None
    return f"{source.folder} (sha256 {source.sha256[:12]})"


def _concept_folders(project: Path) -> list[Path]:
    found = (folder for pattern in CONCEPTS for folder in sorted(project.glob(pattern)))
    return [folder for folder in found if (folder / "concept.zarr").is_dir()]


def _concept(folder: Path) -> str:
    """Whether a concept is whole and fits the weights that are here."""
    from pipeline.errors import VidsegError
    from pipeline.fewshot.concept_store import is_current_concept, open_concept
    from stages.common.backbones import find

    try:
        store = open_concept(folder)
    except VidsegError as error:
        return f"problem: {error}"
    name, weights, adapter = store.params["backbone"]["name"], store.attrs["backbone"], store.attrs["adapter"]
    if not is_current_concept(folder, store.fingerprint):
        return "problem: its adapter.safetensors is missing, damaged or another one; copy both again, or learn it again"
    about = f"{name} {weights[:12]}, {f'adapter {adapter[:12]}' if adapter else 'tokens alone'}"
    try:
        here = find(load(sets=[f"backbone.name={name}"])["backbone"]).sha256
    except VidsegError:
        return f"{about}; the weights are not here"
    return about if here == weights else f"{about}; backbone.name = {name} has other weights here ({here[:12]})"


def _free_gb(folder: Path) -> float:
    return round(shutil.disk_usage(folder).free / 1e9, 1)


def _dvc_cache(project: Path) -> str | dict[str, Any]:
    """Where DVC's cache is, how it may link files (cache.type) and which of that works between it and the project."""
    try:
        from dvc.exceptions import DvcException
        from dvc.repo import Repo
    except ImportError:
        return "missing: pip install dvc"
    try:
        repo = Repo(str(project))
    except DvcException:
        return "not in a DVC project"
    from dvc_objects.fs.generic import test_links

    cache = Path(repo.cache.local.path)
    # A fresh project has no cache yet; the folder that it will be made in lies on the same file system.
    there = next(folder for folder in (cache, *cache.parents) if folder.is_dir())
    try:
        working = test_links(list(LINKS), repo.cache.local.fs, str(there), repo.fs, str(Path(repo.root_dir) / "data"))
    except OSError as error:
        return f"problem: {there} cannot be written ({error.strerror})"
    return {
        "path": str(cache),
        "links_wanted": ", ".join(repo.config["cache"].get("type") or ["reflink", "copy"]),
        "links_working": ", ".join([*working, "copy"]),
        "free_disk_gb": _free_gb(there),
    }


def main(
    as_json: cli.JsonOption = False,
    try_: Annotated[
        bool, typer.Option("--try", help="two frames of the sample through the networks that the parameters name")
    ] = False,
    report: Annotated[
        Path | None, typer.Option(help="with --try: a JSON file of what was found, without names or paths")
    ] = None,
    params: cli.ParamsOption = None,
    set_: cli.SetOption = None,
) -> None:
    """Report versions, devices, FAISS build, weights, encoders, concepts, DVC cache and free disk; or try a backbone.

    The parameters are those of `--params`, without it those of a project's params.yaml.

    Example: vidseg doctor --try --set backbone.name=sd21
    """
    if try_:
        return _try(load(params, set_ or ()), as_json, report)
    if report is not None:
        raise UsageError("--report is of `vidseg doctor --try`; add --try")
    settings, problem = _settings(params, set_ or ())
    findings = {**collect(settings), **problem}
    if as_json:
        print(json.dumps(findings, indent=2))
        return
    for name, value in findings.items():
        if isinstance(value, dict) and not value:
            print(f"{name:<16} none")
        elif isinstance(value, dict):
            print(f"{name}:")
            print(text_table(value.items(), indent=2))
        else:
            print(f"{name:<16} {value}")


def _settings(params: Path | None, sets: Sequence[str]) -> tuple[Settings, dict[str, str]]:
    """Those of a file, or of a project's params.yaml; where that cannot be read, the defaults, and what is wrong."""
    here = Path("params.yaml")
    if params is not None or not here.is_file():
        return load(params, sets), {}
    try:
        return load(here, sets), {}
    except UsageError as error:
        return load(sets=sets), {"params.yaml": f"problem: {error}"}


def _try(settings: Settings, as_json: bool, report: Path | None) -> None:
    """Print what a trial found.

    Raises:
        DataError: a number is not what it should be.
    """
    from stages.commands import trial

    found = trial.run(settings)
    if report is not None:
        trial.write(found, report)
    if as_json:
        print(json.dumps(found.record(), indent=2))
    else:
        found.show()
    if not found.is_fine:
        names = ", ".join(one.name for one in found.findings if not one.is_fine)
        raise DataError(
            f"backbone.name = '{settings['backbone'].name}': {names} too low; check that the weights are whole and of "
            "this model, and attach the file of --report to a report of the problem"
        )

"""What a command imports: torch takes seconds, so only those that compute with it may import it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from stages.common import backbones
from tests.support.commands import ENVIRONMENT, vidseg, write_frames
from tests.support.concepts import write_references

HEAVY = ("torch", "diffusers", "transformers", "scipy", "networkx", "faiss")
STORES = {"clip": "ingest", "latents": "extract", "coarse": "segment"}
#: Runs commands given as JSON one after the other; prints after each which heavy packages have been imported so far.
SCRIPT = f"""
import json, sys
from stages.main import main
for command in json.loads(sys.argv[1]):
    sys.argv = ["vidseg", *command]
    try:
        main()
    except SystemExit as end:
        print("exit", end.code, [name for name in {HEAVY} if name in sys.modules])
"""


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """A folder in which all stages up to `upsample` have run, with the tiny model in params.yaml."""
    folder = tmp_path_factory.mktemp("work")
    frames = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), np.uint8)
    write_frames(folder / "frames", frames)
    parameters = f"backbone: {{path: {tiny_model}}}\nsegment: {{clusters: 2, restarts: 1}}\n"
    parameters += "learn: {size: 64, epochs: 1, tune: none}\nguidance: {iterations: 1}\napply: {timesteps: [9, 8]}\n"
    (folder / "params.yaml").write_text(parameters)
    write_references(folder / "halves")
    (folder / "videos.yaml").write_text(
        "items: {one: [{path: frames}]}\nconcepts: {h: {references: halves}}\napplied: {two: {item: one, concept: h}}\n"
    )
    for stage in ("ingest", "extract", "correspond", "segment", "upsample"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("VIDSEG_DEVICE", "cpu")
            vidseg(stage, "--item", "one", "--params", "params.yaml", cwd=folder)
    vidseg("references", "--item", "h", cwd=folder)
    for stage, key in (("learn", "h"), ("track", "two"), ("apply", "two")):
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("VIDSEG_DEVICE", "cpu")
            vidseg(stage, "--item", key, "--params", "params.yaml", cwd=folder)
    return folder


def test_nothing_heavy_is_imported_without_need(work: Path) -> None:
    """Weights are found and hashed, finished stores recognised and labels interpolated without torch."""
    stores = {name: f"data/{stage}/one/{name}.zarr" for name, stage in STORES.items()}
    upsample = f"upsample {stores['clip']} {stores['latents']} {stores['coarse']}"
    commands = [
        "extract --item one",
        f"extract {stores['clip']} data/extract/one",
        "upsample --item one",
        f"{upsample} data/upsample/one",
        f"{upsample} bilinear --set upsample.method=bilinear",
        f"{upsample} nearest --set upsample.method=nearest",
        f"{upsample} joint --set upsample.method=joint_bilateral",
        "backbone show",
        "learn --item h",
        "track --item two",
        "apply --item two",
    ]
    words = [[*command.split(), "--params", "params.yaml"] for command in commands]
    environment = {name: value for name, value in ENVIRONMENT.items() if name != "VIDSEG_DEVICE"}
    if torch.cuda.is_available():
        environment["VIDSEG_DEVICE"] = "cpu"  # what `auto` means there, only torch can tell
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(words)],
        cwd=work, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    found = [line for line in result.stdout.splitlines() if line.startswith("exit")]
    assert found == ["exit 0 []"] * len(commands), result.stdout + result.stderr


@pytest.mark.parametrize(
    ("version", "driver", "expected"),
    [
        ("cuda = None\nhip = None", True, False),
        ("cuda = '12.8'\nhip = None", False, False),
        ("cuda = '12.8'\nhip = None", True, True),
        ("cuda = None\nhip = '6.4'", False, True),
    ],
)
def test_torch_is_asked_for_a_gpu_only_where_there_may_be_one(
    version: str, driver: bool, expected: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(name: str) -> None:
        if not driver:
            raise OSError(f"{name}: cannot open shared object file")

    (tmp_path / "version.py").write_text(version)
    spec = type("Spec", (), {"origin": str(tmp_path / "__init__.py")})
    monkeypatch.setattr(backbones, "find_spec", lambda name: spec)
    monkeypatch.setattr(backbones.ctypes, "CDLL", load)
    assert backbones.may_have_gpu() is expected


def test_without_a_gpu_auto_means_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VIDSEG_DEVICE", raising=False)
    assert backbones.may_have_gpu() or not torch.cuda.is_available()
    assert backbones.choose_device().type == ("cuda" if torch.cuda.is_available() else "cpu")

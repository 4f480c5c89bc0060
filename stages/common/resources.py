"""Files that travel with the code: presets, the embedded backbone, the stages' versions.

They lie beside `stages/` in a checkout and under `stages/resources/` in an installed wheel.
"""

from __future__ import annotations

from pathlib import Path

from stages.common import yaml_files

_STAGES = Path(__file__).resolve().parents[1]


def resource(name: str) -> Path:
    """Path of a bundled file or folder, e.g. `presets`, `models/compact` or `versions.yaml`."""
    installed = _STAGES / "resources" / name
    return installed if installed.exists() else _STAGES.parent / name


def stage_version(stage: str) -> int:
    """The version of a stage's results, which fingerprints are made of: what stands before the point in versions.yaml.

    What stands after it tells DVC that defaults changed: the same parameters still give the same results.
    """
    return int(stage_number(stage))


def stage_number(stage: str) -> float:
    """A stage's whole number in versions.yaml."""
    return float(yaml_files.load(resource("versions.yaml"), "install vidseg again")[stage])

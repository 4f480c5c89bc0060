"""Finding and hashing an encoder's folder, without loading it (I/O module; torch is not imported here)."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from pipeline.backbone.files import file_hash, read_json, refuse_pickles
from pipeline.errors import WeightsError

#: The encoder that is embedded, and the `model_type` of its config.json.
EMBEDDED = "efficientnet_lite0"
CONFIG, PREPROCESSING, WEIGHTS, PROJECTION = (
    "config.json",
    "preprocessor_config.json",
    "model.safetensors",
    "projection.safetensors",
)


@dataclass(frozen=True)
class EncoderSource:
    """An encoder on disk.

    Attributes:
        name: as `extract.encoder` has it.
        folder: with config.json and safetensors.
        sha256: of all files that decide its numbers.
    """

    name: str
    folder: Path
    sha256: str

    @property
    def is_embedded(self) -> bool:
        """Whether it is our EfficientNet-Lite0 rather than a model of transformers."""
        return read_json(self.folder / CONFIG).get("model_type") == EMBEDDED


def identify(name: str, folder: Path) -> EncoderSource:
    """Hash the encoder in a folder.

    Raises:
        WeightsError: the folder has no config.json or no safetensors; the message has the command that gets them.
    """
    weights = sorted(folder.glob("*.safetensors"))
    if not (folder / CONFIG).is_file() or not any(file.name != PROJECTION for file in weights):
        refuse_pickles(folder)
        raise WeightsError(
            f"{folder}: no encoder; extract.encoder takes a folder with {CONFIG} and safetensors of a vision model "
            f"(for DINOv2: hf download facebook/dinov2-base --local-dir {folder})"
        )
    whole = hashlib.sha256()
    for file in [folder / CONFIG, *(f for f in [folder / PREPROCESSING] if f.is_file()), *weights]:
        whole.update(f"{file.name} {file_hash(file).hex()}\n".encode())
    return EncoderSource(name, folder, whole.hexdigest())

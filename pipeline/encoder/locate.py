"""Finding and hashing an encoder's folder, without loading it (I/O module; torch is not imported here)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.backbone.files import fingerprint_of, read_json, refuse_pickles, transformers_weights
from pipeline.errors import WeightsError

#: The encoder that is embedded, and the `model_type` of its config.json.
EMBEDDED = "efficientnet_lite0"
CONFIG, PREPROCESSING, WEIGHTS, PROJECTION = (
    "config.json",
    "preprocessor_config.json",
    "model.safetensors",
    "projection.safetensors",
)
#: Fields of config.json that say where a model comes from.
_NO_EFFECT = ("_name_or_path", "architectures", "transformers_version", "torch_dtype", "dtype")


@dataclass(frozen=True)
class EncoderSource:
    """An encoder on disk.

    Attributes:
        name: as `extract.encoder` has it.
        folder: with config.json and safetensors.
        sha256: of the weights that are loaded, and of what its configurations say that decides its numbers.
    """

    name: str
    folder: Path
    sha256: str

    @property
    def is_embedded(self) -> bool:
        """Whether it is our EfficientNet-Lite0 rather than a model of transformers."""
        return read_json(self.folder / CONFIG).get("model_type") == EMBEDDED


def identify(name: str, folder: Path, of_backbone: bool = False) -> EncoderSource:
    """Hash the encoder in a folder.

    Args:
        of_backbone: the folder is a backbone's own, which takes the place of the embedded encoder.

    Raises:
        WeightsError: the folder has no config.json or no safetensors, or is the embedded encoder's and lacks its
            matrix; the message has the command that gets them.
    """
    # The embedded encoder's matrix comes with it: a random one in its place would give other features without a word.
    is_torn = name == EMBEDDED and not of_backbone and not (folder / PROJECTION).is_file()
    if is_torn or not (folder / CONFIG).is_file() or not any(_weights(folder)):
        refuse_pickles(folder)
        raise WeightsError(_no_encoder(name, folder, of_backbone))
    stored = transformers_weights(folder).files
    matrix = [file for file in [folder / PROJECTION] if file.is_file()]
    told = {name: value for name, value in read_json(folder / CONFIG).items() if name not in _NO_EFFECT}
    seen = {key: _three(read_json(folder / PREPROCESSING).get(key, 0.5)) for key in ("image_mean", "image_std")}
    mark = fingerprint_of({CONFIG: told, PREPROCESSING: seen}, [*stored, *matrix])
    return EncoderSource(name, folder, mark)


def _weights(folder: Path) -> list[Path]:
    return [file for file in folder.glob("*.safetensors*") if file.name != PROJECTION]


def _three(value: Any) -> Any:
    """One number stands for all three channels, as loading has it."""
    return value if isinstance(value, list) else [value] * 3


def _no_encoder(name: str, folder: Path, of_backbone: bool) -> str:
    if name == EMBEDDED and not of_backbone:
        missing = next(file for file in (CONFIG, WEIGHTS, PROJECTION) if not (folder / file).is_file())
        return (
            f"{folder}: {missing} of the embedded encoder is missing; get it with: "
            "git checkout -- models/compact/encoder"
        )
    wanted, download = f"a folder with {CONFIG} and safetensors of a vision model", "hf download facebook/dinov2-base"
    if not folder.is_dir():
        return (
            f"extract.encoder is {name}, which is no folder; take none, {EMBEDDED}, or {wanted} "
            f"(for DINOv2: {download} --local-dir weights/dinov2-base)"
        )
    instead = f", or remove {folder}, and the embedded one serves" if of_backbone else ""
    return (
        f"{folder}: no encoder; extract.encoder takes {wanted} (for DINOv2: {download} --local-dir {folder}){instead}"
    )

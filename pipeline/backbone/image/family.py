"""Models of Stable Diffusion 2.1's kind: which files they are made of."""

from __future__ import annotations

from pathlib import Path

from pipeline.backbone.family import NETWORKS, Builder, Family
from pipeline.backbone.files import EMPTY_PROMPT, fingerprint_of, network_weights, transformers_weights
from pipeline.backbone.image.configuration import settings, text_settings


def _weight_files(folder: Path) -> list[Path]:
    """The text encoder's only use is the embedding of the empty prompt: where that is stored, it does not count."""
    networks = [file for part in ("unet", "vae") for file in network_weights(folder / part).files]
    return [*prompt_files(folder), *networks]


def prompt_files(folder: Path) -> list[Path]:
    """What decides the empty prompt's embedding; WeightsError where the text encoder's weights are missing."""
    return [folder / EMPTY_PROMPT] if (folder / EMPTY_PROMPT).is_file() else _text_files(folder)


def words_fingerprint(folder: Path) -> str | None:
    """SHA-256 (hex) of a folder's text encoder and tokenizer, None where it has none.

    Where the empty prompt is stored, they are no part of the model's own hash: only who asks for words reads them.

    Raises:
        WeightsError: the text encoder's weights are missing or pickles.
    """
    files = _text_files(folder)
    return fingerprint_of(text_settings(folder), files) if files else None


def _text_files(folder: Path) -> list[Path]:
    if not (folder / "text_encoder").is_dir() or not (folder / "tokenizer").is_dir():
        return []  # loading says what is missing
    words = sorted(file for file in (folder / "tokenizer").iterdir() if file.suffix in (".json", ".txt"))
    return [*transformers_weights(folder / "text_encoder").files, *words]


def _builder() -> Builder:
    from pipeline.backbone.image.build import BUILDER

    return BUILDER


IMAGE = Family(
    denoiser="UNet2DConditionModel",
    conditioning="cond_stage_model.",
    patterns=(*NETWORKS, "text_encoder/*.json", "text_encoder/*.safetensors", "tokenizer/*"),
    settings=settings,
    weight_files=_weight_files,
    builder=_builder,
)

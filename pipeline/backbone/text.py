"""Prompts to contexts, by the text encoder in a diffusers folder (I/O module)."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError
from torch import Tensor

from pipeline.backbone.files import transformers_weights
from pipeline.backbone.networks import without_bars
from pipeline.errors import WeightsError


def has_text(folder: Path) -> bool:
    """Whether a folder in diffusers layout holds a text encoder and its tokenizer."""
    return (folder / "text_encoder").is_dir() and (folder / "tokenizer").is_dir()


class Text(Protocol):
    """Prompts to contexts, as `TextEncoder` does it."""

    def __call__(self, prompt: str) -> Tensor: ...

    def pieces(self, text: str) -> int: ...


class TextEncoder:
    """The text encoder of a folder for which `has_text` holds, on the CPU; nothing is read before its first prompt."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @torch.no_grad()
    def __call__(self, prompt: str) -> Tensor:
        """The (t, c) float32 embedding of a prompt: its last hidden states, padded to the encoder's length.

        Raises:
            WeightsError: a file is missing, damaged or a pickle.
        """
        tokenizer, model = self._parts
        length = min(tokenizer.model_max_length, model.config.max_position_embeddings)
        tokens = tokenizer(prompt, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
        return model(tokens.input_ids)[0][0].clone()

    def pieces(self, text: str) -> int:
        """How many tokens a text is cut into, without those of its beginning and end; a word may be several.

        Raises:
            WeightsError: as for a prompt.
        """
        tokenizer, _ = self._parts
        return len(tokenizer(text, add_special_tokens=False).input_ids)

    @cached_property
    def _parts(self) -> tuple[Any, Any]:
        from transformers import CLIPTextModel, CLIPTokenizer

        variant = transformers_weights(self.folder / "text_encoder").variant
        try:
            tokenizer = CLIPTokenizer.from_pretrained(self.folder / "tokenizer", local_files_only=True)
            with without_bars():
                model = CLIPTextModel.from_pretrained(
                    self.folder / "text_encoder",
                    local_files_only=True,
                    use_safetensors=True,
                    variant=variant,
                    dtype=torch.float32,
                ).eval()
        except (SafetensorError, OSError, ValueError, RuntimeError, TypeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise WeightsError(
                f"{self.folder}: text encoder or tokenizer cannot be loaded ({reason}); fetch them again"
            ) from error
        return tokenizer, model

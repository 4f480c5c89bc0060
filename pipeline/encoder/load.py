"""From an encoder's folder to an encoder that runs (I/O module). Nothing is downloaded."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from pipeline.backbone.files import read_json
from pipeline.backbone.networks import cannot_be_loaded, frozen, without_bars
from pipeline.encoder.base import Encoder
from pipeline.encoder.efficientnet import BLOCKS, EfficientNetLite0
from pipeline.encoder.locate import CONFIG, PREPROCESSING, PROJECTION, WEIGHTS, EncoderSource
from pipeline.encoder.map_encoder import MapEncoder
from pipeline.encoder.patch_encoder import PatchEncoder
from pipeline.encoder.projection import MOST_CHANNELS, random_orthonormal
from pipeline.errors import UsageError, WeightsError
from pipeline.parameters import ExtractParams


def load_encoder(source: EncoderSource, params: ExtractParams, device: torch.device) -> Encoder:
    """The encoder of a folder, in float32.

    Args:
        params: `encoder_maps` and `encoder_scale` concern the embedded network; a vision model of transformers has the
            patch tokens of its last layer only.

    Raises:
        UsageError: a map that it does not have.
        WeightsError: a file is damaged, or is of something else.
    """
    if source.is_embedded:
        return _map_encoder(source, params.encoder_maps, params.encoder_scale, device)
    return _patch_encoder(source, device)


def _map_encoder(source: EncoderSource, maps: Sequence[str], scale: float, device: torch.device) -> MapEncoder:
    unknown = [name for name in maps if name not in BLOCKS]
    if unknown or not maps:
        raise UsageError(
            f"extract.encoder_maps: {source.name} has no map {', '.join(unknown) or '(none given)'}; there are "
            f"{BLOCKS[0]} to {BLOCKS[-1]}"
        )
    network = EfficientNetLite0()
    file = source.folder / WEIGHTS
    try:
        network.load_state_dict({name: value.float() for name, value in load_file(file).items()})
    except (SafetensorError, OSError, RuntimeError) as error:
        raise cannot_be_loaded(file, error) from error
    network = frozen(network.to(device))
    matrix = _matrix(source, ",".join(maps), network.channels(maps))
    mark = hashlib.sha256(f"{source.sha256} {','.join(maps)} {scale}".encode()).hexdigest()
    return MapEncoder(network, maps, scale, matrix, mark)


def _patch_encoder(source: EncoderSource, device: torch.device) -> PatchEncoder:
    model = frozen(_vision_model(source).to(device))
    mean, deviation = _per_channel(source, "image_mean"), _per_channel(source, "image_std")
    matrix = _matrix(source, "", int(model.config.hidden_size))
    encoder = PatchEncoder(model, mean, deviation, matrix, source.sha256)
    _refuse_other_tokens(source, encoder)
    return encoder


def _refuse_other_tokens(source: EncoderSource, encoder: PatchEncoder) -> None:
    """See now, on a small picture, whether there is a token per patch: extract would find out after hours of work.

    Swin merges its patches, ViT-MAE leaves most of them out, models of video and of packed patches take other inputs.
    """
    grid = (3, 4)
    picture = np.zeros((grid[0] * encoder.patch, grid[1] * encoder.patch, 3), np.uint8)
    try:
        tokens = len(encoder.tokens(picture, grid))
    except (TypeError, ValueError, RuntimeError, AttributeError, IndexError):
        tokens = 0
    if tokens != grid[0] * grid[1]:
        raise _no_patch_tokens(source, encoder.network.config.model_type)


def _no_patch_tokens(source: EncoderSource, kind: str) -> WeightsError:
    return WeightsError(
        f"{source.folder / CONFIG}: a {kind} does not give a token for each patch of a picture; take a vision "
        "transformer such as DINOv2, DINOv3 or SigLIP"
    )


def _per_channel(source: EncoderSource, key: str) -> tuple[float, ...]:
    """Three numbers of the preprocessing's configuration; one stands for all three, none for 0.5."""
    file = source.folder / PREPROCESSING
    given = read_json(file).get(key, 0.5)
    values = given if isinstance(given, list) else [given]
    values = values * 3 if len(values) == 1 else values
    numbers = [value for value in values if type(value) in (int, float) and abs(value) < 1e6]
    if len(values) != 3 or len(numbers) != 3:
        raise WeightsError(f"{file}: {key} must be three numbers; fetch the model's configuration again")
    if key == "image_std" and min(numbers) <= 0:
        raise WeightsError(f"{file}: {key} must be three numbers above 0; fetch the model's configuration again")
    return tuple(map(float, numbers))


def _vision_model(source: EncoderSource) -> Any:
    from transformers import AutoConfig, AutoModel

    try:
        config = AutoConfig.from_pretrained(source.folder, local_files_only=True)
        with without_bars():
            model = AutoModel.from_pretrained(
                source.folder, config=config, local_files_only=True, use_safetensors=True, dtype=torch.float32
            )
    except (SafetensorError, OSError, ValueError, RuntimeError, KeyError) as error:
        raise cannot_be_loaded(source.folder, error) from error
    model = getattr(model, "vision_model", model)  # SigLIP and CLIP come with a text model
    if not isinstance(getattr(model.config, "patch_size", None), int) or not hasattr(model.config, "hidden_size"):
        raise _no_patch_tokens(source, config.model_type)
    return model


def _matrix(source: EncoderSource, maps: str, inputs: int) -> Tensor | None:
    """The matrix that lies with the encoder if it is for these maps; else none for few channels, else a random one.

    Raises:
        WeightsError: the matrix for these maps is damaged, or is of another encoder.
    """
    file = source.folder / PROJECTION
    if file.is_file():
        try:
            with safe_open(file, framework="pt") as stored:
                meant, matrix = (stored.metadata() or {}).get("maps", ""), stored.get_tensor("matrix").float()
        except (SafetensorError, OSError) as error:
            raise cannot_be_loaded(file, error) from error
        if meant == maps:
            if matrix.ndim != 2 or len(matrix) != inputs:
                raise WeightsError(
                    f"{file}: the matrix is {'x'.join(map(str, matrix.shape))}, but the encoder has {inputs} numbers "
                    "per token; fit it again or remove the file"
                )
            return matrix
    return None if inputs <= MOST_CHANNELS else random_orthonormal(inputs)

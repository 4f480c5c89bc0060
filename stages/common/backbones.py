"""From the `backbone` section to a loaded model; the embedded weights and backbone.lock are found here."""

from __future__ import annotations

import ctypes
import json
import os
import runpy
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import UsageError, WeightsError
from pipeline.parameters import BackboneParams
from stages.common.resources import resource

if TYPE_CHECKING:
    import torch

    from pipeline.backbone import Backbone
    from pipeline.backbone.family import WeightsSource
    from pipeline.fewshot.learning import SegmentModel

LOCK = Path("backbone.lock")
#: What the hashes of a lock cover: 2 = weights that are loaded and the effective configuration.
LOCK_VERSION = 2
_RELOCK = "run `vidseg backbone lock --params params.yaml`"


def find(params: BackboneParams) -> WeightsSource:
    """Locate and hash the weights that the parameters name, without loading them."""
    from pipeline.backbone.locate import identify

    return identify(params.name, located(params), params.revision)


def located(params: BackboneParams) -> Path:
    """The folder or file of the weights that the parameters name; WeightsError where there is none."""
    from pipeline.backbone.locate import locate

    return locate(params.name, params.path, params.revision, resource("models"))


def words_hash(params: BackboneParams) -> str | None:
    """Hash of the text encoder that the parameters name, None where there is none; WeightsError: it is damaged."""
    from pipeline.backbone.image.family import words_fingerprint

    path = located(params)
    return words_fingerprint(path) if path.is_dir() else None


def load_backbone(params: BackboneParams, source: WeightsSource | None = None) -> Backbone:
    """The backbone that the parameters name, on the device that `VIDSEG_DEVICE` names or the best there is."""
    from pipeline.backbone.load import load_model

    device = choose_device()
    return load_model(source or find(params), choose_dtype(params.dtype, device), device)


def load_autoencoder(params: BackboneParams) -> Backbone:
    """The backbone that the parameters name, which encodes and decodes only."""
    from pipeline.backbone.load import load_autoencoder

    return load_autoencoder(find(params), choose_device())


@dataclass(frozen=True)
class DeferredBackbone:
    """A backbone whose hash is known, and which is loaded when it is first needed: often it is not.

    Attributes:
        fingerprint: hash of its weights.
        load: gives it; the same one each time.
    """

    fingerprint: str
    load: Callable[[], Backbone]


def deferred(params: BackboneParams, source: WeightsSource) -> DeferredBackbone:
    """The backbone of these weights, not loaded yet."""
    return DeferredBackbone(source.sha256, cache(lambda: load_backbone(params, source)))


def locked(params: BackboneParams) -> DeferredBackbone:
    """The backbone that the parameters name, found and hashed; raises as `check_lock` where the lock names another."""
    source = find(params)
    check_lock(source)
    return deferred(params, source)


def model_of(params: BackboneParams, given: Backbone | DeferredBackbone | None) -> DeferredBackbone:
    """The backbone that a caller has at hand, else the one that the parameters name, found and hashed."""
    if given is None:
        return deferred(params, find(params))
    return given if isinstance(given, DeferredBackbone) else DeferredBackbone(given.fingerprint, lambda: given)


def in_single_precision(params: BackboneParams) -> BackboneParams:
    """`dtype: auto` as float32 on a GPU too: the small steps of learning and guidance are lost in less."""
    return replace(params, dtype="float32") if params.dtype == "auto" else params


def segment_model(backbone: Backbone) -> SegmentModel:
    """The backbone itself, in which segments can be learned.

    Raises:
        UsageError: they cannot.
    """
    from pipeline.backbone import PredictsNoise

    if not isinstance(backbone, PredictsNoise):
        raise UsageError(
            f"no segments can be learned with {backbone.name}, a video model; set backbone.name to compact or sd21"
        )
    return backbone


def outline(params: BackboneParams) -> Backbone:
    """The networks that the parameters name, without weights: none need be on this machine."""
    from pipeline.backbone import outline

    path: Path | None
    try:
        path = located(params)
    except WeightsError:
        if params.path is not None:
            raise
        path = None
    return outline.outline(params.name, path, choose_dtype(params.dtype, choose_device()))


def choose_device() -> torch.device:
    """`VIDSEG_DEVICE` (cpu, cuda, cuda:1, ...) or CUDA when there is one, else the CPU."""
    import torch

    return torch.device(_device_name())


def _device_name() -> str:
    if named := os.environ.get("VIDSEG_DEVICE"):
        return named
    if not may_have_gpu():
        return "cpu"
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def may_have_gpu() -> bool:
    """Whether it is worth the seconds that importing torch takes to ask it for a GPU.

    It has none if it is a build for CPUs, or one for CUDA on a machine without a driver.
    """
    torch = find_spec("torch")
    if torch is None or torch.origin is None:
        return False
    built_for = runpy.run_path(str(Path(torch.origin).with_name("version.py")))
    if built_for.get("hip"):
        return True
    if not built_for.get("cuda"):
        return False
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return os.name == "nt"  # the driver has another name there
    return True


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """`auto` is float16 on a GPU (as in the published runs) and float32 on a CPU."""
    import torch

    dtype: torch.dtype = getattr(torch, _dtype_on(device.type, name))
    return dtype


def dtype_name(params: BackboneParams) -> str:
    """The precision that `auto` means on this machine, by name: results of another precision are other results."""
    return params.dtype if params.dtype != "auto" else _dtype_on(_device_name(), "auto")


def _dtype_on(device: str, name: str) -> str:
    if name != "auto":
        return name
    return "float32" if device.partition(":")[0] == "cpu" else "float16"


def small_decoder_folder(named: str | None, params: BackboneParams) -> Path | None:
    """The folder `named`, else `small_decoder/` in the backbone's; None where that has none."""
    from pipeline.backbone.files import SMALL_DECODER

    if named is not None:
        return Path(named).expanduser()
    own = located(params) / SMALL_DECODER
    return own if own.is_dir() else None


def check_lock(source: WeightsSource, lock: Path = LOCK) -> None:
    """Refuse weights other than the locked ones: DVC knows the weights only through backbone.lock.

    Raises:
        WeightsError: the lock names other weights.
        UsageError: it is damaged.
    """
    locked = _read_lock(lock)
    if locked is not None and locked.get("sha256") != source.sha256:
        raise WeightsError(
            f"{lock} is for other weights ('{locked.get('name')}') than backbone.name = '{source.name}' has; {_RELOCK}"
        )


def check_part_lock(part: str, sha256: str | None, lock: Path = LOCK) -> None:
    """Refuse another hash of a part (`small_decoder`, `encoder`) than the locked one; raises as `check_lock` does."""
    locked = _read_lock(lock)
    if locked is not None and sha256 is not None and locked.get(part) != sha256:
        named = part.replace("_", " ")
        raise WeightsError(f"{lock} has {'another' if locked.get(part) else 'no'} {named}; {_RELOCK}")


def _read_lock(lock: Path) -> dict[str, object] | None:
    if not lock.is_file():
        return None
    try:
        content = dict(json.loads(lock.read_text()))
    except (ValueError, TypeError) as error:
        raise UsageError(f"{lock}: damaged ({error}); {_RELOCK}") from error
    if content.get("version") != LOCK_VERSION:
        raise WeightsError(
            f"{lock} was written by another version of vidseg, whose hashes cover other things (those of old did not "
            f"cover a model's configuration); {_RELOCK}: features are then made anew, once"
        )
    return content

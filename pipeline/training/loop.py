"""A training loop with a time or step budget, cosine learning rate, weight averaging and exact resumption."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from pipeline.errors import DataError, ResourceError, UsageError
from pipeline.files import replacing


@dataclass(frozen=True)
class Budget:
    """How long to train: wall minutes, a number of steps, or whichever ends first."""

    minutes: float = math.inf
    steps: int | None = None

    def progress(self, seconds: float, step: int) -> float:
        """Used share of the budget in [0, 1]."""
        by_time = seconds / (60 * self.minutes) if self.minutes > 0 else 1.0
        by_step = step / max(1, self.steps) if self.steps is not None else 0.0
        return min(1.0, max(by_time, by_step))


@dataclass(frozen=True)
class Schedule:
    """Learning rate: linear warm-up over `warmup` steps, then a cosine to zero over the budget."""

    peak: float
    warmup: int = 200

    def rate(self, step: int, progress: float) -> float:
        return self.peak * min(1.0, (step + 1) / self.warmup) * 0.5 * (1 + math.cos(math.pi * progress))


class Average:
    """Exponential moving average of a module's parameters; the first steps are soon forgotten."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.values = {name: value.detach().clone() for name, value in module.state_dict().items()}

    def update(self, module: nn.Module, step: int) -> None:
        decay = min(self.decay, (1 + step) / (10 + step))
        current = [value.detach() for value in module.state_dict().values()]
        torch._foreach_lerp_(list(self.values.values()), current, 1 - decay)


@dataclass(frozen=True)
class Step:
    """What a loss function returns: the loss, parts to be logged, and how many images it has seen."""

    loss: torch.Tensor
    parts: dict[str, float]
    images: int


LossFunction = Callable[[nn.Module, np.random.Generator, torch.Generator], Step]


@dataclass(frozen=True)
class LoopSettings:
    """All that a resumed run must share with the run it continues, except the learning problem itself."""

    schedule: Schedule
    budget: Budget
    average_decay: float = 0.995
    weight_decay: float = 0.01
    clip: float = 1.0
    seed: int = 0
    checkpoint_seconds: float = 180.0
    log_seconds: float = 30.0


def mixed_precision(device: torch.device) -> AbstractContextManager[object]:
    """bf16 autocast where it is faster than f32: on a GPU, and on a CPU that multiplies bf16 in hardware."""
    fast = device.type == "cuda" or _cpu_has_bf16()
    return torch.autocast(device.type, torch.bfloat16) if fast else nullcontext()


def _cpu_has_bf16() -> bool:
    probe = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return bool(probe and probe())


def train(
    module: nn.Module,
    loss_function: LossFunction,
    settings: LoopSettings,
    checkpoint: Path,
    identity: str,
    log: Callable[[str], None] = print,
) -> dict[str, torch.Tensor]:
    """Train in place until the budget is used and return the averaged weights (a state dict).

    `identity` is a fingerprint of data and parameters: a checkpoint made under another one is refused
    (UsageError). With a step budget an interrupted and continued run equals an uninterrupted one. Raises
    DataError when the loss is not finite and ResourceError when a checkpoint cannot be written.
    """
    optimizer = torch.optim.AdamW(
        [value for value in module.parameters() if value.requires_grad],
        settings.schedule.peak,
        betas=(0.9, 0.99),
        weight_decay=settings.weight_decay,
        fused=True,
    )
    average = Average(module, settings.average_decay)
    rng, noise = np.random.default_rng(settings.seed), torch.Generator().manual_seed(settings.seed)
    step, used = 0, 0.0
    if checkpoint.is_file():
        step, used = _restore(checkpoint, identity, module, optimizer, average, rng, noise)
        log(f"continued at step {step}, {used / 60:.1f} min used")
    begin = last_save = last_log = time.monotonic()
    sums: dict[str, float] = {}
    images = logged = 0
    progress = settings.budget.progress(used, step)
    while progress < 1.0:
        rate = settings.schedule.rate(step, progress)
        for group in optimizer.param_groups:
            group["lr"] = rate
        result = loss_function(module, rng, noise)
        optimizer.zero_grad(set_to_none=True)
        result.loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(module.parameters(), settings.clip)
        if not math.isfinite(float(norm)):
            raise DataError(f"training diverged at step {step} (gradient {float(norm)}): lower the learning rate")
        optimizer.step()
        average.update(module, step)
        step, images, logged = step + 1, images + result.images, logged + 1
        for name, value in result.parts.items():
            sums[name] = sums.get(name, 0.0) + value
        now = time.monotonic()
        seconds = used + now - begin
        progress = settings.budget.progress(seconds, step)
        if now - last_log >= settings.log_seconds or progress >= 1.0:
            parts = "  ".join(f"{name} {value / logged:.4f}" for name, value in sums.items())
            speed = images / max(1e-9, now - last_log)
            log(f"step {step}  {100 * progress:.1f} %  {parts}  {speed:.1f} images/s  lr {rate:.1e}")
            sums, images, logged, last_log = {}, 0, 0, now
        if now - last_save >= settings.checkpoint_seconds or progress >= 1.0:
            _save(checkpoint, identity, step, seconds, module, optimizer, average, rng, noise)
            last_save = now
    return average.values


def _save(
    path: Path,
    identity: str,
    step: int,
    seconds: float,
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    average: Average,
    rng: np.random.Generator,
    noise: torch.Generator,
) -> None:
    import json

    state = {
        "identity": identity,
        "step": step,
        "seconds": seconds,
        "module": module.state_dict(),
        "optimizer": optimizer.state_dict(),
        "average": average.values,
        "rng": json.dumps(rng.bit_generator.state),
        "noise": noise.get_state(),
    }
    write_checkpoint(path, state)


def write_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Replace `path` by `state` as a whole; ResourceError when it cannot be written."""
    try:
        with replacing(path) as temporary:
            torch.save(state, temporary)
    except (OSError, RuntimeError) as error:
        raise ResourceError(f"checkpoint {path} cannot be written ({error}): free some disk space") from error


def _restore(
    path: Path,
    identity: str,
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    average: Average,
    rng: np.random.Generator,
    noise: torch.Generator,
) -> tuple[int, float]:
    import json

    state = read_checkpoint(path, identity)
    module.load_state_dict(state["module"])
    optimizer.load_state_dict(state["optimizer"])
    average.values = dict(state["average"])
    rng.bit_generator.state = json.loads(state["rng"])
    noise.set_state(state["noise"])
    return int(state["step"]), float(state["seconds"])


def read_checkpoint(path: Path, identity: str) -> dict[str, Any]:
    """What `write_checkpoint` wrote; DataError when it is damaged, UsageError when it is of another identity."""
    import pickle

    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, pickle.UnpicklingError, EOFError, LookupError, ValueError) as error:
        raise DataError(f"checkpoint {path} cannot be read ({error}): remove it to start again") from error
    if state["identity"] != identity:
        raise UsageError(f"checkpoint {path} was made with other parameters or images: use the same, or another folder")
    return dict(state)

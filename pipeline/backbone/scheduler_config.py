"""Reading a model's scheduler_config.json: nothing that would change results is passed over (no torch here).

VidSeg makes its own steps, so that fields which only choose a sampler have no effect; fields which say how the model
was trained do.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from pipeline.backbone.files import read_json
from pipeline.errors import WeightsError

#: Fields of diffusers' schedulers that choose how to sample, not what the model is.
NO_EFFECT = frozenset({
    "algorithm_type", "clip_sample", "clip_sample_range", "disable_corrector", "dynamic_thresholding_ratio",
    "euler_at_final", "final_sigmas_type", "interpolation_type", "lambda_min_clipped", "lower_order_final",
    "predict_x0", "sample_max_value", "set_alpha_to_one", "sigma_schedule", "skip_prk_steps", "solver_order",
    "solver_p", "solver_type", "steps_offset", "thresholding", "timestep_spacing", "use_beta_sigmas",
    "use_exponential_sigmas", "use_lu_lambdas", "variance_type",
})  # fmt: skip
#: What a model of another kind would have; every value that means the same as leaving the field out.
NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "trained_betas": (None,),
    "rescale_betas_zero_snr": (None, False),
    "use_flow_sigmas": (None, False),
    "flow_shift": (None, 1.0),
    "use_dynamic_shifting": (None, False),
    "time_shift_type": (None, "exponential"),
    "shift_terminal": (None,),
    "sigma_data": (None,),
}


def scheduler_of(model: Path) -> dict[str, Any]:
    """What a folder's scheduler_config.json holds, or one that lies beside a checkpoint; empty where there is none.

    Raises:
        WeightsError: it is damaged.
    """
    folder = model if model.is_dir() else model.parent
    return read_json(folder / "scheduler" / "scheduler_config.json")


def check_fields(
    config: Mapping[str, Any],
    read: Collection[str],
    known: Mapping[str, tuple[Any, ...]],
    without_effect: Collection[str],
    where: Path,
) -> None:
    """Refuse a scheduler that says something about its model that VidSeg cannot honour.

    Args:
        config: content of scheduler_config.json.
        read: fields whose value is used.
        known: field -> the values that are what VidSeg does.
        without_effect: fields that have none on models of this family, beside `NO_EFFECT`.
        where: the model, for the message.

    Raises:
        WeightsError: names the field, its value and what there must be.
    """
    for name, value in config.items():
        if name.startswith("_") or name in read or name in without_effect or name in NO_EFFECT:
            continue
        allowed = {**NEUTRAL, **known}.get(name)
        if allowed is None:
            raise WeightsError(
                f"{where}: its scheduler has a field '{name}' that VidSeg does not know, so it cannot tell what the "
                "model needs; take scheduler/ of the model that this one was made from"
            )
        if value not in allowed:
            wanted = " or ".join(repr(each) for each in allowed if each is not None) or "no such field"
            raise WeightsError(
                f"{where}: its scheduler has {name} = {value!r}, VidSeg needs {wanted}; take a model trained so"
            )


def number(config: Mapping[str, Any], name: str, default: float, where: Path) -> float:
    """A positive number of a scheduler's configuration.

    Raises:
        WeightsError: it is something else.
    """
    value = config.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
        raise WeightsError(f"{where}: its scheduler has {name} = {value!r}, which must be a number above 0")
    return float(value)

"""The steps of the denoising that are run."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from pipeline.errors import UsageError
from pipeline.parameters import DiffusionParams, ExtractParams


def remaining_steps(params: DiffusionParams, skip: Collection[int] = ()) -> tuple[int, ...]:
    """The steps that are run, from start_step to the end, but for those to skip.

    Raises:
        UsageError: there are none.
    """
    if params.start_step >= params.steps:
        raise UsageError(
            f"diffusion.start_step must be between 0 and diffusion.steps - 1 = {params.steps - 1}, "
            f"not {params.start_step}"
        )
    return tuple(step for step in range(params.start_step, params.steps) if step not in skip)


def feature_schedule(params: ExtractParams, diffusion: DiffusionParams) -> DiffusionParams:
    """The schedule that features are read in; upsampling has its own start.

    Raises:
        UsageError: the feature step is not run; the message names the parameter.
    """
    chosen = diffusion if params.start_step is None else replace(diffusion, start_step=params.start_step)
    if params.feature_step not in range(chosen.start_step, diffusion.steps):
        start = "diffusion.start_step" if params.start_step is None else "extract.start_step"
        remaining_steps(diffusion)  # raises what comes first
        raise UsageError(
            f"extract.feature_step must be between {start} = {chosen.start_step} and {diffusion.steps - 1}, "
            f"not {params.feature_step}"
        )
    return chosen

"""The steps of the denoising that are run."""

from __future__ import annotations

from collections.abc import Collection

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


def check_feature_step(params: ExtractParams, diffusion: DiffusionParams) -> None:
    """Refuse a feature step that is not run.

    Raises:
        UsageError: names the parameter.
    """
    if params.feature_step not in remaining_steps(diffusion):
        raise UsageError(
            f"extract.feature_step must be between diffusion.start_step = {diffusion.start_step} and "
            f"{diffusion.steps - 1}, not {params.feature_step}"
        )

"""A concept: what was learned of some references, ready to be applied to any video of the same backbone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from pipeline.backbone import ALONE, Together
from pipeline.backbone.adapter import Adapter, Precision, adapted, adapter_of
from pipeline.errors import DataError
from pipeline.fewshot.learning import Learned, SegmentModel, reference_numbers
from pipeline.fewshot.reading import SegmentReader
from pipeline.fewshot.segments import SegmentTable
from pipeline.parameters import LearnParams, MapsParams


@dataclass(frozen=True, eq=False)
class Concept:
    """Complete: applying it needs neither the references nor a text encoder.

    Attributes:
        table: the segments.
        context: (t, c) float32, with the learned tokens.
        positions: (k,) the token of each segment.
        adapter: the tuned weights; None where there are none.
        log: (iterations, `learning.LOG`) float32.
        reference_numbers: (n, h, w) u8, the segments that it found in the references.
        reference_iou: their mean IoU with the references' own labels, in [0, 1].
        references: names of the n images that it was trained on.
        backbone: name of the backbone that it was learned with.
        fingerprint: SHA-256 (hex) of that backbone's weights.
        learn, maps: how it was learned.
    """

    table: SegmentTable
    context: Tensor
    positions: tuple[int, ...]
    adapter: Adapter | None
    log: np.ndarray
    reference_numbers: np.ndarray
    reference_iou: float
    references: tuple[str, ...]
    backbone: str
    fingerprint: str
    learn: LearnParams
    maps: MapsParams

    @classmethod
    def of(
        cls,
        learned: Learned,
        table: SegmentTable,
        references: Sequence[str],
        model: SegmentModel,
        learn: LearnParams,
        maps: MapsParams,
        precision: Precision = "fp32",
    ) -> Concept:
        """What learning left, with where it comes from."""
        weights, context = learned.state.weights, learned.state.context
        return cls(
            table,
            context.context.cpu(),
            context.positions,
            adapter_of(weights, precision) if weights else None,
            learned.log,
            learned.reference_numbers,
            learned.reference_iou,
            tuple(references),
            model.name,
            model.fingerprint,
            learn,
            maps,
        )


@contextmanager
def reading(
    concept: Concept, model: SegmentModel, maps: MapsParams, together: Together = ALONE
) -> Iterator[SegmentReader]:
    """The backbone asked for the concept's segments; within the context it has the concept's weights.

    Raises:
        DataError: the concept was learned with other weights.
        WeightsError: its adapter is damaged.
    """
    if concept.fingerprint != model.fingerprint:
        raise DataError(
            f"the concept was learned with {concept.backbone} ({concept.fingerprint[:12]}), this backbone is "
            f"{model.name} ({model.fingerprint[:12]}); choose that one, or learn the concept again"
        )
    with ExitStack() as stack:
        if concept.adapter is not None:
            stack.enter_context(adapted(model, concept.adapter))
        context = concept.context.to(model.device)
        yield SegmentReader(model, context, concept.positions, concept.table.background, maps, together)


def agreement(concept: Concept, model: SegmentModel, latents: Tensor) -> float:
    """How much of its references a concept finds as it did when it was learned: 1 = all of it, on the same machine.

    Args:
        latents: (n, 4, h, w) of the references.

    Raises:
        DataError, WeightsError: as `reading`.
    """
    with reading(concept, model, concept.maps) as reader:
        found = reference_numbers(reader, latents, concept.learn)
    return float((found.cpu().numpy() == concept.reference_numbers).mean())

"""What learning leaves, opened again."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from pipeline.backbone.image.model import StableDiffusion
from pipeline.errors import DataError
from pipeline.fewshot.concept import Concept, agreement, reading
from pipeline.fewshot.learning import learn
from pipeline.fewshot.segments import SegmentTable
from pipeline.parameters import LearnParams, MapsParams
from pipeline.truth.class_list import LabelClass
from tests.support import tiny

TABLE = SegmentTable.of(LabelClass(number, name, (0, 0, 0)) for number, name in enumerate(("background", "car")))
PARAMS, MAPS = LearnParams(epochs=4, phase1_iterations=2, lr_weights=1e-2), MapsParams()
IMAGE = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
LABELS = np.repeat(np.repeat(np.eye(8, dtype=np.uint8), 8, axis=0), 8, axis=1)


@pytest.fixture(scope="module")
def backbone() -> StableDiffusion:
    unet, vae = (network.requires_grad_(False) for network in (tiny.make_unet(), tiny.make_vae()))
    return StableDiffusion(unet, vae, tiny.make_context(), "tiny", "0123456789abcdef")


def concept_of(backbone: StableDiffusion, params: LearnParams) -> Concept:
    found = learn(backbone, [IMAGE], [LABELS], (64, 64), TABLE, params, MAPS)
    return Concept.of(found, TABLE, ["street"], backbone, params, MAPS)


@pytest.mark.parametrize("tune", ["cross_attention", "none"])
def test_a_concept_finds_what_learning_found(backbone: StableDiffusion, tune: str) -> None:
    concept = concept_of(backbone, replace(PARAMS, tune=tune))
    assert (concept.adapter is None) == (tune == "none")
    assert concept.references == ("street",) and concept.reference_numbers.shape == (1, 8, 8)
    before = {name: weight.clone() for name, weight in backbone.tunable().items()}
    with torch.no_grad():
        latents = backbone.encode(IMAGE[None])
    assert agreement(concept, backbone, latents) == 1
    assert all(torch.equal(weight, before[name]) for name, weight in backbone.tunable().items())
    if concept.adapter is not None:
        with reading(concept, backbone, MAPS) as reader:
            assert reader.background == 0 and reader.positions == (8, 9)
            assert all(
                torch.equal(weight, concept.adapter.tensors[name]) for name, weight in backbone.tunable().items()
            )


def test_another_backbone_is_refused(backbone: StableDiffusion) -> None:
    concept = replace(concept_of(backbone, replace(PARAMS, epochs=1)), fingerprint="fedcba9876543210")
    message = r"learned with tiny \(fedcba987654\), this backbone is tiny \(0123456789ab\); choose that one, or learn"
    with pytest.raises(DataError, match=message), reading(concept, backbone, MAPS):
        pass

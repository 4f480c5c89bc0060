"""Learning (section 4.2) on a tiny network: what moves, what stays, and that it becomes better."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.backbone.adapter import adapted, adapter_of
from pipeline.backbone.image.model import StableDiffusion
from pipeline.errors import UsageError
from pipeline.fewshot import learning
from pipeline.fewshot.learning import Batch, Learned, Learner, Plan, learn, losses_of, mean_iou, reference_numbers
from pipeline.fewshot.reading import SegmentReader
from pipeline.fewshot.segments import IGNORE, SegmentTable
from pipeline.fewshot.tokens import SegmentContext, first_context
from pipeline.parameters import BackboneParams, LearnAugment, LearnParams, LearnParity, MapsParams
from pipeline.truth.class_list import LabelClass
from stages.common import backbones
from tests.support import tiny

SIZE, TUNED = 64, ("attn2.to_k.weight", "attn2.to_v.weight")
TABLE = SegmentTable.of(LabelClass(number, name, (0, 0, 0)) for number, name in enumerate(("background", "sky", "car")))
STILL = LearnAugment(zoom_out=0, blur=0, dropout=0, flip=0, min_crop=1, rotation=0)
PARAMS = LearnParams(
    augment=STILL,
    epochs=20,
    phase1_iterations=15,
    rates="relative",
    lr_tokens=0.1,
    lr_weights=1e-3,
    lr_tokens_phase2=1e-3,
)
MAPS = MapsParams()


@pytest.fixture
def backbone() -> StableDiffusion:
    unet, vae = (network.requires_grad_(False) for network in (tiny.make_unet(), tiny.make_vae()))
    return StableDiffusion(unet, vae, tiny.make_context(), "tiny", "hash")


def picture() -> tuple[np.ndarray, np.ndarray]:
    """Three regions of plain colours, one of the background."""
    labels = np.zeros((SIZE, SIZE), np.uint8)
    labels[:32], labels[32:, 32:] = 1, 2
    return np.array([[200, 60, 20], [30, 80, 220], [240, 240, 10]], np.uint8)[labels], labels


def learned(backbone: StableDiffusion, params: LearnParams, **values: Any) -> Learned:
    image, labels = picture()
    return learn(backbone, [image], [labels], (SIZE, SIZE), TABLE, params, MAPS, **values)


def state(backbone: StableDiffusion) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in backbone.unet.state_dict().items()}


def changed(backbone: StableDiffusion, before: dict[str, Tensor]) -> set[str]:
    return {name for name, tensor in backbone.unet.state_dict().items() if not torch.equal(tensor, before[name])}


def test_phase_1_learns_segments() -> None:
    """With a network whose attention means something."""
    compact = backbones.load_backbone(BackboneParams())
    assert isinstance(compact, StableDiffusion)
    found = learned(compact, replace(PARAMS, epochs=40, phase1_iterations=40, lr_tokens=0.3))
    entropy, error, iou = found.log[:, 1], found.log[:, 2], found.log[:, 5]
    assert entropy[-5:].mean() < 0.5 * entropy[0]
    assert error[-5:].mean() < 0.5 * error[0]
    assert iou[-5:].mean() > 0.9 and found.reference_iou > 0.9


def test_phase_1_changes_tokens_alone(backbone: StableDiffusion) -> None:
    before = state(backbone)
    found = learned(backbone, replace(PARAMS, epochs=5, phase1_iterations=5))
    assert not changed(backbone, before) and not found.state.weights
    start, end = first_context(backbone, TABLE, PARAMS), found.state.context
    assert torch.equal(end.context[:8], start.context[:8])  # the empty prompt's
    assert (end.context[8:] != start.context[8:]).all()


def test_phase_2_tunes_keys_and_values_of_the_context(backbone: StableDiffusion) -> None:
    before = state(backbone)
    found = learned(backbone, replace(PARAMS, epochs=40, phase1_iterations=10))
    tunable = {name for name in before if name.endswith(TUNED)}
    assert set(found.state.weights) == tunable and len(tunable) == 32
    assert not changed(backbone, before), "the backbone is left as it was"
    assert not any(weight.requires_grad for weight in backbone.unet.parameters())
    total, phase = found.log[:, 0], found.log[:, 4]
    assert phase.tolist() == [1.0] * 10 + [2.0] * 30
    assert total[-20:].mean() <= total[10:30].mean()


def test_what_was_learned_is_found_again(backbone: StableDiffusion) -> None:
    """Context and adapter make the predictions that learning saw, bit by bit."""
    found = learned(backbone, PARAMS)
    image, _ = picture()
    with torch.no_grad(), adapted(backbone, adapter_of(found.state.weights)):
        reader = SegmentReader(backbone, found.state.context.context, found.state.context.positions, 0, MAPS)
        numbers = reference_numbers(reader, backbone.encode(image[None]), PARAMS)
    assert np.array_equal(numbers.numpy(), found.reference_numbers)


def test_the_same_seed_gives_the_same_concept(backbone: StableDiffusion) -> None:
    params = replace(PARAMS, epochs=3, phase1_iterations=2)
    first, again, other = (learned(backbone, replace(params, seed=seed)) for seed in (0, 0, 1))
    assert torch.equal(first.state.context.context, again.state.context.context)
    assert not torch.equal(first.state.context.context, other.state.context.context)


def test_the_best_state_is_kept(backbone: StableDiffusion, monkeypatch: pytest.MonkeyPatch) -> None:
    """States are looked at after 2 and 4 iterations, and the last; the best of them counts."""
    monkeypatch.setattr(learning, "CHECK_EVERY", 2)
    wild = replace(PARAMS, epochs=5, phase1_iterations=3, lr_tokens=1.0, lr_weights=1.0)
    until = [learned(backbone, replace(wild, epochs=epochs)).reference_iou for epochs in (2, 4, 5)]
    best = learned(backbone, replace(wild, select="references"))
    assert best.reference_iou == max(until)
    assert len(set(until)) == 3


def test_pictures_held_out_choose_and_teach_nothing(backbone: StableDiffusion, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another last picture changes what is chosen at most; of two runs that end in one state nothing differs."""
    monkeypatch.setattr(learning, "CHECK_EVERY", 2)
    wild = replace(PARAMS, epochs=5, phase1_iterations=3, lr_tokens=1.0, lr_weights=1.0, seed=1)
    (image, labels), held = picture(), picture()[1][::-1].copy()

    def run(params: LearnParams) -> Learned:
        images = [image] if params.select == "last" else [image, image[::-1].copy()]
        truth = [labels] if params.select == "last" else [labels, held]
        return learn(backbone, images, truth, (SIZE, SIZE), TABLE, params, MAPS)

    chosen = run(replace(wild, select="holdout"))
    alone = {epochs: run(replace(wild, epochs=epochs)) for epochs in (2, 4, 5)}
    np.testing.assert_array_equal(chosen.log, alone[5].log)
    same = [one for one in alone.values() if torch.equal(one.state.context.context, chosen.state.context.context)]
    assert len(same) == 1
    assert chosen.holdout_iou is not None and same[0].holdout_iou is None
    with pytest.raises(UsageError, match="learn.holdout: 2 of 2 pictures are held out, none is left to learn from"):
        run(replace(wild, select="holdout", holdout=2))


@pytest.mark.parametrize(
    ("changes", "parity", "expected"),
    [
        ({}, {}, [1, 1, 1, 1, 2, 2, 2, 2]),
        ({"phase1_iterations": 1}, {}, [1, 2, 2, 2, 2, 2, 2, 2]),
        ({"tune": "none"}, {}, [1] * 8),
        ({"phase1_iterations": 1}, {"phase1_epochs": 1}, [1, 1, 2, 2, 2, 2, 2, 2]),
        ({"batch": 3, "phase1_iterations": 2}, {}, [1, 1, 2, 2]),
        ({"most_iterations": 5}, {}, [1, 1, 1, 1, 2]),
        ({"most_iterations": 99}, {}, [1, 1, 1, 1, 2, 2, 2, 2]),
    ],
)
def test_plan(changes: dict[str, Any], parity: dict[str, Any], expected: list[int]) -> None:
    params = LearnParams(**{"epochs": 4, "phase1_iterations": 4, **changes}, parity=LearnParity(**parity))
    plan = Plan(2, params)
    assert [plan.phase(iteration) for iteration in range(plan.iterations)] == expected
    for epoch in range(plan.iterations // plan.steps):
        of_epoch = [plan.batch(epoch * plan.steps + step) for step in range(plan.steps)]
        assert sorted(image for batch in of_epoch for image in batch) == [0, 1]


def test_idle_epochs_change_nothing(backbone: StableDiffusion) -> None:
    params = replace(PARAMS, epochs=7, phase1_iterations=2, parity=LearnParity(idle_every=3))
    assert np.isnan(learned(backbone, params).log[:, 0]).tolist() == [False, False, False, True, False, False, True]


def test_frozen_tokens_stay(backbone: StableDiffusion) -> None:
    params = replace(PARAMS, epochs=4, phase1_iterations=2)
    frozen = replace(params, parity=LearnParity(freeze_tokens=True))
    one, both = (learned(backbone, replace(one, epochs=epochs)) for one, epochs in ((params, 2), (frozen, 4)))
    assert torch.equal(one.state.context.context, both.state.context.context)
    assert both.state.weights and not one.state.weights


def test_gradients_agree_with_finite_differences(backbone: StableDiffusion) -> None:
    """CE + MSE, to tokens and to_k, in float64."""
    double = StableDiffusion(backbone.unet.double(), backbone.vae, tiny.make_context().double(), "tiny", "hash")
    generator = torch.Generator().manual_seed(0)
    latents, noise = (torch.randn(1, 4, 8, 8, dtype=torch.float64, generator=generator) for _ in range(2))
    labels = torch.randint(0, 3, (1, 8, 8), generator=generator)
    labels[0, 0] = IGNORE
    params, name = LearnParams(ldm=0.0), "up_blocks.1.attentions.2.transformer_blocks.0.attn2.to_k.weight"
    start, weight = first_context(double, TABLE, params), double.tunable()[name].requires_grad_()
    tokens = start.tokens.double().requires_grad_()
    start = SegmentContext(start.context.double(), start.positions, start.learned)

    def loss() -> Tensor:
        reader = SegmentReader(double, start.with_tokens(tokens), start.positions, 0, MAPS)
        return losses_of(reader, Batch(latents, labels, noise, (50,)), params, spectral=False)[0].total

    for values, gradient in zip((tokens, weight), torch.autograd.grad(loss(), (tokens, weight)), strict=True):
        flat = values.detach().view(-1)
        for entry in gradient.abs().flatten().topk(3).indices.tolist():
            found = []
            with torch.no_grad():
                for change in (1e-2, -2e-2):
                    flat[entry] += change
                    found.append(float(loss()))
                flat[entry] += 1e-2
            assert (found[0] - found[1]) / 2e-2 == pytest.approx(float(gradient.flatten()[entry]), rel=0.02, abs=1e-6)


def test_half_precision_is_refused(backbone: StableDiffusion) -> None:
    half = StableDiffusion(backbone.unet.half(), backbone.vae, tiny.make_context().half(), "tiny", "hash")
    with pytest.raises(UsageError, match="single precision only; set backbone.dtype=float32"):
        Learner(half, first_context(half, TABLE, PARAMS), 0, PARAMS, MAPS)


def test_mean_iou() -> None:
    truth = torch.tensor([[[0, 0, 1], [1, IGNORE, 2]]])
    found = torch.tensor([[[0, 1, 1], [1, 5, 0]]])
    assert mean_iou(found, truth) == pytest.approx((1 / 3 + 2 / 3 + 0) / 3)

"""The context that segments are read by: which tokens, and how they begin."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import pytest
import torch
from torch import Tensor

from pipeline.backbone.image.model import StableDiffusion
from pipeline.errors import UsageError
from pipeline.fewshot.segments import SegmentTable
from pipeline.fewshot.tokens import first_context, root_mean_square
from pipeline.parameters import LearnParams, LearnParity
from pipeline.truth.class_list import LabelClass
from tests.support import tiny

PROMPTS: list[str] = []
PARAMS = LearnParams()


class Words:
    """A text encoder that tells places: token t of a prompt is 10 + t. Words are cut at `+`."""

    def __call__(self, prompt: str) -> Tensor:
        PROMPTS.append(prompt)
        return 10 + torch.arange(8.0)[:, None].expand(8, 16)

    def pieces(self, text: str) -> int:
        return len(text.replace("+", " ").split())


def backbone(has_text: bool) -> StableDiffusion:
    text = Words() if has_text else None
    return StableDiffusion(tiny.make_unet(), tiny.make_vae(), tiny.make_context(), "tiny", "hash", text=text)


def table(*names: str) -> SegmentTable:
    return SegmentTable.of(LabelClass(number, name, (0, 0, 0)) for number, name in enumerate(names))


def test_without_text_the_empty_prompt_is_followed_by_a_token_each() -> None:
    model = backbone(has_text=False)
    many = table(*(f"part {number}" for number in range(100)))
    found = first_context(model, many, PARAMS)
    assert found.positions == found.learned == tuple(range(8, 108))
    assert torch.equal(found.context[:8], model.context)
    assert root_mean_square(found.tokens) == pytest.approx(root_mean_square(model.context), rel=0.1)
    assert torch.equal(found.tokens, first_context(model, many, PARAMS).tokens)
    assert not torch.equal(found.tokens, first_context(model, many, replace(PARAMS, seed=1)).tokens)


@pytest.mark.parametrize(
    ("names", "background", "positions", "learned", "prompt"),
    [
        (("background", "car", "sky"), "auto", (0, 1, 2), (1, 2), "car sky"),
        (("background", "car", "sky"), "learned", (1, 2, 3), (1, 2, 3), "background car sky"),
        (("car", "sky"), "auto", (1, 2), (1, 2), "car sky"),
    ],
)
def test_with_text_segments_read_the_words_of_their_names(
    names: tuple[str, ...], background: str, positions: tuple[int, ...], learned: tuple[int, ...], prompt: str
) -> None:
    PROMPTS.clear()
    found = first_context(backbone(has_text=True), table(*names), replace(PARAMS, background=background))
    assert (found.positions, found.learned, PROMPTS) == (positions, learned, [prompt])
    assert torch.equal(found.context, Words()(""))


def test_a_name_of_several_pieces_begins_as_their_mean() -> None:
    found = first_context(backbone(has_text=True), table("background", "neck+torso", "tail", "left ear"), PARAMS)
    assert found.positions == (0, 1, 2, 3)
    assert found.context[:, 0].tolist() == [10, 11.5, 13, 14.5, 14, 15, 16, 17]


@pytest.mark.parametrize(("parity", "prompt"), [("place", "background neck+torso leg"), ("part", "part part part")])
def test_as_in_the_authors_code_a_token_begins_as_what_stands_at_its_place(
    parity: Literal["place", "part"], prompt: str
) -> None:
    """The prompt begins with a token of its own, so that the first segment learned begins as the background's word."""
    params = replace(PARAMS, parity=LearnParity(names=parity))
    found = first_context(backbone(has_text=True), table("background", "neck+torso", "leg"), params)
    assert PROMPTS[-1] == prompt and found.learned == (1, 2)
    assert found.tokens[:, 0].tolist() == [11, 12]
    without = first_context(backbone(has_text=False), table("background", "leg"), params)
    assert torch.equal(
        without.tokens, first_context(backbone(has_text=False), table("background", "leg"), PARAMS).tokens
    )


def test_random_tokens_with_text_stand_in_the_empty_prompt() -> None:
    model = backbone(has_text=True)
    found = first_context(model, table("background", "car"), replace(PARAMS, init="random"))
    kept = [0, *range(2, 8)]
    assert torch.equal(found.context[kept], model.context[kept])
    assert not torch.equal(found.context[1], model.context[1])


def test_only_tokens_are_replaced_and_gradients_reach_them() -> None:
    start = first_context(backbone(has_text=False), table("a", "b"), PARAMS)
    tokens = start.tokens.requires_grad_()
    context = start.with_tokens(2 * tokens)
    assert torch.equal(context[8:], 2 * start.tokens) and torch.equal(context[:8], start.context[:8])
    (gradient,) = torch.autograd.grad(context.sum(), tokens)
    assert (gradient == 2).all()
    assert torch.equal(start.at(tokens + 1).tokens, start.tokens + 1)


@pytest.mark.parametrize(
    ("has_text", "params", "count", "message"),
    [
        (False, replace(PARAMS, init="names"), 2, "learn.init: names needs a text encoder, which this backbone lacks"),
        (False, replace(PARAMS, background="bos"), 2, "learn.background: bos needs a text encoder"),
        (True, PARAMS, 8, "8 segments do not fit a context of 8 tokens; learn at most 7 in one concept"),
        (True, PARAMS, 5, "the segments' names take 10 tokens of a text, 6 are the most, and each name at least one"),
    ],
)
def test_refused(has_text: bool, params: LearnParams, count: int, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        first_context(backbone(has_text), table(*(f"part {number}" for number in range(count))), params)

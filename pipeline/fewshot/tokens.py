"""The context that segments are read by: one token of it for each segment (SMITE, section 4.1 and 4.2).

With a text encoder the context is a prompt's: segment k reads token k, and a background reads the begin-of-text token,
which is not learned. Without one it is the empty prompt's, followed by a token for each segment.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pipeline.backbone import PredictsNoise
from pipeline.errors import UsageError
from pipeline.fewshot.segments import SegmentTable
from pipeline.parameters import LearnParams


@dataclass(frozen=True, eq=False)
class SegmentContext:
    """A context and which of its tokens the segments read.

    Attributes:
        context: (t, c) float32, complete.
        positions: (k,) the token of each segment, by number.
        learned: those of them that are learned.
    """

    context: Tensor
    positions: tuple[int, ...]
    learned: tuple[int, ...]

    @property
    def tokens(self) -> Tensor:
        """(learned, c), a copy of the tokens that are learned."""
        return self.context[list(self.learned)].clone()

    def with_tokens(self, tokens: Tensor) -> Tensor:
        """The context (t, c) with these tokens (learned, c) in place of the learned ones; their gradient flows."""
        index = torch.tensor(self.learned, device=self.context.device)
        return self.context.index_copy(0, index, tokens)

    def at(self, tokens: Tensor) -> SegmentContext:
        """This context with other tokens, detached."""
        return replace(self, context=self.with_tokens(tokens.detach()))


def first_context(backbone: PredictsNoise, table: SegmentTable, params: LearnParams) -> SegmentContext:
    """What learning begins with.

    Tokens begin as what the text encoder makes of the segments' names (`learn.init: names`; of a name of several word
    pieces their mean; `learn.parity.names` has what the authors' codes do), or random with the root mean square of the
    empty prompt's, seeded.

    Raises:
        UsageError: names, or a begin-of-text token, are asked of a model that has no text encoder, or there are more
            segments, or longer names, than the context holds.
    """
    empty = backbone.context.float()
    has_text = backbone.has_text
    by_name = params.init == "names" or (params.init == "auto" and has_text)
    if not has_text:
        for name, value, wanted in (("init", params.init, "names"), ("background", params.background, "bos")):
            if value == wanted:
                raise UsageError(
                    f"learn.{name}: {wanted} needs a text encoder, which this backbone lacks; leave it auto"
                )
        positions = tuple(range(len(empty), len(empty) + len(table)))
        drawn = _random(positions, empty, params.seed)
        return SegmentContext(torch.cat([empty, drawn]), positions, positions)
    if len(table) > len(empty) - 1:
        raise UsageError(
            f"{len(table)} segments do not fit a context of {len(empty)} tokens; learn at most {len(empty) - 1} "
            "in one concept"
        )
    is_given = table.background is not None and params.background != "learned"
    positions = tuple(range(len(table))) if is_given else tuple(range(1, len(table) + 1))
    learned = positions[1:] if is_given else positions
    if by_name and params.parity.names != "pieces":
        words = table.names if params.parity.names == "place" else ["part"] * len(table)
        prompt = backbone.encode_text(" ".join(words)).to(empty)
        return SegmentContext(prompt, positions, learned)
    if by_name:
        return _named(backbone, table.names[1:] if is_given else table.names, positions, learned)
    start = SegmentContext(empty, positions, learned)
    return start.at(_random(learned, empty, params.seed))


def _named(
    backbone: PredictsNoise, names: Sequence[str], positions: tuple[int, ...], learned: tuple[int, ...]
) -> SegmentContext:
    """The prompt of all names: each begins as the mean of what its own pieces became in it.

    The authors' code takes the token at the name's place in the list (`learn.parity.names: place`), which is another
    name's: the first segment's is that of the word background.
    """
    prompt = backbone.encode_text(" ".join(names)).to(backbone.context.float())
    counts = [backbone.text_pieces(name) for name in names]
    if not all(counts) or sum(counts) > len(prompt) - 2:
        raise UsageError(
            f"the segments' names take {sum(counts)} tokens of a text, {len(prompt) - 2} are the most, and each name "
            "at least one; choose other names, or set learn.init=random"
        )
    pieces = prompt[1 : 1 + sum(counts)].split(counts)
    return SegmentContext(prompt, positions, learned).at(torch.stack([of_name.mean(dim=0) for of_name in pieces]))


def root_mean_square(values: Tensor) -> float:
    return float(values.detach().float().square().mean().sqrt())


def _random(positions: Sequence[int], like: Tensor, seed: int) -> Tensor:
    """(positions, c), drawn on the CPU so that it is the same on every machine."""
    drawn = torch.randn(len(positions), like.shape[-1], generator=torch.Generator().manual_seed(seed))
    return drawn.to(like) * root_mean_square(like)

"""EfficientNet-Lite0: a small convolutional image encoder (MBConv blocks with ReLU6, no squeeze-and-excitation)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

#: Stages of the network: number of blocks, kernel, stride of the first block, expansion, output channels.
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
STEM_CHANNELS, HEAD_CHANNELS, CLASSES = 32, 1280, 1000
#: Names of the blocks in order, block0 to block15; their outputs are the maps that can be read.
BLOCKS = tuple(f"block{place}" for place in range(sum(stage[0] for stage in STAGES)))
#: Added to the variance by the batch normalisation that is folded into the convolutions.
BATCH_NORM_EPSILON = 1e-3


class SameConv(nn.Conv2d):
    """A convolution with bias whose output has ceil(size / stride) cells; an odd cell of padding goes last."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__(inputs, outputs, kernel, stride, groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        sides = zip(x.shape[-2:], self.kernel_size, self.stride, strict=True)
        height, width = (max(0, (-(-size // stride) - 1) * stride + kernel - size) for size, kernel, stride in sides)
        return super().forward(F.pad(x, (width // 2, width - width // 2, height // 2, height - height // 2)))


class MBConv(nn.Module):
    """Inverted bottleneck: expand, filter each channel, project; a skip where shape allows it."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = inputs * expansion
        self.expand = SameConv(inputs, inner, 1) if expansion > 1 else None
        self.depthwise = SameConv(inner, inner, kernel, stride, groups=inner)
        self.project = SameConv(inner, outputs, 1)
        self.skip = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        inner = x if self.expand is None else F.relu6(self.expand(x))
        out = self.project(F.relu6(self.depthwise(inner)))
        return out + x if self.skip else out


class EfficientNetLite0(nn.Module):
    """The network with its batch normalisation folded into the convolutions.

    Its input is (b, 3, H, W) float, RGB, (value - 127) / 128.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = SameConv(3, STEM_CHANNELS, 3, 2)
        blocks, inputs = [], STEM_CHANNELS
        for count, kernel, stride, expansion, outputs in STAGES:
            for place in range(count):
                blocks.append(MBConv(inputs, outputs, kernel, stride if place == 0 else 1, expansion))
                inputs = outputs
        self.blocks = nn.ModuleList(blocks)
        self.head = SameConv(inputs, HEAD_CHANNELS, 1)
        self.classifier = nn.Linear(HEAD_CHANNELS, CLASSES)

    def maps(self, x: Tensor, names: Sequence[str]) -> list[Tensor]:
        """Outputs (b, c, h, w) of the named blocks, each in its own resolution; later blocks are not run."""
        places = [BLOCKS.index(name) for name in names]
        found: dict[int, Tensor] = {}
        x = F.relu6(self.stem(x))
        for place, block in enumerate(self.blocks[: max(places) + 1]):
            x = block(x)
            if place in places:
                found[place] = x
        return [found[place] for place in places]

    def channels(self, names: Sequence[str]) -> int:
        """Channels of the named blocks' outputs together."""
        return sum(self.blocks[BLOCKS.index(name)].project.out_channels for name in names)  # type: ignore[union-attr,misc]

    def forward(self, x: Tensor) -> Tensor:
        """Logits (b, 1000) of ImageNet's classes."""
        (last,) = self.maps(x, BLOCKS[-1:])
        return self.classifier(F.relu6(self.head(last)).mean(dim=(2, 3)))


def folded(published: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state of `EfficientNetLite0` (float32) from that of the published PyTorch checkpoint."""

    def convolution(ours: str, theirs: str, norm: str) -> dict[str, Tensor]:
        weight = published[f"{theirs}.weight"].double()
        mean, var, gamma, beta = (
            published[f"{norm}.{part}"].double() for part in ("running_mean", "running_var", "weight", "bias")
        )
        factor = gamma / torch.sqrt(var + BATCH_NORM_EPSILON)
        return {
            f"{ours}.weight": (weight * factor[:, None, None, None]).float(),
            f"{ours}.bias": (beta - mean * factor).float(),
        }

    state = convolution("stem", "_conv_stem", "_bn0") | convolution("head", "_conv_head", "_bn1")
    for place in range(len(BLOCKS)):
        theirs = f"_blocks.{place}"
        if f"{theirs}._expand_conv.weight" in published:
            state |= convolution(f"blocks.{place}.expand", f"{theirs}._expand_conv", f"{theirs}._bn0")
        state |= convolution(f"blocks.{place}.depthwise", f"{theirs}._depthwise_conv", f"{theirs}._bn1")
        state |= convolution(f"blocks.{place}.project", f"{theirs}._project_conv", f"{theirs}._bn2")
    return state | {f"classifier.{part}": published[f"_fc.{part}"].clone() for part in ("weight", "bias")}

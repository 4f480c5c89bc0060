"""EfficientNet-Lite0: padding, folding of the batch normalisation, maps."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pipeline.encoder.efficientnet import BATCH_NORM_EPSILON, BLOCKS, EfficientNetLite0, SameConv, folded


@pytest.mark.parametrize(("size", "kernel", "stride"), [(8, 3, 2), (9, 3, 2), (8, 5, 2), (7, 5, 1), (8, 1, 1)])
def test_same_padding_has_its_odd_cell_last(size, kernel, stride):
    """An output cell i sees the input cells that begin at i * stride minus half of the padding, rounded down."""
    conv = SameConv(1, 1, kernel, stride)
    nn.init.ones_(conv.weight)
    nn.init.zeros_(conv.bias)
    x = torch.arange(size * size, dtype=torch.float32).reshape(1, 1, size, size)
    count = -(-size // stride)
    before = max(0, (count - 1) * stride + kernel - size) // 2
    expected = torch.zeros(count, count)
    for row in range(count):
        for column in range(count):
            rows, columns = (slice(max(0, at * stride - before), at * stride - before + kernel) for at in (row, column))
            expected[row, column] = x[0, 0, rows, columns].sum()
    torch.testing.assert_close(conv(x)[0, 0].detach(), expected)


def published_names(network: EfficientNetLite0) -> dict[str, torch.Tensor]:
    """A random state under the names of the published checkpoint."""
    drawn = torch.Generator().manual_seed(0)
    state: dict[str, torch.Tensor] = {}

    def add(conv: nn.Conv2d, name: str, norm: str) -> None:
        state[f"{name}.weight"] = 0.2 * torch.randn(conv.weight.shape, generator=drawn)
        for part in ("weight", "bias", "running_mean", "running_var"):
            state[f"{norm}.{part}"] = torch.rand(conv.out_channels, generator=drawn) + 0.1

    add(network.stem, "_conv_stem", "_bn0")
    add(network.head, "_conv_head", "_bn1")
    for place, block in enumerate(network.blocks):
        if block.expand is not None:
            add(block.expand, f"_blocks.{place}._expand_conv", f"_blocks.{place}._bn0")
        add(block.depthwise, f"_blocks.{place}._depthwise_conv", f"_blocks.{place}._bn1")
        add(block.project, f"_blocks.{place}._project_conv", f"_blocks.{place}._bn2")
    state["_fc.weight"], state["_fc.bias"] = torch.randn(1000, 1280, generator=drawn), torch.zeros(1000)
    return state


def test_folded_weights_are_a_convolution_and_its_batch_normalisation():
    network = EfficientNetLite0().eval()
    published = published_names(network)
    network.load_state_dict(folded(published))
    x = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    bare = SameConv(3, 32, 3, 2)
    with torch.no_grad():
        bare.weight.copy_(published["_conv_stem.weight"])
        bare.bias.zero_()
    mean, var, gamma, beta = (published[f"_bn0.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
    expected = nn.functional.batch_norm(bare(x), mean, var, gamma, beta, eps=BATCH_NORM_EPSILON)
    torch.testing.assert_close(network.stem(x), expected)


def test_maps_come_in_the_order_asked_and_later_blocks_are_not_run(monkeypatch):
    network = EfficientNetLite0().eval()
    monkeypatch.setattr(network.blocks[15], "forward", lambda x: pytest.fail("block15 was run"))
    maps = network.maps(torch.zeros(1, 3, 64, 128), ("block14", "block7", "block0"))
    assert [tuple(found.shape) for found in maps] == [(1, 192, 2, 4), (1, 80, 4, 8), (1, 16, 32, 64)]
    assert network.channels(("block14", "block7", "block0")) == 192 + 80 + 16
    assert len(BLOCKS) == 16

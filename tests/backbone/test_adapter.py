from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from pipeline.backbone.adapter import adapted, adapter_of, changed_weights, load_adapter, save_adapter
from pipeline.backbone.image.model import StableDiffusion
from pipeline.errors import WeightsError
from tests.support import tiny

KEY = "up_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k.weight"


@pytest.fixture
def backbone() -> StableDiffusion:
    return StableDiffusion(tiny.make_unet(), tiny.make_vae(), tiny.make_context(), "tiny", "hash")


def noise_of(backbone: StableDiffusion) -> Tensor:
    return backbone.predict(torch.ones(1, 4, 8, 16), 100).noise


def tuned(backbone: StableDiffusion) -> dict[str, Tensor]:
    """Other weights for two layers."""
    names = [KEY, KEY.replace("to_k", "to_v")]
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(backbone.tunable()[name].shape, generator=generator) for name in names}


def test_an_adapter_is_put_in_and_taken_out_again(backbone: StableDiffusion, tmp_path: Path) -> None:
    before = {name: weight.clone() for name, weight in backbone.tunable().items()}
    changed, own = tuned(backbone), noise_of(backbone)
    save_adapter(adapter_of(changed), tmp_path / "adapter.safetensors")
    loaded = load_adapter(tmp_path / "adapter.safetensors")
    with adapted(backbone, loaded):
        found = changed_weights(backbone, before)
        within = noise_of(backbone)
    assert set(found) == set(changed) and all(torch.equal(found[name], changed[name]) for name in changed)
    assert not torch.allclose(within, own, atol=1e-4)
    assert torch.equal(noise_of(backbone), own) and not changed_weights(backbone, before)

    # As if they had been tuned in place, bit by bit.
    for name, weight in backbone.tunable().items():
        weight.data = changed.get(name, weight.data)
    assert torch.equal(noise_of(backbone), within)


@pytest.mark.parametrize("inference", [True, False])
def test_weights_come_back_after_an_error_and_can_be_tuned(backbone: StableDiffusion, inference: bool) -> None:
    own = noise_of(backbone)
    with (
        pytest.raises(ZeroDivisionError),
        torch.inference_mode(inference),
        adapted(backbone, adapter_of(tuned(backbone))),
    ):
        assert not backbone.tunable()[KEY].is_inference()
        raise ZeroDivisionError
    assert torch.equal(noise_of(backbone), own)
    backbone.tunable()[KEY].requires_grad_()
    noise_of(backbone).mean().backward()
    assert backbone.tunable()[KEY].grad is not None


def test_an_adapter_is_known_by_its_content(backbone: StableDiffusion, tmp_path: Path) -> None:
    changed, file = tuned(backbone), tmp_path / "adapter.safetensors"
    full, half = adapter_of(changed), adapter_of(dict(reversed(changed.items())), "fp16")
    for adapter in (full, half):
        save_adapter(adapter, file)
        assert load_adapter(file).sha256 == adapter.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
        assert [path.name for path in tmp_path.iterdir()] == [file.name]
    assert full.sha256 != half.sha256
    assert adapter_of(dict(reversed(changed.items()))).sha256 == full.sha256
    assert {tensor.dtype for tensor in load_adapter(file).tensors.values()} == {torch.float16}
    with adapted(backbone, load_adapter(file)):
        torch.testing.assert_close(backbone.tunable()[KEY].data, changed[KEY], atol=0, rtol=1e-3)


BROKEN: list[tuple[Callable[[Path], object], str]] = [
    (lambda file: file.unlink(), r"adapter\.safetensors: cannot be read as an adapter"),
    (lambda file: file.write_bytes(b"no tensors"), r"adapter\.safetensors: cannot be read as an adapter"),
    (
        lambda file: save_file({KEY: torch.zeros(3, 16)}, file),
        rf"adapter\.safetensors: {KEY} is \(3, 16\), the backbone has \(32, 16\); the adapter was made for another",
    ),
    (
        lambda file: save_file({"conv_in.weight": torch.zeros(3)}, file),
        r"adapter\.safetensors: conv_in\.weight is \(3,\), the backbone has none of that name; the adapter was made",
    ),
]


@pytest.mark.parametrize(("damage", "message"), BROKEN)
def test_an_adapter_that_does_not_fit_is_refused(
    backbone: StableDiffusion, tmp_path: Path, damage: Callable[[Path], object], message: str
) -> None:
    file, own = tmp_path / "adapter.safetensors", noise_of(backbone)
    save_adapter(adapter_of(tuned(backbone)), file)
    damage(file)
    with pytest.raises(WeightsError, match=message), adapted(backbone, load_adapter(file)):
        pass
    assert torch.equal(noise_of(backbone), own)

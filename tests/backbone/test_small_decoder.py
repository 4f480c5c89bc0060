"""The small decoder: how it is trained, written, found and counted, and how well the embedded one imitates."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F

from pipeline.backbone.files import SMALL_DECODER, SMALL_DECODER_WEIGHTS
from pipeline.backbone.image.model import StableDiffusion
from pipeline.backbone.small_decoder import load_small_decoder
from pipeline.cost.counting import flops_of
from pipeline.datasets.sample import make_sample
from pipeline.errors import DataError, UsageError
from pipeline.parameters import BackboneParams
from pipeline.training import small_decoder
from pipeline.training.data import ImageSet
from pipeline.training.export import export_small_decoder
from pipeline.training.loop import Budget, LoopSettings
from pipeline.training.small_decoder import (
    SmallDecoderLoss,
    SmallDecoderSettings,
    build_small_decoder,
    difference_loss,
    imitation,
    perturbations,
    train_small_decoder,
)
from stages.commands.cost import workload
from stages.common import backbones
from stages.common.resources import resource
from stages.common.settings import load
from tests.support import tiny
from tests.support.commands import error_line, vidseg, write_frames

TINY = SmallDecoderSettings(channels=8, blocks=(1, 0, 0, 0), crop=32, batch=4, rate=1e-2, warmup=5)
CPU = torch.device("cpu")
#: Parameters with which upsampling decodes with a small decoder.
SMALL = ("upsample.method=modulation", "upsample.mode=fast", "upsample.fast.decode=small")
BAR_PSNR, BAR_CORRELATION = 25.0, 0.8  # of the embedded one on the sample's first frame
SETS = ("channels=8", "blocks=[1,0,0,0]", "crop=32", "batch=2", "minutes=0")


class Blocky:
    """In the place of a backbone: latents are mean colours and their mean, images are enlarged latents."""

    device, fingerprint = CPU, "blocky"

    def encode(self, frames: np.ndarray) -> torch.Tensor:
        colours = F.avg_pool2d(torch.from_numpy(frames).permute(0, 3, 1, 2) / 127.5 - 1, 8)
        return torch.cat([colours, colours.mean(1, keepdim=True)], dim=1)

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        return F.interpolate(latents[:, :3] + latents[:, 3:], scale_factor=8.0).tanh()


@pytest.fixture
def backbone() -> Any:
    return Blocky()


def pictures(count: int = 4, side: int = 48) -> ImageSet:
    rng = np.random.default_rng(0)
    images = tuple(rng.integers(0, 256, (side, side, 3), dtype=np.uint8) for _ in range(count))
    return ImageSet(images, tuple(f"{i}.png" for i in range(count)), 0)


def quiet(line: str) -> None:
    pass


def parts_of_loss(backbone: Any, model: torch.nn.Module) -> dict[str, float]:
    loss = SmallDecoderLoss(backbone, pictures(), replace(TINY, batch=8))
    with torch.no_grad():
        return loss(model, np.random.default_rng(1), torch.Generator().manual_seed(1)).parts


def test_the_loss_of_differences_is_relative() -> None:
    target = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    assert difference_loss(target, target) == 0
    assert difference_loss(torch.zeros_like(target), target) == pytest.approx(1)
    assert difference_loss(1e-4 * 0.9 * target, 1e-4 * target) == pytest.approx(0.01, rel=1e-3)


def test_perturbations_have_the_asked_size_and_lie_in_blobs() -> None:
    rng, noise = np.random.default_rng(0), torch.Generator().manual_seed(0)
    found = perturbations((32, 4, 12, 16), (0.01, 0.1), rng, noise)
    sizes = found.square().mean(dim=(1, 2, 3)).sqrt()
    assert 0.0099 < sizes.min() < 0.02 and 0.05 < sizes.max() < 0.101
    energy = found.square().sum(dim=1).flatten(1).sort(dim=1).values
    quiet_half = energy[:, : energy.shape[1] // 2].sum(dim=1) / energy.sum(dim=1)
    assert quiet_half.mean() < 0.1
    neighbours = (found[..., 1:] * found[..., :-1]).mean() / found.square().mean()
    assert 0.3 < neighbours < 0.8


def test_training_lowers_the_loss_of_images_and_of_differences(backbone: Any, tmp_path: Path) -> None:
    before = parts_of_loss(backbone, build_small_decoder(TINY))
    trained = train_small_decoder(backbone, pictures(), TINY, Budget(steps=60), tmp_path, quiet)
    after = parts_of_loss(backbone, trained)
    assert after["mse"] < 0.2 * before["mse"]
    assert after["difference"] < 0.7 * before["difference"]


def test_an_interrupted_run_is_continued_and_equals_an_uninterrupted_one(
    backbone: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(small_decoder, "LoopSettings", partial(LoopSettings, checkpoint_seconds=0.0))
    arguments = backbone, pictures(), TINY, Budget(steps=6)
    whole = train_small_decoder(*arguments, tmp_path / "whole", quiet)
    calls = iter(range(3))

    def interrupted(self: SmallDecoderLoss, *given: object) -> object:
        if next(calls, None) is None:
            raise KeyboardInterrupt
        return original(self, *given)  # type: ignore[arg-type]

    original = SmallDecoderLoss.__call__
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(SmallDecoderLoss, "__call__", interrupted)
        train_small_decoder(*arguments, tmp_path / "part", quiet)
    lines: list[str] = []
    continued = train_small_decoder(*arguments, tmp_path / "part", lines.append)
    assert "continued at step 3" in lines[0]
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(continued.state_dict()[name], value, rtol=0, atol=0)
    with pytest.raises(UsageError, match="other parameters or images"):
        train_small_decoder(backbone, pictures(), replace(TINY, seed=1), Budget(steps=6), tmp_path / "part", quiet)


def test_what_is_written_is_the_decoder_alone_and_loads(tmp_path: Path) -> None:
    model = build_small_decoder(TINY).eval()
    folder = export_small_decoder(model, tmp_path / SMALL_DECODER)
    assert all(name.startswith("decoder.") for name in load_file(folder / SMALL_DECODER_WEIGHTS))
    latents = torch.randn(2, 4, 4, 6)
    expected = model.decoder(latents).detach()  # type: ignore[operator]
    torch.testing.assert_close(load_small_decoder(folder, CPU)(latents), expected, atol=5e-3, rtol=5e-3)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"blocks": (1, 1, 1)}, UsageError, "give four numbers of blocks, not 3"),
        ({"crop": 36}, UsageError, "multiples of 8 px, not 36"),
        ({"crop": 64}, DataError, "no training image has a short side of 64 px"),
        ({"rate": float("inf")}, DataError, "training diverged at step 1"),
    ],
)
def test_what_cannot_be_trained_is_named(
    backbone: Any, tmp_path: Path, change: dict[str, object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        train_small_decoder(backbone, pictures(), replace(TINY, **change), Budget(steps=2), tmp_path, quiet)


def test_a_perfect_imitation_scores_so(backbone: Any) -> None:
    found = imitation(backbone, backbone.decode, pictures(2), side=32)
    assert found.psnr > 100 and found.correlation == pytest.approx(1)


# The command, and the stage that takes what it wrote


def images_folder(folder: Path, rng: np.random.Generator) -> Path:
    return write_frames(folder, rng.integers(0, 256, (4, 48, 48, 3), np.uint8))


def test_the_command_writes_what_upsample_then_takes(tmp_path: Path, rng: np.random.Generator) -> None:
    images, model = images_folder(tmp_path / "images", rng), tiny.save_model(tmp_path / "model")
    (tmp_path / "params.yaml").write_text("pretrain_small_decoder:\n  seed: 3\n")
    sets = [word for text in SETS for word in ("--set", f"pretrain_small_decoder.{text}")]
    done = vidseg("pretrain-small-decoder", images, model, "--params", tmp_path / "params.yaml", *sets)
    assert f"{model / SMALL_DECODER}: written (0 unreadable images skipped)" in done.stderr
    frames = write_frames(tmp_path / "frames", rng.integers(0, 256, (2, 64, 64, 3), np.uint8))
    base = (f"backbone.path={model}", "ingest.size=native", "segment.clusters=3", "render.extras=false")
    marks = []
    for _ in range(2):
        vidseg("run", frames, "-o", tmp_path / "out", *(word for text in (*base, *SMALL) for word in ("--set", text)))
        marks.append(labels_mark(tmp_path / "out"))
        export_small_decoder(build_small_decoder(replace(TINY, seed=9)), model / SMALL_DECODER)
    assert marks[0] != marks[1]  # other weights under the same path are other parameters


def labels_mark(out: Path) -> str:
    import zarr

    return str(zarr.open_group(out / "artifacts" / "labels.zarr", mode="r").attrs["fingerprint"])


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("nowhere", "MODEL"), 3, "image folder nowhere does not exist"),
        (("IMAGES", "nowhere.safetensors"), 4, "nowhere.safetensors: no such file"),
        (("IMAGES", "MODEL", "--set", "pretrain.seed=1"), 2, "expected pretrain_small_decoder.key=value"),
        (("IMAGES", "MODEL", "--set", "pretrain_small_decoder.width=1"), 2, "unknown parameter"),
        (("IMAGES", "MODEL", "--minutes", "1"), 3, "no training image has a short side of 96 px"),
    ],
)
def test_bad_input(
    tiny_model: Path, tmp_path: Path, rng: np.random.Generator, arguments: tuple[str, ...], code: int, message: str
) -> None:
    places = {"IMAGES": str(images_folder(tmp_path / "images", rng)), "MODEL": str(tiny_model)}
    words = [places.get(word, word) for word in arguments]
    done = vidseg("pretrain-small-decoder", *words, "--work", tmp_path / "work", check=code)
    assert message in error_line(done)


def test_the_named_folder_wins_over_the_models_own(tmp_path: Path) -> None:
    (tmp_path / SMALL_DECODER).mkdir()
    model = BackboneParams(path=str(tmp_path))
    assert backbones.small_decoder_folder(None, model) == tmp_path / SMALL_DECODER
    assert backbones.small_decoder_folder("elsewhere", model) == Path("elsewhere")


# The embedded one


@pytest.fixture(scope="module")
def compact() -> StableDiffusion:
    found = backbones.load_backbone(BackboneParams())
    assert isinstance(found, StableDiffusion)
    return found


def embedded() -> Path:
    return resource("models") / "compact" / SMALL_DECODER


def test_the_embedded_one_imitates_compacts_decoder(compact: StableDiffusion) -> None:
    frames = make_sample(frames=1).frames
    small = load_small_decoder(embedded(), CPU)
    found = imitation(compact, small, ImageSet(tuple(frames), ("sample",), 0))
    assert found.psnr > BAR_PSNR
    assert found.correlation > BAR_CORRELATION


def test_the_embedded_one_is_small_and_costs_a_quarter(compact: StableDiffusion) -> None:
    assert sum(file.stat().st_size for file in embedded().iterdir()) < 2e6
    latents = torch.zeros(1, 4, 8, 8)
    _, own = flops_of(lambda: compact.decode(latents))
    _, imitated = flops_of(lambda: load_small_decoder(embedded(), CPU)(latents))
    assert imitated < own / 4


def test_the_cost_is_that_of_the_small_decoder_which_is_used() -> None:
    found = {}
    for name, change in {"own": (), "usual": ("upsample.fast.small_decoder=nowhere",)}.items():
        settings = load(None, [*SMALL, *change])
        load_ = workload(settings, (64, 64), (64, 64))
        small = load_.small_decoder(torch.device("meta"))
        assert small is not None
        found[name] = flops_of(lambda small=small: small(torch.empty(1, 4, 8, 8, device="meta")))[1]
    assert found["own"] < found["usual"] / 5
    assert workload(load(None), (64, 64), (64, 64)).small_decoder(CPU) is None


def test_the_fast_mode_runs_with_the_embedded_one(tmp_path: Path, rng: np.random.Generator) -> None:
    frames = write_frames(tmp_path / "frames", rng.integers(0, 256, (1, 64, 64, 3), np.uint8))
    sets = ("ingest.size=native", "segment.clusters=3", *SMALL)
    words = [word for text in (*sets, "render.extras=false") for word in ("--set", text)]
    vidseg("run", frames, "-o", tmp_path / "out", *words)
    assert labels_mark(tmp_path / "out")

"""Features taught by an encoder: examples, views, each part of the loss, training, the command."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.backbone.image.schedule import scaled_linear_schedule
from pipeline.errors import DataError, UsageError
from pipeline.training.autoencoder import AutoencoderSettings, build_autoencoder
from pipeline.training.data import ImageSet
from pipeline.training.denoiser import Denoiser, DenoiserSettings, mean_queries, recorded_queries
from pipeline.training.distillation import (
    Directions,
    DistillationLoss,
    DistillationSettings,
    Distilled,
    Pupil,
    direct_loss,
    distil,
    joined_target,
    kernel_loss,
    similarity_loss,
)
from pipeline.training.examples import (
    Example,
    ExampleSettings,
    before_last_step,
    cut_views,
    fitting_sizes,
    last_timestep,
    make_examples,
    prepared,
)
from pipeline.training.export import export, read_networks
from pipeline.training.loop import Budget
from tests.support.commands import error_line, vidseg

AUTOENCODER = AutoencoderSettings(channels=(8, 8, 8, 8), groups=4)
DENOISER = DenoiserSettings(channels=(8, 16, 16, 16), layers=2, head=8, groups=4, context_width=8)
EXAMPLES = ExampleSettings(short_sides=(64, 128), long_side=128, sizes=((8, 8), (8, 16)), latents_per_batch=4 * 64)
TINY = DistillationSettings(examples=EXAMPLES, rate=3e-3, warmup=2, average_decay=0.8, across=64)


class Colours:
    """An encoder that tells the mean colour of each token."""

    fingerprint, channels, network = "colours", 3, None

    def tokens(self, frame: np.ndarray, grid: tuple[int, int]) -> Tensor:
        pixels = torch.from_numpy(np.array(frame)).permute(2, 0, 1).float() - 127
        return F.normalize(F.adaptive_avg_pool2d(pixels, grid).flatten(1).T, dim=-1)


class NoEncoder(Colours):
    """For runs in which nothing is to be computed again."""

    def tokens(self, frame: np.ndarray, grid: tuple[int, int]) -> Tensor:
        raise AssertionError("it was asked")


def patches(count: int, seed: int = 0, size: tuple[int, int] = (64, 96)) -> ImageSet:
    """Pictures of plain rectangles of 32 pixels."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (count, -(-size[0] // 32), -(-size[1] // 32), 3), dtype=np.uint8)
    images = tuple(coarse.repeat(32, 1).repeat(32, 2)[:, : size[0], : size[1]])
    return ImageSet(images, tuple(f"{seed}_{i}.png" for i in range(count)), 0)


def networks(seed: int = 0) -> tuple[Denoiser, nn.Module]:
    torch.manual_seed(seed)
    return Denoiser(DENOISER).eval(), build_autoencoder(AUTOENCODER).eval()


# Examples and views


@pytest.mark.parametrize(
    ("size", "wanted"),
    [
        ((128, 128), (128, 128)),
        ((170, 300), (192, 320)),  # enlarged to 192x339
        ((150, 200), (128, 128)),  # reduced to 128x171
        ((900, 4000), (256, 448)),
        ((2000, 300), (448, 256)),
    ],
)
def test_pictures_have_sides_that_the_denoiser_can_halve(size: tuple[int, int], wanted: tuple[int, int]) -> None:
    assert prepared(np.zeros((*size, 3), np.uint8), ExampleSettings()).shape[:2] == wanted


def test_a_picture_is_the_middle_of_its_image() -> None:
    image = np.zeros((64, 200, 3), np.uint8)
    image[:, 36:164] = 255  # the middle 128 columns
    picture = prepared(image, replace(EXAMPLES, short_sides=(64, 64)))
    assert picture.shape == (64, 128, 3)
    assert picture.min() == 255


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sizes": ((8, 12),)}, "view sizes must be multiples of 8 latents"),
        ({"long_side": 100}, "sides of pictures must be multiples of 64 px"),
        ({"sizes": ((16, 16),)}, "the smallest view must fit into a picture of 64 px"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        replace(EXAMPLES, **change)


def test_the_mean_query_is_that_of_a_whole_pass_and_later_blocks_are_not_run() -> None:
    model, _ = networks()
    later: list[object] = []
    model.unet.up_blocks[3].register_forward_hook(lambda *_: later.append(1))
    given = torch.randn(2, 4, 8, 8), torch.tensor([39, 3]), torch.ones(2)
    with torch.no_grad():
        found = mean_queries(model, *given)
        assert not later
        with recorded_queries(model) as queries:
            model(*given)
    torch.testing.assert_close(found, torch.stack(queries).mean(0), rtol=0.02, atol=0.02)
    assert not any(layer._forward_hooks for layer in model.tapped())


def test_a_denoiser_that_knows_the_noise_leaves_that_of_the_last_step() -> None:
    clean, epsilon = torch.randn(1, 4, 8, 8), torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(5))
    asked = []

    def knowing(noisy: Tensor, timesteps: Tensor, keep: Tensor) -> Tensor:
        asked.append(int(timesteps))
        return epsilon

    found = before_last_step(knowing, clean, ExampleSettings(), torch.Generator().manual_seed(5))  # type: ignore[arg-type]
    sigma = float(scaled_linear_schedule(25).sigmas[24])
    torch.testing.assert_close(found, (clean + sigma * epsilon) / (1 + sigma**2) ** 0.5, rtol=1e-5, atol=1e-5)
    assert asked == [119, 79]
    assert last_timestep(ExampleSettings()) == 39


def test_an_example_is_what_the_frozen_networks_say_of_a_picture() -> None:
    (example,) = make_examples(patches(1).images, *networks(), Colours(), EXAMPLES)
    shapes = [tuple(value.shape) for value in vars(example).values()]
    assert shapes == [(4, 8, 8), (4, 8, 8), (4, 4, 3), (4, 4, 16)]
    assert {value.dtype for value in vars(example).values()} == {torch.float16}
    wanted = Colours().tokens(prepared(patches(1).images[0], EXAMPLES), (4, 4)).reshape(4, 4, 3)
    torch.testing.assert_close(example.tokens.float(), wanted, rtol=0, atol=0.02)


def _example(rows: int, columns: int) -> Example:
    """Latents count up; tokens and queries are their means over 2x2 latents."""
    clean = torch.arange(rows * columns).reshape(1, rows, columns).float().expand(4, -1, -1)
    means = F.avg_pool2d(clean, 2).permute(1, 2, 0)
    return Example(clean, clean + 1000, means, means)


def test_the_tokens_of_a_view_are_those_of_its_latents() -> None:
    settings = replace(EXAMPLES, latent_scale=0, latent_shift=0)
    rng, seen = np.random.default_rng(0), set()
    for _ in range(20):
        views = cut_views([_example(12, 20)] * 2, (8, 16), settings, rng)
        latents = views.latents - 1000 * views.denoised[:, None, None, None]
        torch.testing.assert_close(F.avg_pool2d(latents, 2).flatten(2).transpose(1, 2), views.tokens)
        torch.testing.assert_close(views.queries, views.tokens)
        seen |= {(float(part.min()), bool(part[0, 0, 0] > part[0, 0, 1])) for part in latents}
        seen |= {bool(which) for which in views.denoised}
    assert {True, False} < seen
    assert len(seen) > 10  # places, mirrored and not


def test_sizes_that_no_example_has_are_left_out() -> None:
    assert fitting_sizes([_example(8, 8), _example(8, 16)], EXAMPLES) == [((8, 8), [0, 1]), ((8, 16), [1])]
    assert fitting_sizes([_example(8, 8)], EXAMPLES) == [((8, 8), [0])]


# The loss, part by part


def test_joined_target_weighs_directions() -> None:
    found = joined_target(torch.tensor([[3.0, 0.0]]), torch.tensor([[0.0, 0.5]]), 2)
    torch.testing.assert_close(found, torch.tensor([[1.0, 0.0, 0.0, 2.0]]) / 5**0.5)


TOKENS = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 3.0]])


def test_similarity_loss_equals_its_literal_form() -> None:
    wanted = torch.tensor([[0.0, 1.0, 0.0], [0.0, 1.0, 1.0], [2.0, 0.0, 0.0]])

    def cosines(x: Tensor) -> np.ndarray:
        pairs = [[float(F.cosine_similarity(a, b, dim=0)) for b in x] for a in x]
        return np.array(pairs) - np.mean(pairs)

    literal = np.square(cosines(TOKENS) - cosines(wanted)).mean() / np.square(cosines(wanted)).mean()
    assert float(similarity_loss(TOKENS, wanted)) == pytest.approx(literal, rel=1e-5)


def test_kernel_loss_equals_its_literal_form() -> None:
    wanted = torch.tensor([[0.0, 1.0, 0.0], [0.0, 1.0, 1.0], [2.0, 0.0, 0.0]])
    seen = TOKENS / TOKENS.abs().amax(1, keepdim=True)
    own = np.array([[-0.5 * float((a - b).square().sum()) for b in seen] for a in seen])
    aim = np.array([[float(a @ b) for b in wanted] for a in wanted])
    own, aim = own - own.mean(), aim - aim.mean()
    literal = 1 - (own * aim).sum() ** 2 / ((own**2).sum() * (aim**2).sum())
    assert float(kernel_loss(TOKENS, wanted)) == pytest.approx(literal, rel=1e-5)


SIGNS = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, -1.0]])


@pytest.mark.parametrize(
    ("loss", "found", "wanted", "value"),
    [
        (similarity_loss, TOKENS, 5 * TOKENS, 0),
        (similarity_loss, torch.ones(3, 4), TOKENS, 1),
        (similarity_loss, torch.stack([TOKENS, TOKENS]), torch.stack([TOKENS, 2 * TOKENS]), 0),
        (kernel_loss, SIGNS, 3 * SIGNS, 0),
        (kernel_loss, torch.tensor([[0.5], [1.0], [2.0]]) * SIGNS, SIGNS, 0),
        (kernel_loss, torch.stack([SIGNS, SIGNS]), torch.stack([SIGNS, SIGNS]), 0),
        (direct_loss, TOKENS, 2 * TOKENS, 0),
        (direct_loss, torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([[0.0, 1.0], [1.0, 0.0]]), 0.5),
    ],
)
def test_losses_on_cases_made_by_hand(
    loss: Callable[[Tensor, Tensor], Tensor], found: Tensor, wanted: Tensor, value: float
) -> None:
    assert float(loss(found, wanted)) == pytest.approx(value, abs=1e-6)


def test_directions_are_those_in_which_targets_vary() -> None:
    along = torch.tensor([-2.0, 1.0, 4.0])
    targets = torch.tensor([1.0, 1.0, 1.0]) + along[:, None] * torch.tensor([0.0, 1.0, 0.0])
    found = Directions.of(targets, 1)
    torch.testing.assert_close(found.coordinates(targets), (along - along.mean())[:, None])


def test_the_head_starts_as_the_least_squares_map() -> None:
    pupil = Pupil(networks()[0])
    queries, mixing = torch.randn(400, 16), torch.randn(16, 16)
    wanted = queries @ mixing + 3
    pupil.fit_head(queries, wanted)
    with torch.no_grad():
        assert float((pupil.head(queries) - wanted).square().mean() / wanted.var()) < 1e-3


def test_noise_prediction_of_the_first_weights_costs_nothing() -> None:
    denoiser, autoencoder = networks()
    examples = make_examples(patches(2).images, denoiser, autoencoder, Colours(), EXAMPLES)
    loss = DistillationLoss(examples, denoiser, TINY, torch.device("cpu"))
    draws = np.random.default_rng(0), torch.Generator().manual_seed(0)
    with torch.no_grad():
        same, other = (float(loss.noise_difference(model, *draws)) for model in (denoiser, networks(1)[0]))
    assert same == 0
    assert other > 0.01


# Training


def taught(folder: Path, budget: Budget, encoder: Any = None, lines: list[str] | None = None) -> Distilled:
    log = (lambda line: None) if lines is None else lines.append
    given = patches(12), patches(4, 1)
    return distil(*networks(), encoder or Colours(), *given, TINY, budget, folder, log)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Distilled, list[str]]:
    folder, lines = tmp_path_factory.mktemp("taught"), list[str]()
    return folder, taught(folder, Budget(steps=30), lines=lines), lines


def test_training_brings_features_nearer_to_held_back_targets(trained: tuple[Path, Distilled, list[str]]) -> None:
    _, result, lines = trained
    assert result.before is not None and result.after is not None
    assert result.after > result.before + 0.05
    assert lines[0] == "12 images, 4 held back, 0 unreadable skipped"
    assert "examples: 16/16 images" in lines
    shown = " ".join(lines)
    assert all(part in shown for part in ("kernel", "within", "across", "direct", "noise", "images/s"))


def test_frozen_parts_keep_every_bit(trained: tuple[Path, Distilled, list[str]]) -> None:
    before, after = networks()[0].state_dict(), trained[1].denoiser.state_dict()
    frozen = ("prompt", "unet.conv_in.", "unet.time_embedding.", "unet.down_blocks.0.")
    changed = {name for name, value in before.items() if not torch.equal(value, after[name])}
    assert not [name for name in changed if name.startswith(frozen)]
    assert len(changed) > 100


def test_a_finished_run_is_read_and_another_one_refused(trained: tuple[Path, Distilled, list[str]]) -> None:
    folder, first, _ = trained
    again = taught(folder, Budget(steps=30), NoEncoder())
    assert again.after == first.after
    with pytest.raises(UsageError, match=r"features.pt was made with other parameters"):
        taught(folder, Budget(steps=31), NoEncoder())  # its examples serve, so that only training is to be repeated
    other = Colours()
    other.fingerprint = "another"
    with pytest.raises(UsageError, match=r"examples.pt was made with other parameters or images"):
        taught(folder, Budget(steps=30), other)


@pytest.mark.parametrize("changed", [0, 1], ids=["training", "held back"])
def test_other_pixels_under_the_same_names_are_other_examples(tmp_path: Path, changed: int) -> None:
    given = [patches(2), patches(2, 1)]
    distil(*networks(), Colours(), *given, TINY, Budget(0.0), tmp_path, lambda line: None)
    given[changed] = replace(given[changed], images=patches(2, 7).images)
    with pytest.raises(UsageError, match=r"examples.pt was made with other parameters or images"):
        distil(*networks(), NoEncoder(), *given, TINY, Budget(0.0), tmp_path, lambda line: None)


def test_images_that_are_too_small_are_left_out_or_refused(tmp_path: Path) -> None:
    small = patches(2, size=(60, 90))
    with pytest.raises(DataError, match="no training image has a short side of 64 px"):
        distil(*networks(), Colours(), small, small, TINY, Budget(steps=1), tmp_path)
    found = distil(*networks(), Colours(), patches(2), small, TINY, Budget(0.0), tmp_path, lambda line: None)
    assert (found.before, found.after) == (None, None)


# The folder that is read and written


def test_networks_are_read_as_they_were_written(tmp_path: Path) -> None:
    written = networks()
    read = read_networks(export(*written, tmp_path))
    for network, found in zip(written, read, strict=True):
        assert not found.training
        for name, value in network.state_dict().items():
            torch.testing.assert_close(found.state_dict()[name], value.half().float(), rtol=0, atol=0)
    given = torch.randn(1, 4, 8, 8), torch.tensor([39]), torch.ones(1)
    with torch.no_grad():
        torch.testing.assert_close(read[0](*given), written[0](*given), rtol=0.02, atol=0.02)


@pytest.mark.parametrize(("key", "value"), [("block_out_channels", [8, 16, 16, 24]), ("layers_per_block", "many")])
def test_a_folder_of_another_kind_is_refused(tmp_path: Path, key: str, value: object) -> None:
    config = export(*networks(), tmp_path) / "unet" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {key: value}))
    with pytest.raises(DataError, match="not a model of `vidseg pretrain`"):
        read_networks(tmp_path)


def write_images(folder: Path, count: int = 3, size: tuple[int, int] = (130, 140)) -> Path:
    from PIL import Image

    folder.mkdir()
    for name, image in zip(itertools.count(), patches(count, size=size).images, strict=False):
        Image.fromarray(image).save(folder / f"{name}.png")
    return folder


def test_the_command_writes_a_model_with_other_features(tmp_path: Path) -> None:
    model, images = export(*networks(), tmp_path / "model"), write_images(tmp_path / "images")
    (tmp_path / "params.yaml").write_text("pretrain_features:\n  batch: 2\n")
    out = tmp_path / "out"
    words = ("--work", tmp_path / "work", "--params", tmp_path / "params.yaml", "--minutes", "0.02")
    done = vidseg("pretrain-features", images, model, out, *words)
    assert f"{out}: written (0 unreadable images skipped)" in done.stderr
    same = {path.relative_to(model): path.read_bytes() == (out / path.relative_to(model)).read_bytes()
            for path in model.rglob("*") if path.is_file()}  # fmt: skip
    assert [str(path) for path, is_same in same.items() if not is_same] == [
        "unet/diffusion_pytorch_model.safetensors"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("nowhere", "MODEL"), 3, "image folder nowhere does not exist"),
        (("IMAGES", "nowhere"), 3, "diffusion_pytorch_model.safetensors cannot be read: start from a folder"),
        (("IMAGES", "MODEL", "--set", "pretrain.seed=1"), 2, "expected pretrain_features.key=value"),
        (("IMAGES", "MODEL", "--set", "pretrain_features.encoder=none"), 2, "pretrain_features.encoder is none; set"),
        (("IMAGES", "MODEL", "--set", "pretrain_features.encoder=IMAGES"), 4, "IMAGES: no encoder; extract.encoder"),
        (("SMALL", "MODEL"), 3, "no training image has a short side of 128 px"),
    ],
)  # fmt: skip
def test_bad_input(tmp_path: Path, arguments: tuple[str, ...], code: int, message: str) -> None:
    export(*networks(), tmp_path / "MODEL")
    write_images(tmp_path / "IMAGES")
    write_images(tmp_path / "SMALL", size=(60, 90))
    done = vidseg("pretrain-features", *arguments[:2], "OUT", *arguments[2:], cwd=tmp_path, check=code)
    assert message in error_line(done)

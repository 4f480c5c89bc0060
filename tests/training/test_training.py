"""Training of the embedded backbone: data, geometry of views, losses, resumption, export."""

from __future__ import annotations

import io
import math
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from pipeline.errors import DataError, UsageError
from pipeline.training.autoencoder import (
    AutoencoderSettings,
    build_autoencoder,
    decode,
    encode,
    hue_residual,
    standardise,
)
from pipeline.training.compact import PretrainSettings, fingerprint, pretrain
from pipeline.training.data import ImageSet, center_crop, held_out_names, random_crop, read_images, to_tensor
from pipeline.training.denoiser import (
    Denoiser,
    DenoiserSettings,
    dense_contrast,
    recorded_queries,
    sample_timesteps,
    signal_levels,
)
from pipeline.training.export import export, read_start
from pipeline.training.loop import Budget, LoopSettings, Schedule, Step, train
from pipeline.training.views import View, ViewSettings, encode_variants, matching_grid, sample_pair

TINY_AUTOENCODER = AutoencoderSettings(channels=(8, 8, 8, 8), groups=4, crop=32, batch=2)
TINY_DENOISER = DenoiserSettings(channels=(8, 16, 16, 16), layers=2, head=8, groups=4, context_width=8)
TINY_VIEWS = ViewSettings(variants=2, side=8, sizes=((8, 8),), latents_per_batch=4 * 64)
TINY = PretrainSettings(autoencoder=TINY_AUTOENCODER, views=TINY_VIEWS, denoiser=TINY_DENOISER, denoiser_side=32)


def pictures(count: int = 6, seed: int = 0) -> ImageSet:
    rng = np.random.default_rng(seed)
    images = tuple(rng.integers(0, 256, (40 + i, 48, 3), dtype=np.uint8) for i in range(count))
    return ImageSet(images, tuple(f"{i}.png" for i in range(count)), 0)


def png(image: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "PNG")
    return stream.getvalue()


def write_shard(path: Path, files: dict[str, bytes]) -> None:
    with tarfile.open(path, "w") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))


def test_shards_are_read_and_unreadable_images_counted(tmp_path: Path) -> None:
    image = pictures(1).images[0]
    write_shard(tmp_path / "a.tar", {"a.png": png(image), "broken.jpg": b"no image", "notes.txt": b"text"})
    found = read_images(tmp_path)
    assert found.names == ("a.png",)
    assert found.unreadable == 1
    np.testing.assert_array_equal(found.images[0], image)


def test_a_plain_folder_is_read_with_its_subfolders(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "b.png").write_bytes(png(pictures(1).images[0]))
    (tmp_path / "truncated.png").write_bytes(png(pictures(1).images[0])[:200])
    found = read_images(tmp_path)
    assert (found.names, found.unreadable) == (("b.png",), 1)


def _missing(folder: Path) -> Path:
    return folder / "nowhere"


def _empty(folder: Path) -> Path:
    return folder


def _empty_shard(folder: Path) -> Path:
    write_shard(folder / "empty.tar", {"readme.txt": b""})
    return folder


def _damaged_shard(folder: Path) -> Path:
    (folder / "bad.tar").write_bytes(b"x" * 600)
    return folder


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (_missing, "does not exist"),
        (_empty, "no readable image"),
        (_empty_shard, "empty.tar has no image"),
        (_damaged_shard, "bad.tar cannot be read"),
    ],
)
def test_unusable_image_folders_are_refused(tmp_path: Path, prepare: Callable[[Path], Path], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_images(prepare(tmp_path))


def test_held_out_names_take_every_nth_row_of_the_groups(tmp_path: Path) -> None:
    rows = ["shard,file", "aux-100-000.tar,x.jpg"] + [f"train-192-000.tar,{i}.jpg" for i in range(7)]
    (tmp_path / "index.csv").write_text("\n".join(rows) + "\n")
    assert held_out_names(tmp_path, every=3) == {"0.jpg", "3.jpg", "6.jpg"}
    assert held_out_names(tmp_path / "none") == frozenset()


def test_small_images_are_left_out_or_refused() -> None:
    images = pictures(3)
    assert len(images.at_least(41).images) == 2
    with pytest.raises(DataError, match="short side of 100"):
        images.at_least(100)


@pytest.mark.parametrize("shape", [(40, 40), (40, 90), (200, 41)])
def test_random_crops_have_the_asked_size_whatever_the_aspect(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    image = np.zeros((*shape, 3), np.uint8)
    assert {random_crop(image, 40, rng).shape for _ in range(30)} == {(40, 40, 3)}


def test_standardising_leaves_reconstructions_and_gives_unit_latents() -> None:
    torch.manual_seed(0)
    model = build_autoencoder(TINY_AUTOENCODER).eval()
    images = pictures(4).images
    target = to_tensor(np.stack([center_crop(image, 32) for image in images]))
    with torch.no_grad():
        before = decode(model, encode(model, target))
        standardise(model, images, side=32)
        latents = encode(model, target)
        after = decode(model, latents)
    torch.testing.assert_close(after, before, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(latents.mean((0, 2, 3)), torch.zeros(4), atol=1e-4, rtol=0)
    torch.testing.assert_close(latents.std((0, 2, 3)), torch.ones(4), atol=1e-3, rtol=0)


def test_hue_residual_is_small_only_when_latents_tell_the_colour() -> None:
    rng = torch.Generator().manual_seed(0)
    colours = torch.rand(4, 3, 4, 4, generator=rng) * 2 - 1
    images = colours.repeat_interleave(8, -1).repeat_interleave(8, -2)
    mixing = torch.randn(4, 3, generator=rng)
    knowing = torch.einsum("dc,nchw->ndhw", mixing, colours)
    blind = images.mean(1, keepdim=True)[..., ::8, ::8].expand(-1, 4, -1, -1)
    assert float(hue_residual(knowing, images)) < 0.02
    assert float(hue_residual(blind, images)) > 0.8


def _view(corner: tuple[int, int], mirrored: bool, window: tuple[float, ...] = (0, 0, 96, 96)) -> View:
    return View(0, 0, corner, (8, 8), mirrored, np.array(window, np.float32), 12)


@pytest.mark.parametrize("mirrored", [(False, False), (True, False), (False, True), (True, True)])
def test_matching_grid_leads_to_the_same_place_of_the_image(mirrored: tuple[bool, bool]) -> None:
    first = _view((0, 2), mirrored[0])
    second = _view((4, 0), mirrored[1], (8, 16, 48, 72))
    grid = matching_grid(first, second)

    def place(view: View, row: float, column: float) -> tuple[float, float]:
        top, left, height, width = view.window
        column = 3 - column if view.mirrored else column
        return (
            top + height / 12 * (view.corner[0] + 2 * row + 1),
            left + width / 12 * (view.corner[1] + 2 * column + 1),
        )

    for row in range(4):
        for column in range(4):
            x, y = grid[row, column]
            matched = place(second, ((y + 1) * 4 - 1) / 2, ((x + 1) * 4 - 1) / 2)
            assert matched == pytest.approx(place(first, row, column), abs=1e-3)


def test_dense_contrast_equals_its_literal_form() -> None:
    torch.manual_seed(0)
    first, second = torch.randn(2, 5, 3, 3), torch.randn(2, 5, 3, 3)
    line = torch.tensor([-2 / 3, 0.0, 2 / 3])  # the tokens' own centres: every place is shared
    grid = torch.stack(torch.meshgrid(line, line, indexing="xy"), -1).repeat(2, 1, 1, 1)
    a = F.normalize(first, dim=1).permute(0, 2, 3, 1).reshape(18, 5)
    b = F.normalize(second, dim=1).permute(0, 2, 3, 1).reshape(18, 5)

    def of_another_image(i: int, j: int) -> bool:
        return i // 9 != j // 9

    total = 0.0
    for x, y in ((a, b), (b, a)):
        for i in range(18):
            scores = [math.exp(float(x[i] @ y[j]) / 0.1) for j in range(18) if i == j or of_another_image(i, j)]
            total -= math.log(math.exp(float(x[i] @ y[i]) / 0.1) / sum(scores)) / 36
    assert float(dense_contrast(first, second, grid, 0.1)) == pytest.approx(total, rel=1e-4)


def test_views_that_share_nothing_give_no_contrast() -> None:
    maps = torch.randn(1, 4, 2, 2)
    assert float(dense_contrast(maps, maps, torch.full((1, 2, 2, 2), 3.0), 0.1)) == 0.0


def test_signal_levels_follow_the_schedule_of_stable_diffusion() -> None:
    betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    np.testing.assert_allclose(signal_levels().numpy(), np.cumprod(1 - betas), rtol=1e-5)


def test_timesteps_favour_low_noise() -> None:
    values = sample_timesteps(4000, DenoiserSettings(), np.random.default_rng(0)).numpy()
    assert 0.77 < (values < 200).mean() < 0.83
    assert values.max() < 700


def test_tapped_queries_are_those_of_blocks_6_to_8() -> None:
    model = Denoiser(TINY_DENOISER)
    with torch.no_grad(), recorded_queries(model) as queries:
        model(torch.randn(1, 4, 8, 8), torch.tensor([39]), torch.ones(1))
        model.prompt.zero_()
    assert [tuple(query.shape) for query in queries] == [(1, 16, 16)] * 3
    assert not any(layer._forward_hooks for layer in model.tapped())


def test_a_pair_has_matching_views_and_the_first_variant_keeps_its_colours() -> None:
    torch.manual_seed(0)
    model = build_autoencoder(TINY_AUTOENCODER).eval()
    cache = encode_variants(model, pictures(5).images, TINY_VIEWS)
    assert cache.latents.shape == (5, 2, 4, 8, 8)
    pair = sample_pair(cache, TINY_VIEWS, np.random.default_rng(0))
    assert pair.first.shape == pair.second.shape == (2, 4, 8, 8)
    assert pair.grid.shape == (2, 4, 4, 2)


def _line(model: torch.nn.Module, rng: np.random.Generator, noise: torch.Generator) -> Step:
    x = torch.from_numpy(rng.normal(size=(4, 2))).float() + torch.randn(4, 2, generator=noise)
    loss = (model(x) - x.sum(1, keepdim=True)).square().mean()
    return Step(loss, {"loss": float(loss.detach())}, 4)


def _stop_after(count: int) -> Callable[..., Step]:
    left = [count]

    def limited(model: torch.nn.Module, rng: np.random.Generator, noise: torch.Generator) -> Step:
        if left[0] == 0:
            raise KeyboardInterrupt
        left[0] -= 1
        return _line(model, rng, noise)

    return limited


def test_a_continued_run_equals_an_uninterrupted_one(tmp_path: Path) -> None:
    settings = LoopSettings(Schedule(1e-2, 2), Budget(steps=12), checkpoint_seconds=0.0)

    def fresh() -> torch.nn.Module:
        torch.manual_seed(0)
        return torch.nn.Linear(2, 1)

    whole = train(fresh(), _line, settings, tmp_path / "whole.pt", "id", lambda line: None)
    with pytest.raises(KeyboardInterrupt):
        train(fresh(), _stop_after(5), settings, tmp_path / "part.pt", "id", lambda line: None)
    continued = train(fresh(), _line, settings, tmp_path / "part.pt", "id", lambda line: None)
    for name, value in whole.items():
        torch.testing.assert_close(continued[name], value, rtol=0, atol=0)


def test_continuing_with_other_parameters_is_refused(tmp_path: Path) -> None:
    settings = LoopSettings(Schedule(1e-2), Budget(steps=1), checkpoint_seconds=0.0)
    train(torch.nn.Linear(2, 1), _line, settings, tmp_path / "c.pt", "one", lambda line: None)
    with pytest.raises(UsageError, match="other parameters or images"):
        train(torch.nn.Linear(2, 1), _line, settings, tmp_path / "c.pt", "two", lambda line: None)


def test_a_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    (tmp_path / "c.pt").write_bytes(b"rubbish")
    settings = LoopSettings(Schedule(1e-2), Budget(steps=1))
    with pytest.raises(DataError, match=r"c\.pt cannot be read"):
        train(torch.nn.Linear(2, 1), _line, settings, tmp_path / "c.pt", "id", lambda line: None)


def test_divergence_is_an_error_not_a_result(tmp_path: Path) -> None:
    def broken(model: torch.nn.Module, rng: np.random.Generator, noise: torch.Generator) -> Step:
        return Step(model(torch.full((1, 2), math.inf)).sum(), {}, 1)

    settings = LoopSettings(Schedule(1e-2), Budget(steps=1))
    with pytest.raises(DataError, match="diverged at step 0"):
        train(torch.nn.Linear(2, 1), broken, settings, tmp_path / "c.pt", "id", lambda line: None)
    assert not (tmp_path / "c.pt").exists()


@pytest.mark.parametrize(
    ("budget", "seconds", "step", "share"),
    [
        (Budget(minutes=2), 60, 5, 0.5),
        (Budget(steps=10), 60, 5, 0.5),
        (Budget(minutes=1, steps=10), 90, 1, 1.0),
        (Budget(minutes=0), 0, 0, 1.0),
    ],
)
def test_the_budget_ends_with_whichever_comes_first(budget: Budget, seconds: float, step: int, share: float) -> None:
    assert budget.progress(seconds, step) == pytest.approx(share)


def test_the_fingerprint_sees_parameters_images_and_budget() -> None:
    base = fingerprint(pictures(), TINY, Budget(steps=1))
    assert base == fingerprint(pictures(), TINY, Budget(steps=1))
    assert base != fingerprint(pictures(5), TINY, Budget(steps=1))
    assert base != fingerprint(pictures(), replace(TINY, seed=1), Budget(steps=1))
    assert base != fingerprint(pictures(), TINY, Budget(steps=2))


def test_view_sizes_that_the_network_cannot_halve_are_refused() -> None:
    with pytest.raises(UsageError, match="multiples of 8"):
        replace(TINY, views=replace(TINY_VIEWS, sizes=((8, 12),)))


def test_pretraining_writes_a_folder_that_diffusers_loads(tmp_path: Path) -> None:
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from safetensors.torch import load_file

    lines: list[str] = []
    images = pictures()
    device = torch.device("cpu")
    first = pretrain(images, pictures(2, 1), TINY, Budget(steps=2), tmp_path / "w", device, lines.append)
    again = pretrain(images, pictures(2, 1), TINY, Budget(steps=2), tmp_path / "w", device, lines.append)
    assert first.psnr is not None
    assert first.psnr == pytest.approx(again.psnr)
    assert any("images/s" in line and "denoising" in line and "dense" in line for line in lines)

    folder = export(first.denoiser, first.autoencoder, tmp_path / "out")
    assert sorted(path.name for path in folder.iterdir()) == [
        "empty_prompt.safetensors",
        "scheduler",
        "unet",
        "vae",
    ]
    unet = UNet2DConditionModel.from_pretrained(folder / "unet")
    vae = AutoencoderKL.from_pretrained(folder / "vae")
    prompt = load_file(folder / "empty_prompt.safetensors")["embedding"]
    assert prompt.shape == (8, 8)
    assert unet.config.cross_attention_dim == 8
    assert vae.config.scaling_factor == 1.0
    stored = load_file(folder / "unet" / "diffusion_pytorch_model.safetensors")
    for name, value in first.denoiser.unet.state_dict().items():
        torch.testing.assert_close(stored[name].float(), value, atol=1e-3, rtol=1e-3)


def test_the_decoder_phase_leaves_the_latents_alone(tmp_path: Path) -> None:
    images = pictures()
    result = pretrain(images, pictures(1, 1), TINY, Budget(steps=2), tmp_path, torch.device("cpu"), lambda line: None)
    before = torch.load(tmp_path / "autoencoder.pt", weights_only=True)["average"]
    after = result.autoencoder.state_dict()
    for name, value in before.items():
        if name.startswith("encoder."):
            torch.testing.assert_close(after[name], value)


def test_training_goes_on_from_written_weights(tmp_path: Path) -> None:
    cpu = torch.device("cpu")
    first = pretrain(pictures(), pictures(1, 1), TINY, Budget(steps=2), tmp_path / "a", cpu, lambda line: None)
    start = read_start(export(first.denoiser, first.autoencoder, tmp_path / "out"))
    second = pretrain(pictures(), pictures(1, 1), TINY, Budget(0.0), tmp_path / "b", cpu, lambda line: None, start)
    for name, value in second.denoiser.state_dict().items():
        torch.testing.assert_close(value, start.denoiser[name])
    assert second.psnr == pytest.approx(first.psnr, abs=0.1)  # stored in half precision
    assert fingerprint(pictures(), TINY, Budget(), start) != fingerprint(pictures(), TINY, Budget())


def test_weights_to_start_from_must_be_there_and_fit(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"unet.diffusion_pytorch_model.safetensors cannot be read: start from a folder"
    ):
        read_start(tmp_path)
    export(Denoiser(TINY_DENOISER), build_autoencoder(TINY_AUTOENCODER), tmp_path)
    wider = replace(TINY, denoiser=replace(TINY_DENOISER, channels=(8, 16, 16, 24)))
    with pytest.raises(DataError, match="another shape: give the channels they have"):
        pretrain(
            pictures(), pictures(1, 1), wider, Budget(0.0), tmp_path / "w", torch.device("cpu"), lambda line: None,
            read_start(tmp_path),
        )  # fmt: skip
    (tmp_path / "empty_prompt.safetensors").write_bytes(b"damaged")
    with pytest.raises(DataError, match=r"empty_prompt.safetensors cannot be read"):
        read_start(tmp_path)

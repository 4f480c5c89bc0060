"""The fast mode of upsampling: what each approximation computes, and that none of them is the exact mode."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.backbone import Box, Keep
from pipeline.backbone.image.model import StableDiffusion
from pipeline.backbone.local_decoding import MARGIN
from pipeline.backbone.small_decoder import load_small_decoder
from pipeline.errors import WeightsError
from pipeline.features.diffusion import DiffusionSettings
from pipeline.upsampling.difference import MapSettings
from pipeline.upsampling.exact import upsample
from pipeline.upsampling.guided_filter import guided_filter
from pipeline.upsampling.label_groups import Group, Region, alone, coloured, connected_parts, whole_labels
from pipeline.upsampling.modulation import ModulationSettings
from pipeline.upsampling.upsample import EXACT, FastSettings, GroupMap, label_groups_frame, upsample_fast
from pipeline.upsampling.windows import WindowPasses
from tests.support import tiny
from tests.support.commands import error_line, vidseg, write_frames
from tests.support.tiny import save_small_decoder

DIFFUSION = DiffusionSettings(guidance=5.0)
MODULATION = ModulationSettings()
MAPS = MapSettings()
#: Nothing is approximated.
NOTHING = EXACT
PASSES = WindowPasses(batch=4)
SIZE = (70, 134)
PLANE = np.array(
    [
        [0, 0, 1, 1, 2, 2, 2, 2],
        [0, 0, 1, 1, 2, 2, 2, 2],
        [0, 0, 1, 1, 2, 2, 0, 0],
        [3, 3, 3, 3, 3, 3, 0, 0],
    ]
)


@pytest.fixture(scope="module")
def backbone() -> StableDiffusion:
    return StableDiffusion(tiny.make_unet(), tiny.make_vae(), tiny.make_context(), "tiny", "hash")


@pytest.fixture(scope="module")
def start() -> torch.Tensor:
    return torch.randn(2, 4, 8, 16, generator=torch.Generator().manual_seed(0))


def fast_labels(backbone: StableDiffusion, start: torch.Tensor, fast: FastSettings, **more: object) -> np.ndarray:
    planes = np.stack([PLANE, PLANE[:, ::-1]])
    guides = np.random.default_rng(0).integers(0, 256, (2, 64, 128, 3), np.uint8)
    frames = upsample_fast(
        backbone, start, planes, guides, SIZE, DIFFUSION, MODULATION, MAPS, fast, PASSES, **more  # type: ignore[arg-type]
    )  # fmt: skip
    return np.stack([frame.labels for frame in frames])


def exact_labels(backbone: StableDiffusion, start: torch.Tensor, diffusion: DiffusionSettings) -> np.ndarray:
    planes = np.stack([PLANE, PLANE[:, ::-1]])
    frames = upsample(backbone, start, planes, SIZE, diffusion, MODULATION, MAPS, batch=4)
    return np.stack([frame.labels for frame in frames])


@pytest.mark.parametrize("guidance", [1.0, 5.0])
def test_without_any_approximation_it_is_the_exact_mode(
    backbone: StableDiffusion, start: torch.Tensor, guidance: float
) -> None:
    labels = fast_labels(backbone, start, replace(NOTHING, guidance=guidance))
    exact = exact_labels(backbone, start, replace(DIFFUSION, guidance=guidance))
    assert (labels == exact).mean() >= 0.999


@pytest.mark.parametrize(
    "change",
    [{"signs": "plus"}, {"steps": 1}, {"groups": "parts"}, {"decode": "latent"},
     {"deep": "clean"}, {"guidance": 1.0}],
)  # fmt: skip
def test_each_approximation_changes_something_and_labels_stay_in_the_map(
    backbone: StableDiffusion, start: torch.Tensor, change: dict[str, object]
) -> None:
    labels = fast_labels(backbone, start, replace(NOTHING, **change))  # type: ignore[arg-type]
    assert labels.shape == (2, *SIZE)
    assert set(np.unique(labels)) <= set(np.unique(PLANE))
    assert (labels != fast_labels(backbone, start, NOTHING)).any()


def test_a_frame_of_one_label_has_just_that(backbone: StableDiffusion, start: torch.Tensor) -> None:
    guides = np.zeros((1, 64, 128, 3), np.uint8)
    plane = np.full((1, 4, 8), 7)
    frames = upsample_fast(
        backbone, start[:1], plane, guides, SIZE, DIFFUSION, MODULATION, MAPS, FastSettings(), PASSES
    )
    assert np.unique(next(iter(frames)).labels).tolist() == [7]


# Regions and groups


def test_parts_of_a_label_are_its_connected_regions() -> None:
    parts = connected_parts(PLANE)
    assert [(part.label, int(part.mask.sum())) for part in parts] == [(0, 6), (0, 4), (1, 6), (2, 10), (3, 6)]
    assert sum(part.mask.astype(int) for part in parts).tolist() == np.ones_like(PLANE).tolist()
    assert [region.label for region in whole_labels(PLANE)] == [0, 1, 2, 3]


def test_alone_shows_a_label_everywhere() -> None:
    (group,) = alone([Region(4, np.eye(3, dtype=bool))])
    assert group.labels == [4]
    assert (group.owners == 4).all() and (group.mask == np.eye(3, dtype=bool)).all()


@pytest.mark.parametrize(("gap", "groups"), [(1, 2), (2, 2), (3, 3), (5, 4), (9, 5)])
def test_colouring_keeps_stripes_the_gap_apart(gap: int, groups: int) -> None:
    plane = np.repeat(np.arange(5), 2)[None].repeat(4, axis=0)  # stripes, two tokens wide
    found = coloured(whole_labels(plane), gap)
    assert len(found) == groups
    for group in found:
        columns = np.flatnonzero(group.mask[0])
        jumps = np.diff(columns)
        assert all(jump == 1 or jump > gap for jump in jumps)
    assert (sum(group.mask.astype(int) for group in found) == 1).all()


def test_owners_are_the_nearest_regions() -> None:
    plane = np.repeat(np.arange(5), 2)[None].repeat(4, axis=0)
    even = coloured(whole_labels(plane), 1)
    of_zero = next(group for group in even if 0 in group.labels)
    assert of_zero.labels == [0, 2, 4]
    assert of_zero.owners[0].tolist() == [0, 0, 0, 2, 2, 2, 2, 4, 4, 4]


def test_groups_of_a_window_hold_in_each_of_its_frames() -> None:
    """0 and 2 touch in the last frame only, and are apart in the whole window; 3 appears there and is 0's neighbour."""
    frames = np.array([[[0, 0, 1, 1, 2, 2]], [[0, 0, 1, 1, 2, 2]], [[3, 0, 0, 2, 2, 2]]])
    found = coloured(whole_labels(frames), 1)
    assert sorted(sorted(int(label) for label in np.unique(frames[group.mask])) for group in found) == [
        [0],
        [1, 3],
        [2],
    ]
    pair = next(group for group in found if group.mask[2, 0, 0])
    assert pair[0].labels == [1] and pair[2].labels == [3]  # of the same frame, however near another one is
    assert pair[2].mask.tolist() == [[True, False, False, False, False, False]]


def test_parts_of_a_window_connect_over_frames() -> None:
    frames = np.zeros((2, 1, 6), int)
    frames[0, 0, [0, 5]] = frames[1, 0, [1, 5]] = 1
    assert [int(part.mask.sum()) for part in connected_parts(frames) if part.label == 1] == [2, 2]


def test_a_pass_competes_with_the_label_that_it_shows() -> None:
    """Section 3.2 and Eq. 7 with owners: each label's map is divided by its own largest value."""
    plane = np.array([[0, 1, 2, 2]])
    size, ends = (1, 4), Group(plane != 1, np.array([[0, 0, 2, 2]]))
    middle = Group(plane == 1, np.ones((1, 4), int))
    shown = [
        GroupMap(ends, np.array([[10.0, 6.0, 2.0, 4.0]], np.float32)),
        GroupMap(middle, np.array([[1.0, 5.0, 4.0, 1.0]], np.float32)),
    ]
    unfiltered = MapSettings(filter=1.0)
    frame = label_groups_frame(shown, plane, size, unfiltered)
    # Label 0 has 1, 0.6; label 2 has 0.5, 1; label 1 has 0.2, 1, 0.8, 0.2.
    assert frame.labels.tolist() == [[0, 1, 1, 2]]
    assert frame.differences[2][0].tolist() == pytest.approx([0, 0, 0.5, 1], abs=1e-5)
    inside = label_groups_frame(shown, plane, size, MapSettings(filter=0.0))
    assert inside.labels.tolist() == [[0, 1, 2, 2]]


# Steps and deep features


@pytest.mark.parametrize(("steps", "run"), [(1, (22,)), (2, (22, 24)), (3, (22, 23, 24)), (9, (22, 23, 24))])
def test_fewer_steps_go_all_the_way(backbone: StableDiffusion, steps: int, run: tuple[int, ...]) -> None:
    settings = replace(NOTHING, steps=steps).diffusion(DIFFUSION, MODULATION)
    assert settings.remaining() == run
    sigmas = backbone.schedule(25).sigmas
    shortened = backbone.schedule(25).without(settings.skip).sigmas
    ends = [float(shortened[step + 1]) for step in run]
    assert ends == [float(sigmas[step]) for step in run[1:]] + [0.0]


def test_the_top_level_alone_is_the_pass_when_nothing_below_changes(
    backbone: StableDiffusion, start: torch.Tensor
) -> None:
    schedule = backbone.schedule(25)
    clean = backbone.denoise(start, 23, schedule, 5.0, keep=Keep(attention=True, deep=True))
    assert clean.kept is not None
    variants = clean.kept.variants({0, 1})
    same = variants.denoise(start[[1, 0, 1]], [1, 0, 1])
    torch.testing.assert_close(same, clean.latents[[1, 0, 1]], atol=2e-5, rtol=1e-4)
    moved = variants.denoise(start[[1]] + 0.1, [1])
    assert (moved - clean.latents[[1]]).abs().mean() > 0.01


# Decoding


@pytest.mark.parametrize("attention", [False, True])
def test_a_box_is_decoded_as_in_the_whole(attention: bool) -> None:
    torch.manual_seed(0)
    vae = tiny.make_vae(attention=attention)
    backbone = StableDiffusion(tiny.make_unet(), vae, tiny.make_context(), "tiny", "hash")
    latents = torch.randn(1, 4, 24, 24)
    decoder = backbone.part_decoder(latents)
    torch.testing.assert_close(decoder.whole, backbone.decode(latents))
    whole = Box(0, 24, 0, 24)
    torch.testing.assert_close(decoder.part(latents[0], whole), decoder.whole[0], atol=1e-4, rtol=1e-4)
    box = Box(9, 14, 8, 17)
    part = decoder.part(latents[0], box)
    assert part.shape == (3, 40, 72)
    expected = box.scaled(8).of(decoder.whole[0])
    wide = box.grown(MARGIN, (24, 24))
    cut_out = backbone.decode(wide.of(latents))[0, :, 8 * MARGIN : -8 * MARGIN, 8 * MARGIN : -8 * MARGIN]
    # What lies beyond the margin matters little, the statistics of the whole much.
    assert (part - expected).abs().max() < 0.5 * (cut_out - expected).abs().max()
    assert (decoder.part(latents[0] + 1, box) - part).abs().mean() > (part - expected).abs().mean()


def test_boxes() -> None:
    mask = torch.zeros(6, 9)
    mask[2:4, 5] = 0.1
    box = Box.around(mask)
    assert box == Box(2, 4, 5, 6)
    assert box.grown(MARGIN, (6, 9)) == Box(0, 6, 1, 9)
    assert box.scaled(8) == Box(16, 32, 40, 48)
    assert box.of(mask).shape == (2, 1)


def test_forwards_come_back_after_a_part(backbone: StableDiffusion) -> None:
    latents = torch.zeros(1, 4, 8, 8)
    backbone.part_decoder(latents).part(latents[0], Box(2, 4, 2, 4))
    assert not any("forward" in vars(module) for module in backbone.vae.modules())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in backbone.vae.modules())


def test_the_small_decoder_is_the_one_of_diffusers(tmp_path: Path) -> None:
    from diffusers import AutoencoderTiny

    folder = save_small_decoder(tmp_path / "small")
    latents = torch.randn(2, 4, 4, 6)
    images = load_small_decoder(folder, torch.device("cpu"))(latents)
    expected = AutoencoderTiny.from_pretrained(folder).eval().decode(latents).sample
    torch.testing.assert_close(images, expected.detach())


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda folder: None, "no small decoder; it needs config.json"),
        (lambda folder: (save_small_decoder(folder) / "config.json").write_text('{"_class_name": "AutoencoderKL"}'),
         "is a AutoencoderKL, not an AutoencoderTiny"),
        (lambda folder: (save_small_decoder(folder) / "diffusion_pytorch_model.safetensors").write_bytes(b"no"),
         "cannot be loaded"),
        (lambda folder: (save_small_decoder(folder) / "config.json").write_text(
            '{"_class_name": "AutoencoderTiny", "act_fn": "none"}'), r"config\.json: cannot be loaded"),
        (lambda folder: (save_small_decoder(folder) / "config.json").write_text("[1]"), "not a JSON object"),
        (lambda folder: save_small_decoder(folder, latent_channels=16),
         "its latents have 16 channels and cells of 8 px, this backbone's have 4 and 8 px"),
    ],
)  # fmt: skip
def test_bad_small_decoders_are_named(tmp_path: Path, prepare: object, message: str) -> None:
    prepare(tmp_path / "small")  # type: ignore[operator]
    with pytest.raises(WeightsError, match=message):
        load_small_decoder(tmp_path / "small", torch.device("cpu"))


@pytest.mark.parametrize("signs", ["both", "plus"])
@pytest.mark.parametrize("decode", ["box", "small"])
def test_parts_and_small_images_give_labels(
    backbone: StableDiffusion, start: torch.Tensor, tmp_path: Path, decode: str, signs: str
) -> None:
    small = load_small_decoder(save_small_decoder(tmp_path / "small"), torch.device("cpu"))
    fast = replace(NOTHING, decode=decode, signs=signs)  # type: ignore[arg-type]
    labels = fast_labels(backbone, start, fast, small=small)
    assert labels.shape == (2, *SIZE)


def test_guided_filter_keeps_the_edge_of_the_guide(rng: np.random.Generator) -> None:
    guide = np.zeros((20, 40), np.float32)
    guide[:, 20:] = 1
    values = np.clip((np.arange(40, dtype=np.float32) - 14) / 12, 0, 1)[None].repeat(20, axis=0)  # a ramp
    filtered = guided_filter(values, guide, 6, 1e-4)
    before, after = (plane[10, 20] - plane[10, 19] for plane in (values, filtered))
    assert after > 4 * before
    flat = guided_filter(values, np.zeros_like(guide), 2, 1e-2)
    np.testing.assert_allclose(flat[5, 19:22], values[5, 19:22], atol=1e-5)


# The stage


def options(model: Path, *more: str) -> list[str]:
    sets = (f"backbone.path={model}", "ingest.size=native", "segment.clusters=3", "upsample.mode=fast", *more)
    return [word for text in sets for word in ("--set", text)]


def test_the_stage_runs_fast_and_its_levers_count_for_the_fingerprint(
    tiny_model: Path, tmp_path: Path, rng: np.random.Generator
) -> None:
    import zarr

    frames = write_frames(tmp_path / "frames", rng.integers(0, 256, (3, 64, 64, 3), np.uint8))
    marks = set()
    for lever in ("fast.decode=latent", "fast.decode=box", "mode=exact"):
        out = tmp_path / lever
        vidseg("run", frames, "-o", out, *options(tiny_model, f"upsample.{lever}", "render.extras=false"))
        store = zarr.open_group(out / "artifacts" / "labels.zarr", mode="r")
        assert store["labels"].shape == (3, 64, 64)
        marks.add(store.attrs["fingerprint"])
    assert len(marks) == 3


def test_the_small_decoder_must_be_named(tiny_model: Path, tmp_path: Path, rng: np.random.Generator) -> None:
    frames = write_frames(tmp_path / "frames", rng.integers(0, 256, (2, 64, 64, 3), np.uint8))
    command = ("run", frames, "-o", tmp_path / "out", *options(tiny_model, "upsample.fast.decode=small"))
    assert "needs upsample.fast.small_decoder" in error_line(vidseg(*command, check=2))
    assert not (tmp_path / "out").exists()  # refused before anything was computed

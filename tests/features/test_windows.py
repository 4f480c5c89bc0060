"""Windows of a video model through the stages, with a tiny model in the real layout."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.errors import DataError, ResourceError, UsageError
from pipeline.features.extraction import extract as extract_frames
from pipeline.features.windows import Pass, passes_of, window_with
from pipeline.parameters import UpsampleVideo
from pipeline.rendering import method_figures
from pipeline.stores.schemas import CLIP, FEATURES, LABELS, LATENTS
from pipeline.stores.store import open_store, shard_frames
from stages import extract, upsample
from stages.commands import figures
from stages.common import backbones
from stages.common.settings import load
from tests.support.commands import error_line, vidseg, write_frames
from tests.support.noise_clip import FRAMES, make_clip, make_coarse
from tests.support.places import ROOT

#: Two steps and small maps: what is tested is which frames are seen together.
QUICK = ("diffusion.start_step=23", "upsample.modulate_step=23", "extract.frames_together=3", "segment.clusters=2")


@pytest.fixture(scope="module")
def settings(tiny_video_model: Path) -> Any:
    return load(None, ["backbone.name=svd", f"backbone.path={tiny_video_model}", *QUICK])


@pytest.fixture(scope="module")
def backbone(settings: Any) -> Any:
    return backbones.load_backbone(settings["backbone"])


@pytest.mark.parametrize(
    ("frames", "window", "expected"),
    [
        (28, 14, [range(14), range(14, 28)]),
        (40, 14, [range(14), range(14, 28), range(26, 40)]),
        (15, 14, [range(14), range(1, 15)]),
        (5, 14, [range(5)]),
        (2, 1, [range(1), range(1, 2)]),
    ],
)
def test_the_last_window_is_moved_back(backbone: Any, frames: int, window: int, expected: list[range]) -> None:
    shards = [range(start, min(start + window, frames)) for start in range(0, frames, window)]
    found = [each for shard in shards for each in passes_of(shard, backbone, window, batch=4)]
    assert [each.frames for each in found] == expected
    assert [frame for each in found for frame in each.asked] == list(range(frames))
    for frame in range(frames):
        seen = window_with(frame, window, frames)
        assert seen.frames[seen.first] == frame and seen.frames in expected


def test_windows_of_one_frame_go_through_an_image_model_together(tiny_model: Path) -> None:
    image = load(None, ["backbone.name=sd21", f"backbone.path={tiny_model}"])
    model = backbones.load_backbone(image["backbone"])
    found = passes_of(range(14, 24), model, together=1, batch=4)
    assert found == [Pass(range(14, 18)), Pass(range(18, 22)), Pass(range(22, 24))]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, settings: Any, backbone: Any) -> Path:
    """Folder of clip, features, latents and coarse labels of 5 frames in windows of 3."""
    folder = tmp_path_factory.mktemp("windows")
    make_clip(folder / "clip.zarr")
    run_extract(folder, settings, backbone)
    make_coarse(folder / "coarse.zarr", folder / "latents.zarr", shard=3)
    return folder


def run_extract(folder: Path, settings: Any, backbone: Any, out: Path | None = None, **changes: Any) -> Path:
    params = replace(settings["extract"], **changes)
    given = settings["diffusion"], settings["backbone"], backbone
    return extract.run(folder / "clip.zarr", out or folder, params, *given)


def run_upsample(folder: Path, out: Path, settings: Any, backbone: Any, **changes: Any) -> np.ndarray:
    params = replace(settings["upsample"], **changes)
    path = upsample.run(
        folder / "clip.zarr", folder / "latents.zarr", folder / "coarse.zarr", out, params,
        settings["diffusion"], settings["backbone"], backbone,
    )  # fmt: skip
    return open_store(path, LABELS).read("labels")


def test_frames_that_are_done_keep_their_first_features(made: Path, settings: Any, backbone: Any) -> None:
    """Frames 0-2 are seen together, and 3-4 at the end of the window 2-4: frame 2 keeps its first features."""
    store = open_store(made / "features.zarr", FEATURES)
    assert shard_frames(store.array("matching")) == 3
    clip = open_store(made / "clip.zarr", CLIP)
    images, indices = clip.read("frames"), clip.attrs["source_indices"]
    given = settings["diffusion"], settings["extract"]
    parts = [extract_frames(backbone, images[part], indices[part], *given) for part in (slice(3), slice(2, 5))]
    expected = torch.cat([parts[0].matching, parts[1].matching[1:]]).numpy().astype(np.float16)
    np.testing.assert_array_equal(store.read("matching"), expected)
    assert not np.array_equal(parts[1].matching[0].numpy(), parts[0].matching[2].numpy())


def test_an_encoder_and_margins_with_windows(made: Path, settings: Any, backbone: Any, tmp_path: Path) -> None:
    """The encoder sees each frame alone, and the latents are the frames' own."""
    chosen = {"encoder": "efficientnet_lite0", "padding": "reflect", "padding_pixels": 32}
    both = open_store(run_extract(made, settings, backbone, tmp_path / "both", **chosen), FEATURES)
    alone = open_store(run_extract(made, settings, backbone, tmp_path / "alone", **chosen, parts="encoder"), FEATURES)
    np.testing.assert_array_equal(both.read("encoder"), alone.read("encoder"))
    plain = open_store(made / "features.zarr", FEATURES)
    assert both.array("matching").shape == plain.array("matching").shape
    assert (both.read("matching") != plain.read("matching")).any()
    expected = open_store(made / "latents.zarr", LATENTS).read("latents")
    for folder in ("both", "alone"):
        np.testing.assert_array_equal(open_store(tmp_path / folder / "latents.zarr", LATENTS).read("latents"), expected)


def test_shards_may_be_written_by_several_processes(made: Path, settings: Any, backbone: Any, tmp_path: Path) -> None:
    given = settings["extract"], settings["diffusion"], settings["backbone"], backbone
    for shards in (slice(1, 2), slice(0, 1)):
        extract.run(made / "clip.zarr", tmp_path / "parts", *given, shards=shards)
    stores = [open_store(folder / "features.zarr", FEATURES) for folder in (made, tmp_path / "parts")]
    np.testing.assert_array_equal(*(store.read("matching") for store in stores))


def test_upsampling_uses_the_windows_of_the_latents(made: Path, settings: Any, backbone: Any, tmp_path: Path) -> None:
    labels = run_upsample(
        made, tmp_path / "joint", settings, backbone, video=replace(settings["upsample"].video, decode="joint")
    )
    assert labels.shape == (FRAMES, 60, 120) and set(np.unique(labels)) <= {0, 1}


def test_a_short_clip_is_one_shorter_window_with_a_note(
    made: Path, settings: Any, backbone: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = run_extract(made, settings, backbone, tmp_path / "out", frames_together=14)
    assert f"has {FRAMES} frames, extract.frames_together is 14: one shorter window" in capsys.readouterr().err
    assert open_store(path, FEATURES).frames("matching") == FRAMES


def test_a_window_of_one_frame_works(made: Path, settings: Any, backbone: Any, tmp_path: Path) -> None:
    path = run_extract(made, settings, backbone, tmp_path / "out", frames_together=1)
    assert open_store(path, FEATURES).frames("matching") == FRAMES


class SmallMemory:
    """A backbone that has room for windows of two frames."""

    def __init__(self, backbone: Any) -> None:
        self._backbone = backbone
        self.modulated = backbone.modulated

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backbone, name)

    def denoise(self, latents: torch.Tensor, *rest: Any, **options: Any) -> Any:
        self._hold(latents)
        return self._backbone.denoise(latents, *rest, **options)

    def denoise_repeatably(self, latents: torch.Tensor, *rest: Any, **options: Any) -> Any:
        self._hold(latents)
        return self._backbone.denoise_repeatably(latents, *rest, **options)

    def _hold(self, latents: torch.Tensor) -> None:
        if len(latents) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


@pytest.mark.parametrize("stage", ["extract", "upsample"])
def test_a_window_larger_than_the_memory(made: Path, settings: Any, backbone: Any, tmp_path: Path, stage: str) -> None:
    small = SmallMemory(backbone)
    with pytest.raises(
        ResourceError, match=r"out of memory with .*{0} = 3; .* --set {0}=1".format("extract.frames_together")
    ):
        if stage == "extract":
            run_extract(made, settings, small, tmp_path / "out")
        else:
            run_upsample(made, tmp_path / "out", settings, small)


def test_an_image_model_has_no_window(made: Path, tiny_model: Path, tmp_path: Path) -> None:
    image = load(None, ["backbone.name=sd21", f"backbone.path={tiny_model}", "diffusion.guidance=1"])
    model = backbones.load_backbone(image["backbone"])
    with pytest.raises(UsageError, match="extract.frames_together is 3, but sd21 sees every frame alone; set it to"):
        run_extract(made, image, model, tmp_path / "out", frames_together=3)
    run_extract(made, image, model, tmp_path)
    (tmp_path / "clip.zarr").symlink_to(made / "clip.zarr")
    make_coarse(tmp_path / "coarse.zarr", tmp_path / "latents.zarr")
    for video, message in (
        (UpsampleVideo(decode="joint"), "upsample.video.decode is joint, but sd21 sees every frame alone"),
        (
            UpsampleVideo(attention="self_spatial"),
            "upsample.video.attention is self_spatial, but sd21 has only cross_spatial",
        ),
    ):
        with pytest.raises(UsageError, match=message):
            run_upsample(tmp_path, tmp_path / "out", image, model, video=video)


def test_a_video_model_needs_a_window(made: Path, settings: Any, backbone: Any, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="extract.frames_together is null, but svd sees a window .* set it to 14"):
        run_extract(made, settings, backbone, tmp_path / "out", frames_together=None)


def options(settings: Any, *more: str) -> list[str]:
    given = settings["backbone"]
    texts = (f"backbone.name={given.name}", f"backbone.path={given.path}", *QUICK, *more)
    return [f"--set={text}" for text in texts]


def test_latents_of_another_window_are_refused(made: Path, settings: Any, tmp_path: Path) -> None:
    stores = [made / f"{name}.zarr" for name in ("clip", "latents", "coarse")]
    line = error_line(vidseg("upsample", *stores, tmp_path, *options(settings, "extract.frames_together=4"), check=3))
    assert "was made with extract.frames_together = 3, now it is 4; run `vidseg extract` with these" in line


def test_latents_of_another_model_are_refused(made: Path, settings: Any, tiny_model: Path, tmp_path: Path) -> None:
    image = load(None, ["backbone.name=sd21", f"backbone.path={tiny_model}"])
    with pytest.raises(DataError, match="was made with other weights"):
        run_upsample(made, tmp_path, image, None)


@pytest.mark.whole
@pytest.mark.parametrize("frame", [1, 3])
def test_figures_show_the_labels_of_the_stage(
    made: Path, settings: Any, backbone: Any, tmp_path: Path, frame: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For a frame in the first window, and for one in the last, which is moved back."""
    shown = {}
    monkeypatch.setattr(method_figures, "differences_figure", lambda *given: shown.update(given[3]) or given[0])
    stores = (made / name for name in ("clip.zarr", "latents.zarr", "coarse.zarr"))
    figures.differences(*stores, tmp_path / "x.png", settings, frame, None)
    labels = run_upsample(made, tmp_path / "out", settings, backbone)
    np.testing.assert_array_equal(shown["blended, strength 50"].labels, labels[frame])


def test_figures_of_blocks_see_the_whole_window(made: Path, settings: Any, tmp_path: Path) -> None:
    stores = (made / name for name in ("clip.zarr", "features.zarr", "latents.zarr"))
    assert figures.blocks(*stores, tmp_path / "blocks.png", settings, 4).is_file()


@pytest.mark.whole
def test_run_from_video_to_labels(settings: Any, tmp_path: Path) -> None:
    frames = np.random.default_rng(1).integers(0, 256, (4, 64, 64, 3), np.uint8)
    write_frames(tmp_path / "frames", frames)
    vidseg("run", tmp_path / "frames", "-o", tmp_path / "out", *options(settings))
    assert len(list((tmp_path / "out" / "labels").glob("*.png"))) == 4
    assert (tmp_path / "out" / "overlay.mp4").is_file()


def test_run_refuses_the_other_familys_parameters_before_it_computes(settings: Any, tmp_path: Path) -> None:
    write_frames(tmp_path / "frames", np.zeros((2, 64, 64, 3), np.uint8))
    given = options(settings, "extract.frames_together=null")
    line = error_line(vidseg("run", tmp_path / "frames", "-o", tmp_path / "out", *given, check=2))
    assert "`vidseg preset apply svd` sets all that depends on the backbone" in line
    assert not (tmp_path / "out").exists()


def test_nothing_outside_the_backbone_and_the_parameter_table_names_the_video_model() -> None:
    parameters, papers_words = ROOT / "pipeline/parameters", ROOT / "pipeline/tables/quoted.py"
    allowed = {*parameters.glob("*.py"), papers_words}
    modules = {*(ROOT / "pipeline").rglob("*.py"), *(ROOT / "stages").rglob("*.py")} - allowed
    modules -= set((ROOT / "pipeline/backbone").rglob("*.py"))
    naming = [str(path.relative_to(ROOT)) for path in sorted(modules) if "svd" in path.read_text().lower()]
    assert naming == []

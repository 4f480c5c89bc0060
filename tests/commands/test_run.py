"""`vidseg run`, the command a newcomer begins with, and `vidseg doctor`."""

from __future__ import annotations

import errno
import json
import os
import re
import shlex
import shutil
import sys
import webbrowser
from pathlib import Path

import av
import numpy as np
import pytest
import zarr
from filelock import FileLock
from PIL import Image

from pipeline.media.video import open_source, write_video
from stages.commands import doctor
from tests.support.commands import error_line, tree_bytes, vidseg, write_frames, write_labels
from tests.support.places import ROOT

SIZE = (66, 130)


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five frames of two moving textures, at a size that is no multiple of 64."""
    rng = np.random.default_rng(0)
    texture = rng.integers(0, 90, (SIZE[0], 200, 3), dtype=np.uint8)
    texture[:, 60:] += 120
    frames = [texture[:, 4 * i : 4 * i + SIZE[1]] for i in range(5)]
    return write_video(tmp_path_factory.mktemp("video") / "clip.mp4", frames, 10.0)


#: A single step of denoising, to be quick.
ONE_STEP = ("diffusion.start_step=24", "upsample.modulate_step=24", "upsample.parity.blend_last_step=24")

#: Without what is drawn beside the labels, where a test is about something else.
PLAIN = ("upsample.method=nearest", "render.extras=false", "render.report=false")


def options(model: Path, *more: str) -> list[str]:
    sets = [f"backbone.path={model}", "ingest.size=native", "segment.clusters=3", *ONE_STEP, *more]
    return [word for text in sets for word in ("--set", text)]


@pytest.fixture(scope="module")
def result(video: Path, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("result") / "out"
    vidseg("run", video, "-o", out, *options(tiny_model))
    return out


def test_outputs_are_those_of_the_design(result: Path) -> None:
    assert sorted(path.name for path in (result / "labels").iterdir()) == [f"{i:05d}.png" for i in range(5)]
    picture = Image.open(result / "labels" / "00000.png")
    assert picture.mode == "P"
    assert picture.size == SIZE[::-1]
    assert json.loads((result / "labels.json").read_text())
    for name in ("overlay.mp4", "contact_sheet.png", "artifacts/features.zarr", "artifacts/labels.zarr"):
        assert (result / name).exists(), name
    stored = zarr.open_group(result / "artifacts" / "labels.zarr", mode="r")["labels"]
    np.testing.assert_array_equal(np.asarray(picture), stored[0])
    assert not list(result.rglob("tmp"))


@pytest.mark.parametrize("name", ["holiday:v2", "2024-11-14T22:57:44", "-dash", "ünï cödé", "n" * 255])
def test_any_name_of_a_folder_works(name: str, video: Path, tiny_model: Path, tmp_path: Path) -> None:
    sets = options(tiny_model, "upsample.method=nearest", "ingest.frames=0:1")
    said = vidseg("run", video, "-o", name, *sets, cwd=tmp_path).stderr
    shown = shlex.split(said.rpartition("then: ")[2])
    assert (tmp_path / shown[2]).samefile(tmp_path / name) and not shown[2].startswith("-")
    assert len(list(open_source(tmp_path / name / "overlay.mp4").frames())) == 1


def test_two_runs_into_one_folder(video: Path, tiny_model: Path, tmp_path: Path) -> None:
    out, sets = tmp_path / "out", options(tiny_model, "upsample.method=nearest", "ingest.frames=0:1")
    out.mkdir()
    with FileLock(out / ".running.lock"):
        refused = error_line(vidseg("run", video, "-o", out, *sets, check=2))
    assert f"{out}: another run is writing here; wait until it ends, or choose another folder" in refused
    left = out / "artifacts" / "tmp" / "of another run"
    left.mkdir(parents=True)
    (left / "shard").write_bytes(bytes(2_000_000))
    said = vidseg("run", video, "-o", out, *sets).stderr
    assert (out / "report.html").is_file() and not (out / ".running.lock").exists()
    assert "left by a run with other parameters that did not end (2 MB); " in said
    assert f"if you will not go on with it, remove it: rm -r {left.parent}" in said


def names_of(folder: Path) -> dict[int, str | None]:
    """The names of labels in labels.json."""
    return {label["id"]: label["name"] for label in json.loads((folder / "labels.json").read_text())["labels"]}


def test_the_page_and_what_the_run_took(
    video: Path, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Warnings are kept, also where the stage that warned is not run again."""
    opened: list[str] = []
    monkeypatch.setattr(webbrowser, "open", lambda address: opened.append(address) or False)
    out = tmp_path / "my out"
    run = ("run", video, "-o", out, *options(tiny_model, "upsample.method=nearest"))
    printed = vidseg(*run).stderr
    warned = [line.partition("warning: ")[2] for line in printed.splitlines() if "warning: " in line]
    assert any("the reconstruction of 1 of 1 windows is poor" in line for line in warned)  # by the tiny model
    lines = vidseg(*run, "--open").stderr.splitlines()
    assert opened == [(out / "report.html").as_uri()]
    assert lines[-1] == f"no browser could be opened; the page is {out / 'report.html'}"
    assert re.fullmatch(r"found: 3 segments in 5 frames; \d+ seconds?, [\d.e+-]+ per frame", lines[-4])
    assert lines[-3] == f"look at it: {out / 'report.html'}"
    assert lines[-2].startswith("next: name the segments") and f"vidseg name '{out}' --names" in lines[-2]
    took = json.loads((out / "run.json").read_text())
    assert [one["text"] for one in took["warnings"]] == warned
    assert list(took["seconds"]) == ["ingest", "extract", "correspond", "segment", "upsample", "render"]
    assert took["total_seconds"] == pytest.approx(sum(took["seconds"].values()), abs=0.1)
    changed = {one["name"]: one["value"] for one in took["parameters"]}
    assert (changed["segment.clusters"], changed["upsample.method"]) == (3, "nearest")
    assert took["peak_memory_mb"] > 50 and took["versions"]["torch"]
    text = (out / "report.html").read_text()
    assert "Seconds by stage" in text and "segment.clusters" in text and "<b>Warnings</b>" in text


def test_a_folder_of_videos_is_several_runs(video: Path, tiny_model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "in & out"
    folder.mkdir()
    for name in ("a.mp4", "b.mov", "b.mp4", "notes.txt", ".hidden.mp4"):
        shutil.copy(video, folder / name)
    sets = options(tiny_model, "upsample.method=nearest", "render.extras=false", "ingest.frames=0:2")
    printed = vidseg("run", folder, "-o", tmp_path / "out", *sets).stderr
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a", "b.mov", "b.mp4", "index.html"]
    assert printed.splitlines()[-2] == f"look at it: {tmp_path / 'out' / 'index.html'}"
    assert f"vidseg name {tmp_path / 'out'}/VIDEO --names names.json" in printed.splitlines()[-1]
    index = (tmp_path / "out" / "index.html").read_text()
    assert "in &amp; out" in index and 'href="b.mov/report.html"' in index
    line = error_line(vidseg("run", folder, "-o", tmp_path / "out", "--mask", "m.png", *sets, check=2))
    assert "--mask is of one video" in line and "holds 3" in line
    (folder / "b.mov").write_bytes(b"none")
    line = error_line(vidseg("run", folder, "-o", tmp_path / "new", *sets, check=3))
    assert "b.mov" in line and not (tmp_path / "new").exists()


def test_a_second_run_reuses_the_artifacts_and_gives_the_same(video: Path, tiny_model: Path, result: Path) -> None:
    before, took = tree_bytes(result), json.loads((result / "run.json").read_text())
    vidseg("run", video, "-o", result, *options(tiny_model))
    after = tree_bytes(result)
    for timed in ("run.json", "report.html"):
        assert before.pop(timed) and after.pop(timed)
    assert after == before
    computing = ("ingest", "extract", "correspond", "segment", "upsample")
    again = json.loads((result / "run.json").read_text())["seconds"]
    assert [again[stage] for stage in computing] == [took["seconds"][stage] for stage in computing]


@pytest.mark.parametrize(
    ("change", "estimated"),
    [
        ((), False),
        (("segment.clusters=2",), True),
        (("upsample.filter=0.3",), True),
        (("backbone.dtype=bfloat16",), True),
    ],
)
def test_the_estimate_comes_whenever_something_is_to_be_computed(
    video: Path, tiny_model: Path, result: Path, tmp_path: Path, change: tuple[str, ...], estimated: bool
) -> None:
    shutil.copytree(result, tmp_path / "out")
    drawn = ("render.extras=false", "render.report=false")
    printed = vidseg("run", video, "-o", tmp_path / "out", *options(tiny_model, *drawn, *change)).stderr
    assert printed.count(" of computing and") == estimated


def test_the_estimate_heeds_lost_stores_and_other_contexts(
    video: Path, tiny_model: Path, result: Path, tmp_path: Path
) -> None:
    shutil.copytree(result, tmp_path / "out")
    shutil.rmtree(tmp_path / "out" / "artifacts" / "features.zarr")
    given = ("--context", result / "artifacts" / "context")
    for context, estimated in (((), True), (given, True), (given, False)):
        printed = vidseg("run", video, "-o", tmp_path / "out", *options(tiny_model, *PLAIN), *context).stderr
        assert printed.count(" of computing and") == estimated


def test_a_folder_of_frames_gives_labels_of_their_names(tiny_model: Path, tmp_path: Path) -> None:
    folder = write_frames(tmp_path / "frames", np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3), np.uint8))
    (folder / "00000.png").rename(folder / "only one.PNG")
    vidseg("run", folder, "-o", tmp_path / "out", *options(tiny_model, *PLAIN))
    assert [path.name for path in (tmp_path / "out" / "labels").iterdir()] == ["only one.png"]


def test_dry_run_prints_plan_time_and_disk_and_writes_nothing(video: Path, tiny_model: Path, tmp_path: Path) -> None:
    printed = vidseg("run", video, "-o", tmp_path / "out", "--dry-run", *options(tiny_model)).stdout
    assert "5 frames, 130x66, 10 fps" in printed
    assert "model size 128x64" in printed
    assert "encoder    efficientnet_lite0" in printed
    assert " of computing and" in printed and "MB of stores" in printed
    assert not (tmp_path / "out").exists()


def test_a_preset_lies_under_the_parameter_file(video: Path, tiny_model: Path, tmp_path: Path) -> None:
    plan = ("run", video, "-o", tmp_path / "out", "--dry-run", *options(tiny_model), "--preset")
    assert "encoder    none" in vidseg(*plan, "paper").stdout
    params = tmp_path / "mine.yaml"
    params.write_text("extract: {encoder: efficientnet_lite0}\n")
    printed = vidseg(*plan, "paper", "--params", params).stdout
    assert "encoder    efficientnet_lite0" in printed
    assert "unknown preset 'best'; there are: " in error_line(vidseg(*plan, "best", check=2))
    line = error_line(vidseg(*plan, "emerdiff_svd", "--set", "backbone.name=compact", check=2))
    assert "preset 'emerdiff_svd' is for backbone svd, but backbone.name is 'compact'" in line


def test_segments_is_short_for_clusters(video: Path, tiny_model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    vidseg("run", video, "-o", out, "--segments", 2, *options(tiny_model, *PLAIN))
    coarse = zarr.open_group(out / "artifacts" / "coarse.zarr", mode="r")
    assert len(np.unique(coarse["refined"][:])) == 2


@pytest.mark.parametrize(
    ("content", "arguments", "code", "message"),
    [
        (None, [], 3, "no such file"),
        (b"not a video", [], 3, "not a video"),
        (b"", [], 3, "clip.mp4"),
        ("video", ["--set", "segment.clusters=40"], 2, "segment.clusters"),
        ("video", ["--set", "segment.neighbors=400"], 2, "segment.neighbors"),
        ("video", ["--set", "ingest.frames=9:"], 3, "frames"),
        ("video", ["--set", "ingest.size=100x100"], 2, "multiples of 64"),
        (
            "video",
            ["--set", "upsample.method=modulation", "--set", "upsample.modulate_step=3"],
            2,
            "upsample.modulate_step",
        ),
        ("video", ["--mask", "missing.png"], 3, "missing.png"),
        (
            "video",
            ["--mask", "3=missing.png", "--set", "ingest.frames=1:"],
            2,
            "the first mask is of frame 3, and segment",
        ),
        ("video", ["--ground-truth", "missing"], 3, "missing"),
        (
            "video",
            ["--set", "backbone.name=sd21", "--set", "backbone.path=null"],
            4,
            "hf download sd2-community",
        ),
    ],
)
def test_bad_input(
    video: Path,
    tiny_model: Path,
    tmp_path: Path,
    content: bytes | str | None,
    arguments: list[str],
    code: int,
    message: str,
) -> None:
    given = tmp_path / "clip.mp4"
    if content is not None:
        given.write_bytes(video.read_bytes() if isinstance(content, str) else content)
    result = vidseg("run", given, "-o", tmp_path / "out", *options(tiny_model), *arguments, cwd=tmp_path, check=code)
    assert message in error_line(result)
    assert not (tmp_path / "out").exists()


def test_files_of_another_origin_are_left_alone(video: Path, tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    for name in ("run.json", "overlay.mp4"):
        (tmp_path / "out" / name).write_text("mine")
        result = vidseg("run", video, "-o", tmp_path / "out", *options(tiny_model), check=3)
        assert f"{name}: was not written by" in error_line(result)
    assert tree_bytes(tmp_path / "out") == {"overlay.mp4": b"mine", "run.json": b"mine"}


def test_the_folder_of_frames_cannot_be_the_output(tiny_model: Path, tmp_path: Path) -> None:
    folder = write_frames(tmp_path / "frames", np.zeros((1, 64, 64, 3), np.uint8))
    result = vidseg("run", folder, "-o", folder / "out", *options(tiny_model), check=2)
    assert "lies in the folder of frames" in error_line(result)


def test_earlier_scores_do_not_stay_beside_other_labels(
    video: Path, tiny_model: Path, tmp_path: Path, rng: np.random.Generator
) -> None:
    truth = write_labels(tmp_path / "truth", rng.integers(0, 2, (5, *SIZE), dtype=np.uint8))
    run = ("run", video, "-o", tmp_path / "out", *options(tiny_model, *PLAIN))
    printed = vidseg(*run, "--ground-truth", truth).stderr
    assert "mIoU 0." in printed
    assert (tmp_path / "out" / "scores.json").is_file()
    vidseg("name", tmp_path / "out", "--name", "1=car", "--set", "render.extras=false", "--set", "render.report=false")
    vidseg(*run)
    assert not (tmp_path / "out" / "scores.json").exists()
    assert names_of(tmp_path / "out")[1] == "car"  # the same segments: what was said of them holds


def test_a_run_of_the_encoder_s_features_alone(video: Path, tiny_model: Path, tmp_path: Path) -> None:
    """The modulated passes begin at the latents, which extract wrote all the same."""
    alone = ("extract.parts=encoder", "segment.encoder_weight=only", "correspond.encoder_weight=only")
    vidseg("run", video, "-o", tmp_path / "out", *options(tiny_model, *alone, "upsample.method=modulation"))
    stores = tmp_path / "out" / "artifacts"
    assert list(zarr.open_group(stores / "features.zarr", mode="r").array_keys()) == ["encoder"]
    assert zarr.open_group(stores / "labels.zarr", mode="r")["labels"].shape == (5, *SIZE)
    assert (tmp_path / "out" / "features" / "pca.mp4").is_file()
    again = options(tiny_model, *alone, "correspond.encoder_weight=0")
    line = error_line(vidseg("run", video, "-o", tmp_path / "other", *again, check=2))
    assert "correspond.encoder_weight is 0.0, but extract.parts is encoder" in line


def test_a_context_of_another_clip_begins_this_one(video: Path, tiny_model: Path, result: Path, tmp_path: Path) -> None:
    """Names of that clip's segments fit this one's, before it is computed."""
    context, names = result / "artifacts" / "context", tmp_path / "names.json"
    origin = json.loads((context / "meta.json").read_text())["numbering"]["origin"]
    run = ("run", video, "-o", tmp_path / "out", "--context", context, "--names", names, *options(tiny_model, *PLAIN))
    content = {"schema": "names", "schema_version": 1, "fits": "others", "names": {"1": {"name": "car"}}}
    names.write_text(json.dumps(content))
    assert "was made for other segments (others)" in error_line(vidseg(*run, check=3))
    assert not (tmp_path / "out").exists()
    names.write_text(json.dumps({**content, "fits": origin}))
    (tmp_path / "out").mkdir()
    (tmp_path / "out/names.json").write_text("[]")
    assert "out/names.json: was not written by vidseg; move it away" in error_line(vidseg(*run, check=3))
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["names.json"]
    (tmp_path / "out/names.json").unlink()
    said = vidseg(*run).stderr
    assert names_of(tmp_path / "out")[1] == "car" and "\nnext: vidseg export " in said
    labels = zarr.open_group(tmp_path / "out" / "artifacts" / "labels.zarr", mode="r")["labels"]
    assert labels.shape == (5, *SIZE)


def test_an_output_folder_that_cannot_be_written(video: Path, tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    result = vidseg("run", video, "-o", tmp_path / "file" / "out", *options(tiny_model), check=5)
    assert "cannot be written" in error_line(result)


def test_a_real_clip(shared_data: Path, tiny_model: Path, tmp_path: Path) -> None:
    """Real video: a few frames of a camvid sequence, scored against its ground truth."""
    sequence = shared_data / "camvid" / "0016E5_15hz"
    classes = shared_data / "camvid" / "classes.json"
    sets = ["ingest.size=128", "ingest.frames=0:3", *PLAIN]
    vidseg(
        "run", sequence / "frames", "-o", tmp_path / "out", "--ground-truth", sequence / "labels",
        "--classes", classes, *options(tiny_model, *sets),
    )  # fmt: skip
    assert json.loads((tmp_path / "out" / "scores.json").read_text())["videos"][0]["frames"] == 3
    with Image.open(tmp_path / "out" / "labels" / "0016E5_07959.png") as picture:
        assert picture.size == (480, 360)


def test_a_real_video_file(shared_data: Path, tiny_model: Path, tmp_path: Path) -> None:
    """Real video, decoded from a file: two frames of a drive, through to labels and overlay at the source's size."""
    clip = shared_data / "clips" / "highway_drive.mp4"
    if not clip.is_file():
        pytest.skip(f"the real clip {clip.name} is not here (../shared/data/clips)")
    sets = ["ingest.size=128", "ingest.frames=0:2", *PLAIN]
    vidseg("run", clip, "-o", tmp_path / "out", *options(tiny_model, *sets))
    height, width = next(open_source(clip).frames()).image.shape[:2]
    files = sorted((tmp_path / "out" / "labels").iterdir())
    assert len(files) == 2
    for file in files:
        with Image.open(file) as picture:
            assert picture.size == (width, height)
            assert 1 < len(np.unique(np.asarray(picture))) <= 3
    with av.open(tmp_path / "out" / "overlay.mp4") as overlay, av.open(clip) as source:
        made, given = overlay.streams.video[0], source.streams.video[0]
        assert (made.width, made.height, made.average_rate) == (given.width, given.height, given.average_rate)
        assert sum(1 for _ in overlay.decode(made)) == 2


def test_doctor_tries_the_links_between_the_cache_and_the_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dvc.repo import Repo

    assert doctor._dvc_cache(tmp_path) == "not in a DVC project"
    Repo.init(str(tmp_path), no_scm=True).close()
    before = sorted(path.name for path in tmp_path.iterdir())
    found = doctor._dvc_cache(tmp_path)
    assert isinstance(found, dict)
    assert Path(found["path"]).is_relative_to(tmp_path / ".dvc" / "cache")
    assert found["links_wanted"] == "reflink, copy"
    assert found["links_working"].endswith("hardlink, symlink, copy")
    assert found["free_disk_gb"] > 0
    assert sorted(path.name for path in tmp_path.iterdir()) == before

    def refused(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refused)
    found = doctor._dvc_cache(tmp_path)
    assert isinstance(found, dict)
    assert found["links_working"].endswith("symlink, copy")
    assert "hardlink" not in found["links_working"]


def test_doctor_looks_for_the_encoder_that_the_parameters_name(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("backbone: {name: sd21}\nextract: {encoder: weights/dinov2-base}\n")
    for options in ((), ("--set", "extract.encoder=weights/dinov2-base", "--params", ROOT / "params.yaml")):
        found = json.loads(vidseg("doctor", "--json", *options, cwd=tmp_path).stdout)["encoders"]
        assert list(found) == ["efficientnet_lite0", "weights/dinov2-base"]
        assert found["weights/dinov2-base"].startswith("missing: extract.encoder is weights/dinov2-base, which is no")


@pytest.mark.parametrize(
    ("can", "told"),
    [
        ({"avx512_bf16": True, "avx2": True}, True),
        ({"architecture": "ARM64", "bf16": True}, True),
        ({"avx512_bf16": False, "amx_bf16": False}, False),
        (None, False),  # torch of old tells nothing
    ],
)
def test_doctor_suggests_bfloat16_where_a_cpu_multiplies_it(
    monkeypatch: pytest.MonkeyPatch, can: dict[str, object] | None, told: bool
) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    if can is None:
        monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    else:
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: can, raising=False)
    found = doctor._device()
    assert found.startswith("cpu (") and ("backbone.dtype=bfloat16" in found) == told


def test_doctor_reports_although_parameters_are_wrong(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("extract: {nothing: 1}\n")
    found = json.loads(vidseg("doctor", "--json", cwd=tmp_path).stdout)
    assert (
        found["params.yaml"].startswith("problem: unknown parameter 'extract.nothing' (in params.yaml)")
        and found["versions"]["torch"]
    )


def test_doctor_says_why_faiss_cannot_be_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    assert doctor._faiss().startswith("missing: FAISS cannot be imported (import of faiss halted")


def test_doctor_reports_what_is_here() -> None:
    findings = json.loads(vidseg("doctor", "--json").stdout)
    assert findings["faiss"].startswith("1.") or "faiss" in findings["faiss"]
    assert "models/compact" in findings["backbones"]["compact"]
    assert "models/compact/encoder (sha" in findings["encoders"]["efficientnet_lite0"]
    assert findings["free_disk_gb"] > 0
    assert "torch" in vidseg("doctor").stdout

"""A concept to the labels of a clip."""

from __future__ import annotations

import json
import multiprocessing
import shutil
import signal
import webbrowser
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch

from pipeline.errors import DataError, UsageError
from pipeline.features.noise import Noise, TurnNoise
from pipeline.fewshot import soft_store
from pipeline.fewshot.attention_maps import resized
from pipeline.fewshot.chunks import chunks as apply_chunks
from pipeline.fewshot.concept_store import load_concept, open_concept, save_concept, what_decides
from pipeline.fewshot.focus import smoothed
from pipeline.fewshot.soft_store import coarse_planes, taken_margins
from pipeline.naming.names import Named, Names, NamesFile, write_names
from pipeline.parameters import (
    ApplyParity,
    BackboneParams,
    DiffusionParams,
    ExtractParams,
    GuidanceParams,
    MapsParams,
    UpsampleParams,
    UpsampleParity,
)
from pipeline.stores.schemas import CLIP, CONCEPT, LABELS, SOFT
from pipeline.stores.store import Store, open_store
from pipeline.upsampling.interpolation import guided_maps
from pipeline.upsampling.labelling import Decision
from stages import apply, extract, ingest, learn, references, track
from stages.common import cli
from stages.common.apply_task import Inputs, Sections, checked
from stages.common.backbones import model_of
from stages.common.settings import at_learned_size, load
from stages.upsample import Modulation
from tests.support import killing, tiny, yaml
from tests.support.commands import error_line, tree_bytes, vidseg, write_frames, write_labels
from tests.support.concepts import APPLY, GUIDANCE, LEARN, TRACK, halves, make_stores, write_references

FRAMES = 6
#: Chunk, and number in it, that each frame is taken of.
TAKEN = ((0, 0), (0, 1), (1, 0), (2, 0), (2, 1), (2, 2))
#: What a clip is unguided with.
FREE = GuidanceParams(lambda_track=0, lambda_reg=0)


@dataclass(frozen=True)
class Made:
    """All that `apply` reads, and the model."""

    inputs: Inputs
    backbone: BackboneParams

    def sections(self, guidance: GuidanceParams = GUIDANCE, focus: Literal["none", "box"] = "none") -> Sections:
        applied = replace(APPLY, focus=focus)
        return Sections(applied, guidance, MapsParams(), self.backbone, UpsampleParams(), DiffusionParams())

    def in_crops(self) -> Sections:
        """With frames that are seen in crops of 48 by 48 pixels."""
        return replace(self.sections(), apply=replace(APPLY, patches=2, patch_share=0.75))

    def along_edges(self, focus: Literal["none", "box"] = "none") -> Sections:
        """With labels whose borders follow the edges of the picture."""
        sections = self.sections(focus=focus)
        return replace(sections, apply=replace(sections.apply, upsample="guided"))

    def modulated(self, focus: Literal["none", "box"] = "none") -> Sections:
        """With labels that are upsampled by modulation, of one step."""
        upsample = UpsampleParams(modulate_step=24, parity=UpsampleParity(blend_last_step=24))
        diffusion = DiffusionParams(guidance=1.0, start_step=24)
        applied = replace(APPLY, upsample="modulation", focus=focus)
        return replace(self.sections(), apply=applied, upsample=upsample, diffusion=diffusion)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Made:
    folder = make_stores(tmp_path_factory.mktemp("made"), tiny_model, FRAMES).folder
    clip = folder / "clip"
    inputs = Inputs(clip / "clip.zarr", clip / "latents.zarr", clip / "tracks.zarr", folder / "concept")
    return Made(inputs, BackboneParams(path=str(tiny_model)))


@pytest.fixture(scope="module")
def guided(made: Made, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("guided")
    apply.run(made.inputs, folder, made.sections())
    return folder


def narrow(numbers: torch.Tensor, background: int) -> np.ndarray:
    """Boxes of half the frame, where the untrained model's labels happen to put them: these fill the frame."""
    shift = (numbers != background).flatten(1).sum(dim=1).numpy() % 32
    return np.stack([shift, shift + 32, 31 - shift, 63 - shift], axis=1).astype(np.int32)


@pytest.fixture
def narrowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(soft_store, "boxes_around", narrow)


@pytest.fixture(scope="module")
def cropped(made: Made, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cropped")
    apply.run(made.inputs, folder, made.in_crops())
    return folder


@pytest.fixture(scope="module")
def focused(made: Made, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("focused")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(soft_store, "boxes_around", narrow)
        apply.run(made.inputs, folder, made.sections(focus="box"))
    return folder


def soft(folder: Path) -> Store:
    return open_store(folder / "soft.zarr", SOFT)


def test_stores_and_their_attributes(guided: Path) -> None:
    store, labels = soft(guided), open_store(guided / "labels.zarr", LABELS)
    assert store.attrs["frames"] == [[0, 3], [2, 5], [3, 6]] and store.attrs["taken"] == [[0, 2], [2, 3], [3, 6]]
    assert store.array("maps").shape == store.array("initial").shape == (3, 3, 2, 8, 8)
    assert store.array("energies").shape == (3, 1, 2, 2, 3)
    assert labels.array("labels").shape == (FRAMES, 64, 64)
    assert (labels.stage, store.stage) == ("apply", "apply")
    assert [entry["name"] for entry in labels.attrs["segments"]] == ["background", "1"]
    taken = [store.read("numbers")[c, f] for c, f in TAKEN]
    np.testing.assert_array_equal(labels.read("labels"), taken)


@pytest.mark.parametrize("upsampled", ["bilinear", "guided", "modulation"])
def test_confidence_is_how_clearly_a_segment_won(made: Made, guided: Path, tmp_path: Path, upsampled: str) -> None:
    plain = {"bilinear": made.sections(), "guided": made.along_edges(), "modulation": made.modulated()}[upsampled]
    shutil.copytree(guided / "soft.zarr", tmp_path / "soft.zarr")  # the maps are what they were: only labels are made
    expected = open_store(apply.run(made.inputs, tmp_path, plain), LABELS)
    expected_labels = expected.read("labels")
    assert not expected.has("confidence")
    sure = replace(plain, upsample=replace(plain.upsample, confidence=True))
    labels = open_store(apply.run(made.inputs, tmp_path, sure), LABELS)
    np.testing.assert_array_equal(labels.read("labels"), expected_labels)
    found = labels.read("confidence")
    assert found.shape == expected_labels.shape
    assert found.min() < 60 < found.max()
    assert tree_bytes(tmp_path / "soft.zarr") == tree_bytes(guided / "soft.zarr")


def test_a_chunk_holds_on_to_what_the_one_before_ended_with(guided: Path) -> None:
    store = soft(guided)
    initial, maps = store.read("initial"), store.read("maps").astype(np.float16)
    np.testing.assert_array_equal(initial[1, :1], maps[0, 2:])
    np.testing.assert_array_equal(initial[2, :2], maps[1, 1:])


def test_boxes_are_found_by_a_look_at_whole_frames(made: Made, focused: Path, tmp_path: Path) -> None:
    store, labels = soft(focused), open_store(focused / "labels.zarr", LABELS).read("labels")
    apply.run(made.inputs, tmp_path, made.sections(FREE))
    looks = soft(tmp_path).read("numbers")  # frames are as large as the source
    np.testing.assert_array_equal(store.read("found"), [narrow(torch.from_numpy(look), 0) for look in looks])
    taken = np.stack([store.read("found")[c, f] for c, f in TAKEN])
    boxes = smoothed(taken, 0.04, GUIDANCE.vote.window, (64, 64))
    chunks = [boxes[start:stop] for start, stop in store.attrs["frames"]]
    np.testing.assert_array_equal(store.read("boxes"), chunks)
    outside = np.ones(labels.shape, bool)
    for frame, (top, bottom, left, right) in enumerate(boxes):
        outside[frame, top:bottom, left:right] = False
    assert not labels[outside].any() and labels[~outside].any() and outside.any()
    plan = apply_chunks(FRAMES, APPLY.chunk, APPLY.overlap)
    margins = np.stack(list(taken_margins(store, plan, logits=True)))
    assert (margins[outside] == 1).all() and (margins[~outside] < 1).any()


@pytest.mark.parametrize(
    ("seen", "turns"),
    [({"focus": "box"}, [0, 1, 2, 3, 4, 5]), ({"patches": 2}, [0, 3, 6, 9, 1, 4, 7, 10, 2, 5, 8, 11])],
    ids=["boxes", "crops"],
)
def test_noise_in_the_order_of_chunks_goes_on_from_look_to_look(
    seen: dict[str, Any], turns: list[int], made: Made, narrowed: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if all chunks were looked at before the next look, whatever is computed first. A clip of three chunks."""
    found, of = [], TurnNoise.of

    def spied(self: TurnNoise, turn: int) -> tuple[Noise, int]:
        found.append(turn)
        return of(self, turn)

    monkeypatch.setattr(TurnNoise, "of", spied)
    sections = made.sections(FREE)
    apply.run(made.inputs, tmp_path, replace(sections, apply=replace(sections.apply, noise="by_chunk", **seen)))
    assert found == turns


def test_what_nothing_is_found_in_is_seen_whole(
    made: Made, guided: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a warning, also where all is there already. Boxes of the authors lack their last row and column."""
    nothing_row_column = np.array([[0, 0, 0, 0], [5, 6, 0, 64], [0, 64, 9, 10]], np.int32)
    monkeypatch.setattr(soft_store, "boxes_around", lambda numbers, background: nothing_row_column)
    sections = made.sections(focus="box")
    sections = replace(sections, apply=replace(sections.apply, parity=ApplyParity(short_boxes=True)))
    said = (
        f"warning: {made.inputs.clip}: a first look found no box in 6 of 6 frames (the first: 0), which are seen whole"
    )
    for _ in range(2):
        apply.run(made.inputs, tmp_path, sections)
        assert said in capsys.readouterr().err
    monkeypatch.setenv(cli.STRICT, "1")
    with pytest.raises(DataError, match="a first look found no box in 6 of 6 frames"):
        apply.run(made.inputs, tmp_path / "strict", sections)
    assert not (tmp_path / "strict" / "soft.zarr").exists()
    for array in ("initial", "maps", "numbers", "energies"):
        np.testing.assert_array_equal(soft(tmp_path).read(array), soft(guided).read(array), array)


class Stopping:
    """Progress that interrupts after a number of chunks."""

    def __init__(self, chunks: int) -> None:
        self.left = chunks

    def __call__(self, label: str, total: int) -> Stopping:
        return self

    def __enter__(self) -> cli.Advance:
        return self.advance

    def __exit__(self, *_: object) -> None: ...

    def advance(self, count: int) -> None:
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("focus", "chunks"),
    [("none", 1), ("none", 2), ("box", 2), ("box", 4), ("crops", 2)],  # a first look at chunks counts as well
)
def test_an_interrupted_run_is_continued_with_the_same_bytes(
    made: Made, request: pytest.FixtureRequest, tmp_path: Path, narrowed: None, focus: Any, chunks: int
) -> None:
    sections = made.in_crops() if focus == "crops" else made.sections(focus=focus)
    whole = request.getfixturevalue({"none": "guided", "box": "focused", "crops": "cropped"}[focus])
    with pytest.raises(KeyboardInterrupt):
        apply.run(made.inputs, tmp_path, sections, progress=Stopping(chunks))
    assert [path.name for path in tmp_path.iterdir()] == ["tmp"]
    done = Stopping(9)
    apply.run(made.inputs, tmp_path, sections, progress=done)
    assert done.left == 9 - ((6 if focus == "box" else 3) - chunks)
    assert tree_bytes(tmp_path) == tree_bytes(whole)


def test_crops_are_averaged_on_a_finer_grid(made: Made, guided: Path, cropped: Path, tmp_path: Path) -> None:
    """A crop of 8 x 8 cells is three quarters of the frame, which has 11 x 11; what follows reads whole frames."""
    store = soft(cropped)
    assert store.array("maps").shape == store.array("initial").shape == (3, 3, 2, 11, 11)
    assert store.array("energies").shape == soft(guided).array("energies").shape and not store.has("boxes")
    np.testing.assert_array_equal(
        store.read("initial")[1, :1], store.read("maps")[0, 2:].astype(np.float16), "each crop has carried its part"
    )
    maps, numbers = store.read("maps"), store.read("numbers")
    for chunk, frame in TAKEN:
        enlarged = resized(torch.from_numpy(maps[chunk, frame, None]), (64, 64))[0]
        np.testing.assert_array_equal(numbers[chunk, frame], enlarged.argmax(dim=0))
    for number, sections in enumerate((made.along_edges(), made.modulated())):
        out = tmp_path / str(number)
        shutil.copytree(cropped, out)
        upsampled = replace(made.in_crops(), apply=replace(made.in_crops().apply, upsample=sections.apply.upsample))
        others = replace(upsampled, upsample=sections.upsample, diffusion=sections.diffusion)
        assert open_store(apply.run(made.inputs, out, others), LABELS).read("labels").shape == (FRAMES, 64, 64)
        assert tree_bytes(out / "soft.zarr") == tree_bytes(cropped / "soft.zarr")


@pytest.mark.slow
@pytest.mark.parametrize("focus", ["none", "box"])
def test_killed_between_chunks_and_run_again_gives_the_same_bytes(
    made: Made, guided: Path, tmp_path: Path, focus: Any
) -> None:
    """By SIGKILL, as a process of its own."""
    params, out, log = tmp_path / "params.yaml", tmp_path / "out", tmp_path / "log"
    sections = {
        "apply": replace(APPLY, focus=focus),
        "guidance": GUIDANCE,
        "maps": MapsParams(),
        "backbone": made.backbone,
    }
    params.write_text(yaml.safe_dump(json.loads(json.dumps({name: asdict(part) for name, part in sections.items()}))))
    inputs = made.inputs
    paths = [inputs.clip, inputs.latents, out, "--concept", inputs.concept, "--tracks", inputs.tracks]
    command = ["apply", *map(str, paths), "--params", str(params)]
    whole = killing.run(command, out, log)
    assert whole.code == 0, whole.output
    expected = tree_bytes(out)
    assert focus == "box" or expected == tree_bytes(guided)
    shutil.rmtree(out)
    second = killing.Kill(1, among="soft.zarr/initial/c.1")  # what is written first of the second chunk
    assert killing.run(command, out, log, second).code == -signal.SIGKILL
    (maps,) = out.glob("tmp/*/soft.zarr/maps")
    assert len(list(maps.glob("c.*"))) == 1 and not (out / "soft.zarr").exists()
    again = killing.run(command, out, log)
    assert again.code == 0, again.output
    assert tree_bytes(out) == expected


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux to tell what a process held")
@pytest.mark.parametrize("focus", ["none", "box"])
def test_memory_does_not_grow_with_the_clip(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, focus: Any
) -> None:
    """Frames have 400 kB of labels each: 80 more would need 33 MB if they were held."""
    monkeypatch.setenv("MALLOC_ARENA_MAX", "1")  # else what the allocator keeps differs by 30 MB from run to run
    monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", "65536")
    context = multiprocessing.get_context("spawn")
    peaks = []
    for frames in (16, 96):
        folder = tmp_path / str(frames)
        write_frames(folder / "video", halves(frames, (640, 640))[0])
        clip = ingest.run(folder / "video", folder, load(sets=["ingest.size=64"])["ingest"])
        extract.run(clip, folder, ExtractParams(), DiffusionParams(guidance=1.0, start_step=24), made.backbone)
        tracks = track.run(clip, None, folder, TRACK)
        inputs = replace(made.inputs, clip=clip, latents=folder / "latents.zarr", tracks=tracks)
        queue = context.Queue()
        process = context.Process(
            target=peak_of_apply, args=(inputs, folder / "out", made.sections(focus=focus), queue)
        )
        process.start()
        peaks.append(queue.get(timeout=600))
        process.join()
    assert peaks[1] < peaks[0] + 16e6, peaks


def peak_of_apply(inputs: Inputs, out: Path, sections: Sections, queue: multiprocessing.Queue[float]) -> None:
    """Put the most bytes that this process held into a queue. (`getrusage` would count its parent's too.)"""
    apply.run(inputs, out, sections)
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    queue.put(1024.0 * float(status["VmHWM"].split()[0]))


def test_running_twice_does_nothing(made: Made, guided: Path) -> None:
    before = (guided / "labels.zarr").stat().st_mtime_ns
    apply.run(made.inputs, guided, made.sections())
    assert (guided / "labels.zarr").stat().st_mtime_ns == before


@pytest.mark.parametrize("tuned", [True, False])
def test_maps_are_of_what_was_learned_and_not_only_of_what_it_was_learned_from(
    made: Made, tmp_path: Path, tuned: bool
) -> None:
    """Two machines round differently: their concepts share a fingerprint. One of an earlier version keeps its maps."""
    store, own = open_concept(made.inputs.concept), load_concept(made.inputs.concept)
    assert own.adapter is not None
    other = replace(own.adapter, sha256="other")
    changes = [{}, {"context": own.context + 1e-6}, *([{"adapter": other}] if tuned else [])]
    marks = []
    for number, change in enumerate(changes):
        concept = replace(own, **{} if tuned else {"adapter": None}, **change)
        folder = save_concept(
            tmp_path / str(number), concept, store.fingerprint, store.attrs["references"], store.params
        )
        marks.append(mark_of(replace(made.inputs, concept=folder), made))
    assert len(set(marks)) == len(changes)
    described = tmp_path / "0" / "concept.zarr" / "zarr.json"
    content = json.loads(described.read_text())
    del content["attributes"]["learned"]
    described.write_text(json.dumps(content))
    assert what_decides(open_concept(tmp_path / "0")) == [store.fingerprint]


def mark_of(inputs: Inputs, made: Made) -> str:
    """The fingerprint of maps."""
    return checked(inputs, made.sections(), model_of(made.backbone, None)).maps_mark


def test_without_guidance_no_tracks_are_needed(made: Made, guided: Path, tmp_path: Path) -> None:
    free = apply.run(replace(made.inputs, tracks=None), tmp_path / "a", made.sections(FREE))
    with_tracks = apply.run(made.inputs, tmp_path / "b", made.sections(FREE))
    assert tree_bytes(free) == tree_bytes(with_tracks)
    assert not soft(free.parent).has("energies")
    assert open_store(free, LABELS).fingerprint != open_store(guided / "labels.zarr", LABELS).fingerprint
    with pytest.raises(UsageError, match="guidance follows points: give --tracks TRACKS"):
        apply.run(replace(made.inputs, tracks=None), tmp_path / "c", made.sections())


#: What has an effect with some settings alone: those of the section, those of guidance, and what is changed.
SOMETIMES: list[tuple[dict[str, Any], GuidanceParams, dict[str, Any]]] = [
    ({"patches": 2}, GUIDANCE, {"patch_share": 0.9}),
    ({"focus": "box"}, GUIDANCE, {"focus_margin": 0.9}),
    ({"focus": "box"}, GUIDANCE, {"parity": ApplyParity(boxes="single")}),
    ({"focus": "box"}, GUIDANCE, {"parity": ApplyParity(short_boxes=True)}),
    ({"reference": "separate"}, GUIDANCE, {"parity": ApplyParity(reference_tail="empty")}),
    ({"reference": "separate"}, FREE, {"parity": ApplyParity(unguided="reference")}),
    ({"reference": "separate", "focus": "box"}, GUIDANCE, {"parity": ApplyParity(unguided="reference")}),  # first look
]


@pytest.mark.parametrize(("needs", "guidance", "change"), SOMETIMES)
def test_what_has_no_effect_changes_no_mark(
    made: Made, needs: dict[str, Any], guidance: GuidanceParams, change: dict[str, Any]
) -> None:
    """Where one of those settings is missing."""

    def marks(sections: Sections, **given: Any) -> list[str]:
        of_all = replace(sections, apply=replace(sections.apply, **given))
        task = checked(made.inputs, of_all, model_of(sections.backbone, None))
        return [task.maps_mark, task.labels_mark]

    for sections in (made.sections(guidance), made.modulated()):
        for lacking in needs:
            others = {key: value for key, value in needs.items() if key != lacking}
            assert marks(sections, **others, **change) == marks(sections, **others), lacking
    used = made.sections(guidance)
    assert marks(used, **needs, **change) != marks(used, **needs)


def test_a_pass_for_references_needs_guidance_or_to_be_the_result(made: Made) -> None:
    """So without either its tail changes no mark."""
    empty = ApplyParity(reference_tail="empty")
    parities = (ApplyParity(), empty, ApplyParity(unguided="reference"), replace(empty, unguided="reference"))
    found = []
    for parity in parities:
        sections = made.sections(FREE)
        of_all = replace(sections, apply=replace(sections.apply, reference="separate", parity=parity))
        found.append(checked(made.inputs, of_all, model_of(made.backbone, None)).maps_mark)
    assert found[0] == found[1] and len(set(found)) == 3


def test_labels_upsampled_by_modulation_are_those_of_the_same_maps(
    made: Made, guided: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their coarse labels are the maps' largest segments on the grid of the modulated block; maps are kept."""
    seen: list[np.ndarray] = []

    def recorded(self: Modulation, shard: range, advance: cli.Advance) -> Iterator[Decision]:
        seen.append(self.planes.read(shard.start, shard.stop))
        return decisions(self, shard, advance)

    decisions = Modulation.decisions
    monkeypatch.setattr(Modulation, "decisions", recorded)
    shutil.copytree(guided, tmp_path / "out")
    before = tree_bytes(tmp_path / "out" / "soft.zarr")
    apply.run(made.inputs, tmp_path / "out", made.modulated())
    assert tree_bytes(tmp_path / "out" / "soft.zarr") == before
    store = soft(tmp_path / "out")
    (planes,) = seen
    maps = np.stack([store.read("maps")[c, f] for c, f in TAKEN])
    cells = maps.reshape(FRAMES, 2, 4, 2, 4, 2).mean(axis=(3, 5))
    np.testing.assert_array_equal(planes, cells.argmax(axis=1))
    found = open_store(tmp_path / "out" / "labels.zarr", LABELS)
    assert found.array("labels").shape == (FRAMES, 64, 64) and found.params["upsample"]["method"] == "modulation"
    assert found.fingerprint != open_store(guided / "labels.zarr", LABELS).fingerprint
    apply.run(made.inputs, tmp_path / "out", made.modulated())
    assert len(seen) == 1  # all is there


def test_labels_of_boxes_are_upsampled_by_modulation_too(
    made: Made, focused: Path, tmp_path: Path, narrowed: None
) -> None:
    """Their maps lie on no grid of the whole frame: labels are pooled."""
    shutil.copytree(focused, tmp_path / "out")
    planes = coarse_planes(soft(focused), apply_chunks(FRAMES, APPLY.chunk, APPLY.overlap), (4, 4)).read(0, FRAMES)
    labels = open_store(focused / "labels.zarr", LABELS).read("labels")
    foreground = labels.reshape(FRAMES, 4, 16, 4, 16).mean(axis=(2, 4))
    np.testing.assert_array_equal(planes, foreground > 0.5)
    apply.run(made.inputs, tmp_path / "out", made.modulated(focus="box"))
    assert tree_bytes(tmp_path / "out" / "soft.zarr") == tree_bytes(focused / "soft.zarr")
    found = open_store(tmp_path / "out" / "labels.zarr", LABELS)
    assert found.params["upsample"]["method"] == "modulation" and found.read("labels").any()


def test_labels_along_edges_are_of_the_same_maps(made: Made, guided: Path, tmp_path: Path) -> None:
    """Each frame's shares, enlarged and filtered by its picture; maps are kept."""
    shutil.copytree(guided, tmp_path / "out")
    found = open_store(apply.run(made.inputs, tmp_path / "out", made.along_edges()), LABELS)
    assert tree_bytes(tmp_path / "out" / "soft.zarr") == tree_bytes(guided / "soft.zarr")
    maps, frames = soft(guided).read("maps"), open_store(made.inputs.clip, CLIP).read("frames")
    for frame, place in enumerate(TAKEN):
        shares = torch.from_numpy(maps[place]).softmax(dim=0).numpy()
        expected = guided_maps(dict(enumerate(shares)), frames[frame]).labels
        np.testing.assert_array_equal(found.read("labels")[frame], expected)
    assert found.params["apply"]["upsample"] == "guided"
    assert found.fingerprint != open_store(guided / "labels.zarr", LABELS).fingerprint


def test_labels_along_edges_stay_in_their_boxes(made: Made, focused: Path, tmp_path: Path, narrowed: None) -> None:
    shutil.copytree(focused, tmp_path / "out")
    sections = made.along_edges(focus="box")
    sections = replace(sections, upsample=replace(sections.upsample, confidence=True))
    found = open_store(apply.run(made.inputs, tmp_path / "out", sections), LABELS)
    outside = np.ones((FRAMES, 64, 64), bool)
    for frame, (chunk, number) in enumerate(TAKEN):
        top, bottom, left, right = soft(focused).read("boxes")[chunk, number]
        outside[frame, top:bottom, left:right] = False
    labels, confidence = found.read("labels"), found.read("confidence")
    assert not labels[outside].any() and labels[~outside].any()
    assert (confidence[outside] == 255).all() and (confidence[~outside] < 255).any()


def test_boxes_need_a_background(made: Made, tmp_path: Path) -> None:
    """Parts that no one called so."""
    folder = write_references(tmp_path / "halves")
    (folder / "classes.json").write_text('{"classes": ["left", "right"]}')
    refs = references.run(folder, tmp_path)
    inputs = replace(made.inputs, concept=learn.run(refs, tmp_path / "concept", LEARN, MapsParams(), made.backbone))
    said = (
        "apply.focus: outside a box all is background, and .*concept has no segment of that name; set apply.focus=none"
    )
    with pytest.raises(UsageError, match=said):
        apply.run(inputs, tmp_path / "out", made.sections(focus="box"))
    assert not (tmp_path / "out").exists()


def of_another_backbone(made: Made, folder: Path) -> tuple[Inputs, Sections]:
    model = BackboneParams(path=str(tiny.save_model(folder / "model", 1)))
    return made.inputs, replace(made.sections(), backbone=model)


def of_other_blocks(made: Made, folder: Path) -> tuple[Inputs, Sections]:
    return made.inputs, replace(made.sections(), maps=MapsParams(self_blocks=(10, 11)))


def tracks_of_another_clip(made: Made, folder: Path) -> tuple[Inputs, Sections]:
    write_frames(folder / "other", halves(FRAMES, seed=1)[0])
    clip = ingest.run(folder / "other", folder, load(sets=["ingest.size=native"])["ingest"])
    return replace(made.inputs, tracks=track.run(clip, None, folder, TRACK)), made.sections()


def no_concept(made: Made, folder: Path) -> tuple[Inputs, Sections]:
    return replace(made.inputs, concept=folder / "none"), made.sections()


def test_tracks_that_are_too_short_for_the_vote(made: Made, tmp_path: Path) -> None:
    tracks = track.run(made.inputs.clip, None, tmp_path, replace(TRACK, window=3))
    with pytest.raises(UsageError, match="votes of 3 frames need a track.window of 5 .*, not 3; change one of them"):
        apply.run(replace(made.inputs, tracks=tracks), tmp_path / "out", made.sections())
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (of_another_backbone, "was learned with another backbone .* run `vidseg learn` with these parameters"),
        (of_other_blocks, r"was learned with maps.self_blocks = \[9, 10, 11\], now it is \[10, 11\]"),
        (tracks_of_another_clip, "tracks.zarr does not belong to .*clip.zarr; run `vidseg track` for this clip"),
        (no_concept, "none: no such concept; run `vidseg learn` to make it"),
    ],
)
def test_what_does_not_belong_together(
    made: Made, tmp_path: Path, spoil: Callable[[Made, Path], tuple[Inputs, Sections]], message: str
) -> None:
    inputs, sections = spoil(made, tmp_path)
    with pytest.raises(DataError, match=message):
        apply.run(inputs, tmp_path / "out", sections)
    assert not (tmp_path / "out").exists()


SETS = ("apply.timesteps=[100,99]", "guidance.iterations=1", "extract.encoder=none")

MODULATED = ("--set=apply.upsample=modulation", f"--set=maps.cross_blocks={list(MapsParams().cross_blocks)}")
UNFIT = ("--set=extract.encoder=none", "--set=track.method=features", "--set=track.encoder_weight=1")


def test_the_whole_path_of_a_video(
    made: Made, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    monkeypatch.setattr(webbrowser, "open", lambda address: not opened.append(address))
    images, labels = halves(1)
    write_frames(tmp_path / "video", images)
    write_labels(tmp_path / "truth", labels)
    as_learned = f"maps.cross_blocks={list(MapsParams().cross_blocks)}"
    sets = (f"--set={one}" for one in (*SETS, as_learned, f"backbone.path={tiny_model}"))
    arguments = ("video", "--concept", made.inputs.concept, "-o", "out", "--ground-truth", "truth", *sets)
    plan = vidseg("apply", *arguments, "--dry-run", cwd=tmp_path).stdout
    assert "1 frame, 64x64" in plan and "2 segments, learned from 2 pictures" in plan and "model size 64x64" in plan
    assert "labels     of enlarged maps, along the edges of the picture" in plan
    assert (
        "guidance   none; a vote along tracks" in plan
        and "seen       whole frames" in plan
        and " of computing and" in plan
    )
    assert not (tmp_path / "out").exists()
    names = NamesFile(open_store(made.inputs.concept / "concept.zarr", CONCEPT).fingerprint, Names({1: Named("dog")}))
    write_names(tmp_path / "dog.json", names)
    said = vidseg("apply", *arguments, "--names", "dog.json", "--open", cwd=tmp_path).stderr
    assert "short side of frames: 64 pixels, as learned" in said and "named: 0 background, 1 dog" in said
    found, look, advice = said.splitlines()[-3:]
    assert found.startswith("found: ") and " in 1 frame; " in found and look == "look at it: out/report.html"
    assert advice == "next: vidseg export out --format coco-instances -o out-coco"
    assert opened == [(tmp_path / "out/report.html").as_uri()]
    took = json.loads((tmp_path / "out/run.json").read_text())
    assert list(took["seconds"]) == ["ingest", "extract", "track", "apply", "evaluate", "render"]
    changed = {one["name"]: one["value"] for one in took["parameters"]}
    assert changed["ingest.size"] == 64 and changed["guidance.iterations"] == 1 and "segment.clusters" not in changed
    assert said.count("1 frame at 64x64: about ") == said.count(" of computing and ") == 1
    scores = json.loads((tmp_path / "out/scores.json").read_text())
    assert scores["videos"][0]["assigned"]["rule"] == "none"  # labels are classes already
    assert scores["videos"][0]["flicker"] == {"changed": 0, "points": 0}  # no frame follows
    assert scores["videos"][0]["davis"]["task"] == "parts"
    listed = json.loads((tmp_path / "out/labels.json").read_text())
    assert {entry["name"] for entry in listed["labels"]} <= {"background", "dog"}
    assert (tmp_path / "out/overlay.mp4").is_file() and (tmp_path / "out/labels/00000.png").is_file()


@pytest.mark.parametrize(
    ("sets", "preset", "content", "size"),
    [
        ([], None, "", LEARN.size),
        ([], "smite", "", LEARN.size),
        ([], "sd21", "", LEARN.size),  # what a backbone brings nobody gave
        (["ingest.size=native"], None, "", "native"),
        ([], "quality", "", 768),
        ([], None, "ingest: {size: 384}", 384),
        ([], None, "ingest: {stride: 2}", LEARN.size),
    ],
)
def test_frames_are_as_large_as_at_learning_unless_a_size_is_given(
    tmp_path: Path, sets: list[str], preset: str | None, content: str, size: str | int
) -> None:
    (tmp_path / "params.yaml").write_text(content)
    settings = load(tmp_path / "params.yaml", sets, preset)
    assert at_learned_size(settings, LEARN.size)["ingest"].size == size


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (
            ["video", "--concept", "CONCEPT", "-o", "out", *MODULATED, "--set=upsample.modulate_step=3"],
            2,
            "upsample.modulate_step must be between",
        ),
        (
            ["video", "--concept", "CONCEPT", "-o", "out", "--set=guidance.vote.window=9", "--set=track.window=15"],
            2,
            "votes of 9 frames need a track.window of 17 (twice that less one, for the ends of a chunk), not 15",
        ),
        (["CLIP", "--concept", "CONCEPT", "-o", "out"], 2, "clip.zarr: a store, not a video; give the video itself"),
        (["CLIP", "-o", "out"], 2, "clip.zarr: a store, not a video; give the video itself"),
        (["video", "--concept", "REFS", "-o", "out"], 3, "annotated images, not a concept; run `vidseg learn "),
        (["video", "--concept", "STORE", "-o", "out"], 3, "a part of a concept; give its folder, "),
        (["video", "--concept", "video", "-o", "out"], 3, "video: no concept here; run `vidseg learn` to make one"),
        (["video", "-o", "out"], 2, "give VIDEO, --concept CONCEPT and -o OUT"),
        (["none.mp4", "--concept", "CONCEPT", "-o", "out"], 3, "none.mp4: no such file or folder"),
        (["video", "--concept", "none", "-o", "out"], 3, "none: no such concept"),
        (["video", "--concept", "CONCEPT", "-o", "out", "--tracks", "t"], 2, "--tracks goes with CLIP and LATENTS"),
        (["video", "--concept", "CONCEPT", "-o", "out", "--names", "n.json"], 3, "n.json: was made for other segments"),
        (["c", "l", "out", "--concept", "CONCEPT", "--open"], 2, "--open goes with a video, not with CLIP"),
        (["c", "l", "out", "--concept", "CONCEPT", "--classes", "x"], 2, "--classes goes with a video, not with CLIP"),
        (["--item", "none", "--concept", "CONCEPT"], 2, "--concept does not go with --item"),
        (["--item", "none"], 2, "videos.yaml: nothing is applied under the name 'none'"),
        (["video", "--concept", "CONCEPT", "-o", "out", "--set", "apply.overlap=16"], 2, "apply.overlap must be less"),
        (["video", "--concept", "CONCEPT", "-o", "out", "--set", "guidance.vote.window=2"], 2, "must be odd, not 2"),
        (
            ["video", "--concept", "CONCEPT", "-o", "out", "--set=apply.patches=2", "--set=apply.focus=box"],
            2,
            "apply.patches=2 and apply.focus=box are two ways to see less of a frame; set apply.patches=1, or",
        ),
        (
            ["video", "--concept", "CONCEPT", "-o", "out", "--set=apply.patches=3", "--set=apply.patch_share=0.3"],
            2,
            "apply.patch_share: 3 crops of 0.3 of a side do not cover it; it must be at least 0.34",
        ),
        (
            ["video", "--concept", "CONCEPT", "-o", "out", "--set=apply.patches=2", "--set=apply.threshold=0.2"],
            2,
            "apply.threshold=0.2: what is absent from a crop adds 0 to the maps, and of logits 0 is not the",
        ),
        (
            ["video", "--concept", "CONCEPT", "-o", "out", *MODULATED, "--set=guidance.vote.space=labels"],
            2,
            "guidance.vote.space=labels votes on labels at full size, and apply.upsample=modulation makes those",
        ),
        (
            ["video", "--concept", "CONCEPT", "-o", "out", "--set=guidance.vote.space=labels"],  # `compact`'s default
            2,
            "guidance.vote.space=labels votes on labels at full size, and apply.upsample=guided makes those",
        ),
        (
            ["video", "--concept", "CONCEPT", "-o", "out", *UNFIT],
            2,
            "track.encoder_weight is 1.0, but extract.encoder is none; set track.encoder_weight=0",
        ),
    ],
)
def test_bad_input(made: Made, tiny_model: Path, tmp_path: Path, arguments: list[str], code: int, message: str) -> None:
    write_frames(tmp_path / "video", halves(1)[0])
    (tmp_path / "videos.yaml").write_text("items: {}\nconcepts: {}\napplied: {}\n")
    write_names(tmp_path / "n.json", NamesFile("another", Names({1: Named("dog")})))
    concept, clip = made.inputs.concept, made.inputs.clip
    named = {"CONCEPT": concept, "STORE": concept / "concept.zarr", "CLIP": clip, "REFS": concept.parent / "refs"}
    given = [str(named.get(argument, argument)) for argument in arguments]
    result = vidseg("apply", *given, "--set", f"backbone.path={tiny_model}", cwd=tmp_path, check=code)
    assert message in error_line(result)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("size", "said"), [("64", ""), ("128", "a short side of 128 pixels, the pictures that the ")])
def test_as_a_stage_another_size_than_at_learning_is_said(
    made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str], size: str, said: str
) -> None:
    write_frames(tmp_path / "video", halves(1)[0])
    clip = ingest.run(tmp_path / "video", tmp_path, load(sets=[f"ingest.size={size}"])["ingest"])
    apply.note_size(replace(made.inputs, clip=clip))
    assert bool(said) == bool(found := capsys.readouterr().err) and said in found


def test_everything_of_what_is_applied_lies_under_its_name(tiny_model: Path, tmp_path: Path) -> None:
    """The stages one by one, and the summary, in which it has a part of its own."""
    images, labels = halves(2)
    write_frames(tmp_path / "video", images)
    write_labels(tmp_path / "truth", labels)
    write_references(tmp_path / "halves")
    (tmp_path / "videos.yaml").write_text(
        "items: {one: [{path: video, ground_truth: truth}]}\n"
        "concepts: {h: {references: halves}}\napplied: {one-h: {item: one, concept: h, names: n.json}}\n"
    )
    parameters = f"backbone: {{path: {tiny_model}}}\nlearn: {{size: 64, epochs: 1, tune: none}}\n"
    parameters += "apply: {timesteps: [100, 99]}\nguidance: {iterations: 1}\nsegment: {clusters: 2, restarts: 1}\n"
    (tmp_path / "params.yaml").write_text(parameters + "ingest: {size: native}\n")
    stages = ("ingest@one", "extract@one", "correspond@one", "segment@one", "upsample@one", "evaluate@one")
    stages += ("references@h", "learn@h", "track@one-h", "apply@one-h", "evaluate@one-h", "render@one-h")
    for stage in stages:
        if stage == "evaluate@one-h":
            origin = open_store(tmp_path / "data/learn/h/concept/concept.zarr", CONCEPT).fingerprint
            write_names(tmp_path / "n.json", NamesFile(origin, Names({1: Named("dog")})))
        given = [] if stage == "references@h" else ["--params", "params.yaml"]
        vidseg(stage.partition("@")[0], "--item", stage, *given, cwd=tmp_path)
    listed = json.loads((tmp_path / "data/render/one-h/labels.json").read_text())["labels"]
    assert "dog" in {entry["name"] for entry in listed}
    vidseg("summarize", "data/evaluate", ".", "--items", "videos.yaml", cwd=tmp_path)
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert (metrics["videos"], metrics["assignment"]) == (1, "majority")
    assert (metrics["applied"]["videos"], metrics["applied"]["assignment"]) == (1, "none")

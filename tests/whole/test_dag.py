"""The DVC pipeline: one real `dvc repro` on a tiny model; and which stages a change runs again, which dvc.yaml decides.

What the second part takes for granted is tested with the stages: an output's bytes follow its own inputs alone
(`tests/stages/test_ingest.py`), and the summary counts the items of videos.yaml (`tests/stages/test_evaluate.py`).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from pipeline.errors import UsageError
from tests.support import tiny, yaml
from tests.support.commands import error_line, vidseg, write_frames, write_labels
from tests.support.concepts import write_references
from tests.support.places import ROOT
from tests.support.project import ITEM_STAGES, Project, QuickProject, stages_of

ONE: dict[str, object] = {"path": "one", "ground_truth": "truth"}
TWO: list[dict[str, object]] = [{"path": "two-a", "name": "a"}, {"path": "two-b", "name": "b"}]


def write_inputs(project: Project) -> None:
    """One video with ground truth, and one item of two videos without."""
    folder = project.folder
    frames = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
    frames[:, :, 32:] //= 4
    labels = np.zeros((3, 64, 64), np.uint8)
    labels[:, :, 32:] = 1
    write_frames(folder / "one", frames)
    write_labels(folder / "truth", labels)
    write_frames(folder / "two-a", frames[::-1])
    write_frames(folder / "two-b", frames[:1])
    project.write_params()
    project.write_videos({"one": [ONE], "two": TWO})


# The real stages --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The first item made by `dvc repro`, the second one by the commands themselves, as far as `extract`."""
    folder = tmp_path_factory.mktemp("project")
    made = Project(folder)
    made.params["backbone"]["path"] = str(tiny.save_model(folder / "model"))
    made.params["ingest"]["size"] = "native"
    made.params["segment"]["clusters"] = 2
    write_inputs(made)
    made.write_videos({"one": [ONE]})
    vidseg("backbone", "lock", "--params", "params.yaml", cwd=folder)
    assert stages_of(made.repro()) == sorted([*ITEM_STAGES, "summarize"])
    made.write_videos({"one": [ONE], "two": TWO})
    for stage in ("ingest", "extract"):
        vidseg(stage, "--item", "two", "--params", "params.yaml", cwd=folder)
    return made


def test_every_store_lies_where_the_pipeline_says(project: Project) -> None:
    data = project.folder / "data"
    for path in (
        "ingest/one/clip.zarr", "ingest/one/truth.zarr", "ingest/one/seed", "ingest/one/source/source.json",
        "ingest/one/cuts/cuts.json", "ingest/two/cuts/b/cuts.json", "extract/one/features.zarr",
        "extract/one/latents.zarr", "correspond/one/matches.zarr", "segment/one/coarse.zarr",
        "segment/one/context", "upsample/one/labels.zarr", "evaluate/one/scores.json", "render/one/overlay.mp4",
        "extract/two/features.zarr/a", "extract/two/features.zarr/b",
        "ingest/two/source/b/source.json",
    ):  # fmt: skip
        assert (data / path).exists(), path
    assert json.loads((project.folder / "metrics.json").read_text())["videos"] == 1
    assert not list(data.rglob("tmp"))


def test_nothing_changed_nothing_runs(project: Project) -> None:
    project.write_videos({"one": [ONE]})
    assert project.repro() == []
    assert project.is_up_to_date()


def test_locked_weights_guard_the_pipeline(project: Project) -> None:
    lock = project.folder / "backbone.lock"
    kept = lock.read_text()
    messages = {
        '{"version": 2, "name": "compact", "sha256": "0"}': "backbone.lock is for other weights ('compact')",
        '{"name": "compact", "sha256": "0"}': "backbone.lock was written by another version of vidseg",
    }
    for text, message in messages.items():
        lock.write_text(text)
        result = vidseg("extract", "--item", "one", "--params", "params.yaml", cwd=project.folder, check=4)
        line = error_line(result)
        assert message in line and "run `vidseg backbone lock --params params.yaml`" in line
    lock.write_text(kept)


@pytest.mark.slow
def test_another_small_decoder_runs_upsample_alone(project: Project) -> None:
    """And none that the lock does not know is used."""
    project.write_videos({"one": [ONE]})
    upsample = dict(project.params["upsample"])
    project.params["upsample"] |= {"method": "modulation", "mode": "fast", "fast": {"decode": "small"}}
    project.write_params()
    for seed, refused in enumerate(("no small decoder", "another small decoder")):
        tiny.save_small_decoder(project.folder / "model" / "small_decoder", seed)
        result = vidseg("upsample", "--item", "one", "--params", "params.yaml", cwd=project.folder, check=4)
        assert f"backbone.lock has {refused}; run `vidseg backbone lock --params params.yaml`" in error_line(result)
        project.run("vidseg", "backbone", "lock", "--params", "params.yaml")
        ran = stages_of(project.repro("upsample"))
        assert "upsample" in ran and "extract" not in ran
        assert "up to date" in project.run("dvc", "status", "extract", "upsample")
    shutil.rmtree(project.folder / "model" / "small_decoder")
    project.params["upsample"] = upsample
    project.write_params()
    project.run("vidseg", "backbone", "lock", "--params", "params.yaml")


@pytest.mark.slow
def test_what_is_shown_is_learned_tracked_and_applied(project: Project) -> None:
    """Annotated images to scores, by `dvc repro`; what the item has already is made once."""
    write_references(project.folder / "cars")
    project.params["learn"] |= {"size": 64, "epochs": 1, "tune": "none"}
    project.params["apply"] |= {"timesteps": [100, 99]}
    project.params["guidance"] |= {"iterations": 1, "lambda_track": 0.5}
    project.write_params()
    cars = {"references": "cars", "classes": "inputs/none"}
    project.write_videos({"one": [ONE]}, {"cars": cars}, {"one-cars": {"item": "one", "concept": "cars"}})
    ran = project.run_stages("evaluate_applied")
    applied = [f"{stage}@one-cars" for stage in ("apply", "evaluate_applied", "track")]
    assert sorted(ran) == sorted(["references@cars", "learn@cars", *applied])
    scores = json.loads((project.folder / "data/evaluate/one-cars/scores.json").read_text())
    (video,) = scores["videos"]
    assert (video["scored_frames"], video["assigned"]["rule"]) == (3, "none") and video["flicker"]["points"] > 0
    assert "up to date" in project.run("dvc", "status", *ran)


@pytest.mark.parametrize("key", ["a;touch x", "../x", "a b", "a.b"])
def test_keys_that_are_not_safe_in_a_path_are_refused(
    project: Project, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    monkeypatch.setenv("DVC_STAGE", f"extract@{key}")
    result = vidseg("extract", "--params", "params.yaml", cwd=project.folder, check=2)
    assert "keys may hold letters" in error_line(result)


# Which stages run, by a stand-in for `vidseg` ---------------------------------------------------------------


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> QuickProject:
    """The first item, up to date; each test changes it further."""
    made = QuickProject(tmp_path_factory.mktemp("quick"))
    write_inputs(made)
    made.write_videos({"one": [ONE]})
    write_lock(made, "0")
    assert made.repro() == [*(f"{stage}@one" for stage in ITEM_STAGES), "summarize"]
    return made


def write_lock(project: Project, sha256: str, encoder: str | None = None) -> None:
    locked = {"sha256": sha256, "small_decoder": None, "encoder": encoder}
    (project.folder / "backbone.lock").write_text(yaml.safe_dump(locked))


def change(section: str, key: str, value: object) -> Callable[[Project], None]:
    return lambda project: project.change(section, key, value)


def correct_a_label(project: Project) -> None:
    labels = np.zeros((1, 64, 64), np.uint8)
    labels[:, :, 30:] = 1
    write_labels(project.folder / "truth", labels)


def replace_a_frame(project: Project) -> None:
    write_frames(project.folder / "one", np.zeros((1, 64, 64, 3), np.uint8))


def all_but(*stages: str) -> list[str]:
    return sorted({*ITEM_STAGES, "summarize"} - set(stages))


def raise_number(stage: str) -> Callable[[Project], None]:
    def apply(project: Project) -> None:
        numbers = yaml.safe_load((project.folder / "versions.yaml").read_text())
        numbers[stage] = int(numbers[stage]) + 1
        (project.folder / "versions.yaml").write_text(yaml.safe_dump(numbers))

    return apply


@pytest.mark.parametrize(
    ("apply", "expected"),
    [
        pytest.param(
            change("upsample", "strength", 20.0), ["evaluate", "render", "summarize", "upsample"], id="strength"
        ),
        pytest.param(
            change("segment", "clusters", 3), ["evaluate", "render", "segment", "summarize", "upsample"], id="clusters"
        ),
        pytest.param(correct_a_label, ["evaluate", "ingest", "summarize"], id="ground-truth"),
        pytest.param(change("render", "opacity", 0.4), ["render"], id="opacity"),
        pytest.param(change("ingest", "fps", 5.0), ["ingest", "render"], id="fps"),
        pytest.param(change("ingest", "size", 128), all_but(), id="size"),
        pytest.param(
            change("ingest", "cuts", [1]),
            ["correspond", "evaluate", "ingest", "render", "segment", "summarize", "upsample"],
            id="cuts",
        ),
        pytest.param(change("correspond", "parity", {"rule": "reject"}), all_but("ingest", "extract"), id="rule"),
        pytest.param(replace_a_frame, all_but(), id="frame"),
        pytest.param(lambda project: write_lock(project, "1"), all_but("ingest"), id="weights"),
        pytest.param(lambda project: write_lock(project, "1", "2"), all_but("ingest"), id="weights-of-the-encoder"),
        pytest.param(change("extract", "encoder_scale", 1.0), all_but("ingest"), id="encoder"),
        pytest.param(
            change("segment", "encoder_weight", 1.5),
            ["evaluate", "render", "segment", "summarize", "upsample"],
            id="weight-of-the-encoder",
        ),
        pytest.param(raise_number("evaluate"), ["evaluate", "summarize"], id="number-of-evaluate"),
    ],
)
def test_what_a_change_runs_again(quick: QuickProject, apply: Callable[[Project], None], expected: list[str]) -> None:
    apply(quick)
    assert stages_of(quick.repro()) == expected
    assert quick.is_up_to_date()


def test_only_the_changed_item_runs(quick: QuickProject) -> None:
    for two in (TWO, TWO[:1]):
        quick.write_videos({"one": [ONE], "two": two})
        ran = quick.repro()
        assert "ingest@two" in ran
        assert all(name.endswith("@two") or name == "summarize" for name in ran)


def test_an_item_that_is_no_more_leaves_the_summary(quick: QuickProject) -> None:
    quick.write_videos({"one": [ONE], "more": [{"path": "two-b"}]})
    assert {"evaluate@more", "summarize"} <= set(quick.repro())
    quick.write_videos({"one": [ONE]})
    assert quick.repro() == ["summarize"]
    assert (quick.folder / "data/evaluate/more/scores.json").is_file()


def test_a_mask_is_watched(quick: QuickProject) -> None:
    """By its content too, not only by its entry in videos.yaml."""
    for value in (0, 1):  # of the second of two
        mask = write_labels(
            quick.folder / "masks", np.stack([np.full((64, 64), each, np.uint8) for each in (0, value)])
        )
        quick.write_videos({"one": [ONE | {"mask": str(mask)}]})
        ran = stages_of(quick.repro("ingest", "segment"))
        assert {"ingest", "segment"} <= set(ran) and "extract" not in ran


def test_names_repeat_nothing_but_scores_and_pictures(quick: QuickProject) -> None:
    names = quick.folder / "names.json"
    names.write_text("road")
    quick.write_videos({"one": [ONE | {"names": str(names)}]})
    # The entry is a parameter of ingest, which makes the same stores again; what is in the file is not.
    assert stages_of(quick.repro()) == ["evaluate", "ingest", "render", "summarize"]
    names.write_text("street")
    assert stages_of(quick.repro()) == ["evaluate", "render", "summarize"]


def test_an_earlier_parameter_comes_back_from_the_cache(quick: QuickProject) -> None:
    quick.repro()
    labels, method = quick.folder / "data/upsample/one/labels.zarr", quick.params["upsample"]["method"]
    before = labels.read_bytes()
    quick.change("upsample", "method", "nearest")
    quick.repro()
    assert labels.read_bytes() != before
    quick.change("upsample", "method", method)
    assert "is cached - skipping run" in quick.print_repro("upsample@one")
    assert labels.read_bytes() == before


CONCEPT = {"references": "cars", "classes": "inputs/none"}


@pytest.fixture
def applied(quick: QuickProject) -> Iterator[QuickProject]:
    """The first item with a concept applied to it under the name `fast`, up to date."""
    (quick.folder / "cars").mkdir(exist_ok=True)
    (quick.folder / "cars" / "image.png").write_text("cars")
    quick.write_videos({"one": [ONE]}, {"cars": CONCEPT}, {"fast": {"item": "one", "concept": "cars"}})
    quick.repro()
    yield quick
    quick.write_videos({"one": [ONE]})


def change_references(project: Project) -> None:
    (project.folder / "cars" / "image.png").write_text("other cars")


def another_concept(project: Project) -> None:
    """Learned beside the first, and applied to the same clip in its place."""
    concepts = {"cars": CONCEPT, "dogs": CONCEPT}
    project.write_videos({"one": [ONE]}, concepts, {"fast": {"item": "one", "concept": "dogs"}})


def skip_a_frame(project: Project) -> None:
    entry = {"item": "one", "concept": "cars", "skip": [0]}
    project.write_videos({"one": [ONE]}, {"cars": CONCEPT}, {"fast": entry})  # type: ignore[dict-item]


def name_what_is_applied(project: Project) -> None:
    (project.folder / "names.json").write_text("names")
    entry = {"item": "one", "concept": "cars", "names": "names.json"}
    project.write_videos({"one": [ONE]}, {"cars": CONCEPT}, {"fast": entry})


#: What runs again where another result of `apply` is expected.
APPLY = ["apply", "evaluate_applied", "render_applied", "summarize"]


@pytest.mark.parametrize(
    ("apply", "expected"),
    [
        pytest.param(change("track", "method", "static"), [*APPLY, "track"], id="method-of-tracks"),
        pytest.param(
            change("segment", "clusters", 5), ["evaluate", "render", "segment", "summarize", "upsample"], id="K"
        ),
        pytest.param(change_references, ["learn", "references", *APPLY], id="references"),
        pytest.param(change("learn", "tune", "none"), ["learn", *APPLY], id="learn"),
        pytest.param(change("learn", "size", 128), ["learn", *APPLY], id="learn-size"),
        pytest.param(change("guidance", "lambda_track", 1.0), APPLY, id="guidance"),
        pytest.param(change("maps", "background_floor", "zero"), ["learn", *APPLY], id="maps"),
        pytest.param(change("apply", "frames", "all"), APPLY, id="frames-together"),
        pytest.param(raise_number("apply"), APPLY, id="number-of-apply"),
        pytest.param(skip_a_frame, ["evaluate_applied", "summarize"], id="skip"),
        pytest.param(name_what_is_applied, ["evaluate_applied", "render_applied", "summarize"], id="names"),
        pytest.param(another_concept, ["learn", "references", *APPLY], id="another-concept"),
    ],
)
def test_what_a_change_runs_again_of_what_is_applied(
    applied: QuickProject, apply: Callable[[Project], None], expected: list[str]
) -> None:
    apply(applied)
    assert stages_of(applied.repro()) == sorted(expected)
    assert applied.is_up_to_date()


def test_a_change_of_what_is_no_parameter_is_no_test(quick: QuickProject) -> None:
    """The stand-in takes every key, so a key that was renamed would be tested for ever."""
    quick.params["maps"]["frames"] = "one"
    with pytest.raises(UsageError, match=r"unknown parameter 'maps\.frames'"):
        quick.write_params()
    del quick.params["maps"]["frames"]
    quick.write_params()


def test_another_frame_is_tracked_again(applied: QuickProject) -> None:
    write_frames(applied.folder / "one", np.full((1, 64, 64, 3), 9, np.uint8))
    assert "track" in stages_of(applied.repro())


def test_every_stage_watches_its_number() -> None:
    """A result that changes for equal parameters raises its number, which must run the stage again."""
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    numbers = yaml.safe_load((ROOT / "versions.yaml").read_text())
    for name in stages:
        watched, number = stages[name].get("do", stages[name])["params"], name.removesuffix("_applied")
        assert {"versions.yaml": [number]} in watched and number in numbers, name

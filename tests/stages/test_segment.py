"""correspond, segment, context and refine on stores."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from pipeline.errors import DataError, UsageError
from pipeline.parameters import CorrespondParams, SegmentParams, SegmentParity
from pipeline.segmentation.correspondence import next_tokens
from pipeline.segmentation.stores import numbers_of
from pipeline.stores.cuts import Cuts, write_cuts
from pipeline.stores.numbering import Numbering
from pipeline.stores.schemas import COARSE, FEATURES, MATCHES
from pipeline.stores.store import Store, open_store
from pipeline.stores.writer import StoreWriter
from stages import correspond, main, segment
from stages.commands import context, refine
from stages.common.layout import Place
from tests.support.commands import error_line, tree_bytes, vidseg
from tests.support.feature_store import GRID, make_features
from tests.support.params import PLAIN

PARAMS = SegmentParams(clusters=4, restarts=2, window=5)
MATCHING = CorrespondParams()
BIRTHS = replace(PARAMS, births="distance", birth_reach=1, birth_tokens=3, birth_frames=2)


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """A folder with features.zarr and matches.zarr of 12 frames."""
    correspond.run(make_features(tmp_path), tmp_path, MATCHING)
    return tmp_path


def run_segment(work: Path, out: Path, params: SegmentParams = PARAMS, **inputs: Path) -> Store:
    path = segment.run(work / "features.zarr", work / "matches.zarr", out, params, **inputs)
    return open_store(path, COARSE)


def make_seed(folder: Path, mask: np.ndarray | None) -> Path:
    from pipeline.media.pictures import write_label_png

    folder.mkdir()
    if mask is not None:
        write_label_png(folder / "mask.png", mask)
    (folder / "seed.json").write_text(json.dumps({"mask": None if mask is None else "mask.png"}))
    return folder


# --- correspond


def test_matches_store_equals_the_library(work: Path) -> None:
    features = open_store(work / "features.zarr", FEATURES)
    matches = open_store(work / "matches.zarr", MATCHES)
    expected = next_tokens(features.read("matching"), GRID, 2, "constrained")
    np.testing.assert_array_equal(matches.read("next"), expected.next)
    np.testing.assert_array_equal(matches.read("similarity"), expected.similarity.astype(np.float16))
    assert matches.array("next").shape == (11, 24)
    assert matches.params["correspond"] == {"max_squared_distance": 2.0, "rule": "constrained"}
    assert matches.params["extract"]["feature_step"] == 24
    assert not (work / "tmp").exists()


def test_interrupted_matching_continues_to_the_same_bytes(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = tree_bytes(work / "matches.zarr")
    calls: list[int] = []
    real = StoreWriter.write

    def dies_at_the_third(self: StoreWriter, name: str, start: int, values: np.ndarray) -> None:
        calls.append(start)
        if len(calls) == 3:
            raise KeyboardInterrupt
        real(self, name, start, values)

    out = tmp_path / "again"
    monkeypatch.setattr(StoreWriter, "write", dies_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        correspond.run(work / "features.zarr", out, MATCHING)
    assert not (out / "matches.zarr").exists()
    correspond.run(work / "features.zarr", out, MATCHING)
    assert calls[2:] == [4, 4, 4, 8, 8]  # the first shard was not made again
    assert tree_bytes(out / "matches.zarr") == expected


def test_damaged_features_leave_no_scratch(work: Path, tmp_path: Path) -> None:
    for shard in (work / "features.zarr").rglob("c.0.0.0"):
        shard.write_bytes(shard.read_bytes()[:-9])
    with pytest.raises(DataError, match="damaged in shard 0"):
        correspond.run(work / "features.zarr", tmp_path / "out", MATCHING)
    with pytest.raises(DataError, match="damaged in shard 0"):
        segment.run(work / "features.zarr", work / "matches.zarr", tmp_path / "out", PARAMS)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("frames", [1, 2, 5])
def test_short_clips(tmp_path: Path, frames: int) -> None:
    correspond.run(make_features(tmp_path, frames), tmp_path, MATCHING)
    store = run_segment(tmp_path, tmp_path)
    assert store.array("refined").shape == (frames, *GRID)
    assert (tmp_path / "context" / "index.faiss").is_file()


# --- segment


def test_coarse_store(work: Path) -> None:
    store = run_segment(work, work)
    assert store.array("initial").shape == (12, *GRID)
    assert str(store.array("refined").dtype) == "uint8"
    assert store.array("refined").shards[0] == 4
    assert set(np.unique(store.read("refined"))) == {0, 1, 2, 3}
    assert (store.read("initial") != store.read("refined")).any()
    assert store.attrs["grid"] == list(GRID)
    assert store.attrs["backbone"] == "weights"
    assert set(store.params) == {"extract", "correspond", "segment"}
    assert not (work / "tmp").exists()


def test_segmenting_again_gives_the_same_bytes(work: Path, tmp_path: Path) -> None:
    run_segment(work, tmp_path / "a")
    run_segment(work, tmp_path / "b")
    assert tree_bytes(tmp_path / "a") == tree_bytes(tmp_path / "b")


def test_what_numbers_the_labels(work: Path, tmp_path: Path) -> None:
    first = Numbering.of_coarse(run_segment(work, tmp_path / "a"))
    assert first.labels == (0, 1, 2, 3)
    assert Numbering.of_coarse(run_segment(work, tmp_path / "b")) == first
    assert Numbering.of_coarse(run_segment(work, tmp_path / "c", replace(PARAMS, seed=7))).origin != first.origin


def test_a_current_store_is_left_alone(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_segment(work, work)
    monkeypatch.setattr(StoreWriter, "__init__", lambda *a, **k: pytest.fail("written again"))
    run_segment(work, work)
    correspond.run(work / "features.zarr", work, MATCHING)


@pytest.mark.parametrize(
    "params",
    [
        PARAMS,
        replace(PARAMS, memory="sliding:2", vote="both", parity=SegmentParity(kmeans_frames="window")),
        replace(
            PARAMS,
            memory="first_and_last",
            parity=SegmentParity(first_frame="predict"),
            features="matching",
            window=3,
        ),
        replace(PARAMS, window=20, vote="none", seed=7),
        replace(BIRTHS, memory="prototypes:3"),
    ],
    ids=["defaults", "sliding, both", "first_and_last, matching", "one window", "births, prototypes"],
)
def test_the_loop_by_hand_gives_the_same_bytes(work: Path, tmp_path: Path, params: SegmentParams) -> None:
    if params.births != "none":
        correspond.run(make_features(work, enters=6), work, MATCHING)
    whole = run_segment(work, tmp_path / "whole", params)
    hand = tmp_path / "hand"
    features, matches = work / "features.zarr", work / "matches.zarr"
    model = context.fit(features, hand / "context", params)
    steps = []
    for start in range(0, 12, params.window):
        step = hand / str(start)
        window, moves = f"{start}:{min(12, start + params.window)}", None if params.births == "none" else matches
        predicted = context.predict(model, features, step, params, window, moves)
        refined = refine.run(predicted, matches, step / "refined", params)
        context.update(model, features, refined, model, params)
        steps.append(open_store(refined, COARSE))
    for name in ("initial", "refined"):
        by_hand = np.concatenate([step.read(name) for step in steps])
        assert by_hand.dtype == whole.array(name).dtype
        np.testing.assert_array_equal(by_hand, whole.read(name))
    assert tree_bytes(model) == tree_bytes(tmp_path / "whole" / "context")


def test_births_are_noted_beside_the_labels_and_in_the_context(work: Path, tmp_path: Path) -> None:
    correspond.run(make_features(work, enters=6), work, MATCHING)
    store = run_segment(work, tmp_path / "out", BIRTHS)
    numbering, without = Numbering.of_coarse(store), Numbering.of_coarse(run_segment(work, tmp_path / "none"))
    assert [(birth.label, birth.first, birth.last) for birth in numbering.births] == [(4, 6, 11)]
    assert numbering.births[0].clip == open_store(work / "features.zarr", FEATURES).fingerprint
    assert numbering.labels == (0, 1, 2, 3, 4)
    assert not without.births
    assert without.labels == (0, 1, 2, 3)
    refined = store.read("refined")
    assert (refined[:6] < 4).all()
    assert (refined[7:, 1:3, 1:4] == 4).mean() > 0.8
    shown = context.describe(tmp_path / "out" / "context")
    assert shown["births"] == {4: [6, 11]}
    assert "4: frames 6 to 11" in vidseg("context", "show", tmp_path / "out" / "context").stdout


def test_auto_is_births_but_beside_what_is_given(work: Path, tmp_path: Path) -> None:
    """With the arrays that `distance` and `none` give."""
    correspond.run(make_features(work, enters=6), work, MATCHING)
    auto = replace(BIRTHS, births="auto")

    def written(name: str, params: SegmentParams, **inputs: Path) -> dict[str, bytes]:
        run_segment(work, tmp_path / name, params, **inputs)
        return {file: value for file, value in tree_bytes(tmp_path / name).items() if not file.endswith(".json")}

    assert written("auto", auto) == written("distance", BIRTHS)
    own = {"context": context.fit(work / "features.zarr", tmp_path / "fitted", auto)}
    assert written("own", auto, **own) == written("same", BIRTHS, **own)
    off = replace(BIRTHS, births="none")
    mask = {"seed": make_seed(tmp_path / "seed", np.eye(16, 24).astype(np.uint8))}
    masks = [replace(params, init="mask") for params in (auto, off)]
    assert written("mask", masks[0], **mask) == written("none", masks[1], **mask)
    correspond.run(make_features(tmp_path / "other", seed=1), tmp_path / "other", MATCHING)
    run_segment(tmp_path / "other", tmp_path / "given", off)
    others = {"context": tmp_path / "given" / "context"}
    assert written("context", auto, **others) == written("no", off, **others)
    with pytest.raises(UsageError, match="segment.births is none, or auto and comes to none here; set it to distance"):
        context.predict(others["context"], work / "features.zarr", tmp_path, auto, "0:5", work / "matches.zarr")


@pytest.mark.parametrize(("limit", "warns"), [(5, True), (6, False)])
def test_births_that_end_at_most_labels_are_told(
    work: Path, tmp_path: Path, limit: int, warns: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    correspond.run(make_features(work, enters=6), work, MATCHING)
    said = "from frame 5 on there are 5 segments, the most that segment.most_labels allows"
    for _ in range(2):  # also where the store is there already
        run_segment(work, tmp_path / "out", replace(BIRTHS, births="auto", most_labels=limit))
        assert (said in capsys.readouterr().err) == warns


def test_names_of_a_context_fit_clips_in_which_more_is_born(work: Path, tmp_path: Path) -> None:
    given = run_segment(work, tmp_path / "first")
    correspond.run(make_features(work, enters=6, seed=1), work, MATCHING)
    store = run_segment(work, tmp_path / "second", BIRTHS, context=tmp_path / "first" / "context")
    first, second = Numbering.of_coarse(given), Numbering.of_coarse(store)
    assert first.origin in second.origins
    assert first.origin != second.origin
    assert Numbering.of_record(second.record()) == second


def test_labels_become_sixteen_bit_when_births_may_need_it(work: Path, tmp_path: Path) -> None:
    correspond.run(make_features(work, enters=6), work, MATCHING)
    mask = np.array([[10, 254], [30, 40]], np.uint8).repeat(8, axis=0).repeat(12, axis=1)
    params = replace(BIRTHS, init="mask")
    store = run_segment(work, tmp_path / "out", params, seed=make_seed(tmp_path / "seed", mask))
    assert store.array("refined").dtype == np.uint16
    assert Numbering.of_coarse(store).born == {256}  # 255 is void in a PNG
    few = run_segment(work, tmp_path / "few", replace(params, births="none"), seed=tmp_path / "seed")
    assert few.array("refined").dtype == np.uint8


def test_matches_for_births_that_are_off_and_for_more_than_a_window_are_refused(work: Path, tmp_path: Path) -> None:
    features, matches = work / "features.zarr", work / "matches.zarr"
    model = context.fit(features, tmp_path / "context", PARAMS)
    with pytest.raises(UsageError, match="segment.births is none, or .*; set it to distance"):
        context.predict(model, features, tmp_path, PARAMS, "0:5", matches)
    with pytest.raises(UsageError, match=r"has 12 frames, more than segment.window \(5\)"):
        context.predict(model, features, tmp_path, BIRTHS, None, matches)


def test_predicted_labels_stand_in_for_refined_ones(work: Path, tmp_path: Path) -> None:
    model = context.fit(work / "features.zarr", tmp_path / "context", PARAMS)
    path = context.predict(model, work / "features.zarr", tmp_path / "all", PARAMS)
    store = open_store(path, COARSE)
    np.testing.assert_array_equal(store.read("initial"), store.read("refined"))
    assert store.array("initial").shape == (12, *GRID)


def test_refining_in_place_and_in_windows(work: Path, tmp_path: Path) -> None:
    whole = run_segment(work, tmp_path, PARAMS)
    initial, refined = whole.read("initial"), whole.read("refined")
    again = open_store(refine.run(whole.path, work / "matches.zarr", tmp_path, PARAMS), COARSE)
    np.testing.assert_array_equal(again.read("initial"), initial)
    np.testing.assert_array_equal(again.read("refined"), refined)


def test_segment_says_how_sure_tokens_are(work: Path, tmp_path: Path) -> None:
    store = run_segment(work, tmp_path, PARAMS)
    sure = store.read("confidence")
    assert sure.shape == store.read("refined").shape
    assert sure.dtype == np.uint8
    assert sure.min() < sure.mean() < sure.max()
    assert store.attrs["arrays"] == ["initial", "refined", "confidence"]


def test_a_store_of_an_earlier_version_without_confidence_is_made_again(work: Path, tmp_path: Path) -> None:
    store = run_segment(work, tmp_path, PARAMS)
    expected = tree_bytes(store.path)
    shutil.rmtree(store.path / "confidence")
    about = json.loads((store.path / "zarr.json").read_text())
    del about["attributes"]["arrays"]
    (store.path / "zarr.json").write_text(json.dumps(about))
    earlier = open_store(store.path, COARSE)
    assert not earlier.has("confidence")
    again = run_segment(work, tmp_path, PARAMS)
    assert tree_bytes(again.path) == expected
    assert again.fingerprint == earlier.fingerprint  # so that what was made of it stays valid


def test_a_fitted_context_starts_its_own_clip_as_segment_does(work: Path, tmp_path: Path) -> None:
    expected = run_segment(work, tmp_path / "expected")
    model = context.fit(work / "features.zarr", tmp_path / "context", PARAMS)
    store = run_segment(work, tmp_path / "out", context=model)
    np.testing.assert_array_equal(store.read("refined"), expected.read("refined"))
    assert tree_bytes(tmp_path / "out" / "context") == tree_bytes(tmp_path / "expected" / "context")


def test_a_context_carries_labels_to_another_clip(work: Path, tmp_path: Path) -> None:
    seed = make_seed(tmp_path / "seed", np.array([[40, 41], [42, 43]], np.uint8).repeat(2, 0).repeat(3, 1))
    run_segment(work, tmp_path / "first", replace(PARAMS, init="mask"), seed=seed)
    other = tmp_path / "other"
    correspond.run(make_features(other, seed=9), other, MATCHING)
    store = run_segment(other, other, context=tmp_path / "first" / "context")
    first = open_store(tmp_path / "first" / "coarse.zarr", COARSE)
    assert Numbering.of_coarse(store) == Numbering.of_coarse(first)  # so that names of one fit the other
    corners = store.read("refined")[:, [0, 0, -1, -1], [0, -1, 0, -1]]
    assert (corners == [40, 41, 42, 43]).mean() > 0.8


# --- cuts


def cut(folder: Path, *positions: int, frames: int = 12) -> Path:
    """cuts/ in a folder; of a clip in whose source these frames have the same numbers."""
    write_cuts(folder / "cuts", Cuts(frames, positions), range(frames), folder / "tmp" / "cuts")
    return folder / "cuts"


def test_matches_know_the_cuts_and_a_clip_of_one_shot_has_the_store_that_it_had(work: Path, tmp_path: Path) -> None:
    features, plain = work / "features.zarr", tree_bytes(work / "matches.zarr")
    none = cut(tmp_path / "none")
    assert tree_bytes(correspond.run(features, tmp_path / "a", MATCHING, cuts=none)) == plain
    path = correspond.run(features, tmp_path / "b", MATCHING, cuts=cut(tmp_path / "given", 3, 4, 9))
    matches, whole = open_store(path, MATCHES), open_store(work / "matches.zarr", MATCHES)
    assert matches.attrs["cuts"] == [3, 4, 9]
    following = matches.read("next")
    assert (following[[2, 3, 8]] == -1).all()
    others = [0, 1, 4, 5, 6, 7, 9, 10]
    np.testing.assert_array_equal(following[others], whole.read("next")[others])
    assert matches.fingerprint != whole.fingerprint


def test_cuts_beside_the_features_count_and_matches_are_made_again(work: Path) -> None:
    cut(work, 7)
    path = correspond.run(work / "features.zarr", work, MATCHING)
    assert open_store(path, MATCHES).attrs["cuts"] == [7]


def test_cuts_of_another_clip_and_cuts_with_an_item_are_refused(work: Path, tmp_path: Path) -> None:
    other = cut(tmp_path / "other", 3, frames=20)
    with pytest.raises(DataError, match="is of a clip of 20 frames, not of 12"):
        correspond.run(work / "features.zarr", tmp_path / "out", MATCHING, cuts=other)
    result = vidseg("correspond", "--item", "x", "--cuts", other, check=2)
    assert "--cuts does not go with --item" in error_line(result)


@pytest.mark.parametrize("vote", ["forward", "both"])
def test_shots_that_restart_have_the_labels_of_clips_of_their_own(tmp_path: Path, vote: str) -> None:
    params = replace(PARAMS, after_cut="restart", vote=vote)
    parts = [make_features(tmp_path / f"{seed}", seed=seed) for seed in (0, 1)]
    alone = []
    for part in parts:
        correspond.run(part, part.parent, MATCHING)
        alone.append(run_segment(part.parent, part.parent, params).read("refined"))
    joined = make_features(tmp_path / "joined", seeds=(0, 1))
    correspond.run(joined, joined.parent, MATCHING, cuts=cut(joined.parent, 12, frames=24))
    store = run_segment(joined.parent, joined.parent, params)
    np.testing.assert_array_equal(store.read("refined"), np.concatenate([alone[0], alone[1] + 4]))
    numbering = Numbering.of_coarse(store)
    assert numbering.labels == tuple(range(8))
    assert numbering.born == {4, 5, 6, 7}
    assert all(birth.first >= 12 for birth in numbering.births)
    first = Numbering.of_coarse(run_segment(joined.parent, tmp_path / "on", replace(params, after_cut="continue")))
    assert first.labels == (0, 1, 2, 3) and not first.births


def test_labels_become_sixteen_bit_when_restarts_need_it(work: Path, tmp_path: Path) -> None:
    correspond.run(work / "features.zarr", work, MATCHING, cuts=cut(tmp_path, *range(1, 12)))
    params = replace(PARAMS, clusters=22, restarts=1, after_cut="restart", neighbors=1)
    store = run_segment(work, tmp_path / "out", params)
    assert store.array("refined").dtype == np.uint16
    refined = store.read("refined")
    assert [int(refined[frame].min()) for frame in (0, 1, 10, 11)] == [0, 22, 220, 256]  # 242 to 263 would have void
    few = run_segment(work, tmp_path / "few", replace(params, after_cut="continue"))
    assert few.array("refined").dtype == np.uint8


def test_a_context_is_fitted_up_to_the_first_cut(work: Path, tmp_path: Path) -> None:
    params = replace(PARAMS, parity=SegmentParity(kmeans_frames="window"))
    matches = correspond.run(work / "features.zarr", work, MATCHING, cuts=cut(tmp_path, 3))
    model = context.fit(work / "features.zarr", tmp_path / "context", params, matches=matches)
    run_segment(work, tmp_path / "own", params, context=model)
    whole = run_segment(work, tmp_path / "whole", params)
    own = open_store(tmp_path / "own" / "coarse.zarr", COARSE)
    np.testing.assert_array_equal(own.read("refined"), whole.read("refined"))
    assert Numbering.of_coarse(own).origin == Numbering.of_coarse(whole).origin


def test_steps_by_hand_heed_cuts(work: Path, tmp_path: Path) -> None:
    """Shot by shot they come to what `segment` comes to; no window crosses a cut."""
    features = make_features(work, enters=8)
    matches = correspond.run(features, work, MATCHING, cuts=cut(tmp_path, 7))
    expected = run_segment(work, tmp_path / "expected", BIRTHS)
    model = context.fit(features, tmp_path / "context", BIRTHS, matches=matches)
    for number, frames in enumerate(("0:5", "5:7", "7:12")):
        path = context.predict(model, features, tmp_path / f"{number}", BIRTHS, frames, matches)
        path = refine.run(path, matches, tmp_path / f"{number}", BIRTHS)
        context.update(model, features, path, model, BIRTHS)
        start, stop = map(int, frames.split(":"))
        np.testing.assert_array_equal(open_store(path, COARSE).read("refined"), expected.read("refined")[start:stop])
    assert tree_bytes(model) == tree_bytes(tmp_path / "expected" / "context")
    assert numbers_of(Numbering.of_coarse(expected), expected.attrs["features"], 7).counted == 1
    with pytest.raises(UsageError, match=r"is cut at frame 7 .*; predict 5:7 and 7:10 one after the other"):
        context.predict(model, features, tmp_path, BIRTHS, "5:10", matches)
    with pytest.raises(UsageError, match=r"a shot begins at frame 7, where segment.after_cut: restart fits another"):
        context.predict(model, features, tmp_path, replace(BIRTHS, after_cut="restart"), "7:12", matches)


def test_refining_in_windows_that_end_at_cuts(work: Path, tmp_path: Path) -> None:
    correspond.run(work / "features.zarr", work, MATCHING, cuts=cut(tmp_path, 3, 9))
    whole = run_segment(work, tmp_path / "whole")
    again = open_store(refine.run(whole.path, work / "matches.zarr", tmp_path / "again", PARAMS), COARSE)
    np.testing.assert_array_equal(again.read("refined"), whole.read("refined"))


# --- seed masks


def test_a_given_mask_starts_the_clip(work: Path, tmp_path: Path) -> None:
    mask = np.zeros((40, 60), np.uint16)
    mask[:20, :30], mask[20:, 30:] = 300, 7
    seed = make_seed(tmp_path / "seed", mask)
    store = run_segment(work, tmp_path / "out", replace(PARAMS, init="mask"), seed=seed)
    expected = np.zeros(GRID, int)
    expected[:2, :3], expected[2:, 3:] = 300, 7
    np.testing.assert_array_equal(store.read("initial")[0], expected)
    assert str(store.array("refined").dtype) == "uint16"
    assert set(np.unique(store.read("refined"))) == {0, 7, 300}


@pytest.mark.parametrize("change", [{"init": "mask"}, {"parity": SegmentParity(label_merge="first_frame")}])
@pytest.mark.parametrize("given", ["no folder", "an empty seed"])
def test_a_missing_mask_is_explained(work: Path, tmp_path: Path, change: dict[str, Any], given: str) -> None:
    inputs = {"seed": make_seed(tmp_path / "seed", None)} if given == "an empty seed" else {}
    with pytest.raises(DataError, match=r"needs a mask of the first frame.*--seed DIR"):
        run_segment(work, tmp_path / "out", replace(PARAMS, **change), **inputs)
    assert not (tmp_path / "out" / "coarse.zarr").exists()


def test_an_empty_seed_is_ignored_by_kmeans(work: Path, tmp_path: Path) -> None:
    run_segment(work, tmp_path / "a", seed=make_seed(tmp_path / "seed", None))
    run_segment(work, tmp_path / "b")
    assert tree_bytes(tmp_path / "a") == tree_bytes(tmp_path / "b")


@pytest.mark.parametrize("content", [None, "{", "[]", "{}"])
def test_an_unreadable_seed_is_explained(work: Path, tmp_path: Path, content: str | None) -> None:
    seed = tmp_path / "seed"
    seed.mkdir()
    if content is not None:
        (seed / "seed.json").write_text(content)
    with pytest.raises(DataError, match=r"seed.json: not readable"):
        run_segment(work, tmp_path / "out", replace(PARAMS, init="mask"), seed=seed)


def make_masks(folder: Path, masks: dict[int, np.ndarray], content: dict[str, Any] | None = None) -> Path:
    """A seed folder with masks of later frames."""
    from pipeline.media.pictures import write_label_png

    folder.mkdir()
    listed = {str(frame): f"mask_{frame}.png" for frame in masks}
    for frame, mask in masks.items():
        write_label_png(folder / f"mask_{frame}.png", mask)
    (folder / "seed.json").write_text(json.dumps({"mask": None, "masks": listed, **(content or {})}))
    return folder


def halves(left: int, right: int) -> np.ndarray:
    """A mask (40, 60) of two labels."""
    return np.repeat(np.array([[left, right]], np.uint16), [30, 30], axis=1).repeat(40, 0)


def test_masks_of_later_frames(work: Path, tmp_path: Path) -> None:
    """Each is in its frame, whatever is voted; which mask is of which frame decides the fingerprint."""
    params = replace(PARAMS, init="mask", direction="both")
    expected = {frame: np.repeat([[0, label]], [3, 3], axis=1).repeat(4, 0) for frame, label in ((3, 4), (9, 300))}
    seed = make_masks(tmp_path / "seed", {3: halves(0, 4), 9: halves(0, 300)})
    store = run_segment(work, tmp_path / "a", params, seed=seed)
    for frame, labels in expected.items():
        np.testing.assert_array_equal(store.read("refined")[frame], labels)
    assert Numbering.of_coarse(store).labels == (0, 4, 300) and store.array("refined").dtype == "uint16"
    assert 4 in store.read("refined")[:7] and 300 not in store.read("refined")[:7]  # 3 and 9 are as near to frame 6
    assert 300 in store.read("refined")[7:] and 4 not in store.read("refined")[7:]
    again = run_segment(work, tmp_path / "b", params, seed=seed)
    assert tree_bytes(tmp_path / "a") == tree_bytes(tmp_path / "b")
    moved = make_masks(tmp_path / "moved", {3: halves(0, 4), 8: halves(0, 300)})
    other = make_masks(tmp_path / "other", {3: halves(0, 4), 9: halves(1, 300)})
    prints = {run_segment(work, tmp_path / "c", params, seed=each).fingerprint for each in (moved, other)}
    assert len({again.fingerprint, *prints}) == 3


@pytest.mark.parametrize(
    ("params", "content", "message"),
    [
        ({}, {}, "the first mask is of frame 3, and segment.direction is forward: the 3 frames before it"),
        (
            {"direction": "both"},
            {"masks": {"12": "mask_3.png"}},
            "seed.json: not readable .frame 12 is not in the clip",
        ),
        ({"direction": "both"}, {"masks": {"3": "../mask_3.png"}}, "seed.json: not readable .*is not in the folder"),
        ({"direction": "both"}, {"masks": ["mask_3.png"]}, "seed.json: not readable"),
        (
            {"init": "kmeans", "parity": SegmentParity(label_merge="first_frame")},
            {},
            "masks of later frames, which segment.parity.label_merge does not read",
        ),
    ],
)
def test_masks_that_cannot_be_used(
    work: Path, tmp_path: Path, params: dict[str, Any], content: dict[str, Any], message: str
) -> None:
    seed = make_masks(tmp_path / "seed", {3: halves(0, 4)}, content)
    with pytest.raises((DataError, UsageError), match=message):
        run_segment(work, tmp_path / "out", replace(PARAMS, **{"init": "mask", **params}), seed=seed)


def test_a_context_is_fitted_on_the_first_frame_only(work: Path, tmp_path: Path) -> None:
    seed = make_masks(tmp_path / "seed", {3: halves(0, 4)})
    with pytest.raises(UsageError, match="masks of later frames, which only `vidseg segment` carries"):
        context.fit(work / "features.zarr", tmp_path / "c", replace(PARAMS, init="mask", direction="both"), seed)


# --- other inputs


@pytest.mark.parametrize("encoding", ["float32", "int8"])
def test_other_feature_encodings(tmp_path: Path, work: Path, encoding: str) -> None:
    other = tmp_path / encoding
    correspond.run(make_features(other, encoding=encoding), other, MATCHING)
    labels = run_segment(other, other).read("refined")
    assert (labels == run_segment(work, work).read("refined")).mean() > 0.95


def test_matching_features_are_normalised_for_the_context(work: Path) -> None:
    run_segment(work, work, replace(PARAMS, features="matching"))
    from pipeline.segmentation.context_store import load_context

    stored = load_context(work / "context")
    np.testing.assert_allclose(np.abs(stored.context.features).max(axis=-1), 1)
    assert stored.kind.recipe == "blocks 7, step 24, max_abs"


def test_stores_of_different_features_are_refused(work: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    correspond.run(make_features(other, seed=1), other, MATCHING)
    with pytest.raises(DataError, match=r"matches.zarr: made from other features .* re-run `vidseg correspond`"):
        segment.run(work / "features.zarr", other / "matches.zarr", tmp_path, PARAMS)
    run_segment(other, other)
    with pytest.raises(DataError, match="were made from different features"):
        refine.run(other / "coarse.zarr", work / "matches.zarr", tmp_path / "out", PARAMS)
    with pytest.raises(DataError, match=r"coarse.zarr: made from other features"):
        context.update(other / "context", work / "features.zarr", other / "coarse.zarr", tmp_path / "out", PARAMS)


def test_a_context_of_another_backbone_is_refused(work: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    model = context.fit(make_features(other, backbone="others"), other / "context", PARAMS)
    with pytest.raises(DataError, match="backbone is 'others' there and 'weights' here"):
        run_segment(work, tmp_path / "out", context=model)


def test_a_window_longer_than_the_parameter_is_refused(work: Path, tmp_path: Path) -> None:
    run_segment(work, work)
    with pytest.raises(UsageError, match=r"has 12 frames, more than segment.window \(5\)"):
        context.update(work / "context", work / "features.zarr", work / "coarse.zarr", tmp_path / "out", PARAMS)


def test_one_label_everywhere_is_noted(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_segment(work, work, replace(PARAMS, clusters=1))
    assert "warning" in capsys.readouterr().err
    run_segment(work, work, PARAMS)
    assert "warning" not in capsys.readouterr().err


def test_memory_is_checked_with_the_parameters() -> None:
    with pytest.raises(UsageError, match=r"segment.memory must be"):
        SegmentParams(memory="forever")
    assert SegmentParams().memory_policy.windows == 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [(None, range(12)), ("3:7", range(3, 7)), (":7", range(7)), ("7:", range(7, 12)), (":", range(12))],
)
def test_frame_ranges(text: str | None, expected: range) -> None:
    assert context.parse_frames(text, 12) == expected


@pytest.mark.parametrize("text", ["0:13", "12:", "13:"])
def test_frames_that_are_not_there(text: str) -> None:
    with pytest.raises(DataError, match="the clip has frames 0:12"):
        context.parse_frames(text, 12)


@pytest.mark.parametrize("text", ["3", "a:b", "-3:5", "7:3", "3:3"])
def test_frames_in_another_form(text: str) -> None:
    with pytest.raises(UsageError, match="--frames(: nothing is in| must be START:STOP)"):
        context.parse_frames(text, 12)


def test_several_videos_of_an_item_lie_side_by_side(tmp_path: Path, work: Path) -> None:
    place = Place(tmp_path / "item", "video1")
    segment.run(work / "features.zarr", work / "matches.zarr", place, PARAMS)
    assert (tmp_path / "item" / "coarse.zarr" / "video1").is_file()
    assert (tmp_path / "item" / "context" / "video1" / "meta.json").is_file()


# --- as commands


def command(*arguments: object) -> str:
    """Run `vidseg ...` in this process; returns what it printed on stdout."""
    result = CliRunner().invoke(main.app, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_the_commands(work: Path, tmp_path: Path) -> None:
    sets = [f"--set={text}" for text in (*PLAIN, "segment.clusters=4", "segment.window=5")]
    features, matches = work / "features.zarr", work / "matches.zarr"
    out, model = tmp_path / "out", tmp_path / "model"
    command("correspond", features, out, *sets, "--set", "correspond.parity.rule=reject")
    assert open_store(out / "matches.zarr", MATCHES).read("next").min() == -1
    command("segment", features, matches, out, *sets)
    command("context", "fit", features, model, *sets)
    command("context", "predict", model, features, tmp_path / "p", "--frames", "0:5", *sets)
    command("refine", tmp_path / "p" / "coarse.zarr", matches, tmp_path / "r", *sets)
    command("context", "update", model, features, tmp_path / "r" / "coarse.zarr", model, *sets)
    shown = json.loads(command("context", "show", model, "--json"))
    assert (shown["windows"], shown["first"], shown["tokens"]) == ([120], None, 120)
    assert sum(shown["labels"].values()) == 120
    assert "labels: 4" in command("context", "show", model)
    first = open_store(tmp_path / "r" / "coarse.zarr", COARSE).read("refined")
    whole = open_store(out / "coarse.zarr", COARSE).read("refined")
    np.testing.assert_array_equal(first, whole[:5])


@pytest.mark.parametrize("stage", ["correspond", "segment"])
def test_paths_are_needed(stage: str) -> None:
    with pytest.raises(UsageError, match="give FEATURES"):
        command(stage, "features.zarr")


@pytest.mark.parametrize("name", ["coarse.zarr", "context"])
def test_a_folder_of_somebody_else_is_not_replaced(work: Path, tmp_path: Path, name: str) -> None:
    features, matches = work / "features.zarr", work / "matches.zarr"
    out = tmp_path / "out"
    (out / name).mkdir(parents=True)
    (out / name / "meta.json").write_text('{"schema": "notes"}')
    line = error_line(vidseg("segment", features, matches, out, check=3))
    assert f"{name}: was not written by vidseg; choose another place for the output" in line
    assert tree_bytes(out) == {f"{name}/meta.json": b'{"schema": "notes"}'}


def test_a_context_replaces_only_a_context(work: Path, tmp_path: Path) -> None:
    features, mine = work / "features.zarr", tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.tex").write_text("words")
    for words in (("fit", features), ("update", tmp_path / "none", features, tmp_path / "none")):
        line = error_line(vidseg("context", *words, mine, check=3))
        assert "mine: was not written by vidseg; choose another place for the output" in line
    assert tree_bytes(mine) == {"thesis.tex": b"words"}
    model = context.fit(features, tmp_path / "model", PARAMS)
    context.fit(features, model, replace(PARAMS, clusters=2))
    assert context.describe(model)["tokens"] == 24


def test_a_bad_number_is_one_line_and_exit_code_2(work: Path, tmp_path: Path) -> None:
    features, matches = work / "features.zarr", work / "matches.zarr"
    sets = [f"--set={text}" for text in (*PLAIN, "segment.clusters=25")]
    line = error_line(vidseg("segment", features, matches, tmp_path / "out", *sets, check=2))
    assert "segment.clusters is 25, but there are only 24 tokens" in line
    assert not (tmp_path / "out").exists()

"""Joined real clips, through all stages: with cuts and a restart each shot is what a run of its frames alone is."""

from __future__ import annotations

import itertools
import shutil
import signal
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from pipeline.media.frame_source import FrameRange
from pipeline.media.resize import resize_frame
from pipeline.media.video import open_source, write_video
from pipeline.stores.schemas import COARSE, LABELS
from pipeline.stores.store import open_store
from stages import correspond, extract, ingest, segment, upsample
from stages.common.settings import load
from tests.support import killing
from tests.support.commands import tree_bytes
from tests.support.params import PLAIN

CLIPS = ("clips/dog_walk.mp4", "clips/highway_drive.mp4", "davis/blackswan/frames")
#: Frames of a shot: whole passes of the encoder, so that each is computed with the same others.
LENGTH = 8
SETTINGS = (
    *PLAIN, "upsample.method=bilinear", "ingest.size=64x128", "diffusion.batch=4", "segment.clusters=3",
    "segment.restarts=2", "segment.window=3", "segment.vote=forward", "segment.neighbors=3",
)  # fmt: skip
BIRTHS = (
    "segment.births=distance", "segment.birth_tokens=2", "segment.birth_frames=2", "segment.birth_factor=1",
    "segment.birth_quantile=0.3",
)  # fmt: skip


@dataclass(frozen=True)
class Film:
    """A video of several shots.

    Attributes:
        model: folder of a tiny model.
        work: for the results.
    """

    file: Path
    model: Path
    work: Path

    @property
    def cuts(self) -> list[int]:
        total = sum(1 for _ in open_source(self.file).frames())
        return list(range(LENGTH, total, LENGTH))

    def run(self, name: str, *sets: str) -> Path:
        """All stages up to upsample; returns the folder of their stores. What is there and fits is used again."""
        out, loaded = self.work / name, load(sets=(*SETTINGS, f"backbone.path={self.model}", *sets))
        shared = loaded["diffusion"], loaded["backbone"]
        clip = ingest.run(self.file, out, loaded["ingest"])
        features = extract.run(clip, out, loaded["extract"], *shared)
        matches = correspond.run(features, out, loaded["correspond"])
        coarse = segment.run(features, matches, out, loaded["segment"])
        upsample.run(clip, out / "latents.zarr", coarse, out, loaded["upsample"], *shared)
        return out


@pytest.fixture(scope="module")
def film(
    request: pytest.FixtureRequest, shared_data: Path, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Film:
    """Three clips, or as many as the test asks for."""
    count = getattr(request, "param", 3)
    sources = [open_source(shared_data / clip).frames(FrameRange(0, LENGTH)) for clip in CLIPS[:count]]
    frames = [resize_frame(frame.image, (96, 160)) for frame in itertools.chain(*sources)]
    work = tmp_path_factory.mktemp("film")
    return Film(write_video(work / "film.mp4", frames, 25), tiny_model, work)


@pytest.mark.parametrize(
    "film", [pytest.param(2, marks=pytest.mark.slow), 3], indirect=True, ids=["two-clips", "three-clips"]
)
@pytest.mark.parametrize("births", [(), BIRTHS], ids=["no-births", "births"])
def test_each_shot_has_the_labels_of_a_run_of_its_frames_alone(film: Film, births: tuple[str, ...]) -> None:
    whole = film.run("whole", "ingest.cuts=detect", "segment.after_cut=restart", *births)
    labels, coarse = open_store(whole / "labels.zarr", LABELS), open_store(whole / "coarse.zarr", COARSE)
    starts = [0, *film.cuts]
    offsets = []
    for start in starts:
        alone = film.run(f"{start}", f"ingest.frames={start}:{start + LENGTH}", "segment.after_cut=restart", *births)
        expected = open_store(alone / "coarse.zarr", COARSE).read("refined").astype(int)
        found = coarse.read("refined", start, start + LENGTH).astype(int)
        offsets.append(int(found.min() - expected.min()))
        np.testing.assert_array_equal(found, expected + offsets[-1])
        pixels = open_store(alone / "labels.zarr", LABELS).read("labels").astype(int)
        np.testing.assert_array_equal(labels.read("labels", start, start + LENGTH), pixels + offsets[-1])
    assert sorted(set(offsets)) == offsets
    assert (offsets == [3 * number for number in range(len(starts))]) == (births == ())  # else some are born between


def test_features_do_not_know_the_cuts_and_what_follows_is_made_again(film: Film) -> None:
    """In one folder: none, found by itself, listed; what is listed alike is used again."""
    made = film.run("one", "ingest.cuts=none")

    def written(store: str) -> int:
        return (made / store / "zarr.json").stat().st_mtime_ns

    features, none = written("features.zarr"), tree_bytes(made)
    found = tree_bytes(film.run("one", "ingest.cuts=detect"))
    matches = written("matches.zarr")
    assert tree_bytes(film.run("one", f"ingest.cuts={film.cuts}")) == found
    assert (written("features.zarr"), written("matches.zarr")) == (features, matches)
    stores = {name.split("/")[0] for name in none if none[name] != found[name]}
    assert {"cuts", "matches.zarr"} <= stores
    assert stores <= {"cuts", "matches.zarr", "coarse.zarr", "context", "labels.zarr"}


@pytest.mark.slow
@pytest.mark.parametrize("after_cut", ["continue", "restart"])
def test_killed_with_cuts_and_births_and_run_again_gives_the_same_bytes(film: Film, after_cut: str) -> None:
    made = film.run("killed", "ingest.cuts=detect", *BIRTHS)
    sets = [*SETTINGS, f"segment.after_cut={after_cut}", "segment.memory=prototypes:5", *BIRTHS]
    given = [part for one in sets for part in ("--set", one)]
    out, log = film.work / f"out-{after_cut}", film.work / f"log-{after_cut}"
    commands = {
        "ingest": ["ingest", film.file, out, "--set", "ingest.cuts=detect", *given],
        "correspond": ["correspond", made / "features.zarr", out, *given],
        "segment": ["segment", made / "features.zarr", made / "matches.zarr", out, *given],
    }
    for command in ([str(word) for word in words] for words in commands.values()):
        whole = killing.run(command, out, log)
        assert whole.code == 0, whole.output
        expected = tree_bytes(out)
        last = whole.until_the_final_rename
        for operation in range(1, last + 1, max(1, last // 5)):
            shutil.rmtree(out)
            assert killing.run(command, out, log, killing.Kill(operation)).code == -signal.SIGKILL
            assert killing.run(command, out, log).code == 0
            assert tree_bytes(out) == expected, (command[0], operation)
        shutil.rmtree(out)

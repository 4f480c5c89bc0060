"""Processes that are really killed, files that are really damaged, disks that are really full."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import DataError, ResourceError
from pipeline.features import micro_batches
from pipeline.parameters import CorrespondParams
from pipeline.stores.schemas import COARSE, LABELS, ArraySpec
from pipeline.stores.store import open_store
from pipeline.stores.writer import StoreWriter
from stages import correspond
from stages.common import backbones
from tests.support import killing, yaml
from tests.support.commands import error_line, tree_bytes, vidseg, write_frames, write_labels
from tests.support.feature_store import make_features

STAGES = ("ingest", "extract", "correspond", "segment", "upsample", "evaluate", "render", "summarize")
PARAMS = {
    "ingest": {"size": "native"},
    "diffusion": {"batch": 2},
    "extract": {"shard": 2},
    "segment": {"clusters": 2, "window": 2},
    "upsample": {"method": "modulation", "batch": 4},
    "evaluate": {"windows": [2]},
}


@dataclass
class Chain:
    """All stages of one small clip: `commands` make what lies in `folder/<stage>`."""

    folder: Path
    source: Path
    model: Path
    made: dict[str, dict[str, bytes]] = field(default_factory=dict)
    ended: dict[str, killing.Ended] = field(default_factory=dict)

    def command(self, stage: str, out: Path, inputs: Path | None = None) -> list[str]:
        """`vidseg STAGE ...` that reads what the stages before made below `inputs` and writes into `out`."""
        at = inputs or self.folder
        clip, latents = at / "ingest/clip.zarr", at / "extract/latents.zarr"
        features, coarse = at / "extract/features.zarr", at / "segment/coarse.zarr"
        labels, truth = at / "upsample/labels.zarr", at / "ingest/truth.zarr"
        paths: dict[str, list[object]] = {
            "ingest": [self.source / "frames", out, "--ground-truth", self.source / "labels"],
            "extract": [clip, out],
            "correspond": [features, out],
            "segment": [features, at / "correspond/matches.zarr", out],
            "upsample": [clip, latents, coarse, out],
            "evaluate": [labels, truth, out],
            "render": [clip, labels, out, "--features", features, "--coarse", coarse],
            "summarize": [at / "evaluate", out],
        }
        params = [] if stage == "summarize" else ["--params", self.source / "params.yaml"]
        return [stage, *map(str, paths[stage] + params)]

    def made_by(self, stage: str) -> dict[str, bytes]:
        """What an undisturbed run of a stage leaves; made in this process, when first asked for."""
        if stage not in self.made:
            for earlier in STAGES[: STAGES.index(stage)]:
                self.made_by(earlier)
            vidseg(*self.command(stage, self.folder / stage))
            self.made[stage] = tree_bytes(self.folder / stage)
        return self.made[stage]

    def undisturbed(self, stage: str, out: Path, log: Path) -> killing.Ended:
        """How a process ends that nobody disturbs, and that it makes the right bytes; run when first asked for."""
        if stage not in self.ended:
            expected = self.made_by(stage)
            self.ended[stage] = killing.run(self.command(stage, out), out, log)
            assert self.ended[stage].code == 0, self.ended[stage].output
            assert tree_bytes(out) == expected
            shutil.rmtree(out)
        return self.ended[stage]


@pytest.fixture(scope="module")
def chain(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Chain:
    """Six frames of two textures with ground truth, at 64x64; finer ones would take long to pack into pictures."""
    source = tmp_path_factory.mktemp("source")
    frames = (
        np.random.default_rng(0).integers(0, 99, (6, 16, 16, 3), dtype=np.uint8).repeat(4, axis=1).repeat(4, axis=2)
    )
    frames[:, :, 32:] += 120
    labels = np.zeros((6, 64, 64), np.uint8)
    labels[:, :, 32:] = 1
    write_frames(source / "frames", frames)
    write_labels(source / "labels", labels)
    (source / "params.yaml").write_text(yaml.safe_dump({**PARAMS, "backbone": {"path": str(tiny_model)}}))
    return Chain(tmp_path_factory.mktemp("made"), source, tiny_model)


def finished(folder: Path) -> dict[str, bytes]:
    """What lies at final places: all but scratch folders and the hidden files that are about to be renamed."""
    return {
        name: content
        for name, content in tree_bytes(folder).items()
        if "tmp" not in Path(name).parts and ".partial" not in name
    }


def assert_nothing_half_written(out: Path, expected: dict[str, bytes]) -> None:
    for name, content in finished(out).items():
        assert content == expected[name], f"{name} is half-written"


# Killed -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stage", "kills"),
    [(stage, 2) for stage in STAGES]
    + [pytest.param(stage, 10, marks=pytest.mark.slow, id=f"{stage}-often") for stage in STAGES],
)
def test_killed_and_run_again_gives_the_same_bytes(chain: Chain, tmp_path: Path, stage: str, kills: int) -> None:
    expected = chain.made_by(stage)
    out, log = tmp_path / "out", tmp_path / "log"
    command = chain.command(stage, out)
    undisturbed = chain.undisturbed(stage, out, log)
    draw = random.Random(f"{stage} {kills}")
    counted = 0
    while counted < kills:
        shutil.rmtree(out, ignore_errors=True)
        operation = draw.randint(1, undisturbed.until_the_final_rename)
        # A stage that writes for a millisecond would outlive almost every longer delay, and the kill not count.
        delay = draw.uniform(0, min(0.02, undisturbed.seconds_left(operation))) * (counted % 2)
        kill = killing.Kill(operation, delay)
        died = killing.run(command, out, log, kill)
        assert died.code in ((-signal.SIGKILL,) if not kill.delay else (-signal.SIGKILL, 0)), died.output
        assert_nothing_half_written(out, expected)
        late = finished(out) == expected  # the signal came after the final rename: only scratch may be left
        counted += not late
        again = killing.run(command, out, log)
        assert again.code == 0, f"{kill}: {again.output}"
        assert (finished(out) if late else tree_bytes(out)) == expected, kill


BIRTHS = {"births": "distance", "birth_reach": 1, "birth_tokens": 3, "birth_frames": 2}


@pytest.mark.slow
@pytest.mark.parametrize("values", [BIRTHS, {"init": "mask", "direction": "both"}], ids=["births", "masks"])
def test_killed_with_more_than_frame_1_and_run_again_gives_the_same_bytes(
    tmp_path: Path, values: dict[str, object]
) -> None:
    made, out, log = tmp_path / "made", tmp_path / "out", tmp_path / "log"
    correspond.run(make_features(made, enters=6), made, CorrespondParams())
    masks = np.zeros((12, 16, 24), np.uint8)
    masks[:, :, 12:], masks[8, :8] = 1, 2
    write_labels(made / "seed", masks)
    (made / "seed" / "seed.json").write_text('{"mask": null, "masks": {"3": "00003.png", "8": "00008.png"}}')
    values = {"clusters": 4, "window": 5, "encoder_weight": 0, "memory": "prototypes:3", **values}
    sets = [part for key, value in values.items() for part in ("--set", f"segment.{key}={value}")]
    stores = [str(made / name) for name in ("features.zarr", "matches.zarr")]
    command = ["segment", *stores, str(out), "--seed", str(made / "seed"), *sets]
    whole = killing.run(command, out, log)
    assert whole.code == 0, whole.output
    expected = tree_bytes(out)
    numbered = open_store(out / "coarse.zarr", COARSE).attrs["numbering"]
    assert numbered["births"] if "births" in values else numbered["labels"] == [0, 1, 2]
    last = whole.until_the_final_rename
    for operation in range(1, last + 1, max(1, last // 6)):
        shutil.rmtree(out)
        assert killing.run(command, out, log, killing.Kill(operation)).code == -signal.SIGKILL
        assert_nothing_half_written(out, expected)
        assert killing.run(command, out, log).code == 0
        assert tree_bytes(out) == expected, operation


def test_killed_while_it_replaces_an_earlier_result(chain: Chain, tmp_path: Path) -> None:
    """At every single step of the replacement: there is the old result, the new one, or none."""
    expected = chain.made_by("correspond")
    out, log = tmp_path / "out", tmp_path / "log"
    command = chain.command("correspond", out)
    earlier = [*command, "--set", "correspond.max_squared_distance=3"]
    assert killing.run(earlier, out, log).code == 0
    old = tree_bytes(out)
    changes = killing.run(command, out, log).changes
    last = len(changes)
    for operation in range(last - changes[::-1].index("os.rename") - 2, last + 1):
        shutil.rmtree(out)
        for name, content in old.items():
            (out / name).parent.mkdir(parents=True, exist_ok=True)
            (out / name).write_bytes(content)
        assert killing.run(command, out, log, killing.Kill(operation)).code == -signal.SIGKILL
        assert finished(out) in (old, expected, {})
        assert killing.run(command, out, log).code == 0
        assert finished(out) == expected


@pytest.mark.parametrize("stage", STAGES)
def test_interrupted_and_run_again_gives_the_same_bytes(chain: Chain, tmp_path: Path, stage: str) -> None:
    """SIGINT in the middle of writing, and just before the final rename."""
    expected = chain.made_by(stage)
    out, log = tmp_path / "out", tmp_path / "log"
    command = chain.command(stage, out)
    last = chain.undisturbed(stage, out, log).until_the_final_rename
    for operation in {(last + 1) // 2, last}:
        shutil.rmtree(out, ignore_errors=True)
        stopped = killing.run(command, out, log, killing.Kill(operation, signal=signal.SIGINT))
        assert stopped.code == 130, stopped.output
        assert stopped.output.splitlines()[-1] == "interrupted; run the same command again to continue"
        assert "Traceback" not in stopped.output
        assert_nothing_half_written(out, expected)
        again = killing.run(command, out, log)
        assert again.code == 0, again.output
        assert tree_bytes(out) == expected, operation
        if stage == "extract" and operation < last:
            assert "extract: continuing at frame" in again.output


# Damaged stores ---------------------------------------------------------------------------------------------


def shard(store: Path) -> Path:
    return store / "matching/c.1.0.0"


def cut(store: Path) -> None:
    shard(store).write_bytes(shard(store).read_bytes()[:100])


def empty(store: Path) -> None:
    shard(store).write_bytes(b"")


def flip(store: Path) -> None:
    content = bytearray(shard(store).read_bytes())
    content[len(content) // 2] ^= 1
    shard(store).write_bytes(content)


def set_attr(name: str, value: object) -> Callable[[Path], None]:
    def damage(store: Path) -> None:
        zarr.open_group(store, mode="r+").attrs[name] = value

    return damage


def drop_attr(name: str) -> Callable[[Path], None]:
    def damage(store: Path) -> None:
        del zarr.open_group(store, mode="r+").attrs[name]

    return damage


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (cut, "array 'matching' is damaged in shard 1 (c.1.0.0: "),
        (flip, "array 'matching' is damaged in shard 1 (c.1.0.0: "),
        (empty, "array 'matching' lacks 1 of its shards (first: 1)"),
        (lambda store: shard(store).unlink(), "array 'matching' lacks 1 of its shards (first: 1)"),
        (lambda store: shutil.rmtree(store / "matching"), "has no array 'matching'"),
        (lambda store: (store / "matching/zarr.json").write_text("{"), "the description of an array is damaged"),
        (lambda store: (store / "zarr.json").write_text("{"), "not a Zarr store"),
        (lambda store: (store / "zarr.json").unlink(), "not a Zarr store"),
        (drop_attr("complete"), "incomplete, its stage was interrupted"),
        (drop_attr("fingerprint"), "has no attribute 'fingerprint'"),
        (set_attr("schema_version", 0), "schema version 0, this program reads 1"),
        (set_attr("schema", "coarse"), "holds 'coarse', expected 'features'"),
    ],
)
def test_a_damaged_store_is_named(chain: Chain, tmp_path: Path, damage: Callable[[Path], None], message: str) -> None:
    chain.made_by("extract")
    store = tmp_path / "features.zarr"
    shutil.copytree(chain.folder / "extract/features.zarr", store)
    damage(store)
    line = error_line(vidseg("correspond", store, tmp_path / "out", check=3))
    assert f"{store}: {message}" in line
    assert "`vidseg extract`" in line
    assert not finished(tmp_path / "out")


@pytest.fixture(scope="module")
def small_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    specs = {"labels": ArraySpec((4, 8, 8), "uint8", shard=2)}
    path = tmp_path_factory.mktemp("store") / "labels.zarr"
    writer = StoreWriter(path, path.parent / "tmp", LABELS, "m", specs, params={})
    writer.write("labels", 0, np.random.default_rng(0).integers(0, 9, (4, 8, 8), dtype=np.uint8))
    return writer.commit()


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_no_damage_of_a_shard_gives_wrong_labels(small_store: Path, data: st.DataObject) -> None:
    """Any byte changed, any end cut off, anything appended: an error, never other values."""
    file = small_store / "labels/c.1.0.0"
    whole = file.read_bytes()
    position = data.draw(st.integers(0, len(whole) - 1))
    changed = bytes([whole[position] ^ data.draw(st.integers(1, 255))])
    damaged = data.draw(
        st.sampled_from([whole[:position], whole[:position] + changed + whole[position + 1 :], whole + changed])
    )
    file.write_bytes(damaged)
    try:
        with pytest.raises(DataError, match="shard"):
            open_store(small_store, LABELS).read("labels")
    finally:
        file.write_bytes(whole)


def empty_shard(store: Path) -> None:
    (store / "aggregated/c.0.0.0").write_bytes(b"")


def cut_group(store: Path) -> None:
    (store / "zarr.json").write_bytes(b"")


@pytest.mark.parametrize("damage", [empty_shard, cut, flip, cut_group])
def test_what_a_lost_machine_left_damaged_is_made_again(
    chain: Chain, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    """Files that were written but never reached the disk: the names are there, the content is not."""
    expected = chain.made_by("extract")
    out, log = tmp_path / "out", tmp_path / "log"
    command = chain.command("extract", out)
    whole = chain.undisturbed("extract", out, log)
    killing.run(command, out, log, killing.Kill(whole.until_the_final_rename - 3))
    (store,) = out.glob("tmp/*/features.zarr")
    assert shard(store).is_file()
    damage(store)
    vidseg(*command)
    assert tree_bytes(out) == expected


# Full and read-only disks -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Disk:
    """A file system of its own."""

    folder: Path

    def leave(self, free: int) -> None:
        """Fill the disk so that only that many bytes are free."""
        filler = self.folder / "filler"
        filler.unlink(missing_ok=True)
        available = os.statvfs(self.folder)
        with filler.open("wb") as stream:
            os.posix_fallocate(stream.fileno(), 0, available.f_bavail * available.f_frsize - free)

    def make_read_only(self) -> None:
        subprocess.run(["mount", "-o", "remount,ro", self.folder], check=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """A disk of 16 MB in memory; skips where it cannot be mounted."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", folder], capture_output=True, text=True
    )  # fmt: skip
    if mount.returncode:
        pytest.skip(f"needs to mount a small disk: {mount.stderr.strip()}")
    yield Disk(folder)
    subprocess.run(["umount", folder], check=True)


def disk_bytes(files: dict[str, bytes]) -> int:
    return sum(-(-len(content) // 4096) * 4096 for content in files.values())


@pytest.mark.parametrize("stage", STAGES)
def test_a_full_disk(chain: Chain, disk: Disk, stage: str) -> None:
    expected = chain.made_by(stage)
    out = disk.folder / "out"
    disk.leave(disk_bytes(expected) * random.Random(stage).randint(1, 9) // 10 // 4096 * 4096)
    line = error_line(vidseg(*chain.command(stage, out), check=5))
    assert "disk full while writing" in line
    assert_nothing_half_written(out, expected)
    (disk.folder / "filler").unlink()
    vidseg(*chain.command(stage, out))
    assert tree_bytes(out) == expected


@pytest.mark.parametrize("stage", STAGES)
def test_a_folder_that_cannot_be_written(chain: Chain, disk: Disk, stage: str) -> None:
    chain.made_by(stage)
    disk.make_read_only()
    line = error_line(vidseg(*chain.command(stage, disk.folder / "out"), check=5))
    assert str(disk.folder) in line and "cannot be written" in line


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere; see the test of a read-only disk")
def test_a_folder_that_is_not_ours_to_write(chain: Chain, tmp_path: Path, stage: str) -> None:
    chain.made_by(stage)
    (tmp_path / "theirs").mkdir(mode=0o555)
    line = error_line(vidseg(*chain.command(stage, tmp_path / "theirs" / "out"), check=5))
    assert str(tmp_path / "theirs") in line and "cannot be written" in line


@pytest.mark.parametrize("stage", STAGES)
def test_a_file_where_a_folder_should_be(chain: Chain, tmp_path: Path, stage: str) -> None:
    chain.made_by(stage)
    (tmp_path / "file").write_text("mine")
    line = error_line(vidseg(*chain.command(stage, tmp_path / "file" / "out"), check=5))
    assert str(tmp_path / "file") in line and "cannot be written" in line


def test_read_only_inputs_and_wrong_clocks_do_not_matter(chain: Chain, disk: Disk, tmp_path: Path) -> None:
    """Inputs on a read-only disk, from the past and from the future."""
    stages = [stage for stage in STAGES if stage not in ("ingest", "summarize")]
    inputs = disk.folder / "made"
    for stage in ("ingest", *stages):
        chain.made_by(stage)
        shutil.copytree(chain.folder / stage, inputs / stage)
    for number, file in enumerate(sorted(inputs.rglob("*"))):
        os.utime(file, (4e9, 4e9) if number % 2 else (0, 0))
    disk.make_read_only()
    for stage in stages:
        vidseg(*chain.command(stage, tmp_path / stage, inputs))
        assert tree_bytes(tmp_path / stage) == chain.made_by(stage), stage


# Memory of the GPU ------------------------------------------------------------------------------------------


class SmallMemory:
    """A backbone, a step of it or the step's variants, on a device that holds only so many samples per pass."""

    def __init__(self, backbone: Any, most: int) -> None:
        self._backbone, self._most = backbone, most
        self.modulated = getattr(backbone, "modulated", ())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backbone, name)

    def denoise(self, latents: torch.Tensor, *rest: Any, **options: Any) -> Any:
        self._hold(latents)
        return self._backbone.denoise(latents, *rest, **options)

    def denoise_repeatably(self, latents: torch.Tensor, *rest: Any, **options: Any) -> Any:
        self._hold(latents)
        result = self._backbone.denoise_repeatably(latents, *rest, **options)
        return replace(result, repeatable=SmallMemory(result.repeatable, self._most))

    def variants(self, frames: Any) -> Any:
        return SmallMemory(self._backbone.variants(frames), self._most)

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        self._hold(latents)
        return self._backbone.decode(latents)

    def _hold(self, latents: torch.Tensor) -> None:
        if len(latents) > self._most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


@pytest.mark.parametrize(
    ("stage", "sizes", "most", "message"),
    [
        ("extract", {"diffusion.batch": 6}, 3, "with diffusion.batch = 6; what fits: --set diffusion.batch=3"),
        ("extract", {"diffusion.batch": 6}, 2, "with diffusion.batch = 6; what fits: --set diffusion.batch=1"),
        (
            "extract",
            {"diffusion.batch": 2},
            0,
            "with diffusion.batch = 2, even with --set diffusion.batch=1; lower ingest.size",
        ),
        (
            "upsample",
            {"upsample.batch": 16, "diffusion.batch": 2},
            4,
            "with upsample.batch = 16, diffusion.batch = 2; what fits: --set upsample.batch=4",
        ),
        (
            "upsample",
            {"upsample.batch": 4, "diffusion.batch": 2},
            1,
            "even with --set upsample.batch=1 --set diffusion.batch=1; lower ingest.size",
        ),
    ],
)
def test_out_of_memory_names_what_fits(
    chain: Chain,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stage: str,
    sizes: dict[str, int],
    most: int,
    message: str,
) -> None:
    chain.made_by("segment")
    real = backbones.load_backbone
    monkeypatch.setattr(backbones, "load_backbone", lambda *given: SmallMemory(real(*given), most))
    command = chain.command(stage, tmp_path / "out")
    given = [f"--set={name}={value}" for name, value in {"extract.shard": 6, "upsample.mode": "exact", **sizes}.items()]
    line = error_line(vidseg(*command, *given, check=5))
    assert line.startswith("error: out of memory with ") and message in line
    assert not (tmp_path / "out").exists() or not tree_bytes(tmp_path / "out")
    if "what fits: " in line:
        advice = line.partition("what fits: ")[2].split()
        vidseg(*command, *given, *advice)


def test_sizes_are_lowered_one_after_the_other() -> None:
    tried: list[tuple[int, ...]] = []

    def work(sizes: micro_batches.Sizes) -> None:
        tried.append(tuple(sizes.values()))
        if tried[-1] != (1, 3):
            raise MemoryError

    with pytest.raises(ResourceError, match="with a = 4, b = 6; what fits: --set a=1 --set b=3"):
        micro_batches.compute(work, {"a": 4, "b": 6})
    assert tried == [(4, 6), (2, 6), (1, 6), (1, 3)]


def test_other_errors_stay_what_they_are() -> None:
    def work(sizes: micro_batches.Sizes) -> None:
        raise RuntimeError("shapes do not fit")

    with pytest.raises(RuntimeError, match="shapes do not fit"):
        micro_batches.compute(work, {"a": 4})

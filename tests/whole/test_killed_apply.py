"""`vidseg apply` killed by SIGKILL after each of its chunks and while it upsamples, and run again: equal bytes.

One kill, with boxes and without, is tested with the stage.
"""

from __future__ import annotations

import shutil
import signal
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support import killing
from tests.support.commands import tree_bytes
from tests.support.concepts import Stores, make_stores

pytestmark = pytest.mark.slow

#: Four chunks, and two shards of labels.
FRAMES, CHUNKS = 16, 4
STAGE = (
    "apply @clip/clip.zarr @clip/latents.zarr @out --concept @concept --tracks @clip/tracks.zarr "
    "--set apply.timesteps=[100,99] --set apply.chunk=6 --set apply.overlap=2 --set maps.cross_blocks=[3,4,5,6,7] "
    "--set guidance.lambda_track=0.5 --set guidance.iterations=1 --set guidance.vote.window=3"
)
GUIDED = "--set apply.upsample=guided"
MODULATION = (
    "--set apply.upsample=modulation --set upsample.mode=exact --set upsample.modulate_step=24 "
    "--set upsample.parity.blend_last_step=24 --set diffusion.start_step=24"
)


@dataclass(frozen=True)
class Whole:
    """Runs of the stage in processes of their own, and the bytes that each upsampler leaves when nothing stops it."""

    stores: Stores
    bytes_of: dict[str, dict[str, bytes]]

    def run(self, upsample: str, kill: killing.Kill | None = None) -> killing.Ended:
        command = self.stores.words(f"{STAGE} {upsample} --set backbone.path={self.stores.model}")
        return killing.run(command, self.out, self.stores.folder / "log", kill)

    @property
    def out(self) -> Path:
        return self.stores.folder / "out"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Whole:
    made = Whole(make_stores(tmp_path_factory.mktemp("killed"), tiny_model, FRAMES), {})
    for upsample in (GUIDED, MODULATION):
        shutil.rmtree(made.out, ignore_errors=True)
        ended = made.run(upsample)
        assert ended.code == 0, ended.output
        made.bytes_of[upsample] = tree_bytes(made.out)
    return made


def run_again(whole: Whole, upsample: str) -> None:
    again = whole.run(upsample)
    assert again.code == 0, again.output
    assert tree_bytes(whole.out) == whole.bytes_of[upsample]


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_after_each_chunk(whole: Whole, chunk: int) -> None:
    """Just before the first byte of a chunk; those before it are kept."""
    shutil.rmtree(whole.out, ignore_errors=True)
    kill = killing.Kill(1, among=f"soft.zarr/initial/c.{chunk}")
    assert whole.run(GUIDED, kill).code == -signal.SIGKILL
    (maps,) = whole.out.glob("tmp/*/soft.zarr/maps")
    assert len(list(maps.glob("c.*"))) == chunk and not (whole.out / "soft.zarr").exists()
    run_again(whole, GUIDED)


@pytest.mark.parametrize("upsample", [GUIDED, MODULATION], ids=["guided", "modulation"])
@pytest.mark.parametrize("shard", [0, 1])
def test_while_labels_are_upsampled(whole: Whole, upsample: str, shard: int) -> None:
    """Just before a shard of labels is written: the maps lie at their place already, and stay as they are."""
    shutil.rmtree(whole.out, ignore_errors=True)
    kill = killing.Kill(1, among=f"labels.zarr/labels/c.{shard}")
    assert whole.run(upsample, kill).code == -signal.SIGKILL
    maps = (whole.out / "soft.zarr" / "zarr.json").stat().st_mtime_ns
    assert not (whole.out / "labels.zarr").exists()
    run_again(whole, upsample)
    assert (whole.out / "soft.zarr" / "zarr.json").stat().st_mtime_ns == maps

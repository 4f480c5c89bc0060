"""Data sets in the layouts they are published in, as lists of videos with their ground truth."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pipeline.datasets import camvid, cityscapes, davis, folders, vspw, youtube_vos
from pipeline.datasets.listing import Video


@dataclass(frozen=True)
class Adapter:
    """How one data set is read.

    Attributes:
        videos: (root, split) -> its videos in the data set's order, each checked when it is asked for.
        split: the usual one; None = all there is.
    """

    videos: Callable[[Path, str | None], Iterator[Video]]
    split: str | None


ADAPTERS = {
    "vspw": Adapter(vspw.videos, "val"),
    "cityscapes": Adapter(cityscapes.videos, "val"),
    "camvid": Adapter(camvid.videos, None),
    "davis2016": Adapter(partial(davis.videos, year=2016), "val"),
    "davis2017": Adapter(partial(davis.videos, year=2017), "val"),
    "youtube-vos": Adapter(partial(youtube_vos.videos, fps=youtube_vos.YOUTUBE_FPS), "valid"),
    "mose": Adapter(partial(youtube_vos.videos, fps=None), "valid"),
    "folders": Adapter(folders.videos, None),
}

"""All labels as one NumPy file, written a frame at a time."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np

from pipeline.export.labelled_clip import Advance, LabelledClip
from pipeline.media.pictures import VOID

#: Zip files hold a time; a fixed one lets equal labels give equal bytes.
_TIME = (1980, 1, 1, 0, 0, 0)


def write_npz(clip: LabelledClip, folder: Path, advance: Advance) -> None:
    """labels.npz for `np.load`.

    Its arrays: `labels` (F, H0, W0) u8 or u16, `ids` (k) with `names` (k) and `colors` (k, 3) u8, `frames` (F) names,
    `fps`, and `void`: the value of pixels in no segment, or in none that is chosen; -1 = there are none.
    """
    stored, ids, void = clip.labels.array("labels"), [segment.id for segment in clip.segments], clip.void
    dtype = np.dtype(np.uint16) if void is not None and void > VOID else np.dtype(stored.dtype)
    table = np.arange(65536) if void is None else np.full(65536, void)
    table[ids] = ids
    arrays = {
        "ids": np.array(ids, np.int64),
        "names": np.array([str(segment.name) for segment in clip.segments]),
        "colors": np.array([segment.color for segment in clip.segments], np.uint8).reshape(-1, 3),
        "frames": np.array(clip.frames),
        "fps": np.array(clip.pictures.fps),
        "void": np.array(-1 if void is None else void),
    }
    with zipfile.ZipFile(folder / "labels.npz", "w", zipfile.ZIP_DEFLATED) as file:
        for name, values in arrays.items():
            with file.open(zipfile.ZipInfo(f"{name}.npy", _TIME), "w") as stream:
                np.lib.format.write_array(stream, values, allow_pickle=False)
        entry = zipfile.ZipInfo("labels.npy", _TIME)
        entry.compress_type = zipfile.ZIP_DEFLATED
        with file.open(entry, "w", force_zip64=True) as stream:
            header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": stored.shape}
            np.lib.format.write_array_header_2_0(stream, header)
            for plane in clip.planes():
                stream.write(table[plane].astype(dtype).tobytes())
                advance(1)

"""Video, frame folder or dataset clip -> clip.zarr, truth.zarr, seed/, source/ and cuts/."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from pipeline.errors import DataError, UsageError
from pipeline.parameters import MOST_FPS, IngestParams
from stages.common import cli
from stages.common.layout import DATA, NAME, PATHS, Out, item_key, item_videos, place, video_name
from stages.common.printing import counted
from stages.common.resources import stage_version
from stages.common.settings import from_mapping, load

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import numpy as np

    from pipeline.media.frame_source import FrameRange, FrameSource, Notes, Reading
    from pipeline.stores.cuts import Cuts
    from pipeline.truth.annotations import Annotations
    from pipeline.truth.class_list import ClassList
    from pipeline.truth.mask_files import Masks

#: Cuts that are named, at most, when they are found.
MOST_LISTED = 12

STORES = ("clip.zarr", "truth.zarr", "seed", "source", "cuts")


@dataclass(frozen=True)
class _Scan:
    """What one pass over the frames tells: enough to write the store's template before the frames.

    Attributes:
        times: seconds after the source's first frame at which each is shown.
    """

    names: list[str]
    indices: list[int]
    times: list[float]
    digest: str
    cuts: Cuts


def run(
    video: Path,
    out: Out,
    params: IngestParams,
    *,
    ground_truth: Path | None = None,
    classes: Path | None = None,
    mask: Masks | None = None,
    fps: float | None = None,
    recorded: Path | None = None,
) -> Path:
    """Bring one video to model size, with its ground truth and its masks where there are any.

    The source is decoded twice: memory stays constant, and nothing is written of one that turns out to be
    damaged. Everything is checked before anything is written.

    Args:
        ground_truth: folder of label PNGs named like the frames; one that holds only a README means "none".
        classes: its class list (JSON, `FILE#NAME` for one of several); default `classes.json` in the folder.
        mask: label PNG of the first frame, folder of label PNGs named like frames, or label PNGs by frame of the
            source; wins over `seed: truth`.
        fps: this video's rate; wins over `params.fps`.
        recorded: what source/ says of the video's place; default: its absolute path.

    Returns:
        the path of clip.zarr; truth.zarr, seed/, source/ and cuts/ lie beside it.

    Raises:
        DataError: the source or what belongs to it is damaged or does not fit, or files of others are in the way.
        UsageError: `cuts` lists a frame where the clip cannot be cut.
    """
    from pipeline.media.frame_source import FrameRange, square_size
    from pipeline.media.resize import model_size
    from pipeline.media.video import open_source
    from pipeline.stores.clip_source import ClipSource, write_source
    from pipeline.stores.cuts import write_cuts

    if isinstance(out, Path) and out.exists() and not out.is_dir():
        raise UsageError(f"{out}: is a file; give a folder for the outputs")
    _check_replaceable(out)
    indices = FrameRange.parse(params.frames, params.stride)
    source = open_source(video, fps or params.fps, reading_of(params))
    size = model_size(*square_size(source), params.size)
    scan = _scan(source, indices, size, params)
    _tell(video, source.notes)
    _say_where_it_is_cut(video, scan, params)
    masks = _masks(mask, scan)
    listed = _classes(classes, ground_truth) or _colours(ground_truth, list(masks.values()))
    truth = _annotations(ground_truth, scan.names, source.size, listed)
    seed = _seed(masks, truth, params.seed, scan.names, listed)
    for position, read in seed.items():
        _check_mask(read(), source.size, size, masks.get(position))
    path = _write_clip(out, source, indices, size, scan)
    _write_truth(out, truth, scan.names)
    _write_seed(out, seed, scan)
    origin = ClipSource(recorded or video.resolve(), source.fps / indices.stride, reading_of(params))
    write_source(out / "source", origin, out / "tmp" / f"source-{scan.digest[:32]}" / "source")
    write_cuts(out / "cuts", scan.cuts, scan.indices, out / "tmp" / f"cuts-{scan.digest[:32]}" / "cuts")
    return path


def _check_replaceable(out: Out) -> None:
    """Refuse to replace what somebody else put where the outputs go."""
    from pipeline.files import Mark, refuse_foreign
    from pipeline.stores import clip_source, cuts
    from pipeline.stores.schemas import CLIP, TRUTH

    seed = Mark("seed.json", holds=frozenset({"seed.json", "mask.png", "mask_*.png"}))
    for name, mark in (
        ("clip.zarr", CLIP.mark), ("truth.zarr", TRUTH.mark), ("seed", seed), ("source", clip_source.MARK),
        ("cuts", cuts.MARK),
    ):  # fmt: skip
        refuse_foreign(out / name, mark)


def reading_of(params: IngestParams) -> Reading:
    """How the parameters say that a file is read."""
    from pipeline.media.frame_source import Reading

    return Reading(params.stream, params.damaged, params.hdr, params.deinterlace)


def _tell(video: Path, notes: Notes) -> None:
    """Say what is done with a video that is not taken just as it is."""
    for note in notes.found:
        (cli.warn if note.warns else cli.note)(f"{video}: {note.text}")


def count_frames(video: Path, source: FrameSource, params: IngestParams) -> int:
    """How many frames the parameters select, with what there is to say of the video; decodes it: only that tells."""
    from pipeline.media.frame_source import FrameRange

    count = sum(1 for _ in source.frames(FrameRange.parse(params.frames, params.stride)))
    _tell(video, source.notes)
    return count


def _scan(source: FrameSource, indices: FrameRange, size: tuple[int, int], params: IngestParams) -> _Scan:
    import hashlib

    from pipeline.media.cut_detection import CutDetector
    from pipeline.media.resize import resize_frame
    from pipeline.stores.cuts import Cuts

    detector = CutDetector(params.cut_detector, params.cut_threshold) if params.cuts == "detect" else None
    names: list[str] = []
    numbers: list[int] = []
    times: list[float] = []
    digest = hashlib.sha256(str(size).encode())
    with cli.progress("scan", indices.count(source.expected)) as advance:
        for frame in source.frames(indices):
            names.append(frame.name)
            numbers.append(frame.index)
            times.append(round(frame.time, 6))
            image = resize_frame(frame.image, size)
            digest.update(image.tobytes())
            if detector is not None:
                detector.add(image)
            advance(1)
    if isinstance(params.cuts, str):
        cuts = Cuts(len(names), detector.cuts if detector is not None else ())
    else:
        cuts = Cuts.at(params.cuts, numbers)
    return _Scan(names, numbers, times, digest.hexdigest(), cuts)


def _say_where_it_is_cut(video: Path, scan: _Scan, params: IngestParams) -> None:
    """A line that lists the cuts that were found: a person may know better."""
    frames = [scan.indices[position] for position in scan.cuts.positions]
    if params.cuts == "detect" and frames:
        more = "" if len(frames) <= MOST_LISTED else f", ... ({len(frames)} in all)"
        listed = ", ".join(map(str, frames[:MOST_LISTED])) + more
        cli.note(f"{video}: cut at frame {listed}; ingest.cuts=none or a list of frames says otherwise")


def _classes(classes: Path | None, ground_truth: Path | None) -> ClassList | None:
    from pipeline.truth.class_list import read_classes

    if classes is not None:
        return read_classes(classes, ground_truth)
    beside = ground_truth / "classes.json" if ground_truth is not None else None
    return read_classes(beside, ground_truth) if beside is not None and beside.is_file() else None


def _masks(masks: Masks | None, scan: _Scan) -> Mapping[int, Path]:
    """The files of masks by their frame's position in the clip."""
    from pipeline.truth.mask_files import find_masks

    if masks is None:
        return {}
    found = find_masks(masks, scan.names, scan.indices)
    if found.unused:
        named = ", ".join(file.name for file in found.unused[:3]) + (", ..." if len(found.unused) > 3 else "")
        cli.warn(f"{masks}: {counted(len(found.unused), 'mask')} of no frame of the clip will not be used: {named}")
    return found.files


def _colours(ground_truth: Path | None, masks: Sequence[Path]) -> ClassList | None:
    """What the colours of label maps without a class list stand for, said once."""
    from pipeline.media.pictures import label_maps
    from pipeline.truth.colours import classes_of_colours

    maps = label_maps(ground_truth).values() if ground_truth is not None and ground_truth.is_dir() else ()
    listed = classes_of_colours([*maps, *masks])
    if listed is not None:
        named = ", ".join(f"{entry.id} {entry.name}" for entry in listed.classes)
        cli.note(f"ingest: {masks[0] if masks else ground_truth}: colours without a class list; ids: {named}")
    return listed


def _annotations(
    folder: Path | None, names: list[str], size: tuple[int, int], classes: ClassList | None
) -> Annotations:
    from pipeline.truth.annotations import find_annotations, is_placeholder, no_annotations

    if folder is None or is_placeholder(folder):
        return no_annotations(size)
    return find_annotations(folder, names, size, classes)


def _seed(
    masks: Mapping[int, Path],
    truth: Annotations,
    rule: str,
    names: list[str],
    classes: ClassList | None,
) -> dict[int, Callable[[], np.ndarray]]:
    """What reads the masks (H0, W0), by position in the clip: one is held at a time."""
    from pipeline.truth.class_list import ClassList

    listed = classes or ClassList(())
    if masks or rule == "none":
        return {position: partial(listed.read, mask) for position, mask in masks.items()}
    if 0 not in truth.indices:
        raise DataError(
            f"ingest.seed: truth needs a ground-truth PNG of the first frame ('{names[0]}'); "
            "give --ground-truth or --mask, or start at an annotated frame (ingest.frames)"
        )
    return {0: lambda: truth.read(0, 1)[0]}


def _check_mask(seed: np.ndarray, frames: tuple[int, int], size: tuple[int, int], mask: Path | None) -> None:
    """Refuse a mask of another size than the frames; a line where labels are smaller than the tokens that carry them.

    Args:
        frames, size: (H, W) of the source's frames, and at model size.
    """
    from pipeline.media.pictures import VOID
    from pipeline.truth.masks import FEW, TOKEN, lost_labels, size_that_keeps

    if mask is not None and (seed == VOID).all():
        raise DataError(f"{mask}: the mask is void (255) everywhere; label at least one region")
    if seed.shape != frames:
        raise DataError(
            f"{mask}: the mask is {seed.shape[1]}x{seed.shape[0]} pixels, the frames are {frames[1]}x{frames[0]}"
        )
    if lost := lost_labels(seed, size):
        named = f"label {lost[0]} covers" if len(lost) == 1 else f"labels {', '.join(map(str, lost))} cover"
        keeps = size_that_keeps(seed, size)
        cli.warn(
            f"{mask or 'the first frame'}: {named} fewer than {FEW} tokens (of {TOKEN} pixels, at "
            f"{size[0]}x{size[1]}) and may be in no frame; "
            + (f"ingest.size={keeps} gives every label as many" if keeps else "crop the video around what is so small")
        )


def _write_clip(out: Out, source: FrameSource, indices: FrameRange, size: tuple[int, int], scan: _Scan) -> Path:
    from pipeline.media.resize import resize_frame
    from pipeline.stores.schemas import CLIP, ArraySpec
    from pipeline.stores.shard_buffer import ShardBuffer
    from pipeline.stores.store import fingerprint, is_current, open_store
    from pipeline.stores.writer import StoreWriter

    # Only what follows from the result: `frames: null` and `0:42` of 42 frames give the same bytes.
    stored = {"ingest": {"size": "{}x{}".format(*size), "stride": indices.stride}}
    mark = fingerprint("ingest", stage_version("ingest"), scan.digest, scan.names, scan.indices, source.size)
    path = out / "clip.zarr"
    # Nothing that is computed follows from the times: a clip of an earlier version gets them, and stays the same clip.
    times = {"times": scan.times} if source.timed else {}
    if is_current(path, CLIP, mark) and (made := open_store(path, CLIP)).params == stored:
        if made.attrs.get("times") == times.get("times"):
            return path
        cli.note(f"ingest: {path} is written again, with the times of frames as they are now; results stay valid")
    spec = ArraySpec((len(scan.names), *size, 3), "uint8")
    writer = StoreWriter(
        path,
        out / "tmp",
        CLIP,
        mark,
        {"frames": spec},
        params=stored,
        attrs={
            "names": scan.names,
            "source_size": list(source.size),
            "source_indices": scan.indices,
            **times,
        },
    )
    buffer = ShardBuffer(writer, spec.shard)
    with cli.progress("ingest", len(scan.names)) as advance:
        for frame in source.frames(indices):
            buffer.add({"frames": resize_frame(frame.image, size)[None]})
            advance(1)
    buffer.flush()
    return writer.commit()


def _write_truth(out: Out, truth: Annotations, names: list[str]) -> None:
    from pipeline.stores.schemas import TRUTH, ArraySpec
    from pipeline.stores.store import fingerprint, is_current
    from pipeline.stores.writer import StoreWriter
    from pipeline.truth.class_list import class_list_record

    attrs = {"indices": list(truth.indices), "names": names, **class_list_record(truth.listed)}
    mark = fingerprint("ingest", stage_version("ingest"), "truth", truth.digest, truth.size, attrs)
    if is_current(out / "truth.zarr", TRUTH, mark):
        return
    spec = ArraySpec((len(truth.files), *truth.size), truth.dtype)
    writer = StoreWriter(out / "truth.zarr", out / "tmp", TRUTH, mark, {"ground_truth": spec}, params={}, attrs=attrs)
    for shard in writer.missing():
        writer.write("ground_truth", shard.start, truth.read(shard.start, shard.stop))
    writer.commit()


def _write_seed(out: Out, masks: Mapping[int, Callable[[], np.ndarray]], scan: _Scan) -> None:
    import json

    from pipeline.files import replacing_folder
    from pipeline.media.pictures import write_label_png

    files = {place: "mask.png" if place == 0 else f"mask_{scan.indices[place]}.png" for place in masks}
    later = {str(scan.indices[place]): file for place, file in files.items() if place > 0}
    listing = {"mask": files.get(0), **({"masks": later} if later else {})}
    with replacing_folder(out / "seed", out / "tmp" / f"seed-{scan.digest[:32]}" / "seed") as made:
        for place, read in masks.items():
            write_label_png(made / files[place], read())
        (made / "seed.json").write_text(json.dumps(listing) + "\n")


#: What a video's entry in videos.yaml may hold. `dataset` names the registration that wrote it.
ENTRY_KEYS = frozenset({*PATHS, "name", "fps", "size", "cuts", "dataset", "videos"})


def run_item(item: str, params_file: Path | None, sets: list[str] | None) -> None:
    """Ingest every video of an item of videos.yaml."""
    params = load(params_file, sets or ())["ingest"]
    key = item_key(item)
    entries = item_videos(key)
    names = video_names(key, entries)
    _remove_stale(DATA / "ingest" / key, names)
    for name, entry in zip(names, entries, strict=True):
        path = Path(entry["path"])
        run(
            path,
            place("ingest", key, name),
            replace(params, size=entry.get("size", params.size), cuts=_cuts(key, entry, params)),
            ground_truth=_path(entry, "ground_truth"),
            classes=_path(entry, "classes"),
            mask=_path(entry, "mask"),
            fps=entry.get("fps"),
            recorded=path.resolve() if path.is_absolute() else path,  # relative: the same in every clone
        )


def _cuts(item: str, entry: dict[str, Any], params: IngestParams) -> str | tuple[int, ...]:
    """A video's own cuts, which win over `ingest.cuts`."""
    if "cuts" not in entry:
        return params.cuts
    where = {"ingest.cuts": f"videos.yaml, item '{item}'"}
    return cast("str | tuple[int, ...]", from_mapping("ingest", IngestParams, {"cuts": entry["cuts"]}, where).cuts)


def _path(entry: dict[str, Any], key: str) -> Path | None:
    from pipeline.truth.annotations import is_placeholder

    path = Path(entry[key]) if entry.get(key) is not None else None
    return None if path is not None and is_placeholder(path) else path


def video_names(key: str, entries: list[dict[str, Any]]) -> list[str | None]:
    """The sub-folders of an item's videos; [None] for an item of one video, which has none."""
    for entry in entries:
        unknown = sorted(map(str, set(entry) - ENTRY_KEYS))
        if unknown:
            raise UsageError(
                f"videos.yaml: item '{key}' has the unknown entry '{unknown[0]}'; "
                f"there are: {', '.join(sorted(ENTRY_KEYS))}"
            )
        fps = entry.get("fps")
        if fps is not None and not (isinstance(fps, int | float) and 0 < fps <= MOST_FPS):
            raise UsageError(f"videos.yaml: item '{key}': fps must be a number above 0, not {fps!r}")
    if len(entries) == 1:
        return [None]
    names = [video_name(entry) for entry in entries]
    for name in names:
        if not NAME.fullmatch(name) or name in (".", "..") or names.count(name) > 1:
            raise UsageError(
                f"videos.yaml: item '{key}' needs a `name` of its own for each video, of letters, digits, "
                f"'.', '_' and '-'; '{name}' is not"
            )
    return list(names)


def _remove_stale(folder: Path, names: list[str | None]) -> None:
    """Remove videos that the item no longer has; DVC does so by itself, by hand they would stay."""
    import shutil

    if names == [None]:
        return
    for store in STORES:
        for path in (folder / store).glob("*"):
            if path.name not in names:
                shutil.rmtree(path) if path.is_dir() else path.unlink()


app = cli.new_app("Bring a video to model size: VIDEO -> clip.zarr, truth.zarr, seed/, source/, cuts/.")


@app.command()
def main(
    video: Annotated[Path | None, typer.Argument(help="video file or folder of frames")] = None,
    out_dir: Annotated[
        Path | None, typer.Argument(help="folder for clip.zarr, truth.zarr, seed/, source/, cuts/")
    ] = None,
    ground_truth: Annotated[Path | None, typer.Option(help="folder of label PNGs named like the frames")] = None,
    classes: Annotated[
        Path | None, typer.Option(help="class list (JSON; FILE#NAME); default: classes.json in the folder")
    ] = None,
    mask: cli.MaskOption = None,
    params: cli.ParamsOption = None,
    set_: cli.SetOption = None,
    item: cli.ItemOption = None,
) -> None:
    """Bring a video to model size: VIDEO -> clip.zarr, truth.zarr, seed/, source/, cuts/.

    Example: vidseg ingest holiday.mp4 work --set ingest.size=256 --set ingest.frames=0:28
    """
    from pipeline.truth.mask_files import parse_masks

    if video is not None and out_dir is not None:
        settings, masks = load(params, set_ or ()), parse_masks(mask or ())
        run(video, out_dir, settings["ingest"], ground_truth=ground_truth, classes=classes, mask=masks)
    elif item is not None:
        cli.refuse_beside_item(
            {"VIDEO": video, "OUT_DIR": out_dir, "--ground-truth": ground_truth, "--classes": classes, "--mask": mask}
        )
        run_item(item, params, set_)
    else:
        raise UsageError("give VIDEO and OUT_DIR, or --item KEY")


if __name__ == "__main__":
    cli.run_app(app)

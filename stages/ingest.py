"""Video, frame folder or dataset clip -> clip.zarr, truth.zarr, seed/, source/ and cuts/."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.errors import UsageError
from pipeline.parameters import IngestParams
from stages.common import cli
from stages.common.layout import DATA, Out, item_key, place
from stages.common.printing import counted
from stages.common.resources import stage_version
from stages.common.settings import load
from stages.common.video_entries import video_entries

if TYPE_CHECKING:
    from pipeline.media.frame_source import FrameRange, FrameSource, Notes, Reading
    from pipeline.stores.clip_frames import ClipFrames
    from pipeline.stores.clip_source import ClipSource
    from pipeline.stores.cuts import Cuts
    from pipeline.truth.annotations import Annotations
    from pipeline.truth.given_labels import GivenLabels
    from pipeline.truth.mask_files import Masks

#: Cuts that are named, at most, when they are found.
MOST_LISTED = 12

STORES = ("clip.zarr", "truth.zarr", "seed", "source", "cuts")


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

    Nothing is written of a source that turns out to be damaged, and memory is bounded: a long one is decoded twice.
    Everything is checked before anything is written.

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
    from pipeline.media.frame_source import FrameRange
    from pipeline.media.video import open_source
    from pipeline.stores.clip_source import ClipSource

    if isinstance(out, Path) and out.exists() and not out.is_dir():
        raise UsageError(f"{out}: is a file; give a folder for the outputs")
    _check_replaceable(out)
    selected = FrameRange.parse(params.frames, params.stride)
    source = open_source(video, fps or params.fps, reading_of(params))
    clip, cuts = _scan(source, selected, params)
    _tell(video, source.notes)
    _say_where_it_is_cut(video, clip, cuts, params)
    given = _given_labels(ground_truth, classes, mask, clip, params)
    path = _write_clip(out, clip)
    _write_truth(out, given.truth, clip.names)
    origin = ClipSource(recorded or video.resolve(), source.fps / selected.stride, reading_of(params))
    _write_records(out, clip, cuts, given, origin)
    return path


def _check_replaceable(out: Out) -> None:
    """Refuse to replace what somebody else put where the outputs go."""
    from pipeline.files import refuse_foreign
    from pipeline.stores import clip_source, cuts, seed_folder
    from pipeline.stores.schemas import CLIP, TRUTH

    marks = (CLIP.mark, TRUTH.mark, seed_folder.MARK, clip_source.MARK, cuts.MARK)
    for name, mark in zip(STORES, marks, strict=True):
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


def _scan(source: FrameSource, selected: FrameRange, params: IngestParams) -> tuple[ClipFrames, Cuts]:
    """A first pass over the frames, with the cuts that it finds or that a person lists."""
    from pipeline.media.cut_detection import CutDetector
    from pipeline.media.frame_source import square_size
    from pipeline.media.resize import model_size
    from pipeline.stores.clip_frames import scan_frames
    from pipeline.stores.cuts import Cuts

    size = model_size(*square_size(source), params.size)
    detector = CutDetector(params.cut_detector, params.cut_threshold) if params.cuts == "detect" else None
    with cli.progress("scan", selected.count(source.expected)) as advance:
        clip = scan_frames(source, selected, size, advance, detector)
    if not isinstance(params.cuts, str):
        return clip, Cuts.at(params.cuts, clip.indices)
    return clip, Cuts(len(clip.names), () if detector is None else detector.cuts)


def _say_where_it_is_cut(video: Path, clip: ClipFrames, cuts: Cuts, params: IngestParams) -> None:
    """A line that lists the cuts that were found: a person may know better."""
    frames = [clip.indices[position] for position in cuts.positions]
    if params.cuts == "detect" and frames:
        more = "" if len(frames) <= MOST_LISTED else f", ... ({len(frames)} in all)"
        listed = ", ".join(map(str, frames[:MOST_LISTED])) + more
        cli.note(f"{video}: cut at frame {listed}; ingest.cuts=none or a list of frames says otherwise")


def _given_labels(
    ground_truth: Path | None, classes: Path | None, masks: Masks | None, clip: ClipFrames, params: IngestParams
) -> GivenLabels:
    """What a person says of the clip's pixels, checked, with what there is to say about it."""
    from pipeline.truth.given_labels import check_mask, find_given_labels

    frames = clip.source.size
    given = find_given_labels(ground_truth, classes, masks, params.seed, clip.names, clip.indices, frames)
    if given.unused:
        named = ", ".join(file.name for file in given.unused[:3]) + (", ..." if len(given.unused) > 3 else "")
        cli.warn(f"{masks}: {counted(len(given.unused), 'mask')} of no frame of the clip will not be used: {named}")
    if given.of_colours is not None:
        ids = ", ".join(f"{entry.id} {entry.name}" for entry in given.of_colours.classes)
        where = next(iter(given.masks.values()), ground_truth)
        cli.note(f"ingest: {where}: colours without a class list; ids: {ids}")
    for position, read in given.seed.items():
        if warning := check_mask(read(), given.masks.get(position), frames, clip.size):
            cli.warn(warning)
    return given


def _write_clip(out: Out, clip: ClipFrames) -> Path:
    from pipeline.stores.clip_frames import write_frames
    from pipeline.stores.schemas import CLIP
    from pipeline.stores.store import is_current, open_store

    path, version = out / "clip.zarr", stage_version("ingest")
    if is_current(path, CLIP, clip.fingerprint(version)) and (made := open_store(path, CLIP)).params == clip.params:
        if made.attrs.get("times") == clip.attrs.get("times"):
            return path
        cli.note(f"ingest: {path} is written again, with the times of frames as they are now; results stay valid")
    with cli.progress("ingest", len(clip.names)) as advance:
        return write_frames(clip, path, out / "tmp", version, advance)


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


def _write_records(out: Out, clip: ClipFrames, cuts: Cuts, given: GivenLabels, source: ClipSource) -> None:
    """seed/, source/ and cuts/: each in a folder of its own, by one rename."""
    from pipeline.stores.clip_source import write_source
    from pipeline.stores.cuts import write_cuts
    from pipeline.stores.seed_folder import write_masks

    def scratch(name: str) -> Path:
        return out / "tmp" / f"{name}-{clip.digest[:32]}" / name

    write_masks(out / "seed", given.seed, clip.indices, scratch("seed"))
    write_source(out / "source", source, scratch("source"))
    write_cuts(out / "cuts", cuts, clip.indices, scratch("cuts"))


def run_item(item: str, params_file: Path | None, sets: list[str] | None) -> None:
    """Ingest every video of an item of videos.yaml."""
    from pipeline.datasets.index import require_unchanged

    key = item_key(item)
    entries = video_entries(key, load(params_file, sets or ())["ingest"])
    _remove_stale(DATA / "ingest" / key, [entry.name for entry in entries])
    for entry in entries:
        require_unchanged(entry.path)
        run(
            entry.path,
            place("ingest", key, entry.name),
            entry.params,
            ground_truth=entry.ground_truth,
            classes=entry.classes,
            mask=entry.mask,
            fps=entry.fps,
            recorded=entry.recorded,
        )


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

"""Data sets in their published layouts -> items of videos.yaml."""

from __future__ import annotations

import re
from enum import StrEnum
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline.errors import DataError, UsageError
from stages.commands import videos
from stages.common import cli
from stages.common.layout import KEY, NAME, NONE, PATHS, REGISTRATIONS

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from pipeline.datasets.listing import Video

#: Up to that many videos each are an item of their own; more are joined.
SINGLE = 40
#: Videos that an item joins at most.
TOGETHER = 10


class Dataset(StrEnum):
    """The data sets, by the names of their adapters."""

    VSPW = "vspw"
    CITYSCAPES = "cityscapes"
    CAMVID = "camvid"
    DAVIS2016 = "davis2016"
    DAVIS2017 = "davis2017"
    YOUTUBE_VOS = "youtube-vos"
    MOSE = "mose"
    FOLDERS = "folders"


class Unknown(StrEnum):
    """What becomes of values that no class list explains."""

    REFUSE = "refuse"
    VOID = "void"


RereadOption = Annotated[
    bool,
    typer.Option(
        "--reread",
        help="read every file; else one of the size and time of an earlier registration is taken to be as it was",
    ),
]

app = cli.new_app(
    "Register data sets in their published layouts: VSPW, Cityscapes, CamVid, DAVIS, YouTube-VOS, MOSE, folders."
)


@app.callback()
def group() -> None:
    """Register data sets in their published layouts: VSPW, Cityscapes, CamVid, DAVIS, YouTube-VOS, MOSE, folders."""


@app.command()
def register(
    root: Annotated[Path, typer.Argument(help="the data set's folder")],
    dataset: Annotated[Dataset, typer.Option(help="layout of the data set")],
    split: Annotated[
        str | None, typer.Option(help="part of the data set; default: val, of camvid and folders all videos")
    ] = None,
    first: Annotated[
        int | None, typer.Option(min=1, help="how many videos of the split to take, from the first on")
    ] = None,
    name: Annotated[str | None, typer.Option(help="name of the registration; default: data set and split")] = None,
    downsample: Annotated[
        int | None, typer.Option(min=1, help="one pixel for N of the source: 16 = a quarter of each side")
    ] = None,
    fps: Annotated[float | None, typer.Option(min=0.01, help="frame rate; default: the data set's own")] = None,
    per_item: Annotated[
        int | None,
        typer.Option(min=1, help=f"videos in an item, at most; default: 1, {TOGETHER} with more than {SINGLE} videos"),
    ] = None,
    unknown: Annotated[
        Unknown,
        typer.Option(help="values of label maps that are no class: refuse them, or take them as void"),
    ] = Unknown.REFUSE,
    reread: RereadOption = False,
) -> None:
    """Check a data set's layout and write its videos into videos.yaml; registering again replaces them.

    Every label map is looked at; those that have not changed since an earlier registration are not looked at again.

    Example: vidseg dataset register /data/VSPW_480p --dataset vspw --split val --first 30
    """
    from pipeline.datasets import ADAPTERS
    from pipeline.datasets.index import file_states
    from pipeline.datasets.links import check_registration, checked_maps, known_states, write_registration

    if not root.is_dir():
        raise DataError(f"{root}: no such folder")
    adapter = ADAPTERS[dataset]
    split = split or adapter.split
    name = name or "-".join(part for part in (_base_name(dataset, root), split) if part)
    if not KEY.fullmatch(name) or name == Path(NONE).name:
        raise UsageError(f"'{name}': names may hold letters, digits, '_' and '-' only; give another one with --name")
    folder = REGISTRATIONS / name
    source = {"dataset": str(dataset), "root": str(root.resolve()), "split": split or "all"}
    check_registration(folder, source)
    listed = list(islice(adapter.videos(root, split), first))
    _check_count(len(grouped(name, listed, per_item)), videos.count_others(name), len(listed))
    found = _checked(listed, unknown, set() if reread else checked_maps(folder, listed))
    items = grouped(name, found, per_item)
    size = None if downsample is None else f"1/{downsample}"
    entries = {key: [_entry(folder, key, part, fps, size)] for key, part in items.items()}
    videos.check_keys(entries, name)
    places = {_place(key, part, video): video for key, part in items.items() for video in part}
    joined = [video for part in items.values() if len(part) > 1 for video in part]
    with cli.progress("hash", sum(len(video.frames) + len(video.annotated) for video in joined), "files") as advance:
        states = file_states(joined, {} if reread else known_states(folder), advance)
    write_registration(folder, source, places, states)
    videos.replace_items(entries, name)
    frames = sum(len(video.frames) for video in found)
    annotated = sum(len(video.annotated) for video in found)
    cli.note(
        f"{videos.VIDEOS}: {len(found)} videos of {frames} frames, {annotated} of them annotated, "
        f"in {len(items)} items ({next(iter(items))}, ...); run them with: dvc repro"
    )


@app.command()
def check(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME]...", help="names of registrations; default: all in inputs/")
    ] = None,
    reread: RereadOption = False,
) -> None:
    """Tell which files of data sets have changed since they were registered; ends with code 3 when some have.

    DVC watches the files of items of one video by itself; of items of several it watches what `register` found.

    Example: vidseg dataset check vspw-val
    """
    from pipeline.datasets.index import REMEDY, changes
    from pipeline.datasets.links import MARK, indexed_items, known_states

    given = [REGISTRATIONS / name for name in names or ()]
    folders = given or sorted(path for path in REGISTRATIONS.glob("*") if MARK.on(path))
    if other := next((folder for folder in folders if not MARK.on(folder)), None):
        raise UsageError(f"{other}: no registration of a data set; `vidseg dataset register` writes them")
    found: dict[Path, str] = {}
    looked = 0
    for folder in folders:
        items, known = indexed_items(folder), known_states(folder)
        if not items:
            print(f"{folder}: DVC watches all of its files: dvc status")
            continue
        with cli.progress("check", len(items), "items") as advance:
            changed: dict[Path, str] = {}
            for item in items:
                changed |= changes(item, known={} if reread else known)
                advance(1)
        for file, what in changed.items():
            print(f"{file}: {what}")
        if not changed:
            print(f"{folder}: {len(known)} files as they were registered")
        found |= changed
        looked += len(known)
    if found:
        raise DataError(f"not as it was registered: {len(found)} of {looked} files; {REMEDY}")


@app.command()
def smite50(
    folder: Annotated[Path, typer.Argument(help="ground truth of a video: frames_numbers.txt, and masks by frame")],
    out: Annotated[Path, typer.Argument(help="folder for the label PNGs and classes.json; must not be there")],
) -> None:
    """Turn the ground truth of a SMITE-50 video, masks by part, into label PNGs named like the frames of a video file.

    Example: vidseg dataset smite50 SMITE50/gt/car_01 labels/car_01
    """
    from pipeline.fewshot.segments import BACKGROUND
    from pipeline.fewshot.smite50 import read_smite50
    from pipeline.files import replacing_folder
    from pipeline.media.pictures import davis_palette, write_label_png
    from pipeline.truth.class_list import ClassList, LabelClass, write_classes

    if out.exists():
        raise UsageError(f"{out}: is there already; choose another folder")
    truth, palette = read_smite50(folder), davis_palette().tolist()
    classes = [LabelClass(number, name, tuple(palette[number])) for number, name in enumerate(truth.parts)]
    with replacing_folder(out) as made:
        for frame, labels in zip(truth.frames, truth.labels, strict=True):
            write_label_png(made / f"{frame:05d}.png", labels)
        write_classes(made / "classes.json", ClassList(tuple(classes)))
    parts = ", ".join(name for name in truth.parts if name != BACKGROUND)
    cli.note(f"{out}: {len(truth.frames)} frames with {parts}; give it to `vidseg apply` with --ground-truth")


def _base_name(dataset: Dataset, root: Path) -> str:
    if dataset is Dataset.FOLDERS:
        return _key(root.resolve().name)
    return str(dataset)


def _key(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]+", "-", name)


def _checked(found: list[Video], unknown: Unknown, known: Collection[Path]) -> list[Video]:
    """The videos, once all their files were looked at; values without a class are void, or refused.

    Args:
        known: label maps that need no look.
    """
    from pipeline.datasets.listing import Video, check_headers, unexplained, with_void

    keys = [_key(video.name) for video in found]
    for video in found:
        if not NAME.fullmatch(video.name) or keys.count(_key(video.name)) > 1:
            raise DataError(
                f"'{video.name}': videos need different names of letters, digits, '.', '_' and '-'; rename the folder"
            )
    with cli.progress("check", len(found), "videos") as advance:
        sizes = []
        for video in found:
            sizes.append(check_headers(video))
            advance(1)
    kept, void = list[Video](), dict[int, Path]()
    with cli.progress("look at label maps", sum(len(video.annotated) for video in found)) as advance:
        for video, size in zip(found, sizes, strict=True):
            values = unexplained(video, size, known, lambda file: advance(1))
            if values and unknown is Unknown.REFUSE:
                value, file = min(values.items())
                raise DataError(
                    f"{file}: holds the value {value}, which is neither a class nor ignored; correct the file, or take "
                    "such pixels as void with --unknown void"
                )
            void |= values
            kept.append(with_void(video, values) if values else video)
    if void:
        listed = ", ".join(f"{value} (first in {file})" for value, file in sorted(void.items()))
        cli.warn(f"values without a class are void, as --unknown void has it: {listed}")
    return kept


def grouped(name: str, found: Sequence[Video], per_item: int | None = None) -> dict[str, list[Video]]:
    """The videos by item: one each, or joined in their order into items of nearly the same size.

    Depends on nothing else, so that registering again never renames items.

    Args:
        per_item: videos in an item, at most; None = 1 up to `SINGLE` videos, else `TOGETHER`.
    """
    per_item = per_item or (1 if len(found) <= SINGLE else TOGETHER)
    if per_item == 1:
        return {f"{name}-{_key(video.name)}": [video] for video in found}
    count = -(-len(found) // per_item)
    bounds = [len(found) * part // count for part in range(count + 1)]
    return {f"{name}-{part:03d}": list(found[bounds[part] : bounds[part + 1]]) for part in range(count)}


def _check_count(items: int, others: int, found: int) -> None:
    if items + others <= videos.MOST_ITEMS:
        return
    room = videos.MOST_ITEMS - others
    fewer = f"give --per-item {-(-found // room)} or --first N" if room > 0 else "remove items from it"
    raise UsageError(
        f"{videos.VIDEOS}: {items} items beside {others} others; DVC is slow with more than {videos.MOST_ITEMS} "
        f"(300 stages): {fewer}"
    )


def _place(key: str, part: Sequence[Video], video: Video) -> str:
    return video.name if len(part) == 1 else f"{key}/{video.name}"


def _entry(folder: Path, key: str, part: Sequence[Video], fps: float | None, size: str | None) -> dict[str, Any]:
    """What videos.yaml says of an item; of several videos DVC watches index.json alone.

    Not the folder that it lies in: an experiment's copy of the project is elsewhere, and there DVC would look at all
    frames, because the `.dvcignore` that hides them counts in its own project only.
    """
    from pipeline.datasets.index import FILE
    from stages.common.yaml_files import flow_list

    rates: Any = [fps or video.fps for video in part]
    rates = rates[0] if len(set(rates)) == 1 else flow_list(rates)
    if len(part) == 1:
        place = folder.resolve() / part[0].name
        paths: Mapping[str, Any] = {"path": str(place / "frames"), "ground_truth": str(place / "labels")}
    else:
        index = str(folder.resolve() / key / FILE)
        names = flow_list([video.name for video in part])
        paths = {"path": index, "ground_truth": index, "videos": names}
    optional = {"fps": rates, "resize": size, "dataset": folder.name}
    given = {name: value for name, value in optional.items() if value is not None}
    return {**dict.fromkeys(PATHS, NONE), **paths, **given}


if __name__ == "__main__":
    cli.run_app(app)

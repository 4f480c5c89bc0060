"""What a data set's adapter gives: videos of frames, some of them with a label map; and the checks all share."""

from __future__ import annotations

from collections.abc import Callable, Collection, Container, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.errors import DataError
from pipeline.media.pictures import VOID, image_size, label_maps
from pipeline.media.video import images_by_stem, list_images
from pipeline.truth.annotations import unknown_values
from pipeline.truth.class_list import ClassList


@dataclass(frozen=True)
class Frame:
    """One frame: its name, its picture, and its label map where it is annotated."""

    name: str
    image: Path
    labels: Path | None


@dataclass(frozen=True)
class Video:
    """One video of a data set.

    Attributes:
        fps: frames per second; None = the data set does not say.
        classes: what the ids of the label maps stand for; None = each id found is a class.
    """

    name: str
    frames: tuple[Frame, ...]
    fps: float | None
    classes: ClassList | None

    @property
    def annotated(self) -> tuple[Path, ...]:
        """The label maps, in the order of the frames."""
        return tuple(frame.labels for frame in self.frames if frame.labels is not None)


def read_lines(file: Path) -> list[str]:
    """The lines of a text file, with or without a byte order mark.

    Raises:
        DataError: it is not text in UTF-8.
    """
    try:
        return file.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: not text in UTF-8 ({error.reason}); save it as UTF-8") from error


def read_names(file: Path) -> list[str]:
    """The lines of a split's list, without empty ones.

    Raises:
        DataError: no such file, not text, no line, or a line twice.
    """
    if not file.is_file():
        raise DataError(f"{file}: no such list; expected one name per line")
    names = [line.strip() for line in read_lines(file) if line.strip()]
    twice = next((name for index, name in enumerate(names) if name in names[:index]), None)
    if not names or twice:
        raise DataError(f"{file}: {f'lists {twice} twice' if twice else 'lists nothing'}")
    return names


def frame_files(images: Path) -> dict[str, Path]:
    """The pictures of a folder by stem, in natural order.

    Raises:
        DataError: no such folder or no picture in it, or two of one stem.
    """
    if not images.is_dir():
        raise DataError(f"{images}: no such folder of frames")
    files = images_by_stem(images)
    if not files:
        raise DataError(f"{images}: no pictures in this folder of frames")
    return files


def pair_frames(images: Path, labels: Path) -> tuple[Frame, ...]:
    """The pictures of a folder in natural order, each with the PNG of the same stem where `labels` has one.

    Raises:
        DataError: no such folder of pictures or none in it, two of one stem, a PNG that belongs to no picture, or a
            label map that is no PNG.
    """
    files = frame_files(images)
    maps = label_maps(labels) if labels.is_dir() else {}
    frames = tuple(Frame(name, file, maps.get(name)) for name, file in files.items())
    if lost := sorted(set(maps) - {frame.name for frame in frames}):
        raise DataError(f"{maps[lost[0]]}: there is no frame of that name in {images}")
    bare = {frame.name for frame in frames if frame.labels is None}
    pictures = list_images(labels) if labels.is_dir() else []
    if other := next((file for file in pictures if file.stem in bare), None):
        raise DataError(f"{other}: label maps are PNGs; save the original map as {other.stem}.png")
    return frames


def require_annotations(frames: Sequence[Frame], labels: Path) -> None:
    """Check a densely annotated video.

    Raises:
        DataError: a frame without a label map.
    """
    bare = [frame for frame in frames if frame.labels is None]
    if bare:
        raise DataError(
            f"{labels}: {len(bare)} of {len(frames)} frames have no label map, the first is {bare[0].name} "
            f"({bare[0].image})"
        )


def require_first(frames: Sequence[Frame], labels: Path) -> None:
    """Check a video whose first frame at least must have a mask; objects may begin later, with masks of their own.

    Raises:
        DataError: the first frame has no label map.
    """
    if frames[0].labels is None:
        raise DataError(f"{labels}: the first frame, {frames[0].name}, has no mask ({frames[0].image})")


def check_headers(video: Video) -> tuple[int, int]:
    """Check the headers of all files; returns the size (H, W) of the frames.

    Raises:
        DataError: a file that is missing or no picture, or of another size than the first frame.
    """
    size = image_size(video.frames[0].image)
    for frame in video.frames:
        for kind, file in (("frame", frame.image), ("label map", frame.labels)):
            if file is not None and (found := image_size(file)) != size:
                raise DataError(
                    f"{file}: the {kind} is {found[1]}x{found[0]} pixels, the first frame of {video.name} is "
                    f"{size[1]}x{size[0]}"
                )
    return size


def unexplained(
    video: Video, size: tuple[int, int], skip: Container[Path], seen: Callable[[Path], object]
) -> dict[int, Path]:
    """Look at every pixel of a video's label maps, several at a time: values that no class explains, with a file each.

    Args:
        size: (H, W) of the frames.
        skip: label maps that are known to be good.
        seen: called with every file, in order.

    Raises:
        DataError: a label map that cannot be read.
    """
    found: dict[int, Path] = {}

    def look(file: Path) -> frozenset[int]:
        return frozenset() if file in skip else unknown_values(file, size, video.classes)

    with ThreadPoolExecutor() as pool:
        for file, values in zip(video.annotated, pool.map(look, video.annotated), strict=True):
            for value in values:
                found.setdefault(value, file)
            seen(file)
    return found


def with_void(video: Video, values: Collection[int]) -> Video:
    """A video whose class list takes some stored values that it does not have as ignored."""
    classes = video.classes
    if classes is None:
        return video
    if classes.values is None:
        return replace(video, classes=replace(classes, ignore=(*classes.ignore, *sorted(values))))
    void = classes.ignore[0] if classes.ignore else next(n for n in range(VOID, 65535) if n not in classes.ids)
    means = {**classes.values, **dict.fromkeys(sorted(values), void)}
    return replace(video, classes=replace(classes, ignore=classes.ignore or (void,), values=means))

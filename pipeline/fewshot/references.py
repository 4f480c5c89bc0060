"""References: images in which a person has drawn the segments to be found. (An I/O module.)

    REFS/images/NAME.jpg|png|...      one image or more, of any sizes
    REFS/labels/NAME.png              its label map: palette or grey, the pixel values are ids; or colours
    REFS/labels/NAME.npy              the same as an array of integers
    REFS/labels/NAME.PART.png         or a mask per part: white is the part, what no part covers is background
    REFS/labels/NAME/PART.png         the same in a folder per image
    REFS/classes.json                 optional: ids, names and colours (pipeline/truth/class_list.py)

Without a class list, the ids of label maps are their names, 0 is the background, and 255 has no label (in maps of 0 and
255 alone it is the foreground, id 1); parts get ids from 1 in natural order of their names. Masks may overlap: the
smaller one wins. A mask named `background` is not needed, and not read.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.errors import DataError
from pipeline.fewshot.masks import combined, masks_of_folder, natural_order, read_mask
from pipeline.fewshot.segments import BACKGROUND, IGNORE, SegmentTable
from pipeline.media.frame_source import SourceFrame
from pipeline.media.pictures import by_stem, davis_palette, label_maps, label_size, read_image
from pipeline.media.resize import model_size, resize_frame, resize_nearest
from pipeline.media.video import IMAGE_SUFFIXES
from pipeline.parameters import LearnParams
from pipeline.truth.class_list import UNKNOWN, ClassList, LabelClass, read_classes
from pipeline.truth.colours import classes_of_colours

#: A segment that covers fewer cells of the maps' grid is hard to learn.
FEW_CELLS = 4
#: How many names an error lists.
SHOWN = 5


@dataclass(frozen=True, eq=False)
class References:
    """Images and their segments.

    Attributes:
        images: (H, W, 3) u8 each, of any sizes.
        labels: (H, W) u8 or u16 each, ids of the table's segments, `IGNORE` where there is no label.
        names: of the images, in natural order.
        table: the segments; some may appear in no image.
    """

    images: tuple[np.ndarray, ...]
    labels: tuple[np.ndarray, ...]
    names: tuple[str, ...]
    table: SegmentTable

    def model_size(self, params: LearnParams) -> tuple[int, int]:
        """The size (H, W) at which the network sees them: a square of `learn.size`, or a picture with that short side
        and the middle one of their shapes (`learn.shape`)."""
        if params.shape == "square":
            return params.size, params.size
        shapes = sorted((image.shape for image in self.images), key=lambda shape: shape[0] / shape[1])
        height, width, _ = shapes[len(shapes) // 2]
        return model_size(height, width, params.size)

    def first(self, count: int) -> References:
        """The first of them."""
        return References(self.images[:count], self.labels[:count], self.names[:count], self.table)

    def at_size(self, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        """All images (n, H, W, 3), bicubic, and label maps (n, H, W), nearest, at one size."""
        images = [resize_frame(image, size) for image in self.images]
        return np.stack(images), np.stack([resize_nearest(labels, size) for labels in self.labels])


def read_references(folder: Path, classes: Path | None = None) -> References:
    """Read references (layout: module docstring).

    Args:
        classes: a class list in place of the folder's own.

    Raises:
        DataError: a missing folder, an image without labels or labels without an image, unreadable files, labels of
            another size than their image, ids that are no class, an image without a labelled pixel, or fewer than two
            segments.
    """
    images, labelled = _images(folder), folder / "labels"
    if not labelled.is_dir():
        raise DataError(f"{folder}: no labels/ here; expected images/NAME.jpg with labels/NAME.png")
    sources = _match(images, labelled)
    own = folder / "classes.json"
    listed = read_classes(classes or own, labelled) if classes or own.is_file() else None
    names = sorted(images, key=natural_order)
    pictures = {name: read_image(images[name]) for name in names}
    sizes = {name: (picture.shape[0], picture.shape[1]) for name, picture in pictures.items()}
    if all(isinstance(source, Path) for source in sources.values()):
        files = _files(sources)
        listed = listed or classes_of_colours(file for file in files.values() if file.suffix != ".npy")
        maps = {name: _read_map(file, sizes[name], listed) for name, file in files.items()}
        table = _table_of_maps(labelled, maps, listed)
    else:
        maps, table = _combine(labelled, {name: _parts(name, sources[name]) for name in names}, sizes, listed)
    for name in names:
        if (maps[name] == IGNORE).all():
            raise DataError(f"{_place(sources[name])}: no pixel of {name} has a label; draw a segment or leave it out")
    return References(tuple(pictures[name] for name in names), tuple(maps[name] for name in names), tuple(names), table)


def frames_among(images: Iterable[np.ndarray], frames: Iterable[SourceFrame]) -> list[int]:
    """Which frames of a video are reference images as well, by their pixels: their numbers in the video, ascending.

    Args:
        images: (H, W, 3) u8 each.
    """
    known = {(image.shape, image.tobytes()) for image in images}
    sizes = {shape for shape, _ in known}
    return [
        frame.index
        for frame in frames
        if frame.image.shape in sizes and (frame.image.shape, frame.image.tobytes()) in known
    ]


def warnings_about(references: References, grid: tuple[int, int]) -> tuple[str, ...]:
    """What will hardly be learned, a line each: segments that appear nowhere, and those that are tiny.

    Args:
        grid: (h, w) of the maps that learning compares with the labels.

    Raises:
        DataError: nothing can be learned: on that grid no segment but the background is left.
    """
    table, lines = references.table, []
    left = {int(one) for labels in references.labels for one in np.unique(resize_nearest(labels, grid))}
    shown = [segment for number, segment in enumerate(table.segments) if number != table.background]
    if not any(segment.id in left for segment in shown):
        raise DataError(
            f"{_listing(references.names)}: no pixel of {_listing(segment.name for segment in shown)} is left on the "
            f"{grid[0]}x{grid[1]} grid that is learned from; crop the references around what is drawn, or raise "
            "learn.size"
        )
    for segment in table.segments:
        shares = [float((labels == segment.id).mean()) for labels in references.labels]
        cells = max(shares) * grid[0] * grid[1]
        if cells == 0:
            lines.append(f"segment '{segment.name}' appears in no reference: it will not be found in videos either")
        elif cells < FEW_CELLS:
            most = f"{cells:.1f} cells of the {grid[0]}x{grid[1]} grid at most"
            little = f"covers {most}" if segment.id in left else f"vanishes on the grid, covering {most}"
            lines.append(
                f"segment '{segment.name}' {little}: fewer than {FEW_CELLS} are hard to learn; crop the references, or "
                "learn at a larger size"
            )
    return tuple(lines)


Parts = Mapping[str, Path]


def _images(folder: Path) -> dict[str, Path]:
    images = folder / "images"
    if not images.is_dir():
        raise DataError(f"{folder}: no images/ here; expected images/NAME.jpg with labels/NAME.png")
    files = (path for path in sorted(images.iterdir()) if not path.name.startswith("."))
    found = by_stem(path for path in files if path.suffix.lower() in IMAGE_SUFFIXES)
    if not found:
        raise DataError(f"{images}: no picture here; one reference is the least that can be learned from")
    return found


def _match(images: Mapping[str, Path], folder: Path) -> dict[str, Path | Parts]:
    """Every image's label map, or its masks by part."""
    maps = label_maps(folder)
    arrays = {path.stem: path for path in sorted(folder.glob("*.npy"))}
    folders = {path.name: path for path in sorted(folder.iterdir()) if path.is_dir() and not path.name.startswith(".")}
    sources: dict[str, Path | Parts] = {}
    parts: dict[str, dict[str, Path]] = {}
    strangers = []
    for name, path in [*maps.items(), *arrays.items()]:
        image = next((name[:end] for end in range(len(name), 0, -1) if name[:end] in images and _ends(name, end)), None)
        if image is None:
            strangers.append(path.name)
        elif image == name:
            _put(sources, image, path)
        else:
            parts.setdefault(image, {})[name[len(image) + 1 :]] = path
    for name, path in folders.items():
        if name in images:
            _put(sources, name, masks_of_folder(path))
        else:
            strangers.append(f"{name}/")
    for name, masks in parts.items():
        _put(sources, name, {part: masks[part] for part in sorted(masks, key=natural_order)})
    bare = [path.name for name, path in images.items() if name not in sources]
    if bare or strangers:
        raise DataError(
            f"{folder}: images and labels do not match; "
            + "; ".join(
                f"{what}: {_listing(names)}"
                for what, names in (("images without labels", bare), ("labels without an image", strangers))
                if names
            )
        )
    return sources


def _ends(name: str, end: int) -> bool:
    return end == len(name) or name[end] == "."


def _put(sources: dict[str, Path | Parts], name: str, source: Path | Parts) -> None:
    if name in sources:
        both = f"{_place(sources[name]).name} and {_place(source).name}"
        raise DataError(f"{_place(source)}: {name} has labels twice ({both}); keep one")
    sources[name] = source


def _place(source: Path | Parts) -> Path:
    return source if isinstance(source, Path) else next(iter(source.values()))


def _listing(names: Iterable[str]) -> str:
    listed = sorted(names, key=natural_order)
    more = f" and {len(listed) - SHOWN} more" if len(listed) > SHOWN else ""
    return ", ".join(listed[:SHOWN]) + more


def _files(sources: Mapping[str, Path | Parts]) -> dict[str, Path]:
    return {name: source for name, source in sources.items() if isinstance(source, Path)}


def _parts(name: str, source: Path | Parts) -> Parts:
    if isinstance(source, Path):
        raise DataError(
            f"{source}: {name} has a label map, other images have a mask per part; draw all of them in one way"
        )
    return source


def _read_map(path: Path, size: tuple[int, int], listed: ClassList | None) -> np.ndarray:
    """A label map (H, W) as ids, `IGNORE` where there is no label; without a class list as it is stored."""
    reader = listed or ClassList(())
    found = _read_array(path) if path.suffix == ".npy" else None
    shape = label_size(path) if found is None else found.shape
    if shape != size:
        raise DataError(f"{path}: the label map is {shape[1]}x{shape[0]} pixels, its image {size[1]}x{size[0]}")
    stored = reader.read_stored(path) if found is None else found
    labels = reader.decode(stored)
    if listed is None:
        return labels
    unknown = ~np.isin(labels, list(listed.ids))
    if unknown.any():
        what = "is neither a class nor ignored" if listed.values is None else "is not among the `values`"
        raise DataError(f"{path}: holds the value {stored[unknown].min()}, which {what}; add it to classes.json")
    return np.where(np.isin(labels, listed.ignore), IGNORE, labels).astype(labels.dtype)


def _read_array(path: Path) -> np.ndarray:
    try:
        values = np.load(path, mmap_mode="r", allow_pickle=False)  # a header may claim more than the file holds
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path}: not an array that can be read ({error})") from error
    if values.ndim != 2 or values.dtype.kind not in "biu":
        raise DataError(f"{path}: label maps are (height, width) integers, not {values.shape} of {values.dtype}")
    if values.size and (values.min() < 0 or values.max() >= UNKNOWN):
        raise DataError(f"{path}: label ids must lie in 0..{UNKNOWN - 1}")
    return np.array(values, np.uint8 if not values.size or values.max() <= 255 else np.uint16)


def _table_of_maps(folder: Path, maps: dict[str, np.ndarray], listed: ClassList | None) -> SegmentTable:
    """The segments of label maps; masks of 0 and 255 become 0 and 1 in them."""
    if listed is None:
        found = set().union(*(np.unique(labels).tolist() for labels in maps.values()))
        if found == {0, IGNORE}:
            maps.update({name: (labels == IGNORE).astype(np.uint8) for name, labels in maps.items()})
            found = {0, 1}
        listed = ClassList(tuple(_named(number, str(number)) for number in sorted(found - {IGNORE})))
    return _table(folder, listed)


def _combine(
    folder: Path, masks: Mapping[str, Parts], sizes: Mapping[str, tuple[int, int]], listed: ClassList | None
) -> tuple[dict[str, np.ndarray], SegmentTable]:
    """The label maps of masks by part, and the segments that they show."""
    found = {part for parts in masks.values() for part in parts if part.casefold() != BACKGROUND}
    if listed is None:
        names = sorted(found, key=natural_order)
        listed = ClassList(tuple(_named(number, part) for number, part in enumerate(("", *names))))
    table = _table(folder, listed)
    ids = {segment.name: segment.id for segment in table.segments}
    strangers = sorted(found - set(ids), key=natural_order)
    if strangers:
        raise DataError(f"{folder}: masks of {_listing(strangers)}, which classes.json does not name; add them to it")
    ground = next((segment.id for segment in table.segments if segment.name.casefold() == BACKGROUND), None)
    maps = {}
    for name, parts in masks.items():
        drawn = {
            ids[part]: read_mask(path, sizes[name]) for part, path in parts.items() if part.casefold() != BACKGROUND
        }
        maps[name] = combined(drawn, sizes[name], IGNORE if ground is None else ground)
    return maps, table


def _table(folder: Path, listed: ClassList) -> SegmentTable:
    try:
        return SegmentTable.of(listed.classes)
    except DataError as error:
        raise DataError(f"{folder}: {error}") from error


def _named(number: int, name: str) -> LabelClass:
    """A segment without a class list: 0 is the background, colours are the palette's."""
    red, green, blue = (int(value) for value in davis_palette()[number % 256])
    return LabelClass(number, name if number else BACKGROUND, (red, green, blue))

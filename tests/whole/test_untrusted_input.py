"""Untrusted input works or ends in one of our errors; it reaches no shell and no file but its own."""

from __future__ import annotations

import json
import re
import shutil
import struct
import subprocess
import tempfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from pipeline.errors import DataError
from pipeline.media import decoding, video
from pipeline.media.video import write_video
from pipeline.parameters import SECTIONS
from pipeline.stores.schemas import CLIP, LABELS, ArraySpec
from pipeline.stores.writer import StoreWriter
from stages.common.settings import load
from tests.support import yaml
from tests.support.commands import error_line, tree_bytes, vidseg, write_frames
from tests.support.parsers import ITEM, PARSERS, png, survives
from tests.support.places import DATA
from tests.support.project import Project

FOUND = DATA / "fuzz"
KEYS = (
    "../x",
    "../../x",
    "..",
    ".",
    "/tmp/x",
    "a;touch pwned",
    "$(touch pwned)",
    "`touch pwned`",
    "a|b",
    "a b",
    "a\nb",
    "",
)


# videos.yaml ------------------------------------------------------------------------------------------------


@pytest.fixture
def project(tmp_path: Path) -> Project:
    made = Project(tmp_path)
    write_frames(tmp_path / "frames", np.zeros((1, 64, 64, 3), np.uint8))
    made.params["ingest"]["size"] = "native"
    made.write_params()
    return made


def test_dvc_runs_nothing_for_a_hostile_key(project: Project) -> None:
    """The real `dvc repro` and `dvc status`: every key is refused, and nothing is made, run or removed elsewhere."""
    (project.folder / "x" / "source").mkdir(parents=True)
    (project.folder / "x" / "source" / "mine").write_text("mine")
    project.write_videos({})
    before = {name for name in tree_bytes(project.folder) if not name.startswith((".dvc", "site"))}
    for key in KEYS[:7]:
        project.write_videos({key: [{"path": "frames"}]})
        for command in (["dvc", "repro", "ingest"], ["dvc", "status", "ingest"]):
            result = subprocess.run(
                command, cwd=project.folder, env=project.environment, capture_output=True, text=True, timeout=60
            )
            assert command[1] == "status" or result.returncode != 0
            printed = result.stdout + result.stderr
            assert command[1] == "status" or re.search("keys may hold letters|overlap|missing from", printed), printed
    after = {name for name in tree_bytes(project.folder) if not name.startswith((".dvc", "site"))}
    assert after <= before | {".gitignore", "data/.gitignore"}
    assert before <= after


PATHS = (
    "frames; touch pwned",
    "$(touch pwned)",
    "`touch pwned`",
    "frames\ntouch pwned",
    "frames' ; touch 'pwned",
    "-q",
)


def test_no_shell_reads_the_paths_of_an_item(project: Project) -> None:
    """The real `dvc repro`: a path is the name of a folder, whatever it holds."""
    for path in PATHS:
        shutil.copytree(project.folder / "frames", project.folder / path)
    project.write_videos({f"item{number}": [{"path": path}] for number, path in enumerate(PATHS)})
    assert sorted(project.run_stages("ingest")) == [f"ingest@item{number}" for number in range(len(PATHS))]
    assert not list(project.folder.rglob("pwned*"))


@pytest.mark.parametrize("key", KEYS[:-1])
def test_hostile_keys_are_refused(tmp_path: Path, key: str) -> None:
    (tmp_path / "videos.yaml").write_text(yaml.safe_dump(yaml.videos({key: [ITEM]})))
    write_frames(tmp_path / "frames", np.zeros((1, 64, 64, 3), np.uint8))
    before = tree_bytes(tmp_path)
    for command in (["ingest", "--item", key], ["extract", "--item", f"extract@{key}"]):
        assert "keys may hold letters" in error_line(vidseg(*command, cwd=tmp_path, check=2))
    command = ["summarize", "data/evaluate", ".", "--items", "videos.yaml"]
    assert "keys may hold letters" in error_line(vidseg(*command, cwd=tmp_path, check=2))
    assert tree_bytes(tmp_path) == before


@pytest.mark.parametrize("name", ["..", ".", "../b", "/tmp/b", "a b", "$(touch pwned)", "b\nc", 7.5, None, ["b"]])
def test_hostile_names_of_videos_are_refused(tmp_path: Path, name: object) -> None:
    entries = [{**ITEM, "name": "frames"}, {**ITEM, "name": name}]
    (tmp_path / "videos.yaml").write_text(yaml.safe_dump(yaml.videos({"one": entries})))
    if name == 7.5:
        return  # a name that YAML reads as a number is a name
    line = error_line(vidseg("ingest", "--item", "one", cwd=tmp_path, check=2))
    assert "needs a `name` of its own" in line
    assert not (tmp_path / "data").exists()


def test_no_path_of_an_item_is_another_type(tmp_path: Path) -> None:
    for name in ("path", "ground_truth", "classes", "mask", "names"):
        (tmp_path / "videos.yaml").write_text(yaml.safe_dump(yaml.videos({"one": [{**ITEM, name: {"a": 1}}]})))
        line = error_line(vidseg("ingest", "--item", "one", cwd=tmp_path, check=2))
        assert f"item 'one': `{name}` must be a path, not {{'a': 1}}" in line


@pytest.mark.parametrize(
    ("path", "code", "message"),
    [
        (None, 2, "item 'one': `path` must be a path, not None"),
        ("x" * 300, 3, "longer than names of files may be; choose a shorter one"),
    ],
)
def test_paths_that_are_none(tmp_path: Path, path: str | None, code: int, message: str) -> None:
    (tmp_path / "videos.yaml").write_text(yaml.safe_dump(yaml.videos({"one": [{**ITEM, "path": path}]})))
    assert message in error_line(vidseg("ingest", "--item", "one", cwd=tmp_path, check=code))


def test_a_key_that_is_too_long_for_a_folder(tmp_path: Path) -> None:
    write_frames(tmp_path / "clip", np.zeros((1, 64, 64, 3), np.uint8))
    key = "k" * 300
    (tmp_path / "videos.yaml").write_text(yaml.safe_dump(yaml.videos({key: [{"path": "clip"}]})))
    assert "longer than names of files" in error_line(vidseg("ingest", "--item", key, cwd=tmp_path, check=3))


# YAML -------------------------------------------------------------------------------------------------------

BOMB = "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 60))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (BOMB.encode(), "has aliases that stand for more than 100000 values"),
        (b"items: &a [*a]", "has aliases that stand for more than 100000 values"),
        (b"[" * 1000, "is nested too deeply"),
        (b"items: {a: !!python/object/apply:os.system [touch pwned]}", "is not valid YAML"),
        (b"items: {a: !!python/name:os.system }", "is not valid YAML"),
        (b"items: \xff\xfe\x00", "cannot be read"),
        (b"items: {a: 1, a: 2}", "is not valid YAML"),
        (b"items: [\x00", "is not valid YAML"),
        (b"a: 2020-99-99", "is not valid YAML"),
        (b"- a", "expected"),
        (b"items: 5", "expected"),
        (b"x" * 10_000_001, "is longer than 10000000 characters"),
    ],
)
@pytest.mark.parametrize("file", ["params.yaml", "videos.yaml"])
def test_hostile_yaml_is_refused(tmp_path: Path, file: str, content: bytes, message: str) -> None:
    (tmp_path / file).write_bytes(content)
    commands = {
        "params.yaml": [["extract", "--params", file, "clip.zarr", "out"]],
        "videos.yaml": [["ingest", "--item", "a"], ["videos", "list"]],
    }[file]
    for command in commands:
        line = error_line(vidseg(*command, cwd=tmp_path, check=2))
        assert file in line and message in line
    assert [path.name for path in tmp_path.iterdir()] == [file]


def test_ordinary_aliases_work(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("segment: &s {clusters: 3}\nevaluate: {windows: &w [4]}\n")
    assert load(tmp_path / "params.yaml")["segment"].clusters == 3


# Pictures ---------------------------------------------------------------------------------------------------


def giant_png(colour_type: int) -> bytes:
    """A PNG of 300 bytes that claims 50000 x 50000 pixels."""
    header = struct.pack(">IIBBBBB", 50_000, 50_000, 8, colour_type, 0, 0, 0)
    return png(header, (b"PLTE", bytes(6)), (b"IDAT", zlib.compress(bytes(100_000))))


def put_clip(folder: Path) -> None:
    write_frames(folder / "frames", np.zeros((2, 64, 64, 3), np.uint8))
    write_frames(folder / "labels", np.zeros((2, 64, 64), np.uint8))
    write_frames(folder / "mask", np.zeros((1, 64, 64), np.uint8))


@pytest.mark.parametrize("victim", ["frames/00000.png", "frames/00001.png", "labels/00001.png", "mask/00000.png"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (giant_png(2), "has more than the 89478485 pixels that are read"),
        (giant_png(3), "has more than the 89478485 pixels that are read"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n(pwned) print\n", "not a picture that can be read"),
        (b"GIF89a" + bytes(64), "not a picture that can be read"),
        (b"", "not a picture that can be read"),
    ],
    ids=["colours", "palette", "PostScript", "GIF", "empty"],
)
def test_pictures_that_are_none_or_too_large(tmp_path: Path, victim: str, content: bytes, message: str) -> None:
    put_clip(tmp_path)
    (tmp_path / victim).write_bytes(content)
    command = ["ingest", "frames", "out", "--ground-truth", "labels", "--mask", "mask/00000.png"]
    line = error_line(vidseg(*command, "--set", "ingest.size=native", cwd=tmp_path, check=3))
    assert victim in line and message in line
    assert not (tmp_path / "out").exists()


def test_frames_of_a_video_are_limited_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clip = write_video(tmp_path / "clip.mp4", [np.zeros((64, 64, 3), np.uint8)] * 2, 10.0)
    monkeypatch.setattr(decoding, "MOST_PIXELS", 4000)
    with pytest.raises(DataError, match="clip.mp4: its frames have more than the 4000 pixels that are read"):
        video.open_source(clip)


@pytest.mark.parametrize("size", ["999936x999936", "100000000", "9" * 5000])
def test_a_model_size_that_no_memory_holds(tmp_path: Path, size: str) -> None:
    put_clip(tmp_path)
    line = error_line(vidseg("ingest", "frames", "out", f"--set=ingest.size={size}", cwd=tmp_path, check=2))
    assert "ingest.size" in line and len(line) < 6000


# Names in what is written -------------------------------------------------------------------------------------


def test_frames_may_have_any_name(tiny_model: Path, tmp_path: Path) -> None:
    """Names with markup, quotes, line breaks, terminal codes and bytes that are no text, through all stages."""
    names = [
        "<script>alert(1)</script".replace("/", "_"),
        "a\"b'c",
        "new\nline",
        "\x1b[31mred",
        "\udcff",
        "é" * 100,
        "%s {x}",
    ]
    frames = np.random.default_rng(0).integers(0, 256, (len(names), 64, 64, 3), dtype=np.uint8)
    folder = write_frames(tmp_path / "frames", frames)
    for number, name in enumerate(names):
        (folder / f"{number:05d}.png").rename(folder / f"{name}.png")
    sets = [f"backbone.path={tiny_model}", "ingest.size=native", "segment.clusters=2", "upsample.method=nearest"]
    vidseg("run", folder, "-o", tmp_path / "out", *[word for text in sets for word in ("--set", text)])
    assert sorted(path.stem for path in (tmp_path / "out" / "labels").iterdir()) == sorted(names)
    listed = json.loads((tmp_path / "out" / "labels.json").read_text())
    assert {entry["first_frame"] for entry in listed["labels"]} <= set(names)


def test_an_untrusted_store_names_no_file_elsewhere(tmp_path: Path) -> None:
    specs = {"frames": ArraySpec((1, 64, 64, 3), "uint8")}
    attrs = {"names": ["../../escaped"], "source_size": [64, 64], "source_indices": [0]}
    writer = StoreWriter(tmp_path / "clip.zarr", tmp_path / "tmp", CLIP, "m", specs, params={}, attrs=attrs)
    writer.write("frames", 0, np.zeros((1, 64, 64, 3), np.uint8))
    writer.commit()
    specs = {"labels": ArraySpec((1, 64, 64), "uint8")}
    writer = StoreWriter(tmp_path / "labels.zarr", tmp_path / "tmp", LABELS, "m", specs, params={})
    writer.write("labels", 0, np.zeros((1, 64, 64), np.uint8))
    writer.commit()
    line = error_line(vidseg("render", "clip.zarr", "labels.zarr", "a/b/out", cwd=tmp_path, check=3))
    assert "'../../escaped' cannot be a frame's name" in line
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clip.zarr", "labels.zarr"]


@pytest.mark.parametrize("mask", ["../mask.png", "/etc/passwd", 5, ["a"], {"a": 1}, ""])
def test_an_untrusted_seed_names_no_file_elsewhere(tmp_path: Path, mask: object) -> None:
    from pipeline.segmentation.stores import read_seed

    (tmp_path / "seed").mkdir()
    (tmp_path / "seed" / "seed.json").write_text(json.dumps({"mask": mask}))
    with pytest.raises(DataError, match="seed"):
        read_seed(tmp_path / "seed", (4, 4))


def test_messages_hold_no_terminal_codes(tmp_path: Path) -> None:
    line = error_line(vidseg("ingest", tmp_path / "a\x1b]0;pwned\x07\x1b[2J", tmp_path / "out", check=3))
    assert line.isprintable() and "\\x1b]0;pwned" in line


# Anything -----------------------------------------------------------------------------------------------------

_WORDS = st.sampled_from(
    ["native", "0:3", "5:", "1/4", "64x64", "last_window", "sliding:2", "auto", "../x", "1e999", "~"]
)
_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | _WORDS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
_PARAMETERS = st.sampled_from(
    [(section, key) for section, values in load().as_dict().items() for key in values] + [("x", "y")]
)
assert set(SECTIONS) == set(load().as_dict())


@st.composite
def params_files(draw: st.DrawFn) -> bytes:
    content: dict[str, dict[str, object]] = {}
    for section, key in draw(st.lists(_PARAMETERS, max_size=4)):
        content.setdefault(section, {})[key] = draw(_VALUES)
    return yaml.safe_dump(content).encode(errors="surrogatepass")


@st.composite
def videos_files(draw: st.DrawFn) -> bytes:
    keys = st.sampled_from(["a", "b-2", "videos", *KEYS]) | st.text(max_size=6)
    names = st.sampled_from([*ITEM, "name", "videos", "fps", "size", "dataset"]) | st.text(max_size=5)
    entry = st.builds(
        lambda given, more: given | more, st.sampled_from([ITEM, {}]), st.dictionaries(names, _VALUES, max_size=3)
    )
    items = st.dictionaries(keys, st.lists(entry, max_size=3) | _VALUES, max_size=3)
    return yaml.safe_dump(yaml.videos(draw(items))).encode(errors="surrogatepass")


@st.composite
def class_files(draw: st.DrawFn) -> bytes:
    numbers = st.integers(-1, 300) | _VALUES
    entry = st.fixed_dictionaries(
        {"name": st.text(max_size=4) | _VALUES}, optional={"id": numbers, "color": st.lists(numbers, max_size=4)}
    )
    listed = st.fixed_dictionaries(
        {"classes": st.lists(entry | st.text(max_size=3), max_size=4) | _VALUES},
        optional={
            "ignore": st.lists(numbers, max_size=3) | _VALUES,
            "void_id": numbers,
            "void_color": st.lists(numbers, max_size=4),
            "values": st.dictionaries(st.integers(-1, 300).map(str) | st.text(max_size=3), numbers, max_size=4)
            | _VALUES,
        },
    )  # fmt: skip
    return json.dumps(draw(listed | st.dictionaries(st.text(max_size=3), listed, max_size=2))).encode()


@st.composite
def pngs(draw: st.DrawFn) -> bytes:
    """PNGs with right checksums and any content: sizes, depths, palettes, transparency, compressed rows."""
    side = st.integers(0, 5) | st.just(2**31 - 1)
    header = struct.pack(
        ">IIBBBBB", draw(side), draw(side), draw(st.sampled_from([1, 2, 4, 8, 16, 3])),
        draw(st.sampled_from([0, 2, 3, 4, 6, 5])), draw(st.integers(0, 1)), 0, draw(st.integers(0, 2)),
    )  # fmt: skip
    rows = draw(st.binary(max_size=60) | st.integers(0, 60).map(bytes))
    names = st.sampled_from([b"PLTE", b"tRNS", b"tEXt", b"zTXt", b"iTXt", b"eXIf", b"gAMA", b"acTL", b"fcTL", b"sBIT"])
    chunks = draw(st.lists(st.tuples(names, st.binary(max_size=30)), max_size=3))
    data = draw(st.just(zlib.compress(rows)) | st.binary(max_size=20))
    whole = png(header, *chunks, (b"IDAT", data))
    return whole[: draw(st.integers(0, len(whole)) | st.just(len(whole)))]


_FILE_NAMES = st.text(max_size=12).map(lambda text: text.encode(errors="replace")) | st.binary(max_size=12)
_SUFFIXES = st.sampled_from([b".png", b".PNG", b".jpg", b"", b".txt", b".tiff"])
_FRAMES = st.builds(
    lambda first, names: b"\n".join([first, *(name + suffix for name, suffix in names)]),
    st.sampled_from([b"0:", b"0:2", b":", b"3:1", b"9" * 30 + b":", b"x"]) | st.binary(max_size=8),
    st.lists(st.tuples(_FILE_NAMES, _SUFFIXES), max_size=5),
)
_MASKS = st.lists(
    st.builds(
        lambda frame, file: frame + file,
        st.sampled_from(["", "0=", "4=", "04=", "5=", "-1=", "\u0664=", "=", "9" * 5000 + "="]),
        st.sampled_from(["a.png", "folder", "~", "~nobody/a.png", "a=b", ".", ""]) | st.text(max_size=8),
    ),
    max_size=4,
).map(lambda texts: "\n".join(texts).encode(errors="replace"))
_SEED_FILES = st.sampled_from([None, "mask.png", "none.png", "../mask.png", "/etc/passwd", "", ".", 3, []])
_SEEDS = st.fixed_dictionaries(
    {},
    optional={
        "mask": _SEED_FILES,
        "masks": st.dictionaries(st.sampled_from(["0", "4", "8", "5", "-1", "x", "9" * 5000]), _SEED_FILES, max_size=3)
        | st.sampled_from([None, [], 3]),
    },
).map(lambda content: json.dumps(content).encode())
STRUCTURED = {
    "params": params_files(),
    "videos": videos_files(),
    "classes": class_files(),
    "labels": pngs(),
    "picture": pngs(),
    "frames": _FRAMES,
    "animation": pngs(),
    "masks": _MASKS,
    "seed": _SEEDS,
}


@pytest.mark.parametrize("parser", PARSERS)
def test_any_input_works_or_is_refused(parser: str) -> None:
    @settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
    @given(content=STRUCTURED[parser] | st.binary(max_size=60))
    @example(content=b"")
    def check(content: bytes) -> None:
        with tempfile.TemporaryDirectory() as folder:
            survives(parser, content, Path(folder))

    check()


@pytest.mark.parametrize("case", sorted(FOUND.glob("*/*")), ids=lambda path: f"{path.parent.name}-{path.name}")
def test_what_fuzzing_found_stays_fixed(case: Path, tmp_path: Path) -> None:
    survives(case.parent.name, case.read_bytes(), tmp_path)

"""Coverage-guided fuzzing of the untrusted input of ingest, with Atheris (`pip install atheris`; Linux).

    python -m tests.support.fuzz_ingest FINDINGS --seconds 600

goes through all parsers of `tests.support.parsers` in turn. Each input that raises anything but one of our errors is
kept in FINDINGS/<parser>/, one per place in the code; those that are fixed move to tests/data/fuzz,
where a test reads them.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import shutil
import sys
import tempfile
import traceback
from io import BytesIO
from pathlib import Path

import numpy as np

from tests.support.places import ROOT


def seeds(parser: str) -> list[bytes]:
    """Good inputs to begin with."""
    if parser in ("params", "videos"):
        return [
            (ROOT / f"{parser}.yaml").read_bytes(),
            b"segment: {clusters: 3}\n",
            b"items: {a: [{path: x, videos: [a, b]}]}",
        ]
    if parser == "classes":
        entries = [{"id": 3, "name": "sky", "color": [1, 2, 3]}, {"id": 4, "name": "sea"}]
        return [
            json.dumps({"classes": ["a", "b"], "void_id": 2, "void_color": [0, 0, 0]}).encode(),
            json.dumps({"classes": entries, "ignore": [255], "values": {"1": 3, "2": 4, "0": 255}}).encode(),
            json.dumps({"dog": {"classes": ["dog"]}, "cat": {"classes": ["cat"]}}).encode(),
        ]
    if parser == "masks":
        return [b"first.png", b"0=a.png\n4=b.png", b"folder", b"8=~/a.png"]
    if parser == "seed":
        return [b'{"mask": "mask.png"}', b'{"mask": null, "masks": {"4": "mask.png", "8": "mask.png"}}']
    if parser == "animation":
        return [_animation(suffix) for suffix in ("PNG", "WEBP", "TIFF")]
    if parser == "frames":
        return [b"0:3\n1.png\n10.png\n2.jpg", b":\na.PNG\n.b.png\nc.txt", b"5:\nx.tiff"]
    return [_picture(mode, suffix) for suffix in ("PNG", "TIFF", "BMP") for mode in ("P", "L", "1", "RGB")] + [
        _picture("RGBA", "PNG"), _picture("I;16", "PNG"), _picture("RGB", "JPEG"), _picture("RGB", "WEBP"),
    ]  # fmt: skip


def _picture(mode: str, suffix: str) -> bytes:
    from PIL import Image

    image = Image.fromarray(np.arange(6, dtype=np.uint16 if mode == "I;16" else np.uint8).reshape(2, 3))
    stream = BytesIO()
    (image if mode == "I;16" else image.convert(mode)).save(stream, suffix)
    return stream.getvalue()


def _animation(suffix: str) -> bytes:
    from PIL import Image

    stream = BytesIO()
    pages = [Image.new("RGB", (3, 2), (number, 0, 0)) for number in range(3)]
    pages[0].save(stream, suffix, save_all=True, append_images=pages[1:], duration=40)
    return stream.getvalue()


def fuzz(parser: str, seconds: int, findings: Path) -> None:
    """Fuzz one parser in this process, which ends with it."""
    import atheris

    with atheris.instrument_imports(include=["pipeline", "stages", "ruamel", "PIL", "json"]):
        from tests.support.parsers import survives

    work = Path(tempfile.mkdtemp(prefix="fuzz-"))
    (work / "corpus").mkdir()
    for number, seed in enumerate(seeds(parser)):
        (work / "corpus" / str(number)).write_bytes(seed)
    known: set[str] = set()

    def one_input(content: bytes) -> None:
        with tempfile.TemporaryDirectory(dir=work) as folder:
            try:
                survives(parser, content, Path(folder))
            except (Exception, RecursionError) as error:
                frame = traceback.extract_tb(error.__traceback__)[-1]
                place = f"{type(error).__name__} {Path(frame.filename).name}:{frame.lineno}"
                if place not in known:
                    known.add(place)
                    (findings / parser).mkdir(parents=True, exist_ok=True)
                    (findings / parser / hashlib.sha256(content).hexdigest()[:12]).write_bytes(content)
                    print(f"{parser}: {place}: {str(error)[:100]!r}", flush=True)

    limits = [f"-max_total_time={seconds}", "-max_len=4096", "-timeout=120", "-rss_limit_mb=3000", "-verbosity=0"]
    options = [*limits, "-print_final_stats=1", f"-artifact_prefix={findings}/{parser}-", str(work / "corpus")]
    atheris.Setup([sys.argv[0], *options], one_input)
    try:
        atheris.Fuzz()
    finally:
        shutil.rmtree(work, ignore_errors=True)


def main() -> None:
    """Fuzz each parser for its share of the time."""
    parsers = ("params", "videos", "classes", "labels", "picture", "frames")
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("findings", type=Path)
    arguments.add_argument("--seconds", type=int, default=600)
    arguments.add_argument("--parser", choices=parsers, action="append")
    given = arguments.parse_args()
    given.findings.mkdir(parents=True, exist_ok=True)
    chosen = given.parser or parsers
    for parser in chosen:
        process = multiprocessing.get_context("spawn").Process(
            target=fuzz, args=(parser, given.seconds // len(chosen), given.findings.resolve())
        )
        process.start()
        process.join()
        print(f"{parser}: ended with {process.exitcode}", flush=True)


if __name__ == "__main__":
    main()

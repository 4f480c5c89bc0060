"""`vidseg` in projects where only DVC is tested: hashes what its stage depends on and writes that as every output.

An output of `ingest` follows its own part of the inputs, as that of the real stage does
(`tests/stages/test_ingest.py`): else a corrected label would run everything again.
"""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

#: What each output of `ingest` is made from: the number of the dependency (dvc.yaml's order), and parameters.
INGEST: dict[str, tuple[tuple[int, ...], tuple[str, ...]]] = {
    "clip.zarr": ((0,), ("size", "frames", "stride")),
    "truth.zarr": ((0, 1, 2), ("size", "frames", "stride")),
    "seed": ((3,), ("seed",)),
    "source": ((0,), ("fps",)),
    "cuts": ((0,), ("cuts", "frames", "stride")),
}


read = YAML(typ="safe", pure=False).load


def main() -> None:
    """Run the stage that DVC names in its environment."""
    name, _, key = os.environ["DVC_STAGE"].partition("@")
    stage = read(Path("dvc.yaml").read_text())["stages"][name]
    stage = stage.get("do", stage)
    videos = read(Path("videos.yaml").read_text())

    def fill(text: str) -> str:
        text = re.sub(r"\$\{item\[0\]\.(\w+)\}", lambda found: videos["items"][key][0][found[1]], text)
        entry = videos["applied"].get(key) or videos["concepts"].get(key)
        text = re.sub(r"\$\{item\.(\w+)\}", lambda found: entry[found[1]], text)
        return text.replace("${key}", key)

    deps = [fill(dep) for dep in stage["deps"]]
    params = [value for entry in stage["params"] for value in values(entry, fill)]
    for out in (next(iter(out)) if isinstance(out, dict) else fill(out) for kind in ("outs", "metrics", "plots")
                for out in stage.get(kind, [])):  # fmt: skip
        used, chosen = deps, params
        if name == "ingest":
            numbers, keys = INGEST[Path(out).name]
            used = [deps[number] for number in numbers]
            chosen = [[params[0].get(key) for key in keys], params[1:2]]
        digest = hashlib.sha256(repr(([content(Path(dep)) for dep in used], chosen)).encode())
        Path(out).parent.mkdir(parents=True, exist_ok=True)
        Path(out).write_text(digest.hexdigest())


def values(entry: Any, fill: Any) -> list[Any]:
    """The values that an entry under `params:` names: a section of params.yaml, or dotted keys of another file."""
    files = entry if isinstance(entry, dict) else {"params.yaml": [entry]}
    found = []
    for file, names in files.items():
        for name in names:
            value = read(Path(file).read_text())
            for part in fill(name).split("."):
                value = (value or {}).get(part)
            found.append(value)
    return found


def content(path: Path) -> list[tuple[str, bytes]]:
    """Every file at or below a path, with its bytes."""
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    return [(str(file.relative_to(path)), file.read_bytes()) for file in files]


if __name__ == "__main__":
    main()

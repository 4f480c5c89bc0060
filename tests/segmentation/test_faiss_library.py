from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pipeline.segmentation import faiss_library

#: Loads FAISS where NumPy says of the processor what is given as JSON; prints the environment's value afterwards.
LOAD = """
import json, os, sys
import numpy as np
np.show_config = lambda mode: json.loads(sys.argv[1])
from pipeline.segmentation.faiss_library import CORE, load_faiss
load_faiss()
print(os.environ.get(CORE))
"""


@pytest.mark.parametrize(
    "found, named",
    [
        (["X86_V3", "X86_V4", "AVX512_ICL"], "SkylakeX"),  # NumPy 2.4
        (["SSE42", "FMA3", "AVX2", "AVX512F", "AVX512_SKX"], "SkylakeX"),  # NumPy 2.0
        (["X86_V3"], "Haswell"),
        (["SSE42", "AVX2"], "Haswell"),
        (["SSE42", "AVX"], None),
        (["ASIMDHP"], None),  # no Intel
        ([], None),
    ],
)
def test_openblas_of_faiss_is_told_the_kernels_of_the_processor(found: list[str], named: str | None) -> None:
    assert faiss_library.kernels(found) == named


@pytest.mark.parametrize(
    ("config", "before", "told"),
    [
        ({"SIMD Extensions": {"baseline": ["X86_V2"], "found": ["X86_V3", "X86_V4"]}}, None, "SkylakeX"),
        ({"SIMD Extensions": {"baseline": ["X86_V3"]}}, None, "Haswell"),  # a NumPy that was built for it
        ({"SIMD Extensions": {"baseline": ["X86_V3"]}}, "Nehalem", "Nehalem"),
        ({"SIMD Extensions": {"baseline": ["NEON"], "found": ["ASIMDHP"]}}, None, None),
        ({}, None, None),
    ],
)
def test_it_is_told_while_it_is_loaded_and_the_environment_stays(
    config: dict[str, Any], before: str | None, told: str | None, tmp_path: Path
) -> None:
    """In a process that has not loaded FAISS, by a module of its name that prints what it is told."""
    (tmp_path / "faiss.py").write_text("import os\nprint(os.environ.get('OPENBLAS_CORETYPE'))\n")
    environment = {name: value for name, value in os.environ.items() if name != faiss_library.CORE}
    environment |= {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    environment |= {} if before is None else {faiss_library.CORE: before}
    done = subprocess.run(
        [sys.executable, "-c", LOAD, json.dumps(config)], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == [str(told), str(before)]

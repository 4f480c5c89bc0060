from __future__ import annotations

import os

import pytest

from pipeline.segmentation import faiss_library


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


@pytest.mark.parametrize("before", [None, "Nehalem"])
def test_the_environment_stays_as_it_was(before: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    if before is None:
        monkeypatch.delenv(faiss_library.CORE, raising=False)
    else:
        monkeypatch.setenv(faiss_library.CORE, before)
    faiss_library.load_faiss()
    assert os.environ.get(faiss_library.CORE) == before

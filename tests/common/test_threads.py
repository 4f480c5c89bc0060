from __future__ import annotations

import os
import subprocess
import sys

import pytest

from stages.common.threads import _THREADS_OF_OPENBLAS, let_waiting_threads_sleep

#: What has been imported by the time the command line sets how threads wait.
IMPORTED = """
import sys
from stages.common import cli
from stages.main import main
cli.let_waiting_threads_sleep = lambda: print([name for name in ("numpy", "torch", "faiss") if name in sys.modules])
sys.argv = ["vidseg", "--version"]
main()
"""


@pytest.mark.parametrize(
    ("before", "policy", "openblas"),
    [
        ({}, "passive", "1"),
        ({"OPENBLAS_NUM_THREADS": "4"}, "passive", "4"),
        ({"GOTO_NUM_THREADS": "2"}, "passive", None),
        ({"OMP_NUM_THREADS": "8"}, "passive", None),
        ({"OMP_NUM_THREADS": ""}, "passive", "1"),
        ({"OMP_WAIT_POLICY": "active"}, "active", "1"),
    ],
)
def test_what_somebody_has_set_stays(
    before: dict[str, str], policy: str, openblas: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("OMP_WAIT_POLICY", *_THREADS_OF_OPENBLAS)
    for name in names:
        monkeypatch.setenv(name, "")  # what is set below is undone
        monkeypatch.delenv(name)
    for name, value in before.items():
        monkeypatch.setenv(name, value)
    let_waiting_threads_sleep()
    after = {name: os.environ[name] for name in names if name in os.environ}
    told = {} if openblas is None else {"OPENBLAS_NUM_THREADS": openblas}
    assert after == {**before, "OMP_WAIT_POLICY": policy, **told}


def test_it_is_set_before_libraries_read_it() -> None:
    done = subprocess.run([sys.executable, "-c", IMPORTED], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[0] == "[]"

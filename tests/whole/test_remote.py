"""Faults of a DVC remote over SSH: nothing is lost, the same command continues, as the page on sharing says.

A folder of files stands for a feature cache: what is tried are DVC and the server.
"""

from __future__ import annotations

import hashlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support import sshd as servers
from tests.support.commands import ENVIRONMENT, heed_interrupts, tree_bytes
from tests.support.slurm import free_ports
from tests.support.sshd import Sshd
from tests.support.waiting import wait_until

pytestmark = pytest.mark.slow
FILES, BYTES = 100, 100_000


@dataclass(frozen=True)
class Pushing:
    """A project with files that its remote lacks."""

    folder: Path
    remote: Path
    server: Sshd

    def start(self, *command: str) -> subprocess.Popen[str]:
        environment = {
            **ENVIRONMENT,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "DVC_SITE_CACHE_DIR": str(self.folder.parent / f"{self.folder.name}-site"),
            "HOME": str(self.server.home),
        }
        return subprocess.Popen(
            command, cwd=self.folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            preexec_fn=heed_interrupts,
        )  # fmt: skip

    def run(self, *command: str, check: int = 0) -> str:
        process = self.start(*command)
        output, _ = process.communicate(timeout=120)
        assert process.returncode == check, output
        return output

    def stored(self) -> list[Path]:
        """Files of the remote, each as a whole: it is named by its content."""
        files = [file for file in self.remote.rglob("*") if file.is_file() and re.fullmatch("[0-9a-f]{30}", file.name)]
        for file in files:
            assert hashlib.md5(file.read_bytes()).hexdigest() == file.parent.name + file.name
        return files


@pytest.fixture
def pushing(tmp_path: Path) -> Iterator[Pushing]:
    for name in ("ssh", "project", "remote"):
        (tmp_path / name).mkdir()
    with servers.running(tmp_path / "ssh") as server:
        made = Pushing(tmp_path / "project", tmp_path / "remote", server)
        (made.folder / "data").mkdir()
        for number in range(FILES):
            (made.folder / "data" / str(number)).write_bytes(os.urandom(BYTES))
        made.run("git", "init", "-q")
        made.run("dvc", "init", "-q")
        made.run("dvc", "config", "core.analytics", "false")
        made.run("dvc", "add", "-q", "data")
        made.run("dvc", "remote", "add", "-q", "-d", "team", f"ssh://host{made.remote}")
        yield made


def begin(pushing: Pushing) -> subprocess.Popen[str]:
    """A push that has written something, and still has something to write."""
    process = pushing.start("dvc", "push")
    wait_until(lambda: any(file.is_file() for file in pushing.remote.rglob("*")), process)
    return process


def assert_it_continues(pushing: Pushing) -> None:
    """A second push brings the rest, and a clone without data gets all of it."""
    pushing.stored()
    pushing.run("dvc", "push")
    assert len(pushing.stored()) == FILES
    clone = Pushing(pushing.folder.parent / "clone", pushing.remote, pushing.server)
    clone.folder.mkdir()
    (clone.folder / "data.dvc").write_bytes((pushing.folder / "data.dvc").read_bytes())
    (clone.folder / ".dvc").mkdir()
    (clone.folder / ".dvc/config").write_bytes((pushing.folder / ".dvc/config").read_bytes())
    clone.run("git", "init", "-q")
    clone.run("dvc", "pull")
    assert tree_bytes(clone.folder / "data") == tree_bytes(pushing.folder / "data")


def test_an_interrupted_push(pushing: Pushing) -> None:
    process = begin(pushing)
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=60)[0].splitlines()[-1] == "ERROR: interrupted by the user"
    assert len(pushing.stored()) < FILES
    assert_it_continues(pushing)


def test_a_remote_that_vanishes_during_a_push(pushing: Pushing) -> None:
    process = begin(pushing)
    pushing.server.vanish()
    output = process.communicate(timeout=60)[0]
    assert process.returncode != 0 and "Traceback" not in output and "ERROR: " in output
    assert "Connect call failed" in pushing.run("dvc", "push", check=255)
    pushing.server.start()
    assert_it_continues(pushing)


def test_a_full_remote(pushing: Pushing) -> None:
    disk = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(pushing.remote)], capture_output=True)
    if disk.returncode:
        pytest.skip("a small disk needs the right to mount one")
    try:
        output = pushing.run("dvc", "push", check=1)
        assert re.search(
            r"^ERROR: failed to push data to the cloud - \d+ files failed to upload$", output, re.MULTILINE
        )
        subprocess.run(["mount", "-o", "remount,size=64m", str(pushing.remote)], check=True)
        assert_it_continues(pushing)
    finally:
        subprocess.run(["umount", "-l", str(pushing.remote)], check=True)


def test_the_servers_key_is_checked_by_the_tunnel_alone(pushing: Pushing) -> None:
    """DVC takes any key; OpenSSH does not, and a push through its tunnel is as safe as it is."""
    (port,) = free_ports(1)
    tunnel = [
        "ssh", "-F", str(pushing.server.config), "-f", "-N", "-o", "ExitOnForwardFailure=yes",
        "-L", f"{port}:localhost:{pushing.server.port}", "host",
    ]  # fmt: skip
    known = pushing.server.known_hosts.read_text()
    pushing.server.known_hosts.write_text("")
    assert "Host key verification failed." in pushing.run(*tunnel, check=255)
    pushing.run("dvc", "push")
    pushing.server.known_hosts.write_text(known)
    subprocess.run(tunnel, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    pushing.run("dvc", "remote", "modify", "team", "url", f"ssh://localhost:{port}{pushing.remote}")
    pushing.run("dvc", "remote", "modify", "team", "keyfile", str(pushing.server.key))
    assert "in sync" in pushing.run("dvc", "status", "-c")


BLOCKED = """
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name in ("dvc_ssh", "sshfs"):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Missing())
"""


def test_without_the_extra(pushing: Pushing) -> None:
    (pushing.folder / "sitecustomize.py").write_text(BLOCKED)
    output = pushing.run("env", f"PYTHONPATH={pushing.folder}", "dvc", "push", check=255)
    assert "ERROR: unexpected error - ssh is supported, but requires 'dvc-ssh' to be installed" in output

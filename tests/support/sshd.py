"""A real SSH server of this machine, on the loopback, with keys and a folder of its own."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from tests.support.slurm import PATIENCE, SBIN, free_ports

SERVER = """
Port {port}
ListenAddress 127.0.0.1
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/user_key.pub
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
Subsystem sftp internal-sftp
"""
#: How a user who has logged in there before finds it; DVC reads this too.
CLIENT = """
Host host
  HostName 127.0.0.1
  Port {port}
  User {user}
  IdentityFile {folder}/user_key
  UserKnownHostsFile {folder}/known_hosts
  StrictHostKeyChecking yes
"""


class Sshd:
    """An SSH server that can be stopped and started.

    Attributes:
        home: of a user who may log in to `host`: give it to commands as HOME.
        config: of OpenSSH's client, for `ssh -F`: it does not look at HOME.
        key: the user's.
        known_hosts: file of the keys that the user takes for the server's.
    """

    def __init__(self, folder: Path, program: str) -> None:
        self.home = folder / "home"
        self.key = folder / "user_key"
        self.known_hosts = folder / "known_hosts"
        self.config = self.home / ".ssh/config"
        self._folder = folder
        self._program = program
        self._process: subprocess.Popen[bytes] | None = None
        (self.port,) = free_ports(1)
        for name in ("host_key", "user_key"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)], check=True)
        host_key = (folder / "host_key.pub").read_text()
        self.known_hosts.write_text(f"[127.0.0.1]:{self.port} {host_key}")
        names = {"folder": folder, "port": self.port, "user": getpass.getuser()}
        (folder / "sshd_config").write_text(SERVER.format(**names))
        self.config.parent.mkdir(parents=True)
        self.config.write_text(CLIENT.format(**names))

    def start(self) -> None:
        """Let it answer."""
        command = [self._program, "-D", "-e", "-f", str(self._folder / "sshd_config")]
        with (self._folder / "sshd.output").open("a") as output:
            self._process = subprocess.Popen(command, stdout=output, stderr=output)
        end = time.monotonic() + PATIENCE
        while True:
            with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
                return
            if self._process.poll() is not None or time.monotonic() > end:
                pytest.fail(f"sshd did not start: {(self._folder / 'sshd.output').read_text()}")
            time.sleep(0.05)

    def vanish(self) -> None:
        """End it and whoever is logged in, at once."""
        if self._process is None:
            return
        server = psutil.Process(self._process.pid)
        for process in [*server.children(recursive=True), server]:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self._process.wait()
        self._process = None


def is_installed() -> bool:
    """Whether there are a server and OpenSSH's client."""
    return _program() is not None and shutil.which("ssh") is not None


def _program() -> str | None:
    return shutil.which("sshd", path=os.pathsep.join((os.environ["PATH"], *SBIN)))


@contextmanager
def running(folder: Path) -> Iterator[Sshd]:
    """A server that ends with this; skips the test where none is installed.

    Args:
        folder: that exists, for its keys.
    """
    program = _program()
    if program is None or not is_installed():
        pytest.skip("no SSH server is here (sshd, ssh); on Debian: apt-get install openssh-server openssh-client")
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # it wants the folder that its service makes
    server = Sshd(folder, program)
    server.start()
    try:
        yield server
    finally:
        server.vanish()

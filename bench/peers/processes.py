"""
How a peer is fetched, started on its core and ended, and the files that several of them want.

A peer's own directory is made below the benchmark's, readable by its owner only: its configuration holds the token.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import jwt
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from bench.contestants import PROXY_CORE, START_SECONDS, Issuer

TOOLS = Path(__file__).resolve().parent / ".tools"
INSTALL_SECONDS = 300.0
STOP_SECONDS = 5.0
MAX_OPEN_FILES = 65_536  # 5,000 idle connections and as many upstream, with room


def find_program(name: str) -> str | None:
    """Return the path of the server *name*: Debian keeps servers where a user's PATH does not look."""
    return shutil.which(name) or shutil.which(name, path="/usr/sbin")


def own_directory(directory: Path, *, name: str) -> Path:
    """Return a new directory for the peer *name*: it may run twice at once, plain and with TLS."""
    return Path(tempfile.mkdtemp(prefix=f"{name}-", dir=directory))


def public_key_pem(issuer: Issuer, *, path: Path) -> Path:
    """Write the issuer's public key to *path* as PEM, and return it."""
    jwk = jwt.PyJWK(json.loads(issuer.jwks_file.read_text())["keys"][0])
    path.write_bytes(jwk.key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return path


@contextmanager
def serving(
    *command: str | Path,
    port: int,
    directory: Path,
    core: int = PROXY_CORE,
    environment: Mapping[str, str] | None = None,
) -> Iterator[int]:
    """Run *command* in *directory* on *core*; give its process id once *port* accepts connections."""
    files = min(resource.getrlimit(resource.RLIMIT_NOFILE)[1], MAX_OPEN_FILES)
    pinned = ["taskset", "--cpu-list", str(core)] if len(os.sched_getaffinity(0)) > 1 else []
    # Both become the command (exec), so the process id is the peer's.
    words = [*pinned, "prlimit", f"--nofile={files}:{files}", *map(str, command)]
    with (directory / "stdout").open("wb") as stdout, (directory / "stderr").open("wb") as stderr:
        process = subprocess.Popen(
            words, cwd=directory, stdout=stdout, stderr=stderr, env={**os.environ, **(environment or {})}
        )
    try:
        _wait_until_it_accepts(process, port=port, name=Path(command[0]).name, stderr=directory / "stderr")
        yield process.pid
    finally:
        process.terminate()
        try:
            process.wait(timeout=STOP_SECONDS)
        except subprocess.TimeoutExpired:  # it waits for its callers, who are gone
            process.kill()
            process.wait(timeout=STOP_SECONDS)


def _wait_until_it_accepts(process: subprocess.Popen[bytes], *, port: int, name: str, stderr: Path) -> None:
    give_up = time.monotonic() + START_SECONDS
    while time.monotonic() < give_up:
        if process.poll() is not None:
            raise SystemExit(f"{name} ended with {process.returncode}: {stderr.read_text()[-500:]}")
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise SystemExit(f"{name} did not listen within {START_SECONDS:.0f} seconds")


def install_packages(*packages: str) -> None:
    """Install Debian's *packages*; a service that one of them brings is not started (RUNLEVEL, invoke-rc.d(8))."""
    prefix = () if os.geteuid() == 0 else ("sudo", "--non-interactive")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    for words in (("update",), ("install", "--yes", "--no-install-recommends", *packages)):
        _fetch(*prefix, "apt-get", "--quiet", "--quiet", *words, environment=environment)


def install_wheels(environment: Path, *, lock: Path) -> None:
    """Make a virtual environment at *environment* with what *lock* pins; one that exists is brought up to it."""
    _fetch(sys.executable, "-m", "venv", environment)
    _fetch(environment / "bin" / "python", "-m", "pip", "install", "-qq", "--require-hashes", "--no-deps", "-r", lock)


def install_node_packages(project: Path) -> None:
    """Install what the package-lock.json of *project* pins, beside it."""
    _fetch("npm", "ci", "--prefix", project, "--silent", "--no-audit", "--no-fund", "--no-update-notifier")


def _fetch(*words: str | Path, environment: Mapping[str, str] | None = None) -> None:
    subprocess.run(
        [*map(str, words)],
        check=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        timeout=INSTALL_SECONDS,
        env=environment,
    )

"""
The processes of a benchmark: who is started how, on which core, and what is read from them.

1. The proxy has core 0 for itself; upstream and load share core 1.
2. Every process is started here, is ended by its own id, and writes below one temporary directory.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa

ROOT = Path(__file__).resolve().parent.parent
PROXY_CORE, LOAD_CORE = 0, 1
USER, AUDIENCE, ISSUER = "alice", "https://gateway.bench.example", "https://issuer.bench.example"
START_SECONDS = 60.0
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Upstream:
    """The API behind the proxies, running."""

    port: int
    token: str = field(repr=False)

    def seen(self) -> tuple[int, int]:
        """Return how many requests carried the injected token and nothing else, and how many did not."""
        with urlopen(f"http://127.0.0.1:{self.port}/bench/seen", timeout=5) as answer:
            counts = json.load(answer)
        return counts["accepted"], counts["refused"]

    @property
    def jwks_uri(self) -> str:
        """Where the issuer's keys are."""
        return f"http://127.0.0.1:{self.port}/bench/jwks"


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy, running: the process to measure, and its record: the files that match *record* below *directory*."""

    name: str
    port: int
    pid: int
    directory: Path
    record: str
    line: bytes
    _counted: dict[Path, tuple[int, int]] = field(default_factory=dict, repr=False, compare=False)

    def cpu_seconds(self) -> float:
        """Return user and system time of the process so far (proc(5), fields 14 and 15)."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS_PER_SECOND

    def recorded(self) -> int:
        """Return how many requests its record holds; what was counted before is not read again."""
        for path in self.directory.glob(self.record):
            counted, end = self._counted.get(path, (0, 0))
            with path.open("rb") as file:
                file.seek(end)
                data = file.read()
            whole = data.rfind(b"\n") + 1
            self._counted[path] = (counted + data.count(self.line, 0, whole), end + whole)
        return sum(count for count, _ in self._counted.values())

    def memory_bytes(self, name: str = "VmRSS") -> int:
        """Return the memory that the process holds now, or (VmHWM) held at most since `forget_peak` (proc(5))."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * 1024
        raise SystemExit(f"bench: {self.name} has no {name}")

    def forget_peak(self) -> None:
        """Let VmHWM count from now on; the gateway lets only root do so."""
        with suppress(PermissionError):
            Path(f"/proc/{self.pid}/clear_refs").write_text("5")


@dataclass(frozen=True, slots=True)
class Issuer:
    """A key pair, its JWKS on disk, and one caller's JWT; what it signs is valid from *now* on, in POSIX seconds."""

    jwks_file: Path
    credential: str = field(repr=False)
    key: rsa.RSAPrivateKey = field(repr=False)
    now: int

    def sign(self, user: str) -> str:
        """Return a JWT of *user* that outlives the benchmark."""
        return _sign(self.key, user, now=self.now)


def _sign(key: rsa.RSAPrivateKey, user: str, *, now: int) -> str:
    claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": user, "iat": now, "exp": now + 86_400}
    return jwt.encode(claims, key, algorithm="RS256", headers={"kid": "bench"})


def make_issuer(directory: Path, *, now: int | None = None) -> Issuer:
    """Return an issuer whose key was made now; its credential is valid from *now* on, in POSIX seconds."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    jwk = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(key.public_key()))
    jwks_file = directory / "jwks.json"
    jwks_file.write_text(json.dumps({"keys": [{**jwk, "kid": "bench", "alg": "RS256", "use": "sig"}]}))
    now = int(time.time()) if now is None else now
    return Issuer(jwks_file, _sign(key, USER, now=now), key, now)


def keep_bytecode(directory: Path) -> None:
    """Have every Python that is started from here keep its bytecode in *directory*, as an installation does."""
    # Without it a start compiles 2,700 modules, two seconds of the gateway's: a developer's shell may ask for that.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    os.environ["PYTHONPYCACHEPREFIX"] = str(directory)


def free_port() -> int:
    """Return a port of 127.0.0.1 that nobody listens on at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def announced(*words: str, core: int) -> Iterator[dict[str, Any]]:
    """Run `python -m` *words* on *core*; give the JSON line that it prints when it is ready."""
    command = ["taskset", "--cpu-list", str(core)] if len(os.sched_getaffinity(0)) > 1 else []
    process = subprocess.Popen([*command, sys.executable, "-m", *words], cwd=ROOT, stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        if not line:
            raise SystemExit(f"{words[0]} ended with {process.wait(START_SECONDS)} before it was ready")
        yield json.loads(line)
    finally:
        process.terminate()
        process.wait(timeout=START_SECONDS)
        process.stdout.close()


@contextmanager
def running_upstream(issuer: Issuer, *, token: str) -> Iterator[Upstream]:
    """Run the API in Python: for where nginx is not installed (bench/peers/upstream_nginx.py)."""
    port = free_port()
    words = ("bench.upstream", "--port", str(port), "--token", token, "--jwks-file", str(issuer.jwks_file))
    with announced(*words, core=LOAD_CORE):
        yield Upstream(port, token)

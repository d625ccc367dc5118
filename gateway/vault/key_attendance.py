"""
Which processes serve from a data directory, and which sealing keys each of them has: what a rotation waits for.

Rules:
1. A process that serves holds a file of its own, locked (flock): the lock ends with the process, however it ends. One
   that is not locked is left over, and removed.
2. The file says which keys the process opens and which one it seals with. What cannot be read yet counts as nothing.
3. A process that cannot write its file serves all the same, and says so: a rotation does not wait for it.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import structlog

FOLDER = "sealing-processes"
MAX_BYTES = 4096

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Attendant:
    """One process that serves: the ids of the keys it opens, and of the one it seals with (b"": not known yet)."""

    process: str
    opens: frozenset[bytes]
    seals: bytes


class Attendance:
    """This process' file. Made by `begin`, ended with `end`."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self._path = path
        self._descriptor = descriptor
        self._told = b""

    @classmethod
    def begin(cls, data_dir: Path) -> Attendance | None:
        """Return this process' file, or None where it cannot be made (rule 3)."""
        folder = data_dir / FOLDER
        path = folder / f"{os.getpid()}-{os.urandom(4).hex()}"
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            log.warning("sealing_attendance_not_written", error=exc.strerror)
            return None
        return cls(path, descriptor)

    def tell(self, *, opens: Iterable[bytes], seals: bytes) -> None:
        """Write which keys this process has, if that has changed."""
        said = json.dumps({"opens": sorted(key_id.hex() for key_id in opens), "seals": seals.hex()}).encode()
        if said == self._told:
            return
        try:
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, said, 0)
            self._told = said
        except OSError as exc:
            log.warning("sealing_attendance_not_written", error=exc.strerror)

    def end(self) -> None:
        """Take this process off the list."""
        with suppress(OSError):
            self._path.unlink()
        os.close(self._descriptor)


def attendants(data_dir: Path) -> list[Attendant]:
    """Return the processes that serve from *data_dir* now."""
    found = (_read(path) for path in sorted((data_dir / FOLDER).glob("*-*")))
    return [attendant for attendant in found if attendant is not None]


def _read(path: Path) -> Attendant | None:
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return None
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return _parse(path.name, os.pread(descriptor, MAX_BYTES, 0))
        if os.pread(descriptor, 1, 0):
            # Nobody holds it. (An empty one may belong to a process that is about to lock it.)
            path.unlink(missing_ok=True)
        return None
    finally:
        os.close(descriptor)


def _parse(process: str, content: bytes) -> Attendant:
    try:
        said = json.loads(content)
        opens = frozenset(bytes.fromhex(key_id) for key_id in said["opens"])
        return Attendant(process, opens, bytes.fromhex(said["seals"]))
    except (ValueError, KeyError, TypeError):
        return Attendant(process, frozenset(), b"")

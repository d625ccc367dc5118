"""
Answers of providers that the database does not take: kept on disk, sealed, until it does (threats.md R15).

Rules:
1. An answer that cannot be written holds the only refresh token of its grant. It stays in memory, where the write is
   repeated (`refresh.py`), and lies here meanwhile, for the case that the process ends before the database is back.
2. A file is whole or absent (written aside, synced, renamed), private (0600), sealed, and bound to its token's id.
3. What lies here when a gateway starts is stored before it serves, under the conditions of a late answer.
4. A disk that takes nothing (it may be the database's own) is told in the log; the answer in memory is what is left.
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, field
from pathlib import Path

import orjson
import structlog

from gateway.vault.oauth import Granted
from gateway.vault.sealing import Binding, SealBroken, Sealer

RECOVERY_DIRECTORY = "recovery"
SUFFIX = ".sealed"

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class KeptAnswer:
    """
    What an exchange brought: for the token of this id, in this version, whose refresh token *spent* was exchanged by
    the holder *owner* of its lease.
    """

    token_id: str
    version: int
    owner: str
    spent: str = field(repr=False)
    granted: Granted = field(repr=False)


class Recovery:
    """The directory of kept answers. It is made with the first of them. Methods block for a disk's time."""

    def __init__(self, directory: Path, sealer: Sealer) -> None:
        self._directory = directory
        self._sealer = sealer

    def keep(self, answer: KeptAnswer) -> None:
        """Write *answer*, in place of an older one of the same token."""
        path = self._path(answer.token_id)
        aside = path.with_suffix(".new")
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            sealed = self._sealer.seal(orjson.dumps(asdict(answer)), binding=_binding(answer.token_id))
            descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(sealed)
                file.flush()
                os.fsync(file.fileno())
            aside.replace(path)
            _sync(self._directory)
        except OSError as exc:
            log.critical("refreshed_token_not_kept", token=answer.token_id, error=type(exc).__name__)
            return
        log.warning("refreshed_token_kept_aside", token=answer.token_id)

    def drop(self, token_id: str) -> None:
        """Remove the answer of this token: it is stored, or there is nothing to store it in."""
        try:
            self._path(token_id).unlink(missing_ok=True)
        except OSError as exc:  # at the next start it is found to be superseded
            log.warning("kept_answer_not_removed", token=token_id, error=type(exc).__name__)

    def all(self) -> list[KeptAnswer]:
        """Return what lies here. What cannot be opened is told in the log, and stays."""
        found: list[KeptAnswer] = []
        for path in sorted(self._directory.glob(f"*{SUFFIX}")):
            try:
                content = orjson.loads(self._sealer.open(path.read_bytes(), binding=_binding(path.stem)))
                granted = content.pop("granted")
                scopes = granted.pop("scopes")
                granted["scopes"] = None if scopes is None else tuple(scopes)
                found.append(KeptAnswer(**content, granted=Granted(**granted)))
            except (OSError, SealBroken, ValueError, TypeError, KeyError) as exc:
                log.critical("kept_answer_not_read", token=path.stem, error=type(exc).__name__)
        return found

    def _path(self, token_id: str) -> Path:
        return self._directory / f"{token_id}{SUFFIX}"


def _binding(token_id: str) -> Binding:
    return Binding("recovery", "answer", token_id, connection="")


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

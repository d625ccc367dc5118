"""Answers that the database does not take lie on disk, sealed, until it does."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from gateway.vault.oauth import Granted
from gateway.vault.recovery import KeptAnswer, Recovery
from gateway.vault.sealing import Sealer, SealingKey

KEPT = KeptAnswer("t1", 3, "owner", "CANARY-spent", Granted("CANARY-at", "CANARY-rt", "Bearer", 1.5, ("a", "b")))


@pytest.fixture
def sealer() -> Sealer:
    """A sealer with a key of its own."""
    return Sealer(SealingKey.from_bytes(os.urandom(32)), os.urandom)


def test_answer_comes_back_as_it_was_kept(tmp_path: Path, sealer: Sealer) -> None:
    """What was kept is read again, until it is dropped; dropping what is not there is nothing."""
    recovery = Recovery(tmp_path / "recovery", sealer)
    assert [] == recovery.all()

    recovery.keep(KEPT)
    assert [KEPT] == Recovery(tmp_path / "recovery", sealer).all()

    recovery.drop("t1")
    recovery.drop("t1")
    assert [] == recovery.all()


def test_file_is_private_and_sealed(tmp_path: Path, sealer: Sealer) -> None:
    """Neither the file nor a repr shows a token; the directory and the file are this user's alone."""
    Recovery(tmp_path / "recovery", sealer).keep(KEPT)

    (file,) = (tmp_path / "recovery").iterdir()
    assert b"CANARY" not in file.read_bytes()
    assert "CANARY" not in repr(KEPT)
    assert (0o700, 0o600) == (file.parent.stat().st_mode & 0o777, file.stat().st_mode & 0o777)


def test_file_that_cannot_be_read_is_told_and_stays(tmp_path: Path, sealer: Sealer) -> None:
    """Another key, other bytes, another token's file: none is believed, none is removed, the rest is read."""
    recovery = Recovery(tmp_path / "recovery", sealer)
    recovery.keep(KEPT)
    (tmp_path / "recovery" / "t2.sealed").write_bytes((tmp_path / "recovery" / "t1.sealed").read_bytes())
    (tmp_path / "recovery" / "t3.sealed").write_bytes(b"")

    with capture_logs() as logs:
        found = recovery.all()

    assert [KEPT] == found
    assert [("kept_answer_not_read", "t2"), ("kept_answer_not_read", "t3")] == [
        (entry["event"], entry["token"]) for entry in logs
    ]
    assert 3 == len(list((tmp_path / "recovery").iterdir()))


def test_disk_that_takes_nothing_is_told(tmp_path: Path, sealer: Sealer) -> None:
    """Where the answer cannot be kept either, the log says so, and the job goes on with what it has in memory."""
    (tmp_path / "recovery").write_bytes(b"no directory")

    with capture_logs() as logs:
        Recovery(tmp_path / "recovery", sealer).keep(KEPT)

    assert ["refreshed_token_not_kept"] == [entry["event"] for entry in logs]
    assert "CANARY" not in str(logs)

"""Who serves from a data directory: files that live as long as their process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from gateway.vault.key_attendance import FOLDER, Attendance, attendants

KEYS = (b"\x01" * 8, b"\x02" * 8)

SERVE = """
import sys
from pathlib import Path
from gateway.vault.key_attendance import Attendance
attendance = Attendance.begin(Path(sys.argv[1]))
attendance.tell(opens=[bytes([1]) * 8], seals=bytes([1]) * 8)
print("ready", flush=True)
sys.stdin.read()
"""


def test_nobody_serves(tmp_path: Path) -> None:
    """A directory that nobody serves from has no attendants."""
    assert [] == attendants(tmp_path)


def test_attendant_says_what_it_has_and_leaves(tmp_path: Path) -> None:
    """What was told last is read; after the end nothing is left."""
    attendance = Attendance.begin(tmp_path)
    assert attendance is not None
    (before,) = attendants(tmp_path)
    attendance.tell(opens=KEYS, seals=KEYS[0])
    attendance.tell(opens=KEYS[:1], seals=KEYS[0])
    (after,) = attendants(tmp_path)
    attendance.end()

    assert (frozenset(), b"") == (before.opens, before.seals)
    assert (frozenset(KEYS[:1]), KEYS[0]) == (after.opens, after.seals)
    assert after.process.startswith(f"{os.getpid()}-")
    assert [] == list((tmp_path / FOLDER).iterdir())


def test_killed_process_counts_no_more(tmp_path: Path) -> None:
    """The file of a process that was killed is no attendant, and is removed."""
    with subprocess.Popen(
        [sys.executable, "-c", SERVE, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert b"ready\n" == process.stdout.readline()
        alive = attendants(tmp_path)
        process.send_signal(signal.SIGKILL)
        process.wait()

    assert [KEYS[0]] == [one.seals for one in alive]
    assert [] == attendants(tmp_path)
    assert [] == list((tmp_path / FOLDER).iterdir())


def test_unreadable_words_count_as_nothing(tmp_path: Path) -> None:
    """A file that holds something else belongs to a process that has no key yet."""
    attendance = Attendance.begin(tmp_path)
    (path,) = (tmp_path / FOLDER).iterdir()
    for content in ("{", "[]", '{"opens": 1, "seals": ""}', '{"opens": ["xx"], "seals": ""}'):
        path.write_text(content)
        assert [frozenset()] == [one.opens for one in attendants(tmp_path)]
    assert attendance is not None
    attendance.end()


def test_serves_without_a_place_to_say_so(tmp_path: Path) -> None:
    """A directory that cannot be written to keeps nobody from serving."""
    (tmp_path / FOLDER).write_text("in the way")

    assert Attendance.begin(tmp_path) is None

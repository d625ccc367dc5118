"""`gateway demo` as a newcomer meets it: started as a process, its printed lines pasted."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import signal
import sys
from pathlib import Path

import pytest

from tests.proxy.wire import eventually

SECONDS_UNTIL_TOKENS_DIE = 20.5


async def paste(line: str) -> tuple[str, str]:
    """Run a printed line in a shell; return the head and the body of the answer."""
    process = await asyncio.create_subprocess_exec(*shlex.split(line), stdout=asyncio.subprocess.PIPE)
    output, _ = await process.communicate()
    head, _, body = output.decode().replace("\r\n", "\n").partition("\n\n")
    return head, body


def read_record(path: Path) -> list[dict[str, object]]:
    """Return the lines of a record."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def is_empty(directory: Path) -> bool:
    """Whether nothing is left in *directory*."""
    return not any(directory.iterdir())


@pytest.mark.parametrize("number", [signal.SIGINT])
async def test_printed_lines_work_and_nothing_is_left(tmp_path: Path, number: signal.Signals) -> None:
    """
    The curl line answers 200 with contacts, again after the token has died (refreshed), and the other user's line with
    others; the record tells of it; after Ctrl-C the directory is gone and the exit code is 0.
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "gateway",
        "demo",
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=tmp_path,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    try:
        assert process.stdout is not None
        text = ""
        async with asyncio.timeout(30):
            while "Ctrl-C" not in text:
                text += (await process.stdout.readline()).decode()
        ada, grace = (line.strip() for line in text.splitlines() if line.strip().startswith("curl "))
        first, second = await paste(ada), await paste(grace)
        await asyncio.sleep(SECONDS_UNTIL_TOKENS_DIE)
        again = await paste(ada)
        found = re.search(r"tail -n 5 (\S+)", text)
        assert found is not None
        record = Path(found[1])
        # The outcome is written behind the answer.
        assert await eventually(lambda: read_record(record)[-1]["event"] == "outcome")
        lines = read_record(record)
    finally:
        process.send_signal(number)
        _, stderr = await process.communicate()

    assert first[0].startswith("HTTP/1.1 200")
    assert again[0].startswith("HTTP/1.1 200")
    assert first[1] == again[1]
    assert first[1] != second[1]
    assert 'token;desc="refreshed"' in again[0]
    assert 'token;desc="refreshed"' not in first[0]
    told = ["intent", "exchange_intent", "exchange_outcome", "attempt", "outcome"]
    assert told == [line["event"] for line in lines[-5:]]
    assert (401, 200) == (lines[-2]["status"], lines[-1]["status"])
    assert 0 == process.returncode
    assert is_empty(tmp_path)
    assert b"Traceback" not in stderr

"""
The name that tells this installation from every other: made once, kept in the data directory.

Gateways write it into Via, so that a request which comes back is known, while one that passes two installations is not
taken for a loop.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

INSTANCE_FILE = "instance-id"
_ID = re.compile(r"[0-9a-f]{16}")


def instance_id(directory: Path, *, random_bytes: Callable[[int], bytes]) -> str:
    """
    Return the id in *directory*, 16 hexadecimal digits; a new one where there is none, or what is there is none.

    Raises:
        OSError: it can be neither read nor written.
    """
    path = directory / INSTANCE_FILE
    try:
        found = path.read_text("ascii", errors="replace").strip()
    except FileNotFoundError:
        found = ""
    if _ID.fullmatch(found) is not None:
        return found
    made = random_bytes(8).hex()
    # Put into place whole. Of two processes that start at once for the first time each may keep its own until it starts
    # again: a loop is then found one round later.
    beside = path.with_name(f"{INSTANCE_FILE}.{os.getpid()}")
    beside.write_text(f"{made}\n", "ascii")
    beside.replace(path)
    return made

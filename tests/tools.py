"""
Which tools of the system a test needs, and what happens where one is missing.

1. A missing tool skips the test by name and says how to install it.
2. Under GATEWAY_REQUIRE_TOOLS=1 (CI, which installs them all) the same is a failure: nothing is left out silently.
"""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

import pytest

ROOT = Path(__file__).resolve().parent.parent
OIDC_PROVIDER = Path(__file__).resolve().parent / "oidc_provider"

# The tool's command, and the Debian packages that bring it.
PACKAGES: Mapping[str, str] = {
    "chromium": "chromium",
    "gcc": "gcc",
    "initdb": "postgresql",
    "node": "nodejs",
    "npm": "npm",
    "pg_dump": "postgresql",
    "sqlite3": "sqlite3",
    "wrk": "wrk",
}


def require_tool(name: str) -> Path:
    """
    Return the path of the program *name*, one of `PACKAGES`; without it the test is skipped, or fails in CI.
    """
    # Debian keeps PostgreSQL's programs outside of PATH, one directory per version.
    servers = [str(path) for path in sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)]
    found = shutil.which(name) or shutil.which(name, path=os.pathsep.join(servers))
    if found is None:
        missing(name, f"apt-get install {PACKAGES[name]}")
    return Path(found)


def require_oidc_provider() -> Path:
    """Return the node program that runs the tests' OAuth provider, its packages being installed."""
    node = require_tool("node")
    if not (OIDC_PROVIDER / "node_modules" / "oidc-provider").is_dir():
        missing("oidc-provider", f"npm ci --prefix {OIDC_PROVIDER.relative_to(ROOT)}")
    return node


def own_port() -> int:
    """Return a free port of loopback that the system gives to nobody: what is to be bound later, or twice, can be."""
    first, end = 20_000, 32_768  # from there on Linux gives ports to whoever asks for any
    for number in range(end - first):
        port = first + (os.getpid() + number) % (end - first)
        with socket.socket() as free, suppress(OSError):
            free.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no port is free")


def missing(name: str, command: str) -> NoReturn:
    """Skip the running test for want of the tool *name*, or fail it where tools are required."""
    message = f"{name} is missing: {command}"
    if os.environ.get("GATEWAY_REQUIRE_TOOLS") == "1":
        pytest.fail(f"{message} (a failure, because of GATEWAY_REQUIRE_TOOLS=1)", pytrace=False)
    pytest.skip(message)

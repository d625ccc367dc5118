"""
A PostgreSQL server of the tests' own: the system's packages, a directory that is removed, a unix socket.

1. The server refuses to run as root: then it runs as the package's own user.
2. It belongs to one `with`, and is ended by its own id. Nothing it holds survives; so nothing of it is synced, unless
   *is_durable* says so.
3. Each test has a database of its own. One that is given back is emptied and given out again: that costs 20 ms and no
   disk, a new one 60 ms (200 beside other work) and 8 MB.
"""

from __future__ import annotations

import itertools
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import psycopg

from tests.tools import require_tool

START_SECONDS = 30.0
STOP_SECONDS = 20.0
USERS = ("postgres", "nobody")
UNSYNCED = ("-c", "fsync=off", "-c", "synchronous_commit=off", "-c", "full_page_writes=off")


class PostgresServer:
    """A running server, between `__enter__` and `__exit__`. *is_durable*: commits reach the disk, as in production."""

    def __init__(self, *, is_durable: bool = False, settings: tuple[str, ...] = ()) -> None:
        self._settings = (*(() if is_durable else UNSYNCED), *settings)
        self._numbers = itertools.count(1)
        self._given_back: list[str] = []
        self._process: subprocess.Popen[bytes] | None = None
        self._home = Path()

    def __enter__(self) -> Self:
        initdb = require_tool("initdb")
        self._home = Path(tempfile.mkdtemp(prefix="gateway-pg-"))  # short: a socket's path has 107 bytes
        self._as: dict[str, Any] = {}
        if os.geteuid() == 0:
            account = next(pwd.getpwnam(name) for name in USERS if _is_user(name))
            os.chown(self._home, account.pw_uid, account.pw_gid)
            self._as = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
        try:
            options = ("-A", "trust", "-U", "gateway", "-E", "UTF8", "--no-locale", "--no-sync")
            self._run(str(initdb), *options, "-D", str(self._home / "data"))
            self.start()
        except BaseException:
            shutil.rmtree(self._home, ignore_errors=True)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        shutil.rmtree(self._home, ignore_errors=True)

    def start(self) -> None:
        """Start the server on its data, and wait until it answers."""
        postgres = require_tool("initdb").resolve().with_name("postgres")
        listen = ("-c", "listen_addresses=", "-c", f"unix_socket_directories={self._home}")
        command = (str(postgres), "-D", str(self._home / "data"), *listen, *self._settings)
        with (self._home / "log").open("ab") as log:
            self._process = subprocess.Popen(
                command, cwd=self._home, stdin=subprocess.DEVNULL, stdout=log, stderr=log, **self._as
            )
        until = time.monotonic() + START_SECONDS
        while True:
            try:
                psycopg.connect(self._dsn("postgres")).close()
            except psycopg.OperationalError:
                if time.monotonic() > until or self._process.poll() is not None:
                    raise
                time.sleep(0.05)
            else:
                return

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """Stop the server: SIGINT breaks off every connection, SIGQUIT is what a crash looks like."""
        if self._process is None:
            return
        self._process.send_signal(signal.SIGCONT)
        self._process.send_signal(how)
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    @property
    def processes(self) -> list[int]:
        """The server's process and those that serve its connections."""
        assert self._process is not None
        parent = self._process.pid
        return [parent, *map(int, Path(f"/proc/{parent}/task/{parent}/children").read_text().split())]

    def new_database(self) -> str:
        """Return the URL of an empty database that nobody else has."""
        if self._given_back:
            name = self._given_back.pop()
        else:
            name = f"test_{next(self._numbers)}"
            self.execute(f"CREATE DATABASE {name}")
        return f"postgresql+psycopg://gateway@/{name}?host={self._home}"

    @property
    def socket_path(self) -> str:
        """Where it listens."""
        return str(self._home / ".s.PGSQL.5432")

    def give_back(self, url: str) -> None:
        """Take the database of `new_database` back: end the sessions on it, and all that is in it."""
        name = urlsplit(url).path.removeprefix("/")
        self.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")  # noqa: S608
        self.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public", name)
        self._given_back.append(name)

    def execute(self, statement: str, database: str = "postgres") -> list[tuple[Any, ...]]:
        """Run *statement* outside of a transaction, and return its rows."""
        with psycopg.connect(self._dsn(database), autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def backends(self, database: str) -> list[int]:
        """Return the process ids of the sessions on *database*."""
        return [
            row[0]
            for row in self.execute(f"SELECT pid FROM pg_stat_activity WHERE datname = '{database}'")  # noqa: S608
        ]

    def _dsn(self, database: str) -> str:
        return f"host={self._home} user=gateway dbname={database}"

    def _run(self, *command: str) -> None:
        done = subprocess.run(command, cwd=self._home, capture_output=True, check=False, **self._as)
        if done.returncode:
            raise RuntimeError(f"{Path(command[0]).name}: {done.stderr.decode(errors='replace')}")


def _is_user(name: str) -> bool:
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True

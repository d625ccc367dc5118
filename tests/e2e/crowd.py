"""Strangers who connect in their thousands: plain sockets, from addresses of loopback that stay below their limit."""

from __future__ import annotations

import resource
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

PER_ADDRESS = 1_000  # `listeners.traffic.limits.connections_per_address` is 1,024
WAIT_SECONDS = 60.0  # for a connection, and for what comes over it


@contextmanager
def many_descriptors() -> Iterator[int]:
    """Raise how many descriptors this process and its children may have, as far as it goes; yield the number."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        yield hard
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def connect(url: str, count: int) -> list[socket.socket]:
    """Open *count* connections to the server at *url*."""
    parts = urlsplit(url)
    opened = []
    for number in range(count):
        stranger = socket.socket()
        opened.append(stranger)
        stranger.settimeout(WAIT_SECONDS)
        stranger.bind((f"127.0.1.{1 + number // PER_ADDRESS}", 0))
        stranger.connect((parts.hostname, parts.port))
    return opened


def say(strangers: list[socket.socket], data: bytes) -> None:
    """Send *data* over each connection."""
    for stranger in strangers:
        stranger.sendall(data)


def hear(strangers: list[socket.socket]) -> list[bytes]:
    """Return what comes over each connection until the other side ends it."""
    return [b"".join(iter(lambda stranger=stranger: stranger.recv(65_536), b"")) for stranger in strangers]  # type: ignore[misc]


def is_open(stranger: socket.socket) -> bool:
    """Whether nothing has come over this connection, its end neither."""
    stranger.setblocking(False)
    try:
        stranger.recv(1)
    except BlockingIOError:
        return True
    except ConnectionError:
        return False
    return False

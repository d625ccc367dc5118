"""
Host names into addresses: the system's resolver, asked in threads of its own.

Rules:
1. The system's resolver blocks, for half a minute where no name server answers. It runs in threads that do nothing
   else, so it holds up neither the loop, nor files, nor the database (threats.md F7).
2. One look-up per name and port at a time, whoever asks: a name whose server hangs takes one thread, however busy its
   route is. The LOOKUP_THREADS bound what a whole list of such names can take; names beyond wait for a thread.
3. Nothing is kept: each connection asks again, so that the judged answer is a new one (F2). The system may cache.
4. The threads are daemons: a look-up that hangs does not hold up the end of the process.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from concurrent.futures import Future
from errno import EAGAIN
from queue import SimpleQueue
from typing import Any

SockAddr = tuple[Any, ...]  # what socket.connect takes: (host, port) or (host, port, flow, scope)
Dialable = tuple[int, SockAddr]  # address family, socket address
Lookup = Callable[[str, int], list[Dialable]]

LOOKUP_THREADS = 64  # started when needed; one that waits costs some 50 KB


def system_lookup(host: str, port: int) -> list[Dialable]:
    """Ask the system's resolver. Blocks; raises OSError."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
    return [(family, address) for family, _type, _proto, _name, address in found]


class Lookups:
    """The look-ups under way. *lookup* blocks and may be called from several threads."""

    def __init__(self, lookup: Lookup) -> None:
        self._lookup = lookup
        self._lock = threading.Lock()
        self._flights: dict[tuple[str, int], Future[list[Dialable]]] = {}
        self._waiting: SimpleQueue[tuple[str, int]] = SimpleQueue()
        self._threads = 0

    def __repr__(self) -> str:
        return f"<Lookups under way={len(self._flights)} threads={self._threads}>"

    def find(self, host: str, port: int) -> Future[list[Dialable]]:
        """Join the look-up of that name and port, or start it."""
        with self._lock:
            flight = self._flights.get((host, port))
            if flight is not None:
                return flight
            flight = self._flights[host, port] = Future()
            if self._threads < min(len(self._flights), LOOKUP_THREADS):
                self._start_thread(host, port)
        self._waiting.put((host, port))
        return flight

    def _start_thread(self, host: str, port: int) -> None:
        try:
            threading.Thread(target=self._work, name=f"dns_{self._threads}", daemon=True).start()
        except RuntimeError as exc:  # the system gives no thread: whoever asks later starts anew
            if not self._threads:
                del self._flights[host, port]
                raise OSError(EAGAIN, "no thread for a look-up") from exc
        else:
            self._threads += 1

    def _work(self) -> None:
        while True:
            host, port = self._waiting.get()
            found: list[Dialable] = []
            failure: Exception | None = None
            try:
                found = self._lookup(host, port)
            except Exception as exc:  # whoever waits for the flight gets it
                failure = exc
            with self._lock:
                flight = self._flights.pop((host, port))
            if failure is None:
                flight.set_result(found)
            else:
                flight.set_exception(failure)

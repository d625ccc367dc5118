"""
One process that starts the workers of a gateway and keeps their number. It serves nothing itself.

Rules:
1. Workers are forked from a process without a thread or an event loop. So each has the configuration that was checked,
   one that is started later, too, and secrets never lie in memory that is open: an exec would open it for a while
   (prctl(2): PR_SET_DUMPABLE).
2. The first worker starts alone, for it may have a schema to upgrade and a key to make; the others when it serves.
3. A worker that ended unasked is replaced, after a pause that doubles. One that ends before it has served, while none
   serves, cannot start: everything ends with its exit code.
4. A stop is asked for over a socket, not by a signal: systemd and terminals signal every process themselves, and a
   worker must not take two signals for two wishes. A second signal kills the workers.
5. The end of that socket tells a worker that its supervisor is no more.
6. A log line that finds no room is lost: a supervisor that waits for the reader of the logs replaces nobody.
"""

from __future__ import annotations

import asyncio
import os
import select
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import structlog

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)
FIRST_PAUSE_SECONDS = 0.1  # before a worker is replaced; twice as long each time
MAX_PAUSE_SECONDS = 30.0
STEADY_SECONDS = 60.0  # a worker that served so long starts with the first pause again
_SERVING = b"+"
_STOP = b"-"

log = structlog.get_logger()


class PromptLines:
    """The log's lines of a process without a thread: one that cannot be written at once is lost (rule 6)."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def write(self, line: str) -> None:
        """Write *line*, or lose it. Called by structlog."""
        # A pipe is writable when it has room for PIPE_BUF bytes, and no line of ours is that long (pipe(7)).
        if select.select((), (self._descriptor,), (), 0)[1]:
            with suppress(OSError):
                os.write(self._descriptor, line.encode())

    def flush(self) -> None:
        """Do nothing: a line is written, or lost. Called by structlog."""


class Worker:
    """
    What a worker knows: its *number* of *count*, from 1 on, the *directory* for sockets between workers, and its end of
    the one to the supervisor.
    """

    def __init__(self, number: int, channel: socket.socket, *, count: int, directory: Path) -> None:
        self.number = number
        self.count = count
        self.directory = directory
        self._channel = channel

    def tell_serving(self) -> None:
        """Tell that this worker serves."""
        with suppress(OSError):  # whoever is no more is noticed by `on_stop`
            self._channel.send(_SERVING)

    def on_stop(self, call: Callable[[bool], None]) -> None:
        """Have the running loop call *call*, once, when the worker is to stop: with True if the supervisor has died."""
        loop = asyncio.get_running_loop()

        def read() -> None:
            try:
                order = self._channel.recv(1)
            except OSError:  # a reset, or whatever else leaves nobody to ask
                order = b""
            loop.remove_reader(self._channel)
            call(order != _STOP)

        loop.add_reader(self._channel, read)


@dataclass(slots=True)
class _Place:
    """One of the workers that there are to be. *due* is when it is to be started, None while its process runs."""

    number: int
    due: float | None
    pid: int | None = None
    channel: socket.socket | None = None
    serves_since: float | None = None
    failures: int = 0


class Supervisor:
    """
    Keeps *count* processes that do *work*, with sockets in *directory*, until a signal says stop.

    A stop may take *stop_seconds*, then workers are killed. *monotonic* gives seconds.
    """

    def __init__(
        self,
        count: int,
        work: Callable[[Worker], None],
        *,
        directory: Path,
        stop_seconds: float,
        monotonic: Callable[[], float],
    ) -> None:
        self._work = work
        self._directory = directory
        self._stop_seconds = stop_seconds
        self._monotonic = monotonic
        self._places = [_Place(number, due=0.0 if number == 1 else float("inf")) for number in range(1, count + 1)]
        self._exit_code: int | None = None  # known from when everything is to end
        self._kill_at: float | None = None

    def run(self) -> int:
        """Return the exit code when all workers have ended; -N if signal N, as the second one, had them killed."""
        with _signals() as signals:
            while self._exit_code is None or self._running():
                self._start_due(signals)
                channels = [place.channel for place in self._places if place.channel is not None]
                readable, _, _ = select.select([signals, *channels], [], [], self._wait_seconds())
                if signals in readable:
                    for number in signals.recv(4096):
                        if number == signal.SIGCHLD:
                            self._reap()
                        elif self._exit_code is not None:
                            self._kill()
                            return -number
                        else:
                            self._stop(0)
                for place in self._places:
                    if place.channel in readable:
                        self._read(place)
                if self._kill_at is not None and self._monotonic() >= self._kill_at:
                    log.error("workers_killed", seconds=self._stop_seconds)
                    self._kill()
        return self._exit_code

    def _running(self) -> list[_Place]:
        return [place for place in self._places if place.pid is not None]

    def _wait_seconds(self) -> float | None:
        times = [self._kill_at] if self._exit_code is not None else [place.due for place in self._places]
        soonest = min((time for time in times if time is not None), default=float("inf"))
        return None if soonest == float("inf") else max(0.0, soonest - self._monotonic())

    def _start_due(self, signals: socket.socket) -> None:
        now = self._monotonic()
        for place in self._places:
            if self._exit_code is None and place.due is not None and place.due <= now:
                self._start(place, signals)

    def _start(self, place: _Place, signals: socket.socket) -> None:
        place.due = None
        try:
            self._fork(place, signals)
        except OSError as exc:  # no process or no descriptor is free
            log.error("worker_not_started", worker=place.number, error=exc.strerror)
            self._ended(place, 1)

    def _fork(self, place: _Place, signals: socket.socket) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            # Until the worker has its own handlers, a signal would write to this process' socket.
            signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
            try:
                pid = os.fork()
            except OSError:
                ours.close()
                signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
                raise
            if pid == 0:
                ours.close()
                worker = Worker(place.number, theirs, count=len(self._places), directory=self._directory)
                self._become(worker, signals)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        ours.setblocking(False)
        place.pid, place.channel = pid, ours

    def _become(self, worker: Worker, signals: socket.socket) -> NoReturn:
        """Be *worker*, and nothing of the supervisor any more: what stands above on the stack is not gone back to."""
        code = 1
        try:
            signal.set_wakeup_fd(-1)
            for number in SIGNALS:
                signal.signal(number, signal.SIG_DFL)
            signals.close()
            for place in self._places:
                if place.channel is not None:
                    place.channel.close()  # else a sibling would not see the supervisor's end
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
            self._work(worker)
            code = 0
        except SystemExit as exc:
            code = exc.code if isinstance(exc.code, int) else 1
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            with suppress(OSError, ValueError):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)

    def _read(self, place: _Place) -> None:
        assert place.channel is not None
        try:
            said = place.channel.recv(16)
        except BlockingIOError:
            return
        except OSError:
            said = b""
        if not said:  # it is about to end, and will be reaped
            place.channel.close()
            place.channel = None
            return
        place.serves_since = self._monotonic()
        for other in self._places:
            if other.due == float("inf"):
                other.due = place.serves_since
        if all(other.serves_since is not None for other in self._places):
            log.info("workers_serving", workers=len(self._places))

    def _reap(self) -> None:
        for place in self._running():
            assert place.pid is not None
            pid, status = os.waitpid(place.pid, os.WNOHANG)
            if pid:
                self._ended(place, os.waitstatus_to_exitcode(status))

    def _ended(self, place: _Place, code: int) -> None:
        if place.channel is not None:
            self._read(place)  # it may have served for an instant
        if place.channel is not None:
            place.channel.close()
        served_since, place.serves_since = place.serves_since, None
        place.pid = place.channel = None
        now = self._monotonic()
        if self._exit_code is not None:
            if code != 0 and served_since is not None:
                log.error("worker_ended", worker=place.number, exit_code=code)
                self._exit_code = self._exit_code or 1
            return
        if served_since is None and not any(other.serves_since is not None for other in self._places):
            self._stop(code if code > 0 else 1)
            return
        if served_since is not None and now - served_since >= STEADY_SECONDS:
            place.failures = 0
        pause = min(MAX_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2**place.failures)
        place.failures = min(place.failures + 1, 16)
        place.due = now + pause
        log.error("worker_ended", worker=place.number, exit_code=code, again_seconds=pause)

    def _stop(self, exit_code: int) -> None:
        self._exit_code = exit_code
        self._kill_at = self._monotonic() + self._stop_seconds
        for place in self._running():
            assert place.pid is not None
            if place.channel is not None:
                self._read(place)  # it may serve since an instant
            if place.serves_since is None or place.channel is None:
                os.kill(place.pid, signal.SIGTERM)  # it is not reaped, so the id is still its own
                continue
            with suppress(OSError):
                place.channel.send(_STOP)

    def _kill(self) -> None:
        """Kill the workers and wait for their end."""
        for place in self._running():
            assert place.pid is not None
            os.kill(place.pid, signal.SIGKILL)
        for place in self._running():
            assert place.pid is not None
            _, status = os.waitpid(place.pid, 0)
            self._ended(place, os.waitstatus_to_exitcode(status))


@contextmanager
def _signals() -> Iterator[socket.socket]:
    """Yield a socket from which the numbers of `SIGNALS` can be read as they come."""
    readable, written = socket.socketpair()
    with readable, written:
        readable.setblocking(False)
        written.setblocking(False)
        former = [signal.signal(number, lambda *_: None) for number in SIGNALS]
        descriptor = signal.set_wakeup_fd(written.fileno(), warn_on_full_buffer=False)
        try:
            yield readable
        finally:
            signal.set_wakeup_fd(descriptor)
            for number, handler in zip(SIGNALS, former, strict=True):
                signal.signal(number, handler)

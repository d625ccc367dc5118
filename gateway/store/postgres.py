"""
A connection to PostgreSQL that is closed when it is given up, without waiting for a server that may be gone.

psycopg asks the server to cancel the query of a caller that stops waiting, and waits for that and for its answer, five
seconds each. Of a server that does not answer, or a network that swallows everything, that is all the caller's time.
What the server makes of a query that it has is not known then, as ever: a transaction counts once its commit was
answered. The server ends what it has by `statement_timeout`, or as soon as it finds the connection closed.
"""

from __future__ import annotations

import asyncio
import math
from typing import Any, TypeVar

import psycopg
from psycopg import waiting
from psycopg.abc import PQGen

ANSWER_SECONDS = 6.0  # longer than the server's own `statement_timeout`, so that it is the one to tell
INTERVAL_SECONDS = 0.1  # psycopg's own: how often it looks up from a wait

T = TypeVar("T")


class PromptConnection(psycopg.AsyncConnection[Any]):
    """A connection on which no wait outlasts whoever waits, ANSWER_SECONDS, or *until*, in the loop's time."""

    until = math.inf

    async def wait(self, gen: PQGen[T], interval: float = INTERVAL_SECONDS, timeout: float | None = None) -> T:
        """Run *gen*, a conversation with the server. A wait that is cancelled, or too long, closes the connection."""
        seconds = ANSWER_SECONDS if timeout is None else min(timeout, ANSWER_SECONDS)
        try:
            async with asyncio.timeout_at(min(self.until, asyncio.get_running_loop().time() + seconds)):
                return await waiting.wait_async(gen, self.pgconn.socket, interval=interval)
        except TimeoutError:
            self.pgconn.finish()
            raise psycopg.OperationalError("the server does not answer") from None
        except asyncio.CancelledError:
            self.pgconn.finish()
            raise

"""
What the vault tells about itself: exchanges, what went wrong around them, and how its tokens fare (docs/metrics.md).

Rules:
1. A scrape reads memory only. The numbers about tokens come from the database every REFRESH_SECONDS in the background,
   each time within a limit; `gateway_vault_metrics_age_seconds` tells how old they are.
2. Labels come from bounded sets: outcomes and states that are known here, and connections, which operators make. The
   first MAX_CONNECTIONS by name have their own label, the others share "other"; never a user or a tenant (threats D16).
3. A token is in one state: `dead` (the grant was refused for good), `failing` (its last refresh failed), `expired`
   (and nothing can renew it), `active`.
4. Dying within a week: not dead, expires within DYING_SECONDS, and has nothing to be renewed with, or is failing.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import structlog
from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector
from sqlalchemy import ColumnElement, and_, case, func, or_, select
from sqlalchemy.exc import SQLAlchemyError

from gateway.store.engine import Store
from gateway.store.schema import tokens as table
from gateway.vault.connection import Connection
from gateway.vault.connections import Connections
from gateway.vault.token_endpoint import ENDPOINT_BUSY, ENDPOINT_PAUSED

REFRESH_SECONDS = 30.0
LIMIT_SECONDS = 10.0  # 100,000 tokens take 0.2 s; a database that is away must not gather readers
DYING_SECONDS = 7 * 86_400.0
MAX_CONNECTIONS = 100
MAX_OUTCOMES = 50  # there are about 20; a word that some later code makes of an answer must not become a series each
OTHER = "other"

# What the refresher counts beside the outcomes of exchanges.
FAULTS = (
    "lease_ran_out", "late_answer", "answer_rescued", "answer_lost", "grant_dead", ENDPOINT_PAUSED, ENDPOINT_BUSY,
)  # fmt: skip
STATES = ("active", "failing", "expired", "dead")

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class TokenNumbers:
    """What one look at the database found. Keys are (connection, state) and (connection, cause)."""

    states: Mapping[tuple[str, str], int] = field(default_factory=dict)
    dying: Mapping[tuple[str, str], int] = field(default_factory=dict)
    oldest_failing_seconds: float = 0.0


class VaultMetrics(Collector):
    """
    The vault's metrics, to be registered with the process' registry. Owns one task between `start` and `close`.

    *counts* are exchanges by outcome, codes among them, and FAULTS; *renews_itself* tells of a connection that its
    tokens need no refresh token.
    """

    def __init__(
        self,
        store: Store,
        connections: Connections,
        *,
        counts: Mapping[str, int],
        clock: Callable[[], float],
        monotonic: Callable[[], float],
        renews_itself: Callable[[Connection], bool] = lambda _: False,
    ) -> None:
        self._store = store
        self._connections = connections
        self._counts = counts
        self._clock = clock
        self._monotonic = monotonic
        self._renews_itself = renews_itself
        self._numbers = TokenNumbers()
        self._read_at: float | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to read the numbers about tokens in the background."""
        self._task = asyncio.create_task(self._run(), name="vault-metrics")

    async def close(self) -> None:
        """End the background reading."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
            self._task = None

    async def refresh(self) -> None:
        """
        Read the numbers about tokens once.

        Raises:
            sqlalchemy.exc.SQLAlchemyError, OSError: the database failed, also by taking too long (TimeoutError).
        """
        async with asyncio.timeout(LIMIT_SECONDS):
            connections = await self._connections.list()
            self_renewing = [connection.id for connection in connections if self._renews_itself(connection)]
            labels = {connection.id: connection.id for connection in connections[:MAX_CONNECTIONS]}
            self._numbers = await self._read(self_renewing, labels)
        self._read_at = self._monotonic()

    def collect(self) -> Iterator[Metric]:
        """Yield what is known. Called by prometheus-client, at a scrape; touches no database."""
        yield from self._counters()
        states = GaugeMetricFamily("gateway_tokens", "Connection tokens by state.", labels=("connection", "state"))
        for (connection, state), count in sorted(self._numbers.states.items()):
            states.add_metric((connection, state), count)
        yield states
        dying = GaugeMetricFamily(
            "gateway_tokens_dying",
            "Tokens that expire within 7 days and have no way to be renewed, or fail to be.",
            labels=("connection", "cause"),
        )
        for (connection, cause), count in sorted(self._numbers.dying.items()):
            dying.add_metric((connection, cause), count)
        yield dying
        yield GaugeMetricFamily(
            "gateway_oldest_failing_grant_seconds",
            "For how long the refresh of the oldest failing grant has been failing; 0 where none fails.",
            value=self._numbers.oldest_failing_seconds,
        )
        age = GaugeMetricFamily(
            "gateway_vault_metrics_age_seconds", "How old the numbers about tokens are; absent before the first."
        )
        if self._read_at is not None:
            age.add_metric((), self._monotonic() - self._read_at)
        yield age

    def _counters(self) -> Iterator[Metric]:
        outcomes: Counter[str] = Counter()
        for word, count in list(self._counts.items()):
            if word not in FAULTS:
                outcomes[word if len(outcomes) < MAX_OUTCOMES else OTHER] += count
        exchanges = CounterMetricFamily(
            "gateway_token_exchanges", "Exchanges with a provider's token endpoint.", labels=("outcome",)
        )
        for word, count in sorted(outcomes.items()):
            exchanges.add_metric((word,), count)
        yield exchanges
        faults = CounterMetricFamily(
            "gateway_token_refresh_faults", "What went wrong around exchanges.", labels=("fault",)
        )
        for fault in FAULTS:
            faults.add_metric((fault,), self._counts.get(fault, 0))
        yield faults

    async def _read(self, self_renewing: list[str], labels: Mapping[str, str]) -> TokenNumbers:
        now = self._clock()
        c = table.c
        is_failing = c.last_refresh_error != ""
        is_helpless = and_(c.sealed_refresh_token.is_(None), c.connection_id.not_in(self_renewing))
        is_expired = and_(c.expires_at.is_not(None), c.expires_at <= now)
        state = case(
            (c.dead.is_(True), "dead"),
            (is_failing, "failing"),
            (and_(is_expired, is_helpless), "expired"),
            else_="active",
        )
        cause = case((is_failing, "failing"), else_="no_refresh_token")
        is_dying = and_(
            c.dead.is_(False),
            c.expires_at > now,
            c.expires_at <= now + DYING_SECONDS,
            or_(is_failing, is_helpless),
        )
        # A gateway of an older release, beside this one on the same database, notes an error and not since when.
        failing_since = func.min(func.coalesce(c.failing_since, c.updated_at))
        async with self._store.read() as db:
            states = (await db.execute(_by(state))).all()
            dying = (await db.execute(_by(cause).where(is_dying))).all()
            oldest = (await db.execute(select(failing_since).where(c.dead.is_(False), is_failing))).scalar_one()
        return TokenNumbers(
            states=_labelled(states, labels),
            dying=_labelled(dying, labels),
            oldest_failing_seconds=0.0 if oldest is None else max(0.0, now - oldest),
        )

    async def _run(self) -> None:
        while True:
            try:
                await self.refresh()
            except (SQLAlchemyError, OSError) as exc:
                log.warning("vault_metrics_not_read", error=type(exc).__name__)
            await asyncio.sleep(REFRESH_SECONDS)


def _by(word: ColumnElement[str]) -> Any:
    """The query that counts tokens by connection and *word*."""
    named = word.label("word")
    return select(table.c.connection_id, named, func.count()).group_by(table.c.connection_id, named)


def _labelled(rows: Any, labels: Mapping[str, str]) -> dict[tuple[str, str], int]:
    """Counts by label, those of connections without a label of their own together."""
    found: Counter[tuple[str, str]] = Counter()
    for connection, word, count in rows:
        found[labels.get(connection, OTHER), word] += count
    return dict(found)

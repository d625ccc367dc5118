"""
What the vault tells the egress record (DESIGN section 6): everything that is no call of the data path.

Rules (threats.md L1, L2, L6):
1. What leaves for a provider with a grant's secret, what hands out a raw token, and what changes the vault's content
   has a line before it happens. A line that cannot be written is `RecordUnavailable`, and it does not happen.
2. How it ended is a second line with the same `id`. Nothing can be undone by then: is that line lost, it is logged, and
   the first one without a second tells the same.
3. No token, secret or key. Rows are named by id; who asked and for whom as in the lines of calls.
4. `EVENTS` is closed: an event has its line in docs/record.md, and a test.

The record itself is a protocol: `server.py` and the commands join it to `audit/`.
"""

from __future__ import annotations

from typing import Protocol

import structlog

from gateway.errors import RecordUnavailable
from gateway.models import Caller, Subject

EVENTS = frozenset(
    {
        # leaving for a provider
        "exchange_intent", "exchange_outcome", "lease_ran_out", "answer_rescued",
        "revocation_intent", "revocation_outcome",
        # handing out
        "raw_token_fetched", "raw_token_refused", "tokens_revealed",
        # changing, by the token API and by commands
        "change_intent", "change_refused", "token_uploaded", "api_key_uploaded", "tokens_deleted",
        "connection_created", "connection_updated", "connection_deleted", "key_created", "key_revoked",
        # connecting
        "connect_started", "connect_refused", "connect_ended", "connected",
    }
)  # fmt: skip

log = structlog.get_logger()


class Record(Protocol):
    """The record, as the vault knows it."""

    def __call__(self, event: str, /, **fields: object) -> None:
        """
        Write the line of *event*, one of EVENTS, with *fields* that JSON can hold.

        Raises:
            RecordUnavailable: it could not be written.
        """


def to_log(event: str, /, **fields: object) -> None:
    """Write the line to the log: for a vault that was given no record."""
    log.info(event, **fields)


def conclude(record: Record, event: str, /, **fields: object) -> None:
    """Write how something ended (rule 2)."""
    try:
        record(event, **fields)
    except RecordUnavailable:
        log.error("outcome_not_recorded", what=event, id=fields.get("id"))


def who(caller: Caller) -> dict[str, object]:
    """The field of a line that tells who asked."""
    return {
        "caller": {
            "kind": caller.kind,
            "user": caller.user,
            "tenant": caller.tenant,
            "client": caller.client,
            "key": caller.key_id,
        }
    }


def whose(user: str | None, tenant: str | None, account: str | None) -> dict[str, object]:
    """The field of a line that tells for whom; an empty name is none."""
    subject = Subject(user or None, tenant or None, account or None)
    return {"subject": subject._asdict()}

"""
What is recorded of a call: the lines of DESIGN section 2, as JSON.

Rules:
1. `intent` before the first byte leaves, `attempt` before a second send, `outcome` at the end. A refusal is one outcome
   line; those of callers who could not be identified are counted per second (`unauthenticated`).
2. No token, key, cookie or header value; of the query its keys. What a stranger sent is cut to MAX_TEXT characters, and
   JSON escapes it.
3. Who and what is said once per call and stands in both lines: each line can be read alone.
4. An outcome may wait for the next line in the same turn of the loop: it delays nobody, and nothing hangs on it.
5. The log is a protocol: `append` returns when the line is in the kernel, `append_durably` tells when it is on the
   disk, or they raise RecordUnavailable. Routes with `audit: required` wait for the disk before anything leaves.

Field names follow what proxies' access logs and OCSF's HTTP activity call them.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from math import floor
from typing import Any, Literal, Protocol

import orjson

from gateway.errors import RecordUnavailable
from gateway.models import Caller, Route, RouteMatch, Subject
from gateway.proxy.steps import Signal

Echo = Literal["field", "body", "cut", "unread"]

# A refused target in absolute form may hold a credential in front of its host (RFC 3986 3.2.1).
_USERINFO = re.compile(r"\A((?:[A-Za-z][A-Za-z0-9+.-]*:)?(?://)?)[^/?#]*@")

MAX_TEXT = 512
MAX_QUERY_KEYS = 100
MAX_KEY = 64  # characters of one; "%3D" for "=" would make a key of a value, too
_WORD = re.compile(r"[A-Za-z][A-Za-z_.-]{0,23}")


class EgressLog(Protocol):
    """An append-only log of lines."""

    def append(self, line: bytes) -> None:
        """
        Write *line*, one JSON object without a line break, so that it survives this process.

        Raises:
            RecordUnavailable: it could not be written; nothing may leave.
        """

    def append_soon(self, line: bytes) -> None:
        """Write *line* with the next one, or at the end of this turn of the loop. Count it where that fails."""

    def append_durably(self, line: bytes, waiting: Signal) -> Durable:
        """
        Write *line* so that it survives this machine; fire *waiting* when it does, or after a limit.

        Raises:
            RecordUnavailable: as with `append`, or the disk is known to take nothing.
        """


class Durable(Protocol):
    """What became of a line that was to survive the machine."""

    def check(self) -> None:
        """Raise RecordUnavailable unless the disk has it. To be asked once who waits was fired."""


class Call:
    """
    One request on its way through the stages: what is known of it so far. Belongs to one task.

    *started_at* is POSIX seconds, *started* monotonic seconds.
    *peer* is the caller's address: the connection's other end, or whom a trusted proxy names. *echo* is where the
    injected token was in the answer: in a field, in the body, in one that was cut; or that some body is unread. *who*
    says who calls for whom, once that is known (the function of that name). *traceparent* is the field line with the
    W3C trace context, for the upstream and for the answer. *who_and_what* are the members that the lines of a call
    share which has left, *spent* is what `durations` has returned.
    """

    # Slots that are all set: an attribute of the class, read through its object, is looked for in four places.
    __slots__ = (
        *("address", "attempts", "auth_seconds", "bytes_received", "bytes_sent", "caller", "echo"),
        *("effective_method", "id", "match", "method", "peer", "refreshed", "rule", "spent", "started", "started_at"),
        *("status", "target", "token_seconds", "trace_id", "traceparent", "upstream_seconds", "who"),
        *("who_and_what",),
    )

    def __init__(
        self, method: str, target: str, *, call_id: str, trace_id: str, peer: str, started_at: float, started: float
    ) -> None:
        self.id = call_id
        self.trace_id = trace_id
        self.traceparent = f"traceparent: 00-{trace_id}-{call_id}-01\r\n".encode()
        self.method = method
        self.target = target
        self.peer = peer
        self.started_at = started_at
        self.started = started
        self.address: str | None = None
        self.attempts = self.bytes_received = self.bytes_sent = self.status = 0
        self.auth_seconds = self.token_seconds = self.upstream_seconds = 0.0
        self.caller: Caller | None = None
        self.echo: tuple[Echo, ...] = ()
        self.effective_method: str | None = None
        self.match: RouteMatch | None = None
        self.refreshed = False
        self.rule: str | None = None
        self.who: str | None = None
        self.spent: tuple[str, str, str] | None = None
        self.who_and_what: str | None = None

    def follow(self, trace_id: str) -> None:
        """Take part in the trace *trace_id*, of 32 hexadecimal digits."""
        self.trace_id = trace_id
        self.traceparent = f"traceparent: 00-{trace_id}-{self.id}-01\r\n".encode()

    def durations(self) -> tuple[str, str, str]:
        """Return the milliseconds to authorise, to get the token, and to the upstream's head; made once, at its end."""
        if self.spent is None:
            # What `milliseconds` does, mostly without calling it: 0.3 microseconds less.
            auth, upstream = floor(self.auth_seconds * 1e6 + 0.5), floor(self.upstream_seconds * 1e6 + 0.5)
            self.spent = (
                _MILLISECONDS[auth] if 0 <= auth < _LOOKED_UP else milliseconds(self.auth_seconds),
                milliseconds(self.token_seconds) if self.token_seconds else "0.000",
                _MILLISECONDS[upstream] if 0 <= upstream < _LOOKED_UP else milliseconds(self.upstream_seconds),
            )
        return self.spent


def intent(call: Call) -> bytes:
    """Return the line that says what is about to leave; it is made once a call."""
    at = call.started_at
    time = _last.text if _last.since <= at < _last.until else timestamp(at)
    what = call.who_and_what = _who_and_what(call)
    return f'{{"event":"intent","time":"{time}",{what}}}'.encode()


def attempt(call: Call, reason: str, *, status: int | None, now: float) -> bytes:
    """Return the line that says at *now* that the call leaves once more; *status* is the answer before, if any."""
    rest = {
        "id": call.id,
        "attempt": call.attempts + 1,
        "reason": reason,
        "status": status,
        "refreshed": call.refreshed,
    }
    return f'{{"event":"attempt","time":"{timestamp(now)}",'.encode() + orjson.dumps(rest)[1:]


def outcome(call: Call, *, seconds: float, error: str | None) -> bytes:
    """Return the line that says how the call ended after *seconds*; *error*: a refusal's code, or what cut it short."""
    auth, token, upstream = call.spent or call.durations()
    took = floor(seconds * 1e6 + 0.5)
    total = _MILLISECONDS[took] if 0 <= took < _LOOKED_UP else milliseconds(seconds)
    at = call.started_at + seconds
    time = _last.text if _last.since <= at < _last.until else timestamp(at)
    # Text until one encode at the end. Neither an address nor a code holds a character that JSON escapes.
    address = "null" if call.address is None else f'"{call.address}"'
    echo = orjson.dumps(call.echo).decode() if call.echo else "[]"
    cause = "null" if error is None else f'"{error}"'
    return (
        f'{{"event":"outcome","time":"{time}",{call.who_and_what or _who_and_what(call)},'
        f'"status":{call.status},"attempts":{call.attempts},"refreshed":{"true" if call.refreshed else "false"},'
        f'"bytes_received":{call.bytes_received},"bytes_sent":{call.bytes_sent},"duration_ms":'
        f'{{"total":{total},"auth":{auth},"token":{token},"upstream":{upstream}}},'
        f'"address":{address},"echo":{echo},"error":{cause}}}'
    ).encode()


class Strangers:
    """The refused callers whom nobody knows, between two lines: a flood of them is a line a second."""

    def __init__(self, egress_log: EgressLog) -> None:
        self._log = egress_log
        self._count = 0
        self._since = 0.0

    def count(self, at: float) -> None:
        """Count one who was refused *at*, in POSIX seconds."""
        if not self._count:
            self._since = at
        self._count += 1

    def write(self, now: float) -> None:
        """Write the line of those since the last one, if there were any; kept where it cannot be written."""
        if not self._count:
            return
        count, self._count = self._count, 0
        try:
            self._log.append(unauthenticated(count, first=self._since, last=now))
        except RecordUnavailable:
            self._count += count


def unauthenticated(count: int, *, first: float, last: float) -> bytes:
    """Return the line for *count* refused strangers between *first* and *last*."""
    end = timestamp(last)
    return (
        f'{{"event":"unauthenticated","time":"{end}","count":{count},"first":"{timestamp(first)}","last":"{end}"}}'
    ).encode()


def who(caller: Caller | None, subject: Subject | None, route: Route | None) -> str:
    """
    Return the members that say whose call on *route* it is, as JSON without its braces: the same for many calls.

    None is left out: it is not known yet.
    """
    members: dict[str, Any] = {}
    if caller is not None:
        members["caller"] = {
            "kind": caller.kind,
            "user": caller.user,
            "tenant": caller.tenant,
            "client": caller.client,
            "key": caller.key_id,
        }
    if subject is not None:
        members["subject"] = {"user": subject.user, "tenant": subject.tenant, "account": subject.account}
    if route is not None:
        members["route"] = route.name
        members["connection"] = route.connection
        members["host"] = route.origin.host_field
    return _text(members)


def _who_and_what(call: Call) -> str:
    match = call.match
    if match is not None:
        target, path, query = match.target, match.upstream_path, match.query
    else:
        target = _USERINFO.sub(r"\1", call.target)
        path, _, query = target.partition("?")
    if len(path) > MAX_TEXT:  # slices that take all are dear
        path = path[:MAX_TEXT]
    keys = []
    if query:
        for pair in query.split("&", MAX_QUERY_KEYS)[:MAX_QUERY_KEYS]:
            name, equals, _ = pair.partition("=")
            # What has no "=" may be a value alone, and a credential: only what is a word stands here.
            if not equals and _WORD.fullmatch(name) is None:
                name = ""
            keys.append(name if len(name) <= MAX_KEY else name[:MAX_KEY])
    if (
        call.who is not None
        and call.effective_method is None
        and '"' not in target
        and "\\" not in target
        and target.isprintable()
    ):
        # JSON writes all of this as it is: it escapes nothing here, and there are no lone surrogates, which it cannot
        # write. 1.2 microseconds, and 2.6 with a dict of all members.
        try:
            rule = _TEXTS[call.rule]
        except KeyError:
            rule = _TEXTS[call.rule] = orjson.dumps(call.rule).decode()
        names = '"' + '","'.join(keys) + '"' if keys else ""
        return (
            f'"id":"{call.id}","trace_id":"{call.trace_id}","peer":"{call.peer}",{call.who},"rule":{rule},'
            f'"method":"{call.method}","path":"{path}","query_keys":[{names}]'
        )
    first = {"id": call.id, "trace_id": call.trace_id, "peer": call.peer}
    # Who it is was put together when that was known; a refusal may come before.
    whose = call.who or who(call.caller, None, match.route if match is not None else None)
    what: dict[str, Any] = {} if match is None else {"rule": call.rule}
    what["method"] = call.method
    if call.effective_method is not None:
        what["effective_method"] = call.effective_method
    what["path"] = path
    what["query_keys"] = keys
    try:
        said = _text(what)
    except orjson.JSONEncodeError:
        # A refused target may hold bytes that are no UTF-8 (the parser keeps them as lone surrogates).
        said = _text({**what, "path": ascii(path[:MAX_TEXT]), "query_keys": []})
    return ",".join(filter(None, (_text(first), whose, said)))


def _text(members: dict[str, Any]) -> str:
    """Return *members* as JSON without its braces."""
    return orjson.dumps(members)[1:-1].decode()


_TEXTS: dict[str | None, str] = {}  # the ids of policies, as JSON: as many as the file has


_second = 0
_second_text = "1970-01-01T00:00:00"


_LOOKED_UP = 10_000  # microseconds
_MILLISECONDS = tuple(f"{microseconds / 1000:.3f}" for microseconds in range(_LOOKED_UP))


def milliseconds(seconds: float) -> str:
    """Return *seconds* in milliseconds, to the microsecond."""
    # Up to 10 ms looked up: 0.1 microseconds against 0.3; half a megabyte. `floor` takes half as long as `int`.
    microseconds = floor(seconds * 1e6 + 0.5)
    return _MILLISECONDS[microseconds] if 0 <= microseconds < _LOOKED_UP else f"{seconds * 1000:.3f}"


_ENDS = tuple(f".{number:03d}Z" for number in range(1000))


class _Millisecond:
    """The one that was asked for last: *text* is the time from *since* on, until *until*."""

    __slots__ = ("since", "text", "until")

    def __init__(self) -> None:
        self.since = self.until = 0.0
        self.text = ""


_last = _Millisecond()  # a busy gateway writes many lines in one: both lines look here first


def timestamp(seconds: float) -> str:
    """Return POSIX *seconds* as RFC 3339 UTC with milliseconds."""
    # The text of a second is kept, so that strftime is not called for each line: 0.25 microseconds.
    global _second, _second_text
    fraction = seconds - _second
    if not 0.0 <= fraction < 1.0:
        _second = floor(seconds)
        _second_text = datetime.fromtimestamp(_second, UTC).strftime("%Y-%m-%dT%H:%M:%S")
        fraction = seconds - _second
    number = floor(fraction * 1000.0)
    _last.since, _last.until = seconds, _second + (number + 0.99) / 1000.0  # not its very end: a float is not exact
    _last.text = text = _second_text + _ENDS[number]
    return text

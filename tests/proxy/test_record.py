"""The lines of the record."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from math import floor

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.errors import RecordUnavailable
from gateway.models import Caller, Origin, Route, RouteMatch
from gateway.proxy.record import Call, Durable, Strangers, attempt, intent, outcome, timestamp, unauthenticated, who
from gateway.proxy.steps import Signal

ROUTE = Route("api", "/api", Origin("https", "api.example.com", 443), "contacts")


def made(target: str = "/api/x?a=secret&b", method: str = "GET") -> Call:
    call = Call(method, target, call_id="id", trace_id="trace", peer="192.0.2.1", started_at=1.5, started=0.0)
    call.caller = Caller("jwt", "ada", client="agent", tenant="t")
    return call


def test_each_line_can_be_read_alone() -> None:
    """
    Intent and outcome both say who and what; of the query the keys.
    """
    call = made()
    call.match = RouteMatch(ROUTE, "GET", "/x", "/x?a=secret&b", "/x", "a=secret&b")
    call.rule = "sales"
    before = json.loads(intent(call))
    call.status = 200
    after = json.loads(outcome(call, seconds=0.25, error=None))

    assert ("intent", "1970-01-01T00:00:01.500Z") == (before["event"], before["time"])
    assert ("outcome", "1970-01-01T00:00:01.750Z", 200, 250.0) == (
        after["event"],
        after["time"],
        after["status"],
        after["duration_ms"]["total"],
    )
    for line in (before, after):
        assert {"kind": "jwt", "user": "ada", "tenant": "t", "client": "agent", "key": None} == line["caller"]
        assert ("api", "contacts", "sales", "api.example.com") == (
            line["route"],
            line["connection"],
            line["rule"],
            line["host"],
        )
        assert ("/x", ["a", "b"], "GET") == (line["path"], line["query_keys"], line["method"])
    assert b"secret" not in intent(call) + outcome(call, seconds=0.25, error=None)


QUERIES = {
    "keys and values": ("a=1&b=2", ["a", "b"]),
    "words": ("acl&pretty&max-keys=1", ["acl", "pretty", "max-keys"]),
    "a value alone": ("eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJhZGEifQ.c2ln&x", ["", "x"]),
    "a key that is longer than keys are": ("k" * 100 + "=1", ["k" * 64]),
    "nothing": ("&", ["", ""]),
}


@pytest.mark.parametrize("case", QUERIES)
def test_query_keys_are_no_values(case: str) -> None:
    """
    Of a query stand its keys; what has no "=" only where it is a word, because it may be a credential.
    """
    query, keys = QUERIES[case]
    call = made()
    call.match = RouteMatch(ROUTE, "GET", "/x", f"/x?{query}", "/x", query)

    assert keys == json.loads(intent(call))["query_keys"]


def test_attempt_says_why() -> None:
    """
    A second send has a line with its number and reason.
    """
    call = made()
    call.attempts = 1
    line = json.loads(attempt(call, "token_rejected", status=401, now=2.0))

    assert ("id", 2, "token_rejected") == (line["id"], line["attempt"], line["reason"])


def test_strangers_bytes_are_bounded_and_escaped() -> None:
    """
    What no route took is cut to 512 characters; line breaks and lone bytes cannot forge a line.
    """
    long = outcome(made("/" + "x" * 5000), seconds=0.0, error="route_not_found")
    odd = outcome(made('/"\n\udcff?\udcfe=1'), seconds=0.0, error="ambiguous_target")

    assert 512 == len(json.loads(long)["path"])
    assert b"\n" not in odd
    assert "ambiguous_target" == json.loads(odd)["error"]


@pytest.mark.parametrize(
    ("target", "path"),
    [
        ("http://secret@gateway.test/api/x?a=1", "http://gateway.test/api/x"),
        ("http://user:secret@gateway.test", "http://gateway.test"),
        ("HTTPS://a@secret@gateway.test/b@c", "HTTPS://gateway.test/b@c"),
        ("//secret@gateway.test/x", "//gateway.test/x"),
        ("user:secret@gateway.test:443", "user:gateway.test:443"),
        ("/users/ada@example.com", "/users/ada@example.com"),
        ("/x?to=ada@example.com", "/x"),
    ],
)
def test_refused_target_is_recorded_without_userinfo(target: str, path: str) -> None:
    """
    A credential in front of the host of a target that no route took is not recorded.
    """
    assert path == json.loads(outcome(made(target), seconds=0.0, error="ambiguous_target"))["path"]


def test_query_keys_are_bounded() -> None:
    """
    At most 100 keys of a query are kept.
    """
    line = json.loads(intent(made("/x?" + "&".join(f"k{number}=v" for number in range(500)))))

    assert 100 == len(line["query_keys"])


@given(st.text(), st.text(), st.text(), st.none() | st.text(st.characters(exclude_categories=["Cs"])))
@example("x", "a=1&b", "ada", "sales")
@example('"', "", "", None)
@example("\\", "\x7f\u2028=1", "\n", '"')
@example("x", '"=1&\\=2&\x00=3&\udcff=4', "\u2028", "\x1f")
@example("\udcff", "a=1", "é", None)
@example("é" * 600, "é" * 70 + "=1", "ada", "sales")
def test_lines_are_the_same_by_text_and_by_members(path: str, query: str, user: str, rule: str | None) -> None:
    """
    The usual line is put together as text: byte for byte what JSON makes of its members, whatever stands in them.
    """
    caller = Caller("jwt", user.encode(errors="replace").decode())
    by_members, by_text = made(), made()
    for call in (by_members, by_text):
        call.match = RouteMatch(ROUTE, "GET", f"/{path}", f"/{path}?{query}", f"/{path}", query)
        call.caller, call.rule = caller, rule
    by_text.who = who(caller, None, ROUTE)

    assert intent(by_members) == intent(by_text) == orjson.dumps(orjson.loads(intent(by_text)))


@given(
    st.integers(0, 999),
    st.integers(0, 10**12),
    st.floats(0, 1e5),
    st.booleans(),
    st.none() | st.just("192.0.2.1:443"),
    st.none() | st.just("upstream_cut"),
)
def test_outcome_is_json(
    status: int, size: int, seconds: float, refreshed: bool, address: str | None, error: str | None
) -> None:
    """
    An outcome says its numbers as they are, durations to the microsecond.
    """
    call = made()
    call.status, call.bytes_received, call.bytes_sent, call.refreshed, call.address = (
        *(status, size, size + 1, refreshed, address),
    )
    call.auth_seconds, call.token_seconds, call.upstream_seconds = seconds / 2, 0.0, seconds
    call.echo = ("field", "body")
    line = json.loads(outcome(call, seconds=seconds, error=error))

    assert (status, 0, refreshed, size, size + 1) == tuple(
        line[name] for name in ("status", "attempts", "refreshed", "bytes_received", "bytes_sent")
    )
    assert (address, ["field", "body"], error) == (line["address"], line["echo"], line["error"])
    for name, took in (("total", seconds), ("auth", seconds / 2), ("token", 0.0), ("upstream", seconds)):
        assert abs(1000 * took - line["duration_ms"][name]) <= 0.00051


def test_strangers_are_counted() -> None:
    """
    Refused strangers are one line with their number.
    """
    line = json.loads(unauthenticated(7, first=1.0, last=2.0))

    assert ("unauthenticated", 7, "1970-01-01T00:00:01.000Z") == (line["event"], line["count"], line["first"])


class Full:
    """A log that takes nothing until there is room again."""

    def __init__(self) -> None:
        self.has_room = False
        self.lines: list[bytes] = []

    def append(self, line: bytes) -> None:
        if not self.has_room:
            raise RecordUnavailable
        self.lines.append(line)

    def append_soon(self, line: bytes) -> None:
        self.append(line)

    def append_durably(self, line: bytes, waiting: Signal) -> Durable:
        raise RecordUnavailable


def test_strangers_are_kept_until_they_can_be_written() -> None:
    """
    A line a second for those who came; none for nobody; nobody is forgotten while the log takes nothing.
    """
    log = Full()
    strangers = Strangers(log)
    strangers.write(1.0)
    strangers.count(2.0)
    strangers.write(3.0)
    strangers.count(4.0)
    log.has_room = True
    strangers.write(5.0)
    strangers.write(6.0)

    (line,) = map(json.loads, log.lines)
    assert (2, "1970-01-01T00:00:02.000Z") == (line["count"], line["first"])


def test_time_has_milliseconds() -> None:
    """
    Times are UTC with milliseconds, whatever was asked before.
    """
    assert ["1970-01-01T00:00:01.999Z", "1970-01-01T00:00:00.000Z", "2033-05-18T03:33:20.125Z"] == [
        timestamp(seconds) for seconds in (1.9999, 0.0, 2_000_000_000.125)
    ]


@given(st.lists(st.integers(-3_000, 3_000), min_size=2))
@example([0, 999, 1_000, 999])
@example([990, 989, 1_989, -1, 0])
def test_time_is_that_of_its_millisecond(microseconds: list[int]) -> None:
    """
    Lines of one millisecond share its text; none shares that of the one before or behind it.
    """
    for count in microseconds:
        call = made()
        call.started_at = seconds = 2_000_000_000 + count / 1e6
        whole = floor(seconds)
        time = f"{datetime.fromtimestamp(whole, UTC):%Y-%m-%dT%H:%M:%S}.{floor((seconds - whole) * 1000):03d}Z"

        assert time == json.loads(intent(call))["time"]
        assert time == json.loads(outcome(call, seconds=0.0, error=None))["time"]

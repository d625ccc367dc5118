"""How connections with TLS are read: as OpenSSL would have it, and no oftener than it has something to say."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.net.tls import TlsObject, new_context
from tests.net.certificates import Authority

VERSIONS = (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3)


class Wire:
    """Two ends of TLS in memory, their handshake behind them: what the server sends is *sent* until it is moved."""

    arrived: ssl.MemoryBIO
    sent: ssl.MemoryBIO

    def __init__(self, kind: type[ssl.SSLObject], version: ssl.TLSVersion) -> None:
        contexts = _contexts(version)
        for context in contexts:
            context.sslobject_class = kind
        self.arrived = ssl.MemoryBIO()
        self.sent = ssl.MemoryBIO()
        other, back = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.client: Any = contexts[0].wrap_bio(self.arrived, back, server_hostname="127.0.0.1")
        self.server: Any = contexts[1].wrap_bio(other, self.sent, server_side=True)
        for _ in range(6):
            for end in (self.client, self.server):
                with suppress(ssl.SSLWantReadError):
                    end.do_handshake()
                other.write(back.read())
                self.move(self.sent.pending)

    def move(self, count: int) -> None:
        """Let *count* bytes at most arrive at the client."""
        self.arrived.write(self.sent.read(count))

    def read(self, count: int, *, into_buffer: bool = False) -> Any:
        """Return what the client reads: bytes, or the error that it gets."""
        buffer, client = bytearray(count), self.client
        try:
            return bytes(buffer[: client.read(count, buffer)]) if into_buffer else client.read(count)
        except ssl.SSLError as exc:
            return type(exc)


@cache
def _contexts(version: ssl.TLSVersion) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    authority = Authority(Path(mkdtemp()))
    server = authority.server_context()
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.load_verify_locations(authority.ca_file)
    client.minimum_version = client.maximum_version = version
    return client, server


STEPS = st.one_of(
    st.tuples(st.just("send"), st.sampled_from([1, 100, 16_384, 40_000])),
    st.tuples(st.just("move"), st.sampled_from([1, 5, 21, 22, 123, 20_000, 10**6])),
    st.tuples(st.just("read"), st.sampled_from([1, 64, 262_144])),
    st.tuples(st.just("read into"), st.sampled_from([1, 64, 262_144])),
    st.tuples(st.sampled_from(["end", "cut", "break"]), st.just(0)),
)


def _play(wire: Wire, steps: list[tuple[str, int]]) -> list[Any]:
    """Return what the client has read at each step, and twice behind the last."""
    has_ended = False
    told = []
    for step, count in [*steps, ("move", 10**6), *[("read", 262_144)] * 3]:
        if step == "send" and not has_ended:
            wire.server.write(bytes(range(256)) * (count // 256) + bytes(count % 256))
        elif step == "move":
            wire.move(count)
        elif step == "read":
            told.append(wire.read(count))
        elif step == "read into":
            told.append(wire.read(count, into_buffer=True))
        elif step == "end" and not has_ended:
            has_ended = True
            with pytest.raises(ssl.SSLWantReadError):
                wire.server.unwrap()
        elif step == "break":
            wire.arrived.write(b"\x17\x03\x03\x00\x20" + b"x" * 32)  # a record that nobody has encrypted
        elif step == "cut":
            wire.arrived.write_eof()
            break
    return told


@pytest.mark.parametrize("version", VERSIONS)
@given(steps=st.lists(STEPS, max_size=14))
def test_reads_as_openssl_does(version: ssl.TLSVersion, steps: list[tuple[str, int]]) -> None:
    """
    However records are cut, read, ended or broken: bytes, ends and errors are the same, and in the same order.
    """
    assert _play(Wire(ssl.SSLObject, version), steps) == _play(Wire(TlsObject, version), steps)


@pytest.mark.parametrize("version", VERSIONS)
def test_says_itself_that_more_has_to_come(version: ssl.TLSVersion) -> None:
    """
    Of a record that came alone OpenSSL is asked once, not again for what follows it.
    """
    wire = Wire(TlsObject, version)
    asked = []

    class Counted:
        def __init__(self, own: Any) -> None:
            self.pending, self._read = own.pending, own.read

        def read(self, *given: Any) -> Any:
            asked.append(given)
            return self._read(*given)

    wire.client._sslobj = Counted(wire.client._sslobj)
    wire.server.write(b"hello")
    wire.move(10**6)

    assert [b"hello", ssl.SSLWantReadError, ssl.SSLWantReadError] == [wire.read(262_144) for _ in range(3)]
    assert 1 == len(asked)


ENDS: dict[str, tuple[Callable[[Wire], Any], Any]] = {
    "in order": (lambda wire: _play(wire, [("end", 0)]), b""),
    "cut": (lambda wire: wire.arrived.write_eof(), ssl.SSLEOFError),
    "broken": (lambda wire: wire.arrived.write(b"\x17\x03\x03\x00\x20" + b"x" * 32), ssl.SSLError),
}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("how", ENDS)
def test_tells_an_end_as_often_as_it_is_asked(version: ssl.TLSVersion, how: str) -> None:
    """
    Whoever asks later whether the other side has ended in order gets the answer that OpenSSL gives.
    """
    end, told = ENDS[how]
    wires = Wire(ssl.SSLObject, version), Wire(TlsObject, version)
    for wire in wires:
        end(wire)

    assert [told, told] == [wire.read(10) for wire in wires]
    for _ in range(3):
        assert wires[0].read(10) == wires[1].read(10)


def test_contexts_are_strict_and_write_no_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Both sides speak TLS 1.2 at least; the keys of a session are nobody's to read.
    """
    monkeypatch.setenv("SSLKEYLOGFILE", str(tmp_path / "keys"))
    contexts = [new_context(protocol) for protocol in (ssl.PROTOCOL_TLS_CLIENT, ssl.PROTOCOL_TLS_SERVER)]

    for context in contexts:
        assert context.sslobject_class is TlsObject
        assert ssl.TLSVersion.TLSv1_2 == context.minimum_version
        assert not context.keylog_filename

"""Raw requests as a connection sees them: order, ends, versions, Expect, upgrades, hop-by-hop fields (A7 to A18)."""

from __future__ import annotations

from tests.proxy.raw_bodies import INNER
from tests.proxy.raw_requests import AUTHORIZATION, HOST, Row, behind, head, line, passed, post, refused

CHUNKED = b"Transfer-Encoding: chunked"


def number(n: int) -> bytes:
    """Return the request of /api/<n>."""
    return head(line=b"GET /api/%d HTTP/1.1" % n)


def old(*fields: bytes) -> bytes:
    """Return a request in HTTP/1.0."""
    return head(*fields, line=b"GET /api/x HTTP/1.0", host=None)


PIPES: dict[str, Row] = {
    "40 requests": Row(
        b"".join(map(number, range(40))), (200,) * 40, tuple((f"/{n}", b"") for n in range(40)), stays=True
    ),
    "bodies of both kinds": Row(
        post(b"Content-Length: 5", body=b"hello") + post(CHUNKED, body=b"3\r\nabc\r\n0\r\n\r\n") + number(1),
        (200, 200, 200),
        (("/x", b"hello"), ("/x", b"abc"), ("/1", b"")),
        stays=True,
    ),
    "an empty line between": Row(number(1) + b"\r\n" + number(2), (200, 200), (("/1", b""), ("/2", b"")), stays=True),
    "two empty lines between": behind(b"\r\n\r\n" + number(1)),
    "garbage behind": behind(b"\x00\x01garbage\r\n\r\n"),
    "a malformed line behind": behind(line(b"GET  /api/x HTTP/1.1").data),
    "a malformed field behind": behind(head(b"X : y")),
    "no Host behind": behind(head(host=None)),
    "another version behind": behind(b"GET / HTTP/2.0\r\n\r\n", "http_version_not_supported"),
    "too much behind": behind(head(b"X: " + b"y" * 20_000), "fields_too_large"),
    "TLS behind": behind(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"),
    "a body that nobody announced": behind(b'{"a": 1}' + number(1)),
    "a good one behind a bad one": refused(head(b"X : y") + number(1)),
    "nothing behind close": Row(head(b"Connection: close") + number(1), (200,), (("/x", b""),)),
    "nothing behind close in capitals": Row(head(b"CONNECTION: CLOSE") + number(1), (200,), (("/x", b""),)),
    "nothing behind close in a list": Row(head(b"Connection: x, close") + number(1), (200,), (("/x", b""),)),
    "close beside keep-alive": Row(
        head(b"Connection: keep-alive", b"Connection: close") + number(1), (200,), (("/x", b""),)
    ),
    "garbage behind close": Row(head(b"Connection: close") + b"\x00" * 100, (200,), (("/x", b""),)),
    "a refused body that is a request": Row(
        post(b"Content-Length: %d" % len(INNER), body=INNER).replace(AUTHORIZATION, b"Authorization: Bearer no", 1)
        + number(1),
        ("caller_unauthenticated", 200),
        (("/1", b""),),
        stays=True,
    ),
    "a refused chunked body": Row(
        post(CHUNKED, body=b"5\r\nhello\r\n0\r\n\r\n").replace(AUTHORIZATION, b"Authorization: Bearer no", 1)
        + number(1),
        ("caller_unauthenticated",),
    ),
    "a refused body of 100 KiB": Row(
        post(b"Content-Length: 100000", body=b"x" * 100_000).replace(AUTHORIZATION, b"Authorization: Bearer no", 1)
        + number(1),
        ("caller_unauthenticated",),
    ),
    "a refused body that is broken": Row(
        post(CHUNKED, body=b"zz\r\n").replace(AUTHORIZATION, b"Authorization: Bearer no", 1) + number(1),
        ("caller_unauthenticated",),
    ),
    "a request without a credential between": Row(
        number(1) + number(2).replace(AUTHORIZATION, b"X: y") + number(3),
        (200, "caller_unauthenticated", 200),
        (("/1", b""), ("/3", b"")),
        stays=True,
    ),
}

VERSIONS: dict[str, Row] = {
    "HTTP/1.0": passed(old(), stays=False),
    "HTTP/1.0 with a Host": passed(head(line=b"GET /api/x HTTP/1.0"), stays=False),
    "HTTP/1.0 that stays": passed(old(b"Connection: keep-alive")),
    "HTTP/1.0 that is closed, and more": passed(old() + number(1), stays=False),
    "HTTP/1.0 with a body": passed(
        head(b"Content-Length: 5", line=b"POST /api/x HTTP/1.0", host=None) + b"hello", b"hello", stays=False
    ),
    "HTTP/1.0 with two Hosts": refused(head(HOST, line=b"GET /api/x HTTP/1.0")),
    "HTTP/1.0 with a wrong Host": refused(head(line=b"GET /api/x HTTP/1.0", host=b"Host: a/b")),
    "HTTP/0.9": line(b"GET /api/x HTTP/0.9", "http_version_not_supported"),
    "HTTP/0.9 without its version": refused(b"GET /api/x\r\n\r\n"),
    "HTTP/1.2": line(b"GET /api/x HTTP/1.2", "http_version_not_supported"),
    "HTTP/1.9": line(b"GET /api/x HTTP/1.9", "http_version_not_supported"),
    "HTTP/2.0": line(b"GET /api/x HTTP/2.0", "http_version_not_supported"),
    "HTTP/3": line(b"GET /api/x HTTP/3", "http_version_not_supported"),
    "HTTP/9.9": line(b"GET /api/x HTTP/9.9", "http_version_not_supported"),
    "HTTP/1.10": line(b"GET /api/x HTTP/1.10"),
    "HTTP/01.1": line(b"GET /api/x HTTP/01.1"),
    "HTTP/1,1": line(b"GET /api/x HTTP/1,1"),
    "HTTP/-1.1": line(b"GET /api/x HTTP/-1.1"),
    "HTTP/1.": line(b"GET /api/x HTTP/1."),
    "HTTP 1.1": line(b"GET /api/x HTTP 1.1"),
    "http/1.1": line(b"GET /api/x http/1.1"),
    "HTTPS/1.1": line(b"GET /api/x HTTPS/1.1"),
    "RTSP/1.0": line(b"GET /api/x RTSP/1.0"),
    "the preface of HTTP/2": refused(
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00", "http_version_not_supported"
    ),
    "a TLS hello": refused(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 500),
    "an SSLv2 hello": refused(b"\x80\x2e\x01\x00\x02" + b"\x00" * 40),
    "the PROXY protocol": refused(b"PROXY TCP4 10.0.0.1 10.0.0.2 1 2\r\n" + head()),
    "the PROXY protocol, version 2": refused(b"\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c" + head()),
    "SSH": refused(b"SSH-2.0-OpenSSH_9.6\r\n"),
    "SMTP": refused(b"EHLO x\r\n"),
    "SOCKS": refused(b"\x05\x01\x00"),
    "zeros": refused(b"\x00" * 100),
    "an answer": refused(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
    "an XML policy request": refused(b"<policy-file-request/>\x00"),
}

EXPECT: dict[str, Row] = {
    "100-continue": Row(
        post(b"Content-Length: 5", b"Expect: 100-continue", body=b"hello"), (100, 200), (("/x", b"hello"),), stays=True
    ),
    "100-continue in capitals": Row(
        post(b"Content-Length: 5", b"Expect: 100-Continue", body=b"hello"), (100, 200), (("/x", b"hello"),), stays=True
    ),
    "100-continue for a chunked body": Row(
        post(CHUNKED, b"Expect: 100-continue", body=b"5\r\nhello\r\n0\r\n\r\n"),
        (100, 200),
        (("/x", b"hello"),),
        stays=True,
    ),
    "100-continue without a body": passed(head(b"Expect: 100-continue")),
    "100-continue in HTTP/1.0": passed(
        head(b"Content-Length: 5", b"Expect: 100-continue", line=b"POST /api/x HTTP/1.0") + b"hello",
        b"hello",
        stays=False,
    ),
    "it twice": refused(post(b"Content-Length: 5", b"Expect: 100-continue", b"Expect: 100-continue", body=b"hello")),
    "it twice in one": refused(post(b"Content-Length: 5", b"Expect: 100-continue, 100-continue", body=b"hello")),
    "another one": refused(post(b"Content-Length: 5", b"Expect: 200-ok", body=b"hello")),
    "an empty one": refused(post(b"Content-Length: 5", b"Expect:", body=b"hello")),
    "a parameter": refused(post(b"Content-Length: 5", b"Expect: 100-continue;q=1", body=b"hello")),
    "a letter before": refused(post(b"Content-Length: 5", b"Expect: y 100-continue", body=b"hello")),
    "of a stranger, with the body": Row(
        post(b"Content-Length: 5", b"Expect: 100-continue", body=b"hello").replace(AUTHORIZATION, b"X: y"),
        ("caller_unauthenticated",),
    ),
}

UPGRADES: dict[str, Row] = {
    "WebSocket": passed(
        head(b"Connection: Upgrade", b"Upgrade: websocket", b"Sec-WebSocket-Version: 13", b"Sec-WebSocket-Key: abc"),
        stays=False,
    ),
    "WebSocket and bytes behind": passed(
        head(b"Connection: Upgrade", b"Upgrade: websocket", b"Sec-WebSocket-Version: 1") + INNER, stays=False
    ),
    "WebSocket with a body": passed(
        post(b"Connection: Upgrade", b"Upgrade: websocket", b"Content-Length: 5", body=b"hello" + INNER),
        b"hello",
        stays=False,
    ),
    "the first drafts of WebSocket": refused(head(b"Upgrade: WebSocket", b"Sec-WebSocket-Key1: 1")),
    "h2c": passed(
        head(b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABkAAQ"), stays=False
    ),
    "h2c and the preface behind": passed(
        head(b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABkAAQ")
        + b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        stays=False,
    ),
    "TLS by upgrade": passed(head(b"Connection: Upgrade", b"Upgrade: TLS/1.0"), stays=False),
    "Upgrade without Connection": passed(head(b"Upgrade: websocket")),
    "Connection without Upgrade": passed(head(b"Connection: upgrade")),
}

HOPS: dict[str, Row] = {
    "each field of a hop": passed(
        head(
            b"Connection: keep-alive",
            b"Keep-Alive: timeout=5",
            b"Proxy-Connection: keep-alive",
            b"TE: trailers",
            b"Trailer: X-Sum",
            b"Proxy-Authorization: Basic eDp5",
            b"Proxy-Authenticate: Basic",
        )
    ),
    "Connection names Authorization": passed(head(b"Connection: Authorization")),
    "Connection names a field": passed(head(b"Connection: X-Gone", b"X-Gone: 1", b"X-Kept: 1")),
    "Connection names forwarded fields": passed(head(b"Connection: X-Forwarded-For", b"X-Forwarded-For: 1.2.3.4")),
    "Connection names many": passed(head(b"Connection: " + b", ".join(b"X-%d" % n for n in range(500)))),
    "Connection has empty members": passed(head(b"Connection: , ,X-Gone,,", b"X-Gone: 1")),
    "Connection is empty": passed(head(b"Connection:")),
    "Connection is no list of tokens": refused(head(b"Connection: close; now")),
    "Connection with quotes": refused(head(b'Connection: "close"')),
    "Connection with a colon": refused(head(b"Connection: X-A: b")),
    "Connection above ASCII": refused(head("Connection: clöse".encode())),
    "Connection names Host": refused(head(b"Connection: close, host")),
}

CONNECTION_FAMILIES = {
    "pipelines": PIPES,
    "versions and other protocols": VERSIONS,
    "Expect": EXPECT,
    "upgrades": UPGRADES,
    "hop-by-hop fields": HOPS,
}

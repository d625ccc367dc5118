"""
Raw requests, row by row: the bytes, the answers, and what of them reached the upstream (threats A1 to A18).

A row is keyed by a sentence that says what is odd about it. `CREDENTIAL` stands for a valid one. An answer is the
upstream's status, or the code of a refusal, which then ends the connection.
"""

from __future__ import annotations

from dataclasses import dataclass

CREDENTIAL = b"@credential@"
HOST = b"Host: gateway.test"
AUTHORIZATION = b"Authorization: Bearer " + CREDENTIAL

Answers = tuple[int | str, ...]


@dataclass(frozen=True, slots=True)
class Row:
    """
    *data* goes in, *answers* come out, *passed* are the requests that the upstream saw: target and body.

    *stays*: whether the connection takes another request afterwards.
    """

    data: bytes
    answers: Answers
    passed: tuple[tuple[str, bytes], ...] = ()
    stays: bool = False


def head(*fields: bytes, line: bytes = b"GET /api/x HTTP/1.1", host: bytes | None = HOST) -> bytes:
    """Return a head with a credential and *fields*."""
    lines = [line, *([host] if host is not None else []), AUTHORIZATION, *fields]
    return b"\r\n".join([*lines, b"", b""])


def post(*fields: bytes, body: bytes = b"") -> bytes:
    """Return a POST with *fields*, which frame *body* or do not."""
    return head(*fields, line=b"POST /api/x HTTP/1.1") + body


def passed(data: bytes, body: bytes = b"", *, target: str = "/x", stays: bool = True) -> Row:
    """Return the row of a request that is passed as it is meant."""
    return Row(data, (200,), ((target, body),), stays)


def refused(data: bytes, code: str = "invalid_request") -> Row:
    """Return the row of a request that is refused."""
    return Row(data, (code,))


def behind(data: bytes, code: str = "invalid_request") -> Row:
    """Return the row of a good request with *data* behind it that is refused."""
    return Row(head() + data, (200, code), (("/x", b""),))


def line(text: bytes, code: str = "invalid_request") -> Row:
    """Return the row of a request line that is refused."""
    return refused(head(line=text), code)


def host(*lines: bytes) -> Row:
    """Return the row of Host fields that are refused."""
    return refused(head(*lines, host=None))


REQUEST_LINE: dict[str, Row] = {
    "the plain request line": passed(head()),
    "a query": passed(head(line=b"GET /api/x?a=b&c=%20d HTTP/1.1"), target="/x?a=b&c=%20d"),
    "DELETE": passed(head(line=b"DELETE /api/x HTTP/1.1")),
    "OPTIONS with a path": passed(head(line=b"OPTIONS /api/x HTTP/1.1")),
    "an empty line before": passed(b"\r\n" + head()),
    "two empty lines before": refused(b"\r\n\r\n" + head()),
    "a bare LF before": refused(b"\n" + head()),
    "a blank before": refused(b" " + head()),
    "NUL before": refused(b"\x00" + head()),
    "a byte order mark before": refused(b"\xef\xbb\xbf" + head()),
    "two spaces behind the method": line(b"GET  /api/x HTTP/1.1"),
    "two spaces before the version": line(b"GET /api/x  HTTP/1.1"),
    "a tab behind the method": line(b"GET\t/api/x HTTP/1.1"),
    "a tab before the version": line(b"GET /api/x\tHTTP/1.1"),
    "VT for a space": line(b"GET\x0b/api/x HTTP/1.1"),
    "FF for a space": line(b"GET /api/x\x0cHTTP/1.1"),
    "a no-break space for a space": line(b"GET\xa0/api/x HTTP/1.1"),
    "CR within the line": line(b"GET /api/x\rHTTP/1.1"),
    "LF at its end": refused(head().replace(b"HTTP/1.1\r\n", b"HTTP/1.1\n")),
    "a space behind the version": line(b"GET /api/x HTTP/1.1 "),
    "a tab behind the version": line(b"GET /api/x HTTP/1.1\t"),
    "words behind the version": line(b"GET /api/x HTTP/1.1 x"),
    "a space in the target": line(b"GET /api/x y HTTP/1.1"),
    "NUL in the target": line(b"GET /api/\x00 HTTP/1.1"),
    "DEL in the target": line(b"GET /api/\x7f HTTP/1.1"),
    "ESC in the target": line(b"GET /api/\x1b HTTP/1.1"),
    "a fragment": line(b"GET /api/x#y HTTP/1.1", "ambiguous_target"),
    "a fragment in the query": line(b"GET /api/x?a#y HTTP/1.1", "ambiguous_target"),
    "UTF-8 in the target": line("GET /api/é HTTP/1.1".encode(), "ambiguous_target"),
    "Latin-1 in the target": line(b"GET /api/\xe9 HTTP/1.1", "ambiguous_target"),
    "no target": line(b"GET HTTP/1.1"),
    "an empty target": line(b"GET  HTTP/1.1"),
    "no method": line(b"/api/x HTTP/1.1"),
    "only a method": line(b"GET"),
    "asterisk form": line(b"OPTIONS * HTTP/1.1", "ambiguous_target"),
    "asterisk form of GET": line(b"GET * HTTP/1.1", "ambiguous_target"),
    "a path without its slash": line(b"GET api/x HTTP/1.1", "ambiguous_target"),
    "a query alone": line(b"GET ?x HTTP/1.1", "ambiguous_target"),
    "absolute form of this host": line(b"GET http://gateway.test/api/x HTTP/1.1", "ambiguous_target"),
    "absolute form of this host in capitals": line(b"GET HTTP://GATEWAY.TEST/api/x HTTP/1.1", "ambiguous_target"),
    "absolute form of another host": line(b"GET http://evil.test/api/x HTTP/1.1", "misdirected"),
    "absolute form of another port": line(b"GET http://gateway.test:81/api/x HTTP/1.1", "misdirected"),
    "absolute form of an https origin": line(b"GET https://api.example.com/v1 HTTP/1.1", "misdirected"),
    "absolute form with userinfo": line(b"GET http://gateway.test@evil.test/api/x HTTP/1.1"),
    "absolute form without a host": line(b"GET http:///api/x HTTP/1.1"),
    "absolute form with half an address": line(b"GET http://[::1/api/x HTTP/1.1"),
    "another scheme": line(b"GET ftp://gateway.test/api/x HTTP/1.1", "ambiguous_target"),
    "authority form of GET": line(b"GET gateway.test:80 HTTP/1.1", "ambiguous_target"),
    "CONNECT": line(b"CONNECT api.example.com:443 HTTP/1.1", "method_not_allowed"),
    "CONNECT with a path": line(b"CONNECT /api/x HTTP/1.1", "method_not_allowed"),
    "TRACE": line(b"TRACE /api/x HTTP/1.1", "method_not_allowed"),
    "TRACK": line(b"TRACK /api/x HTTP/1.1", "method_not_allowed"),
    "a method in small letters": line(b"get /api/x HTTP/1.1"),
    "a method in mixed letters": line(b"DeLeTe /api/x HTTP/1.1"),
    "a method that nobody knows": line(b"FETCHALL /api/x HTTP/1.1"),
    "PRI with HTTP/1.1": line(b"PRI /api/x HTTP/1.1"),
    "a method that is no token": line(b"G@T /api/x HTTP/1.1"),
    "a method in quotes": line(b'"GET" /api/x HTTP/1.1'),
    "a target of 8190 bytes": passed(head(line=b"GET /api/" + b"a" * 8185 + b" HTTP/1.1"), target="/" + "a" * 8185),
    "a target of 8191 bytes": line(b"GET /api/" + b"a" * 8186 + b" HTTP/1.1", "target_too_long"),
    "a target of 64 KiB": line(b"GET /api/" + b"a" * 65_536 + b" HTTP/1.1", "target_too_long"),
    "a method of 64 KiB": line(b"G" * 65_536 + b" /api/x HTTP/1.1", "target_too_long"),
}

HOSTS: dict[str, Row] = {
    "a port": passed(head(host=b"Host: gateway.test:8080")),
    "capitals": passed(head(host=b"HOST: Gateway.TEST")),
    "an IPv4 address": passed(head(host=b"Host: 127.0.0.1:80")),
    "an IPv6 address": passed(head(host=b"Host: [::1]:65535")),
    "no blank before the value": passed(head(host=b"Host:gateway.test")),
    "blanks around the value": passed(head(host=b"Host: \t gateway.test \t")),
    "no Host": host(),
    "an empty Host": host(b"Host:"),
    "blanks alone": host(b"Host: \t "),
    "two Hosts": host(HOST, b"Host: evil.test"),
    "two equal Hosts": host(HOST, HOST),
    "two Hosts with a field between": host(HOST, b"X: y", b"host: evil.test"),
    "a list of hosts": host(b"Host: gateway.test, evil.test"),
    "two hosts with a blank": host(b"Host: gateway.test evil.test"),
    "a port without digits": host(b"Host: gateway.test:"),
    "a port of letters": host(b"Host: gateway.test:http"),
    "port 65536": host(b"Host: gateway.test:65536"),
    "port 99999": host(b"Host: gateway.test:99999"),
    "port 000080": host(b"Host: gateway.test:000080"),
    "a negative port": host(b"Host: gateway.test:-1"),
    "a port alone": host(b"Host: :80"),
    "userinfo": host(b"Host: gateway.test@evil.test"),
    "a path": host(b"Host: gateway.test/api"),
    "a query": host(b"Host: gateway.test?x"),
    "a fragment": host(b"Host: gateway.test#x"),
    "a URL": host(b"Host: http://gateway.test"),
    "a backslash": host(b"Host: gateway.test\\evil"),
    "markup": host(b"Host: <script>alert(1)</script>"),
    "a quote": host(b'Host: gateway"test'),
    "percent-encoding": host(b"Host: gateway%2etest"),
    "UTF-8": host("Host: gäteway.test".encode()),
    "half an IPv6 address": host(b"Host: [::1"),
    "an IPv6 address without brackets": host(b"Host: ::1"),
    "a zone in an address": host(b"Host: [fe80::1%25eth0]"),
    "a name of 256 letters": host(b"Host: " + b"a" * 256),
    "a blank before the colon": host(b"Host : gateway.test"),
    "a fold": host(b"Host: gateway.test\r\n .evil.test"),
    "Host named in Connection": refused(head(b"Connection: Host")),
}

FIELDS: dict[str, Row] = {
    "an empty value": passed(head(b"X-Empty:")),
    "a value above ASCII": passed(head(b"X-Name: J\xc3\xbcrgen")),
    "every character of a token": passed(head(b"!#$%&'*+.^`|~09Az-: x")),
    "100 fields": passed(head(*[b"X-%d: y" % number for number in range(98)])),
    "101 fields": refused(head(*[b"X-%d: y" % number for number in range(99)]), "fields_too_large"),
    "a field of 16 KiB": passed(head(b"X: " + b"y" * 16_381)),
    "a field of one byte more": refused(head(b"X: " + b"y" * 16_382), "fields_too_large"),
    "a name of 20 KiB": refused(head(b"X" * 20_000 + b": y"), "fields_too_large"),
    "33 KiB of fields": refused(head(*[b"X-%d: " % number + b"y" * 3_000 for number in range(11)]), "fields_too_large"),
    "300 KiB of fields": refused(
        head(*[b"X-%d: " % number + b"y" * 8_000 for number in range(38)]), "fields_too_large"
    ),
    "a blank before the colon": refused(head(b"X-Name : y")),
    "a tab before the colon": refused(head(b"X-Name\t: y")),
    "a blank in a name": refused(head(b"X Name: y")),
    "a blank before a name": refused(head(b" X-Name: y")),
    "a fold with a blank": refused(head(b"X-Name: y\r\n z")),
    "a fold with a tab": refused(head(b"X-Name: y\r\n\tz")),
    "a fold of the credential": refused(head().replace(b"Bearer ", b"Bearer\r\n ")),
    "an empty fold": refused(head(b"X-Name: y\r\n ")),
    "a first line that is folded": refused(b"GET /api/x HTTP/1.1\r\n X: y\r\n" + head().split(b"\r\n", 1)[1]),
    "no colon": refused(head(b"X-Name")),
    "no name": refused(head(b": y")),
    "a colon alone": refused(head(b":")),
    "a name in parentheses": refused(head(b"X(Name): y")),
    "a name with a slash": refused(head(b"X/Name: y")),
    "a name with a quote": refused(head(b'X"Name: y')),
    "a name above ASCII": refused(head("X-Näme: y".encode())),
    "NUL in a name": refused(head(b"X\x00: y")),
    "NUL in a value": refused(head(b"X: y\x00z")),
    "a bare CR in a value": refused(head(b"X: y\rZ: z")),
    "a bare LF in a value": refused(head(b"X: y\nZ: z")),
    "CR CR LF": refused(head(b"X: y\r")),
    "LF LF for the end": refused(head()[:-4] + b"\n\n"),
    "VT in a value": refused(head(b"X: y\x0bz")),
    "BEL in a value": refused(head(b"X: y\x07")),
    "DEL in a value": refused(head(b"X: y\x7f")),
    "a name with an underscore": refused(head(b"X_User: root")),
    "a method override": refused(head(b"X-HTTP-Method-Override: DELETE")),
    "the credential twice": Row(head(AUTHORIZATION), ("ambiguous_credential",), stays=True),
    "a Cookie and forwarded fields, which end here": passed(
        head(b"Cookie: a=b", b"X-Forwarded-For: 10.0.0.1", b"Forwarded: for=x", b"X-Real-IP: 10.0.0.1")
    ),
}

HEAD_FAMILIES = {"request line": REQUEST_LINE, "Host": HOSTS, "fields": FIELDS}

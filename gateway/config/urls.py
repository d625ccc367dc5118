"""
The URLs, hosts, addresses and paths of a configuration: parsed once, by a grammar with one reading (threats F3).

Rules:
1. `https` or `http`, a host, perhaps a port, perhaps a path. No user part, no fragment; a query only where one belongs.
   An outbound proxy is `http`, a host and a port, and may have a user part.
2. A host is dot-separated LDH labels in ASCII (RFC 1123 2.1) without a trailing dot, a dotted-quad IPv4 address, or a
   bracketed IPv6 address without zone. A name whose last label is a number is an address in disguise (WHATWG URL 3.5)
   and refused, unless it is a dotted quad.
3. A path has no empty segment, no dot segment, no percent-encoding, no backslash and no ";": nothing that two
   servers read differently.

Whether an address may be dialled is `reach.py`'s question. Stricter than RFC 3986, which allows all of this.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from typing import Literal
from urllib.parse import unquote

from gateway.models import Origin, OutboundProxy

MAX_URL_CHARACTERS = 2048
_MAX_HOST_CHARACTERS = 253  # RFC 1035 2.3.4, without the trailing dot

_PARTS = re.compile(
    r"(?P<scheme>[^:/?#]+)://(?P<authority>[^/?#]*)(?P<path>[^?#]*)(?P<query>\?[^#]*)?(?P<fragment>#.*)?"
)
_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
_PORT = re.compile(r"[1-9][0-9]{0,4}")
_PATH = re.compile(r"(?:/(?!\.{1,2}(?:/|\Z))[A-Za-z0-9._~!$&'()*+,=:@-]+)*")
_USERINFO = r"(?:[A-Za-z0-9._~!$&'()*+,;=-]|%[0-9A-Fa-f]{2})"  # RFC 3986 section 3.2.1
_PROXY = re.compile(
    rf"http://(?:(?P<user>{_USERINFO}+):(?P<password>{_USERINFO}*)@)?"
    r"(?P<host>[^/?#@:\[\]]+|\[[0-9A-Fa-f:.]+\]):(?P<port>[0-9]+)/?"
)
_QUERY = re.compile(r"\?[!$&-;=?-Z_a-z~%@]*")


class UrlError(ValueError):
    """A text is not such a URL; the message says which form was expected, and holds nothing of the text."""


@dataclass(frozen=True, slots=True)
class Url:
    """An origin and a path on it: the path is "" or begins with "/", and never ends with one."""

    origin: Origin
    path: str
    query: str = ""

    def __str__(self) -> str:
        return f"{self.origin}{self.path}{self.query}"


def parse_url(text: str, *, query: bool = False) -> Url:
    """
    Return the parts of *text*; a trailing "/" of its path is dropped. *query* lets a query through.

    Raises:
        UrlError: it is no URL of this module's grammar.
    """
    if len(text) > MAX_URL_CHARACTERS:
        raise UrlError(f"expected a URL of at most {MAX_URL_CHARACTERS} characters")
    if not text.isascii():
        raise UrlError("expected a URL in ASCII (write an international host in its xn-- form)")
    parts = _PARTS.fullmatch(text)
    if parts is None or any(c <= " " or c == "\x7f" for c in text):
        raise UrlError("expected a URL like https://api.example.com")
    scheme = _scheme(parts["scheme"])
    host, port = _authority(parts["authority"], scheme)
    if parts["fragment"] is not None:
        raise UrlError("expected a URL without a fragment (#)")
    if parts["query"] is not None and not query:
        raise UrlError("expected a URL without a query (?)")
    if parts["query"] is not None and _QUERY.fullmatch(parts["query"]) is None:
        raise UrlError("expected a query of URL characters")
    path = parts["path"].removesuffix("/")
    check_path(path)
    return Url(Origin(scheme, host, port), path, parts["query"] or "")


def parse_origin(text: str) -> Origin:
    """
    Return the origin that *text* is: scheme, host and port, nothing behind them but perhaps a "/".

    Raises:
        UrlError: it is none, or it has a path.
    """
    url = parse_url(text)
    if url.path:
        raise UrlError("expected an origin (scheme, host and port) without a path")
    return url.origin


def parse_proxy(text: str) -> OutboundProxy:
    """
    Return the proxy that *text* is: http://HOST:PORT, with USER:PASSWORD@ before the host where it wants them.

    Raises:
        UrlError: it is none. What is special in a URL is percent-encoded in user and password.
    """
    expected = "expected http://HOST:PORT or http://USER:PASSWORD@HOST:PORT"
    parts = _PROXY.fullmatch(text)
    if parts is None or len(text) > MAX_URL_CHARACTERS:
        raise UrlError(expected)
    credential = None
    if parts["user"] is not None:
        try:
            user, password = (unquote(parts[name], errors="strict") for name in ("user", "password"))
        except UnicodeDecodeError:
            raise UrlError(expected) from None
        # RFC 7617 section 2: no colon in a user's name, no control characters at all.
        if ":" in user or not (user + password).isprintable():
            raise UrlError(expected)
        credential = f"{user}:{password}"
    return OutboundProxy(parse_host(parts["host"]), parse_port(parts["port"]), credential)


def parse_host(text: str) -> str:
    """
    Return the host *text* in lower case, an IPv6 address without its brackets, in its shortest form.

    Raises:
        UrlError: it is neither a name, nor an IPv4 address, nor a bracketed IPv6 address.
    """
    host = text.lower()
    if host.startswith("[") and host.endswith("]"):
        return _ipv6(host[1:-1])
    labels = host.split(".")
    if _NUMBER.fullmatch(labels[-1]):
        try:
            return str(IPv4Address(host))
        except AddressValueError:
            raise UrlError("expected a host name or a dotted-quad IPv4 address") from None
    if len(host) > _MAX_HOST_CHARACTERS or not all(_LABEL.fullmatch(label) for label in labels):
        raise UrlError("expected a host of letters, digits, hyphens and dots, or an IP address")
    return host


def check_path(path: str) -> None:
    """
    Accept *path*: "" or segments, each behind a "/".

    Raises:
        UrlError: it breaks rule 3.
    """
    if _PATH.fullmatch(path) is None:
        raise UrlError("expected a path in its plain form (no //, no dot segment, no %, no \\, no ;)")


def parse_port(text: str) -> int:
    """
    Return the port *text*, 1 to 65535, without leading zeros.

    Raises:
        UrlError: it is none.
    """
    if _PORT.fullmatch(text) is None or int(text) > 65_535:
        raise UrlError("expected a port from 1 to 65535")
    return int(text)


def _scheme(text: str) -> Literal["http", "https"]:
    scheme = text.lower()
    if scheme == "https":
        return "https"
    if scheme == "http":
        return "http"
    raise UrlError("expected a URL that begins with https://")


def _authority(text: str, scheme: str) -> tuple[str, int]:
    if "@" in text:
        raise UrlError("expected a URL without a user part (name:password@)")
    host, port = text, ""
    if not text.endswith("]"):
        host, colon, port = text.rpartition(":")
        if not colon:
            host, port = text, ""
        elif not port:
            raise UrlError("expected a port from 1 to 65535")
    if not host:
        raise UrlError("expected a URL with a host")
    default = 443 if scheme == "https" else 80
    return parse_host(host), parse_port(port) if port else default


def _ipv6(text: str) -> str:
    if "%" in text:  # ipaddress takes zones since 3.9; here they would name an interface of this machine
        raise UrlError("expected an IPv6 address without a zone")
    try:
        return str(IPv6Address(text))
    except AddressValueError:
        raise UrlError("expected an IPv6 address between the brackets") from None

"""
Where a host name leads, and how TLS is spoken there: what every connection of the gateway begins with.

Rules:
1. What is judged is what is dialled: callers connect to the socket addresses returned here, and ask again for each new
   connection. A name that changes its answer between check and connect gains nothing (threats.md F2).
2. IP literals are judged like every other address. A host that ends in a number but is no canonical IPv4 address
   ("127.1", "0x7f000001", "2130706433") is refused: systems read it in different ways.
3. A look-up has a time-out of its own, beside that of the connection (`lookups.py` tells what it may hold up).
4. TLS 1.2 or newer, verified, HTTP/1.1 by ALPN. There is no switch that turns verification off.
"""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address

from gateway.errors import EgressBlocked, NameLookupTimeout, NameNotResolved
from gateway.models import Egress
from gateway.net.addresses import is_allowed
from gateway.net.lookups import Dialable, Lookups, system_lookup
from gateway.net.tls import new_context

MAX_ADDRESSES = 16  # nobody tries more before giving up; a name may answer with thousands (threats.md R21)
LOOKUP_SECONDS = 5.0  # threats.md F7; the system's resolver itself takes up to half a minute
LABEL = r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"  # RFC 1123 2.1; "_" because Compose names its hosts so
NAME = re.compile(rf"(?=.{{1,253}}\Z){LABEL}(\.{LABEL})*\.?")
ENDS_IN_A_NUMBER = re.compile(r"[0-9]+|0[xX][0-9A-Fa-f]*")  # the last label; as in the WHATWG URL standard


_system = Lookups(system_lookup)


async def resolve(
    host: str, port: int, egress: Egress, *, timeout_seconds: float = LOOKUP_SECONDS, lookups: Lookups = _system
) -> list[Dialable]:
    """
    Return the socket addresses of *host* that the gateway may dial, in the resolver's order, at least one.

    *host* is an ASCII name, or an IP literal without brackets. Names that lead to allowed and to denied addresses
    keep the allowed ones. *timeout_seconds* bounds the wait, not the look-up, which others may be waiting for.

    Raises:
        EgressBlocked: every address is refused, or *host* could be read as an address in two ways.
        NameNotResolved: there is no such name, it has no address, or (NameLookupTimeout) there is no answer in time.
    """
    if is_literal(host):
        found = [numeric(host, port)]
    else:
        found = await look_up(host, port, timeout_seconds=timeout_seconds, lookups=lookups)
    allowed = [each for each in dict.fromkeys(found) if is_allowed(_address(each), egress.allow_private)]
    if not allowed:
        raise EgressBlocked
    return allowed[:MAX_ADDRESSES]


@lru_cache(maxsize=16)
def _client_context(ca_file: str | None) -> ssl.SSLContext:
    context = new_context(ssl.PROTOCOL_TLS_CLIENT)  # verifies chain and host name
    context.set_alpn_protocols(["http/1.1"])
    if ca_file is None:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    else:
        context.load_verify_locations(cafile=ca_file)
    return context


def tls_context(egress: Egress) -> ssl.SSLContext:
    """
    Return the client's TLS context of *egress*, one per CA file and process.

    Raises:
        OSError: the CA file cannot be read, or holds no certificate (ssl.SSLError). A new file takes a restart.
    """
    return _client_context(egress.ca_file)


def is_literal(host: str) -> bool:
    """Return whether *host* spells an address, in whatever way, rather than a name."""
    return ":" in host or ENDS_IN_A_NUMBER.fullmatch(host.removesuffix(".").rpartition(".")[2]) is not None


def numeric(host: str, port: int) -> Dialable:
    """
    Return the socket address that the literal *host* spells, unjudged.

    Raises:
        EgressBlocked: it could be read in two ways.
    """
    try:
        address = ip_address(host)
    except ValueError:
        raise EgressBlocked from None
    if isinstance(address, IPv4Address):
        return socket.AF_INET, (str(address), port)
    if address.scope_id is not None:  # an interface of this machine: nothing that an URL may choose
        raise EgressBlocked
    return socket.AF_INET6, (str(address), port, 0, 0)


async def look_up(
    host: str, port: int, *, timeout_seconds: float = LOOKUP_SECONDS, lookups: Lookups = _system
) -> list[Dialable]:
    """Return every socket address of the name *host*, unjudged, at least one. Raises NameNotResolved as `resolve`."""
    if not NAME.fullmatch(host):
        raise NameNotResolved("The upstream's host name is not a valid name.")
    try:
        async with asyncio.timeout(timeout_seconds):
            # Shielded: one caller that gives up must not cancel the look-up that others share.
            found = await asyncio.shield(asyncio.wrap_future(lookups.find(host, port)))
    except TimeoutError:
        raise NameLookupTimeout from None
    except (OSError, UnicodeError) as exc:
        raise NameNotResolved from exc
    if not found:
        raise NameNotResolved
    return found


def _address(dialable: Dialable) -> IPv4Address | IPv6Address:
    return ip_address(str(dialable[1][0]))

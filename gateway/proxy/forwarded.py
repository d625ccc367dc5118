"""
Whose word on the caller's address is believed: `listeners.traffic.trusted_proxies` (threats A6).

Rules:
1. Only a peer inside of these networks is believed. Fields of anybody else end here, whatever they say.
2. The caller is the right-most address that is not a trusted proxy's: what stands further left, its sender wrote. Where
   the right-most entry is no address, the caller is the hop that passed it on.
3. Forwarded (RFC 7239) and X-Forwarded-For that name two callers are refused: most proxies write one of them and let
   the other through as the caller sent it.
4. What was believed goes on, the peer's own address added to it; X-Forwarded-Proto and X-Forwarded-Host go on as they
   came, and nothing here is decided by them. Without trusted proxies the upstream gets no such field at all.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

from gateway.errors import InvalidRequest
from gateway.proxy.request_fields import TRUSTED_FORWARDED, RawFields, RequestFields

Address = IPv4Address | IPv6Address

_ELEMENT = re.compile(r'(?>(?:[^,"]|"(?>(?:[^"\\]|\\.)*)")+)')
_FOR = re.compile(r'(?:^|;)[ \t]*for=(?:"([^"\\]*)"|([^;," \t]+))', re.IGNORECASE)
_PLACE = re.compile(r"\[([0-9A-Fa-f:.]+)\](?::[0-9]{1,5})?|([0-9.]+)(?::[0-9]{1,5})?|([0-9A-Fa-f:.]+)")
_SPELLINGS = {b"x-forwarded-proto": b"X-Forwarded-Proto", b"x-forwarded-host": b"X-Forwarded-Host"}


class TrustedProxies:
    """The networks whose forwarded fields are believed; none by default."""

    def __init__(self, networks: Iterable[IPv4Network | IPv6Network] = ()) -> None:
        self._networks = tuple(networks)

    def __bool__(self) -> bool:
        return bool(self._networks)

    def includes(self, address: str) -> bool:
        """Whether *address*, of a connection's other end, is a trusted proxy's."""
        parsed = _address(address.partition("%")[0])
        return parsed is not None and self._trusts(parsed)

    def settle(self, fields: RequestFields, peer: str) -> str:
        """
        Return the address of the caller behind *peer*, and have *fields* send on what is believed; once per *fields*.

        Raises:
            InvalidRequest: two fields name different callers.
        """
        if fields.caller_address is None:
            fields.caller_address = peer
            if fields.forwarded and self.includes(peer):
                fields.caller_address = self._believe(fields, fields.forwarded, peer)
        return fields.caller_address

    def caller_of(self, raw_fields: RawFields, peer: str) -> str:
        """Return the address of the caller behind *peer* for the record of a request whose fields are refused."""
        fields = RequestFields()
        fields.forwarded = [(name.lower(), value) for name, value in raw_fields if name.lower() in TRUSTED_FORWARDED]
        try:
            return self.settle(fields, peer)
        except InvalidRequest:
            return peer

    def _believe(self, fields: RequestFields, forwarded: list[tuple[bytes, bytes]], peer: str) -> str:
        chain = _joined(forwarded, b"x-forwarded-for")
        elements = _joined(forwarded, b"forwarded")
        callers = set()
        if chain is not None:
            callers.add(self._right_most(chain.split(","), peer))
            fields.lines.append(f"X-Forwarded-For: {chain}, {peer}\r\n".encode("latin-1"))
        if elements is not None:
            callers.add(self._right_most([_node(element) for element in _ELEMENT.findall(elements)], peer))
            node = f'"[{peer}]"' if ":" in peer else peer
            fields.lines.append(f"Forwarded: {elements}, for={node}\r\n".encode("latin-1"))
        if len(callers) > 1:
            raise InvalidRequest("Forwarded and X-Forwarded-For name different callers. Send one of them.")
        fields.lines += [b"%b: %b\r\n" % (_SPELLINGS[name], value) for name, value in forwarded if name in _SPELLINGS]
        return callers.pop() if callers else peer

    def _right_most(self, hops: list[str], peer: str) -> str:
        found = peer
        for hop in reversed(hops):
            address = _address(hop.strip(" \t"))
            if address is None:
                break
            found = str(address)
            if not self._trusts(address):
                break
        return found

    def _trusts(self, address: Address) -> bool:
        return any(address in network for network in self._networks)


def _joined(forwarded: list[tuple[bytes, bytes]], name: bytes) -> str | None:
    """Return the values of every field *name* as one list (RFC 9110 section 5.2), or None where there is none."""
    values = [value.decode("latin-1") for field_name, value in forwarded if field_name == name]
    return ", ".join(values) if values else None


def _node(element: str) -> str:
    found = _FOR.search(element)
    return (found[1] or found[2] or "") if found is not None else ""


def _address(text: str) -> Address | None:
    """Return the address in *text*, port left aside, an IPv4 one mapped into IPv6 as what it is; None: it is none."""
    found = _PLACE.fullmatch(text)
    if found is None:
        return None
    try:
        address = ip_address(found[1] or found[2] or found[3])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address

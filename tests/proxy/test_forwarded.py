"""Whose word on the caller's address is believed."""

from __future__ import annotations

from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import FieldsTooLarge, InvalidRequest
from gateway.proxy.forwarded import TrustedProxies
from gateway.proxy.request_fields import RequestRules

PROXIES = TrustedProxies([ip_network("10.0.0.0/8"), ip_network("2001:db8::/32")])
RULES = RequestRules(None, via="us", trusts_proxies=True)
Fields = tuple[tuple[bytes, bytes], ...]


def settled(peer: str, *fields: tuple[bytes, bytes]) -> tuple[str, bytes]:
    """Return the caller's address, and what of *fields* is sent on."""
    read = RULES.read(fields)
    address = PROXIES.settle(read, peer)
    return address, b"".join(read.lines)


XFF, FWD = b"X-Forwarded-For", b"Forwarded"
ADDRESSES: dict[str, tuple[str, Fields, str]] = {
    "nothing said": ("10.0.0.1", (), "10.0.0.1"),
    "a stranger's word": ("192.0.2.9", ((XFF, b"198.51.100.1"),), "192.0.2.9"),
    "one hop": ("10.0.0.1", ((XFF, b"198.51.100.1"),), "198.51.100.1"),
    "what the caller wrote stands left": ("10.0.0.1", ((XFF, b"1.1.1.1, 198.51.100.1"),), "198.51.100.1"),
    "trusted hops are passed over": ("10.0.0.1", ((XFF, b"1.1.1.1, 198.51.100.1, 10.1.1.1"),), "198.51.100.1"),
    "trusted hops alone": ("10.0.0.1", ((XFF, b"10.2.2.2, 10.1.1.1"),), "10.2.2.2"),
    "two fields are one list": ("10.0.0.1", ((XFF, b"1.1.1.1"), (XFF, b"198.51.100.1")), "198.51.100.1"),
    "a port": ("10.0.0.1", ((XFF, b"198.51.100.1:4711"),), "198.51.100.1"),
    "IPv6": ("10.0.0.1", ((XFF, b"2001:4860::1"),), "2001:4860::1"),
    "IPv6 in brackets, with a port": ("10.0.0.1", ((XFF, b"[2001:4860::1]:80"),), "2001:4860::1"),
    "an IPv6 proxy": ("2001:db8::5", ((XFF, b"198.51.100.1"),), "198.51.100.1"),
    "a proxy on a dual-stack listener": ("::ffff:10.0.0.1", ((XFF, b"198.51.100.1"),), "198.51.100.1"),
    "no address": ("10.0.0.1", ((XFF, b"unknown"),), "10.0.0.1"),
    "no address behind a trusted hop": ("10.0.0.1", ((XFF, b"1.1.1.1, evil, 10.1.1.1"),), "10.1.1.1"),
    "an empty list": ("10.0.0.1", ((XFF, b""),), "10.0.0.1"),
    "RFC 7239": ("10.0.0.1", ((FWD, b"for=198.51.100.1;proto=https;by=x"),), "198.51.100.1"),
    "RFC 7239, letter case": ("10.0.0.1", ((FWD, b"proto=https;For=198.51.100.1"),), "198.51.100.1"),
    "RFC 7239, IPv6": ("10.0.0.1", ((FWD, b'for="[2001:4860::1]:80"'),), "2001:4860::1"),
    "RFC 7239, two hops": ("10.0.0.1", ((FWD, b"for=1.1.1.1, for=198.51.100.1"),), "198.51.100.1"),
    "RFC 7239, a comma in quotes": ("10.0.0.1", ((FWD, b'for=1.1.1.1;x=", for=2.2.2.2"'),), "1.1.1.1"),
    "RFC 7239, obfuscated": ("10.0.0.1", ((FWD, b"for=_hidden"),), "10.0.0.1"),
    "RFC 7239, an open quote": ("10.0.0.1", ((FWD, b'for="1.1.1.1'),), "10.0.0.1"),
    "both, and they agree": ("10.0.0.1", ((FWD, b"for=1.1.1.1"), (XFF, b"1.1.1.1")), "1.1.1.1"),
}


@pytest.mark.parametrize("case", ADDRESSES)
def test_caller_is_the_right_most_address_that_is_not_trusted(case: str) -> None:
    """
    Only a trusted proxy is believed, and only as far as what it added itself.
    """
    peer, fields, address = ADDRESSES[case]

    assert address == settled(peer, *fields)[0]


def test_forwarded_fields_count_as_fields() -> None:
    """
    What a proxy says is bounded together with everything else that is sent on.
    """
    with pytest.raises(FieldsTooLarge):
        settled("10.0.0.1", *((XFF, b"198.51.100.1," * 800),) * 4)


def test_fields_that_name_two_callers_are_refused() -> None:
    """
    A proxy that writes one field lets its caller write the other.
    """
    with pytest.raises(InvalidRequest):
        settled("10.0.0.1", (FWD, b"for=1.1.1.1"), (XFF, b"198.51.100.1"))


def test_believed_fields_go_on_with_the_peer_added() -> None:
    """
    The upstream sees the chain, the proxy's address at its end, and host and scheme as the proxy said them.
    """
    fields = (
        (XFF, b"1.1.1.1, 198.51.100.1"),
        (b"x-forwarded-proto", b"https"),
        (b"X-Forwarded-Host", b"gw.example"),
        (b"X-Forwarded-Prefix", b"/x"),
        (b"X-Real-IP", b"1.1.1.1"),
    )

    sent = b"X-Forwarded-For: 1.1.1.1, 198.51.100.1, 10.0.0.1\r\n"
    sent += b"X-Forwarded-Proto: https\r\nX-Forwarded-Host: gw.example\r\n"
    assert sent == settled("10.0.0.1", *fields)[1]
    assert b'Forwarded: for=1.1.1.1, for="[2001:db8::5]"\r\n' == settled("2001:db8::5", (FWD, b"for=1.1.1.1"))[1]
    assert b"" == settled("192.0.2.9", *fields)[1]


def test_fields_read_once_are_settled_once() -> None:
    """
    Requests that bring the same fields on one connection share what was read: nothing is added twice.
    """
    read = RULES.read(((XFF, b"198.51.100.1"),))

    assert ["198.51.100.1"] * 2 == [PROXIES.settle(read, "10.0.0.1") for _ in range(2)]
    assert [b"X-Forwarded-For: 198.51.100.1, 10.0.0.1\r\n"] == read.lines


@pytest.mark.parametrize("address", ["", "gateway", "10.0.0.1/8", "11.0.0.1", "fe80::1%eth0", "::ffff:11.0.0.1"])
def test_others_are_not_trusted(address: str) -> None:
    """
    Only an address inside of a network is a proxy's.
    """
    assert not PROXIES.includes(address)
    assert not TrustedProxies().includes("10.0.0.1")


def test_nomination_does_not_take_a_proxys_word_away() -> None:
    """
    A caller that names X-Forwarded-For in Connection cannot hide behind the proxy (threats A7).
    """
    assert "198.51.100.1" == settled("10.0.0.1", (XFF, b"198.51.100.1"), (b"Connection", b"X-Forwarded-For"))[0]


@given(st.binary(max_size=200))
def test_no_value_breaks_the_reading(value: bytes) -> None:
    """
    Whatever stands in the fields, an address comes of it: one of the list, or the peer's.
    """
    for name in (XFF, FWD):
        assert settled("10.0.0.1", (name, value))[0]


@pytest.mark.parametrize("case", ADDRESSES)
def test_refused_request_has_the_same_caller(case: str) -> None:
    """
    The record names the same address where the fields themselves are refused; where they disagree, the proxy's.
    """
    peer, fields, address = ADDRESSES[case]
    disagreeing = ((FWD, b"for=1.1.1.1"), (XFF, b"2.2.2.2"))

    assert address == PROXIES.caller_of(fields, peer)
    assert "10.0.0.1" == PROXIES.caller_of(disagreeing, "10.0.0.1")

"""Where a host name leads, and how TLS is spoken there."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable
from ipaddress import ip_network
from pathlib import Path

import pytest

from gateway.errors import EgressBlocked, NameNotResolved, Refusal
from gateway.models import Egress
from gateway.net.dial import MAX_ADDRESSES, is_literal, resolve, tls_context
from gateway.net.lookups import Dialable, Lookups

LOOPBACK = Egress(allow_private=(ip_network("127.0.0.0/8"), ip_network("::1/128")))


def answering(*addresses: str) -> Lookups:
    """Look-ups that always answer with *addresses*."""

    def lookup(_host: str, port: int) -> list[Dialable]:
        return [
            (socket.AF_INET6, (address, port, 0, 0)) if ":" in address else (socket.AF_INET, (address, port))
            for address in addresses
        ]

    return Lookups(lookup)


def failing(error: Exception) -> Lookups:
    """Look-ups that always fail with *error*."""

    def lookup(_host: str, _port: int) -> list[Dialable]:
        raise error

    return Lookups(lookup)


async def hosts(host: str, egress: Egress, lookups: Lookups) -> list[str]:
    """The addresses that *host* may be dialled at."""
    found = await resolve(host, 443, egress, timeout_seconds=5, lookups=lookups)
    return [address[0] for _family, address in found]


ANSWERS: dict[str, tuple[tuple[str, ...], list[str] | type[Refusal]]] = {
    "no address": ((), NameNotResolved),
    "only a private address": (("10.0.0.1",), EgressBlocked),
    "only metadata, mapped": (("::ffff:169.254.169.254",), EgressBlocked),
    "a public and a private address": (("10.0.0.1", "8.8.8.8"), ["8.8.8.8"]),
    "two public addresses keep their order": (("2606:4700::1", "8.8.8.8"), ["2606:4700::1", "8.8.8.8"]),
    "the same address twice": (("8.8.8.8", "8.8.8.8"), ["8.8.8.8"]),
}


@pytest.mark.parametrize(("answer", "expected"), ANSWERS.values(), ids=ANSWERS.keys())
async def test_keeps_what_may_be_dialled(answer: tuple[str, ...], expected: list[str] | type[Refusal]) -> None:
    """
    Of the addresses of a name, the allowed ones are returned; a name with none of those is blocked.
    """
    if isinstance(expected, list):
        assert expected == await hosts("api.example.com", Egress(), answering(*answer))
        return
    with pytest.raises(expected):
        await hosts("api.example.com", Egress(), answering(*answer))


async def test_bounds_the_number_of_addresses() -> None:
    """
    Of a name with thousands of addresses, the first ones are enough.
    """
    many = [f"8.8.{number // 250}.{number % 250}" for number in range(2_000)]

    assert many[:MAX_ADDRESSES] == await hosts("api.example.com", Egress(), answering(*many))


LITERALS: dict[str, tuple[str, type[Refusal] | None]] = {
    "public IPv4": ("8.8.8.8", None),
    "public IPv6": ("2606:4700::1", None),
    "loopback where it is listed": ("127.0.0.1", None),
    "metadata": ("169.254.169.254", EgressBlocked),
    "unspecified": ("0.0.0.0", EgressBlocked),
    "private IPv6": ("fd00::1", EgressBlocked),
    "a zone": ("fe80::1%lo", EgressBlocked),
    "short form of loopback": ("127.1", EgressBlocked),
    "one number": ("2130706433", EgressBlocked),
    "hexadecimal": ("0x7f000001", EgressBlocked),
    "hexadecimal at the end": ("127.0.0.0x1", EgressBlocked),
    "octal": ("0177.0.0.1", EgressBlocked),
    "a trailing dot": ("127.0.0.1.", EgressBlocked),
    "a name that ends in a number": ("api.example.1", EgressBlocked),
    "too many numbers": ("1.2.3.4.5", EgressBlocked),
    "colons of no address": ("a:b", EgressBlocked),
}


@pytest.mark.parametrize(("host", "refusal"), LITERALS.values(), ids=LITERALS.keys())
async def test_judges_literals(host: str, refusal: type[Refusal] | None) -> None:
    """
    An address in the place of a name is judged without a look-up, and only its canonical form is read.
    """
    never = failing(AssertionError("looked up"))

    if refusal is None:
        assert [host] == await hosts(host, LOOPBACK, never)
        return
    with pytest.raises(refusal):
        await hosts(host, LOOPBACK, never)


NAMES = {
    "nothing": "",
    "only dots": "..",
    "an empty label": "a..example.com",
    "a space": "api example.com",
    "a line break": "api.example.com\n",
    "a NUL": "api\x00.example.com",
    "a slash": "api/example.com",
    "userinfo": "user@example.com",
    "full-width letters": "\uff45xample.com",
    "a label of 64": "a" * 64 + ".example.com",
    "a name of 260": ".".join(["abcdefghi"] * 26),
    "a hyphen in front": "-api.example.com",
}


@pytest.mark.parametrize("host", NAMES.values(), ids=NAMES.keys())
async def test_refuses_what_is_no_name(host: str) -> None:
    """
    What is not an ASCII host name never reaches the system's resolver.
    """
    assert not is_literal(host)
    with pytest.raises(NameNotResolved):
        await hosts(host, LOOPBACK, failing(AssertionError("looked up")))


async def test_reports_a_name_that_does_not_exist() -> None:
    """
    A name without an answer is told as that, without the resolver's words.
    """
    with pytest.raises(NameNotResolved) as caught:
        await hosts("api.example.com", LOOPBACK, failing(socket.gaierror(socket.EAI_NONAME, "not known")))

    assert "not known" not in caught.value.detail


async def test_the_system_knows_localhost() -> None:
    """
    The default look-up asks the system.
    """
    found = await resolve("localhost", 8080, LOOPBACK, timeout_seconds=5)

    assert found
    assert all(address[0] in ("127.0.0.1", "::1") for _family, address in found)


async def test_a_name_is_asked_again_for_each_connection() -> None:
    """
    Answers are not kept: a name that moves to a private address is blocked at the next connection.
    """
    answers = iter(["8.8.8.8", "127.0.0.1"])
    lookups = Lookups(lambda _host, port: [(socket.AF_INET, (next(answers), port))])

    assert ["8.8.8.8"] == await hosts("rebind.example.com", Egress(), lookups)
    with pytest.raises(EgressBlocked):
        await hosts("rebind.example.com", Egress(), lookups)


CONTEXT: dict[str, Callable[[ssl.SSLContext], bool]] = {
    "verifies the chain": lambda context: context.verify_mode is ssl.CERT_REQUIRED,
    "verifies the name": lambda context: context.check_hostname,
    "speaks TLS 1.2 at least": lambda context: context.minimum_version is ssl.TLSVersion.TLSv1_2,
    "writes no session keys": lambda context: context.keylog_filename is None,
}


@pytest.mark.parametrize("holds", CONTEXT.values(), ids=CONTEXT.keys())
def test_tls_is_strict(
    holds: Callable[[ssl.SSLContext], bool], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """
    The client's TLS cannot be weakened, by the environment neither.
    """
    monkeypatch.setenv("SSLKEYLOGFILE", str(tmp_path / "keys"))

    assert holds(tls_context(Egress()))


def test_tls_context_is_made_once() -> None:
    """
    Loading the system's authorities takes milliseconds: one context serves every connection.
    """
    assert tls_context(Egress()) is tls_context(Egress(allow_http=True))


def test_an_unreadable_ca_file_is_told_at_once(tmp_path: Path) -> None:
    """
    A CA file that is missing or empty stops the start, not the first call.
    """
    empty = tmp_path / "empty.pem"
    empty.touch()

    for path in (tmp_path / "missing.pem", empty):
        with pytest.raises(OSError):
            tls_context(Egress(ca_file=str(path)))

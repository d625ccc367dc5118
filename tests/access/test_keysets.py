"""The public keys of one issuer, fetched over real sockets from an issuer that behaves as the test says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web

from gateway.access.keysets import KeySet, metadata_urls
from gateway.errors import KeysUnavailable
from gateway.net.client import OutboundClient

from .idp import Clock, Idp, jwk, rsa_key

NEW = jwk(rsa_key("two"), "k2")


@asynccontextmanager
async def key_set(
    client: OutboundClient, idp: Idp, monotonic: Clock, *, discovery: bool = False, jwks_uri: str | None = None
) -> AsyncIterator[KeySet]:
    """A key set of *idp*, closed at the end."""
    uri = jwks_uri or (None if discovery else f"http://127.0.0.1:{idp.port}/keys")
    keys = KeySet(client, issuer=idp.url, jwks_uri=uri, algorithms=["RS256"], monotonic=monotonic)
    try:
        yield keys
    finally:
        await keys.close()


async def found(keys: KeySet, kid: str | None = "k1") -> bool:
    """Whether *keys* has *kid*."""
    return await keys.find(kid, "RS256") is not None


METADATA: dict[str, tuple[str, str, Callable[[Idp], dict[str, Any]] | None, bool]] = {
    "OpenID Connect": ("", "/.well-known/openid-configuration", None, True),
    "OAuth": ("", "/.well-known/oauth-authorization-server", None, True),
    "OpenID Connect, with a path": ("/t/1", "/t/1/.well-known/openid-configuration", None, True),
    "OAuth, its part before the path": ("/t/1", "/.well-known/oauth-authorization-server/t/1", None, True),
    "OAuth, appended": ("/t/1", "/t/1/.well-known/oauth-authorization-server", None, True),
    "elsewhere": ("", "/.well-known/elsewhere", None, False),
    "of another issuer": ("", "/.well-known/openid-configuration", lambda idp: {"issuer": idp.url + "/x"}, False),
    "with a slash more": ("", "/.well-known/openid-configuration", lambda idp: {"issuer": idp.url + "/"}, False),
    "without an issuer": ("", "/.well-known/openid-configuration", lambda _: {"issuer": None}, False),
    "without keys": ("", "/.well-known/openid-configuration", lambda _: {"jwks_uri": None}, False),
    "with keys in a file": ("", "/.well-known/openid-configuration", lambda _: {"jwks_uri": "file:///etc/x"}, False),
    "with keys in a private network": (
        "",
        "/.well-known/openid-configuration",
        lambda _: {"jwks_uri": "https://10.0.0.1/keys"},
        False,
    ),
}


@pytest.mark.parametrize(("path", "place", "change", "expected"), METADATA.values(), ids=METADATA)
async def test_discovers_the_set(
    client: OutboundClient,
    idp: Idp,
    monotonic: Clock,
    path: str,
    place: str,
    change: Callable[[Idp], dict[str, Any]] | None,
    expected: bool,
) -> None:
    """
    Metadata is found at each place that the standards name, and counts only if it is the issuer's own.
    """
    idp.path, idp.metadata_path = path, place
    if change is not None:
        idp.metadata = {"issuer": idp.url, "jwks_uri": f"http://127.0.0.1:{idp.port}/keys"} | change(idp)
    async with key_set(client, idp, monotonic, discovery=True) as keys:
        if expected:
            assert await found(keys)
        else:
            with pytest.raises(KeysUnavailable):
                await found(keys)
            assert 0 == idp.fetches


def test_metadata_urls_of_an_issuer_with_a_trailing_slash() -> None:
    """
    A slash at the issuer's end is not doubled (OpenID Connect Discovery section 4.1).
    """
    assert (
        "https://i.example/.well-known/openid-configuration",
        "https://i.example/.well-known/oauth-authorization-server",
    ) == metadata_urls("https://i.example/")


async def test_fetches_once_for_all_who_ask(client: OutboundClient, idp: Idp, monotonic: Clock) -> None:
    """
    Fifty callers that come before the keys cause one fetch.
    """
    idp.gate = asyncio.Event()
    async with key_set(client, idp, monotonic) as keys:
        asking = [asyncio.create_task(found(keys)) for _ in range(50)]
        await asyncio.sleep(0)
        asking[0].cancel()
        idp.gate.set()
        results = await asyncio.gather(*asking, return_exceptions=True)

    assert isinstance(results[0], asyncio.CancelledError)
    assert [True] * 49 == results[1:]
    assert 1 == idp.fetches


async def test_serves_good_tokens_through_a_flood_of_unknown_kids(
    client: OutboundClient, idp: Idp, monotonic: Clock
) -> None:
    """
    Thousands of unknown key ids cause one fetch more than the first, and never push a good key out (threats B11).
    """
    async with key_set(client, idp, monotonic) as keys:
        assert await found(keys)
        monotonic.now += 31
        for number in range(5000):
            assert not await found(keys, f"unknown-{number}")
        assert await found(keys)
        assert 2 == idp.fetches
        monotonic.now += 31
        assert not await found(keys, "unknown-0")  # remembered: no fetch although one would be due
        assert 2 == idp.fetches
    assert len(keys._unknown) <= 1024


@pytest.mark.parametrize("keys_then", [[], None], ids=["an empty set", "an error"])
async def test_cools_down_after_a_failure_too(
    client: OutboundClient, idp: Idp, monotonic: Clock, keys_then: list[Any] | None
) -> None:
    """
    A fetch that failed, or brought nothing, counts as an attempt: the next unknown id waits.
    """
    async with key_set(client, idp, monotonic) as keys:
        assert await found(keys)
        if keys_then is None:
            idp.answer = lambda: web.Response(status=500)
        else:
            idp.keys = keys_then
        monotonic.now += 31
        assert [False] * 20 == [await found(keys, f"u{number}") for number in range(20)]
        assert 2 == idp.fetches
        assert await found(keys)


async def test_finds_a_new_key_after_the_cool_down(client: OutboundClient, idp: Idp, monotonic: Clock) -> None:
    """
    A key id that is new leads to a fetch, once the last one is half a minute old.
    """
    async with key_set(client, idp, monotonic) as keys:
        assert await found(keys)
        idp.keys.append(NEW)
        assert not await found(keys, "k2")
        monotonic.now += 30
        assert await found(keys, "k2")
        assert await found(keys)
        assert 2 == idp.fetches


async def test_refreshes_in_the_background(client: OutboundClient, idp: Idp, monotonic: Clock) -> None:
    """
    Between the refresh age and the greatest age callers are served at once, while the set is asked for again.
    """
    async with key_set(client, idp, monotonic) as keys:
        assert await found(keys)
        idp.keys = [NEW]
        idp.gate = asyncio.Event()
        monotonic.now += 301
        assert await found(keys)
        idp.gate.set()
        assert keys._flight is not None
        await keys._flight
        assert not await found(keys)
        assert await found(keys, "k2")
        assert 2 == idp.fetches


async def test_refuses_a_removed_key_at_the_greatest_age(client: OutboundClient, idp: Idp, monotonic: Clock) -> None:
    """
    Ten minutes after the last fetch a caller waits for the next: a key taken out is not believed once more (B14).
    """
    async with key_set(client, idp, monotonic) as keys:
        assert await found(keys)
        idp.keys = [NEW]
        monotonic.now += 600
        assert not await found(keys)


async def test_serves_stale_keys_for_a_day_then_fails_closed(
    client: OutboundClient, idp: Idp, monotonic: Clock
) -> None:
    """
    While the issuer fails, its last keys serve for a day; then the answer is 503, and recovery needs no restart.
    """
    async with key_set(client, idp, monotonic) as keys:
        assert await found(keys)
        idp.answer = lambda: web.Response(status=503)
        for _ in range(3):
            monotonic.now += 700
            assert await found(keys)
        monotonic.now += 86_400
        with pytest.raises(KeysUnavailable):
            await found(keys)
        idp.answer = None
        monotonic.now += 30
        assert await found(keys)


async def test_does_not_wait_again_for_an_issuer_that_failed(
    client: OutboundClient, idp: Idp, monotonic: Clock
) -> None:
    """
    With keys to serve, callers wait for a failing issuer at most once.
    """
    async with key_set(client, idp, monotonic) as keys:
        assert await found(keys)
        idp.answer = lambda: web.Response(status=500)
        monotonic.now += 700
        assert await found(keys)
        idp.gate = asyncio.Event()  # from now on it hangs
        monotonic.now += 31
        assert await found(keys)
        assert keys._flight is not None


ANSWERS: dict[str, Callable[[], web.StreamResponse]] = {
    "an error": lambda: web.Response(status=500),
    "not found": lambda: web.Response(status=404, text="{}"),
    "a page": lambda: web.Response(text="<html>", content_type="text/html"),
    "nothing": lambda: web.Response(body=b""),
    "cut short": lambda: web.Response(body=b'{"keys":[{"kty":"RSA"'),
    "a list": lambda: web.json_response([]),
    "no keys": lambda: web.json_response({}),
    "an empty set": lambda: web.json_response({"keys": []}),
    "a set of nothing usable": lambda: web.json_response({"keys": [{"kty": "oct", "k": "AAAA", "kid": "k1"}]}),
    "a member twice": lambda: web.Response(body=b'{"keys":[],"keys":[]}'),
    "a deep nest": lambda: web.Response(body=b'{"keys":' + b"[" * 100_000),
    "more than we read": lambda: web.Response(body=b'{"keys":["' + b"x" * 300_000 + b'"]}'),
    "more keys than an issuer has": lambda: web.json_response({"keys": [NEW] * 101}),
    "a redirect": lambda: web.Response(status=302, headers={"Location": "/other"}),
}


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)
async def test_hostile_answers_leave_the_old_keys(
    client: OutboundClient, idp: Idp, monotonic: Clock, answer: Callable[[], web.StreamResponse]
) -> None:
    """
    Whatever an issuer answers instead of keys: those that it had serve on, and where there are none it is a 503.
    """
    async with key_set(client, idp, monotonic) as keys, key_set(client, idp, monotonic) as empty:
        assert await found(keys)
        idp.answer = answer
        monotonic.now += 700
        assert await found(keys)
        with pytest.raises(KeysUnavailable):
            await found(empty)
        assert "/other" not in idp.hits


async def test_tries_again_soon_when_there_are_no_keys_at_all(
    client: OutboundClient, idp: Idp, monotonic: Clock
) -> None:
    """
    An issuer that starts after the gateway is asked after 2 s, not after the cool-down; and not by every call.
    """
    idp.answer = lambda: web.Response(status=500)
    async with key_set(client, idp, monotonic) as keys:
        for _ in range(5):
            with pytest.raises(KeysUnavailable):
                await found(keys)
        assert 1 == idp.fetches
        idp.answer = None
        monotonic.now += 2
        assert await found(keys)


async def test_unreachable_issuer_is_unavailable(client: OutboundClient, monotonic: Clock) -> None:
    """
    Nobody listening is a 503.
    """
    idp = Idp(port=1)
    async with key_set(client, idp, monotonic, jwks_uri="http://127.0.0.1:1/keys") as keys:
        with pytest.raises(KeysUnavailable):
            await found(keys)


async def test_token_without_a_key_id_needs_one_key(client: OutboundClient, idp: Idp, monotonic: Clock) -> None:
    """
    Without a key id the only key is meant; with two keys none is, and nothing is fetched for it.
    """
    async with key_set(client, idp, monotonic) as keys:
        assert await found(keys, None)
        idp.keys.append(NEW)
        monotonic.now += 600
        assert not await found(keys, None)
        assert 2 == idp.fetches


async def test_key_of_another_algorithm_is_not_found(client: OutboundClient, idp: Idp, monotonic: Clock) -> None:
    """
    A key is found only for an algorithm of its own.
    """
    async with key_set(client, idp, monotonic) as keys:
        assert await keys.find("k1", "RS256") is not None
        assert await keys.find("k1", "PS256") is None
        assert ["k1"] == [key["kid"] for key in keys.public_keys()]

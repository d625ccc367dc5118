"""The demo's provider and API on loopback, a clock that tests move, tokens that are counted up."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from ipaddress import ip_network

import pytest
from aiohttp import web

from gateway.demo.provider import ClientCredentials, DemoProvider
from gateway.models import Egress
from gateway.net.client import OutboundClient

REDIRECT_URI = "http://127.0.0.1:8080/v1/outbound/oauth/callback"
CREDENTIALS = ClientCredentials("demo client", "s3cret:/+ü")

Serve = Callable[[web.Application], Awaitable[str]]


class Clock:
    """POSIX seconds, moved by hand."""

    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    """The time of a test."""
    return Clock()


@pytest.fixture
def random_token() -> Callable[[], str]:
    """Texts as long as real tokens, each once."""
    numbers = itertools.count(1)
    return lambda: f"token-{next(numbers):037d}"


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """A function that serves an application on a free port and returns its origin."""
    runners: list[web.AppRunner] = []

    async def start(app: web.Application) -> str:
        runner = web.AppRunner(app)
        await runner.setup()
        runners.append(runner)
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        return f"http://127.0.0.1:{runner.addresses[0][1]}"

    yield start
    for runner in runners:
        await runner.cleanup()


@pytest.fixture
async def client() -> AsyncIterator[OutboundClient]:
    """The gateway's own HTTP client, dialling loopback."""
    async with OutboundClient(Egress(allow_private=(ip_network("127.0.0.0/8"),), allow_http=True)) as opened:
        yield opened


@pytest.fixture
def provider(clock: Clock, random_token: Callable[[], str]) -> DemoProvider:
    """The demo provider, not served yet."""
    return DemoProvider(clock=clock, random_token=random_token, client=CREDENTIALS, redirect_uris=(REDIRECT_URI,))

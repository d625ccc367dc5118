"""A new sealing key while a gateway serves: callers notice nothing, also when the command that makes it is killed."""

from __future__ import annotations

import asyncio
import itertools
import os
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from gateway.store.engine import Store
from gateway.vault.key_census import count_keys
from gateway.vault.key_ring import SealingRing
from gateway.vault.sealing import Sealer
from gateway.vault.tokens import Tokens
from gateway.vault.wire_tokens import MAX_BATCH
from tests.e2e.gateway_process import RunningProcess, command, serving
from tests.e2e.json_api import plays
from tests.world import LOOPBACK, Provider, Upstream, create_connection, settings

USERS = 1_350  # two values each: 27 batches, in one of which the rotation is killed
WAIT_SECONDS = 60.0
ROTATIONS = 5  # one that was over before it could be killed is followed by another
OUTBOUND = "/v1/mgmt/outbound/app/user"


class Load:
    """Callers that go on until told otherwise: how often each was served, and what was not as it should be."""

    def __init__(self, gateway: RunningProcess) -> None:
        self.served: Counter[str] = Counter()
        self.failed: list[tuple[str, Any]] = []
        self._gateway = gateway
        self._numbers = itertools.count()
        self._is_over = False

    async def run(self, step: Callable[[Load], Awaitable[Any]]) -> None:
        """Take *step* again and again. A step returns what went wrong, None where nothing did."""
        while not self._is_over:
            wrong = await step(self)
            if wrong is not None:
                self.failed.append((step.__name__, wrong))
            self.served[step.__name__] += 1

    def stop(self) -> None:
        """Let each caller end its step."""
        self._is_over = True

    async def call(self) -> Any:
        """Call the API as a user, whose token is in no cache the first time."""
        number = next(self._numbers) % USERS
        headers = {"Authorization": f"Bearer {self._gateway.management_key}", "Gateway-User": f"u{number}"}
        async with self._gateway.session.get(f"{self._gateway.url}/api/me", headers=headers) as response:
            content = await response.json(content_type=None)
            is_right = (200, [f"Bearer A-u{number}"]) == (response.status, content)
            return None if is_right else (response.status, content)

    async def fetch(self) -> Any:
        """Fetch a user's token."""
        user = f"u{next(self._numbers) % USERS}"
        status, content = await self._post("/token/latest", {"userId": user})
        return None if status == 200 and content["token"]["accessToken"] == f"A-{user}" else (status, content)

    async def refresh(self) -> Any:
        """Have a token refreshed: its new secrets are sealed with whichever key seals now."""
        status, content = await self._post("/token/latest", {"userId": "refreshed", "options": {"forceRefresh": True}})
        return None if status == 200 and not content["token"]["lastRefreshError"] else (status, content)

    async def upload(self) -> Any:
        """Upload a token and read it back."""
        token = f"A-{next(self._numbers)}"
        uploaded = await self._post("/oauthtoken/upload", {"userId": "uploaded", "accessToken": token})
        fetched = await self._post("/token/latest", {"userId": "uploaded"})
        is_right = uploaded[0] == 200 == fetched[0] and fetched[1]["token"]["accessToken"] == token
        return None if is_right else (uploaded, fetched)

    async def _post(self, path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        headers = {"Authorization": f"Bearer acme:{self._gateway.management_key}"}
        url = f"{self._gateway.process.token_api_url}{OUTBOUND}{path}"
        async with self._gateway.session.post(url, json={"appId": "api", **body}, headers=headers) as response:
            return response.status, await response.json()


async def test_rotation_under_load_loses_no_request(
    tmp_path: Path, database_url: str, upstream: Upstream, provider: Provider
) -> None:
    """
    While keys are rotated, the command is killed in the middle and run again, every request is answered as always.
    """
    data, environ = tmp_path / "data", {"GATEWAY_DATABASE_URL": database_url}
    rotate = ("sealing", "rotate", "--data-is-shared", "--data", str(data))
    plays(upstream, lambda received: (200, received.values("Authorization"), ""))
    route = {"name": "api", "prefix": "/api", "upstream": upstream.url, "connection": "api"}
    configuration = settings(route, callers={"issuers": [], "management_keys": True}, egress=LOOPBACK)
    async with serving(configuration, data, environ=environ) as gateway:
        await _fill(gateway, provider)
        store = await Store.open(database_url)
        load = Load(gateway)
        callers = [
            asyncio.create_task(load.run(step))
            for step in (Load.call, Load.call, Load.fetch, Load.fetch, Load.refresh, Load.upload)
        ]

        (old,) = await _keys(store)
        for _ in range(ROTATIONS):
            async with command(*rotate, environ=environ) as first:
                await _until_both_keys(store, first)
                with suppress(ProcessLookupError):
                    first.kill()
                await first.wait()
            interrupted = await _keys(store)
            if len(interrupted) > 1:
                break
            (old,) = interrupted
        async with command(*rotate, environ=environ) as second:
            _, said = await second.communicate()

        load.stop()
        await asyncio.gather(*callers)
        (new,) = await _keys(store)
        await _assert_whole(store, data)
        await store.close()

    assert {old, new} == interrupted
    assert (0, f"Key {new.hex()} seals") == (second.returncode, said.decode().partition(";")[0])
    assert [] == load.failed[:3]
    assert {"call", "fetch", "refresh", "upload"} == set(load.served)
    assert 0 == provider.reused
    assert "seal_broken" not in gateway.process.stderr


async def _fill(gateway: RunningProcess, provider: Provider) -> None:
    """Connect every user, and one whose token is refreshed all the time."""
    await create_connection(gateway, provider)
    tokens = [{"userId": f"u{number}", "accessToken": f"A-u{number}"} for number in range(USERS)]
    tokens.append({"userId": "refreshed", "accessToken": "A"})
    batch = [{"appId": "api", "refreshToken": provider.issue(), **token} for token in tokens]
    for start in range(0, len(batch), MAX_BATCH):
        part = {"tokens": batch[start : start + MAX_BATCH]}
        assert {"failures": []} == await gateway.api(f"{OUTBOUND}/oauthtoken/batch/upload", part)


async def _keys(store: Store) -> set[bytes]:
    return {counted.key_id for counted in await count_keys(store)}


async def _until_both_keys(store: Store, rotation: asyncio.subprocess.Process) -> None:
    """Return in the middle of *rotation*, or when it is over."""
    async with asyncio.timeout(WAIT_SECONDS):
        while rotation.returncode is None and len(await _keys(store)) < 2:
            pass


async def _assert_whole(store: Store, data: Path) -> None:
    """Every token opens with the keys that a gateway would start with."""
    ring = await SealingRing.open(data, {})
    tokens = Tokens(store, Sealer(ring, os.urandom), clock=lambda: 0.0, random_bytes=os.urandom)
    opened = [await tokens.get(token.id) for token in await tokens.list()]
    await ring.close()
    assert USERS + 2 == len([token for token in opened if token is not None and token.access_token])

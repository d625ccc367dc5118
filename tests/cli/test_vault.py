"""How commands open the vault: with the data's own key, and what routes.yaml lets them dial."""

from __future__ import annotations

import asyncio
import os
import time
from dataclasses import asdict, replace
from ipaddress import ip_network
from pathlib import Path

import click
import orjson
import pytest
import yaml
from aiohttp import web

from gateway.cli.vault import egress_of, open_sealed, open_vault
from gateway.models import Egress
from gateway.vault.attempts import Attempts, NewAttempt, new_secret
from gateway.vault.code_exchange import Held
from gateway.vault.connection import Connection
from tests.world import settings


def test_egress_is_the_file_s(tmp_path: Path) -> None:
    """Without a file only public https is dialled; with one, what it says."""
    file = tmp_path / "routes.yaml"
    assert Egress() == egress_of(file)
    file.write_text(yaml.safe_dump(settings()))
    assert egress_of(file).allow_http


@pytest.mark.usefixtures("environment")
def test_another_key_is_one_sentence(tmp_path: Path) -> None:
    """A sealing key that does not belong to the data ends the command with the way out."""

    async def use() -> None:
        async with open_vault(tmp_path, Egress()) as vault:
            await vault.connections.create(Connection("c", "c", client_secret="CANARY"))

    asyncio.run(use())
    (tmp_path / "sealing.key").unlink()
    with pytest.raises(click.ClickException, match="give the gateway the key") as error:
        asyncio.run(use())
    assert "CANARY" not in str(error.value)


@pytest.mark.usefixtures("environment")
async def test_removed_connection_gives_back_what_waits_for_a_yes(tmp_path: Path) -> None:
    """A command that removes a connection has the tokens revoked that a user has not confirmed, before it ends."""
    revoked: list[str] = []

    async def revoke(request: web.Request) -> web.Response:
        revoked.append(str((await request.post())["token"]))
        return web.Response()

    app = web.Application()
    app.router.add_post("/revoke", revoke)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}/revoke"
    egress = Egress(allow_private=(ip_network("127.0.0.0/8"),), allow_http=True)
    async with open_vault(tmp_path, egress) as vault:
        await vault.connections.create(Connection("c", "c", client_id="x", revocation_url=url))
    async with open_sealed(tmp_path) as (store, sealer):
        attempts = Attempts(store, sealer, clock=time.time, random_bytes=os.urandom)
        attempt, _ = await attempts.begin(NewAttempt("c", "ada", "", "", "ada", ("s",), ""))
        assert await attempts.bind(attempt, "browser")
        state = new_secret(os.urandom)
        assert await attempts.ask(attempt, state=state, verifier=None, issuer="", callback_url="https://c")
        assert await attempts.move(replace(attempt, status="asked"), "exchanging")
        held = Held("AT", "RT", "Bearer", None, None, "another")
        assert await attempts.hold(replace(attempt, status="exchanging"), orjson.dumps(asdict(held)))
    async with open_vault(tmp_path, egress) as vault:
        await vault.removal.connection("c")
    await runner.cleanup()

    assert ["RT"] == revoked

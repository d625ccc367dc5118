"""`gateway tokens`: what the vault holds is listed, never shown."""

from __future__ import annotations

import asyncio
import getpass
import itertools
import json
import os
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from gateway.cli.data import open_store
from gateway.cli.tokens import refreshed, tokens
from gateway.cli.vault import open_vault
from gateway.vault.connections import Connection, Connections
from gateway.vault.key_ring import SealingRing
from gateway.vault.sealing import Sealer
from gateway.vault.stored_token import StoredToken, TokenDraft
from gateway.vault.tokens import Tokens
from tests.vault.conftest import LOOPBACK, QUICK
from tests.world import Provider, settings

pytestmark = pytest.mark.usefixtures("environment")


def run(data: Path, *arguments: str) -> Result:
    """Run the command on the data directory *data*."""
    return CliRunner().invoke(tokens, [*arguments, "--data", str(data)])


def fill(data: Path) -> None:
    """Store a token of alice and one of the tenant acme."""

    times = itertools.count(1.0)  # so that alice's is the older one

    async def write() -> None:
        async with open_store(data) as store:
            sealer = Sealer(await SealingRing.open(data, {}), os.urandom)
            await Connections(store, sealer, clock=lambda: 1.0, random_bytes=os.urandom).create(Connection("c", "c"))
            stored = Tokens(store, sealer, clock=lambda: next(times), random_bytes=os.urandom)
            await stored.put(TokenDraft("c", "alice", scopes=("b", "a"), access_token="CANARY", refresh_token="CANARY"))
            await stored.put(TokenDraft("c", "", "acme", access_token="CANARY", expires_at=60.0))

    asyncio.run(write())


def test_nothing_yet(tmp_path: Path) -> None:
    """An empty vault is no error."""
    result = run(tmp_path, "ls")
    assert (0, "") == (result.exit_code, result.stdout)
    assert "[]" == run(tmp_path, "ls", "--json").stdout.strip()


def test_lists_without_tokens(tmp_path: Path) -> None:
    """Owner, scopes and state are shown, in text and as JSON; tokens are not, and no sealing key is made for it."""
    fill(tmp_path)
    (tmp_path / "sealing.key").unlink()
    text, machine = run(tmp_path, "ls"), run(tmp_path, "ls", "--json")

    alice, acme = json.loads(machine.stdout)
    assert ("alice", None, ["a", "b"], "active") == (alice["user"], alice["tenant"], alice["scopes"], alice["state"])
    assert (None, "acme", "expired 1970-01-01T00:01:00Z") == (acme["user"], acme["tenant"], acme["state"])
    assert ["c\talice\t-\ta b\tactive", "c\tacme\t-\t-\texpired 1970-01-01T00:01:00Z"] == [
        line.partition("\t")[2] for line in text.stdout.splitlines()[1:]
    ]
    assert "CANARY" not in text.output + machine.output
    assert not (tmp_path / "sealing.key").exists()


def test_filters(tmp_path: Path) -> None:
    """--user and --connection narrow the list."""
    fill(tmp_path)
    assert ["alice"] == [token["user"] for token in json.loads(run(tmp_path, "ls", "--user", "alice", "--json").stdout)]
    assert [] == json.loads(run(tmp_path, "ls", "--connection", "other", "--json").stdout)


def ids(data: Path) -> list[str]:
    """The ids of the stored tokens, the oldest first."""
    return [token["id"] for token in json.loads(run(data, "ls", "--json").stdout)]


def test_shows_masked_unless_revealed(tmp_path: Path) -> None:
    """`show` says everything but the tokens; --reveal says them, too; an unknown id is exit code 4."""
    fill(tmp_path)
    alice = ids(tmp_path)[0]
    masked = [run(tmp_path, "show", alice), run(tmp_path, "show", alice, "--json")]
    revealed = json.loads(run(tmp_path, "show", alice, "--reveal", "--json").stdout)

    assert [0, 0] == [result.exit_code for result in masked]
    assert "CANARY" not in "".join(result.output for result in masked)
    assert ("CANARY", "CANARY", "alice") == (revealed["access_token"], revealed["refresh_token"], revealed["user"])
    assert [4, 4] == [run(tmp_path, "show", "nothing", *more).exit_code for more in ((), ("--reveal",))]


def test_removes_by_id_and_by_user(tmp_path: Path) -> None:
    """`rm` takes ids, or users; what is not there is exit code 4, saying nothing at all is 2."""
    fill(tmp_path)
    _, acme = ids(tmp_path)
    assert 2 == run(tmp_path, "rm").exit_code
    assert 4 == run(tmp_path, "rm", "nothing").exit_code
    assert 0 == run(tmp_path, "rm", "--user", "alice").exit_code
    assert [acme] == ids(tmp_path)
    assert 0 == run(tmp_path, "rm", acme).exit_code
    assert [] == ids(tmp_path)


def test_refresh_needs_something_to_refresh(tmp_path: Path) -> None:
    """An unknown token and one that has expired without a refresh token are exit code 4."""
    fill(tmp_path)
    _, acme = ids(tmp_path)
    none = str(tmp_path / "no-routes.yaml")
    results = [run(tmp_path, "refresh", token, "-c", none) for token in ("nothing", acme)]
    assert [4, 4] == [result.exit_code for result in results], results
    assert "CANARY" not in "".join(result.output for result in results)


def test_reveals_and_removals_are_recorded(tmp_path: Path) -> None:
    """Who on this machine saw a token or removed one stands in the record, before it was done; no token does."""
    fill(tmp_path)
    alice, _ = ids(tmp_path)
    run(tmp_path, "show", alice)
    run(tmp_path, "show", alice, "--reveal")
    run(tmp_path, "rm", alice)

    text = (tmp_path / "record" / "egress.jsonl").read_text(encoding="utf-8")
    lines = [json.loads(line) for line in text.splitlines()]
    assert ["tokens_revealed", "change_intent", "tokens_deleted"] == [line["event"] for line in lines]
    assert {("command", getpass.getuser())} == {(line["caller"]["kind"], line["caller"]["user"]) for line in lines}
    assert ([alice], 1) == (lines[2]["tokens"], lines[2]["deleted"])
    assert "CANARY" not in text


def test_nothing_is_revealed_without_its_line(tmp_path: Path) -> None:
    """A record that cannot be opened ends the command before a token is shown."""
    fill(tmp_path)
    alice, _ = ids(tmp_path)
    (tmp_path / "record").write_text("no directory")

    result = run(tmp_path, "show", alice, "--reveal")

    assert (1, True) == (result.exit_code, "the record cannot be written" in result.stderr)
    assert "CANARY" not in result.output


@pytest.fixture
async def provider() -> AsyncIterator[Provider]:
    """A provider that rotates refresh tokens."""
    server = await Provider().start()
    yield server
    await server.stop()


async def granted(data: Path, provider: Provider, **changes: Any) -> StoredToken:
    """Store a token of ada that *provider* can refresh, valid for an hour, and return it."""
    async with open_vault(data, LOOPBACK) as vault:
        if await vault.connections.load("c") is None:
            await vault.connections.create(Connection("c", "c", client_id="x", token_url=f"{provider.url}/token"))
        draft = TokenDraft("c", "ada", access_token="OLD", refresh_token=provider.issue())
        return await vault.tokens.put(replace(draft, expires_at=time.time() + 3600, **changes))


async def test_refresh_waits_for_a_slow_provider(tmp_path: Path, provider: Provider) -> None:
    """Whoever asks has the newer token once the provider has answered."""
    token = await granted(tmp_path, provider)
    provider.delay_seconds = 0.5

    newer = await refreshed(token.id, tmp_path, LOOPBACK)

    assert ("", 1) == (newer.last_refresh_error, provider.exchanges)
    assert newer.access_token != "OLD"


async def test_refresh_whose_time_is_over_cuts_nothing(tmp_path: Path, provider: Provider) -> None:
    """It says that the refresh is still under way, and ends when what the provider answered is stored."""
    token = await granted(tmp_path, provider)
    provider.delay_seconds = 1.0

    told = await refreshed(token.id, tmp_path, LOOPBACK, timing=replace(QUICK, wait_seconds=0.2))

    async with open_vault(tmp_path, LOOPBACK) as vault:
        stored = await vault.tokens.get(token.id)
    assert ("OLD", "refresh_in_progress") == (told.access_token, told.last_refresh_error)
    assert stored is not None
    assert (2, "") == (stored.version, stored.last_refresh_error)


async def test_refresh_without_newer_token_is_no_success(tmp_path: Path, provider: Provider) -> None:
    """A provider that fails is exit code 6, and `ls` says so from then on; nothing to refresh with is 1."""
    token = await granted(tmp_path, provider)
    config = tmp_path / "routes.yaml"
    config.write_text(yaml.safe_dump(settings()))
    await provider.stop()
    failed = await asyncio.to_thread(run, tmp_path, "refresh", token.id, "-c", str(config))
    listed = await asyncio.to_thread(run, tmp_path, "ls")
    await provider.start()
    bare = await granted(tmp_path, provider, user="bob", refresh_token=None)
    refused = await asyncio.to_thread(run, tmp_path, "refresh", bare.id, "-c", str(config))

    assert (6, True) == (failed.exit_code, "not refreshed" in failed.stderr), failed.output
    assert listed.stdout.rstrip().endswith(", failing (unreachable)"), listed.stdout
    assert (1, True) == (refused.exit_code, "it has no refresh token" in refused.stderr), refused.output


@pytest.mark.parametrize("engine", ["sqlite"])
@pytest.mark.parametrize("arguments", [["ls"], ["ls", "--json"], ["show", "x"]])
def test_reading_makes_no_data_directory(tmp_path: Path, arguments: list[str]) -> None:
    """A misspelt data directory is exit code 4 with its name, and is not made."""
    result = run(tmp_path / "typo", *arguments)

    assert (4, "", False) == (result.exit_code, result.stdout, (tmp_path / "typo").exists())
    assert "there is no data directory" in result.stderr

"""`gateway keys`."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from gateway.access.keys import KeyRing
from gateway.cli.data import open_store
from gateway.cli.keys import keys
from gateway.errors import CallerUnauthenticated
from gateway.models import Caller
from gateway.store.changes import ChangeFeed


@pytest.fixture
def data(tmp_path: Path, environment: None, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The data directory, named by the environment."""
    monkeypatch.setenv("GATEWAY_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


def run(*arguments: str) -> Result:
    """Run `gateway keys` with *arguments*."""
    return CliRunner().invoke(keys, list(arguments))


def caller_of(data: Path, secret: str) -> Caller:
    """Who the key says is calling."""

    async def verify() -> Caller:
        async with open_store(data) as store:
            feed = ChangeFeed(store, clock=time.time, monotonic=time.monotonic)
            return await KeyRing(store, feed, clock=time.time, random_bytes=lambda size: bytes(size)).verify(secret)

    return asyncio.run(verify())


def test_creates_an_agent_key(data: Path) -> None:
    """
    The secret alone goes to stdout, and is a working key with the rights that were given.
    """
    made = run(
        *("create", "--agent", "mail-agent", "--user", "alice", "--tenant", "a", "--tenant", "b"),
        *("--role", "sales", "--permission", "p", "--scope", "s", "--expires-in", "30"),
    )
    secret = made.stdout.strip()
    caller = caller_of(data, secret)

    assert 0 == made.exit_code
    assert secret not in made.stderr
    assert ("agent", "alice", "mail-agent") == (caller.kind, caller.user, caller.client)
    assert [{"a", "b"}, {"sales"}, {"p"}, {"s"}] == [
        set(names) for names in (caller.tenants, caller.roles, caller.permissions, caller.scopes)
    ]
    assert caller.expires_at is not None
    assert 29 < (caller.expires_at - time.time()) / 86_400 <= 30


def test_creates_a_management_key_as_json(data: Path) -> None:
    """
    With --json id and secret are one object.
    """
    made = json.loads(run("create", "--management", "--label", "ci", "--json").stdout)
    caller = caller_of(data, made["secret"])

    assert ("management", "ci", made["id"]) == (caller.kind, caller.client, caller.key_id)


USAGE: dict[str, tuple[list[str], str]] = {
    "neither kind": ([], "either --management or --agent"),
    "both kinds": (["--management", "--agent", "a"], "either --management or --agent"),
    "an agent for nobody": (["--agent", "a"], "a user or at least one tenant"),
    "a management key for a user": (["--management", "--user", "u"], "names its subject in each call"),
    "an empty name": (["--agent", "", "--user", "u"], "name: expected"),
    "an empty user": (["--agent", "a", "--user", ""], "user: expected"),
    "no days": (["--agent", "a", "--user", "u", "--expires-in", "0"], "--expires-in"),
    "too many days": (["--agent", "a", "--user", "u", "--expires-in", "99999"], "--expires-in"),
}


@pytest.mark.parametrize(("arguments", "expected"), USAGE.values(), ids=USAGE)
def test_says_what_is_wrong_with_a_call(data: Path, arguments: list[str], expected: str) -> None:
    """
    A call that makes no sense ends with 2, one sentence on stderr, and no key.
    """
    data.mkdir()
    result = run("create", *arguments)

    assert (2, "") == (result.exit_code, result.stdout)
    assert expected in result.stderr
    assert [] == listed(data)


def listed(_data: Path) -> list[dict[str, Any]]:
    """What `keys ls --json` prints."""
    found: list[dict[str, Any]] = json.loads(run("ls", "--json").stdout)
    return found


def test_lists_keys_without_their_secrets(data: Path) -> None:
    """
    A line a key: id, kind, name, subject and state; the secret is nowhere.
    """
    data.mkdir()
    empty = run("ls")
    secret = run("create", "--agent", "bot", "--user", "alice", "--tenant", "acme").stdout.strip()
    (info,) = listed(data)
    lines = run("ls").stdout.splitlines()

    assert ("", True) == (empty.stdout, "No keys yet" in empty.stderr)
    assert ["ID\tKIND\tNAME\tSUBJECT\tSTATE", f"{info['id']}\tagent\tbot\talice, acme\tactive"] == lines
    assert secret[-49:-6] not in json.dumps(info)


def test_revokes_a_key(data: Path) -> None:
    """
    A revoked key works no more, and says so in the list.
    """
    secret = run("create", "--agent", "bot", "--user", "alice").stdout.strip()
    (info,) = listed(data)
    result = run("revoke", info["id"])

    assert (0, "") == (result.exit_code, result.stdout)
    assert "\trevoked " in run("ls").stdout
    with pytest.raises(CallerUnauthenticated):
        caller_of(data, secret)


def test_unknown_key_is_exit_code_4(data: Path) -> None:
    """
    An id that is no key's ends with 4, and is not repeated: it may be a whole key, pasted.
    """
    data.mkdir()
    result = run("revoke", "gwa_canary")

    assert (4, "") == (result.exit_code, result.stdout)
    assert "no key has this id" in result.stderr
    assert "canary" not in result.stderr


@pytest.mark.parametrize("engine", ["sqlite"])
def test_commands_that_need_data_make_none(data: Path) -> None:
    """
    A misspelt data directory is exit code 4 with its name, and is not made.
    """
    results = [run("ls"), run("ls", "--json"), run("revoke", "nothing")]

    assert [4] * 3 == [result.exit_code for result in results]
    assert all("there is no data directory" in result.stderr and not result.stdout for result in results)
    assert not data.exists()


def test_keys_are_in_the_record(data: Path) -> None:
    """
    Making and revoking a key has a line before and one after, with its id and never its secret.
    """
    secret = run("create", "--agent", "bot", "--user", "alice").stdout.strip()
    (info,) = listed(data)
    assert 0 == run("revoke", info["id"]).exit_code
    assert 4 == run("revoke", secret).exit_code
    text = (data / "record" / "egress.jsonl").read_text()
    lines = [json.loads(line) for line in text.splitlines()]

    assert ["change_intent", "key_created", "change_intent", "key_revoked"] == [line["event"] for line in lines]
    assert [info["id"]] * 3 == [line["key"] for line in lines[1:]]
    assert ("agent", "bot", "alice") == (lines[1]["kind"], lines[1]["name"], lines[1]["user"])
    assert {"command"} == {line["caller"]["kind"] for line in lines}
    assert secret[-49:-6] not in text


def test_key_is_not_made_without_its_line(data: Path) -> None:
    """
    Where the record cannot be opened, the command fails and there is no key.
    """
    data.mkdir()
    (data / "record").write_text("in the way")

    assert 1 == run("create", "--agent", "bot", "--user", "alice").exit_code
    assert [] == listed(data)

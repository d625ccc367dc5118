"""`gateway sealing`: what is told of the keys, and a rotation from the command line."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from sqlalchemy import update

from gateway.cli.data import open_store
from gateway.cli.sealing import sealing
from gateway.store import schema
from gateway.vault.connection import Connection
from gateway.vault.connections import Connections
from gateway.vault.key_directory import KeyDirectory
from gateway.vault.key_ring import SealingRing
from gateway.vault.sealing import Sealer


def run(data: Path, *arguments: str, **environ: str) -> Result:
    """Run the command on the data directory *data*."""
    return CliRunner().invoke(sealing, [*arguments, "--data", str(data)], env=environ)


def rotate(data: Path, *arguments: str) -> Result:
    """Rotate as somebody who knows that every gateway has this data directory."""
    return run(data, "rotate", "--data-is-shared", *arguments)


def keys(data: Path) -> list[dict[str, object]]:
    """The keys as `status --json` tells them."""
    told = json.loads(run(data, "status", "--json").stdout)["keys"]
    assert isinstance(told, list)
    return told


@pytest.fixture
def data(tmp_path: Path, environment: None) -> Path:
    """A data directory with one sealed client secret."""
    data = tmp_path / "data"

    async def fill() -> None:
        async with open_store(data) as store:
            ring = await SealingRing.open(data, {})
            stored = Connections(store, Sealer(ring, os.urandom), clock=lambda: 1.0, random_bytes=os.urandom)
            await stored.create(Connection(id="contacts", name="Contacts", client_id="me", client_secret="CANARY"))
            await ring.close()

    asyncio.run(fill())
    return data


def test_status_tells_keys_and_what_they_sealed(data: Path) -> None:
    """One key, one value; no key is shown."""
    shown = run(data, "status")
    key_id = KeyDirectory(data).read()[0].key_id.hex()

    assert (0, f"{key_id}\tseals\t1 values\tgateway\n") == (shown.exit_code, shown.stdout)
    assert [{"id": key_id, "state": "seals", "values": 1, "kept_by": "gateway"}] == keys(data)
    assert (data / "sealing.key").read_text().strip() not in shown.output


def test_status_tells_of_missing_keys(data: Path, tmp_path: Path) -> None:
    """A key that only the database knows is missing."""
    (old,) = keys(data)
    run(tmp_path / "other", "status")
    (data / "sealing.key").write_bytes((tmp_path / "other" / "sealing.key").read_bytes())

    assert [("seals", 0), ("missing", 1)] == [(key["state"], key["values"]) for key in keys(data)]
    assert old["id"] == keys(data)[1]["id"]


def test_rotates_and_retires(data: Path) -> None:
    """A new key seals everything, then the old one is taken out of use, and nothing is shown of either."""
    (old,) = keys(data)
    rotated = rotate(data)
    after = keys(data)
    os.utime(data / "sealing.order", (1.0, 1.0))  # long ago: nothing is on its way any more
    retired = rotate(data, "--retire", str(old["id"]))

    assert (0, 0) == (rotated.exit_code, retired.exit_code), (rotated.output, retired.output)
    assert [("seals", 1), ("opens", 0)] == [(key["state"], key["values"]) for key in after]
    assert [after[0]] == keys(data)
    assert (data / f"retired-{old['id']}.key").exists()
    secrets = [path.read_text().strip() for path in data.glob("*.key")]
    assert not any(secret in rotated.output + retired.output for secret in secrets)


def test_key_that_seals_is_not_retired(data: Path) -> None:
    """The refusal is one sentence, and exit code 1."""
    (only,) = keys(data)
    result = rotate(data, "--retire", str(only["id"]))

    assert 1 == result.exit_code
    assert "cannot be retired" in result.stderr


def test_values_that_cannot_be_opened_fail_the_command(data: Path) -> None:
    """They are named by their row, and the exit code is 1."""

    async def breaks() -> None:
        async with open_store(data) as store, store.write() as db:
            await db.execute(update(schema.connections).values(sealed_client_secret=b"\x01" + b"CANARY" * 20))

    asyncio.run(breaks())
    result = rotate(data)

    assert 1 == result.exit_code
    assert "cannot be opened: connections.sealed_client_secret of contacts" in result.stderr


def test_second_rotation_is_refused(data: Path) -> None:
    """While one runs, another says so."""
    with KeyDirectory(data).rotating():
        result = rotate(data)
    assert (1, True) == (result.exit_code, "another rotation" in result.stderr)


@pytest.mark.parametrize("engine", ["postgresql"])
def test_shared_database_needs_a_word_about_the_data_directory(data: Path) -> None:
    """Where gateways on other machines may not see the new key, none is made unless it is said that they do."""
    before = sorted(path.name for path in data.iterdir())
    result = run(data, "rotate")

    assert (2, True) == (result.exit_code, "--data-is-shared" in result.stderr)
    assert before == sorted(path.name for path in data.iterdir())


@pytest.mark.parametrize("old", ["CANARY", "00ff", ""])
def test_refuses_what_is_no_key_id(data: Path, old: str) -> None:
    """A key id is what status prints."""
    result = run(data, "rotate", "--retire", old)
    assert (2, True) == (result.exit_code, "hexadecimal" in result.stderr)


def test_keys_that_cannot_be_used_are_one_sentence(data: Path) -> None:
    """A broken environment ends the command without a traceback."""
    result = run(data, "status", GATEWAY_SEALING_KEYS="CANARY")
    assert 1 == result.exit_code
    assert result.stderr.startswith("Error: GATEWAY_SEALING_KEYS")
    assert "CANARY" not in result.output

"""How commands open the vault: with the data's own key, and what routes.yaml lets them dial."""

from __future__ import annotations

import asyncio
from pathlib import Path

import click
import pytest
import yaml

from gateway.cli.vault import egress_of, open_vault
from gateway.models import Egress
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

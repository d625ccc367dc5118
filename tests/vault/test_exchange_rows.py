"""What the refresh job writes into a row: compared with what was read, and since when it fails."""

from __future__ import annotations

from gateway.vault.oauth import Granted
from gateway.vault.service import Vault
from gateway.vault.stored_token import ANSWER_LOST, ROTATION_INTERRUPTED, StoredToken
from tests.vault.conftest import House


async def again(vault: Vault, token: StoredToken) -> StoredToken:
    """The row as it is now."""
    now = await vault.tokens.get(token.id)
    assert now is not None
    return now


def failing_since(house: House) -> float | None:
    """Since when the only token fails, as the row has it."""
    ((since,),) = house.execute("SELECT failing_since FROM tokens")
    return None if since is None else float(since)


async def test_row_tells_since_when_it_fails(house: House, vault: Vault) -> None:
    """The first failure counts until a success; a refresh token that came alone is none; a revival begins anew."""
    rows, token, began = vault.tokens.rows, await house.grant(vault), house.clock.now
    for error in ("timeout", "server_error"):
        assert await rows.lease(token, owner="a", seconds=1.0)
        assert await rows.note_failure(token, error=error, owner="a")
        token = await again(vault, token)
        house.clock.now += 10.0
    assert began == failing_since(house)

    assert await rows.lease(token, owner="b", seconds=1.0)
    assert await rows.store_renewed(token, "RT-alice-1", error="malformed_answer", owner="b")
    token = await again(vault, token)
    assert (began, "malformed_answer", 2) == (failing_since(house), token.last_refresh_error, token.version)

    assert await rows.lease(token, owner="c", seconds=1.0)
    assert await rows.mark_dead(token, error="invalid_grant", owner="c")
    assert await rows.revive(await again(vault, token))
    assert failing_since(house) is None


async def test_rescue_is_refused_once_somebody_exchanges(house: House, vault: Vault) -> None:
    """A late answer is written over a row at rest, dead or not, and never over another's work."""
    rows, token = vault.tokens.rows, await house.grant(vault)
    granted = Granted("AT-alice-9", "RT-alice-9", "Bearer", None, None)
    assert await rows.lease(token, owner="other", seconds=1.0)
    leased = await again(vault, token)
    assert not await rows.rescue(leased, granted)
    assert not await rows.rescue(token, granted)

    assert await rows.mark_dead(leased, error=ROTATION_INTERRUPTED, owner="other")
    dead = await again(vault, token)
    assert await rows.rescue(dead, granted)
    rescued = await again(vault, token)
    assert ("AT-alice-9", "RT-alice-9", False, "", dead.version + 1) == (
        rescued.access_token, rescued.refresh_token, rescued.dead, rescued.last_refresh_error, rescued.version
    )  # fmt: skip
    assert not await rows.rescue(dead, granted)


async def test_lost_answer_of_another_stays_told_after_a_rescue(house: House, vault: Vault) -> None:
    """Whoever exchanged after this answer's asker may have rotated as well: the row goes on saying so."""
    rows, token = vault.tokens.rows, await house.grant(vault)
    assert await rows.lease(token, owner="other", seconds=1.0)
    assert await rows.note_failure(token, error=ANSWER_LOST, owner="other")
    assert await rows.rescue(await again(vault, token), Granted("AT-9", "RT-9", "Bearer", None, None))

    assert ANSWER_LOST == (await again(vault, token)).last_refresh_error

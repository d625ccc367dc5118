"""Refresh as a durable job: one exchange, whoever asks, whatever happens to them."""

from __future__ import annotations

import asyncio
import dataclasses
import stat

import pytest
from structlog.testing import capture_logs

from gateway.errors import ConnectionRequired, TokenServiceUnavailable
from gateway.models import ConnectionToken
from gateway.vault.backoff import BACKOFF_FIRST_SECONDS
from gateway.vault.connection import Connection
from gateway.vault.recovery import RECOVERY_DIRECTORY
from gateway.vault.service import Vault
from gateway.vault.stored_token import StoredToken, TokenDraft
from tests.vault.conftest import ANYBODY, KEY, QUICK, House


async def fetch(vault: Vault) -> ConnectionToken:
    """Fetch alice's token."""
    return await vault.fetch(KEY, caller=ANYBODY, credential="")


async def replace(vault: Vault, rejected: ConnectionToken) -> ConnectionToken:
    """Tell the vault that the provider's API rejected *rejected*."""
    return await vault.replace(KEY, rejected=rejected, caller=ANYBODY, credential="")


async def test_two_hundred_callers_share_one_exchange(house: House, vault: Vault) -> None:
    """200 callers that meet a rejection together cause one exchange and get its token."""
    await house.grant(vault)
    rejected = await fetch(vault)

    answers = await asyncio.gather(*(replace(vault, rejected) for _ in range(200)))

    assert ["RT-alice-0"] == house.provider.exchanges
    assert {"AT-alice-1"} == {answer.access_token for answer in answers}
    assert house.provider.is_alive("alice")


async def test_two_vaults_on_one_database_share_one_exchange(house: House, vault: Vault) -> None:
    """Two processes on one database ask the provider once between them."""
    await house.grant(vault)
    rejected = await fetch(vault)
    async with house.vault() as other:
        answers = await asyncio.gather(*(replace(one, rejected) for one in (vault, other) for _ in range(20)))

    assert ["RT-alice-0"] == house.provider.exchanges
    assert {"AT-alice-1"} == {answer.access_token for answer in answers}


async def test_grant_survives_many_rounds(house: House, vault: Vault) -> None:
    """Round after round of concurrent rejections, each refresh token is used once."""
    await house.grant(vault)
    async with house.vault() as other:
        for number in range(10):
            rejected = await fetch(vault)
            assert f"AT-alice-{number}" == rejected.access_token
            await asyncio.gather(*(replace(one, rejected) for one in (vault, other) for _ in range(5)))

    assert 10 == len(house.provider.exchanges)
    assert 0 == house.provider.reuses


async def test_exchange_completes_when_the_caller_goes_away(house: House, vault: Vault) -> None:
    """A caller cancelled in mid-refresh changes nothing: the next one has the new token without another exchange."""
    await house.grant(vault)
    rejected = await fetch(vault)
    house.provider.gate = asyncio.Event()
    caller = asyncio.create_task(replace(vault, rejected))
    await house.provider.entered.wait()

    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    house.provider.gate.set()
    answer = await replace(vault, rejected)

    assert "AT-alice-1" == answer.access_token
    assert ["RT-alice-0"] == house.provider.exchanges


async def test_close_lets_an_exchange_finish(house: House, vault: Vault) -> None:
    """Stopping the process waits for an exchange under way, and stores what it brings."""
    await house.grant(vault)
    rejected = await fetch(vault)
    house.provider.gate = asyncio.Event()
    caller = asyncio.create_task(replace(vault, rejected))
    await house.provider.entered.wait()

    closing_down = asyncio.create_task(vault.close())
    house.provider.gate.set()
    await closing_down

    stored = await vault.tokens.find(KEY)
    assert stored is not None
    assert "AT-alice-1" == stored.access_token
    await caller


async def test_close_tells_what_it_waits_for(house: House, vault: Vault) -> None:
    """The log says how many exchanges a stop waits for; lease renewals are none."""
    for user in ("alice", "bob"):
        await house.grant(vault, user=user, seconds=-1.0)
    house.provider.gate = asyncio.Event()
    callers = []
    for user in ("alice", "bob"):
        house.provider.entered.clear()
        callers.append(asyncio.create_task(vault.fetch_stored(KEY._replace(user=user))))
        await house.provider.entered.wait()

    with capture_logs() as logs:
        closing = asyncio.create_task(vault.close())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        house.provider.gate.set()
        await asyncio.gather(closing, *callers)

    assert [2] == [line["count"] for line in logs if line["event"] == "waiting_for_exchanges"]


async def test_no_exchange_begins_while_closing(house: House, vault: Vault) -> None:
    """A job that waits for another process' exchange when the stop comes ends without one of its own."""
    await house.grant(vault)
    rejected = await fetch(vault)
    house.provider.gate = asyncio.Event()
    house.provider.fault = 503
    async with house.vault() as other:
        holder = asyncio.create_task(replace(other, rejected))
        await house.provider.entered.wait()
        waiter = asyncio.create_task(replace(vault, rejected))
        await asyncio.sleep(QUICK.poll_seconds * 5)

        await vault.close()
        with pytest.raises(TokenServiceUnavailable):
            await waiter
        assert not holder.done()
        house.provider.gate.set()
        with pytest.raises(TokenServiceUnavailable):
            await holder

    assert ["RT-alice-0"] == house.provider.exchanges


async def test_new_refresh_token_is_stored_before_the_access_token_is_handed_out(house: House, vault: Vault) -> None:
    """Whoever holds the new access token can rely on the new refresh token being in the database."""
    await house.grant(vault)
    answer = await replace(vault, await fetch(vault))

    async with house.vault() as other:
        stored = await other.tokens.find(KEY)

    assert stored is not None
    assert (answer.access_token, "RT-alice-1", 2) == (stored.access_token, stored.refresh_token, stored.version)


async def test_absent_refresh_token_keeps_the_old_one(house: House, vault: Vault) -> None:
    """A provider that does not rotate leaves the refresh token as it was."""
    house.provider.rotates = False
    await house.grant(vault)

    await replace(vault, await fetch(vault))
    stored = await vault.tokens.find(KEY)

    assert stored is not None
    assert ("AT-alice-1", "RT-alice-0") == (stored.access_token, stored.refresh_token)


async def test_refused_grant_is_dead_and_the_row_stays(house: House, vault: Vault) -> None:
    """invalid_grant, confirmed by reading the row again, marks the row dead; nobody asks the provider again."""
    await house.grant(vault)
    rejected = await fetch(vault)
    house.provider.revoke("alice")

    for _ in range(3):
        with pytest.raises(ConnectionRequired):
            await replace(vault, rejected)

    stored = await vault.tokens.find(KEY)
    assert stored is not None
    assert (True, "invalid_grant") == (stored.dead, stored.last_refresh_error)
    assert 1 == len(house.provider.exchanges)


async def test_loser_of_a_race_uses_what_the_winner_stored(house: House, vault: Vault) -> None:
    """invalid_grant for a row that has moved meanwhile destroys nothing: the newer token is used."""
    await house.grant(vault)
    rejected = await fetch(vault)
    house.provider.gate = asyncio.Event()
    loser = asyncio.create_task(replace(vault, rejected))
    await house.provider.entered.wait()

    house.provider.revoke("alice")
    access_token, refresh_token = house.provider.grant("again")
    await vault.tokens.put(
        TokenDraft("contacts", "alice", scopes=("read",), access_token=access_token, refresh_token=refresh_token)
    )
    house.provider.gate.set()
    answer = await loser

    assert "AT-again-0" == answer.access_token
    stored = await vault.tokens.find(KEY)
    assert stored is not None
    assert not stored.dead


async def test_upload_during_an_exchange_wins(house: House, vault: Vault) -> None:
    """What an exchange brings for a row that was replaced meanwhile is discarded."""
    await house.grant(vault)
    rejected = await fetch(vault)
    house.provider.gate = asyncio.Event()
    slow = asyncio.create_task(replace(vault, rejected))
    await house.provider.entered.wait()

    await vault.tokens.put(TokenDraft("contacts", "alice", scopes=("read",), access_token="uploaded"))
    house.provider.gate.set()

    assert "uploaded" == (await slow).access_token


PASSING = {
    "a server error": 500,
    "too many requests": 429,
    "a page instead of JSON": "garbage",
    "a connection that breaks": "drop",
}


@pytest.mark.parametrize("fault", PASSING.values(), ids=PASSING.keys())
async def test_passing_failure_serves_the_valid_token(house: House, vault: Vault, fault: int | str) -> None:
    """A refresh ahead of expiry that fails for a passing cause leaves the valid token in service, and is told."""
    await house.grant(vault, seconds=100.0)
    house.provider.fault = fault
    house.clock.now += 95.0

    answer = await fetch(vault)
    stored = await vault.tokens.find(KEY)

    assert "AT-alice-0" == answer.access_token
    assert stored is not None
    assert stored.last_refresh_error
    assert not stored.dead
    assert stored.lease_owner is None


@pytest.mark.parametrize("fault", PASSING.values(), ids=PASSING.keys())
async def test_passing_failure_after_expiry_is_unavailable(house: House, vault: Vault, fault: int | str) -> None:
    """An expired token that cannot be refreshed for now is never served; the refusal says when to come back."""
    await house.grant(vault, seconds=100.0)
    house.provider.fault = fault
    house.clock.now += 101.0

    with pytest.raises(TokenServiceUnavailable) as refusal:
        await fetch(vault)

    assert refusal.value.retry_after is not None
    assert refusal.value.retry_after >= BACKOFF_FIRST_SECONDS


async def test_failures_back_off(house: House, vault: Vault) -> None:
    """However often callers come, a provider that fails is asked once per back-off, and serves again afterwards."""
    await house.grant(vault, seconds=100.0)
    house.provider.fault = 503
    house.clock.now += 101.0
    async with house.vault() as other:
        for _ in range(20):
            with pytest.raises(TokenServiceUnavailable):
                await fetch(vault)
            with pytest.raises(TokenServiceUnavailable):
                await fetch(other)
    assert 1 == len(house.provider.exchanges)

    house.provider.fault = None
    house.clock.now += 2 * BACKOFF_FIRST_SECONDS
    assert "AT-alice-1" == (await fetch(vault)).access_token


async def test_failed_refresh_of_a_rejected_token_is_unavailable(house: House, vault: Vault) -> None:
    """A rejected token is not handed out again because its refresh failed, though the clock says it is valid."""
    await house.grant(vault)
    rejected = await fetch(vault)
    house.provider.fault = 503

    with pytest.raises(TokenServiceUnavailable):
        await replace(vault, rejected)


async def test_lost_answer_serves_the_valid_token_and_risks_nothing(house: House, vault: Vault) -> None:
    """After a lost answer the stored token serves until its expiry; then one more exchange is tried, alone."""
    await house.grant(vault, seconds=100.0)
    house.provider.fault = "lost"
    house.clock.now += 95.0
    for _ in range(3):
        assert "AT-alice-0" == (await fetch(vault)).access_token
        house.clock.now += 1.0
    assert 1 == len(house.provider.exchanges)

    house.provider.fault = None
    house.clock.now += 10.0
    with pytest.raises(ConnectionRequired):
        await fetch(vault)

    stored = await vault.tokens.find(KEY)
    assert stored is not None
    assert (True, "rotation_interrupted") == (stored.dead, stored.last_refresh_error)
    assert 2 == len(house.provider.exchanges)


async def test_dead_holder_is_followed_after_its_lease(house: House, vault: Vault) -> None:
    """A process that died between lease and write does not hold the grant for ever; one call lives through it."""
    token = await house.grant(vault, seconds=100.0)
    house.lease_to("a dead process", token.id)
    house.clock.now += 101.0

    assert "AT-alice-1" == (await fetch(vault)).access_token
    assert 1 == len(house.provider.exchanges)
    assert 1 == vault.exchange_counts["lease_ran_out"]


async def test_answer_of_a_dead_holder_counts_as_lost(house: House, vault: Vault) -> None:
    """Was its refresh token spent, the row says that the rotation was interrupted, and the user must connect again."""
    token = await house.grant(vault, seconds=100.0)
    house.provider.rotate_unseen("alice")
    house.lease_to("a dead process", token.id)
    house.clock.now += 101.0

    with pytest.raises(ConnectionRequired):
        await fetch(vault)

    stored = await vault.tokens.find(KEY)
    assert stored is not None
    assert (True, "rotation_interrupted") == (stored.dead, stored.last_refresh_error)


async def test_valid_token_serves_while_a_dead_holder_has_the_lease(house: House, vault: Vault) -> None:
    """Who has a valid token does not wait for a takeover; nothing is exchanged until it expires."""
    token = await house.grant(vault, seconds=100.0)
    house.lease_to("a dead process", token.id)
    house.clock.now += 95.0

    assert "AT-alice-0" == (await fetch(vault)).access_token
    assert [] == house.provider.exchanges
    house.clock.now += 6.0
    assert "AT-alice-1" == (await fetch(vault)).access_token


@pytest.mark.parametrize("jump", [-86_400.0, 86_400.0])
async def test_slow_holder_keeps_its_lease(house: House, vault: Vault, jump: float) -> None:
    """An exchange that lasts longer than a lease is not robbed: it is renewed, and clocks that jump change nothing."""
    await house.grant(vault)
    rejected = await fetch(vault)
    house.provider.gate = asyncio.Event()
    async with house.vault() as other:
        holder = asyncio.create_task(replace(vault, rejected))
        await house.provider.entered.wait()
        waiter = asyncio.create_task(replace(other, rejected))
        await asyncio.sleep(QUICK.lease_seconds / 2)
        house.clock.now += jump
        await asyncio.sleep(QUICK.lease_seconds)
        assert not waiter.done()
        house.provider.gate.set()
        answers = await asyncio.gather(holder, waiter)

    assert ["AT-alice-1"] * 2 == [answer.access_token for answer in answers]
    assert ["RT-alice-0"] == house.provider.exchanges


async def test_slow_provider_does_not_hold_up_a_valid_token(house: House, vault: Vault) -> None:
    """A caller who meets a due token has it after the short wait; the exchange goes on, and is used afterwards."""
    await house.grant(vault, seconds=100.0)
    house.clock.now += 95.0
    house.provider.gate = asyncio.Event()

    assert "AT-alice-0" == (await fetch(vault)).access_token
    house.provider.gate.set()
    await vault.close()

    assert "AT-alice-1" == (await fetch(vault)).access_token
    assert ["RT-alice-0"] == house.provider.exchanges


async def test_forced_caller_who_stops_waiting_is_told(house: House, vault: Vault) -> None:
    """The old token of a caller who has waited enough says that the refresh goes on; the row says nothing of it."""
    await house.grant(vault)
    house.provider.gate = asyncio.Event()
    async with house.vault(timing=dataclasses.replace(QUICK, wait_seconds=0.2)) as hasty:
        token, _ = await hasty.fetch_stored(KEY, force_refresh=True)
        stored = await vault.tokens.find(KEY)
        house.provider.gate.set()
    newer, _ = await vault.fetch_stored(KEY)

    assert ("AT-alice-0", "refresh_in_progress") == (token.access_token, token.last_refresh_error)
    assert stored is not None
    assert "" == stored.last_refresh_error
    assert ("AT-alice-1", "") == (newer.access_token, newer.last_refresh_error)


async def test_sleeper_does_not_write_while_another_exchanges(house: House, vault: Vault) -> None:
    """Compare-and-swap: what a process brings after another took its lease is not written over that one's work."""
    await house.grant(vault)
    rejected = await fetch(vault)
    house.provider.gate = asyncio.Event()
    sleeper = asyncio.create_task(replace(vault, rejected))
    await house.provider.entered.wait()
    stored = await vault.tokens.find(KEY)
    assert stored is not None
    house.lease_to("another", stored.id)
    house.provider.gate.set()
    await asyncio.sleep(QUICK.lease_seconds / 2)

    stored = await vault.tokens.find(KEY)
    assert stored is not None
    assert ("AT-alice-0", 1, "another") == (stored.access_token, stored.version, stored.lease_owner)
    assert "AT-alice-1" == (await sleeper).access_token  # the other one never came back
    assert ["exchange_intent", "lease_ran_out", "answer_rescued", "exchange_outcome"] == house.events()
    assert (1, 0) == (vault.exchange_counts["answer_rescued"], vault.exchange_counts["late_answer"])


async def test_late_answer_revives_a_grant_that_was_called_dead(house: House, vault: Vault) -> None:
    """
    A holder stood still, another presented the spent refresh token and was refused, and the first one's answer comes.

    A provider that does not revoke for the reuse takes the new refresh token: the user need not connect again.
    """
    await house.grant(vault)
    rejected = await fetch(vault)
    house.provider.gate = asyncio.Event()
    sleeper = asyncio.create_task(replace(vault, rejected))
    await house.provider.entered.wait()
    stored = await vault.tokens.find(KEY)
    assert stored is not None
    house.lease_to("another", stored.id)
    leased = await vault.tokens.get(stored.id)
    assert leased is not None
    assert await vault.tokens.rows.mark_dead(leased, error="rotation_interrupted", owner="another")
    house.provider.gate.set()
    answer = await sleeper

    revived = await vault.tokens.find(KEY)
    assert revived is not None
    assert ("AT-alice-1", False, "", 3) == (
        answer.access_token,
        revived.dead,
        revived.last_refresh_error,
        revived.version,
    )
    assert "AT-alice-2" == (await replace(vault, answer)).access_token


async def test_late_answer_never_replaces_another_refresh_token(house: House, vault: Vault) -> None:
    """A grant that somebody uploaded and that died meanwhile is not what the answer is about."""
    await house.grant(vault)
    rejected = await fetch(vault)
    house.provider.gate = asyncio.Event()
    sleeper = asyncio.create_task(replace(vault, rejected))
    await house.provider.entered.wait()
    await vault.tokens.put(TokenDraft("contacts", "alice", scopes=("read",), refresh_token="RT-uploaded-0"))
    house.provider.gate.set()

    with pytest.raises((TokenServiceUnavailable, ConnectionRequired)):
        await sleeper
    stored = await vault.tokens.find(KEY)
    assert stored is not None
    assert "RT-uploaded-0" == stored.refresh_token
    assert "answer_rescued" not in house.events()
    assert (0, 1) == (vault.exchange_counts["answer_rescued"], vault.exchange_counts["late_answer"])


async def test_exchange_is_recorded_before_it_leaves_and_when_it_ended(house: House, vault: Vault) -> None:
    """Two lines with one id: whose token it is, what the provider said, whether it was stored; no secret in either."""
    token = await house.grant(vault)
    await replace(vault, await fetch(vault))

    (intent, began), (outcome, ended) = house.recorded
    assert ("exchange_intent", "exchange_outcome", began["id"]) == (intent, outcome, ended["id"])
    expected = {
        "connection": "contacts", "token": token.id, "outcome": "granted", "stored": True, "error": "",
        "subject": {"user": "alice", "tenant": None, "account": None},
    }  # fmt: skip
    assert expected == {name: ended[name] for name in expected}
    assert ("refresh_token", 1) == (began["grant"], began["version"])
    assert "T-alice-" not in str(house.recorded)


async def test_lost_answer_is_told_in_the_record(house: House, vault: Vault) -> None:
    """The line says what happened to the answer, and what the row says since; so does the one of the refusal."""
    await house.grant(vault, seconds=100.0)
    house.provider.fault = "lost"
    house.clock.now += 95.0
    await fetch(vault)
    house.provider.fault = None
    house.clock.now += 10.0
    with pytest.raises(ConnectionRequired):
        await fetch(vault)

    told = [(fields["outcome"], fields["error"]) for event, fields in house.recorded if event == "exchange_outcome"]
    assert [("reset", "answer_lost"), ("invalid_grant", "rotation_interrupted")] == told


async def test_nothing_is_exchanged_without_its_line(house: House, vault: Vault) -> None:
    """A record that takes nothing stops the exchange before the provider hears of it; the grant loses nothing."""
    await house.grant(vault, seconds=100.0)
    house.clock.now += 101.0
    house.is_record_full = True
    with pytest.raises(TokenServiceUnavailable):
        await fetch(vault)
    assert [] == house.provider.exchanges

    house.is_record_full = False
    house.clock.now += 10.0
    assert "AT-alice-1" == (await fetch(vault)).access_token


DISK_FULL = {
    "sqlite": [
        "CREATE TRIGGER disk_full BEFORE UPDATE ON tokens WHEN NEW.version > OLD.version "
        "BEGIN SELECT RAISE(ABORT, 'disk full'); END"
    ],
    "postgresql": [
        "CREATE FUNCTION disk_full() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RAISE 'disk full'; END$$",
        "CREATE TRIGGER disk_full BEFORE UPDATE ON tokens FOR EACH ROW WHEN (NEW.version > OLD.version) "
        "EXECUTE FUNCTION disk_full()",
    ],
}
SPACE_AGAIN = {"sqlite": "DROP TRIGGER disk_full", "postgresql": "DROP TRIGGER disk_full ON tokens"}


async def test_write_that_fails_is_repeated_with_the_answer_in_memory(house: House, vault: Vault, engine: str) -> None:
    """
    A database that fails after the provider has rotated costs no grant: the answer is written when it is back.

    Until then the lease is renewed, so that nobody presents the spent refresh token.
    """
    await house.grant(vault)
    rejected = await fetch(vault)
    for statement in DISK_FULL[engine]:
        house.execute(statement)
    async with house.vault() as other:
        holder = asyncio.create_task(replace(vault, rejected))
        await house.provider.entered.wait()
        waiter = asyncio.create_task(replace(other, rejected))
        await asyncio.sleep(QUICK.lease_seconds * 1.5)
        assert (False, False) == (holder.done(), waiter.done())
        # In a thread: it may have to wait for a transaction of the jobs above, which need this loop to end.
        await asyncio.to_thread(house.execute, SPACE_AGAIN[engine])
        answers = await asyncio.gather(holder, waiter)

    assert ["AT-alice-1"] * 2 == [answer.access_token for answer in answers]
    assert ["RT-alice-0"] == house.provider.exchanges


async def test_token_deleted_in_mid_refresh_is_not_resurrected(house: House, vault: Vault) -> None:
    """Deleting a token while it is refreshed wins."""
    token = await house.grant(vault)
    rejected = await fetch(vault)
    house.provider.gate = asyncio.Event()
    caller = asyncio.create_task(replace(vault, rejected))
    await house.provider.entered.wait()
    assert await vault.tokens.delete(token.id)
    house.provider.gate.set()

    with pytest.raises(ConnectionRequired):
        await caller
    assert await vault.tokens.find(KEY) is None


async def test_answer_that_was_never_written_is_stored_at_the_next_start(
    house: House, vault: Vault, engine: str
) -> None:
    """A database that fails until the process ends costs no grant: the answer lies sealed on disk meanwhile."""
    await house.grant(vault)
    rejected = await fetch(vault)
    for statement in DISK_FULL[engine]:
        house.execute(statement)
    job = asyncio.create_task(replace(vault, rejected))
    kept = house.path.parent / RECOVERY_DIRECTORY
    for _ in range(500):
        if list(kept.glob("*.sealed")):
            break
        await asyncio.sleep(0.02)
    job.cancel()
    for task in list(vault._refresher._jobs._tasks):  # the process is killed
        task.cancel()
    (file,) = kept.iterdir()
    assert 0o600 == stat.S_IMODE(file.stat().st_mode)
    assert b"T-alice" not in file.read_bytes()

    await asyncio.to_thread(house.execute, SPACE_AGAIN[engine])
    async with house.vault() as restarted:
        await restarted.start()
        stored = await restarted.tokens.find(KEY)
        assert stored is not None
        assert ("AT-alice-1", "RT-alice-1", None) == (stored.access_token, stored.refresh_token, stored.lease_until)
        assert "AT-alice-2" == (await replace(restarted, await fetch(restarted))).access_token
    assert [] == list(kept.iterdir())
    assert house.provider.is_alive("alice")


UNUSABLE: dict[str, dict[str, object]] = {
    "another type of token": {"token_type": "mac"},
    "no access token": {"access_token": None},
    "an access token with a line break": {"access_token": "a\r\nb"},
    "an enormous access token": {"access_token": "a" * 20_000},
}


@pytest.mark.parametrize("unusable", UNUSABLE.values(), ids=UNUSABLE.keys())
async def test_refresh_token_beside_an_unusable_access_token_is_kept(
    house: House, vault: Vault, unusable: dict[str, object]
) -> None:
    """The provider has rotated: what it says for the next time is stored, although this time brought nothing."""
    await house.grant(vault, seconds=100.0)
    house.clock.now += 101.0
    house.provider.unusable = unusable
    with pytest.raises(TokenServiceUnavailable):
        await fetch(vault)

    house.provider.unusable = {}
    house.clock.now += 10.0
    assert "AT-alice-2" == (await fetch(vault)).access_token
    assert ["RT-alice-0", "RT-alice-1"] == house.provider.exchanges


async def test_answer_with_a_large_id_token_is_read(house: House, vault: Vault) -> None:
    """What a connect flow reads, a refresh reads as well: 70 KB of groups cost no grant."""
    await house.grant(vault)
    house.provider.unusable = {"id_token": "x" * 70_000}

    assert "AT-alice-1" == (await replace(vault, await fetch(vault))).access_token


async def test_operator_can_try_a_dead_grant_again(house: House, vault: Vault) -> None:
    """A grant that was called dead by mistake lives again when an operator has it tried; a dead one dies again."""
    token = await house.grant(vault)
    rejected = await fetch(vault)
    house.provider.revoke("alice")
    for _ in range(2):
        with pytest.raises(ConnectionRequired):
            await replace(vault, rejected)
    await vault.revive(token.id)
    with pytest.raises(ConnectionRequired):
        await vault.fetch_stored(KEY, force_refresh=True)

    house.provider.unrevoke("alice")
    await vault.revive(token.id)
    stored, _ = await vault.fetch_stored(KEY, force_refresh=True)
    assert ("AT-alice-1", False) == (stored.access_token, stored.dead)


async def test_grant_whose_token_is_deleted_in_mid_refresh_is_revoked(house: House, vault: Vault) -> None:
    """Whoever deleted knew the old refresh token; the one that the provider has just issued is given back."""
    token = await house.grant(vault)
    rejected = await fetch(vault)
    given_back: list[str | None] = []

    async def give_back(connection: Connection, orphan: StoredToken) -> None:
        given_back.append(orphan.refresh_token)

    vault.give_back_with(give_back)
    house.provider.gate = asyncio.Event()
    caller = asyncio.create_task(replace(vault, rejected))
    await house.provider.entered.wait()
    await vault.removal.one(token.id)
    house.provider.gate.set()

    with pytest.raises(ConnectionRequired):
        await caller
    assert ["RT-alice-1"] == given_back


async def test_valid_token_is_served_although_the_lease_cannot_be_written(
    house: House, vault: Vault, engine: str
) -> None:
    """A database that reads and does not write keeps nobody from a token that is valid: only the refresh waits."""
    await house.grant(vault, seconds=100.0)
    house.clock.now += 95.0
    for statement in NO_LEASES[engine]:
        house.execute(statement)

    stored, _ = await vault.fetch_stored(KEY, force_refresh=True)
    assert ("AT-alice-0", "database_failed") == (stored.access_token, stored.last_refresh_error)
    assert "AT-alice-0" == (await fetch(vault)).access_token
    house.clock.now += 10.0
    with pytest.raises(TokenServiceUnavailable):
        await fetch(vault)


NO_LEASES = {
    "sqlite": ["CREATE TRIGGER no_leases BEFORE UPDATE ON tokens BEGIN SELECT RAISE(ABORT, 'disk full'); END"],
    "postgresql": [
        "CREATE FUNCTION no_leases() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RAISE 'disk full'; END$$",
        "CREATE TRIGGER no_leases BEFORE UPDATE ON tokens FOR EACH ROW EXECUTE FUNCTION no_leases()",
    ],
}


async def test_wish_refreshes_what_never_expires_although_an_answer_was_lost(house: House, vault: Vault) -> None:
    """With an unknown expiry nothing else would ever ask again: forceRefresh does."""
    await house.grant(vault, seconds=None)
    house.provider.fault = 503
    stored, _ = await vault.fetch_stored(KEY, force_refresh=True)
    assert ("AT-alice-0", "answer_lost") == (stored.access_token, stored.last_refresh_error)

    house.provider.fault = None
    house.clock.now += 10.0
    stored, _ = await vault.fetch_stored(KEY, force_refresh=True)
    assert ("AT-alice-1", "") == (stored.access_token, stored.last_refresh_error)


async def test_changed_connection_is_tried_at_once(house: House, vault: Vault) -> None:
    """An operator who has corrected the connection does not wait for the back-off of the wrong one."""
    await house.grant(vault, seconds=100.0)
    house.clock.now += 101.0
    house.provider.fault = 400
    for _ in range(2):
        with pytest.raises(TokenServiceUnavailable):
            await fetch(vault)
        house.clock.now += 8.0  # past the first back-off, and within the second
    house.provider.fault = None
    with pytest.raises(TokenServiceUnavailable):
        await fetch(vault)
    vault.connection_changed("contacts")

    assert "AT-alice-1" == (await fetch(vault)).access_token

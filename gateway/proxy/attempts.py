"""
Get the token of a request, send it, once more where the token was rejected, and relay the answer.

Rules:
1. Nothing leaves before its line is written: the intent before the first send, an attempt before each further one. On
   routes that want it so, the line is on the disk by then.
2. Compare and refresh: an answer that rejects the token leads to at most one more send, with another token than the
   rejected one, and only if the whole body can be sent again. The answer to it passes through, whatever it is.
3. Where the API wants a scope, nothing is refreshed: a user who has granted it meanwhile has another token stored, and
   that one is sent.

Leaves one sending to `forward.py`, the answer's bytes to `relay.py`, what an API says of scopes to `challenge.py`, how
else than by 401 one rejects a token to `rejection.py`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial

from gateway.errors import UpstreamOverloaded
from gateway.models import ConnectionToken
from gateway.net.whole_body import EMPTY_BODY
from gateway.proxy import record
from gateway.proxy.body import RequestBody
from gateway.proxy.challenge import missing_scopes, scope_refusal
from gateway.proxy.forward import Sent, send
from gateway.proxy.lane import Injected, Lane
from gateway.proxy.record import Call, EgressLog
from gateway.proxy.rejection import rejects_token
from gateway.proxy.relay import relay, switch
from gateway.proxy.request import Asker, ProxyRequest
from gateway.proxy.steps import Signal, in_task
from gateway.proxy.tokens import ConnectionTokens
from gateway.proxy.tunnel import Tunnel

DecideAgain = Callable[[ProxyRequest, Asker], Awaitable[None]]  # raises Refusal


# Of a token that each of its askers holds with its needles, 0.3 to 3 KB; of longer ones `needles_of` alone holds them.
MAX_HELD_CHARS = 512
_DOUBTFUL = frozenset({401, 403, 417})  # the token may be not good, or not good enough; our Expect was not taken


class Attempts:
    """Sends what has been allowed. Made by `Exchange`, from its parts."""

    def __init__(
        self,
        *,
        tokens: ConnectionTokens,
        egress_log: EgressLog,
        decide_again: DecideAgain,
        public_url: Callable[[str], str],
        clock: Callable[[], float],
        monotonic: Callable[[], float],
    ) -> None:
        self._tokens = tokens
        self._log = egress_log
        self._decide_again = decide_again
        self._public_url = public_url
        self._clock = clock
        self._monotonic = monotonic

    async def run(self, request: ProxyRequest, asker: Asker) -> None:
        """
        Get the connection token for *asker*, send *request* with it, and the answer to the caller.

        Raises:
            UpstreamOverloaded: the route's `concurrent` is reached.
            Refusal, AnswerCut, ConnectionError: as the token service, the record, `send` and `relay` say.
        """
        call, lane = request.call, asker.lane
        began = self._monotonic()
        call.auth_seconds = began - call.started
        kept, injected = asker.kept, asker.injected
        if kept is None or injected is None or not self._tokens.may_use(kept, began):
            kept = self._tokens.cached(asker.key, asker.credential)
            if kept is not None:
                token = kept.token
            else:
                await in_task()
                token = await self._tokens.fetch(asker.key, caller=asker.caller, credential=asker.credential)
                call.refreshed = token.refreshed
                call.token_seconds = self._monotonic() - began
                await self._decide_again(request, asker)
            injected = lane.injected(token)
            if len(token.access_token) <= MAX_HELD_CHARS:
                asker.kept, asker.injected = kept, injected
        body = None if request.payload is EMPTY_BODY else request.body(lane.route.limits)
        sent: Sent | None = None
        if lane.under_way >= lane.most_under_way:
            raise UpstreamOverloaded(retry_after=1)
        lane.under_way += 1
        try:
            if lane.records_durably:
                injected = await self._record(request, record.intent(call), injected)
            else:
                self._log.append(record.intent(call))
            began = self._monotonic()
            sent = await send(request, lane, body, injected, self)
            call.upstream_seconds = self._monotonic() - began
            is_rejected, note = False, ""
            if sent.answer.status in _DOUBTFUL or lane.upstream_rules.rejected:
                is_rejected, note = await self._settle(request, asker, sent, body)
            if self._tokens.on_trial and not is_rejected and sent.answer.status != 401:
                self._tokens.accepted(sent.injected.token, lane.route.name)
            if body is not None:
                body.let_go()
            if sent.answer.status == 101:
                await in_task()
                await self._switch(request, lane, sent, asker, note)
            else:
                public_url = self._public_url(request.host) if sent.answer.judged else ""
                rest = relay(request, lane, sent.answer, sent.needles, public_url, note)
                if rest is not None:
                    await rest
        finally:
            lane.under_way -= 1  # first of all: whoever is cancelled while it waits here is over, too
            if body is not None:
                call.bytes_received = body.received_bytes
            if sent is not None:
                if sent.pump is not None:
                    await sent.end(lane)
                elif not sent.is_ended:
                    lane.pool.release(sent.connection)

    async def _settle(
        self, request: ProxyRequest, asker: Asker, sent: Sent, body: RequestBody | None
    ) -> tuple[bool, str]:
        """
        Send *request* once more, with *sent* then being that, where its answer asks for it and rule 2 allows it.

        Return whether the answer to pass on rejects the token, and what to tell the caller.
        """
        call, lane = request.call, asker.lane
        if sent.answer.status == 417 and body is not None and body.expects:
            await self._without_expect(request, lane, sent, body)
        missing = _missing(call, sent)
        is_rejected = missing is None and await self._is_rejected(sent, lane)
        if missing is None and not is_rejected:
            return False, ""
        await in_task()
        fresh, note = await self._after_rejection(call, lane, body, sent.injected.token, asker, missing)
        if fresh is None:
            return is_rejected, note
        await sent.end(lane)
        await self._decide_again(request, asker)
        reason = "token_rejected" if missing is None else "scope_missing"
        line = record.attempt(call, reason, status=sent.answer.status, now=self._clock())
        fresh = await self._record(request, line, fresh)
        began = self._monotonic()
        sent.become(await send(request, lane, body, fresh, self))
        call.upstream_seconds += self._monotonic() - began
        missing = _missing(call, sent)
        if missing is not None:
            raise scope_refusal(lane.route, missing)
        return await self._is_rejected(sent, lane), note

    async def connected(self, request: ProxyRequest, injected: Injected) -> Injected:
        """Decide again, connecting was a wait; return what to inject instead of *injected*."""
        return await self._after_wait(request, injected)

    async def repeating(self, request: ProxyRequest, injected: Injected) -> None:
        """Write the line of a request that is sent again on a new connection, the old one being stale."""
        line = record.attempt(request.call, "stale_connection", status=None, now=self._clock())
        await self._record(request, line, injected)

    async def _record(self, request: ProxyRequest, line: bytes, injected: Injected) -> Injected:
        """Write *line*; where the route wants it on the disk, wait for that. Return what to inject by then."""
        assert request.asker is not None  # nothing is sent for nobody
        if not request.asker.lane.records_durably:
            self._log.append(line)
            return injected
        answered = Signal()
        written = self._log.append_durably(line, answered)
        await answered
        written.check()
        return await self._after_wait(request, injected)

    async def _after_wait(self, request: ProxyRequest, injected: Injected) -> Injected:
        """Decide again, and return *injected*, or what has taken its token's place by now."""
        asker = request.asker
        assert asker is not None
        kept, now = asker.kept, self._monotonic()
        # Nothing has changed where the caller is still believed to be who it was, and the token still kept: policy
        # would say what it said. 0.4 microseconds; the longer way takes 3 to 5.
        if (
            injected is asker.injected
            and kept is not None
            and asker.verified.is_believed(now)
            and self._tokens.may_use(kept, now)
        ):
            return injected
        await in_task()
        key, caller, credential = asker.key, asker.caller, asker.credential
        current = await self._tokens.current(injected.token, key, caller=caller, credential=credential)
        await self._decide_again(request, asker)
        return asker.lane.injected(current)

    async def _without_expect(self, request: ProxyRequest, lane: Lane, sent: Sent, body: RequestBody) -> None:
        """Send once more to an upstream that does not take the Expect, which was ours (RFC 9110 section 15.5.18)."""
        await sent.end(lane)
        if not body.can_replay:
            return
        body.expects = False
        await in_task()
        injected = await self._after_wait(request, sent.injected)
        line = record.attempt(request.call, "expectation_failed", status=417, now=self._clock())
        injected = await self._record(request, line, injected)
        began = self._monotonic()
        sent.become(await send(request, lane, body, injected, self))
        request.call.upstream_seconds += self._monotonic() - began

    async def _switch(self, request: ProxyRequest, lane: Lane, sent: Sent, asker: Asker, note: str) -> None:
        """Let the caller and the upstream speak the protocol to which they have switched, until one of them ends it."""
        call = request.call
        first = switch(request, lane, sent.answer, sent.needles, note=note)
        tunnel = Tunnel(
            request.client.hand_over(),
            sent.connection.hand_over(),
            idle_seconds=lane.route.timeouts.idle_seconds,
            decide_again=partial(self._decide_again, request, asker),
        )
        try:
            await tunnel.run(first)
        finally:
            call.bytes_received, call.bytes_sent = tunnel.received_bytes, tunnel.sent_bytes

    async def _is_rejected(self, sent: Sent, lane: Lane) -> bool:
        rules = lane.upstream_rules.rejected
        if sent.answer.status == 401 or not rules:
            return sent.answer.status == 401
        return await rejects_token(sent.answer, rules)

    async def _after_rejection(
        self,
        call: Call,
        lane: Lane,
        body: RequestBody | None,
        token: ConnectionToken,
        asker: Asker,
        missing: tuple[str, ...] | None,
    ) -> tuple[Injected | None, str]:
        """
        Return what to inject once more, if there is another token and the request can be repeated; and what to tell.

        *missing* are the scopes that the answer wants; None: it rejects the token.

        Raises:
            ConnectionScopeMissing: and what is stored is the token that lacks them.
        """
        began = self._monotonic()
        try:
            fresh = await self._other(lane, token, asker, missing)
        finally:
            call.token_seconds += self._monotonic() - began
        if fresh is None:
            return None, "the token was rejected, and there is no other to send"
        call.refreshed = call.refreshed or fresh.refreshed
        what = "the token was rejected" if missing is None else "the token lacked a scope"
        if body is not None and not body.can_replay:
            return None, f"{what} and was replaced, the body could not be sent again"
        return lane.injected(fresh), f"{what} and was replaced, the request was sent again"

    async def _other(
        self, lane: Lane, token: ConnectionToken, asker: Asker, missing: tuple[str, ...] | None
    ) -> ConnectionToken | None:
        key, caller, credential = asker.key, asker.caller, asker.credential
        if missing is None:
            return await self._tokens.replace(
                key, rejected=token, route=lane.route.name, caller=caller, credential=credential
            )
        # Asked past the cache: the user may have granted them a moment ago, by the link of the refusal before this one.
        stored = await self._tokens.fetch(key, caller=caller, credential=credential)
        if stored.access_token == token.access_token:
            raise scope_refusal(lane.route, missing)
        return stored


def _missing(call: Call, sent: Sent) -> tuple[str, ...] | None:
    """Return the scopes that the answer wants, if it does; a word of it that holds the token is none."""
    if sent.answer.status not in (401, 403):
        return None
    wanted = missing_scopes(sent.answer.raw_fields, sent.injected.token.scopes)
    if not wanted:
        return wanted
    missing = tuple(scope for scope in wanted if not sent.needles.are_in(scope.encode("ascii")))
    if missing != wanted:
        call.echo = ("field",)
    return missing

"""
One request from the first stage to the record: the order, and errors into answers (DESIGN section 2).

Rules:
1. route, identify, authorize, token, send, answer: `_pass` and the methods it calls name the stages in this order.
2. A route's refusal is held back until the caller is known: a stranger is always answered 401.
3. Every request ends in exactly one outcome line (those of strangers in a count per second).
4. What was decided is decided again after a wait for a token, the disk or a connection: a key may have been revoked.
5. What goes wrong after the answer has begun resets the caller's connection: a cut answer never looks complete.

Leaves sending, the one retry and the answer to `attempts.py`, fields to `request_fields.py`, refusals as bytes to
`answers.py`.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable

import structlog

from gateway.access.identity import Identity, Verified, choose_subject, parse_credential
from gateway.access.policy import Applicable, PolicySet
from gateway.errors import (
    AmbiguousCredential,
    ConnectionRequired,
    ConnectionScopeMissing,
    CredentialAbsent,
    CredentialNotPassed,
    DeniedByPolicy,
    FieldNotPassed,
    InternalError,
    InvalidRequest,
    LoopDetected,
    RateLimited,
    Refusal,
    RequestTimeout,
)
from gateway.listen.head import RequestHead
from gateway.models import Caller, CredentialPlace, RouteMatch, Subject
from gateway.net.body_stream import Body
from gateway.proxy import record
from gateway.proxy.answers import NAME, refusal_answer
from gateway.proxy.askers import Askers
from gateway.proxy.attempts import Attempts
from gateway.proxy.discovery import WELL_KNOWN, ProtectedResource
from gateway.proxy.forwarded import TrustedProxies
from gateway.proxy.lane import Lane
from gateway.proxy.pages import Connects, Pages, show, with_link
from gateway.proxy.record import Call, EgressLog, Strangers
from gateway.proxy.relay import AnswerCut
from gateway.proxy.request import Asker, Client, ProxyRequest
from gateway.proxy.request_fields import RequestFields, RequestRules
from gateway.proxy.routing import RouteTable
from gateway.proxy.steps import in_task
from gateway.proxy.tokens import ConnectionTokens
from gateway.proxy.tunnel import TunnelBroken
from gateway.telemetry import Metrics, place_of

# W3C Trace Context, version 00; ids of zeros alone are invalid.
_TRACEPARENT = re.compile(r"00-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_AUTHORIZATION = CredentialPlace()

log = structlog.get_logger()


class Exchange:
    """Serves requests. One object per process; every part comes in from `server.py`."""

    def __init__(
        self,
        *,
        lanes: dict[str, Lane],
        identity: Identity,
        policies: PolicySet,
        tokens: ConnectionTokens,
        egress_log: EgressLog,
        metrics: Metrics,
        resource: ProtectedResource,
        pages: Pages | None = None,
        connects: Connects | None = None,
        project: str,
        public_url: Callable[[str], str],
        clock: Callable[[], float],
        monotonic: Callable[[], float],
        random_bits: Callable[[int], int],
        via: str = NAME,
        trusted_proxies: TrustedProxies | None = None,
    ) -> None:
        self._routes = RouteTable(lane.route for lane in lanes.values())
        self._lanes = lanes
        self._pools = tuple({lane.pool for lane in lanes.values()})
        self._identity = identity
        self._policies = policies
        self._tokens = tokens
        self._log = egress_log
        self._metrics = metrics
        self._resource = resource
        self._pages = pages
        self._connects = connects
        self._project = project
        self._public_url = public_url
        self._clock = clock
        self._monotonic = monotonic
        self._random_bits = random_bits
        self._attempts = Attempts(
            tokens=tokens,
            egress_log=egress_log,
            decide_again=self._decide_again,
            public_url=public_url,
            clock=clock,
            monotonic=monotonic,
        )
        self._trusted_proxies = trusted_proxies or TrustedProxies()
        self._no_route = RequestRules(None, via=via, trusts_proxies=bool(self._trusted_proxies))
        self._strangers = Strangers(egress_log)
        self._askers = Askers()

    # --- the order -------------------------------------------------------------------------------------------

    async def serve(self, head: RequestHead, payload: Body, client: Client) -> bool:
        """Answer one request on *client*. Return whether the connection may take another."""
        ids = self._random_bits(192).to_bytes(24, "big").hex()  # 0.3 microseconds, and 0.6 by a format
        call = Call(
            head.method,
            head.target,
            call_id=ids[:16],
            trace_id=ids[16:],
            peer=client.peer,
            started_at=self._clock(),
            started=self._monotonic(),
        )
        request = ProxyRequest(call, head, payload, client)
        error: str | None = None
        try:
            await self._pass(request)
        except Refusal as refusal:
            error = refusal.code
            if isinstance(refusal, ConnectionRequired | ConnectionScopeMissing):
                await in_task()
                refusal = await with_link(refusal, request.asker, self._connects)
            self._refuse(request, refusal)
        except asyncio.CancelledError:
            error = "drained" if client.is_drained else "client_aborted"
            raise
        except ConnectionError:
            error = "client_aborted"
            request.keep_alive = False
        except AnswerCut:
            error = "upstream_cut"
        except TunnelBroken as exc:
            error = exc.reason
        except Exception as exc:
            error = InternalError.code
            log.error("request_failed", error=type(exc).__name__, place=place_of(exc), trace_id=call.trace_id)
            self._refuse(request, InternalError())
        finally:
            self._conclude(call, error)
        return request.keep_alive

    async def _show_page(self, request: ProxyRequest) -> bool:
        """Answer a request for a page of ours, and return True; return False where there is none."""
        call = request.call
        request.keep_alive = request.keep_alive and not request.client.is_closing
        if call.target == WELL_KNOWN and call.method in ("GET", "HEAD"):
            public_url = self._public_url(request.host)
            call.status = 200
            request.has_answered = True
            request.client.send(
                self._resource.answer(public_url, with_body=call.method == "GET", keep_alive=request.keep_alive)
            )
            return True
        if self._pages is None or not self._pages.takes(call.target.partition("?")[0]):
            return False
        await in_task()
        await show(request, self._pages)
        return True

    async def _pass(self, request: ProxyRequest) -> None:
        call = request.call
        match: RouteMatch | None = None
        held: Refusal | None = None
        try:
            match = self._routes.match(call.method, call.target, request.host)
            route: str | None = match.route.name
        except Refusal as refusal:
            held, route = refusal, refusal.route
            if await self._show_page(request):
                return
        lane = self._lanes[route] if route is not None else None
        rules = lane.request_rules if lane is not None else self._no_route
        try:
            fields = request.read_fields(rules)
        except (AmbiguousCredential, CredentialNotPassed, FieldNotPassed, LoopDetected):
            await self._identify_by_first(request, lane)
            raise
        reading = request.reading
        is_plain = reading.is_plain  # then nothing is looked for in the fields: they lie in three cold cache lines
        if not is_plain and fields.traceparent is not None:
            call.follow(_trace_id(fields.traceparent) or call.trace_id)
        asker = reading.asker
        credential = ""
        if asker is not None and asker.lane is lane and asker.verified.is_believed(call.started):
            verified = asker.verified
        else:
            asker = None
            credential, known = self._known_caller(fields, lane)
            if known is None:
                await in_task()
                known = await self._identity.verify(credential)
            verified = known
        call.caller = caller = verified.caller
        if not is_plain and fields.forwarded is not None:
            call.peer = self._trusted_proxies.settle(fields, call.peer)
        if match is None or lane is None:
            raise held or InternalError()
        call.match = match
        # 0.2 microseconds, and 1.0 more for a query of two parameters; paths have their price in access/patterns.py.
        match, override = lane.target_rules.read(match, None if is_plain else fields.method_override)
        if override is not None:
            self._judge_override(request, override)
        call.match = match
        if asker is None:
            asker = reading.asker = self._askers.of(lane, verified, credential, fields)
        if not reading.is_kept:
            request.keep_reading()
        request.asker = asker
        call.who = asker.who
        if asker.policies is None:
            asker.policies = self._applicable(lane, caller, asker.subject)
        _authorize(call, asker.policies, match.path)
        if not is_plain and fields.wants_upgrade:
            request.read_handshake()
        if lane.limit is not None:
            wait = lane.limit.take(_who(caller), now=call.started)
            if wait is not None:
                raise RateLimited(retry_after=wait)
        limit = lane.caller_limit
        if limit is None:
            await self._attempts.run(request, asker)
            return
        if not limit.enter(who := _who(caller)):
            raise RateLimited("You have as many calls under way as this route allows one caller.", retry_after=1)
        try:
            await self._attempts.run(request, asker)
        finally:
            limit.leave(who)

    def _judge_override(self, request: ProxyRequest, method: str) -> None:
        """Raise unless the route takes *method* too, which the request names beside its own."""
        if request.call.method == "HEAD":  # whether the answer has a body would be read in two ways
            raise FieldNotPassed
        self._routes.match(method, request.call.target, request.host)
        request.call.effective_method = method

    async def _identify_by_first(self, request: ProxyRequest, lane: Lane | None) -> None:
        """Identify the caller by its first credential: what is wrong with its fields is no stranger's to know."""
        section = request.head.section
        if self._trusted_proxies:
            request.call.peer = self._trusted_proxies.caller_of(section.raw_fields, request.call.peer)
        place, value = _AUTHORIZATION, section.first("Gateway-Authorization")
        if value is None:
            place = lane.route.credential if lane is not None else _AUTHORIZATION
            value = section.first(place.header)
        if value is None:
            raise CredentialAbsent
        credential = parse_credential(value, place, self._project)
        await in_task()
        request.call.caller = await self._identity.identify(credential)

    def _known_caller(self, fields: RequestFields, lane: Lane | None) -> tuple[str, Verified | None]:
        """
        Return the caller's credential, and the caller if it was verified a short while ago.

        Gateway-Authorization wins, else the route's own place is looked at.
        """
        place = lane.route.credential if lane is not None else _AUTHORIZATION
        value = fields.credential if place.kind == "header" else fields.authorization
        if fields.gateway_authorization is not None:
            place, value = _AUTHORIZATION, fields.gateway_authorization
        if value is None:
            raise CredentialAbsent
        if place.kind == "authorization" and value.startswith("Bearer "):
            # What follows is, to the letter, a credential that was verified: nothing to parse (1.4 microseconds).
            verified = self._identity.cached(value[7:])
            if verified is not None:
                return value[7:], verified
        credential = parse_credential(value, place, self._project)
        return credential, self._identity.cached(credential)

    def _applicable(self, lane: Lane, caller: Caller, subject: Subject) -> Applicable:
        route = lane.route
        return self._policies.applicable(caller, subject, route=route.name, connection=route.connection)

    async def _decide_again(self, request: ProxyRequest, asker: Asker) -> None:
        """
        Refuse, after a wait, what would not be let through any more.

        Raises:
            Refusal: the credential is not good any more, or policy now says no.
        """
        call, fields, lane = request.call, request.fields, asker.lane
        assert call.match is not None  # it was decided before
        caller = await self._identity.identify(asker.credential)
        subject = choose_subject(caller, lane.route, user=fields.user, tenant=fields.tenant, account=fields.account)
        _authorize(call, self._applicable(lane, caller, subject), call.match.path)

    # --- refusals and the record ---------------------------------------------------------------------------------

    def _refuse(self, request: ProxyRequest, refusal: Refusal) -> None:
        """Answer with *refusal*, or reset the connection where an answer has begun."""
        call, client = request.call, request.client
        if request.has_answered:
            request.keep_alive = False
            client.abort()
            return
        call.status = refusal.status
        if isinstance(refusal, InvalidRequest | RequestTimeout) or not request.outlives_refusal or client.is_closing:
            request.keep_alive = False  # the rest of a body that nobody reads must not be taken for a request
        answer = refusal_answer(
            refusal,
            trace_id=call.trace_id,
            public_url=self._public_url(request.host),
            keep_alive=request.keep_alive,
            with_body=call.method != "HEAD",
            extra=call.traceparent,
        )
        try:
            client.send(answer)
        except ConnectionError:
            request.keep_alive = False

    def _conclude(self, call: Call, error: str | None) -> None:
        """Write the outcome line, and count."""
        now = self._monotonic()
        route = call.match.route.name if call.match is not None else ""
        self._metrics.request(route, call.method, call.status, now - call.started)
        for where in call.echo:
            if where != "unread":
                self._metrics.echo(route, where)
        if call.caller is not None:
            self._log.append_soon(record.outcome(call, seconds=now - call.started, error=error))
        elif error is not None:  # else a page: nobody's call
            self._strangers.count(call.started_at)

    def count_unread(self, refusal: Refusal) -> None:
        """Count a request that could not be read, or a connection too many: a stranger's, whoever it was."""
        self._metrics.request("", "other", refusal.status, 0.0)
        self._strangers.count(self._clock())

    def sweep(self) -> None:
        """Once a second: write the count of strangers, let go of what is over, enforce the upstreams' deadlines."""
        self._tokens.sweep()
        for pool in self._pools:
            pool.sweep()
        self._strangers.write(self._clock())


def _authorize(call: Call, policies: Applicable, path: str) -> None:
    """Raise unless *policies* let the call through, with each of the methods that it names."""
    decision = policies.always or policies.decide(call.method, path)
    if decision.allowed and call.effective_method is not None:
        decision = policies.decide(call.effective_method, path)
    call.rule = decision.rule
    if not decision.allowed:
        raise DeniedByPolicy(rule=decision.rule)


def _who(caller: Caller) -> tuple[str | None, ...]:
    """Return by what a caller's requests are counted, whatever credential it shows."""
    return (caller.issuer, caller.user, caller.client, caller.key_id)


def _trace_id(traceparent: str) -> str | None:
    """Return the trace id of a valid W3C traceparent."""
    found = _TRACEPARENT.fullmatch(traceparent)
    return found[1] if found else None

"""
Which header fields of a request cross the gateway (RFC 9110 section 7.6, RFC 9112 section 6).

Rules:
1. Framing is never copied: Content-Length and Transfer-Encoding are read here and written anew.
2. Hop-by-hop fields, and whatever Connection names, end here. They are removed before a credential is injected, so no
   caller can have the injected field removed.
3. A caller's credential never travels on: Authorization, Proxy-Authorization, Cookie, Gateway-*, the route's own
   credential field; nor does anything the caller put into the field that the route injects, or into one that the
   catalogue knows as a credential of this API. Where the route says `foreign_credentials: refuse`, the last two are
   refused.
4. Forwarded and X-Forwarded-* are claims about this hop; they end here, or wait for `forwarded.py`. So do fields that
   make a server behind us take another path, method or host for the request's (threats C10).
5. Refused: a name with an underscore (servers fold it into another name), a method override that the route does not
   judge, a credential or Gateway field sent twice, framing that can be read in two ways, a `Via` that names this
   installation.

Names are classified once: a bounded memo maps a name, as it was spelled, to what is done with it (0.9 against 1.3
microseconds for the fields of one request).

The other direction: `answer_fields.py`.
"""

from __future__ import annotations

from gateway.errors import (
    AmbiguousCredential,
    CredentialNotPassed,
    FieldNotPassed,
    FieldsTooLarge,
    InvalidRequest,
    LoopDetected,
)
from gateway.models import Route, UpstreamRules
from gateway.proxy.routing import OVERRIDING_METHODS

RawFields = tuple[tuple[bytes, bytes], ...]

MAX_FIELDS_BYTES = 32_768  # all fields of one request that are sent on; the parser bounds each one (threats R32)
MEMO_NAMES = 512  # spellings remembered; real traffic has a few dozen, an attacker cannot grow it

HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-connection",
        b"proxy-authenticate",
        b"proxy-authentication-info",
        b"te",
        b"trailer",
        b"upgrade",
        b"http2-settings",
    }
)
# Claims about the caller's address, and what rewrites the request for who believes it: always removed.
FORWARDED = frozenset(
    {
        *(b"forwarded", b"x-real-ip", b"x-client-ip", b"x-cluster-client-ip", b"x-originating-ip", b"x-remote-ip"),
        *(b"x-remote-addr", b"true-client-ip", b"cf-connecting-ip", b"fastly-client-ip", b"x-azure-clientip"),
        *(b"x-original-forwarded-for", b"x-envoy-external-address"),
    }
)
REWRITES = frozenset(
    {
        *(b"x-original-url", b"x-original-uri", b"x-original-path", b"x-original-method", b"x-original-host"),
        *(b"x-rewrite-url", b"x-rewrite-uri", b"x-waws-unencoded-url", b"x-envoy-original-path", b"x-script-name"),
        *(b"x-host", b"x-http-host-override", b"x-http-path-override", b"x-http-destinationurl", b"x-proxy-url"),
    }
)
# What a trusted proxy says and is passed on; everything else above never is.
TRUSTED_FORWARDED = (b"forwarded", b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host")
# Framing and Host are not a hop's to remove: a Connection field that names them is an attack or a mistake.
_NOT_FOR_A_HOP = frozenset({b"content-length", b"host", b"transfer-encoding"})
METHOD_OVERRIDES = frozenset({b"x-http-method-override", b"x-http-method", b"x-method-override"})


# What is done with a field of that name: plain numbers, since a comparison with a member of an IntEnum costs four times
# as much.
(
    _FORWARD,
    _DROP,
    _AUTHORIZATION,
    _CREDENTIAL,
    _GATEWAY_AUTHORIZATION,
    _GATEWAY_USER,
    _GATEWAY_TENANT,
    _GATEWAY_ACCOUNT,
    _HOST,
    _CONNECTION,
    _CONTENT_LENGTH,
    _TRANSFER_ENCODING,
    _EXPECT,
    _TRACEPARENT,
    _VIA,
    _REFUSE,
    _FOREIGN_CREDENTIAL,
    _METHOD_OVERRIDE,
    _FORWARDED,
    _UPGRADE,
) = range(20)

_REQUEST_FIELDS: dict[bytes, int] = {
    **dict.fromkeys(HOP_BY_HOP | FORWARDED | REWRITES, _DROP),
    **dict.fromkeys(METHOD_OVERRIDES, _REFUSE),
    b"authorization": _AUTHORIZATION,
    b"proxy-authorization": _DROP,
    b"cookie": _DROP,
    b"gateway-authorization": _GATEWAY_AUTHORIZATION,
    b"gateway-user": _GATEWAY_USER,
    b"gateway-tenant": _GATEWAY_TENANT,
    b"gateway-account": _GATEWAY_ACCOUNT,
    b"host": _HOST,
    b"connection": _CONNECTION,
    b"content-length": _CONTENT_LENGTH,
    b"transfer-encoding": _TRANSFER_ENCODING,
    b"expect": _EXPECT,
    b"traceparent": _TRACEPARENT,
    b"via": _VIA,
}


class RequestFields:
    """
    The header fields of one request, read once.

    *lines* are the field lines to send on, each ending in CRLF, without framing, Host and credential.
    *content_length* is None where there was none; *authorization* and the rest are None where absent. *forwarded* are
    the fields, by lower-case name, that a trusted proxy may say; *caller_address* is what came of them.
    """

    __slots__ = (
        "account",
        "authorization",
        "caller_address",
        "chunked",
        "content_length",
        "credential",
        "expects_continue",
        "forwarded",
        "gateway_authorization",
        "has_host",
        "lines",
        "method_override",
        "nominated",
        "override_line",
        "tenant",
        "traceparent",
        "user",
        "wants_upgrade",
    )

    def __init__(self) -> None:
        self.lines: list[bytes] = []
        self.nominated: frozenset[bytes] = frozenset()
        self.authorization: str | None = None
        self.credential: str | None = None
        self.gateway_authorization: str | None = None
        self.user: str | None = None
        self.tenant: str | None = None
        self.account: str | None = None
        self.has_host = False
        self.content_length: int | None = None
        self.chunked = False
        self.expects_continue = False
        self.traceparent: str | None = None
        self.method_override: str | None = None
        self.override_line: bytes | None = None
        self.forwarded: list[tuple[bytes, bytes]] | None = None
        self.caller_address: str | None = None
        self.wants_upgrade = False

    @property
    def has_body(self) -> bool:
        """Whether a body follows the header section."""
        return self.chunked or bool(self.content_length)

    @property
    def say_nothing_else(self) -> bool:
        """Whether they tell the gateway nothing beside who calls and for whom: no body, no trace, no other protocol."""
        return not (
            self.chunked
            or self.expects_continue
            or self.wants_upgrade
            or self.content_length is not None
            or self.forwarded is not None
            or self.method_override is not None
            or self.traceparent is not None
        )

    def name_the_same(self, other: RequestFields) -> bool:
        """Whether *other* holds the same credentials, and names the same subject."""
        return (
            self.authorization == other.authorization
            and self.credential == other.credential
            and self.gateway_authorization == other.gateway_authorization
            and self.user == other.user
            and self.tenant == other.tenant
            and self.account == other.account
        )

    def override(self, name: bytes, value: bytes) -> None:
        """Take the method that the field *name* names beside the request's own; it can be one, and is said once."""
        method = value.decode("latin-1")
        if self.method_override is not None or method not in OVERRIDING_METHODS:
            raise FieldNotPassed
        self.method_override = method
        self.override_line = b"%b: %b\r\n" % (name, value)


class RequestRules:
    """
    The rules for requests of routes like *route* (None: of no route), of whose upstream *known* is known.

    *via* is the name of this installation in Via. *trusts_proxies*: what a proxy says of the caller is kept aside.
    """

    def __init__(
        self, route: Route | None, *, via: str, known: UpstreamRules | None = None, trusts_proxies: bool = False
    ) -> None:
        self._via = via.encode("ascii")
        self._memo: dict[bytes, int] = {}
        self._special = dict(_REQUEST_FIELDS)
        if trusts_proxies:
            self._special |= dict.fromkeys(TRUSTED_FORWARDED, _FORWARDED)
        if route is None:
            return
        if route.upgrade:
            self._special[b"upgrade"] = _UPGRADE
        if route.method_override == "judge":
            self._special |= dict.fromkeys(METHOD_OVERRIDES, _METHOD_OVERRIDE)
        if route.echo_guard == "cut":  # the lane sends its own
            self._special[b"accept-encoding"] = _DROP
        foreign = _FOREIGN_CREDENTIAL if route.foreign_credentials == "refuse" else _DROP
        if known is not None:
            self._special |= dict.fromkeys((name.encode("ascii") for name in known.credential_fields), foreign)
        if route.inject.kind == "header":
            self._special[route.inject.name.lower().encode("ascii")] = foreign
        self._special[b"authorization"] = _AUTHORIZATION
        if route.credential.kind == "header":
            self._special[route.credential.header.lower().encode("ascii")] = _CREDENTIAL

    def read(self, raw_fields: RawFields) -> RequestFields:
        """
        Sort *raw_fields*, as the parser delivered them, into what is sent on and what is meant for the gateway.

        Raises:
            FieldsTooLarge: they are larger than MAX_FIELDS_BYTES together.
            InvalidRequest: framing or a name that could be read in two ways, a method override.
            AmbiguousCredential: a credential or Gateway field is there twice.
            CredentialNotPassed: a credential for the API, on a route that refuses those.
            LoopDetected: Via names this installation.
        """
        fields = RequestFields()
        lines = fields.lines
        memo = self._memo
        for name, value in raw_fields:
            do = memo.get(name)
            if do is None:
                do = self._classify(name)
            if do == _FORWARD:
                lines.append(b"%b: %b\r\n" % (name, value))
            elif do == _AUTHORIZATION:
                fields.authorization = _once(fields.authorization, value)
            elif do == _HOST:
                if fields.has_host:
                    raise InvalidRequest
                fields.has_host = True
            elif do != _DROP:
                self._keep(fields, do, name, value)
        size = sum(map(len, lines))
        if fields.forwarded is not None:
            size += sum(len(value) for _, value in fields.forwarded)
        if size > MAX_FIELDS_BYTES:
            raise FieldsTooLarge
        if fields.chunked and fields.content_length is not None:
            # RFC 9112 6.3 lets a proxy drop Content-Length here; we refuse: it is how requests are smuggled.
            raise InvalidRequest
        if fields.nominated:
            fields.lines = without(lines, fields.nominated)
        if fields.override_line is not None:
            fields.lines.append(fields.override_line)  # judged: no Connection field takes it away
        return fields

    def _classify(self, name: bytes) -> int:
        lowered = name.lower()
        do = self._special.get(lowered)
        if do is None:
            if b"_" in lowered:
                do = _REFUSE
            elif lowered.startswith((b"x-forwarded-", b"gateway-", b"proxy-")):
                do = _DROP
            else:
                do = _FORWARD
        if len(self._memo) >= MEMO_NAMES:
            self._memo.clear()
        self._memo[name] = do
        return do

    def _keep(self, fields: RequestFields, do: int, name: bytes, value: bytes) -> None:
        """Store a field that is meant for the gateway itself."""
        if do == _CONNECTION:
            fields.nominated |= _nominated(value)
        elif do == _CONTENT_LENGTH:
            if fields.content_length is not None or not value.isdigit():
                raise InvalidRequest
            fields.content_length = int(value)
        elif do == _TRANSFER_ENCODING:
            if fields.chunked or value.lower() != b"chunked":
                raise InvalidRequest
            fields.chunked = True
        elif do == _EXPECT:
            if value.lower() != b"100-continue":
                raise InvalidRequest
            fields.expects_continue = True
        elif do == _TRACEPARENT:
            fields.traceparent = value.decode("latin-1")
        elif do == _VIA:
            if self._via in map(_received_by, value.split(b",")):
                raise LoopDetected
            fields.lines.append(b"Via: %b\r\n" % value)
        elif do == _REFUSE:
            raise FieldNotPassed
        elif do == _FOREIGN_CREDENTIAL:
            raise CredentialNotPassed
        elif do == _METHOD_OVERRIDE:
            fields.override(name, value)
        elif do == _UPGRADE:
            fields.wants_upgrade = True
        elif do == _FORWARDED:
            fields.forwarded = [*(fields.forwarded or ()), (name.lower(), value)]
        else:
            slot = _GATEWAY_SLOTS[do]
            setattr(fields, slot, _once(getattr(fields, slot), value))


def _nominated(value: bytes) -> frozenset[bytes]:
    """Return the lower-case names that a Connection field removes (RFC 9110 7.6.1)."""
    if value.lower() in (b"keep-alive", b"close"):
        return frozenset()
    names = frozenset(option.strip().lower() for option in value.split(b",")) - {b"", b"keep-alive", b"close"}
    if names & _NOT_FOR_A_HOP:
        raise InvalidRequest
    return names


def _received_by(element: bytes) -> bytes:
    """Return who received, of one element of a Via field (RFC 9110 section 7.6.3)."""
    words = element.split()
    return words[1].lower() if len(words) > 1 else b""


def without(lines: list[bytes], names: frozenset[bytes]) -> list[bytes]:
    """Return *lines* but those of the fields in *names*, which are lower case."""
    return [line for line in lines if line.split(b":", 1)[0].lower() not in names]


_GATEWAY_SLOTS: dict[int, str] = {
    _CREDENTIAL: "credential",
    _GATEWAY_AUTHORIZATION: "gateway_authorization",
    _GATEWAY_USER: "user",
    _GATEWAY_TENANT: "tenant",
    _GATEWAY_ACCOUNT: "account",
}


def _once(before: str | None, value: bytes) -> str:
    if before is not None:
        raise AmbiguousCredential
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError as exc:
        raise InvalidRequest from exc

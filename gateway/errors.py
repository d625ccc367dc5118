"""
Every refusal that the gateway answers with: one class each, with a stable code, a status and what to do.

Rules:
1. A refusal is raised where the fact is known and turned into an answer in one place (`proxy/answers.py`
   for the data path, the token API's own edge for its flat errors).
2. `code` is a contract: scripts switch on it. It is never renamed, and docs/errors.md lists it.
3. `detail` is one sentence for the caller: what happened, and what the caller can do. It never holds a
   credential, a provider's text, or anything that a stranger sent.
4. `retryable` says whether the same request may succeed later without anyone acting.

Shape: RFC 9457 problem details; RFC 9209 section 2.3 gives the Proxy-Status error types.
"""

from __future__ import annotations

from typing import ClassVar


class Refusal(Exception):
    """
    The gateway does not pass this request on, or cannot finish it. *detail* replaces the class's sentence.

    *route* is the name of the route that refused, where one was found: its callers are identified as it says.
    """

    code: ClassVar[str]
    status: ClassVar[int]
    title: ClassVar[str]
    detail_default: ClassVar[str]
    retryable: ClassVar[bool] = False
    proxy_error: ClassVar[str] = "http_request_denied"  # RFC 9209 section 2.3

    def __init__(
        self,
        detail: str | None = None,
        *,
        connection: str | None = None,
        missing_scopes: tuple[str, ...] = (),
        connect_url: str | None = None,
        wait_url: str | None = None,
        allowed_methods: tuple[str, ...] = (),
        retry_after: int | None = None,
        rule: str | None = None,
    ) -> None:
        self.detail = detail or self.detail_default
        self.connection = connection
        self.missing_scopes = missing_scopes
        self.connect_url = connect_url
        self.wait_url = wait_url
        self.allowed_methods = allowed_methods
        self.retry_after = retry_after
        self.rule = rule
        self.route: str | None = None
        super().__init__(self.detail)


# --- route -----------------------------------------------------------------------------------------------------


class AmbiguousTarget(Refusal):
    code, status, title = "ambiguous_target", 400, "The request target can be read in two ways"
    detail_default = (
        "The path holds something that servers read in different ways (dot segments, doubled slashes, a backslash, "
        "encoded separators, characters outside of ASCII). Send it in its plain, canonical form."
    )


class RouteNotFound(Refusal):
    code, status, title = "route_not_found", 404, "No route has this prefix"
    detail_default = (
        "No route of this gateway begins with this path. Ask its operator for the prefix of the API you want."
    )
    proxy_error = "destination_not_found"


class PathNotAllowed(Refusal):
    code, status, title = "path_not_allowed", 403, "The route does not allow this path"
    detail_default = "The route's allow list does not include this path. Ask the gateway's operator to add it."


class MethodNotAllowed(Refusal):
    code, status, title = "method_not_allowed", 405, "The route does not allow this method"
    detail_default = (
        "The route's allow list does not include this method on this path. The Allow field names those it does."
    )


class MintingNotAllowed(Refusal):
    code, status, title = "minting_not_allowed", 403, "The path hands out credentials"
    detail_default = (
        "At this path the API hands out further credentials, which would leave the gateway. Its operator can let them"
        " pass with minting on the route."
    )


class MultiplexNotAllowed(Refusal):
    code, status, title = "multiplex_not_allowed", 403, "The path takes several calls in one request"
    detail_default = (
        "A request to this path carries calls that the route's allow list or the policies would not see. Send each call"
        " by itself, or ask the gateway's operator for multiplex on the route."
    )


class JsonpNotAllowed(Refusal):
    code, status, title = "jsonp_not_allowed", 403, "The query asks for a script"
    detail_default = (
        "callback, $callback and jsonp in the query of a GET make an API answer with a script, which any page can run."
        " Leave it out; where this API means something else by it, the gateway's operator can let it pass with jsonp on"
        " the route."
    )


# --- identify --------------------------------------------------------------------------------------------------


class CallerUnauthenticated(Refusal):
    code, status, title = "caller_unauthenticated", 401, "The caller is not known"
    detail_default = (
        "Send a valid credential of your own in Authorization: a token of an issuer that this gateway trusts, or "
        "an agent key."
    )


class CredentialAbsent(CallerUnauthenticated):
    """No credential at all: the same answer, but its challenge names no error (RFC 6750 section 3.1)."""


class AmbiguousCredential(Refusal):
    code, status, title = "ambiguous_credential", 400, "More than one credential"
    detail_default = "A credential field or a Gateway field was sent twice. Send each of them once."


class SubjectRequired(Refusal):
    code, status, title = "subject_required", 400, "No user to act for"
    detail_default = (
        "This route acts for a user and the credential names none. Use a user's credential; a management key "
        "names the user in Gateway-User."
    )


class TenantRequired(Refusal):
    code, status, title = "tenant_required", 400, "No tenant to act for"
    detail_default = "This route acts within a tenant. Choose one of your own with the field Gateway-Tenant."


class SubjectNotAllowed(Refusal):
    code, status, title = "subject_not_allowed", 403, "Not your user or tenant"
    detail_default = "The credential may not act for the user or tenant that the request names."


class KeysUnavailable(Refusal):
    code, status, title = "keys_unavailable", 503, "Credentials cannot be checked at the moment"
    detail_default = "The keys that verify this kind of credential cannot be read at the moment. Repeat the call later."
    retryable = True
    proxy_error = "proxy_internal_error"


# --- authorize -------------------------------------------------------------------------------------------------


class DeniedByPolicy(Refusal):
    code, status, title = "denied_by_policy", 403, "A policy does not allow this call"
    detail_default = "No policy of this gateway allows this call for you. Its operator can explain which rule decided."


class CallerScopeMissing(Refusal):
    code, status, title = "caller_scope_missing", 403, "The credential lacks a scope"
    detail_default = "The access token lacks the scope that this gateway asks for. Request it from the issuer."


class RateLimited(Refusal):
    code, status, title = "rate_limited", 429, "Too many requests"
    detail_default = "The limit of this route is reached. Wait for the seconds in Retry-After."
    retryable = True


# --- token -----------------------------------------------------------------------------------------------------


class ConnectionRequired(Refusal):
    code, status, title = "connection_required", 403, "The user has not connected this account"
    detail_default = (
        "There is no usable connection token for this user or tenant. The account must be connected, then the "
        "call can be repeated."
    )
    proxy_error = "http_request_denied"


class ConnectionScopeMissing(Refusal):
    code, status, title = "connection_scope_missing", 403, "The connection lacks a scope"
    detail_default = (
        "The provider wants scopes that the user has not granted. The account must be connected again with them."
    )


SCOPE_NOT_OF_ROUTE = (
    "The provider wants scopes that this route does not use. The gateway's operator must add them to the route's"
    " scopes; then the account can be connected with them."
)


class TokenUnusable(Refusal):
    code, status, title = "token_unusable", 502, "The connection token cannot be sent"
    detail_default = (
        "The connection's token holds characters that cannot stand where this route puts it. The account must be"
        " connected again, or the gateway's operator must correct the route's inject."
    )
    proxy_error = "proxy_internal_error"


class ConnectionUnknown(Refusal):
    code, status, title = "connection_unknown", 503, "The route's connection does not exist"
    detail_default = (
        "The connection that this route names is not known to the token service. Its operator must create it."
    )
    proxy_error = "proxy_configuration_error"


class CallerKindUnsupported(Refusal):
    code, status, title = "caller_kind_unsupported", 403, "This kind of credential cannot be used here"
    detail_default = (
        "The token service takes the caller's own access token, and only a JWT can be passed to it. Call with a JWT."
    )


class TokenServiceUnavailable(Refusal):
    code, status, title = "token_service_unavailable", 503, "The token service does not answer"
    detail_default = "The connection token cannot be read or refreshed at the moment. Repeat the call later."
    retryable = True
    proxy_error = "proxy_internal_error"


# --- send ------------------------------------------------------------------------------------------------------


class OriginNotAllowed(Refusal):
    code, status, title = "origin_not_allowed", 403, "The connection's token may not be sent there"
    detail_default = (
        "The connection does not list the route's upstream among its origins. The gateway's operator must correct"
        " one of them."
    )
    proxy_error = "proxy_configuration_error"


class EgressBlocked(Refusal):
    code, status, title = "egress_blocked", 502, "The upstream's address is not allowed"
    detail_default = (
        "The upstream's name leads to an address that this gateway does not dial. Its operator can allow it."
    )
    proxy_error = "destination_ip_prohibited"


class NameNotResolved(Refusal):
    code, status, title = "name_not_resolved", 502, "The upstream's name cannot be resolved"
    detail_default = (
        "The upstream's name has no address, or its name server did not answer in time. Repeat the call later; if it"
        " stays so, the gateway's operator must correct the upstream."
    )
    retryable = True
    proxy_error = "dns_error"


class NameLookupTimeout(NameNotResolved):
    """No name server answered in time."""

    detail_default = "No name server answered for the upstream's name in time. Repeat the call later."
    proxy_error = "dns_timeout"


class UpstreamUnreachable(Refusal):
    code, status, title = "upstream_unreachable", 502, "The upstream cannot be reached"
    detail_default = "No connection to the upstream could be made, or it was lost before an answer came."
    retryable = True
    proxy_error = "destination_unavailable"


class UpstreamNotTrusted(UpstreamUnreachable):
    """It is reached, and its certificate is not the one that it should be."""

    detail_default = (
        "The upstream's certificate is not one that this gateway trusts for its name. The gateway's operator must look"
        " at the upstream, or at egress.ca_file."
    )
    retryable = False
    proxy_error = "tls_certificate_error"


class UpstreamTlsFailed(UpstreamUnreachable):
    """It is reached, and no version or cipher of TLS suits both."""

    detail_default = "The upstream does not speak a TLS that this gateway accepts (TLS 1.2 or newer)."
    proxy_error = "tls_protocol_error"


class UpstreamProtocolError(Refusal):
    code, status, title = "upstream_protocol_error", 502, "The upstream's answer cannot be read"
    detail_default = "The upstream sent something that is not a valid HTTP/1.1 answer."
    proxy_error = "http_protocol_error"


class TokenEchoed(Refusal):
    code, status, title = "token_echoed", 502, "The upstream's answer holds the connection token"
    detail_default = (
        "The upstream's answer holds the token that was sent to it, and this route lets no such answer through. The"
        " upstream may have acted on the request."
    )
    proxy_error = "http_protocol_error"


class AnswerEncoded(Refusal):
    code, status, title = "answer_encoded", 502, "The upstream's answer cannot be looked into"
    detail_default = (
        "The upstream's answer has a content coding that it was not asked for, and this route lets only answers through"
        " that can be looked into. The upstream may have acted on the request."
    )
    proxy_error = "http_response_content_coding"


class UpstreamTimeout(Refusal):
    code, status, title = "upstream_timeout", 504, "The upstream did not answer in time"
    detail_default = (
        "The upstream did not answer within the route's time limit. It may or may not have acted on the request."
    )
    proxy_error = "http_response_timeout"


class ConnectTimeout(UpstreamTimeout):
    """The connection did not stand in time: nothing was sent."""

    detail_default = "The upstream did not accept a connection within the route's time limit. Nothing was sent to it."
    retryable = True
    proxy_error = "connection_timeout"


class UpstreamOverloaded(Refusal):
    code, status, title = "upstream_overloaded", 503, "Too many calls to this upstream at once"
    detail_default = "The route has as many calls under way as it allows. Repeat the call later."
    retryable = True
    proxy_error = "connection_limit_reached"


class LoopDetected(Refusal):
    code, status, title = "loop_detected", 508, "The request came through this gateway already"
    detail_default = (
        "The request's Via field names this gateway: a route leads back to it. Its operator must correct the upstream."
    )
    proxy_error = "proxy_loop_detected"


# --- the exchange itself ---------------------------------------------------------------------------------------


class InvalidRequest(Refusal):
    code, status, title = "invalid_request", 400, "The request is not valid HTTP/1.1"
    detail_default = "The request breaks a rule of HTTP/1.1, or carries a field that this gateway does not pass on."


class FieldNotPassed(InvalidRequest):
    """The same refusal, for a field that servers behind may obey or confuse with another."""

    detail_default = (
        "The request has something that this gateway does not pass on: a method override (X-HTTP-Method-Override and"
        " its like, in a field or a query parameter), or a field name with an underscore. Leave it out."
    )


class CredentialNotPassed(InvalidRequest):
    code, title = "credential_not_passed", "The request has a credential for the upstream"
    detail_default = (
        "The request carries a credential for the API itself, in a field or a query parameter that is used for one. The"
        " gateway adds the user's: leave yours out."
    )


class HttpVersionNotSupported(Refusal):
    code, status, title = "http_version_not_supported", 505, "Not a version of HTTP that is spoken here"
    detail_default = "This gateway reads HTTP/1.1 and HTTP/1.0. Send the request in one of them."


class TooManyConnections(Refusal):
    code, status, title = "too_many_connections", 503, "Too many connections at once"
    detail_default = (
        "The gateway has as many connections open as it takes, in all or from your address. Close some, or repeat the"
        " call later."
    )
    retryable = True
    proxy_error = "connection_limit_reached"


class RequestTimeout(Refusal):
    code, status, title = "request_timeout", 408, "The request did not arrive in time"
    detail_default = "The rest of the request did not arrive in time."
    retryable = True


class BodyTooLarge(Refusal):
    code, status, title = "body_too_large", 413, "The body is larger than the route allows"
    detail_default = "The request's body is larger than this route allows."


class TargetTooLong(Refusal):
    code, status, title = "target_too_long", 414, "The request target is too long"
    detail_default = "The request target is longer than this gateway reads."


class Misdirected(Refusal):
    code, status, title = "misdirected", 421, "Not a host of this gateway"
    detail_default = "The Host of this request is not one that this gateway answers for."


class FieldsTooLarge(Refusal):
    code, status, title = "fields_too_large", 431, "The header fields are too large"
    detail_default = "The request's header fields are larger than this gateway reads."


class RecordUnavailable(Refusal):
    code, status, title = "record_unavailable", 503, "The call cannot be recorded"
    detail_default = (
        "Nothing leaves this gateway unrecorded, and the record cannot be written at the moment. Repeat the call later."
    )
    retryable = True
    proxy_error = "proxy_internal_error"


class InternalError(Refusal):
    code, status, title = "internal_error", 500, "The gateway made a mistake"
    detail_default = "The gateway failed in a way it should not. Tell its operator the trace_id."
    proxy_error = "proxy_internal_error"


# One class per code: a class without a code of its own is another wording of the one above it.
REFUSALS: tuple[type[Refusal], ...] = tuple(
    found
    for found in list(globals().values())
    if isinstance(found, type) and issubclass(found, Refusal) and "code" in vars(found)
)

"""
The words that values of routes.yaml are made of: names, scopes, patterns, addresses, numbers.

Rules:
1. Every text has a form and a bound, and its error is one sentence that says the form, never the value.
2. Text is never taken for a number or a boolean, nor the other way round; only an unquoted `${…}` may be read as one.
3. What comes later is in the grammar already, and refused as "not supported yet": never silently ignored.

Each word is an annotation for `schema.py`: pydantic checks it, and its JSON schema tells editors the same.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_network
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from gateway.access.patterns import PathPattern
from gateway.config.document import Filled
from gateway.config.urls import UrlError, check_path, parse_host, parse_origin, parse_port, parse_proxy, parse_url

EXPECTED = "expected_form"  # the error type whose message says the expected form
LATER = "not_supported_yet"

# First segments of the traffic listener that are the gateway's own (threats C11).
RESERVED_PREFIXES = ("/.well-known", "/connect", "/v1/outbound")

# What frames or routes a message: no token is put into these, and no caller's credential read from them.
RESERVED_FIELDS = frozenset(
    {
        *("connection", "content-encoding", "content-length", "content-type", "cookie", "date", "expect", "forwarded"),
        *(
            "host",
            "http2-settings",
            "keep-alive",
            "proxy-authorization",
            "proxy-connection",
            "proxy-status",
            "set-cookie",
        ),
        *("x-http-method-override", "x-http-method", "x-method-override"),
        *("te", "traceparent", "tracestate", "trailer", "transfer-encoding", "upgrade", "via"),
    }
)
REFUSED_METHODS = frozenset(
    {"CONNECT", "TRACE", "TRACK"}
)  # they tunnel, or echo the injected credential (threats A9, A10)

_METHOD = re.compile(r"[A-Z][A-Z-]{0,31}")
_FIELD_NAME = re.compile(r"[A-Za-z][A-Za-z0-9-]{0,63}")  # no underscore: servers fold it into another name (threats A6)
_PARAM_NAME = re.compile(r"[A-Za-z][A-Za-z0-9._~-]{0,63}")  # nothing that is encoded in a query
_FORMAT = re.compile(r"[!-z|~]+(?: [!-z|~]+)*")  # visible ASCII, single inner spaces, no braces


def refusal(expected: str) -> PydanticCustomError:
    """Return the error whose message is *expected*, a sentence that begins with "expected"."""
    return PydanticCustomError(EXPECTED, "{expected}", {"expected": expected})


@dataclass(frozen=True, slots=True)
class Text:
    """An annotation: text that matches *pattern* as a whole, of at most *characters*; *form* is said if not."""

    form: str
    pattern: str
    characters: int

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        compiled = re.compile(self.pattern)

        def check(value: str) -> str:
            if len(value) > self.characters:
                raise refusal(f"expected at most {self.characters} characters")
            if compiled.fullmatch(value) is None:
                raise refusal(f"expected {self.form}")
            return str(value)

        return core_schema.no_info_after_validator_function(check, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {**handler(schema), "pattern": f"^(?:{self.pattern})$", "maxLength": self.characters}


@dataclass(frozen=True, slots=True)
class Later:
    """An annotation: a key whose behaviour comes later; only *neutral*, the value that means nothing, is taken."""

    neutral: Any

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        says = {None: "nothing", (): "an empty list"}.get(self.neutral, self.neutral)

        def check(value: Any) -> Any:
            if (tuple(value) if isinstance(value, list) else value) != self.neutral:
                raise PydanticCustomError(LATER, "not supported yet: expected {says}", {"says": says})
            return value

        return core_schema.no_info_after_validator_function(check, handler(source))


def _parsed(parse: Callable[[str], object], *, shown: str | None = None) -> Callable[[str], str]:
    """Return a validator that keeps the text which *parse* accepts; *shown* replaces its message."""

    def check(value: str) -> str:
        try:
            parse(value)
        except (UrlError, ValueError) as exc:
            raise refusal(shown or str(exc)) from None
        return str(value)

    return check


def _from_template(number: Callable[[str], Any]) -> Callable[[Any], Any]:
    """Return a validator that reads filled-in text as *number* does, and leaves everything else alone."""

    def read(value: Any) -> Any:
        if not isinstance(value, Filled):
            return value
        try:
            return number(value)
        except (ValueError, KeyError):
            return value

    return read


def _decimal(text: str) -> float:
    if re.fullmatch(r"[0-9]{1,18}(?:\.[0-9]{1,18})?", text) is None:
        raise ValueError
    return float(text)


def _whole(text: str) -> int:
    if re.fullmatch(r"[0-9]{1,18}", text) is None:
        raise ValueError
    return int(text)


def _given(value: Any) -> Any:
    """Refuse an explicit null where an absent key means something else than an empty value would seem to."""
    if value is None:
        raise refusal("expected a value, or the key to be left out")
    return value


def _bind(value: str) -> None:
    host, colon, port = value.rpartition(":")
    if not colon or not host:
        raise UrlError('expected HOST:PORT, like "127.0.0.1:8080" or "[::1]:8080"')
    parse_host(host)
    if port != "0":  # 0: any free port, for tests
        parse_port(port)


def split_bind(value: str) -> tuple[str, int]:
    """Return host and port of a text that `Bind` accepted; an IPv6 host without its brackets."""
    host, _, port = value.rpartition(":")
    return parse_host(host), int(port)


def _network(value: str) -> None:
    try:
        ip_network(value)
    except ValueError:
        raise UrlError('expected a network like "10.0.0.0/8" (no bits behind its length), or an address') from None


def _prefix(value: str) -> None:
    if value == "/":
        return
    if not value.startswith("/"):
        raise UrlError('expected a path that begins with "/"')
    if value.endswith("/"):
        raise UrlError('expected a path without a trailing "/"')
    check_path(value)
    for reserved in RESERVED_PREFIXES:
        if value == reserved or value.startswith(f"{reserved}/"):
            raise UrlError(f"expected a prefix outside of {reserved}, which is the gateway's own")


def _host(value: str) -> None:
    if value.startswith("["):
        raise UrlError("expected a host name or an IPv4 address, as the Host field has it, without port")
    parse_host(value)


def _path_glob(value: str) -> None:
    try:
        PathPattern.compile(value)
    except ValueError as exc:
        # Only the constant part: the glob itself may have been filled in.
        raise UrlError(str(exc).partition(", got ")[0]) from None


def _method(value: str) -> None:
    if value in REFUSED_METHODS:
        raise UrlError("expected a method that may be passed on (never TRACE, TRACK or CONNECT)")
    if not _METHOD.fullmatch(value):
        raise UrlError("expected a method in upper case")


def _allow(value: str) -> None:
    method, space, path = value.partition(" ")
    if not space:
        raise UrlError('expected "METHOD /path", like "GET /v1/people/**" or "* /**"')
    if method != "*":
        _method(method)
    _path_glob(path)


def _field_name(value: str) -> None:
    lower = value.lower()
    if not _FIELD_NAME.fullmatch(value):
        raise UrlError("expected a field name of letters, digits and hyphens")
    if lower in RESERVED_FIELDS or lower.startswith(("gateway-", "x-forwarded-")):
        raise UrlError("expected a field that carries a credential and nothing else")


def _param_name(value: str) -> None:
    if not _PARAM_NAME.fullmatch(value):
        raise UrlError('expected the name of a query parameter of letters, digits, ".", "_", "~" and "-"')


def _token_format(value: str) -> None:
    if value.count("{token}") != 1 or not _FORMAT.fullmatch(value.replace("{token}", "t")):
        raise UrlError('expected visible text with "{token}" in it once, like "Bearer {token}"')


def _basic_format(value: str) -> None:
    _token_format(value)
    if ":" not in value.replace("{token}", "t"):
        raise UrlError('expected "USER:PASSWORD" with "{token}" as one of them')


def _algorithm(value: str) -> None:
    if value == "none" or value.startswith("HS"):
        raise UrlError("expected an asymmetric algorithm: a shared secret or no signature proves no issuer")


Name = Annotated[
    str,
    Text("a name of letters, digits, ., _ and -, beginning with a letter or digit", r"[A-Za-z0-9][A-Za-z0-9._-]*", 64),
]
ConnectionId = Annotated[  # as the token API takes them
    str, Text("an id of letters, digits, ., _ and -, and not only dots", r"(?!\.+$)[A-Za-z0-9._-]+", 200)
]
Installation = Annotated[str, Text("a number in quotes", r"[0-9]+", 20)]
Identifier = Annotated[str, Text("visible text without spaces", r"[!-~]+", 256)]
# What may be a name of a user, tenant, client, role (access/names.py): no controls, no line separators, no surrogates.
_VISIBLE = r"[^\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]"
Label = Annotated[str, Text("visible text", f"{_VISIBLE}+", 512)]
Title = Annotated[str, Text("visible text", f"(?! ){_VISIBLE}+", 200)]
Account = Annotated[str, Text("visible text", f"{_VISIBLE}+", 200)]  # contract section 4, externalIdentifier
Description = Annotated[str, Text("visible text", rf"(?:{_VISIBLE}|\n)*", 2000)]
FilePlace = Annotated[str, Text("the path of a file", f"{_VISIBLE}+", 4096)]
Secret = Annotated[str, Text("visible text", r"[!-~](?:[ -~]*[!-~])?", 2048)]  # VSCHAR, RFC 6749 appendix A
ClientSecret = Annotated[  # or a private key (PEM, RFC 7468; JSON of a service account), which signs instead
    str,
    Text(
        "visible text, or a private key as PEM or JSON",
        r"[!-~](?:[ -~]*[!-~])?|-----BEGIN [ -~\n]+-----|\{[ -~\n]+\}",
        8192,
    ),
]
Scope = Annotated[str, Text("a scope without spaces, quotes or backslashes", r"[!#-\[\]-~]+", 256)]  # RFC 6749 3.3
UserPrefix = Annotated[str, Text("visible text without spaces, or none", r"[!-~]*", 64)]
Param = Annotated[str, Text("visible text", f"{_VISIBLE}*", 2048)]  # of an authorization or token request
Claim = Annotated[str, Text("the name of a claim", r"[!-~]+", 128)]

Upstream = Annotated[str, AfterValidator(_parsed(parse_url))]
Endpoint = Annotated[str, AfterValidator(_parsed(lambda text: parse_url(text, query=True)))]
WebOrigin = Annotated[str, AfterValidator(_parsed(parse_origin))]
Domain = Annotated[
    str, AfterValidator(_parsed(lambda text: parse_origin(text if "://" in text else f"https://{text}")))
]
Bind = Annotated[str, AfterValidator(_parsed(_bind))]
Proxy = Annotated[str, AfterValidator(_parsed(parse_proxy))]
Network = Annotated[str, AfterValidator(_parsed(_network))]
Prefix = Annotated[str, Field(max_length=256), AfterValidator(_parsed(_prefix))]
Host = Annotated[str, Field(max_length=255), AfterValidator(_parsed(_host))]
PathGlob = Annotated[str, Field(max_length=512), AfterValidator(_parsed(_path_glob))]
Method = Annotated[str, AfterValidator(_parsed(_method))]
Allow = Annotated[str, Field(max_length=600), AfterValidator(_parsed(_allow))]
FieldName = Annotated[str, AfterValidator(_parsed(_field_name))]
ParamName = Annotated[str, AfterValidator(_parsed(_param_name))]
TokenFormat = Annotated[str, Field(max_length=256), AfterValidator(_parsed(_token_format))]
BasicFormat = Annotated[str, Field(max_length=256), AfterValidator(_parsed(_basic_format))]
# The check runs first: a choice of algorithms would suggest RS256 for HS256, as if it were a typing mistake.
Asymmetric = BeforeValidator(lambda value: _parsed(_algorithm)(value) if isinstance(value, str) else value)

Seconds = Annotated[float, Field(gt=0, le=86_400, allow_inf_nan=False), BeforeValidator(_from_template(_decimal))]
DrainSeconds = Annotated[float, Field(ge=0, le=3600, allow_inf_nan=False), BeforeValidator(_from_template(_decimal))]
DrainDelay = Annotated[float, Field(ge=0, le=300, allow_inf_nan=False), BeforeValidator(_from_template(_decimal))]
Count = Annotated[int, Field(ge=1, le=1_000_000), BeforeValidator(_from_template(_whole))]
Bytes = Annotated[int, Field(ge=0, le=1 << 40), BeforeValidator(_from_template(_whole))]
ReplayBytes = Annotated[int, Field(ge=0, le=16_777_216), BeforeValidator(_from_template(_whole))]  # kept in memory
Truth = Annotated[bool, BeforeValidator(_from_template({"true": True, "false": False}.__getitem__))]
Given = BeforeValidator(_given)

"""
Which parameters of a request's query cross the gateway, and the one that the gateway adds.

Rules:
1. A parameter crosses as it came, byte for byte. Its name is compared as some server may read it: decoded as long as
   that changes it, in any letter case, with what PHP folds; ";" ends a parameter as "&" does.
2. A credential for the API is refused: `access_token` (RFC 6750 section 2.3) everywhere, and the names that the
   catalogue knows for this API (threats C8). A caller never identifies itself by the query either (threats B17).
3. A parameter that names another method is a method override, like the field of that kind (threats C6).
4. What the caller wrote into the parameter that the route injects is removed, as in the injected field; where the route
   says `foreign_credentials: refuse`, or the query can be split in two ways, it is refused.
5. `callback` and its like make JSON a script, and a script any page may run (threats C9). No header field of an answer
   prevents that: the sandbox is for documents, `nosniff` for what says that it is no script. So it is refused, unless
   the route says `jsonp: pass`; but only with GET, by which a page loads scripts: Deepgram's `POST /v1/listen` takes a
   URL to call back under this name.
6. The injected parameter stands at the end of what is sent, and nowhere else: records, errors and rewritten references
   are made of the target without it.
"""

from __future__ import annotations

from urllib.parse import quote, unquote_plus

from gateway.errors import CredentialNotPassed, FieldNotPassed, JsonpNotAllowed
from gateway.models import Route, UpstreamRules
from gateway.proxy.routing import OVERRIDING_METHODS

MEMO_NAMES = 512  # spellings remembered, as in request_fields.py
MEMO_CHARS = 64  # of a name that is remembered; no API has longer ones, a caller might
ALWAYS_CREDENTIALS = frozenset({"access_token"})
# Rails and Express, Google, OData and what else reads the field's name in the query, Salesforce.
METHOD_OVERRIDES = frozenset(
    {"_method", "$httpmethod", "x-http-method-override", "x-http-method", "x-method-override", "_httpmethod"}
)
# jQuery's default and that of most APIs, Google's own, and what jQuery calls the thing. A query without them pays
# nothing: match and rules of two parameters took 3.24 microseconds before, 3.28 with it (least of 4 runs in turn).
JSONP_NAMES = frozenset({"callback", "$callback", "jsonp"})
_DECODINGS = 3  # "%2561" is "a" to a server that decodes twice; more than twice has not been seen

_PASS, _CREDENTIAL, _OVERRIDE, _INJECTED, _JSONP = range(5)


class QueryRules:
    """The rules for the queries of routes like *route*, of whose upstream *known* is known."""

    __slots__ = ("_judges_override", "_memo", "_refuses_injected", "_special")

    def __init__(self, route: Route, known: UpstreamRules) -> None:
        self._judges_override = route.method_override == "judge"
        self._refuses_injected = route.foreign_credentials == "refuse"
        self._special = dict.fromkeys(METHOD_OVERRIDES, _OVERRIDE)
        if route.jsonp == "refuse":
            self._special |= dict.fromkeys(JSONP_NAMES, _JSONP)
        names = ALWAYS_CREDENTIALS | known.credential_params
        self._special |= {folded(name): _CREDENTIAL for name in names}
        if route.inject.kind == "query":
            self._special[folded(route.inject.name)] = _INJECTED
        self._memo: dict[str, int] = {}

    def read(self, query: str, method: str) -> tuple[str, str | None]:
        """
        Return what of *query*, a request's of *method*, is sent on, and the method that a parameter names beside that.

        Raises:
            CredentialNotPassed: it has a credential for the API.
            FieldNotPassed: it names another method, and the route does not judge that; or it names two.
            JsonpNotAllowed: it asks for a script.
        """
        pairs = query.split("&") if ";" not in query else query.replace(";", "&").split("&")
        override: str | None = None
        is_injected = False
        for pair in pairs:
            name, _, value = pair.partition("=")
            do = self._memo.get(name)
            if do is None:
                do = self._classify(name)
            if do == _PASS:
                continue
            if do == _CREDENTIAL:
                raise CredentialNotPassed
            if do == _JSONP:
                if method == "GET":
                    raise JsonpNotAllowed
            elif do == _INJECTED:
                is_injected = True
            elif override is not None or not self._judges_override or value not in OVERRIDING_METHODS:
                raise FieldNotPassed
            else:
                override = value
        if is_injected:
            if self._refuses_injected or ";" in query:
                raise CredentialNotPassed
            query = "&".join(pair for pair in pairs if self._classify(pair.partition("=")[0]) != _INJECTED)
        return query, override

    def _classify(self, name: str) -> int:
        do = self._special.get(folded(name), _PASS)
        if len(name) <= MEMO_CHARS:
            if len(self._memo) >= MEMO_NAMES:
                self._memo.clear()
            self._memo[name] = do
        return do


def folded(name: str) -> str:
    """Return the parameter name *name*, as it stands in a query, in the one form that all its spellings have."""
    for _ in range(_DECODINGS):
        decoded = unquote_plus(name, errors="replace")
        if decoded == name:
            break
        name = decoded
    # PHP: leading spaces go, "." and " " become "_", "[" begins an index, NUL ends the name.
    name = name.partition("\0")[0].lstrip().partition("[")[0]
    return name.replace(".", "_").replace(" ", "_").casefold()


def with_param(target: str, name: str, value: str) -> str:
    """Return *target* with the parameter *name* at its end; *value* is percent-encoded whole."""
    mark = "?" if "?" not in target else "" if target.endswith("?") else "&"
    return f"{target}{mark}{name}={quote(value, safe='')}"


def without_param(reference: bytes, name: str) -> bytes:
    """Return the URL or relative reference *reference* without the query parameters that may be read as *name*."""
    before, mark, rest = reference.partition(b"?")
    if not mark:
        return reference
    query, hash_mark, fragment = rest.partition(b"#")
    kept = [pair for pair in query.split(b"&") if not _names(pair, folded(name))]
    joined = b"&".join(kept)
    return before + (mark + joined if joined or not query else b"") + hash_mark + fragment


def _names(pair: bytes, name: str) -> bool:
    return any(folded(part.partition("=")[0]) == name for part in pair.decode("latin-1").split(";"))

"""
What a connection is: one OAuth client at one provider, or a place for API keys; and when its fields are valid.

Rules:
1. An id is [A-Za-z0-9._-]{1,200} and not only dots: SDKs put it into paths without encoding it (contract row 18).
2. Endpoints are absolute http or https URLs without credentials and fragment. Whether plain http and the address
   behind a name may be dialled is the egress guard's business, when it is dialled.
3. Origins are compared as text, so they have one spelling: `https://host[:port]`, lower case, no default port.
4. How a client authenticates at the token endpoint is one of four (RFC 6749 2.3.1, RFC 7591 section 2); unsaid, it is
   with a secret what the template's provider wants, else `client_secret_basic`, because every server must support it;
   `none` without.
5. A connection made from a template keeps copies of its URLs, scopes and origins, so that nothing but a person changes
   where tokens go; the provider's quirks it has by reference, so that a corrected catalogue reaches it.
6. A client that a provider registers (`useDcr`) is registered once. Who says the same connection again without a client
   (routes.yaml, at every start; Python's SDK, in an update) means the one that there is, as long as it is registered at
   the same place, with the same host in its redirect URI.
7. What one of the database engines cannot hold is refused on both: U+0000 and lone surrogates. One such text in a row's
   settings makes every query into that column fail on PostgreSQL.
8. Of the further fields those are checked that the gateway acts on: a wrong one would show only when somebody connects
   an account, or at the provider. An empty text there is none: SDKs send it for what was not said.

Source: descope-contract.md section 2, App; DESIGN section 7, "Where tokens may go".
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, get_args
from urllib.parse import urlsplit

from gateway.providers.catalogue import ProviderUnknown, VariableInvalid, resolve
from gateway.providers.quirks import AccessType, Grant, Params, Prompt, Quirks, TokenAuth

ConnectionKind = Literal["oauth", "apikey"]

KINDS: frozenset[str] = frozenset({"oauth", "apikey"})
TOKEN_AUTHS: frozenset[str] = frozenset(get_args(TokenAuth))
ACCESS_TYPES: frozenset[str] = frozenset(get_args(AccessType))
PROMPTS: frozenset[str] = frozenset(get_args(Prompt))
GRANT_TYPES: frozenset[str] = frozenset(get_args(Grant)) - {"api_key"}  # which the connection's type says
EXTRA_URLS = ("discoveryUrl", "dcrUrl", "defaultRedirectUrl")
EXTRA_CHOICES = {"accessType": ACCESS_TYPES, "grantType": GRANT_TYPES}
# Parameters of the exchange that are ours to set: a connection's own may not replace them.
RESERVED_PARAMS = frozenset(
    {
        "grant_type", "code", "redirect_uri", "client_id", "client_secret", "refresh_token", "scope", "state",
        "response_type", "code_challenge", "code_challenge_method", "code_verifier",
    }
)  # fmt: skip
ID = re.compile(r"(?!\.+\Z)[A-Za-z0-9._-]{1,200}\Z")
HOST = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?\Z|\[[0-9a-f:.]{2,45}\]\Z")
NOT_STORABLE = re.compile("[\0\ud800-\udfff]")
MAX_URL_LENGTH = 2048
MAX_DOMAIN_LENGTH = 1000  # with scheme and path it fits into store/schema.py's callback_url (2048)
MAX_LIST = 200
MAX_VALUE_LENGTH = 2048
MAX_SECRET_LENGTH = 8192  # a private key of 4096 bits as PEM or JWK has some 3,300


class ConnectionInvalid(Exception):
    """A field of a connection is not as it must be. The message names the field and what was expected, no value."""


@dataclass(frozen=True, slots=True)
class Connection:
    """
    One provider as the vault knows it.

    *origins* are canonical; None lets the token go to any route. *extra* keeps the other App fields (logo,
    discoveryUrl, prompt, …) under their names on the wire. *owner* "file" is read-only in the API. *template* is the id
    of the catalogue's provider that it was made from, *variables* fill in that one's.
    """

    id: str
    name: str
    description: str = ""
    kind: ConnectionKind = "oauth"
    client_id: str = ""
    client_secret: str | None = field(default=None, repr=False)
    authorization_url: str = ""
    token_url: str = ""
    revocation_url: str = ""
    default_scopes: tuple[str, ...] = ()
    origins: tuple[str, ...] | None = None
    pkce: bool = True
    token_auth: TokenAuth | None = None
    authorization_params: Params = ()
    token_params: Params = ()
    extra: Mapping[str, object] = field(default_factory=dict)
    owner: Literal["api", "file"] = "api"
    template: str | None = None
    variables: Params = ()

    @property
    def client_authentication(self) -> TokenAuth:
        """How the client authenticates at the token endpoint, the default filled in (rule 4)."""
        if self.token_auth is not None:
            return self.token_auth
        return (self.quirks.token_auth or "client_secret_basic") if self.client_secret else "none"

    @property
    def awaits_registration(self) -> bool:
        """Whether its provider shall register its client (`useDcr`, RFC 7591), and has not yet."""
        return self.kind == "oauth" and self.extra.get("useDcr") is True and not self.client_id

    @property
    def has_templates_token_url(self) -> bool:
        """Whether the token URL is its template's, and not one that somebody gave."""
        if self.template is None:
            return False
        try:
            return self.token_url == resolve(self.template, self.variables).token_url
        except (ProviderUnknown, VariableInvalid):
            return False

    @property
    def quirks(self) -> Quirks:
        """
        How the connection's provider deviates from the standards; what the connection itself says wins over it.

        A template that this release does not know (a newer one wrote the row) is taken for plain OAuth 2: URLs and
        origins are copies, so a token goes nowhere else, and an exchange that is refused for it loses no grant.
        """
        if self.template is None:
            return Quirks()
        try:
            return resolve(self.template, self.variables).quirks
        except (ProviderUnknown, VariableInvalid):
            return Quirks()


def with_client_of(wanted: Connection, stored: Connection | None) -> Connection:
    """Return *wanted* with the client registered for *stored*, where it wants the same one (rule 6)."""
    if stored is None or not wanted.awaits_registration or not stored.client_id:
        return wanted
    if stored.extra.get("useDcr") is not True or _registered_as(wanted) != _registered_as(stored):
        return wanted
    return replace(wanted, client_id=stored.client_id, client_secret=stored.client_secret, token_auth=stored.token_auth)


def _registered_as(connection: Connection) -> tuple[object, str]:
    """Return what tells registered clients apart: where it is registered, and the origin of its redirect URI."""
    place = connection.extra.get("dcrUrl") or connection.extra.get("discoveryUrl") or ""
    domain = str(connection.extra.get("callbackDomain") or "").rstrip("/").lower()
    return place, domain if "://" in domain or not domain else f"https://{domain}"


def is_connection_id(text: str) -> bool:
    """Tell whether *text* may be a connection's id."""
    return ID.match(text) is not None


def check(connection: Connection) -> None:
    """
    Do nothing where every field of *connection* is valid.

    Raises:
        ConnectionInvalid: names the first field that is not.
    """
    if not is_connection_id(connection.id):
        raise ConnectionInvalid("id: expected 1 to 200 of A-Z a-z 0-9 . _ -")
    if not connection.name.strip() or len(connection.name) > 200 or not connection.name.isprintable():
        raise ConnectionInvalid("name: expected 1 to 200 printable characters")
    if connection.kind not in KINDS:
        raise ConnectionInvalid("type: expected oauth or apikey")
    if connection.token_auth is not None and connection.token_auth not in TOKEN_AUTHS:
        raise ConnectionInvalid(f"token auth: expected one of {', '.join(sorted(TOKEN_AUTHS))}")
    needs_secret = connection.client_authentication != "none" and not connection.awaits_registration
    if needs_secret and connection.kind == "oauth" and not connection.client_secret:
        raise ConnectionInvalid("client secret: missing, and the connection's client authenticates with one")
    secret = connection.client_secret or ""
    if secret.startswith(("-----BEGIN ", "{")):  # a private key (PEM, RFC 7468; JSON), whose lines are its own
        secret = secret.replace("\n", "")
    for name, text, most in (
        ("client id", connection.client_id, MAX_VALUE_LENGTH),
        ("client secret", secret, MAX_SECRET_LENGTH),
    ):
        if len(text) > most or not _is_visible(text):
            raise ConnectionInvalid(f"{name}: expected up to {most} characters without control characters")
    for name, value in (("description", connection.description), *connection.extra.items()):
        if not is_storable(value):
            raise ConnectionInvalid(f"{name}: expected text without U+0000 and lone surrogates")
    domain = connection.extra.get("callbackDomain")
    if isinstance(domain, str) and len(domain) > MAX_DOMAIN_LENGTH:
        raise ConnectionInvalid(f"callbackDomain: expected up to {MAX_DOMAIN_LENGTH} characters")
    _check_template(connection)
    for name, url in (
        ("authorization URL", connection.authorization_url),
        ("token URL", connection.token_url),
        ("revocation URL", connection.revocation_url),
    ):
        _check_url(url, name=name)
    if len(connection.default_scopes) > MAX_LIST or not all(is_scope(scope) for scope in connection.default_scopes):
        raise ConnectionInvalid("scopes: expected a list of scopes without spaces (RFC 6749 3.3)")
    for name, params in (
        ("authorization URL parameters", connection.authorization_params),
        ("token URL parameters", connection.token_params),
    ):
        _check_params(params, name=name)
    for origin in connection.origins or ():
        if canonical_origin(origin) != origin:
            raise ConnectionInvalid("origins: expected scheme://host[:port] in lower case")
    _check_extra(connection.extra)


def _check_extra(extra: Mapping[str, object]) -> None:
    """Check the further fields that the gateway acts on (rule 8)."""
    said = {name: value for name, value in extra.items() if value not in (None, "")}
    for name in EXTRA_URLS:
        _check_url(said.get(name, ""), name=name)
    for name, choices in EXTRA_CHOICES.items():
        if name in said and not _is_one_of(said[name], choices):
            raise ConnectionInvalid(f"{name}: expected one of {', '.join(sorted(choices))}")
    prompt = said.get("prompt", ())
    if not isinstance(prompt, (list, tuple)) or not all(_is_one_of(each, PROMPTS) for each in prompt):
        raise ConnectionInvalid(f"prompt: expected a list of {', '.join(sorted(PROMPTS))}")
    domain = said.get("callbackDomain")
    if domain is None:
        return
    expected = "callbackDomain: expected host[:port], or https://host[:port]"
    if not isinstance(domain, str) or domain != domain.strip():
        raise ConnectionInvalid(expected)
    try:
        canonical_origin(domain if "://" in domain else f"https://{domain}")
    except ConnectionInvalid as exc:
        raise ConnectionInvalid(expected) from exc


def _is_one_of(value: object, choices: frozenset[str]) -> bool:
    return isinstance(value, str) and value in choices


def _check_template(connection: Connection) -> None:
    if connection.template is None:
        if connection.variables:
            raise ConnectionInvalid("variables: expected none without a template")
        return
    try:
        provider = resolve(connection.template, connection.variables)
    except ProviderUnknown as exc:
        raise ConnectionInvalid(f"template: {exc}") from exc
    except VariableInvalid as exc:
        raise ConnectionInvalid(f"variables: {exc}") from exc
    if provider.kind != connection.kind:
        raise ConnectionInvalid(f"type: expected {provider.kind}, as the template has it")
    grant, offered = connection.extra.get("grantType"), provider.quirks.grants
    if grant and grant not in offered:
        raise ConnectionInvalid(f"grantType: expected one that the template's provider offers: {', '.join(offered)}")


def is_storable(value: object) -> bool:
    """Tell whether every text in *value*, as JSON has values, can be stored on either engine (rule 6)."""
    if isinstance(value, str):
        return NOT_STORABLE.search(value) is None
    if isinstance(value, Mapping):
        return all(map(is_storable, (*value.keys(), *value.values())))
    return not isinstance(value, (list, tuple)) or all(map(is_storable, value))


def is_scope(text: str) -> bool:
    """Tell whether *text* is one scope: visible ASCII (RFC 6749 3.3 leaves out quote and backslash as well)."""
    return 0 < len(text) <= 512 and all("!" <= character <= "~" for character in text)


def canonical_origin(text: str) -> str:
    """
    Return *text* as the one spelling of its origin.

    Raises:
        ConnectionInvalid: not an http or https origin: it has a path, a query, credentials or another scheme.
    """
    expected = "origins: expected https://host[:port], no path, query or credentials"
    try:
        parts = urlsplit(text.strip().lower())
        port = parts.port
    except ValueError as exc:
        raise ConnectionInvalid(expected) from exc
    host = parts.netloc.rsplit(":", 1)[0] if port is not None else parts.netloc.removesuffix(":")
    if parts.scheme not in ("http", "https") or parts.path not in ("", "/") or not HOST.match(host):
        raise ConnectionInvalid(expected)
    if parts.query or parts.fragment or "?" in text or "#" in text:
        raise ConnectionInvalid(expected)
    is_default = port is None or port == (443 if parts.scheme == "https" else 80)
    return f"{parts.scheme}://{host}" if is_default else f"{parts.scheme}://{host}:{port}"


def _check_url(url: object, *, name: str) -> None:
    if url == "":
        return
    expected = f"{name}: expected an absolute https URL without credentials and fragment"
    if not isinstance(url, str) or len(url) > MAX_URL_LENGTH or not all("!" <= character <= "~" for character in url):
        raise ConnectionInvalid(expected)
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as exc:
        raise ConnectionInvalid(expected) from exc
    if parts.scheme not in ("https", "http") or not parts.hostname or "@" in parts.netloc or "#" in url:
        raise ConnectionInvalid(expected)


def _check_params(params: Params, *, name: str) -> None:
    if len(params) > MAX_LIST:
        raise ConnectionInvalid(f"{name}: expected at most {MAX_LIST}")
    for key, value in params:
        if not key or key.lower() in RESERVED_PARAMS:
            raise ConnectionInvalid(f"{name}: expected names that the gateway does not set itself")
        if len(key) + len(value) > MAX_VALUE_LENGTH or not _is_visible(key + value):
            raise ConnectionInvalid(f"{name}: expected up to {MAX_VALUE_LENGTH} characters without control characters")


def _is_visible(text: str) -> bool:
    """Tell whether *text* can be written into a form as it is: no control characters, no lone surrogates."""
    return not any(character < " " or character == "\x7f" or "\ud800" <= character <= "\udfff" for character in text)

"""
What `gateway connections add` can be told of a connection: its options, and the connection that they describe.

Rules:
1. A key of routes.yaml `connections:` is an option of the same name, "-" for "_", and takes the same values: what the
   grammar of that file refuses, is refused here.
2. No secret is an option (`connections.py`, rule 1).
3. What a grant reads is expected with that grant only, and what it cannot do without is required.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar, get_args

import click
from pydantic import ValidationError

from gateway.config.schema_routes import ConnectionFile
from gateway.providers.quirks import AccessType, Grant, Prompt
from gateway.vault.client_auth import text_of
from gateway.vault.connection import TOKEN_AUTHS, Connection, canonical_origin
from gateway.vault.grants import MINTED, grant_of
from gateway.vault.templates import from_template

Command = TypeVar("Command", bound=Callable[..., Any])

GRANT_CHOICES = tuple(grant for grant in get_args(Grant) if grant != "api_key")
# What the vault keeps under its name on the wire (wire_apps.py, EXTRA_FIELDS), by its name in routes.yaml.
ON_THE_WIRE = {
    "discovery_url": "discoveryUrl",
    "use_dcr": "useDcr",
    "dcr_url": "dcrUrl",
    "grant_type": "grantType",
    "installation_id": "installationId",
    "issuer": "issuer",
    "audience": "audience",
    "subject": "subject",
    "key_id": "keyId",
    "access_type": "accessType",
    "prompt": "prompt",
    "default_redirect_url": "defaultRedirectUrl",
    "callback_domain": "callbackDomain",
    "tenant_id": "tenantId",
}
# What routes.yaml says with one key, and an option says once for each value.
REPEATED = {"authorization_params": "authorization-param", "token_params": "token-param"}
READ_BY = {"installationId": "github_app", "audience": "jwt_bearer", "subject": "jwt_bearer"}

_OPTIONS = (
    click.option("--template", metavar="PROVIDER", help="Fill in the rest for one: gateway connections templates."),
    click.option("--variable", "variables", metavar="K=V", multiple=True, help="What the template asks for."),
    click.option("--name", metavar="TEXT", help="What people see.  [default: the id]"),
    click.option("--description", metavar="TEXT", help="What it is for.  [default: the template's]"),
    click.option(
        "--type", "kind", type=click.Choice(["oauth", "apikey"]), help="[default: the template's, else oauth]"
    ),
    click.option("--client-id", metavar="TEXT", default="", help="The client's id at the provider."),
    click.option("--authorization-url", metavar="URL", help="Where users consent."),
    click.option("--token-url", metavar="URL", help="Where tokens are refreshed."),
    click.option("--revocation-url", metavar="URL", help="Where tokens are revoked (RFC 7009)."),
    click.option(
        "--discovery-url", metavar="URL", help="The issuer, or its metadata's URL: fills in what is left out."
    ),
    click.option("--use-dcr", is_flag=True, help="Let the provider register the client (RFC 7591)."),
    click.option("--dcr-url", metavar="URL", help="Where it does so.  [default: as its metadata says]"),
    click.option("--scope", "scopes", metavar="S", multiple=True, help="A scope to ask for by default."),
    click.option(
        "--origin",
        "origins",
        metavar="ORIGIN",
        multiple=True,
        help="Where its tokens may go.  [default: the template's, else anywhere]",
    ),
    click.option("--pkce/--no-pkce", default=True, show_default=True, help="Send a PKCE challenge (S256)."),
    click.option(
        "--token-auth",
        type=click.Choice(sorted(TOKEN_AUTHS)),
        help="How the client authenticates at the token URL.  "
        "[default: with a secret as the template has it, else client_secret_basic; without one none]",
    ),
    click.option(
        "--grant-type",
        type=click.Choice(GRANT_CHOICES),
        help="What its tokens come of; all but the first give tenants theirs without a browser.  "
        "[default: authorization_code]",
    ),
    click.option("--installation-id", metavar="N", help="The installation's number (github_app)."),
    click.option("--audience", metavar="TEXT", help="The assertion's aud (jwt_bearer).  [default: the token URL]"),
    click.option("--subject", metavar="TEXT", help="The user that the assertion is for (jwt_bearer)."),
    click.option("--key-id", metavar="TEXT", help="The kid of the private key that signs."),
    click.option("--issuer", metavar="URL", help="Its issuer, where no metadata says it."),
    click.option("--tenant-id", metavar="T", help="The only tenant that tokens are minted for."),
    click.option(
        "--authorization-param",
        "authorization_params",
        metavar="K=V",
        multiple=True,
        help="A further parameter of authorization requests.",
    ),
    click.option(
        "--token-param", "token_params", metavar="K=V", multiple=True, help="A further parameter of token requests."
    ),
    click.option("--access-type", type=click.Choice(get_args(AccessType)), help="Of authorization requests."),
    click.option("--prompt", type=click.Choice(get_args(Prompt)), multiple=True, help="Of authorization requests."),
    click.option(
        "--default-redirect-url", metavar="URL", help="Where a browser goes at the end.  [default: our own page]"
    ),
    click.option(
        "--callback-domain", metavar="HOST[:PORT]", help="Host of the callback.  [default: that of the public URL]"
    ),
)


@dataclass(frozen=True, slots=True)
class Client:
    """The OAuth client at the provider: its id is an option, its secret is not."""

    id: str
    secret: str | None = field(repr=False)


def connection_options(command: Command) -> Command:
    """Give the click command *command* the options of a connection, which `connection_of` reads."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def connection_of(connection_id: str, options: Mapping[str, Any], *, secret: str | None) -> Connection:
    """
    Return the connection that *options* describe, by the names of `connection_options`; `check` has the last word.

    Raises:
        click.UsageError: a value, or what goes with what.
        ProviderUnknown, ConnectionInvalid: as `from_template`.
    """
    client = Client(options["client_id"], secret)
    fields = _fields(options) | {"name": options["name"] or connection_id}
    if options["template"] is not None:
        made = from_template(
            options["template"],
            id=connection_id,
            client_id=client.id,
            client_secret=client.secret,
            variables=pairs(options["variables"], "variable"),
            overrides=fields,
        )
        _check_of_template(made, kind=options["kind"])
    elif options["variables"]:
        raise click.UsageError("--variable: expected only with --template")
    else:
        made = Connection(id=connection_id, kind=options["kind"] or "oauth", client_id=client.id, **fields)
        made = replace(made, client_secret=client.secret)
    if options["use_dcr"] and (client.id or client.secret):
        raise click.UsageError("--use-dcr: the provider gives client id and secret")
    _check_grant(made)
    return made


def pairs(texts: tuple[str, ...], option: str) -> dict[str, str]:
    """
    Return NAME=VALUE texts of --*option* as a mapping; each name once.

    Raises:
        click.UsageError
    """
    found: dict[str, str] = {}
    for text in texts:
        name, separator, value = text.partition("=")
        if not separator or not name or name in found:
            raise click.UsageError(f"--{option}: expected NAME=VALUE, each name once")
        found[name] = value
    return found


def _fields(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return fields of `Connection` by name: those that the options say something of."""
    said = {name: options[name] for name in ON_THE_WIRE if options[name]}
    said |= {name: options[name] for name in ("description", "revocation_url") if options[name] is not None}
    for name, option in REPEATED.items():
        if options[name]:
            said[name] = pairs(options[name], option)
    if options["prompt"]:
        said["prompt"] = list(dict.fromkeys(options["prompt"]))
    _check_values(said)
    fields: dict[str, Any] = {
        "description": said.get("description"),
        "authorization_url": options["authorization_url"],
        "token_url": options["token_url"],
        "revocation_url": said.get("revocation_url"),
        "default_scopes": tuple(dict.fromkeys(options["scopes"])) or None,
        "origins": tuple(dict.fromkeys(canonical_origin(origin) for origin in options["origins"])) or None,
        "pkce": None if options["pkce"] else False,
        "token_auth": options["token_auth"],
        "extra": {ON_THE_WIRE[name]: value for name, value in said.items() if name in ON_THE_WIRE},
    }
    fields |= {name: tuple(said[name].items()) for name in REPEATED if name in said}
    return {name: value for name, value in fields.items() if value is not None}


def _check_values(said: Mapping[str, Any]) -> None:
    """Refuse what routes.yaml would refuse (rule 1)."""
    try:
        ConnectionFile.model_validate({"id": "any", **said})
    except ValidationError as exc:
        wrong = exc.errors(include_url=False, include_input=False, include_context=False)[0]
        name = str(wrong["loc"][0])
        option = REPEATED.get(name, name.replace("_", "-"))
        raise click.UsageError(f"--{option}: {wrong['msg']}") from exc


def _check_of_template(connection: Connection, *, kind: str | None) -> None:
    """Refuse what a template makes possible and nobody means: another type, a client without its secret."""
    if kind not in (None, connection.kind):
        raise click.UsageError(f"--type: expected {connection.kind}, as the template has it")
    if connection.awaits_registration or connection.kind != "oauth":
        return
    if connection.client_secret is None and connection.token_auth != "none":  # noqa: S105
        raise click.UsageError("client secret: missing; a public client says --token-auth none")


def _check_grant(connection: Connection) -> None:
    """Refuse what does not go with the connection's grant (rule 3)."""
    said, grant = text_of(connection, "grantType"), grant_of(connection)
    if connection.kind == "apikey" and said:
        raise click.UsageError("--grant-type: expected only with type oauth")
    for name, reader in READ_BY.items():
        if name in connection.extra and grant != reader:
            option = next(option for option, wire in ON_THE_WIRE.items() if wire == name).replace("_", "-")
            raise click.UsageError(f"--{option}: expected only with --grant-type {reader}")
    if grant not in MINTED:
        return
    if connection.token_auth == "none":  # noqa: S105  # a method's name
        raise click.UsageError(f"--token-auth: expected another with --grant-type {grant}")
    if "useDcr" in connection.extra:
        raise click.UsageError(f"--use-dcr: expected only without --grant-type {grant}")
    has_place = bool(connection.token_url or text_of(connection, "discoveryUrl"))
    for is_there, what in (
        (bool(connection.client_secret), "client secret"),
        (bool(connection.client_id) or grant == "jwt_bearer", "--client-id"),
        ("installationId" in connection.extra or grant != "github_app", "--installation-id"),
        (has_place or grant != "client_credentials", "--token-url"),
    ):
        if not is_there:
            raise click.UsageError(f"{what}: required with --grant-type {grant}")

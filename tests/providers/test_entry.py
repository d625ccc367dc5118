"""A provider's file: what is refused names file, line and key."""

from __future__ import annotations

from importlib import resources

import pytest
import yaml

from gateway.models import Rejected, UpstreamRules
from gateway.providers import entry
from gateway.providers.catalogue import catalogue
from gateway.providers.entry import MAX_BYTES, EntryInvalid, read
from gateway.providers.quirks import Quirks
from gateway.providers.variables import Variable

GOOD = """\
name: Shop
description: A shop's API.
docs_url: https://shop.example/docs
authorization_url: https://{shop}.shop.example/authorize
token_url: https://{shop}.shop.example/token
origins: ["https://{shop}.shop.example", "https://api.shop.example:8443"]
variables:
  shop: {description: its name, form: label, pattern: "[a-z]+", example: acme, default: acme}
quirks:
  token_auth: client_secret_basic
  token_body: json
  scope_separator: ","
  scopes_param: user_scope
  pkce: false
  refresh_url: https://{shop}.shop.example/refresh
  authorization_params: {access_type: offline, "grant_options[]": per-user}
  code_params: {expiring: "1"}
  token_errors_with_status_200: true
  token_path: /authed_user
  default_expires_seconds: 7200
  rejected: [{status: 200, pointer: /error, values: [token_expired]}, {status: 498}]
  grants: [authorization_code, client_credentials]
  issuer: https://shop.example/{tenantid}/v2
  account_path: /account/id
  userinfo_url: https://{shop}.shop.example/users/@me
  userinfo_path: /id
upstream:
  origins: ["https://*.shop.example"]
  credential_fields: [X-Shop-Token]
  credential_params: [key]
  minting_paths: ["/v1/tokens/*"]
  multiplex_paths: [/batch]
"""
TENANTS = "https://shop.example/{tenantid}/v2"
ISSUER_AT = "shop.yaml:23: quirks.issuer: "
KEY = "name: Shop\ndescription: A key.\ndocs_url: https://s.example/docs\nkind: apikey\norigins: [https://s.example]\n"


def test_every_key_arrives() -> None:
    """
    What a file says is what the provider is.
    """
    found = read("shop", GOOD.encode())

    assert ("shop", "Shop", "oauth", "https://{shop}.shop.example/token") == (
        found.id,
        found.name,
        found.kind,
        found.token_url,
    )
    assert ("https://{shop}.shop.example", "https://api.shop.example:8443") == found.origins
    assert ("https://*.shop.example",) == found.upstream_origins
    assert (
        UpstreamRules(
            credential_fields=frozenset({"x-shop-token"}),
            credential_params=frozenset({"key"}),
            rejected=found.quirks.rejected,
            minting_paths=("/v1/tokens/*",),
            multiplex_paths=("/batch",),
        )
        == found.upstream
    )
    assert (Variable("shop", "its name", "label", "[a-z]+", "acme", "acme"),) == found.variables
    assert (
        Quirks(
            token_auth="client_secret_basic",
            token_body="json",
            scope_separator=",",
            scopes_param="user_scope",
            pkce=False,
            refresh_url="https://{shop}.shop.example/refresh",
            authorization_params=(("access_type", "offline"), ("grant_options[]", "per-user")),
            code_params=(("expiring", "1"),),
            token_errors_with_status_200=True,
            token_path="/authed_user",
            default_expires_seconds=7200,
            rejected=(Rejected(200, "/error", ("token_expired",)), Rejected(498)),
            grants=("authorization_code", "client_credentials"),
            issuer=TENANTS,
            account_path="/account/id",
            userinfo_url="https://{shop}.shop.example/users/@me",
            userinfo_path="/id",
        )
        == found.quirks
    )


def test_key_provider_grants_keys() -> None:
    """
    A provider of API keys has no endpoints, and one way to get a token.
    """
    assert ("apikey", "", ("api_key",)) == (
        (found := read("shop", KEY.encode())).kind,
        found.token_url,
        found.quirks.grants,
    )


CHANGES: dict[str, tuple[str, str, str]] = {
    "an unknown key": ("name: Shop", "nam: Shop", "shop.yaml:1: name: "),
    "a key twice": ("name: Shop", "name: Shop\nname: Shop", "shop.yaml:2: name: expected each key once"),
    "a list as key": ("name: Shop", "[a]: Shop", "shop.yaml:1: "),
    "an alias": ("name: Shop", "name: &a Shop\nx: *a", "shop.yaml:1: expected no alias"),
    "a tag": ("name: Shop", "name: !!python/name:os.system Shop", "shop.yaml:1: expected no alias and no tag"),
    "no YAML": ("name: Shop", "name: ]", "shop.yaml:1: expected YAML"),
    "a number as text": ("name: Shop", "name: 5", "shop.yaml:1: name: "),
    "a word as boolean": ("pkce: false", "pkce: off", "shop.yaml:14: quirks.pkce: "),
    "plain http": ("token_url: https", "token_url: http", "shop.yaml:5: token_url: expected a URL that begins"),
    "no scheme": ("token_url: https://{shop}", "token_url: acme", "shop.yaml:5: token_url: expected a URL that begins"),
    "a user part": ("token_url: https://", "token_url: https://a:b@", "shop.yaml:5: token_url: "),
    "a query": ("/token\n", "/token?x=1\n", "shop.yaml:5: token_url: expected a plain path"),
    "a dot segment": ("/token\n", "/../token\n", "shop.yaml:5: token_url: expected a plain path"),
    "upper case in a host": ("https://api.shop", "https://Api.shop", "shop.yaml:6: origins.1: expected a host"),
    "a path that is no pointer": (
        "account_path: /account/id", "account_path: id", "shop.yaml:24: quirks.account_path: expected a JSON pointer"
    ),
    "an account at another server": (
        "{shop}.shop.example/users", "evil.example/users", "shop.yaml:25: quirks.userinfo_url: expected an address at"
    ),
    "an account by plain http": (
        "userinfo_url: https", "userinfo_url: http", "shop.yaml:25: quirks.userinfo_url: expected a URL that begins"
    ),
    "an account at no place": (
        "  userinfo_path: /id\n", "", "shop.yaml:9: quirks: expected userinfo_url and userinfo_path together"
    ),
    "a default port": ("example:8443", "example:443", "shop.yaml:6: origins.1: expected a port"),
    "an origin with a path": ("example:8443", "example/x", "shop.yaml:6: origins.1: expected https://host"),
    "an origin twice": ("https://api.shop.example:8443", "https://{shop}.shop.example", "shop.yaml:6: origins: "),
    "no origins": ('["https://{shop}.shop.example", "https://api.shop.example:8443"]', "[]", "shop.yaml:6: origins: "),
    "a variable that is not declared": ("/token\n", "/{evil}/token\n", "shop.yaml:7: variables: expected evil"),
    "a variable that is not used": ("\nvariables:", "\nvariables:\n  other: {description: x, form: label, pattern: a, "
                                    "example: a}", "shop.yaml:8: variables.other: expected a variable that is used"),
    "a part of a label": ("{shop}.shop.example/token", "a{shop}.shop.example/token", "shop.yaml:5: token_url: "),
    "a variable as the domain": ("{shop}.shop.example/token", "shop.{shop}/token", "shop.yaml:8: variables.shop: "),
    "a variable above one label": ("{shop}.shop.example/token", "{shop}.com/token", "shop.yaml:8: variables.shop: "),
    "a variable as a port": ("shop.example/token", "shop.example:{shop}/token", "shop.yaml:5: token_url: "),
    "a host within a host": ("form: label", "form: host", "shop.yaml:8: variables.shop: "),
    "an issuer without tenants": (TENANTS, "https://shop.example/v2", f"{ISSUER_AT}expected {{tenantid}} as a whole"),
    "an issuer with a part of a segment": (TENANTS, "https://shop.example/t-{tenantid}", f"{ISSUER_AT}expected {{"),
    "an issuer whose host is the tenant's": (TENANTS, "https://{tenantid}/v2", f"{ISSUER_AT}expected {{tenantid}}"),
    "an issuer with two of it": (TENANTS, "https://shop.example/{tenantid}/{tenantid}", f"{ISSUER_AT}expected no var"),
    "an issuer with a variable": (TENANTS, "https://{shop}.shop.example/{tenantid}", f"{ISSUER_AT}expected no var"),
    "an issuer that is no https": (TENANTS, "http://shop.example/{tenantid}", f"{ISSUER_AT}expected a URL that begins"),
    "a segment within a host": ("form: label", "form: segment", "shop.yaml:8: variables.shop: expected form label"),
    "an unknown form": ("form: label", "form: any", "shop.yaml:8: variables.shop.form: "),
    "a broken pattern": ('"[a-z]+"', '"[a-z"', "shop.yaml:8: variables.shop.pattern: expected a regular expression"),
    "a wrong example": ("example: acme", "example: a.b", "shop.yaml:8: variables.shop: expected an example"),
    "a wrong default": ("default: acme", "default: A", "shop.yaml:8: variables.shop: expected an example"),
    "an unknown authentication": ("client_secret_basic", "magic", "shop.yaml:10: quirks.token_auth: "),
    "an unknown grant": ("client_credentials]", "magic]", "shop.yaml:22: quirks.grants.1: "),
    "a quirk that is none": ("pkce: false", "pkcs: false", "shop.yaml:14: quirks.pkcs: "),
    "a number among parameters": ('expiring: "1"', "expiring: 1", "shop.yaml:17: quirks.code_params.expiring: "),
    "a token path that is no pointer": ("/authed_user", "authed_user", "shop.yaml:19: quirks.token_path: expected"),
    "a rejection by 200 alone": ("{status: 498}", "{status: 200}", "shop.yaml:21: quirks.rejected.1: expected"),
    "a pointer without values": ("{status: 498}", "{status: 498, pointer: /a}", "shop.yaml:21: quirks.rejected.1: "),
    "a status that is none": ("{status: 498}", "{status: 99}", "shop.yaml:21: quirks.rejected.1.status: "),
    "OAuth without a token URL": ("token_url: https://{shop}.shop.example/token\n", "", "shop.yaml:1: token_url: "),
    "an API with a variable": ("https://*.shop", "https://{shop}.shop", "shop.yaml:28: upstream.origins.0: "),
    "an API with a path": ('*.shop.example"', '*.shop.example/x"', "shop.yaml:28: upstream.origins.0: "),
    "an API below half a label": ("*.shop.example", "a*.shop.example", "shop.yaml:28: upstream.origins.0: expected"),
    "Authorization as a field of its own": ("X-Shop-Token", "Authorization", "shop.yaml:29: upstream.credential"),
    "a field name with an underscore": ("X-Shop-Token", "X_Shop", "shop.yaml:29: upstream.credential_fields.0: "),
    "a parameter that is encoded": ("[key]", '["k%65y"]', "shop.yaml:30: upstream.credential_params.0: "),
    "a path without a slash": ("[/batch]", "[batch]", "shop.yaml:32: upstream.multiplex_paths.0: "),
    "an API key with OAuth": ("name: Shop", "name: Shop\nkind: apikey", "shop.yaml:5: authorization_url: "),
}  # fmt: skip


@pytest.mark.parametrize(("before", "after", "said"), CHANGES.values(), ids=CHANGES.keys())
def test_refuses_what_is_not_as_it_must_be(before: str, after: str, said: str) -> None:
    """
    One change to a good file is refused, by file, line and key.
    """
    assert before in GOOD

    with pytest.raises(EntryInvalid) as error:
        read("shop", GOOD.replace(before, after, 1).encode())

    assert str(error.value).startswith(said), error.value


@pytest.mark.parametrize(
    ("case", "name", "content"),
    [
        ("nothing", "shop", b""),
        ("a list", "shop", b"- a"),
        ("no UTF-8", "shop", b"\xff"),
        ("two documents", "shop", GOOD.encode() * 1 + b"---\n" + GOOD.encode()),
        ("more than a provider needs", "shop", b"#" * (MAX_BYTES + 1)),
        ("deeper than anybody writes", "shop", b"name: " + b"[" * 1200),
        ("a name with a dot", "..", GOOD.encode()),
        ("a name with a slash", "a/b", GOOD.encode()),
    ],
)
def test_arbitrary_bytes_are_an_error_of_ours(case: str, name: str, content: bytes) -> None:
    """
    Whatever a file holds, the answer is a provider or `EntryInvalid`.
    """
    with pytest.raises(EntryInvalid):
        read(name, content)


@pytest.mark.parametrize("provider_id", ["shop", *sorted(catalogue())])
def test_both_parsers_read_alike(provider_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Where PyYAML has no libyaml, a file says the same.
    """
    content = GOOD.encode()
    if provider_id != "shop":
        content = (resources.files("gateway.providers") / f"{provider_id}.yaml").read_bytes()
    found = read(provider_id, content)
    monkeypatch.setattr(entry, "LOADER", yaml.SafeLoader)

    assert found == read(provider_id, content)

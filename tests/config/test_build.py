"""From the file to values, with everything in it."""

from __future__ import annotations

from ipaddress import ip_network

from gateway.config.values import (
    Bind,
    Claims,
    ConnectionSettings,
    DescopeSettings,
    IssuerSettings,
    Listeners,
    PolicySettings,
    Tls,
    TrafficListener,
    VaultSettings,
)
from gateway.models import (
    AllowPattern,
    CredentialPlace,
    Egress,
    Injection,
    Limits,
    Origin,
    OutboundProxy,
    Route,
    Timeouts,
    TrafficLimits,
)
from tests.config.samples import CANARY, HERE, configure, example


def test_absent_keys_take_the_neutral_defaults() -> None:
    """
    Two keys are a configuration: loopback, https only, the vault, nothing allowed or denied.
    """
    found = example("minimal")

    assert "acme" == found.project
    assert (
        Listeners(TrafficListener("127.0.0.1", 8080), Bind("127.0.0.1", 8081), Bind("127.0.0.1", 8082))
        == found.listeners
    )
    assert (30.0, (), False, Egress()) == (found.drain_seconds, found.issuers, found.management_keys, found.egress)
    assert (VaultSettings(), (), None, ()) == (found.token_service, found.connections, found.policies, found.routes)


def test_route_defaults_are_those_of_the_model() -> None:
    """
    A route with the four keys it needs is what `models.Route` makes of them.
    """
    found = configure("routes: [{name: a, prefix: /a, upstream: https://a.example, connection: c}]")

    assert (Route("a", "/a", Origin("https", "a.example", 443), "c"),) == found.routes


def test_routes_that_say_the_same_have_the_same_parts() -> None:
    """
    Equal parts of routes are one object, each of its own kind; what differs stays apart.
    """
    route = "{name: %s, prefix: /%s, upstream: https://%s.example, connection: c, limits: {max_body_bytes: %d}}"
    said = [route % (name, name, host, size) for name, host, size in (("a", "x", 1), ("b", "x", 1), ("d", "y", 2))]

    one, same, other = configure(f"routes: [{', '.join(said)}]").routes

    assert one.limits is same.limits
    assert one.origin is same.origin
    assert one.timeouts is other.timeouts
    assert (1, 2, False) == (same.limits.max_body_bytes, other.limits.max_body_bytes, other.multiplex)
    assert ("x", "y") == (same.origin.host.partition(".")[0], other.origin.host.partition(".")[0])


def test_listeners() -> None:
    """
    Doors are host and port, the public URL is an origin, files are found from the directory of routes.yaml.
    """
    found = example("everything").listeners

    tls = Tls(str(HERE / "good" / "tls/cert.pem"), "/etc/tls/key.pem")
    targets = ("https://app.example.com/connected",)
    proxies = (ip_network("10.0.0.0/8"), ip_network("::1"))
    limits = TrafficLimits(connections=100, connections_per_address=10)
    assert (
        TrafficListener("0.0.0.0", 9080, "https://gateway.example.com", tls, targets, proxies, limits) == found.traffic
    )
    assert found.token_api is None
    assert Bind("::1", 9082) == found.console
    assert "[::1]:9082" == str(found.console)


def test_callers() -> None:
    """
    An issuer keeps its exact text; one audience is a tuple of one.
    """
    first, second = example("everything").issuers

    assert (
        IssuerSettings(
            issuer="https://idp.example.com",
            jwks_uri="https://idp.example.com/keys?v=1",
            audience=("https://gateway.example.com",),
            algorithms=("RS256", "ES256"),
            claims=Claims("dsub", "cid", "r", "p", "scp", "t", "ts"),
            required_scope=None,
        )
        == first
    )
    assert (("gw", "P2abc"), "p2:", "api", Claims()) == (
        second.audience,
        second.user_prefix,
        second.required_scope,
        second.claims,
    )
    assert example("everything").management_keys is True


def test_stop_has_a_delay_and_a_time() -> None:
    """
    Both are of the file; without it there is no delay.
    """
    found, default = example("everything"), example("minimal")

    assert (2.5, 5) == (found.drain_delay_seconds, found.drain_seconds)
    assert (0, 30) == (default.drain_delay_seconds, default.drain_seconds)


def test_record() -> None:
    """
    How much must be free is the operator's to say, or suits the disk.
    """
    assert 1 << 20 == example("everything").record.min_free_bytes
    assert example("minimal").record.min_free_bytes is None


def test_connections() -> None:
    """
    A connection has its secret, and its origins in their one spelling.
    """
    first, second, third, minted = example("everything").connections

    assert (
        ConnectionSettings(
            id="google-contacts",
            name="Google Contacts",
            description="Contacts: read",
            client_id="client-1",
            client_secret=CANARY,
            authorization_url="https://accounts.example.com/auth?prompt=consent",
            token_url="http://127.0.0.1:9000/token",
            revocation_url="https://accounts.example.com/revoke",
            scopes=("openid", "https://www.googleapis.com/auth/contacts"),
            origins=("https://people.googleapis.com", "http://127.0.0.1:9001"),
            pkce=False,
            token_auth="client_secret_post",
        )
        == first
    )
    assert (
        ConnectionSettings(
            id="weather", name="weather", type="apikey", origins=("https://weather.example",), token_auth="none"
        )
        == second
    )
    assert (
        ConnectionSettings(
            id="registered",
            name="registered",
            discovery_url="https://p.example",
            use_dcr=True,
            dcr_url="https://p.example/register",
            origins=("https://api.example",),
            token_auth=None,
        )
        == third
    )
    assert (
        ConnectionSettings(
            id="minted",
            name="minted",
            client_id="me",
            client_secret=CANARY,
            token_url="https://p.example/token",
            origins=("https://api.example",),
            grant_type="jwt_bearer",
            issuer="https://p.example",
            audience="https://p.example",
            subject="robot",
            key_id="k1",
            token_params=(("resource", "https://api.example"),),
            authorization_params=(("tenant", "t"),),
            access_type="offline",
            prompt=("login", "consent"),
            default_redirect_url="https://app.example/done?a=b",
            callback_domain="gw.example:8443",
            tenant_id="t1",
        )
        == minted
    )


def test_policies() -> None:
    """
    A policy has what it names, and () for what it does not.
    """
    policies = example("everything").policies

    assert policies is not None
    assert PolicySettings("sales-contacts", "allow", connections=("google-contacts",), roles=("sales",)) == policies[0]
    assert (("POST", "PUT"), ("/v1/**", "/v2/*")) == (policies[1].methods, policies[1].paths)


def test_routes() -> None:
    """
    A route is the value that the data path takes.
    """
    found = example("everything")
    first, second = found.routes

    assert (
        Route(
            name="google-contacts",
            prefix="/google-contacts",
            host="api.example.com",
            origin=Origin("http", "127.0.0.1", 9001),
            base_path="/base",
            connection="google-contacts",
            subject="user_in_tenant",
            account="work",
            scopes=("a", "b"),
            allow=(AllowPattern("GET", "/v1/people/**"), AllowPattern("*", "/v2/*")),
            encoded=frozenset({"slash", "percent"}),
            credential=CredentialPlace("header", "X-Api-Key"),
            inject=Injection("header", "X-Token", "Token {token}"),
            timeouts=Timeouts(1.0, 2.5, 3.0),
            limits=Limits(10, 5, 60, 2, 1),
            egress=found.egress,
            echo_guard="cut",
            method_override="judge",
            foreign_credentials="refuse",
            multiplex=True,
            upgrade=frozenset({"websocket"}),
            minting="pass",
            jsonp="pass",
            audit="required",
        )
        == first
    )
    assert ("", Egress(), CredentialPlace("basic"), Injection("basic", "Authorization", "user:{token}")) == (
        second.prefix,
        second.egress,
        second.credential,
        second.inject,
    )
    assert ("record", "default") == (second.echo_guard, second.audit)


def test_egress() -> None:
    """
    Networks are networks, an address is a network of one; a proxy is a host, a port and a credential.
    """
    networks = tuple(ip_network(text) for text in ("127.0.0.0/8", "fd00::/8", "10.0.0.1/32"))

    proxy = OutboundProxy("proxy.example", 3128, f"ada:{CANARY}")
    expected = Egress(networks, allow_http=True, ca_file=str(HERE / "good" / "ca.pem"), proxy=proxy)

    assert expected == example("everything").egress


def test_descope_switches_the_token_api_off() -> None:
    """
    With Descope as token service there is no token API here (DESIGN section 7).
    """
    found = example("descope")

    assert DescopeSettings("P2abc", "https://api.descope.example", CANARY) == found.token_service
    assert found.listeners.token_api is None


def test_templates_become_numbers_where_numbers_belong() -> None:
    """
    The environment can set a number, a truth, a host, and nothing.
    """
    found = example("templates")

    assert ("acme", 12.5, False) == (found.project, found.drain_seconds, found.management_keys)
    assert Egress(allow_http=True) == found.egress
    assert ("a.example", "/v1", "${literal}", 7) == (
        found.routes[0].origin.host,
        found.routes[0].base_path,
        found.routes[0].account,
        found.routes[0].limits.concurrent,
    )

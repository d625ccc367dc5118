"""The request that goes through the browser, and the answer that comes back."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest

from gateway.vault.authorization import (
    AnswerMalformed,
    authorization_url,
    challenge_of,
    is_issuer_right,
    read_answer,
)
from gateway.vault.connection import Connection
from gateway.vault.discovery import Metadata, Provider

STATE = "S" * 43
ISSUER = "https://p.example"


def asked(**changes: Any) -> list[tuple[str, str]]:
    """Return the parameters of a request."""
    fields: dict[str, Any] = {"client_id": "me", "authorization_url": f"{ISSUER}/authorize"}
    connection = Connection("c", "c", **(fields | changes))
    url = authorization_url(
        Provider(connection), redirect_uri="https://g/callback", scopes=("a", "b"), state=STATE, verifier="V"
    )
    assert url.startswith(f"{ISSUER}/authorize?")
    return parse_qsl(urlsplit(url).query, keep_blank_values=True)


def test_challenge_is_the_rfcs() -> None:
    """S256 of the verifier of RFC 7636 appendix B."""
    assert "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM" == challenge_of("dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk")


def test_what_is_asked() -> None:
    """Client, callback, state, scopes and challenge, each once, spaces as %20."""
    assert {
        "response_type": "code", "client_id": "me", "redirect_uri": "https://g/callback", "state": STATE,
        "scope": "a b", "code_challenge": challenge_of("V"), "code_challenge_method": "S256",
    } == dict(asked())  # fmt: skip


def test_nobody_replaces_what_is_ours() -> None:
    """Neither the URL's own query nor the connection's parameters touch ours; others are added."""
    pairs = asked(
        authorization_url=f"{ISSUER}/authorize?tenant=t&client_id=evil&state=evil",
        authorization_params=(("audience", "x"), ("prompt", "login")),
        extra={"prompt": ["consent"], "accessType": "offline"},
    )
    names = [name for name, _ in pairs]
    assert len(names) == len(set(names))
    found = dict(pairs)
    assert ("me", STATE, "t", "x", "login", "offline") == tuple(
        found[name] for name in ("client_id", "state", "tenant", "audience", "prompt", "access_type")
    )


def test_provider_with_other_names_for_scopes() -> None:
    """A template's quirks name and separate the scopes."""
    pairs = dict(asked(template="slack"))
    named = [value for name, value in pairs.items() if name in ("scope", "user_scope") and value]
    assert named
    assert "," in named[0]


MALFORMED = {
    "nothing": "",
    "a state and nothing else": f"state={STATE}",
    "a code and no state": "code=x",
    "two codes": f"state={STATE}&code=a&code=b",
    "a code with a line break": f"state={STATE}&code=a%0d%0ab",
    "bytes beyond ASCII": f"state={STATE}&code=%ff",
    "a thousand fields": f"state={STATE}&code=a&" + "&".join(f"x{n}=1" for n in range(1000)),
}


@pytest.mark.parametrize("query", MALFORMED.values(), ids=MALFORMED.keys())
def test_malformed_answer(query: str) -> None:
    """What is no answer is refused before anything is looked up."""
    with pytest.raises(AnswerMalformed):
        read_answer(query)


def test_answers() -> None:
    """A code is a code; an error wins over a code; words of the provider's own are not repeated."""
    answer = read_answer(f"state={STATE}&code=CANARY&iss={ISSUER}&session_state=x")
    assert ("CANARY", "", ISSUER) == (answer.code, answer.error, answer.issuer)
    assert "CANARY" not in repr(answer)
    assert STATE not in repr(answer)
    assert ("", "access_denied") == (
        read_answer(f"state={STATE}&error=access_denied&code=x").code,
        read_answer(f"state={STATE}&error=access_denied&code=x").error,
    )
    assert "unknown_error" == read_answer(f"state={STATE}&error=%3Cscript%3E").error


TENANTS = f"{ISSUER}/{{tenantid}}/v2"
ISSUERS: dict[str, tuple[Metadata | None, str, str | None, bool]] = {
    "the same": (Metadata(ISSUER, sends_issuer=True), ISSUER, ISSUER, True),
    "another": (Metadata(ISSUER), ISSUER, "https://evil.example", False),
    "with a slash more": (Metadata(ISSUER), ISSUER, f"{ISSUER}/", False),
    "missing where it is promised": (Metadata(ISSUER, sends_issuer=True), ISSUER, None, False),
    "missing where nobody promised it": (Metadata(ISSUER), ISSUER, None, True),
    "unknown, of the same origin": (None, "", f"{ISSUER}/realms/a", True),
    "unknown, of another origin": (None, "", "https://evil.example", False),
    "unknown and unreadable": (None, "", "https://[", False),
    "empty": (Metadata(ISSUER), ISSUER, "", False),
    "some tenant's": (Metadata(TENANTS), TENANTS, f"{ISSUER}/t-1/v2", True),
    "some tenant's, without metadata": (None, TENANTS, f"{ISSUER}/t-1/v2", True),
    "some tenant's, where the exact one is promised": (
        Metadata(TENANTS, sends_issuer=True),
        TENANTS,
        f"{ISSUER}/t-1/v2",
        False,
    ),
    "the placeholder, where that is promised": (Metadata(TENANTS, sends_issuer=True), TENANTS, TENANTS, True),
    "a tenant's of another issuer": (Metadata(TENANTS), TENANTS, "https://evil.example/t-1/v2", False),
    "another tenant's than the only one": (Metadata(f"{ISSUER}/t-1/v2"), f"{ISSUER}/t-1/v2", f"{ISSUER}/t-2/v2", False),
}


@pytest.mark.parametrize(("metadata", "known", "said", "right"), ISSUERS.values(), ids=ISSUERS.keys())
def test_issuer_of_an_answer(metadata: Metadata | None, known: str, said: str | None, right: bool) -> None:
    """`iss` is compared to the letter with the issuer that was asked (RFC 9207)."""
    connection = Connection("c", "c", authorization_url=f"{ISSUER}/authorize")
    assert right == is_issuer_right(Provider(connection, metadata), asked_issuer=known, said=said)

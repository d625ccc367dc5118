"""What a provider does differently: the defaults are the standards."""

from __future__ import annotations

from gateway.models import Rejected
from gateway.providers.quirks import Quirks


def test_defaults_are_plain_oauth() -> None:
    """
    A provider without quirks is what RFC 6749 and RFC 7636 describe: form, spaces, `scope`, a challenge, one token URL.
    """
    quirks = Quirks()

    assert ("form", " ", "scope", True) == (
        quirks.token_body,
        quirks.scope_separator,
        quirks.scopes_param,
        quirks.pkce,
    )
    assert (None, None, None) == (quirks.token_auth, quirks.refresh_url, quirks.default_expires_seconds)
    assert ((), (), ()) == (quirks.authorization_params, quirks.code_params, quirks.refresh_params)
    assert ("", False, ()) == (quirks.token_path, quirks.token_errors_with_status_200, quirks.rejected)
    assert ("", "", "") == (quirks.account_path, quirks.userinfo_url, quirks.userinfo_path)
    assert ("authorization_code",) == quirks.grants


def test_a_rejection_may_be_a_status_alone() -> None:
    """
    Without a pointer the status says it all.
    """
    assert ("", ()) == (Rejected(498).pointer, Rejected(498).values)

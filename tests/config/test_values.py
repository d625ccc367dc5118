"""What a configuration's values promise."""

from __future__ import annotations

from gateway.config.values import ConnectionSettings, DescopeSettings


def test_secrets_are_not_in_a_repr() -> None:
    """
    A value that holds a secret can be logged.
    """
    connection = ConnectionSettings(id="a", name="a", client_secret="canary")
    service = DescopeSettings("P", "https://api.example", "canary")

    assert "canary" not in f"{connection!r} {service!r} {[connection]} {{'x': {service}}}"


def test_descope_sends_the_caller_or_a_key() -> None:
    """
    The word caller is no key.
    """
    assert DescopeSettings("P", "u", "caller").sends_caller
    assert not DescopeSettings("P", "u", "K2abc").sends_caller

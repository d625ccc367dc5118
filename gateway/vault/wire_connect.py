# ruff: noqa: N815  # names of the wire are not ours to choose, and an alias for each would hide them
"""
The token API's messages about connecting, and those that need no connection (contract rows 20, 21, 23, 24).

`wire.py` has the rules that all messages follow.
"""

from __future__ import annotations

from typing_extensions import TypedDict  # pydantic takes this one only, before Python 3.12

from gateway.vault.wire import Account, AppId, Message, OptionalName, Scopes, Url


class ConnectOptions(Message):
    """`options` of rows 20 and 21. SDKs put the tenant beside them; a caller of the raw API may put it here."""

    redirectUrl: Url = None
    scopes: Scopes | None = None
    externalIdentifier: Account = None
    tenantId: OptionalName = None
    tenantLevel: bool | None = None


class Connect(Message):
    """Rows 20 and 21."""

    appId: AppId
    tenantId: OptionalName = None
    tenantLevel: bool | None = None
    externalIdentifier: Account = None
    options: ConnectOptions | None = None


class ConnectAnswer(TypedDict):
    """Where the user goes to connect: a page of ours, for one use and a short while."""

    url: str


class LicenseAnswer(TypedDict):
    """What the SDKs ask for first, and send back with each request."""

    rateLimitTier: str


class KeysAnswer(TypedDict):
    """A JSON Web Key Set (RFC 7517): the keys that access tokens are verified with."""

    keys: list[dict[str, str]]


class ErrorAnswer(TypedDict):
    """Every error, on every status."""

    errorCode: str
    errorDescription: str
    errorMessage: str

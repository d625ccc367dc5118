"""
Which scopes an API's answer says that the token lacks (RFC 6750 section 3). No I/O.

Rules:
1. Only `error="insufficient_scope"` counts; whatever else a challenge says is between the provider and its callers.
2. The field is a stranger's. A scope counts where it is a scope token (RFC 6749 section 3.3) of at most MAX_SCOPE_CHARS
   characters, once, and there are at most MAX_SCOPES; what is more or malformed is left out.
3. The challenge names what the call needs, not what the token lacks: what was granted is taken off. A provider that
   wants nothing but what was granted is believed as it stands: a user can have taken a scope back there.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

from gateway.errors import SCOPE_NOT_OF_ROUTE, ConnectionScopeMissing
from gateway.models import Route

MAX_SCOPES = 50  # what a person can be asked for on one page
MAX_SCOPE_CHARS = 512  # as the vault takes them (vault/connection.py)

_INSUFFICIENT_SCOPE = re.compile(rb'error\s*=\s*"?insufficient_scope(?![^\s",])', re.IGNORECASE)
# RFC 6750 writes a quoted string; a token alone is what some send.
_SCOPE = re.compile(rb'(?:^|[\s,])scope\s*=\s*(?:"([^"]*)"|([^\s",]+))', re.IGNORECASE)
_SCOPE_TOKEN = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]+")


def missing_scopes(raw_fields: Iterable[tuple[bytes, bytes]], granted: Collection[str]) -> tuple[str, ...] | None:
    """
    Return the scopes that an answer with *raw_fields* wants beside *granted*, in its order.

    None where it wants none; empty where it does not say which.
    """
    for name, value in raw_fields:
        if name.lower() == b"www-authenticate" and _INSUFFICIENT_SCOPE.search(value):
            found = _SCOPE.search(value)
            wanted = _scopes(found[1] or found[2] or b"") if found is not None else ()
            return tuple(scope for scope in wanted if scope not in granted) or wanted
    return None


def scope_refusal(route: Route, missing: tuple[str, ...]) -> ConnectionScopeMissing:
    """Return the refusal of a call on *route* whose token lacks *missing*; it says whose part it is to add them."""
    # A route with `scopes` is only ever served a token of exactly these: no consent of a user's changes that.
    is_users = route.scopes is None or set(missing) <= set(route.scopes)
    detail = None if is_users else SCOPE_NOT_OF_ROUTE
    return ConnectionScopeMissing(detail, connection=route.connection, missing_scopes=missing)


def _scopes(value: bytes) -> tuple[str, ...]:
    words = value.decode("ascii", "replace").split()
    scopes = (word for word in words if len(word) <= MAX_SCOPE_CHARS and _SCOPE_TOKEN.fullmatch(word))
    return tuple(dict.fromkeys(scopes))[:MAX_SCOPES]

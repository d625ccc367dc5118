"""
What may be the name of a user, tenant, account, client, role, permission or scope.

Rules:
1. A name is opaque: compared as it is, never folded, trimmed or normalised (threats D1).
2. It can be stored and recorded: 1 to MAX_NAME_CHARS characters, no control characters, no lone surrogates.
   The empty string is never a name: the database writes it for "none" (`store/schema.py`, rule 2).
"""

from __future__ import annotations

import re

MAX_NAME_CHARS = 512  # users and tenants, store/schema.py
MAX_ACCOUNT_CHARS = 200  # contract section 4, externalIdentifier

# C0, DEL and C1 controls, line and paragraph separators, surrogates.
_NOT_IN_NAMES = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def is_name(text: object, max_chars: int = MAX_NAME_CHARS) -> bool:
    """Whether *text* is a str that can be a name."""
    return isinstance(text, str) and 0 < len(text) <= max_chars and _NOT_IN_NAMES.search(text) is None

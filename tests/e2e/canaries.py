"""Secrets that are like no other text, and every way in which one of them may be written somewhere."""

from __future__ import annotations

import base64
import secrets
from collections.abc import Iterator
from urllib.parse import quote


class Canaries(dict[str, str]):
    """Secrets by what they are; one that is asked for by a new name is made."""

    def __missing__(self, name: str) -> str:
        return self.keep(name, f"canary{secrets.token_hex(16)}")

    def keep(self, name: str, secret: str) -> str:
        """Add a *secret* that somebody else made."""
        self[name] = secret
        return secret

    def found_in(self, text: str) -> list[str]:
        """Return what of them *text* (bytes read as latin-1) holds, in any spelling."""
        return sorted(name for name, secret in self.items() if any(each in text for each in spellings(secret)))


def spellings(secret: str) -> Iterator[str]:
    """Yield what *secret* may look like: as it is, encoded, or its beginning."""
    for part in (secret, secret[:12]):
        yield from (part, quote(part, safe=""), part.encode().hex(), part.encode().hex().upper())
        for lead, skipped in ((0, 0), (1, 2), (2, 3)):  # base64 has three forms of a text inside of another one
            encoded = base64.b64encode(b" " * lead + part.encode()).rstrip(b"=").decode()[skipped:-1]
            yield from (encoded, encoded.translate(str.maketrans("+/", "-_")))

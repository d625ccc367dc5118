"""
Which answers of an API reject the token that was sent, beside a plain 401 (DESIGN section 2).

Rules:
1. Only what the catalogue says of the upstream (`Rejected`) counts: a status, and where it names one, a string in the
   JSON body. Slack answers 200 and `"error":"token_expired"`.
2. A body is held back only where status and Content-Type fit a rule and Content-Length says that it has at most
   MAX_BODY_BYTES, or where it is here as a whole anyway. A stream is never held up.
3. Of a body in gzip a copy is read, up to the same size; in another coding it is passed on unread. What the caller gets
   is what came, byte for byte.
"""

from __future__ import annotations

import zlib
from typing import Any

import orjson

from gateway.errors import UpstreamProtocolError
from gateway.models import Rejected
from gateway.net.whole_body import WholeBody
from gateway.proxy.answer_body import Truncated
from gateway.proxy.answer_head import Answer

MAX_BODY_BYTES = 16_384  # DESIGN section 2; an error of an API has a few hundred
_GZIP_WBITS = 31  # zlib.decompressobj: gzip and nothing else


async def rejects_token(answer: Answer, rules: tuple[Rejected, ...]) -> bool:
    """
    Return whether *answer* rejects the token; its body may have been read, and has another reader then.

    Raises:
        Refusal: the body ended too early, or broke the protocol.
    """
    fitting = [rule for rule in rules if rule.status == answer.status]
    if not fitting:
        return False
    if any(not rule.pointer for rule in fitting):
        return True
    coding = _readable_coding(answer)
    if coding is None:
        return False
    data = await _read(answer)
    document = _document(data, coding)
    is_rejected = any(_value(document, rule.pointer) in rule.values for rule in fitting)
    answer.body = WholeBody(data)
    return is_rejected


def _readable_coding(answer: Answer) -> bytes | None:
    """Return the content coding ("" for none) of a JSON body that may be held back; None where it may not."""
    body = answer.body
    is_short = body.is_eof() if answer.length is None else answer.length <= MAX_BODY_BYTES
    if not is_short:
        return None
    content_type, coding = b"", b""
    for name, value in answer.raw_fields:
        if len(name) == 12 and name.lower() == b"content-type":
            content_type = value.split(b";", 1)[0].strip().lower()
        elif len(name) == 16 and name.lower() == b"content-encoding":
            coding = coding + value.strip().lower()
    is_json = content_type == b"application/json" or content_type.endswith(b"+json")
    return coding if is_json and coding in (b"", b"identity", b"gzip") else None


async def _read(answer: Answer) -> bytes:
    parts: list[bytes] = []
    try:
        while data := await answer.body.readany():
            parts.append(data)
    except Truncated as exc:
        raise UpstreamProtocolError from exc
    return b"".join(parts)


def _document(data: bytes, coding: bytes) -> Any:
    """Return the JSON in *data*; None where there is none, or more than MAX_BODY_BYTES of it."""
    try:
        if coding == b"gzip":
            unpacking = zlib.decompressobj(_GZIP_WBITS)
            data = unpacking.decompress(data, MAX_BODY_BYTES)
            if not unpacking.eof:
                return None
        return orjson.loads(data) if len(data) <= MAX_BODY_BYTES else None
    except (zlib.error, orjson.JSONDecodeError):
        return None


def _value(document: Any, pointer: str) -> Any:
    """Return the string that *pointer* (RFC 6901) names in *document*, or None."""
    for token in pointer.split("/")[1:]:
        key = token.replace("~1", "/").replace("~0", "~")
        if isinstance(document, dict):
            document = document.get(key)
        elif isinstance(document, list) and key.isascii() and key.isdigit() and int(key) < len(document):
            document = document[int(key)]
        else:
            return None
    return document if isinstance(document, str) else None

"""Header sections that connections share: which are taken, and how many."""

from __future__ import annotations

import pytest

from gateway.listen import sections as module
from gateway.listen.head import HeaderSection, read_section, split_fields
from gateway.listen.sections import SharedSections


def block(credential: str) -> bytes:
    """Return the fields of a caller with *credential*, as they stand between the request line and the body."""
    return f"\r\nHost: x\r\nAuthorization: Bearer {credential}\r\n\r\n".encode()


def section(fields: bytes) -> HeaderSection:
    """Return what *fields* say."""
    return read_section(split_fields(fields))


def offer_twice(sections: SharedSections, fields: bytes) -> HeaderSection:
    """Offer what *fields* say, read twice, and return what was read the second time."""
    for _ in range(2):
        read = section(fields)
        sections.offer(fields, read)
    return read


def test_what_comes_again_is_shared() -> None:
    """A section is found once it was offered twice; one that differs in a byte is not."""
    sections, fields = SharedSections(), block("a")
    sections.offer(fields, section(fields))
    assert sections.get(fields) is None

    again = section(fields)
    sections.offer(fields, again)

    assert again is sections.get(bytes(bytearray(fields)))
    assert sections.get(block("b")) is None
    assert sections.get(b"") is None


def test_the_first_one_stays() -> None:
    """What two connections have read at the same time counts once."""
    sections, fields = SharedSections(), block("a")
    first = offer_twice(sections, fields)

    offer_twice(sections, fields)

    assert first is sections.get(fields)
    assert 1 == len(sections)


def test_the_oldest_goes_where_there_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """The number of sections is bounded."""
    monkeypatch.setattr(module, "MAX_SECTIONS", 3)
    sections = SharedSections()

    for number in range(5):
        offer_twice(sections, block(str(number)))

    assert [False, False, True, True, True] == [sections.get(block(str(number))) is not None for number in range(5)]


def test_the_oldest_goes_where_they_are_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bytes of all sections together are bounded, and those of one that has gone count no longer."""
    monkeypatch.setattr(module, "MAX_BYTES", 3 * len(block("0")))
    sections = SharedSections()

    for number in range(5):
        offer_twice(sections, block(str(number)))

    assert [False, False, True, True, True] == [sections.get(block(str(number))) is not None for number in range(5)]


def test_what_never_comes_again_fills_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Heads with an id of their own are not kept, and the numbers that remain of them are bounded."""
    monkeypatch.setattr(module, "MAX_SEEN", 10)
    sections = SharedSections()

    for number in range(25):
        sections.offer(block(str(number)), section(block(str(number))))

    assert 0 == len(sections)
    assert 5 == len(sections._seen)


def test_a_credential_is_not_shown() -> None:
    """The text of the memo tells how many it holds, and no credential."""
    sections = SharedSections()
    kept = offer_twice(sections, block("very-secret"))

    assert "<SharedSections: 1>" == repr(sections)
    assert "very-secret" not in repr(kept)

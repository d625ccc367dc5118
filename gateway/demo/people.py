"""Whom the two users of the demo know: invented people at reserved domains (RFC 2606)."""

from __future__ import annotations

from typing import NamedTuple


class Person(NamedTuple):
    """One contact; *phone* is from ranges that are kept free for fiction."""

    given_name: str
    family_name: str
    email: str
    phone: str
    organization: str


OWNERS = {
    "ada@example.com": Person("Ada", "Lovelace", "ada@example.com", "+44 20 7946 0018", "Analytical Engines"),
    "grace@example.com": Person("Grace", "Hopper", "grace@example.com", "+1 202 555 0106", "Compilers & Co."),
}

CONTACTS = {
    "ada@example.com": (
        Person("Charles", "Babbage", "charles@engines.example", "+44 20 7946 0101", "Analytical Engines"),
        Person("Mary", "Somerville", "mary@stars.example", "+44 131 496 0102", "Celestial Mechanics"),
        Person("Michael", "Faraday", "michael@coils.example", "+44 20 7946 0103", "Royal Institution"),
        Person("Augustus", "De Morgan", "augustus@logic.example", "+44 20 7946 0104", "University College"),
        Person("Sophia", "Frend", "sophia@letters.example", "+44 20 7946 0105", "Letters & Sons"),
    ),
    "grace@example.com": (
        Person("Howard", "Aiken", "howard@relays.example", "+1 617 555 0101", "Mark I Laboratory"),
        Person("Jean", "Bartik", "jean@eniac.example", "+1 215 555 0102", "ENIAC"),
        Person("Betty", "Holberton", "betty@eniac.example", "+1 215 555 0103", "ENIAC"),
        Person("Kathleen", "Antonelli", "kathleen@eniac.example", "+1 215 555 0104", "ENIAC"),
    ),
}

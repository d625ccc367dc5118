"""What the demo prints."""

from __future__ import annotations

import shlex
from urllib.parse import urlsplit

from gateway.demo.banner import Running, banner, curl

RUNNING = Running(
    gateway_url="http://127.0.0.1:8080",
    token_api_url="http://127.0.0.1:8081",
    console_url="http://127.0.0.1:8082",
    provider_url="http://127.0.0.1:41001",
    contacts_url="http://127.0.0.1:41002",
    record=".gateway/demo/record.jsonl",
    token_lifetime_seconds=20,
    users=(("ada@example.com", "gwa_AAAA"), ("grace@example.com", "gwa_GGGG")),
)


def test_the_line_to_paste_is_one_command() -> None:
    """
    A shell reads it as curl with the agent's key and the gateway's URL, without anything left to expand.
    """
    words = shlex.split(curl(RUNNING.gateway_url, "gwa_AAAA"))

    assert ["curl", "-si", "-H", "Authorization: Bearer gwa_AAAA"] == words[:4]
    url = urlsplit(words[4])
    assert ("127.0.0.1:8080", "/google-contacts/v1/people/me/connections") == (url.netloc, url.path)
    assert not set("$`!*") & set(words[4])


def test_both_lines_stand_on_lines_of_their_own() -> None:
    """
    What is to be pasted is a whole line of the text, the first user's before the second's.
    """
    lines = [line.strip() for line in banner(RUNNING).splitlines()]

    first = lines.index(curl(RUNNING.gateway_url, "gwa_AAAA"))
    assert first < lines.index(curl(RUNNING.gateway_url, "gwa_GGGG"))


def test_tells_where_everything_is() -> None:
    """
    Each address, the record, the wait and the way out are named.
    """
    text = banner(RUNNING)

    for part in (*(f"127.0.0.1:{port}" for port in (8080, 8081, 8082, 41001, 41002)), RUNNING.record, "Ctrl-C", "20 s"):
        assert part in text


def test_fits_a_screen() -> None:
    """
    A terminal of 100 columns and 50 lines shows it whole; only a line to paste may be longer.
    """
    lines = banner(RUNNING).splitlines()

    assert len(lines) <= 45
    assert all(len(line) <= 100 for line in lines if "curl" not in line)
    assert all(line == line.rstrip() for line in lines)
    assert banner(RUNNING).isascii()


def test_keys_are_in_no_repr() -> None:
    """
    The demo's values can be logged.
    """
    assert "gwa_" not in repr(RUNNING)

"""What the catalogue knows of the API at an origin."""

from __future__ import annotations

import pytest

from gateway.models import Rejected
from gateway.providers.upstreams import upstream_rules

SLACK = (Rejected(200, "/error", ("token_expired", "token_revoked", "invalid_auth")),)
REJECTED: dict[str, tuple[str, str | None, tuple[Rejected, ...]]] = {
    "an origin of nobody": ("https://api.example.com", None, ()),
    "an origin of nobody, and no such template": ("https://api.example.com", "nothing", ()),
    "Slack's": ("https://slack.com", None, SLACK),
    "Slack's, and its template": ("https://slack.com", "slack-bot", SLACK),
    "a template's, elsewhere": ("http://127.0.0.1:8080", "slack", SLACK),
    "one that begins alike": ("https://slack.com.evil.test", None, ()),
    "another scheme": ("http://slack.com", None, ()),
}


@pytest.mark.parametrize("case", REJECTED)
def test_origin_and_template_tell_how_tokens_are_rejected(case: str) -> None:
    """
    What is known of the provider at an origin, and of the connection's own, holds once.
    """
    origin, template, rejected = REJECTED[case]

    assert rejected == upstream_rules(origin, template).rejected

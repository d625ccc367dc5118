"""
What the catalogue knows of the API at an upstream's origin.

Rules:
1. Each provider whose origins the upstream's is one of tells what it knows; so does the template of the route's
   connection, wherever the API stands (a GitLab of one's own).
2. Where several know something, all of it holds.
"""

from __future__ import annotations

from gateway.models import UpstreamRules
from gateway.providers.catalogue import catalogue


def upstream_rules(origin: str, template: str | None = None) -> UpstreamRules:
    """
    Return what is known of the API at *origin*, written as `str(Origin)` writes it; *template* is the id of the
    catalogue's provider that the connection was made from.
    """
    known = [each for each in catalogue().values() if origin in each.origins or each.id == template]
    return UpstreamRules(rejected=tuple(dict.fromkeys(found for each in known for found in each.quirks.rejected)))

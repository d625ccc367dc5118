"""
What the catalogue knows of the API at an upstream's origin.

Rules:
1. Each provider whose origins the upstream's is one of tells what it knows; so does the template of the route's
   connection, wherever the API stands (a GitLab of one's own).
2. Where several know something, all of it holds; so does what is known of any API.
3. A variable in an origin stands for any value that it may have. One that is a whole host stands for its default: any
   host could be it.
"""

from __future__ import annotations

import functools
import re

from gateway.models import UpstreamRules
from gateway.providers.catalogue import catalogue
from gateway.providers.provider import Provider

# OData 4.01 part 2 section 4.10 reserves the name: whatever API it is, this is a batch.
ANY_API = UpstreamRules(multiplex_paths=("/**/$batch",))
_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_LABELS = rf"{_LABEL}(?:\.{_LABEL}){{0,7}}"
_PLACE = re.compile(r"\{([a-z_]+)\}|\*")


def upstream_rules(origin: str, template: str | None = None) -> UpstreamRules:
    """
    Return what is known of the API at *origin*, written as `str(Origin)` writes it; *template* is the id of the
    catalogue's provider that the connection was made from.
    """
    providers = catalogue()
    known = [ANY_API]
    known += [each.upstream for pattern, each in _by_origin() if pattern.fullmatch(origin)]
    if template is not None and template in providers:
        known.append(providers[template].upstream)
    return UpstreamRules(
        credential_fields=frozenset().union(*(each.credential_fields for each in known)),
        credential_params=frozenset().union(*(each.credential_params for each in known)),
        rejected=tuple(dict.fromkeys(found for each in known for found in each.rejected)),
        minting_paths=tuple(dict.fromkeys(path for each in known for path in each.minting_paths)),
        multiplex_paths=tuple(dict.fromkeys(path for each in known for path in each.multiplex_paths)),
    )


@functools.cache
def _by_origin() -> tuple[tuple[re.Pattern[str], Provider], ...]:
    """Return each origin of each provider as an expression. It reads the whole catalogue (`entry.LOADER`)."""
    return tuple(
        (re.compile(pattern), provider)
        for provider in catalogue().values()
        for origin in (*provider.origins, *provider.upstream_origins)
        if (pattern := _pattern(origin, provider)) is not None
    )


def _pattern(origin: str, provider: Provider) -> str | None:
    variables = {variable.name: variable for variable in provider.variables}
    parts: list[str] = []
    end = 0
    for place in _PLACE.finditer(origin):
        parts.append(re.escape(origin[end : place.start()]))
        end = place.end()
        variable = variables.get(place[1] or "")
        if variable is None:
            parts.append(_LABELS)
        elif variable.form != "host":
            parts.append(_LABEL if variable.form == "label" else _LABELS)
        elif variable.default is not None:
            parts.append(re.escape(variable.default))
        else:
            return None
    return "".join((*parts, re.escape(origin[end:])))

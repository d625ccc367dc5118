"""
One provider: where its endpoints are, which origins its API has, how its OAuth differs.

Rules:
1. A provider with variables is a form to be filled in: `with_variables` gives the one to use.
2. `origins` are canonical (`https://host[:port]`, lower case, no default port) and the only ones its tokens go to.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from gateway.models import UpstreamRules
from gateway.providers.quirks import Quirks
from gateway.providers.variables import Variable, fill, resolve


@dataclass(frozen=True, slots=True)
class Provider:
    """
    An entry of the catalogue. URLs and origins may hold `{variable}`, until `with_variables` has filled them in.

    A URL that the provider does not have is "". *kind* "apikey": keys are uploaded, there are no endpoints.
    *docs_url* is the provider's page that says how a client is registered. *upstream* is what is known of its API;
    *upstream_origins* are where that holds beside *origins*, "https://*.example.com" among them.
    """

    id: str
    name: str
    description: str
    docs_url: str
    kind: Literal["oauth", "apikey"] = "oauth"
    authorization_url: str = ""
    token_url: str = ""
    revocation_url: str = ""
    discovery_url: str = ""
    default_scopes: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()
    variables: tuple[Variable, ...] = ()
    quirks: Quirks = field(default_factory=Quirks)
    upstream: UpstreamRules = field(default_factory=UpstreamRules)
    upstream_origins: tuple[str, ...] = ()

    def with_variables(self, values: Mapping[str, str]) -> Provider:
        """
        Return this provider with *values* filled in; it has no variables any more.

        Raises:
            VariableInvalid: a value is missing, unknown, or not as the variable's place and pattern say.
        """
        filled = resolve(self.variables, values)
        refresh_url = self.quirks.refresh_url
        quirks = replace(
            self.quirks,
            refresh_url=None if refresh_url is None else fill(refresh_url, filled),
            userinfo_url=fill(self.quirks.userinfo_url, filled),
        )
        return replace(
            self,
            authorization_url=fill(self.authorization_url, filled),
            token_url=fill(self.token_url, filled),
            revocation_url=fill(self.revocation_url, filled),
            discovery_url=fill(self.discovery_url, filled),
            origins=tuple(dict.fromkeys(fill(origin, filled) for origin in self.origins)),
            variables=(),
            quirks=quirks,
        )

"""
What `gateway demo` says when everything runs: where, one line to paste, what to look for. A pure function of values.

It is read by somebody who has never seen this before: the line to paste comes first, and nothing is said twice.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field

PATH = "/google-contacts/v1/people/me/connections?personFields=names"


@dataclass(frozen=True, slots=True)
class Running:
    """
    The demo as it runs. URLs have no trailing slash; *users* are (name, agent key), the first one is shown first.

    *record* is the path of the record, as the reader would type it.
    """

    gateway_url: str
    token_api_url: str
    console_url: str
    provider_url: str
    contacts_url: str
    record: str
    token_lifetime_seconds: int
    users: tuple[tuple[str, str], ...] = field(repr=False)


def curl(gateway_url: str, key: str) -> str:
    """Return the command that reads a user's contacts through the gateway, headers shown."""
    return f'curl -si -H "Authorization: Bearer {key}" "{gateway_url}{PATH}"'


def banner(running: Running) -> str:
    """Return the text to print, ending with a line break."""
    (first, first_key), (second, second_key) = running.users
    seconds = running.token_lifetime_seconds
    return f"""\

  Connection Gateway: demo
  All of it runs on this machine, in this process. The keys below work here only.

  1. Call the contacts API as {first}'s agent. Paste this into another terminal:

     {curl(running.gateway_url, first_key)}

     200, and {first}'s contacts. The agent sent its own key; the gateway checked it,
     put the user's token for the provider in its place, and sent the request on.
     (Took you longer than {seconds} seconds? Then this call shows step 2 already.)

  2. Wait {seconds} seconds, then paste the same line again.

     Still 200. But the provider has killed the token meanwhile. Look at the headers:
     Server-Timing says token;desc="refreshed": the API answered 401, the gateway
     got a fresh token, and sent the request once more. The agent noticed nothing.

  3. The same call as {second}'s agent: other contacts.

     {curl(running.gateway_url, second_key)}

  4. Every call that left is on record, the 401 of step 2 too:

     tail -n 5 {shlex.quote(running.record)}

  gateway     {running.gateway_url:<24}agents call this
  token API   {running.token_api_url:<24}services fetch tokens here
  console     {running.console_url:<24}health and metrics
  provider    {running.provider_url:<24}says its tokens live an hour; they live {seconds} s
  contacts    {running.contacts_url:<24}the API; try it without the gateway: 401

  Ctrl-C stops everything and leaves nothing behind.

"""

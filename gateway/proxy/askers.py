"""
For whom a request is sent: the caller, whose token it gets, and what the record says of both; remembered.

Rules:
1. What is remembered follows from four things: the lane, the caller, the credential, and the Gateway fields. All of
   them find it, and what was verified must be the very object that `Identity` believes at this moment: a credential
   that was verified anew, after a revocation too, finds nothing. Which policies apply to them follows from the four as
   well, and is kept with the asker; what those say of a method and a path is asked for each call. So is whether the
   token that it was given last may still be used.
2. Only known callers who may choose what they chose are remembered, so strangers fill nothing. Beyond MAX_ASKERS the
   oldest goes. A management key can fill it with users that it names: then others are put together anew.

A lane is part of what finds an entry, so a new configuration, which has new lanes, finds none of the old one's.
"""

from __future__ import annotations

from collections import OrderedDict

from gateway.access.identity import Verified, choose_subject
from gateway.models import TokenKey
from gateway.proxy import record
from gateway.proxy.lane import Lane
from gateway.proxy.request import Asker
from gateway.proxy.request_fields import RequestFields

# As many as `Identity` has callers. 0.7 KB each, and 0.3 to 3 for how its token is written and found (`attempts.py`),
# beside the credential, which is the same object.
MAX_ASKERS = 20_000

_Place = tuple[Lane, str, str | None, str | None, str | None]


class Askers:
    """The askers of this process that were put together lately."""

    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known: OrderedDict[_Place, Asker] = OrderedDict()

    def __repr__(self) -> str:
        return f"<Askers: {len(self._known)}>"

    def __len__(self) -> int:
        return len(self._known)

    def of(self, lane: Lane, verified: Verified, credential: str, fields: RequestFields) -> Asker:
        """
        Return for whom the *verified* caller, who showed *credential*, asks on *lane* with *fields*.

        Raises: as `choose_subject`.
        """
        # 0.4 microseconds where it is known, 4.8 where not; most of that is the record's text.
        place: _Place = (lane, credential, fields.user, fields.tenant, fields.account)
        known = self._known.get(place)
        if known is not None and known.verified is verified:
            return known
        route, caller = lane.route, verified.caller
        subject = choose_subject(caller, route, user=fields.user, tenant=fields.tenant, account=fields.account)
        key = TokenKey(route.connection, subject.user, subject.tenant, route.scopes, subject.account)
        asker = Asker(lane, verified, credential, subject, key, record.who(caller, subject, route))
        self._known.pop(place, None)
        if len(self._known) >= MAX_ASKERS:
            self._known.popitem(last=False)
        self._known[place] = asker
        return asker

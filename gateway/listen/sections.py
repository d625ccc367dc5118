"""
Header sections that the connections of one listener share: what one has read, another need not read again.

A proxy in front of us sends the calls of many callers over a few connections, in any order: what a caller repeats
seldom comes twice in a row.

Rules:
1. A section is found by its very bytes, the credential among them: no two callers ever share one. Whether they are
   still who they were is asked for each call, by whoever serves it.
2. Only one whose caller is known (it has a *reading*) is offered: strangers fill nothing.
3. It is taken when it is offered again. Of what never comes again, as with an id of its own, a number remains, until
   MAX_SEEN of those have come.
4. Beyond MAX_SECTIONS or MAX_BYTES the oldest goes.
"""

from __future__ import annotations

from collections import OrderedDict

from gateway.listen.head import HeaderSection

MAX_KNOWN_BYTES = 4_096  # of one section: a stranger's, which its connection keeps, costs no more (threats R33)
MAX_SECTIONS = 20_000  # as many as `Identity` has callers
MAX_BYTES = 16_777_216  # of all of them
MAX_SEEN = 32_768  # 2 MB


class SharedSections:
    """The header sections that came lately, and more than once."""

    __slots__ = ("_bytes", "_known", "_seen", "get")

    def __init__(self) -> None:
        self._known: OrderedDict[bytes, HeaderSection] = OrderedDict()
        self.get = self._known.get
        self._bytes = 0
        self._seen: set[int] = set()

    def __repr__(self) -> str:
        return f"<SharedSections: {len(self._known)}>"

    def __len__(self) -> int:
        return len(self._known)

    def offer(self, fields: bytes, section: HeaderSection) -> None:
        """Take *section*, which *fields* say and whose caller is known, for all: if it was offered before."""
        number = hash(fields)
        if number not in self._seen:
            if len(self._seen) >= MAX_SEEN:
                self._seen.clear()
            self._seen.add(number)
            return
        self._seen.discard(number)
        if fields in self._known:  # two connections have read it at the same time
            return
        self._known[fields] = section
        self._bytes += len(fields)
        while len(self._known) > MAX_SECTIONS or self._bytes > MAX_BYTES:
            oldest, _ = self._known.popitem(last=False)
            self._bytes -= len(oldest)

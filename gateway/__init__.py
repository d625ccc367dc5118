"""
The Connection Gateway: agents call third-party APIs through one URL and never hold a provider's token.

A request's way (DESIGN section 2), and where to read about each step:

    read        listen/parser.py     bytes into requests, on every listener: in one way, or refused
    serve       proxy/listener.py    the caller's connection, its requests in order; proxy/traffic.py makes it
    route       proxy/routing.py     which route a target belongs to, or that it is refused
    identify    access/identity.py   who is calling: a JWT, an agent key, a management key
    authorize   access/policy.py     whether they may
    token       proxy/tokens.py      the user's connection token, cached or from the token service
    send        proxy/forward.py     the request as it leaves, on a proxy/connection.py of a proxy/pool.py;
                                     proxy/attempts.py sends it once more
    answer      proxy/relay.py       the upstream's answer, as proxy/answer_head.py has read it, streamed back
    switch      proxy/websocket.py   the handshake of a WebSocket; proxy/tunnel.py passes what follows
    record      proxy/record.py      what left, line by line; audit/log.py keeps it,
                                     audit/commit.py brings it to the disk

`proxy/exchange.py` is the order of these steps. Around them: `vault/` keeps and refreshes connection tokens,
`descope.py` asks Descope for them instead, `net/` dials, `store/` is the database, `breaker.py` says whether one that
fails is asked at all, `config/` reads routes.yaml, `console/` serves operators, `demo/` is a world to try it in,
`server.py` joins everything, `cli/` starts it.
"""

__version__ = "0.1.0"

"""
How bytes become requests, on all three listeners: read in exactly one way, or refused.

    head.py          the request line and the header fields: what they may look like, and what they say of the body
    body.py          the chunked coding
    parser.py        a connection's bytes into requests, in order; takes the place of aiohttp's own parser
    connection.py    one connection: refusals that arrive, time for a head, lingering; the server that knows all of them
    acceptor.py      what connects to a listener's addresses: accepted, counted, through its TLS handshake
    runner.py        the same for a `web.Application`: the token API and the console

docs/http.md says the same for operators and for authors of clients.
"""

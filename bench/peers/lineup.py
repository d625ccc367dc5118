"""The peers in the order of the report, the floor first."""

from __future__ import annotations

from bench.peers import Peer, envoy, express, haproxy, mitmproxy, nginx, nginx_lua, plain_aiohttp

PEERS: tuple[Peer, ...] = (nginx, nginx_lua, haproxy, envoy, express, mitmproxy, plain_aiohttp)

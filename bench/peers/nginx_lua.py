"""
nginx with LuaJIT: the configuration of `bench.peers.nginx`, and `jwt_rs256.lua` before it lets a caller in.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.contestants import AUDIENCE, ISSUER, Issuer, Proxy, Upstream, free_port
from bench.peers import CACHED_CALLERS, TlsFiles
from bench.peers.nginx import LUA_MODULES, install_lua, missing_lua, proxying, running_nginx
from bench.peers.processes import own_directory, public_key_pem

NAME = "nginx-lua"

VERIFIER = """\
  lua_package_path "{sources}/?.lua;;";
  init_by_lua_block {{
    package.loaded.verifier = require("jwt_rs256").new({{
      key_file = "{key_file}", issuer = "{issuer}", audience = "{audience}", cached_callers = {cached_callers},
    }})
  }}"""

VERIFYING = """\
      access_by_lua_block {
        if not require("verifier"):accepts(ngx.var.http_authorization) then return ngx.exit(401) end
      }"""

missing, install = missing_lua, install_lua


@contextmanager
def running(upstream: Upstream, issuer: Issuer, *, directory: Path, tls: TlsFiles | None = None) -> Iterator[Proxy]:
    """Run nginx with the verification before *upstream*."""
    port = free_port()
    own = own_directory(directory, name=NAME)
    verifier = VERIFIER.format(
        sources=Path(__file__).parent,
        key_file=public_key_pem(issuer, path=own / "issuer.pem"),
        issuer=ISSUER,
        audience=AUDIENCE,
        cached_callers=CACHED_CALLERS,
    )
    configuration = proxying(upstream, port=port, tls=tls, modules=LUA_MODULES, http=verifier, location=VERIFYING)
    with running_nginx(NAME, configuration, directory=own, port=port) as proxy:
        yield proxy

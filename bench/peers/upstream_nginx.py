"""
The API behind the proxies, from nginx: several times as fast as Python's, so that a proxy in C is what is measured.

1. A request is served only with `Authorization: Bearer` and the injected token, or that with a user's number behind it
   ("-7"): where many have tokens, each has another one. Else 403.
2. `/people…` answers 1 KB of JSON; a POST there once its body has been read and thrown away. `/bytes/<n>` answers one
   of `SIZES`; `/events` sends the time once a second until the caller leaves.
3. `/bench/seen` tells how many requests were answered 2xx with the token as their only credential, how many were not
   (where the proxy went away before the answer: neither), and how many bytes of bodies came; `/bench/jwks` serves the
   issuer's keys. Neither of these is counted or needs the token.
4. With TLS the port for the proxies speaks nothing else; `/bench/…` is then asked on a plain port beside it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.request import urlopen

from bench.contestants import LOAD_CORE, Issuer, Upstream, free_port
from bench.peers import TlsFiles
from bench.peers.nginx import LISTENING_WITH_TLS, LUA_MODULES, MAIN, command, install_lua, missing_lua
from bench.peers.processes import own_directory, serving
from bench.upstream import BODY_BYTES, people

NAME = "upstream"
SIZES = (65_536, 1_048_576, 104_857_600)
BLOCK_BYTES = 1_048_576
# nginx itself answers a second Authorization field with 400, and the token is compared to its end: a 200 went to it
# alone. 499 is nginx's own status for a proxy that went away.
SERVING = """\
  default_type application/octet-stream;
  access_log off;
  sendfile on;
  tcp_nopush on;
  open_file_cache max=16 inactive=1h;
  client_body_buffer_size 64k;
  lua_socket_buffer_size 64k;
  lua_socket_log_errors off;
  map $http_authorization $is_injected {{
    default 0;
    "~^Bearer {token}(-[0-9]+)?$" 1; # as a text a map would take it in capitals, too
  }}
  init_by_lua_block {{
    package.loaded.counts = {{accepted = 0, refused = 0, received_bytes = 0}}
  }}
  server {{
    listen 127.0.0.1:{control_port} backlog=4096;
{listen}
    log_by_lua_block {{
      local counts = require "counts"
      if ngx.status == 200 then
        counts.accepted = counts.accepted + 1
      elseif ngx.status ~= 499 then
        counts.refused = counts.refused + 1
      end
    }}
    location / {{
      return 404;
    }}
    location /people {{
      if ($is_injected = 0) {{ return 403; }}
      if ($request_method = POST) {{ rewrite ^ /received last; }}
      default_type application/json;
      return 200 '{body}';
    }}
    location = /received {{
      internal;
      default_type application/json;
      content_by_lua_block {{
        local counts = require "counts"
        local left = tonumber(ngx.var.http_content_length)
        if left and left > 65536 then
          local body = assert(ngx.req.socket())
          while left > 0 do
            local data = body:receive(math.min(left, 65536))
            if not data then return ngx.exit(499) end
            left = left - #data
            counts.received_bytes = counts.received_bytes + #data
          end
        else
          ngx.req.read_body()
          counts.received_bytes = counts.received_bytes + #(ngx.req.get_body_data() or "")
        end
        ngx.header["Content-Length"] = {body_bytes}
        ngx.print('{body}')
      }}
    }}
    location /bytes/ {{
      if ($is_injected = 0) {{ return 403; }}
      root files;
    }}
    location = /events {{
      if ($is_injected = 0) {{ return 403; }}
      default_type text/event-stream;
      lua_check_client_abort on;
      content_by_lua_block {{
        ngx.header["X-Accel-Buffering"] = "no" -- said to nginx as the proxy: pass each event on at once
        repeat
          ngx.update_time()
          local sent = ngx.say(string.format("data: %.3f\\n", ngx.now())) and ngx.flush(true)
          ngx.sleep(1)
        until not sent
      }}
    }}
    location = /bench/seen {{
      log_by_lua_block {{ }}
      content_by_lua_block {{ ngx.print(require("cjson").encode(require("counts"))) }}
    }}
    location = /bench/jwks {{
      log_by_lua_block {{ }}
      default_type application/json;
      alias {jwks_file};
    }}
  }}"""


@dataclass(frozen=True, slots=True)
class NginxUpstream(Upstream):
    """The API, running: *port* is what a proxy calls; on *control_port* it can always be asked without TLS."""

    control_port: int

    @property
    def jwks_uri(self) -> str:
        """Where the issuer's keys are."""
        return f"http://127.0.0.1:{self.control_port}/bench/jwks"

    def seen(self) -> tuple[int, int]:
        """Return how many requests carried the injected token and nothing else, and how many did not."""
        counts = self._counts()
        return counts["accepted"], counts["refused"]

    def received_bytes(self) -> int:
        """Return how many bytes of request bodies were read and thrown away."""
        return self._counts()["received_bytes"]

    def _counts(self) -> dict[str, int]:
        with urlopen(f"http://127.0.0.1:{self.control_port}/bench/seen", timeout=5) as answer:
            counts: dict[str, int] = json.load(answer)
        return counts


missing, install = missing_lua, install_lua


def write_files(directory: Path) -> None:
    """Write a file of each of `SIZES` to `files/bytes` below *directory*, named by its size."""
    files = directory / "files" / "bytes"
    files.mkdir(parents=True)
    block = os.urandom(BLOCK_BYTES)  # nothing on the way can make it smaller
    for size in SIZES:
        with (files / str(size)).open("wb") as file:
            for start in range(0, size, BLOCK_BYTES):
                file.write(block[: size - start])


@contextmanager
def running(issuer: Issuer, *, token: str, directory: Path, tls: TlsFiles | None = None) -> Iterator[NginxUpstream]:
    """Run the API on the core of the load."""
    own = own_directory(directory, name=NAME)
    write_files(own)
    control_port = free_port()
    port = free_port() if tls else control_port
    listen = f"    listen 127.0.0.1:{port} ssl backlog=4096;\n{LISTENING_WITH_TLS.format(tls=tls)}" if tls else ""
    block = SERVING.format(
        control_port=control_port,
        listen=listen,
        token=token,
        body=people(),
        body_bytes=BODY_BYTES,
        jwks_file=issuer.jwks_file,
    )
    (own / "nginx.conf").write_text(MAIN.format(modules=LUA_MODULES, http=block))
    with serving(*command(own), port=port, directory=own, core=LOAD_CORE):
        yield NginxUpstream(port, token, control_port)

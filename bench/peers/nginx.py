"""
Bare nginx: the floor. It injects the token and logs, and lets every caller in: nginx itself verifies no JWT.

`bench.peers.nginx_lua` adds the verification to the same configuration.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.contestants import Issuer, Proxy, Upstream, free_port
from bench.peers import UPSTREAM_NAME, TlsFiles
from bench.peers.processes import find_program, install_packages, own_directory, serving

NAME = "nginx"
RECORD, LINE = "access.log", b'" status='
LUA_MODULE = Path("/usr/lib/nginx/modules/ngx_http_lua_module.so")
LUA_JSON = Path("/usr/share/lua/5.1/cjson")
LUA_PACKAGES = ("nginx", "libnginx-mod-http-lua", "lua-cjson")
# The development kit first: the Lua module wants it loaded.
LUA_MODULES = """\
load_module /usr/lib/nginx/modules/ndk_http_module.so;
load_module /usr/lib/nginx/modules/ngx_http_lua_module.so;"""

# Relative paths are below the peer's directory (nginx -p). One process serves: there is no master to restart it.
MAIN = """\
daemon off;
master_process off;
pid nginx.pid;
error_log stderr crit;
{modules}
events {{ worker_connections 16384; }}
http {{
  client_body_temp_path body;
  proxy_temp_path proxy;
  fastcgi_temp_path fastcgi;
  uwsgi_temp_path uwsgi;
  scgi_temp_path scgi;
  keepalive_timeout 1h;
  keepalive_requests 1000000000;
  client_max_body_size 0;
  server_tokens off;
{http}
}}
"""

# Bodies pass as they come, and nothing of them goes to a disk. A line is written within a second, as Envoy's is.
PROXYING = """\
  log_format record '$remote_addr [$time_iso8601] "$request" status=$status bytes=$body_bytes_sent $request_time';
  access_log {record} record buffer=64k flush=1s;
  upstream api {{
    server 127.0.0.1:{upstream_port};
    keepalive 256;
    keepalive_requests 1000000000;
  }}
{http}
  server {{
    listen 127.0.0.1:{port} backlog=4096{listen};
{server}
    location /api/ {{
{location}
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_set_header Authorization "Bearer {token}";
      proxy_request_buffering off;
      proxy_max_temp_file_size 0;
      proxy_buffer_size 64k;
      proxy_buffers 8 64k;
      proxy_busy_buffers_size 256k;
      proxy_read_timeout 1h;
      proxy_pass {scheme}://api/;
    }}
  }}"""

LISTENING_WITH_TLS = """\
    ssl_certificate {tls.cert};
    ssl_certificate_key {tls.key};"""

CALLING_WITH_TLS = """\
      proxy_ssl_trusted_certificate {tls.ca};
      proxy_ssl_verify on;
      proxy_ssl_server_name on;
      proxy_ssl_name {name};"""


def missing() -> str | None:
    """Return what is not installed and how it is got."""
    return None if find_program("nginx") else "nginx (apt-get install nginx)"


def install() -> None:
    """Install Debian's nginx; it is not started."""
    if missing():
        install_packages("nginx")


def missing_lua() -> str | None:
    """Return what of nginx with LuaJIT is not installed and how it is got."""
    there = find_program("nginx") and LUA_MODULE.exists() and LUA_JSON.is_dir()
    return None if there else f"nginx with LuaJIT (apt-get install {' '.join(LUA_PACKAGES)})"


def install_lua() -> None:
    """Install Debian's nginx and its Lua module; nginx is not started."""
    if missing_lua():
        install_packages(*LUA_PACKAGES)


def command(directory: Path) -> tuple[str, ...]:
    """Return the command line of an nginx whose configuration and files are in *directory*."""
    return (find_program("nginx") or "nginx", "-p", str(directory), "-c", "nginx.conf", "-e", "stderr")


def proxying(
    upstream: Upstream, *, port: int, tls: TlsFiles | None, modules: str = "", http: str = "", location: str = ""
) -> str:
    """Return the configuration of a proxy, with what a variant adds to its *http* block and its *location*."""
    calling = CALLING_WITH_TLS.format(tls=tls, name=UPSTREAM_NAME) if tls else ""
    block = PROXYING.format(
        record=RECORD,
        port=port,
        upstream_port=upstream.port,
        token=upstream.token,
        scheme="https" if tls else "http",
        listen=" ssl" if tls else "",
        server=LISTENING_WITH_TLS.format(tls=tls) if tls else "",
        http=http,
        location=f"{calling}\n{location}",
    )
    return MAIN.format(modules=modules, http=block)


@contextmanager
def running_nginx(name: str, configuration: str, *, directory: Path, port: int) -> Iterator[Proxy]:
    """Run nginx as the proxy *name* with *configuration* in its own *directory*."""
    (directory / "nginx.conf").write_text(configuration)
    with serving(*command(directory), port=port, directory=directory) as pid:
        yield Proxy(name, port, pid, directory, RECORD, LINE)


@contextmanager
def running(upstream: Upstream, issuer: Issuer, *, directory: Path, tls: TlsFiles | None = None) -> Iterator[Proxy]:
    """Run nginx; what *issuer* signs is not looked at."""
    port = free_port()
    configuration = proxying(upstream, port=port, tls=tls)
    with running_nginx(NAME, configuration, directory=own_directory(directory, name=NAME), port=port) as proxy:
        yield proxy

"""
HAProxy with `jwt_verify`: the signature is verified on each request, for HAProxy keeps no verified tokens.

Its log goes to standard output, which is a file: no second process takes part.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.contestants import AUDIENCE, ISSUER, Issuer, Proxy, Upstream, free_port
from bench.peers import UPSTREAM_NAME, TlsFiles
from bench.peers.processes import find_program, install_packages, own_directory, public_key_pem, serving

NAME = "haproxy"
RECORD, LINE = "stdout", b'" status='

# The order is that of HAProxy's own example for jwt_verify: the algorithm first, for the caller may not choose it.
CONFIGURATION = """\
global
  nbthread 1
  log stdout format raw local0
  ssl-default-bind-options ssl-min-ver TLSv1.2
defaults
  mode http
  log global
  log-format '%ci:%cp [%tr] "%HM %HU %HV" status=%ST bytes=%B %Ta'
  option dontlognull
  timeout connect 5s
  timeout client 1h
  timeout server 1h
  timeout http-keep-alive 1h
frontend callers
  bind 127.0.0.1:{port} backlog 4096{listen}
  http-request set-var(txn.bearer) http_auth_bearer
  http-request set-var(txn.alg) var(txn.bearer),jwt_header_query('$.alg')
  http-request set-var(txn.now) date()
  http-request deny deny_status 401 unless {{ var(txn.alg) -m str RS256 }}
  http-request deny deny_status 401 unless {{ var(txn.bearer),jwt_payload_query('$.iss') -m str {issuer} }}
  http-request deny deny_status 401 unless {{ var(txn.bearer),jwt_payload_query('$.aud') -m str {audience} }}
  http-request deny deny_status 401 unless {{ var(txn.bearer),jwt_payload_query('$.exp','int'),sub(txn.now) gt 0 }}
  http-request deny deny_status 401 unless {{ var(txn.bearer),jwt_verify(txn.alg,"{key_file}") 1 }}
  http-request deny deny_status 404 unless {{ path_beg /api/ }}
  http-request set-path %[path,bytes(4)]
  http-request set-header Authorization "Bearer {token}"
  default_backend api
backend api
  http-reuse always
  server api 127.0.0.1:{upstream_port} pool-max-conn 512{call}
"""


def missing() -> str | None:
    """Return what is not installed and how it is got."""
    return None if find_program("haproxy") else "HAProxy (apt-get install haproxy)"


def install() -> None:
    """Install Debian's HAProxy; it is not started."""
    if missing():
        install_packages("haproxy")


@contextmanager
def running(upstream: Upstream, issuer: Issuer, *, directory: Path, tls: TlsFiles | None = None) -> Iterator[Proxy]:
    """Run HAProxy before *upstream*."""
    port = free_port()
    own = own_directory(directory, name=NAME)
    listen = call = ""
    if tls:  # HAProxy wants the certificate and its key in one file
        pair = own / "pair.pem"
        pair.write_bytes(tls.cert.read_bytes() + tls.key.read_bytes())
        listen = f" ssl crt {pair}"
        call = f" ssl verify required ca-file {tls.ca} sni str({UPSTREAM_NAME}) verifyhost {UPSTREAM_NAME}"
    configuration = CONFIGURATION.format(
        port=port,
        listen=listen,
        issuer=ISSUER,
        audience=AUDIENCE,
        key_file=public_key_pem(issuer, path=own / "issuer.pem"),
        token=upstream.token,
        upstream_port=upstream.port,
        call=call,
    )
    (own / "haproxy.cfg").write_text(configuration)
    program = find_program("haproxy") or NAME
    with serving(program, "-db", "-f", "haproxy.cfg", port=port, directory=own) as pid:
        yield Proxy(NAME, port, pid, own, RECORD, LINE)

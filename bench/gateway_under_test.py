"""
The real gateway, whole, set up for the benchmark as an operator would: routes.yaml, a management key, the token API.

It serves the routes.yaml in --directory, prints a line when requests can be sent: {pid}, and ends the gateway when it
is ended itself.
"""

from __future__ import annotations

import argparse
import http.client
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

START_SECONDS = 30.0
PROJECT = "bench"


def gateway(*words: str, data: Path) -> list[str]:
    """Return the command line of `gateway` with *words*, on this benchmark's state."""
    return [sys.executable, "-m", "gateway", *words, "--data", str(data)]


def make_management_key(data: Path) -> str:
    """Return the secret of a new management key."""
    made = subprocess.run(
        gateway("keys", "create", "--management", "--json", data=data),
        check=True,
        capture_output=True,
        timeout=START_SECONDS,
    )
    return str(json.loads(made.stdout)["secret"])


def call(port: int, method: str, path: str, *, key: str, body: dict[str, Any] | None = None) -> int:
    """Return the status that the token API on *port* answers with."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        fields = {"Authorization": f"Bearer {PROJECT}:{key}", "Content-Type": "application/json"}
        connection.request(method, path, body=None if body is None else json.dumps(body), headers=fields)
        return connection.getresponse().status
    finally:
        connection.close()


def wait_until_ready(process: subprocess.Popen[bytes], directory: Path, *, port: int, key: str) -> None:
    """Return once the token API answers; fail when the gateway has ended or takes too long."""
    give_up = time.monotonic() + START_SECONDS
    while time.monotonic() < give_up:
        if process.poll() is not None:
            said = (directory / "stderr").read_text()[-500:]
            raise SystemExit(f"the gateway ended with {process.returncode} before it was ready: {said}")
        try:
            if call(port, "GET", "/v1/mgmt/license", key=key) == 200:
                return
        except OSError:
            pass
        time.sleep(0.05)
    raise SystemExit(f"the gateway was not ready within {START_SECONDS:.0f} seconds")


def upload_token(arguments: argparse.Namespace, *, key: str) -> None:
    """Create the connection, and upload the user's token for it."""
    port = arguments.token_api_port
    app = {"id": "bench", "name": "bench", "origins": [arguments.origin]}
    token = {
        "appId": "bench",
        "userId": arguments.user,
        "accessToken": arguments.token,
        "accessTokenExpiry": int(time.time()) + 86_400,
    }
    for path, body in (("create", app), ("user/oauthtoken/upload", token)):
        status = call(port, "POST", f"/v1/mgmt/outbound/app/{path}", key=key, body=body)
        if status != 200:
            raise SystemExit(f"the token API answered {status} to {path}")


def end(_signal: int, _frame: FrameType | None) -> NoReturn:
    """Leave as if interrupted, so that the gateway is ended too."""
    raise SystemExit(0)


def main() -> None:
    """Set up, start, announce, and wait for the end."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--token-api-port", type=int, required=True)
    for name in ("origin", "token", "user"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--directory", type=Path, required=True)
    arguments = parser.parse_args()
    data = arguments.directory / "state"
    key = make_management_key(data)
    signal.signal(signal.SIGTERM, end)
    words = ("serve", "-c", str(arguments.directory / "routes.yaml"))
    with (arguments.directory / "stderr").open("wb") as stderr:
        process = subprocess.Popen(gateway(*words, data=data), stdout=subprocess.DEVNULL, stderr=stderr)
    try:
        wait_until_ready(process, arguments.directory, port=arguments.token_api_port, key=key)
        upload_token(arguments, key=key)
        print(json.dumps({"pid": process.pid}), flush=True)
        process.wait()
    finally:
        process.terminate()
        process.wait(timeout=START_SECONDS)


if __name__ == "__main__":
    main()

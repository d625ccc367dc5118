"""
`python -m bench.peers [NAME …]`: fetch the peers that are missing, or those named, each by its own means.

A peer that cannot be fetched is said by name; the others are fetched all the same.
"""

from __future__ import annotations

import subprocess
import sys

from bench.peers.lineup import PEERS


def main() -> None:
    """Fetch, and end with 1 if a peer is still missing."""
    failed = False
    for peer in PEERS:
        if sys.argv[1:] and peer.NAME not in sys.argv[1:]:
            continue
        try:
            peer.install()
        except (OSError, subprocess.SubprocessError) as exc:
            print(f"{peer.NAME}: not fetched: {type(exc).__name__}", file=sys.stderr)
        reason = peer.missing()
        print(f"{peer.NAME}: {f'missing: {reason}' if reason else 'installed'}")
        failed = failed or reason is not None
    raise SystemExit(failed)


if __name__ == "__main__":
    main()

"""
Hours of trouble in minutes, against real processes: what `make soak` runs.

    worker.py     one process with a vault of its own, which may be told where to die
    storm.py      many processes and callers on one expired token of a strict provider
    provider.py   a strict provider that keeps the judge's book: who asked what, and who was alive
    killing.py    kill -9 at every step of the refresh job
    idle.py       strangers who connect in their thousands and say nothing
    overload.py   ten times the callers that a route takes
    run.py        all of them, with the figures of docs/http.md and docs/vault.md

The test suite runs short ones of the same (tests/vault/test_refresh_storm.py).
"""

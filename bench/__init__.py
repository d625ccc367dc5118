"""The gateway beside the proxy that a tutorial would build: `make bench` (bench/run.py)."""

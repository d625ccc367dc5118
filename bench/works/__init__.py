"""What the proxies are made to do, a module each: `run(session)` measures and returns tables (bench/run.py)."""

"""
routes.yaml becomes values; every error says file, line, column, and what was expected.

    text ─► document.py ─► catalogue.py ─► schema.py ─► checks.py, reach.py ─► build.py ─► Configuration (values.py)
               │ templates.py   │              │ explain.py       │               cautions.py: allowed but unwise
               └────────────────┴──────────────┴──────────────────┴──► problems.py: all of them at once

`load.py` names the order. `show.py` writes a configuration back as YAML, `json_schema.py` describes the
file to editors.
Only `cli` and `server` import this room; the parts get plain values (DESIGN section 3).
"""

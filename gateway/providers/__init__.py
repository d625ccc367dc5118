"""Well-known providers as data: one YAML file each, read by `catalogue.py`."""

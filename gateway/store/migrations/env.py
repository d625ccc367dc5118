"""Alembic asks for this file; `gateway/store/migrate.py` runs the migrations without it."""

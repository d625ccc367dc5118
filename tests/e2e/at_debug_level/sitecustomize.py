"""On PYTHONPATH of a gateway under test: everything that can be logged is, ours and the libraries'."""

import logging
from typing import Any

from gateway import telemetry

_configure_logs = telemetry.configure_logs


def _configure_at_debug_level(**given: Any) -> None:
    _configure_logs(**{**given, "level": logging.DEBUG})
    logging.getLogger().setLevel(logging.DEBUG)


telemetry.configure_logs = _configure_at_debug_level

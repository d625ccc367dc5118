"""The names of aiohttp that the data path leans on exist in the version that is installed."""

from __future__ import annotations

import aiohttp
import pytest
from aiohttp import http_parser, web_protocol

from gateway.proxy import aiohttp_names


def test_installed_aiohttp_has_every_name() -> None:
    """
    The contract with the pinned aiohttp holds: nothing is missing, and its parsers are the C ones.
    """
    assert [] == aiohttp_names.missing()


def test_lost_name_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    A version without one of the names is named with what it lacks.
    """
    monkeypatch.delattr(web_protocol.RequestHandler, "_process_keepalive")

    assert ["RequestHandler._process_keepalive"] == aiohttp_names.missing()


def test_old_version_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    A version before the first without a known advisory is refused.
    """
    monkeypatch.setattr(aiohttp, "__version__", "3.14.4")

    assert ["aiohttp 3.14.5 or newer (found 3.14.4)"] == aiohttp_names.missing()


def test_python_parser_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Without the C parser the gateway does not start: the pure-Python one reads requests differently.
    """
    monkeypatch.setattr(http_parser, "HttpRequestParser", http_parser.HttpRequestParserPy)

    assert any("C parser" in problem for problem in aiohttp_names.missing())

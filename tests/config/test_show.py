"""A configuration written back."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from gateway.config.load import load, parse
from gateway.config.show import MASK, as_yaml
from gateway.config.values import Configuration, DescopeSettings
from gateway.models import Egress
from tests.config.samples import CANARY, ENVIRON, EXAMPLE, GOOD


def masked(configuration: Configuration) -> Configuration:
    """Return *configuration* with its secrets masked, and without warnings, which belong to a text."""
    service = configuration.token_service
    if isinstance(service, DescopeSettings) and not service.sends_caller:
        service = replace(service, credential=MASK)
    connections = tuple(
        replace(connection, client_secret=connection.client_secret and MASK) for connection in configuration.connections
    )
    routes = tuple(replace(route, egress=behind_mask(route.egress)) for route in configuration.routes)
    return replace(
        configuration,
        egress=behind_mask(configuration.egress),
        token_service=service,
        connections=connections,
        routes=routes,
        warnings=(),
    )


def behind_mask(egress: Egress) -> Egress:
    """Return *egress* with the credential of its proxy masked."""
    if egress.proxy is None or egress.proxy.credential is None:
        return egress
    return replace(egress, proxy=replace(egress.proxy, credential=f"{MASK}:{MASK}"))


@pytest.mark.parametrize("path", [*GOOD, EXAMPLE], ids=lambda path: path.stem)
def test_shown_configuration_loads_again(path: Path) -> None:
    """
    What is shown is a routes.yaml with the same meaning, but for the secrets.
    """
    configuration = load(path, environ=ENVIRON)

    again = parse(as_yaml(configuration).encode(), name="shown", directory=Path("/elsewhere"), environ={})

    assert masked(configuration) == replace(again, warnings=())


@pytest.mark.parametrize("path", GOOD, ids=lambda path: path.stem)
def test_shown_configuration_holds_no_secret(path: Path) -> None:
    """
    A secret is masked wherever it came from.
    """
    assert CANARY not in as_yaml(load(path, environ=ENVIRON))


def test_template_look_alike_is_escaped() -> None:
    """
    Text that looks like a template is shown so that it stays text.
    """
    assert "$${literal}" in as_yaml(load(next(path for path in GOOD if path.stem == "templates"), environ=ENVIRON))

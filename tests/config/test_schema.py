"""The shape of routes.yaml, and what stands in the design for it."""

from __future__ import annotations

import pytest
from pydantic import BaseModel

from gateway.config import schema, schema_routes
from gateway.models import Egress, Limits, Timeouts
from tests.config.samples import problems


def test_what_comes_later_is_refused() -> None:
    """
    A key whose behaviour does not exist yet is refused at its place, never ignored.
    """
    found = problems("policies: [{id: a, effect: allow, when: 'true'}]")

    assert 1 == len([problem for problem in found if problem.startswith("policies[0].when: not supported yet")])


@pytest.mark.parametrize(
    ("shape", "value"),
    [
        (schema_routes.TimeoutsFile(), Timeouts()),
        (schema_routes.LimitsFile(), Limits()),
        (schema_routes.EgressFile(), Egress()),
        (schema.ClaimsFile(), schema.ClaimsFile()),
    ],
)
def test_defaults_are_those_of_the_values(shape: BaseModel, value: object) -> None:
    """
    A default is written in two places, and they agree.
    """
    for key, default in shape.model_dump().items():
        if hasattr(value, key):
            expected = getattr(value, key)
            assert (list(expected) if isinstance(expected, tuple) else expected) == default


@pytest.mark.parametrize("value", ["1.0", "true", "2", "'1'", "null"])
def test_version_is_the_number_one(value: str) -> None:
    """
    What merely equals 1 in Python is not the version.
    """
    assert problems(f"project: acme\nversion: {value}")

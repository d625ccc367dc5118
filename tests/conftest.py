"""What every test may use: a strict OAuth provider as a real process. The rooms keep their own fixtures."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.oidc_provider_process import OidcProviderProcess


@pytest.fixture
async def oidc_provider() -> AsyncIterator[OidcProviderProcess]:
    """npm's oidc-provider, freshly started: rotation always on, reuse revokes the grant."""
    async with OidcProviderProcess() as provider:
        yield provider

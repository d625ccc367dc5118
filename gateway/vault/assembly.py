"""
The vault's objects, built once and joined: what a gateway that serves needs of this room.

Rules:
1. Everything that is opened here is closed by `close`, in reverse: exchanges and connect attempts under way end first,
   the sealing keys last.
2. The links that users follow are made of the public URL of the traffic listener, never of a request's Host.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

from gateway.models import Caller, ConnectOffer, TokenKey
from gateway.net.client import OutboundClient
from gateway.store.engine import Store
from gateway.vault.connect import Connecting
from gateway.vault.discovery import Discovery
from gateway.vault.grants import is_minted
from gateway.vault.key_ring import SealingRing
from gateway.vault.metrics import VaultMetrics
from gateway.vault.pages import Pages
from gateway.vault.record import Record
from gateway.vault.recovery import RECOVERY_DIRECTORY, Recovery
from gateway.vault.registration import Registrar
from gateway.vault.revocation import Revocation
from gateway.vault.sealing import Sealer
from gateway.vault.service import Vault


@dataclass(frozen=True, slots=True)
class Offers:
    """Offers a link to whoever was refused for want of a connection, or of its scopes."""

    connecting: Connecting

    async def offer(
        self, key: TokenKey, caller: Caller, *, missing_scopes: tuple[str, ...] | None = None
    ) -> ConnectOffer | None:
        """Return a link for the user of *key*, or None where a browser cannot help *caller*."""
        link = await self.connecting.link_for(key, caller, missing_scopes=missing_scopes)
        return None if link is None else ConnectOffer(link.url, link.wait_url)


@dataclass(frozen=True, slots=True)
class OpenVault:
    """
    A vault that serves, the flow by which users connect, and its pages. Made by `open_vault`.

    Its *registrar* is started by whoever knows that the public URL is right.
    """

    vault: Vault
    connecting: Connecting
    discovery: Discovery
    pages: Pages
    offers: Offers
    registrar: Registrar
    metrics: VaultMetrics
    _owned: AsyncExitStack

    async def close(self) -> None:
        """End what is under way, all at once, and close everything."""
        await asyncio.gather(self.connecting.close(), self.vault.close())
        await self._owned.aclose()


async def open_vault(
    store: Store,
    client: OutboundClient,
    *,
    data: Path,
    environ: Mapping[str, str],
    base_url: Callable[[], str],
    redirect_urls: Iterable[str] = (),
    allow_http: bool,
    clock: Callable[[], float],
    monotonic: Callable[[], float],
    random_bytes: Callable[[int], bytes],
    record: Record,
) -> OpenVault:
    """
    Open the vault of *store* with the sealing keys of *data* or *environ*.

    *base_url* gives the traffic listener's public URL without a trailing slash; *redirect_urls* are where a browser may
    end after connecting; *allow_http* lets endpoints be plain
    http, as `egress` says.

    Raises:
        SealingKeyError: the keys are missing, weak, or not those of this database.
    """
    async with AsyncExitStack() as opening:
        ring = await SealingRing.open(data, environ, random_bytes=random_bytes, monotonic=monotonic)
        opening.push_async_callback(ring.close)
        ring.watch()
        sealer = Sealer(ring, random_bytes)
        discovery = Discovery(client, allow_http=allow_http, monotonic=monotonic)
        vault = Vault(
            store,
            sealer,
            client,
            clock=clock,
            random_bytes=random_bytes,
            monotonic=monotonic,
            discovery=discovery,
            record=record,
            recovery=Recovery(data / RECOVERY_DIRECTORY, sealer),
        )
        await vault.start()
        opening.push_async_callback(vault.close)
        revocation = Revocation(
            client,
            discovery,
            connections=vault.connections,
            clock=clock,
            random_bytes=random_bytes,
            record=record,
        )
        vault.removal.revoke = revocation.revoke_stored
        vault.give_back_with(revocation.revoke_of)
        metrics = VaultMetrics(
            store,
            vault.connections,
            counts=vault.exchange_counts,
            clock=clock,
            monotonic=monotonic,
            renews_itself=is_minted,
        )
        metrics.start()
        opening.push_async_callback(metrics.close)
        connecting = Connecting(
            store,
            sealer,
            client,
            connections=vault.connections,
            tokens=vault.tokens,
            discovery=discovery,
            revocation=revocation,
            base_url=base_url,
            redirect_urls=redirect_urls,
            allow_http=allow_http,
            clock=clock,
            random_bytes=random_bytes,
            record=record,
            counts=vault.exchange_counts,
        )
        vault.removal.forget = connecting.forget
        opening.push_async_callback(connecting.close)
        pages = Pages(connecting, base_url=base_url, random_bytes=random_bytes)
        registrar = Registrar(vault.connections, connecting.register)
        opening.push_async_callback(registrar.close)
        owned = opening.pop_all()
        return OpenVault(vault, connecting, discovery, pages, Offers(connecting), registrar, metrics, owned)

"""
The sealing keys of this process: the first seals, all of them open.

Rules:
1. A key that another process has published opens here from that moment: an id that is not in the ring is looked for at
   the source before it counts as unknown. Another key that seals is noticed at the next seal.
2. A source that cannot be read any more, once read, changes nothing: the ring stays as it is, and says so in the log.
3. Keys that a service wraps are unwrapped ahead of need, at the start and by `watch`, never for a request. They serve
   from memory while the service is away, MAX_AGE_SECONDS at most; after that they are unavailable (503, worth
   repeating), so that a key taken back at the service is of no use here either.
4. A key that cannot be unwrapped here yet does not begin to seal here; the one before it does.
5. `watch` also tells rotations in other processes what this one can open and seals with (key_attendance.py).
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

import structlog

from gateway.vault.key_attendance import Attendance
from gateway.vault.key_directory import KeyDirectory, plain_entry
from gateway.vault.key_providers import KeyProvider, make_provider, wanted_master
from gateway.vault.key_source import Entry, KeySource, WrappedKey, choose_source
from gateway.vault.sealing import KEY_BYTES, SealingKey, SealingKeyError, SealingKeyUnavailable

WATCH_SECONDS = 0.5  # a rotation waits that long for this process, twice
RENEW_SECONDS = 900.0  # how often a service is asked again whether a key may be used
MAX_AGE_SECONDS = 3600.0  # four such attempts: how long a service may be away
OPEN_ATTEMPTS = 3
OPEN_PAUSE_SECONDS = 1.0

log = structlog.get_logger()


class SealingRing:
    """The keys, as `sealing.Keys` wants them. Made by `open`, ended with `close`; `watch` is for whoever serves."""

    def __init__(
        self,
        source: KeySource,
        *,
        master: tuple[str, str] | None = None,
        providers: Mapping[str, KeyProvider] | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.source = source
        self._master = master
        self._providers = dict(providers or {})
        self._monotonic = monotonic
        self._keys: dict[bytes, SealingKey] = {}
        self._wrapped: dict[bytes, WrappedKey] = {}
        self._unwrapped_at: dict[bytes, float] = {}
        self._current = b""
        self._signature: object = None
        self._wakes = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._attendance: Attendance | None = None

    @classmethod
    async def open(
        cls,
        data_dir: Path,
        environ: Mapping[str, str],
        *,
        random_bytes: Callable[[int], bytes] = os.urandom,
        monotonic: Callable[[], float] = time.monotonic,
        providers: Mapping[str, KeyProvider] | None = None,
        with_retired: bool = False,
    ) -> SealingRing:
        """
        Return the ring of *environ*'s keys, or of the data directory's, where the first key is made if there is none.

        *providers* are key services by name, for those that this gateway does not bring; *with_retired* adds keys that
        were retired, to open with.

        Raises:
            SealingKeyError: a key is missing, unreadable, too weak or named twice, or its service does not give it.
        """
        master = wanted_master(environ)
        source = choose_source(environ)
        directory = KeyDirectory(data_dir, with_retired=with_retired) if source is None else None
        ring = cls(source or KeyDirectory(data_dir), master=master, providers=providers, monotonic=monotonic)
        try:
            if directory is not None:
                ring.source = directory
                if directory.is_empty():
                    directory.begin((await ring.new_key(random_bytes))[1])
            await ring._begin()
        except BaseException:
            await ring.close()
            raise
        return ring

    @property
    def directory(self) -> KeyDirectory | None:
        """The data directory's keys, which a rotation can change; None where others keep the keys."""
        return self.source if isinstance(self.source, KeyDirectory) else None

    @property
    def current(self) -> SealingKey:
        """The key that seals. Raises SealingKeyUnavailable."""
        signature = self.source.signature()
        if signature != self._signature:
            self._read(signature)
        key = self.find(self._current)
        if key is None:
            raise SealingKeyUnavailable(f"sealing key {self._current.hex()} is not here yet")
        return key

    @property
    def key_ids(self) -> tuple[bytes, ...]:
        """The ids of all keys, the sealing one first."""
        others = {**self._keys, **self._wrapped}
        return (self._current, *(key_id for key_id in others if key_id != self._current))

    def find(self, key_id: bytes) -> SealingKey | None:
        """Return the key of this id, or None where there is none. Raises SealingKeyUnavailable."""
        key = self._keys.get(key_id)
        if key is None and key_id not in self._wrapped:
            self._look_for(key_id)
            key = self._keys.get(key_id)
        if key_id not in self._wrapped:
            return key
        at = self._unwrapped_at.get(key_id)
        if key is None or at is None or self._monotonic() - at > MAX_AGE_SECONDS:
            self._wakes.set()
            raise SealingKeyUnavailable(f"the key service does not give sealing key {key_id.hex()} for now")
        return key

    async def new_key(self, random_bytes: Callable[[int], bytes]) -> tuple[bytes, str]:
        """
        Return the id and the entry of a new key, wrapped where GATEWAY_SEALING_KMS says so. It is in no ring yet.

        Raises:
            SealingKeyError: the service does not wrap it.
        """
        secret = random_bytes(KEY_BYTES)
        key_id = SealingKey.from_bytes(secret).key_id
        if self._master is None:
            return key_id, plain_entry(secret)
        service, master = self._master
        try:
            wrapped = await self._provider(service).wrap(secret, master=master, key_id=key_id)
        except SealingKeyUnavailable as exc:
            raise SealingKeyError(f"the new sealing key cannot be wrapped: {exc}") from exc
        return key_id, WrappedKey(service, key_id, master, wrapped).encode()

    async def refresh(self) -> None:
        """Read the source again, and unwrap what is new or due. Problems are logged, and change nothing."""
        self._read(self.source.signature())
        now = self._monotonic()
        for key_id, wrapped in list(self._wrapped.items()):
            if now - self._unwrapped_at.get(key_id, float("-inf")) < RENEW_SECONDS:
                continue
            try:
                await self._unwrap(wrapped)
            except (SealingKeyError, SealingKeyUnavailable) as exc:
                log.error("sealing_key_not_unwrapped", key_id=key_id.hex(), reason=str(exc))
        self._read(self.source.signature())  # what could not seal before may seal now

    def watch(self) -> None:
        """Keep the ring up to date in the background until `close`, and attend rotations."""
        if self.directory is not None:
            self._attendance = Attendance.begin(self.directory.path)
            self._attend()
        self._task = asyncio.create_task(self._watch(), name="sealing-keys")

    async def close(self) -> None:
        """End what `watch` began, and let go of the key services."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
            self._task = None
        if self._attendance is not None:
            self._attendance.end()
            self._attendance = None
        for provider in self._providers.values():
            await provider.close()

    # --- keys ------------------------------------------------------------------------------------------------------

    async def _begin(self) -> None:
        """Read the source and have every key, or say why not."""
        self._signature = self.source.signature()
        entries = self.source.read()
        self._current = entries[0].key_id
        for entry in entries:
            self._take(entry)
        for wrapped in list(self._wrapped.values()):
            await self._unwrap_patiently(wrapped, is_needed=wrapped.key_id == self._current)

    async def _unwrap_patiently(self, wrapped: WrappedKey, *, is_needed: bool) -> None:
        for attempt in range(1, OPEN_ATTEMPTS + 1):
            try:
                await self._unwrap(wrapped)
            except SealingKeyUnavailable as exc:
                if attempt < OPEN_ATTEMPTS:
                    await asyncio.sleep(OPEN_PAUSE_SECONDS)
                elif is_needed:
                    raise SealingKeyError(f"sealing key {wrapped.key_id.hex()}: {exc}") from exc
                else:
                    log.error("sealing_key_not_unwrapped", key_id=wrapped.key_id.hex(), reason=str(exc))
            else:
                return

    async def _unwrap(self, wrapped: WrappedKey) -> None:
        secret = await self._provider(wrapped.service).unwrap(
            wrapped.wrapped, master=wrapped.master, key_id=wrapped.key_id
        )
        key = SealingKey.from_bytes(secret)
        if key.key_id != wrapped.key_id:
            raise SealingKeyError(f"{wrapped.service} gave another key for {wrapped.key_id.hex()}")
        self._keys[key.key_id] = key
        self._unwrapped_at[key.key_id] = self._monotonic()

    def _provider(self, service: str) -> KeyProvider:
        if service not in self._providers:
            self._providers[service] = make_provider(service)
        return self._providers[service]

    def _take(self, entry: Entry) -> None:
        if isinstance(entry, SealingKey):
            self._keys[entry.key_id] = entry
        elif entry.key_id not in self._keys or entry.key_id in self._wrapped:
            self._wrapped[entry.key_id] = entry

    def _look_for(self, key_id: bytes) -> None:
        try:
            entry = self.source.find(key_id)
        except SealingKeyError as exc:
            log.error("sealing_keys_not_read", reason=str(exc))
            return
        if entry is not None:
            self._take(entry)
            self._wakes.set()

    def _read(self, signature: object) -> None:
        """Take in what the source says now. A key that is not at hand does not begin to seal (rule 4)."""
        try:
            entries = self.source.read()
        except SealingKeyError as exc:
            log.error("sealing_keys_not_read", reason=str(exc))
            return
        for entry in entries:
            self._take(entry)
        if entries[0].key_id in self._keys:
            if self._current != entries[0].key_id:
                log.info("sealing_key_changed", key_id=entries[0].key_id.hex())
            self._current, self._signature = entries[0].key_id, signature
        else:
            self._wakes.set()

    # --- in the background -----------------------------------------------------------------------------------------

    async def _watch(self) -> None:
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(WATCH_SECONDS):
                    await self._wakes.wait()
            await asyncio.sleep(WATCH_SECONDS / 10)  # a key that cannot be had must not make this loop spin
            self._wakes.clear()
            await self.refresh()
            self._attend()

    def _attend(self) -> None:
        if self._attendance is not None:
            self._attendance.tell(opens=self._keys, seals=self._current)

"""
Key services that wrap sealing keys: what the ring asks of one, and AWS KMS.

Rules:
1. A service is asked when a ring is opened, when a key is made and from time to time to make sure that we still may
   (key_ring.py): never for a request.
2. It is asked in threads of its own, with a limit on each step and one on the whole: it can neither stop the event loop
   nor take the threads of others.
3. A wrapped key is bound to its id and to this use (AWS: encryption context): another wrapped secret is not taken.
4. GATEWAY_SEALING_KMS names the service and its key, `aws-kms:KEY`, for keys made from now on. A wrapped key names the
   ones it was wrapped with, so a change of that variable and a rotation move to another key.
5. Credentials, region and endpoint are the service's own business (AWS: its usual variables and roles). boto3 dials by
   itself, outside of the `egress` rules.

Source: AWS KMS API Reference, Encrypt and Decrypt; AWS KMS developer guide, "Encryption context".
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Protocol, TypeVar

from gateway.vault.sealing import SealingKeyError, SealingKeyUnavailable

ENVIRONMENT_KMS = "GATEWAY_SEALING_KMS"
AWS_KMS = "aws-kms"
CALL_SECONDS = 10.0  # connect, read and one repetition, below
CONNECT_SECONDS = 2.0
READ_SECONDS = 2.5
ATTEMPTS = 2
THREADS = 2

T = TypeVar("T")


class KeyProvider(Protocol):
    """A service that wraps and unwraps sealing keys. *master* is the name of the key it does that with."""

    service: str

    async def wrap(self, secret: bytes, *, master: str, key_id: bytes) -> bytes:
        """Return *secret* wrapped and bound to *key_id*. Raises SealingKeyUnavailable, SealingKeyError."""

    async def unwrap(self, wrapped: bytes, *, master: str, key_id: bytes) -> bytes:
        """Return what was wrapped for *key_id*. Raises SealingKeyUnavailable, SealingKeyError."""

    async def close(self) -> None:
        """End what the provider holds open."""


class AwsKms:
    """AWS KMS, by boto3 (the extra `kms`)."""

    service = AWS_KMS

    def __init__(self, *, call_seconds: float = CALL_SECONDS) -> None:
        """
        Make a client from what AWS's own variables and roles say.

        Raises:
            SealingKeyError: boto3 is not installed, or has no region.
        """
        self._call_seconds = call_seconds
        self._client: Any = _aws_client()
        self._threads = ThreadPoolExecutor(max_workers=THREADS, thread_name_prefix=AWS_KMS)

    async def wrap(self, secret: bytes, *, master: str, key_id: bytes) -> bytes:
        """Return *secret* wrapped by the KMS key *master* and bound to *key_id*."""
        context = _context(key_id)
        answer = await self._call(
            partial(self._client.encrypt, KeyId=master, Plaintext=secret, EncryptionContext=context)
        )
        return bytes(answer["CiphertextBlob"])

    async def unwrap(self, wrapped: bytes, *, master: str, key_id: bytes) -> bytes:
        """Return what the KMS key *master* wrapped for *key_id*."""
        context = _context(key_id)
        answer = await self._call(
            partial(self._client.decrypt, KeyId=master, CiphertextBlob=wrapped, EncryptionContext=context)
        )
        return bytes(answer["Plaintext"])

    async def close(self) -> None:
        """Let go of the threads; one that still waits ends with its own time limit."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._client.close()

    async def _call(self, call: Callable[[], Mapping[str, Any]]) -> Mapping[str, Any]:
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            async with asyncio.timeout(self._call_seconds):
                return await asyncio.get_running_loop().run_in_executor(self._threads, call)
        except TimeoutError as exc:
            raise SealingKeyUnavailable(f"{AWS_KMS} did not answer within {self._call_seconds:g} s") from exc
        except ClientError as exc:
            raise _refusal(exc.response) from None  # its text may name accounts and roles
        except BotoCoreError as exc:
            raise SealingKeyUnavailable(f"{AWS_KMS} cannot be reached ({type(exc).__name__})") from None


PROVIDERS: Mapping[str, Callable[[], KeyProvider]] = {AWS_KMS: AwsKms}

# What will not pass by waiting: the wrapped key is not one of ours. A disabled key or missing right may come back.
LASTING_ERRORS = frozenset({"InvalidCiphertextException", "IncorrectKeyException", "ValidationException"})


def make_provider(service: str) -> KeyProvider:
    """
    Return the provider of this name.

    Raises:
        SealingKeyError: there is none, or its library is missing.
    """
    make = PROVIDERS.get(service)
    if make is None:
        raise SealingKeyError(f'"{service}" is no key service; expected {", ".join(PROVIDERS)}')
    return make()


def wanted_master(environ: Mapping[str, str]) -> tuple[str, str] | None:
    """
    Return the service and its key that GATEWAY_SEALING_KMS names, or None where it is not set.

    Raises:
        SealingKeyError: it does not say which.
    """
    text = environ.get(ENVIRONMENT_KMS)
    if not text:
        return None
    service, colon, master = text.partition(":")
    if not colon or service not in PROVIDERS or not master or any(c in master for c in "!, \t\r\n"):
        raise SealingKeyError(f'{ENVIRONMENT_KMS}: expected "{AWS_KMS}:KEY", KEY being an id, ARN or alias')
    return service, master


def _context(key_id: bytes) -> dict[str, str]:
    return {"use": "connection gateway sealing key", "key_id": key_id.hex()}


def _refusal(response: Mapping[str, Any]) -> Exception:
    code = str(response.get("Error", {}).get("Code", "unknown"))[:64]
    if code in LASTING_ERRORS:
        return SealingKeyError(f"{AWS_KMS} does not accept the wrapped sealing key ({code})")
    return SealingKeyUnavailable(f"{AWS_KMS} refused ({code})")


def _aws_client() -> Any:
    try:
        import boto3
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError
    except ImportError as exc:
        raise SealingKeyError(f'{AWS_KMS} needs boto3: pip install "connection-gateway[kms]"') from exc
    limits = Config(
        connect_timeout=CONNECT_SECONDS,
        read_timeout=READ_SECONDS,
        retries={"total_max_attempts": ATTEMPTS, "mode": "standard"},
    )
    try:
        return boto3.client("kms", config=limits)
    except BotoCoreError as exc:
        raise SealingKeyError(f"{AWS_KMS} cannot be used ({type(exc).__name__})") from None

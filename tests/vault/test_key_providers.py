"""Key services: AWS KMS against moto's server, on a real socket, and what its failures become."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.vault.key_directory import KeyDirectory
from gateway.vault.key_providers import AwsKms, make_provider, wanted_master
from gateway.vault.key_ring import SealingRing
from gateway.vault.key_source import WrappedKey
from gateway.vault.sealing import SealingKeyError, SealingKeyUnavailable
from tests import tools

SECRET = bytes(range(32))
KEY_ID, OTHER_ID = b"12345678", b"87654321"


@pytest.fixture(scope="module")
def kms_url() -> Iterator[str]:
    """A server that speaks KMS."""
    try:
        from moto.server import ThreadedMotoServer
    except ImportError:
        tools.missing("moto", 'pip install boto3 "moto[kms,server]"')
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def kms(kms_url: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A plain client of that server; the environment leads ours there as well."""
    point_to(kms_url, monkeypatch)
    import boto3

    client = boto3.client("kms")
    yield client
    client.close()


def point_to(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let AWS's own variables name *url* and made-up credentials."""
    values = {
        "AWS_ENDPOINT_URL_KMS": url,
        "AWS_DEFAULT_REGION": "eu-central-1",
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    for name, value in values.items():
        monkeypatch.setenv(name, value)


async def test_wraps_and_unwraps(kms: Any) -> None:
    """KMS gives back what it wrapped, for the same key id only."""
    master = kms.create_key()["KeyMetadata"]["Arn"]
    provider = AwsKms()
    wrapped = await provider.wrap(SECRET, master=master, key_id=KEY_ID)

    assert SECRET not in wrapped
    assert SECRET == await provider.unwrap(wrapped, master=master, key_id=KEY_ID)
    with pytest.raises(SealingKeyError, match="does not accept"):
        await provider.unwrap(wrapped, master=master, key_id=OTHER_ID)
    await provider.close()


async def test_refusals_may_pass_or_last(kms: Any) -> None:
    """A key that is disabled or unknown may come back: unavailable. Bytes that are no wrapped key stay refused."""
    master = kms.create_key()["KeyMetadata"]["KeyId"]
    provider = AwsKms()
    wrapped = await provider.wrap(SECRET, master=master, key_id=KEY_ID)
    kms.disable_key(KeyId=master)
    with pytest.raises(SealingKeyUnavailable, match="refused"):
        await provider.wrap(SECRET, master="alias/none", key_id=KEY_ID)
    with pytest.raises((SealingKeyUnavailable, SealingKeyError)):
        await provider.unwrap(wrapped[:-1] + b"x", master=master, key_id=KEY_ID)
    await provider.close()


async def test_ring_lives_on_kms(kms: Any, tmp_path: Path) -> None:
    """A gateway's first key is wrapped by KMS, and the next start has it again."""
    master = kms.create_key()["KeyMetadata"]["KeyId"]
    environ = {"GATEWAY_SEALING_KMS": f"aws-kms:{master}"}
    first = await SealingRing.open(tmp_path, environ)
    await first.close()
    second = await SealingRing.open(tmp_path, {})  # a wrapped key names its service and master
    await second.close()
    (entry,) = KeyDirectory(tmp_path).read()

    assert isinstance(entry, WrappedKey)
    assert (first.key_ids, master) == (second.key_ids, entry.master)


async def test_silent_service_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A service that accepts and says nothing is unavailable within the limit, and the event loop goes on."""
    pytest.importorskip("boto3", reason="boto3 is missing: pip install boto3")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        point_to(f"http://127.0.0.1:{silent.getsockname()[1]}", monkeypatch)
        provider = AwsKms(call_seconds=1.0)
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                await asyncio.sleep(0.01)
                ticks += 1

        ticking = asyncio.create_task(tick())
        with pytest.raises(SealingKeyUnavailable, match="did not answer"):
            await provider.unwrap(b"wrapped", master="key", key_id=KEY_ID)
        ticking.cancel()
        await provider.close()
    assert ticks >= 2


async def test_unreachable_service_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody listening is unavailable, and the error names neither address nor credentials."""
    pytest.importorskip("boto3", reason="boto3 is missing: pip install boto3")
    with socket.socket() as bound:  # and not listening: nobody else can take the port meanwhile
        bound.bind(("127.0.0.1", 0))
        port = bound.getsockname()[1]
        point_to(f"http://127.0.0.1:{port}", monkeypatch)
        provider = AwsKms()
        with pytest.raises(SealingKeyUnavailable, match="cannot be reached") as error:
            await provider.wrap(SECRET, master="key", key_id=KEY_ID)
        await provider.close()
    assert str(port) not in str(error.value)


WANTED = {
    "nothing": ({}, None),
    "empty": ({"GATEWAY_SEALING_KMS": ""}, None),
    "an alias": ({"GATEWAY_SEALING_KMS": "aws-kms:alias/x"}, ("aws-kms", "alias/x")),
    "an ARN": ({"GATEWAY_SEALING_KMS": "aws-kms:arn:aws:kms:e:1:key/2"}, ("aws-kms", "arn:aws:kms:e:1:key/2")),
}


@pytest.mark.parametrize(("environ", "expected"), WANTED.values(), ids=WANTED.keys())
def test_reads_which_service_is_wanted(environ: dict[str, str], expected: tuple[str, str] | None) -> None:
    """The variable names a service and its key."""
    assert expected == wanted_master(environ)


@pytest.mark.parametrize("text", ["aws-kms", "aws-kms:", "other:key", "aws-kms:a!b", "aws-kms:a b"])
def test_refuses_unclear_service(text: str) -> None:
    """A variable that does not name both is refused."""
    with pytest.raises(SealingKeyError, match="expected"):
        wanted_master({"GATEWAY_SEALING_KMS": text})


def test_refuses_unknown_service() -> None:
    """A wrapped key of a service that is not known says so."""
    with pytest.raises(SealingKeyError, match="no key service"):
        make_provider("other")

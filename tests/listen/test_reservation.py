"""Ports that several processes share, and nobody else."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator

import pytest

from gateway.listen.reservation import Reservation


@pytest.fixture
def shared() -> Iterator[socket.socket]:
    """A socket that would share its port."""
    with socket.socket() as made:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, True)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, True)
        yield made


def test_free_port_is_one_for_all(shared: socket.socket) -> None:
    """
    Port 0 becomes a port; who shares it can listen there, and connections reach it, not the reservation.
    """
    reservation = Reservation.take("127.0.0.1", 0)
    shared.bind(("127.0.0.1", reservation.port))
    shared.listen()
    with socket.create_connection(("127.0.0.1", reservation.port), timeout=5):
        shared.settimeout(5)
        shared.accept()[0].close()
    reservation.release()

    assert reservation.port > 0


def test_port_of_others_is_in_use_even_where_they_would_share_it(shared: socket.socket) -> None:
    """
    Who listens already, with SO_REUSEPORT or without, keeps the port; once it is let go it can be reserved.
    """
    shared.bind(("127.0.0.1", 0))
    shared.listen()
    port = shared.getsockname()[1]
    with pytest.raises(OSError, match="in use") as refused:
        Reservation.take("127.0.0.1", port)
    shared.close()
    reservation = Reservation.take("127.0.0.1", port)
    reservation.release()

    assert errno.EADDRINUSE == refused.value.errno
    assert port == reservation.port


def test_port_is_kept_while_nobody_listens() -> None:
    """
    While a reservation is held and nobody listens, port 0 does not give its port to another, and nobody is connected.
    """
    reservation = Reservation.take("localhost", 0)  # ::1 and 127.0.0.1, where the machine has both
    others = [Reservation.take("127.0.0.1", 0) for _ in range(50)]
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", reservation.port), timeout=5)
    for held in (reservation, *others):
        held.release()

    assert reservation.port not in [other.port for other in others]


def test_host_without_address_cannot_be_reserved() -> None:
    """
    An address of another machine is the system's error.
    """
    with pytest.raises(OSError, match="assign"):
        Reservation.take("192.0.2.1", 0)

"""The suite runs without a network; this shows that the block holds and lets loopback through."""

import socket

import pytest


def test_connecting_to_another_machine_is_refused():
    with socket.socket() as sock, pytest.raises(AssertionError, match=r"'192\.0\.2\.1'"):
        sock.connect(("192.0.2.1", 80))
    with socket.socket() as sock, pytest.raises(AssertionError, match=r"'192\.0\.2\.1'"):
        sock.connect_ex(("192.0.2.1", 80))


def test_looking_up_another_machine_is_refused():
    with pytest.raises(AssertionError, match=r"'example\.invalid'"):
        socket.create_connection(("example.invalid", 80))


def test_loopback_is_open():
    with socket.socket() as server, socket.socket() as client:
        server.bind(("127.0.0.1", 0))
        server.listen()
        client.connect(server.getsockname())
        server.accept()[0].close()

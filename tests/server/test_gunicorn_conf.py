"""gunicorn's configuration, and the kernel's time-outs where gunicorn would wait for ever."""

from __future__ import annotations

import select
import socket
from collections.abc import Iterator
from pathlib import Path

import gunicorn.config
import pytest

from tvetl_server.serving.gunicorn_conf import KEEP_ALIVE, MEMORY, config, set_socket_timeouts
from tvetl_server.settings import Settings


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


def test_gunicorn_accepts_every_setting() -> None:
    theirs = gunicorn.config.Config()
    for name, value in config(Settings(pipeline="{}")).items():
        theirs.set(name, value)
    assert theirs.worker_class_str == "gthread"
    assert theirs.control_socket_disable
    assert theirs.accesslog is None


def test_settings_become_gunicorns() -> None:
    told = config(Settings(pipeline="{}", workers=3, threads=5, host="::1", port=8123))
    assert (told["workers"], told["threads"], told["bind"]) == (3, 5, ["[::1]:8123"])


def test_idle_connections_are_kept_longer_than_the_targets_keep_them() -> None:
    assert KEEP_ALIVE > 6


def test_heartbeats_go_to_memory() -> None:
    expected = MEMORY if Path(MEMORY).is_dir() else None
    assert config(Settings(pipeline="{}"))["worker_tmp_dir"] == expected


def test_a_client_that_falls_silent_within_a_request_is_given_up(listener: socket.socket) -> None:
    set_socket_timeouts([listener], client=1)
    with socket.create_connection(listener.getsockname()) as client:
        client.sendall(b"PUT /src/a.jp")
        connection, _ = listener.accept()
        with connection:
            connection.setblocking(True)  # as gunicorn does
            assert connection.recv(100) == b"PUT /src/a.jp"
            with pytest.raises(BlockingIOError):
                connection.recv(100)


@pytest.mark.skipif(not hasattr(socket, "TCP_DEFER_ACCEPT"), reason="Linux keeps silent connections in the kernel")
def test_a_connection_without_data_takes_no_thread(listener: socket.socket) -> None:
    set_socket_timeouts([listener])
    with socket.create_connection(listener.getsockname()) as client:
        assert not select.select([listener], [], [], 0.3)[0]
        client.sendall(b"PUT")
        assert select.select([listener], [], [], 30)[0]

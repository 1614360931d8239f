"""Connections and bodies of the stand-in that are cut short, silent, or changed while they are sent."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from support.faults import sealed

from tvetl.cluster import Cluster
from tvetl.local import LocalCluster
from tvetl.local.http import Handler

Figure = Callable[[str, str], None]


def send(port: int, request: bytes, *, wait: bool = False) -> bytes:
    """Exactly these bytes, and then our end of the connection; gives what came."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        connection.sendall(request)
        if not wait:
            connection.shutdown(socket.SHUT_WR)
        received = b""
        with suppress(ConnectionError):
            while block := connection.recv(65536):
                received += block
        return received


def test_an_upload_that_breaks_off_anywhere_stores_nothing(tmp_path: Path, figure: Figure) -> None:
    with LocalCluster(tmp_path / "ais") as local:
        cluster = Cluster(local.endpoint)
        cluster.create_bucket("b")
        target = local._nodes[1].server_address[1]
        whole = sealed(os.urandom(700))
        head = b"PUT /v1/objects/b/x HTTP/1.1\r\nHost: t\r\n"
        chunks = [b"%x\r\n%b\r\n" % (len(whole[at : at + 100]), whole[at : at + 100]) for at in range(0, 732, 100)]
        chunked = head + b"Transfer-Encoding: chunked\r\n\r\n" + b"".join(chunks) + b"0\r\n\r\n"
        plain = head + b"Content-Length: 732\r\n\r\n" + whole
        tried = 0
        for request, least, last in ((plain, 1, len(plain)), (chunked, 7, len(chunked) - 4)):
            for end in range(least, last, least):
                send(target, request[:end])
                tried += 1
        for length in (b"-1", b"1e3", b"99999999999999999999", b"732, 732", b"0x2dc", b"733"):
            send(target, head + b"Content-Length: " + length + b"\r\n\r\n" + whole)
        for size in (b"zz", b"-5", b"", b"ffffffffffffffff", b"5 5"):
            body = size + b"\r\n" + whole
            send(target, head + b"Transfer-Encoding: chunked\r\n\r\n" + body)
        assert cluster.objects("b") == []
        assert list((tmp_path / "ais" / ".tvetl" / "tmp").iterdir()) == []
        assert b" 200 " in send(target, chunked)
        assert cluster.get("b", "x") == whole
        figure("the stand-in: uploads cut short", f"{tried + 11} forms, 0 stored")


def test_a_connection_that_stops_talking_is_let_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Handler, "timeout", 0.5)
    with LocalCluster(tmp_path / "ais") as local:
        cluster = Cluster(local.endpoint)
        cluster.create_bucket("b")
        began = time.monotonic()
        half = b"PUT /v1/objects/b/x HTTP/1.1\r\nHost: t\r\nContent-Length: 1000\r\n\r\n" + bytes(500)
        for request in (half, half[:20], b""):
            send(local._nodes[1].server_address[1], request, wait=True)
        assert time.monotonic() - began < 30
        assert cluster.objects("b") == []
        assert list((tmp_path / "ais" / ".tvetl" / "tmp").iterdir()) == []


def test_a_file_cut_short_by_hand_while_it_is_read_ends_the_connection(tmp_path: Path) -> None:
    with LocalCluster(tmp_path / "ais") as local:
        Cluster(local.endpoint).create_bucket("b")
        path = tmp_path / "ais" / "b" / "large"
        path.write_bytes(bytes(64 << 20))
        with socket.create_connection(local._nodes[1].server_address, timeout=60) as connection:
            connection.sendall(b"GET /v1/objects/b/large HTTP/1.1\r\nHost: t\r\n\r\n")
            received = len(connection.recv(65536))
            os.truncate(path, 1)
            while block := connection.recv(1 << 20):  # ends; without a word it would wait for its rest
                received += len(block)
        assert 0 < received < 64 << 20


def test_the_checksum_told_is_that_of_the_bytes_sent(tmp_path: Path) -> None:
    import xxhash

    with LocalCluster(tmp_path / "ais") as local:
        Cluster(local.endpoint).create_bucket("b")
        over = threading.Event()
        target = local._nodes[1].server_address[1]
        head = b"PUT /v1/objects/b/x HTTP/1.1\r\nHost: t\r\nContent-Length: 9000\r\n\r\n"
        send(target, head + bytes(9000))

        def write() -> None:
            while not over.is_set():
                send(target, head + os.urandom(9000))

        writers = [threading.Thread(target=write) for _ in range(2)]
        for writer in writers:
            writer.start()
        try:
            for _ in range(150):
                told, _, body = send(target, b"GET /v1/objects/b/x HTTP/1.1\r\nHost: t\r\n\r\n").partition(b"\r\n\r\n")
                assert f"Ais-Checksum-Value: {xxhash.xxh64_hexdigest(body)}".encode() in told
        finally:
            over.set()
            for writer in writers:
                writer.join(60)

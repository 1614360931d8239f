"""How gunicorn runs the application: workers, threads, time-outs, each with its reason; knows no application."""

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import Iterable, Mapping

import gunicorn.http.message
import gunicorn.util

from tvetl_server.settings import Settings

__all__ = ["REQUEST_LINE", "allow_long_request_lines", "config", "end_waits", "keep_the_date"]

#: Longest request line, in bytes. A name of 1,024 CJK characters is 9 kB in the path (%XX a byte) and 15 kB in
#: ``etl_fqn`` (quoted twice: %25XX a byte); the arguments come on top.
REQUEST_LINE = 64 * 1024

#: Seconds that an idle connection is kept. Targets keep theirs 6 s: who closes first must be the target, or a
#: request may meet a closing connection.
KEEP_ALIVE = 30

#: Seconds without a sign of life after which a worker is killed and replaced. With threads the sign comes from
#: the main loop, whatever the requests do, so this ends only a process that hangs as a whole.
TIMEOUT = 120

#: Seconds that the kernel lets one read or write wait for a peer, whoever forgot to set a limit of its own (worker.py's
#: are shorter); above AIStore's obj_timeout (45), after which nobody listens.
PEER = 60

#: Seconds that the kernel keeps a connection on which nothing was said yet, and wakes nobody for it: Go opens
#: connections that it may not need at once.
SILENT = 30

#: A folder in memory that every pod has. On a disk the sign of life can hang with the disk, and the root file
#: system may be read-only.
MEMORY = "/dev/shm"


def config(settings: Settings) -> Mapping[str, object]:
    """gunicorn's settings, by its own names."""
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return {
        "bind": [f"{host}:{settings.port}"],
        # sync workers keep no connection. (wsgi.py puts worker.py's in its place.)
        "worker_class": "gthread",
        "workers": settings.workers,
        "threads": settings.threads,
        "keepalive": KEEP_ALIVE,
        # Never shed load: what cannot be worked on waits here. AIStore takes a 503 for a failed object.
        "backlog": 2048,
        "worker_connections": 4096,
        "timeout": TIMEOUT,
        # As long as an accepted request may take. (AIStore deletes pods with no grace at all.)
        "graceful_timeout": int(settings.limits.seconds + settings.delivery_seconds) + 5,
        # A worker forks its own decoders. The master has imported the modules, so that their pages are shared.
        "preload_app": False,
        "limit_request_line": REQUEST_LINE,
        # Ais-Node-Url has a URL with a name in it for each stage.
        "limit_request_field_size": REQUEST_LINE,
        "limit_request_fields": 64,
        # Headers that only a proxy in front may set; there is none.
        "forwarded_allow_ips": "",
        "worker_tmp_dir": MEMORY if os.access(MEMORY, os.W_OK) else None,
        # On by default: a socket in the home directory, and a thread in the process with id 1.
        "control_socket_disable": True,
        # gunicorn's own access log quotes URLs; ours (TVETL_ACCESS_LOG) does not.
        "accesslog": None,
        "errorlog": "-",
        "loglevel": "info",
        "proc_name": "tvetl-server",
    }


def allow_long_request_lines() -> None:
    """Raise gunicorn's upper limit of a request line from 8,190 bytes to REQUEST_LINE.

    Its setting is cut to that number; the only larger choice is 0, no limit at all, with which anyone who
    reaches the port could fill the memory.
    """
    gunicorn.http.message.MAX_REQUEST_LINE = REQUEST_LINE


def keep_the_date() -> None:
    """Let gunicorn format the Date header once a second, and not for each answer."""
    date = gunicorn.util.http_date
    kept = (0, "")

    def http_date(timestamp: float | None = None) -> str:
        nonlocal kept
        now = int(time.time() if timestamp is None else timestamp)
        if kept[0] != now:
            kept = (now, date(now))
        return kept[1]

    gunicorn.util.http_date = http_date


def end_waits(listeners: Iterable[socket.socket], peer: int = PEER, silent: int = SILENT) -> None:
    """Let the kernel end waits that gunicorn does not; connections inherit this from their listener."""
    for listener in listeners:
        for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
            listener.setsockopt(socket.SOL_SOCKET, option, struct.pack("ll", peer, 0))  # struct timeval
        if hasattr(socket, "TCP_DEFER_ACCEPT"):  # Linux
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, silent)

"""gunicorn's configuration: workers, threads and time-outs, each with its reason. Knows no application."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterable, Mapping

import gunicorn.http.message

from tvetl_server.settings import Settings

__all__ = ["REQUEST_LINE", "allow_long_request_lines", "config", "set_socket_timeouts"]

#: Longest request line, in bytes. A name of 1,024 CJK characters is 9 kB in the path (%XX a byte) and 15 kB in
#: ``etl_fqn`` (quoted twice: %25XX a byte). The arguments come on top: 10,000 keypoints, whose brackets and commas are
#: quoted, take up to 500 kB.
REQUEST_LINE = 640 * 1024

#: Longest field of a head, in bytes: Ais-Node-Url has a URL with an object's name for each stage.
FIELD = 64 * 1024

#: Seconds that an idle connection is kept. A target keeps it 6 s, and must be the first to close: otherwise its next
#: request may meet a closed connection.
KEEP_ALIVE = 30

#: Seconds without a heartbeat after which a worker is killed and replaced. The main loop sends it independently of the
#: threads, so only a process that hangs as a whole is killed.
TIMEOUT = 120

#: Seconds of one read or write, enforced by the kernel where no shorter limit is set (client_connection.py has some).
#: Above AIStore's obj_timeout (45): after that AIStore has given up the request.
CLIENT = 60

#: Seconds that the kernel keeps a connection without any data before it is accepted. Go opens connections that it does
#: not need at once.
SILENT = 30

#: A folder in memory that every pod has, for the heartbeat's file. A disk may hang, and the root file system may be
#: read-only.
MEMORY = "/dev/shm"


def config(settings: Settings) -> Mapping[str, object]:
    """gunicorn's settings, by its own names."""
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return {
        "bind": [f"{host}:{settings.port}"],
        # sync workers keep no connection. (wsgi.py sets worker.py's class instead.)
        "worker_class": "gthread",
        "workers": settings.workers,
        "threads": settings.threads,
        "keepalive": KEEP_ALIVE,
        # Never shed load: requests wait here. To AIStore a 503 is a failed object.
        "backlog": 2048,
        "worker_connections": 4096,
        "timeout": TIMEOUT,
        # As long as an accepted request may take. (AIStore deletes pods without a grace period.)
        "graceful_timeout": int(settings.limits.seconds + settings.delivery_seconds) + 5,
        # A worker forks its own decoders. The master has imported the modules, so that their pages are shared.
        "preload_app": False,
        "limit_request_line": REQUEST_LINE,
        "limit_request_field_size": FIELD,
        "limit_request_fields": 64,
        # No proxy in front may set headers: there is none.
        "forwarded_allow_ips": "",
        "worker_tmp_dir": MEMORY if os.access(MEMORY, os.W_OK) else None,
        # On by default, it makes a socket in the home directory and a thread in the arbiter.
        "control_socket_disable": True,
        # gunicorn's own access log quotes URLs; ours (TVETL_ACCESS_LOG) does not.
        "accesslog": None,
        "errorlog": "-",
        "loglevel": "info",
        "proc_name": "tvetl-server",
    }


def allow_long_request_lines() -> None:
    """Raise gunicorn's upper limit of a request line from 8,190 bytes to REQUEST_LINE.

    gunicorn clamps its setting to that number. The only larger choice is 0, no limit: then any client could fill the
    memory.
    """
    gunicorn.http.message.MAX_REQUEST_LINE = REQUEST_LINE


def set_socket_timeouts(listeners: Iterable[socket.socket], client: int = CLIENT, silent: int = SILENT) -> None:
    """Let the kernel end waits for clients that gunicorn does not end. Connections inherit this from their listener."""
    for listener in listeners:
        for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
            listener.setsockopt(socket.SOL_SOCKET, option, struct.pack("ll", client, 0))  # struct timeval
        if hasattr(socket, "TCP_DEFER_ACCEPT"):  # Linux
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, silent)

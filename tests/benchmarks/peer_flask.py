"""Peer 2: torchvision on the aistore SDK's FlaskServer: ``gunicorn benchmarks.peer_flask:app``."""

from __future__ import annotations

import os

from aistore.sdk.etl.webserver.flask_server import FlaskServer
from benchmarks.reference import Reference


class Torchvision(FlaskServer):
    def __init__(self) -> None:
        super().__init__()
        self._reference = Reference(os.environ["PIPELINE"])

    def transform(self, data: bytes, path: str, etl_args: str) -> bytes:
        return self._reference(data, path)


app = Torchvision().app

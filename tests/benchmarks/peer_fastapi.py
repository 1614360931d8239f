"""Peer 1: torchvision on the aistore SDK's FastAPIServer: ``uvicorn benchmarks.peer_fastapi:app``."""

from __future__ import annotations

import os

from aistore.sdk.etl.webserver.fastapi_server import FastAPIServer
from benchmarks.reference import Reference


class Torchvision(FastAPIServer):
    def __init__(self) -> None:
        super().__init__()
        self._reference = Reference(os.environ["PIPELINE"])

    def transform(self, data: bytes, path: str, etl_args: str) -> bytes:
        return self._reference(data, path)


app = Torchvision().app

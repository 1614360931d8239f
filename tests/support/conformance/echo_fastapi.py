"""The AIStore SDK's FastAPI server with a transformer that changes nothing, as the SDK's README writes one."""

from aistore.sdk.etl.webserver.fastapi_server import FastAPIServer


class Echo(FastAPIServer):
    def transform(self, data: bytes, *_: str) -> bytes:
        return data


fastapi_app = Echo().app

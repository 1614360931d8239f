"""The AIStore SDK's Flask server with a transformer that changes nothing, as the SDK's README writes one."""

from aistore.sdk.etl.webserver.flask_server import FlaskServer


class Echo(FlaskServer):
    def transform(self, data: bytes, *_: str) -> bytes:
        return data


flask_app = Echo().app

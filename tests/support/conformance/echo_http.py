"""The AIStore SDK's HTTP server with a transformer that changes nothing, as the SDK's README writes one."""

import sys

from aistore.sdk.etl.webserver.http_multi_threaded_server import HTTPMultiThreadedServer


class Echo(HTTPMultiThreadedServer):
    def transform(self, data: bytes, *_: str) -> bytes:
        return data


if __name__ == "__main__":
    Echo(host="127.0.0.1", port=int(sys.argv[1])).start()

"""Whom the stand-in serves: with tokens as AIStore's AuthN has them, and at targets only whom the proxy sent there.

The words, statuses and the quoted token are AIStore 5.0's. Not here: AuthN's own server, its users and roles; a token
is an administrator's, or may do all but what only an administrator may: ETLs, and ending jobs.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets
import time

from tvetl.local.http import ApiError, HttpRequest, NodeServer

#: What only an administrator may ask of a proxy.
_FOR_ADMINISTRATORS = ("GET etl", "PUT etl", "POST etl", "DELETE etl", "PUT cluster")


class Guard:
    """Checks requests before they are answered. Without ``direct`` targets refuse reads that no proxy redirected.

    With ``authn`` a proxy asks for a token of :meth:`issue`, and targets refuse all that no proxy redirected.
    """

    def __init__(self, *, direct: bool, authn: bool) -> None:
        self._direct, self._authn, self._key = direct and not authn, authn, secrets.token_bytes(32)

    def issue(self, subject: str, *, admin: bool = True, seconds: float = 0, delay: float = 0) -> str:
        """A JWT signed with HS256: good from ``delay`` seconds from now on, and for ``seconds`` (0: 10 years)."""
        now = time.time()
        claims = {"sub": subject, "iss": "tvetl-local", "adm": admin, "iat": int(now), "nbf": now + delay}
        claims["exp"] = now + delay + (seconds or 10 * 365 * 86400)
        said = ".".join(_encoded(json.dumps(part).encode()) for part in ({"alg": "HS256", "typ": "JWT"}, claims))
        return f"{said}.{self._signature(said)}"

    def check(self, node: NodeServer, request: HttpRequest) -> None:
        """Raises ApiError: 401 without a token that holds, 403 for what its bearer may not do."""
        what = request.path.strip("/").split("/")[1:2]
        asked = f"{request.method} {what[0] if what else ''}"
        if node.kind == "t":
            sent_here = {"pid", "utm"} <= request.query.keys()  # what the proxy's redirect adds
            if not self._direct and asked.endswith(" objects") and (self._authn or "GET" in asked) and not sent_here:
                raise ApiError(403, "direct target access denied")
        elif self._authn and asked != "GET health":
            claims = self._claims(request.headers.get("authorization", ""))
            if asked in _FOR_ADMINISTRATORS and not claims["adm"]:
                said = f"user `{claims['sub']}` has insufficient permissions: [cluster tvetl-local, granted(access-rw)]"
                raise ApiError(403, said)

    def _claims(self, header: str) -> dict[str, object]:
        kind, _, token = header.partition(" ")
        if kind != "Bearer" or not token:
            raise ApiError(401, "token required")
        said, _, signature = token.rpartition(".")
        why = (
            ""
            if hmac.compare_digest(signature.encode(), self._signature(said).encode())
            else "token signature is invalid"
        )
        claims = {} if why else json.loads(base64.urlsafe_b64decode(said.partition(".")[2] + "=="))
        if not why and claims["nbf"] > time.time():
            why = "token has invalid claims: token is not valid yet"
        if not why and claims["exp"] <= time.time():
            why = "token expired"
        if why:
            raise ApiError(401, f'invalid token from header "Authorization": invalid token [err: {why}]: {token}')
        return dict(claims)

    def _signature(self, said: str) -> str:
        return _encoded(hmac.digest(self._key, said.encode(), hashlib.sha256))


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()

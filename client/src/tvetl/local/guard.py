"""The stand-in's access control: AuthN's tokens at the proxy, and targets that answer only what the proxy redirected.

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
        signed = ".".join(_encoded(json.dumps(part).encode()) for part in ({"alg": "HS256", "typ": "JWT"}, claims))
        return f"{signed}.{self._signature(signed)}"

    def check(self, node: NodeServer, request: HttpRequest) -> None:
        """Raises ApiError: 401 without a token that holds, 403 for what its bearer may not do."""
        route = f"{request.method} {request.path.strip('/').partition('/')[2].partition('/')[0]}"
        if node.kind == "t":
            redirected = {"pid", "utm"} <= request.query.keys()  # which the proxy adds
            if not self._direct and route.endswith(" objects") and (self._authn or "GET" in route) and not redirected:
                raise ApiError(403, "direct target access denied")
        elif self._authn and route != "GET health":
            claims = self._claims(request.headers.get("authorization", ""))
            if route in _FOR_ADMINISTRATORS and not claims["adm"]:
                rights = "insufficient permissions: [cluster tvetl-local, granted(access-rw)]"
                raise ApiError(403, f"user `{claims['sub']}` has {rights}")

    def _claims(self, header: str) -> dict[str, object]:
        kind, _, token = header.partition(" ")
        if kind != "Bearer" or not token:
            raise ApiError(401, "token required")
        signed, _, signature = token.rpartition(".")
        if not hmac.compare_digest(signature.encode(), self._signature(signed).encode()):
            raise _invalid(token, "token signature is invalid")
        claims = json.loads(base64.urlsafe_b64decode(signed.partition(".")[2] + "=="))
        if claims["nbf"] > time.time():
            raise _invalid(token, "token has invalid claims: token is not valid yet")
        if claims["exp"] <= time.time():
            raise _invalid(token, "token expired")
        return dict(claims)

    def _signature(self, signed: str) -> str:
        return _encoded(hmac.digest(self._key, signed.encode(), hashlib.sha256))


def _invalid(token: str, reason: str) -> ApiError:
    return ApiError(401, f'invalid token from header "Authorization": invalid token [err: {reason}]: {token}')


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()

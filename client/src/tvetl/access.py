"""Token and TLS for a cluster, by the variables of AIStore's SDK and command. Nothing is sent.

AIS_AUTHN_TOKEN has the token, or AIS_AUTHN_TOKEN_FILE names its file, which may be renewed at any time; the SDK itself
reads the first only. AIS_CLIENT_CA names the authority, and wins over REQUESTS_CA_BUNDLE and CURL_CA_BUNDLE, which are
for all that `requests` does on a machine; in the SDK itself these win. AIS_CRT, AIS_CRT_KEY, AIS_SKIP_VERIFY_CRT and
AIS_SKIP_VERIFY are as the SDK has them.
"""

from __future__ import annotations

import base64
import errno
import json
import os
import re
import ssl
import stat
import time
import traceback
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from multiprocessing.context import get_spawning_popen
from pathlib import Path

from requests.utils import DEFAULT_CA_BUNDLE_PATH

from tvetl.errors import UsageError
from tvetl.tls import Tls, is_text

TOKEN, TOKEN_FILE = "AIS_AUTHN_TOKEN", "AIS_AUTHN_TOKEN_FILE"
#: In the order in which requests looks at them.
_BUNDLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
_TRUE = ("1", "t", "true", "y", "yes", "on")
#: RFC 6750's token. With other characters `requests` raises an error that quotes the header.
_SENDABLE = re.compile(r"[A-Za-z0-9._~+/-]+=*")
#: Bytes of a token's file; servers refuse a longer head of a request.
_LONGEST = 1 << 16
#: A JWT in a text, be it this client's or another.
JWT = re.compile(r"eyJ[\w-]+\.[\w-]+\.[\w-]*")


class Token:
    """AIStore's token: ``source`` is the variable that it comes from, "" without one."""

    def __init__(self, env: Mapping[str, str]) -> None:
        self.source = next((name for name in (TOKEN, TOKEN_FILE) if env.get(name, "").strip()), "")
        self._file = Path(env[TOKEN_FILE].strip()) if self.source == TOKEN_FILE else None
        #: Whether a cluster has taken it.
        self.worked = False
        self._stamp: tuple[int, int, int] | None = None  # of the file that was read
        self._token = "" if self._file else self._checked(env.get(TOKEN, ""))

    def current(self) -> str:
        """The token, "" without one; a file is read again once it has changed. Raises UsageError."""
        if self._file is None:
            return self._token
        try:
            status = self._file.stat()
            stamp = status.st_mtime_ns, status.st_size, status.st_ino
            if stamp != self._stamp:
                if not stat.S_ISREG(status.st_mode) and not self._file.is_dir():
                    raise OSError(errno.EINVAL, "it is no file")  # a read of a pipe may block, and gives a token once
                self._token, self._stamp = _in_file(self._file), stamp
        except (OSError, ValueError) as error:
            if not self._token:  # else it is being written
                reason = (isinstance(error, OSError) and error.strerror) or "it holds no token"
                hint = "`ais auth login -f FILE` writes one."
                raise UsageError(f"{TOKEN_FILE}: {self._file} cannot be read: {reason}", hint=hint) from None
        return self._token

    def ends(self) -> float | None:
        """Its expiry by its own claim, in seconds since 1970; None for a token without one."""
        with suppress(ValueError, LookupError, TypeError, OverflowError, RecursionError, UsageError):
            payload = self.current().split(".")[1]
            return float(json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))["exp"])
        return None

    def apart(self, message: str) -> str:
        """A sentence to add where a cluster calls the token expired, and this machine's clock does not; else ""."""
        left = (self.ends() or 0) - time.time()
        if "expired" not in message or left <= 0:
            return ""
        return f" By this machine's clock it holds for {left:.0f} s more: the clocks are apart."

    def hidden(self, text: str) -> str:
        """The text without this token and without other JWTs, as some servers quote the request."""
        return JWT.sub("***", text.replace(self._token, "***") if self._token else text)

    def __deepcopy__(self, memo: object) -> Token:
        return self

    def __getstate__(self) -> dict[str, object]:
        """The state with the token for a process that is being started; without it for other pickles, as in files."""
        token = "" if self._file or get_spawning_popen() is None else self._token
        return {**self.__dict__, "_token": token, "_stamp": None}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        if self.source == TOKEN and not self._token:
            self._token = self._checked(os.environ.get(TOKEN, ""))  # noqa: TID251 - as read_access

    def unquoted(self, error: Exception) -> Exception | None:
        """The error as a cause, which tracebacks show; None for one that quotes a token, as AIStore does."""
        shown = "".join(traceback.format_exception(error))
        return error if self.hidden(shown) == shown else None

    @staticmethod
    def _checked(text: str) -> str:
        token = text.strip()
        if token and not _SENDABLE.fullmatch(token):
            hint = "It is the JWT alone, without Bearer or quotation marks."
            raise UsageError(f"{TOKEN} is no token: it has blanks or other characters that none has", hint=hint)
        return token


def _in_file(path: Path) -> str:
    """The token in a file, alone or in JSON as `ais auth login` writes it. Raises OSError; ValueError without one."""
    with path.open("rb") as file:
        text = file.read(_LONGEST + 1).decode()
    if text.lstrip().startswith("{"):
        try:
            text = json.loads(text)["token"]
        except (LookupError, RecursionError):
            text = ""
    if not isinstance(text, str) or len(text) > _LONGEST or not _SENDABLE.fullmatch(text.strip()):
        raise ValueError
    return text.strip()


@dataclass(frozen=True)
class Access:
    """Token and TLS of every request to a cluster. ``verify`` and ``certificate`` are those of `requests`, for https.

    ``authority`` is AIS_CLIENT_CA as it is, and ``bundle`` names the variable of `requests` that is set, if one is.
    :func:`tvetl.proxies.before` finds the HTTP proxy before a node.
    """

    bearer: Token
    verify: bool | str = True
    certificate: tuple[str, str] | None = None
    authority: str = ""
    bundle: str = ""

    @cached_property
    def user_agent(self) -> str:
        return f"ais/python/{version('aistore')}"

    @property
    def token(self) -> str:
        """AuthN's, "" without one. Raises UsageError where its file cannot be read."""
        return self.bearer.current()

    @property
    def trust(self) -> str:
        """Who verifies certificates: the variable that names the authorities, else "requests" for its own."""
        return "AIS_CLIENT_CA" if self.authority else self.bundle or "requests"

    def tls(self) -> ssl.SSLContext:
        """A context for https nodes. Raises UsageError where a certificate cannot be used."""
        ca = str(DEFAULT_CA_BUNDLE_PATH) if self.verify is True else str(self.verify or "")
        crt, key = self.certificate or ("", "")
        hint = f"AIS_CLIENT_CA (else {' or '.join(_BUNDLES)}), AIS_CRT and AIS_CRT_KEY name such files."
        for name, value in ((self.trust, ca), ("AIS_CRT", crt), ("AIS_CRT_KEY", key)):
            if is_text(value):  # requests would look for a file of that name, and say which
                raise UsageError(f"{name}: got text, expected a file", hint=f"{hint} The server alone takes text.")
        try:
            return Tls(ca, crt, key, verify=bool(self.verify)).context()
        except ValueError as error:
            raise UsageError(str(error).replace("AIS_CLIENT_CA", self.trust), hint=hint) from error


def read_access(env: Mapping[str, str] = os.environ) -> Access:  # noqa: TID251 - what the SDK reads, in one place
    """Raises UsageError for a token that no header can have."""
    skip = env.get("AIS_SKIP_VERIFY_CRT", env.get("AIS_SKIP_VERIFY", "")).strip().lower() in _TRUE
    ca = env.get("AIS_CLIENT_CA", "")
    bundle = next((name for name in _BUNDLES if env.get(name)), "")
    crt, key = env.get("AIS_CRT", ""), env.get("AIS_CRT_KEY", "")
    verify = False if skip else ca or (env[bundle] if bundle else True)
    return Access(Token(env), verify, (crt, key) if crt or key else None, ca, bundle)

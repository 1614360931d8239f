"""TLS by the variables of AIStore's SDK: a CA, a client certificate with its key, or no verifying; and why it fails.

For client and server alike. Each variable may name a file or, in a pod, be the PEM text itself: AIStore takes a pod's
volumes away, so Kubernetes gives it the text of a ConfigMap or Secret as a variable. Nothing is sent, and the
environment is not looked at.
"""

from __future__ import annotations

import os
import re
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryFile
from typing import Literal

_PEM = "-----BEGIN "
#: A key without PEM's lines, as nobody calls a file.
_BASE64 = re.compile(r"[A-Za-z0-9+/=]{100,}")


@dataclass(frozen=True)
class Tls:
    """How connections to https nodes are made. ``repr`` shows no key."""

    ca: str = ""
    """AIS_CLIENT_CA: a file, a folder of hashed certificates, or PEM text. Empty: the system's authorities."""

    certificate: str = ""
    """AIS_CRT: the client certificate, for targets that ask for one."""

    key: str = field(default="", repr=False)
    """AIS_CRT_KEY: its private key, without a passphrase."""

    verify: bool = True
    """False with AIS_SKIP_VERIFY_CRT: the write secret then goes to whoever answers."""

    def context(self) -> ssl.SSLContext:
        """Raises ValueError that names the variable and its fault."""
        context = ssl.create_default_context() if not self.ca else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        if self.ca:
            self._load_authorities(context)
        if self.certificate or self.key:
            self._load_certificate(context)
        if not self.verify:
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        return context

    def __str__(self) -> str:
        """One line for a log or /health."""
        authority = "AIS_CLIENT_CA" if self.ca else "the system's authorities"
        trust = f"certificates are verified by {authority}" if self.verify else "certificates are NOT verified"
        return f"TLS: {trust}{', with a client certificate (AIS_CRT)' if self.certificate else ''}"

    def _load_authorities(self, context: ssl.SSLContext) -> None:
        shown = "text" if is_text(self.ca) else repr(self.ca)
        try:
            if is_text(self.ca):
                context.load_verify_locations(cadata=self.ca)
            elif Path(self.ca).is_dir():
                context.load_verify_locations(capath=self.ca)
                return  # read when a certificate is verified
            else:
                context.load_verify_locations(cafile=self.ca)
            is_loaded = context.cert_store_stats()["x509"] > 0
        except (ssl.SSLError, ValueError):
            is_loaded = False
        except OSError as error:
            raise ValueError(f"AIS_CLIENT_CA: got {shown} ({error.strerror}), expected a file") from None
        if not is_loaded:
            raise ValueError(f"AIS_CLIENT_CA: got {shown}, which has no certificate, expected PEM")

    def _load_certificate(self, context: ssl.SSLContext) -> None:
        given = {"AIS_CRT": self.certificate, "AIS_CRT_KEY": self.key}
        for name, value in given.items():
            if value and not is_text(value):
                try:
                    Path(value).read_bytes()
                except (OSError, ValueError) as error:
                    reason = (isinstance(error, OSError) and error.strerror) or error
                    raise ValueError(f"{name}: got {value!r} ({reason}), expected a file") from None
        for name, value in given.items():
            if not value:
                raise ValueError(f"{name}: got nothing, expected a file or PEM, as the other of the pair is set")
        try:
            with _file(self.certificate) as certificate, _file(self.key) as key:
                context.load_cert_chain(certificate, key, password=_no_password)
        except _Encrypted:
            raise ValueError("AIS_CRT_KEY: got a key with a passphrase, expected one without") from None
        except ssl.SSLError as error:
            mismatch = error.reason == "KEY_VALUES_MISMATCH"
            got = "another certificate's key" if mismatch else "no certificate and its key"
            raise ValueError(f"AIS_CRT_KEY: got {got}, expected AIS_CRT and its own key, both PEM") from None


class _Encrypted(Exception):
    """OpenSSL asks for a passphrase."""


def _no_password() -> str:
    raise _Encrypted


@contextmanager
def _file(value: str) -> Iterator[str]:
    """The name of a file with this value, for OpenSSL reads certificates from files. PEM text stays in memory."""
    if not is_text(value):
        yield value
        return
    with os.fdopen(os.memfd_create("pem"), "w+b") if hasattr(os, "memfd_create") else TemporaryFile() as file:
        file.write(value.encode())
        file.flush()
        file.seek(0)
        yield f"/dev/fd/{file.fileno()}"


def is_text(value: str) -> bool:
    """Whether a variable is the text of a certificate or key, valid or not, and not a file's name."""
    return _PEM in value or "\n" in value or bool(_BASE64.fullmatch(value))


@dataclass(frozen=True)
class TlsFault:
    """Why TLS does not connect two nodes, until somebody changes something: ``phrase`` follows the other's name."""

    kind: Literal["expired", "early", "authority", "host", "plain", "wanted", "ours", "other"]
    phrase: str


#: Faults of certificates by OpenSSL's codes (X509_V_ERR_*).
_CERTIFICATE = {
    9: TlsFault("early", " has a certificate that is not valid yet, or a clock is wrong"),
    10: TlsFault("expired", " has a certificate that has expired, or a clock is wrong"),
    **dict.fromkeys(
        (2, 18, 19, 20, 21), TlsFault("authority", " has a certificate of an authority that is not trusted here")
    ),
    **dict.fromkeys((62, 64), TlsFault("host", " has a certificate for another host")),
    23: TlsFault("other", " has a certificate that is revoked"),
}
#: OpenSSL's reasons for an answer that is not TLS.
_NOT_TLS = (
    "WRONG_VERSION_NUMBER",
    "HTTP_REQUEST",
    "RECORD_LAYER_FAILURE",
    "PACKET_LENGTH_TOO_LONG",
    "UNKNOWN_PROTOCOL",
)


def handshake_fault(error: BaseException) -> TlsFault | None:
    """A fault of TLS that no retry mends; None for another error, as where a connection broke in the handshake."""
    if isinstance(error, ssl.SSLCertVerificationError):
        reason = str(getattr(error, "verify_message", "") or error)
        if "match" in reason:  # urllib3 compares hosts itself in some cases
            return _CERTIFICATE[62]
        other = TlsFault("other", f" has a certificate that is not accepted: {reason}")
        return _CERTIFICATE.get(getattr(error, "verify_code", 0), other)
    if not isinstance(error, ssl.SSLError) or isinstance(error, (ssl.SSLEOFError, ssl.SSLZeroReturnError)):
        return None
    reason = error.reason or ""
    if reason.endswith(_NOT_TLS):
        return TlsFault("plain", " does not speak TLS")
    _, separator, alert = reason.rpartition("ALERT_")
    if not separator or alert in ("INTERNAL_ERROR", "CLOSE_NOTIFY"):
        return None
    words = alert.lower().replace("_", " ")
    if alert in ("CERTIFICATE_REQUIRED", "HANDSHAKE_FAILURE"):  # before TLS 1.3 there was only the second
        return TlsFault("wanted", f" wants a client certificate, it seems: it ended TLS ({words})")
    if "CERTIFICATE" in alert or alert == "UNKNOWN_CA":
        return TlsFault("ours", f" refuses our client certificate ({words})")
    return TlsFault("other", f" ended TLS ({words})")

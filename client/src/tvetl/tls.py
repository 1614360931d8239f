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

__all__ = ["Tls", "TlsFault", "handshake_fault", "is_text"]

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
        """Raises ValueError with the variable and what is wrong with it."""
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
        whom = "AIS_CLIENT_CA" if self.ca else "the system's authorities"
        trust = f"certificates are verified by {whom}" if self.verify else "certificates are NOT verified"
        return f"TLS: {trust}{', with a client certificate (AIS_CRT)' if self.certificate else ''}"

    def _load_authorities(self, context: ssl.SSLContext) -> None:
        try:
            if is_text(self.ca):
                context.load_verify_locations(cadata=self.ca)
            elif Path(self.ca).is_dir():
                context.load_verify_locations(capath=self.ca)
                return  # read when a certificate is verified
            else:
                context.load_verify_locations(cafile=self.ca)
        except (ssl.SSLError, ValueError):
            raise ValueError(f"AIS_CLIENT_CA: got {_shown(self.ca)}, which has no certificate, expected PEM") from None
        except OSError as error:
            raise ValueError(f"AIS_CLIENT_CA: got {_shown(self.ca)} ({error.strerror}), expected a file") from None
        if not context.cert_store_stats()["x509"]:
            raise ValueError(f"AIS_CLIENT_CA: got {_shown(self.ca)}, which has no certificate, expected PEM")

    def _load_certificate(self, context: ssl.SSLContext) -> None:
        given = {"AIS_CRT": self.certificate, "AIS_CRT_KEY": self.key}
        for name, value in given.items():
            if value and not is_text(value):
                try:
                    Path(value).read_bytes()
                except (OSError, ValueError) as error:
                    raise ValueError(f"{name}: got {value!r} ({_reason(error)}), expected a file") from None
        for name, value in given.items():
            if not value:
                raise ValueError(f"{name}: got nothing, expected a file or PEM, as the other of the pair is set")
        try:
            with _file(self.certificate) as certificate, _file(self.key) as key:
                context.load_cert_chain(certificate, key, password=_no_password)
        except _Encrypted:
            why = "a key with a passphrase, expected one without"
        except ssl.SSLError as error:
            mismatch = error.reason == "KEY_VALUES_MISMATCH"
            why = "another certificate's key" if mismatch else "no certificate and its key"
            why += ", expected AIS_CRT and its own key, both PEM"
        else:
            return
        raise ValueError(f"AIS_CRT_KEY: got {why}")


class _Encrypted(Exception):
    """OpenSSL asks for a passphrase."""


def _no_password() -> str:
    raise _Encrypted


@contextmanager
def _file(value: str) -> Iterator[str]:
    """The name of a file with it: OpenSSL reads certificate and key from files alone. A text lies in memory."""
    if not is_text(value):
        yield value
        return
    with os.fdopen(os.memfd_create("pem"), "w+b") if hasattr(os, "memfd_create") else TemporaryFile() as file:
        file.write(value.encode())
        file.flush()
        file.seek(0)
        yield f"/dev/fd/{file.fileno()}"


def _reason(error: Exception) -> str:
    return (isinstance(error, OSError) and error.strerror) or str(error)


def is_text(value: str) -> bool:
    """Whether a variable is the text of a certificate or key, for better or worse, and not a file's name."""
    return _PEM in value or "\n" in value or bool(_BASE64.fullmatch(value))


def _shown(value: str) -> str:
    return "text" if is_text(value) else repr(value)


@dataclass(frozen=True)
class TlsFault:
    """Why TLS does not connect two nodes, until somebody changes something: ``phrase`` follows the other's name."""

    kind: Literal["expired", "early", "authority", "host", "plain", "wanted", "ours", "other"]
    phrase: str


#: OpenSSL's codes of what is wrong with a certificate (X509_V_ERR_*).
_CERTIFICATE = {
    9: TlsFault("early", " has a certificate that is not valid yet, or a clock is wrong"),
    10: TlsFault("expired", " has a certificate that has expired, or a clock is wrong"),
    **dict.fromkeys(
        (2, 18, 19, 20, 21), TlsFault("authority", " has a certificate of an authority that is not trusted here")
    ),
    **dict.fromkeys((62, 64), TlsFault("host", " has a certificate for another host")),
    23: TlsFault("other", " has a certificate that is revoked"),
}
#: What OpenSSL calls an answer that is not TLS.
_NOT_TLS = (
    "WRONG_VERSION_NUMBER",
    "HTTP_REQUEST",
    "RECORD_LAYER_FAILURE",
    "PACKET_LENGTH_TOO_LONG",
    "UNKNOWN_PROTOCOL",
)


def handshake_fault(error: BaseException) -> TlsFault | None:
    """What is lastingly wrong with TLS; None for another error, as where a connection broke in the handshake."""
    if isinstance(error, ssl.SSLCertVerificationError):
        reason = str(getattr(error, "verify_message", "") or error)
        if "match" in reason:  # urllib3 compares hosts itself in some cases
            return _CERTIFICATE[62]
        told = TlsFault("other", f" has a certificate that is not accepted: {reason}")
        return _CERTIFICATE.get(getattr(error, "verify_code", 0), told)
    if not isinstance(error, ssl.SSLError) or isinstance(error, (ssl.SSLEOFError, ssl.SSLZeroReturnError)):
        return None
    reason = error.reason or ""
    if reason.endswith(_NOT_TLS):
        return TlsFault("plain", " does not speak TLS")
    _, alert, said = reason.rpartition("ALERT_")
    if not alert or said in ("INTERNAL_ERROR", "CLOSE_NOTIFY"):
        return None
    words = said.lower().replace("_", " ")
    if said in ("CERTIFICATE_REQUIRED", "HANDSHAKE_FAILURE"):  # the second before TLS 1.3, which told no more
        return TlsFault("wanted", f" wants a client certificate, it seems: it ended TLS ({words})")
    if "CERTIFICATE" in said or said == "UNKNOWN_CA":
        return TlsFault("ours", f" refuses our client certificate ({words})")
    return TlsFault("other", f" ended TLS ({words})")

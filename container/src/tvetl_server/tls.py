"""TLS to other nodes, set by the variables of AIStore's SDK: a CA, a client certificate with its key, or no verifying.

Each may name a file or be the PEM text itself. A pod has no volumes of its own, so Kubernetes gives it the text of a
ConfigMap or Secret as a variable.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryFile

__all__ = ["Tls"]

_PEM = "-----BEGIN "


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
            if self.ca.startswith(_PEM):
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
            if value and not value.startswith(_PEM):
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
    if not value.startswith(_PEM):
        yield value
        return
    with os.fdopen(os.memfd_create("pem"), "w+b") if hasattr(os, "memfd_create") else TemporaryFile() as file:
        file.write(value.encode())
        file.flush()
        file.seek(0)
        yield f"/dev/fd/{file.fileno()}"


def _reason(error: Exception) -> str:
    return (isinstance(error, OSError) and error.strerror) or str(error)


def _shown(value: str) -> str:
    return "text" if value.startswith(_PEM) else repr(value)

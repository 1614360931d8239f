"""Certificates for TLS on this machine, made by the command ``openssl``: an authority, and what it signs.

A library would be a dependency of every client for what one option of the stand-in needs. The keys lie beside the
certificates, in files for their owner alone.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tvetl.errors import TvetlError

#: The names of this machine that the stand-in listens at.
LOOPBACK = ("IP:127.0.0.1", "IP:::1", "DNS:localhost")
#: Days that a certificate holds. An authority is made anew with each folder.
_DAYS = 365
_NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")


def authority(folder: Path, name: str = "ca") -> Path:
    """Make an authority, ``<name>.pem`` with its key ``<name>.key``; gives the certificate's file. Raises TvetlError.

    What it may do is stated, as Python from 3.13 on demands.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    made = folder / f"{name}.pem"
    _openssl(
        "req", "-x509", *_NEW_KEY, "-days", str(_DAYS), "-subj", f"/CN=tvetl {name} of {os.getpid()}",
        "-addext", "keyUsage=critical,keyCertSign,cRLSign", "-keyout", str(made.with_suffix(".key")), "-out", str(made),
    )  # fmt: skip
    return made


def signed(ca: Path, name: str, hosts: Sequence[str] = LOOPBACK, days: int = _DAYS) -> tuple[Path, Path]:
    """Make a certificate for ``hosts`` beside its authority's; gives its file and its key's. Raises TvetlError."""
    made, key, request, extensions_file = (ca.parent / f"{name}.{kind}" for kind in ("pem", "key", "csr", "ext"))
    extensions = ("basicConstraints=critical,CA:FALSE", "subjectKeyIdentifier=hash", "authorityKeyIdentifier=keyid")
    extensions_file.write_text("\n".join([*extensions, f"subjectAltName={','.join(hosts)}"]))
    _openssl("req", "-new", *_NEW_KEY, "-subj", f"/CN=tvetl {name}", "-keyout", str(key), "-out", str(request))
    _openssl(
        "x509", "-req", "-in", str(request), "-CA", str(ca), "-CAkey", str(ca.with_suffix(".key")), "-CAcreateserial",
        "-days", str(days), "-extfile", str(extensions_file), "-out", str(made),
    )  # fmt: skip
    return made, key


def _openssl(*arguments: str) -> None:
    try:
        done = subprocess.run(["openssl", *arguments], capture_output=True, text=True, check=False)
    except OSError as error:
        hint = "Install it: `apt-get install openssl`, `brew install openssl`."
        raise TvetlError("TLS needs the command openssl, to make certificates", hint=hint) from error
    if done.returncode:
        raise TvetlError(f"openssl {arguments[0]} made no certificate: {done.stderr.strip()[-300:]}")

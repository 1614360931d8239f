"""The server's settings, read once from the environment: frozen, checked, all errors together.

This module reads the mapping that it is given, and the number of CPUs that the container may use. Only
:mod:`tvetl_server.wsgi` reads ``os.environ`` itself.
"""

from __future__ import annotations

import difflib
import math
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from ipaddress import ip_address
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar
from urllib.parse import SplitResult, urlsplit

from tvetl.errors import TvetlError
from tvetl.tls import Tls
from tvetl_server.limits import Limits

__all__ = [
    "SETTINGS",
    "JailMode",
    "Settings",
    "SettingsError",
    "TargetUrl",
    "cpus",
    "read_settings",
    "with_ais_variables",
]

T = TypeVar("T")

DeviceKind = Literal["none", "cuda", "host"]
WithoutDevice = Literal["refuse", "stop", "cpu"]
JailMode = Literal["require", "try", "off"]


class SettingsError(TvetlError):
    """Invalid settings: ``problems`` has a line for each, ``NAME: got ..., expected ...``."""

    exit_code = 2

    def __init__(self, problems: list[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("; ".join(problems), hint="tvetl-server --help lists the settings.")


@dataclass(frozen=True)
class TargetUrl:
    """AIS_TARGET_URL: the URL of our own target for results. The last part of its path is a write secret."""

    scheme: str
    host: str
    path: str = field(repr=False)
    """``/v1/etl/_object/<etl>/<secret>``; never shown."""

    @property
    def secret(self) -> str:
        """The last component of the path. It must never reach a log, a response or a foreign host."""
        return self.path.rstrip("/").rpartition("/")[2]

    def __str__(self) -> str:
        return f"{self.scheme}://{self.host}/..."


@dataclass(frozen=True)
class Settings:
    """All settings of the server. ``repr`` shows no secret."""

    pipeline: str
    """The pipeline's text, JSON or YAML: TVETL_PIPELINE, or the file that it names after ``@``."""

    roots: tuple[Path, ...] | None = None
    """Folders that may be read by file name. None: the target's mounts, found in /proc/self/mountinfo, and there only
    files of the shape ``@<provider>/<bucket>/%ob/<object>``."""

    workers: int = 1
    """Worker processes; the CPUs of this container. Decoding is CPU-bound, and Python runs one thread at a time."""

    decoders: int = 1
    """Decoders of a worker; 1, and a spare one while an object takes long. More decoders than CPUs only compete: with
    2, an object cost 0 to 10 % more. With a device the default is two batches over all workers, as decoders mostly wait
    for it: one batch gathers while the other runs."""

    threads: int = 64
    """Threads of a worker; 64. Each serves one client at a time; the decoders do the work."""

    device: DeviceKind = "none"
    """The device that transforms images beside the CPU. ``none``; ``cuda``: the first visible GPU; ``host``: the GPU's
    code on the CPU, to try it without a GPU."""

    without_device: WithoutDevice = "refuse"
    """What happens where the device is missing at the start, or lost later. ``refuse``: the server does not start, so
    registering fails with the reason; after a loss it continues by the CPU, slower and exact. ``stop``: also after a
    loss it ends, with status 1; AIStore then ends the ETL and every bucket job of its target. ``cpu``: in both cases it
    works by the CPU."""

    visible_gpus: str | None = None
    """CUDA_VISIBLE_DEVICES: the container's GPUs that are visible to the server; the first of them is used."""

    batch: int = 32
    """Largest batch on the device, in images; 32."""

    host: str = "0.0.0.0"
    """Address to listen at; all IPv4 addresses, as the target's requests come through the node. ``::`` for IPv6."""

    port: int = 8000
    """TCP port; 8000, as AIStore's runtime form requires."""

    limits: Limits = field(default_factory=Limits)
    """The limits of one object."""

    delivery_seconds: float = 10.0
    """Seconds for the delivery of a result, retries included; 10, see :attr:`Limits.seconds`. The next stage of a
    pipeline of ETLs does its own work in this time."""

    allow_hosts: tuple[str, ...] = ()
    """Further hosts that may receive results: ``name``, ``.domain`` or address, at any port; none."""

    node_ip: str | None = None
    """Address of the node, from the downward API (status.hostIP). Next stages are reached through it."""

    access_log: bool = False
    """Whether each request writes a line of JSON to stderr; off, as at 500 objects a second it costs too much."""

    jail: JailMode = "try"
    """Whether decoders are jailed: ``try``: by what the kernel has; ``require``: the server does not start where a part
    does not hold; ``off``: not at all, as ops of derived images may need that start programs, write files or open
    sockets."""

    jail_folders: tuple[Path, ...] = ()
    """Further folders that jailed decoders may read, for ops of derived images; none. They have Python's own."""

    target_url: TargetUrl | None = None
    """The URL for results of direct put. None: no direct put, so results go into the response."""

    direct_put: bool = False
    """Whether the ETL was registered for direct put. AIStore asks for it in any case, and accepts the bytes instead."""

    tls: Tls = field(default_factory=Tls)
    """How deliveries over https trust and identify themselves: AIS_CLIENT_CA, AIS_CRT, AIS_CRT_KEY, and
    AIS_SKIP_VERIFY_CRT, as AIStore's SDK has them."""


class Variable(NamedTuple):
    """An environment variable, as ``--help`` and the documentation show it."""

    name: str
    unit: str
    default: str
    help: str


_DEFAULT = Settings(pipeline="")
_LIMITS = _DEFAULT.limits

#: Every variable that is read, in the order of the documentation.
SETTINGS = (
    Variable("TVETL_PIPELINE", "JSON, YAML or @file", "(required)", "the transforms to run"),
    Variable("TVETL_ROOTS", "folders, with :", "(the target's mounts)", "where objects may be read by file name"),
    Variable("TVETL_WORKERS", "processes", "(CPUs of the container)", "processes that serve HTTP"),
    Variable("TVETL_DECODERS", "processes", "1, or as a device needs", "processes of each worker that decode"),
    Variable("TVETL_DEVICE", "none, cuda or host", _DEFAULT.device, "device beside the CPU (docs/gpu.md)"),
    Variable(
        "TVETL_WITHOUT_DEVICE", "refuse, stop or cpu", _DEFAULT.without_device, "if the device is missing or lost"
    ),
    Variable("TVETL_BATCH", "images", str(_DEFAULT.batch), "largest batch on the device"),
    Variable("CUDA_VISIBLE_DEVICES", "GPUs, with ,", "(all)", "the container's GPUs; the first one is used"),
    Variable("TVETL_THREADS", "threads", str(_DEFAULT.threads), "clients that each worker serves at a time"),
    Variable("TVETL_HOST", "address", _DEFAULT.host, "address to listen at"),
    Variable("PORT", "TCP port", str(_DEFAULT.port), "port to listen at; AIStore's runtime form needs 8000"),
    Variable("TVETL_MAX_BYTES", "bytes", str(_LIMITS.max_bytes), "largest source"),
    Variable("TVETL_MAX_SHARD_BYTES", "bytes", str(_LIMITS.max_shard_bytes), "largest shard (.tar) by file name"),
    Variable("TVETL_MAX_PIXELS", "pixels", str(_LIMITS.max_pixels), "largest source image; Pillow's own limit"),
    Variable("TVETL_MAX_FRAMES", "frames", str(_LIMITS.max_frames), "most frames of an animation"),
    Variable("TVETL_MAX_MEMBERS", "members", str(_LIMITS.max_members), "most members of a shard (.tar)"),
    Variable("TVETL_MAX_OUTPUT_PIXELS", "pixels", str(_LIMITS.max_output_pixels), "largest result"),
    Variable("TVETL_SECONDS", "seconds", f"{_LIMITS.seconds:g}", "time limit of an object, without delivery"),
    Variable("TVETL_DELIVERY_SECONDS", "seconds", f"{_DEFAULT.delivery_seconds:g}", "time limit of delivery"),
    Variable("TVETL_ALLOW_HOSTS", "hosts, with ,", "(none)", "further hosts that may receive results"),
    Variable("TVETL_NODE_IP", "address", "(none)", "the node's address (downward API, status.hostIP)"),
    Variable("TVETL_ACCESS_LOG", "off or json", "off", "a line for each request on stderr"),
    Variable("TVETL_JAIL", "require, try or off", _DEFAULT.jail, "whether decoders are jailed (docs/reliability.md)"),
    Variable("TVETL_JAIL_FOLDERS", "folders, with :", "(none)", "further folders that jailed decoders may read"),
    Variable("AIS_TARGET_URL", "URL", "(none)", "set by AIStore: the URL for direct put; a secret"),
    Variable("direct_put", "true or false", "false", "set by AIStore: whether direct put was registered"),
    Variable("AIS_CLIENT_CA", "file or PEM", "(the system's)", "authorities that sign the targets' certificates"),
    Variable("AIS_CRT", "file or PEM", "(none)", "client certificate, for targets that ask for one"),
    Variable("AIS_CRT_KEY", "file or PEM", "(none)", "its private key; a secret"),
    Variable("AIS_SKIP_VERIFY_CRT", "true or false", "false", "send results, and the secret, to unverified hosts"),
)

# A Service called "tvetl..." makes Kubernetes put variables of these shapes into every pod of the namespace.
_KUBERNETES = re.compile(r"TVETL(_.*)?_(SERVICE_(HOST|PORT(_.*)?)|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)")
_DEVICES: Mapping[str, DeviceKind] = {"none": "none", "cuda": "cuda", "host": "host"}
_WITHOUT_DEVICE: Mapping[str, WithoutDevice] = {"refuse": "refuse", "stop": "stop", "cpu": "cpu"}
_JAILS: Mapping[str, JailMode] = {"require": "require", "try": "try", "off": "off"}
_HOST = re.compile(r"\.?[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?")
#: As the SDK reads them, which takes any other word for false.
_SWITCH = {
    word: on for on, words in ((True, "true 1 t y yes on"), (False, "false 0 f n no off")) for word in words.split()
}


def read_settings(env: Mapping[str, str], *, count_cpus: Callable[[], int] | None = None) -> Settings:
    """Read every variable of SETTINGS from ``env``.

    An empty variable counts as unset: a pod YAML cannot always leave one out. Raises SettingsError with *all* problems,
    unknown TVETL_* variables among them.
    """
    reader = _Reader(env)
    limits = Limits(
        max_bytes=reader.integer("TVETL_MAX_BYTES", _LIMITS.max_bytes, 1, 2**40),
        max_shard_bytes=reader.integer("TVETL_MAX_SHARD_BYTES", _LIMITS.max_shard_bytes, 1, 2**50),
        max_pixels=reader.integer("TVETL_MAX_PIXELS", _LIMITS.max_pixels, 1, 2**40),
        max_frames=reader.integer("TVETL_MAX_FRAMES", _LIMITS.max_frames, 1, 2**31),
        max_members=reader.integer("TVETL_MAX_MEMBERS", _LIMITS.max_members, 1, 2**31),
        max_output_pixels=reader.integer("TVETL_MAX_OUTPUT_PIXELS", _LIMITS.max_output_pixels, 1, 2**40),
        seconds=reader.seconds("TVETL_SECONDS", _LIMITS.seconds),
    )
    pipeline = reader.text_or_file("TVETL_PIPELINE")
    roots = reader.folders("TVETL_ROOTS")
    workers = reader.integer("TVETL_WORKERS", (count_cpus or cpus)(), 1, 1024)
    device = reader.choice("TVETL_DEVICE", _DEVICES, "none")
    batch = reader.integer("TVETL_BATCH", _DEFAULT.batch, 1, 256)
    settings = Settings(
        pipeline=pipeline,
        roots=roots,
        workers=workers,
        decoders=reader.integer("TVETL_DECODERS", 1 if device == "none" else math.ceil(2 * batch / workers), 1, 512),
        device=device,
        without_device=reader.choice("TVETL_WITHOUT_DEVICE", _WITHOUT_DEVICE, "refuse"),
        visible_gpus=reader.gpus("CUDA_VISIBLE_DEVICES"),
        batch=batch,
        threads=reader.integer("TVETL_THREADS", _DEFAULT.threads, 1, 256),
        host=reader.address("TVETL_HOST") or _DEFAULT.host,
        port=reader.integer("PORT", _DEFAULT.port, 1, 65535),
        limits=limits,
        delivery_seconds=reader.seconds("TVETL_DELIVERY_SECONDS", _DEFAULT.delivery_seconds),
        allow_hosts=reader.hosts("TVETL_ALLOW_HOSTS"),
        node_ip=reader.address("TVETL_NODE_IP"),
        access_log=reader.choice("TVETL_ACCESS_LOG", {"off": False, "json": True}, "off"),
        jail=reader.choice("TVETL_JAIL", _JAILS, _DEFAULT.jail),
        jail_folders=reader.folders("TVETL_JAIL_FOLDERS") or (),
        target_url=reader.target("AIS_TARGET_URL"),
        direct_put=reader.choice("direct_put", {"true": True, "false": False}, "false"),
        tls=reader.tls(),
    )
    reader.unknown()
    if reader.problems:
        raise SettingsError(reader.problems)
    return settings


def with_ais_variables(settings: Settings, env: Mapping[str, str]) -> Settings:
    """The settings with what the AIS_ variables say, which :func:`read_settings` has accepted."""
    reader = _Reader(env)
    return replace(settings, target_url=reader.target("AIS_TARGET_URL"), tls=reader.tls())


class _Reader:
    """Reads values from the environment, and collects the problems with them."""

    def __init__(self, env: Mapping[str, str]) -> None:
        self.env = env
        self.problems: list[str] = []

    def reject(self, name: str, got: str, expected: str) -> None:
        self.problems.append(f"{name}: got {got}, expected {expected}")

    def get(self, name: str) -> str:
        return self.env.get(name, "").strip()

    def integer(self, name: str, default: int, low: int, high: int) -> int:
        text = self.get(name)
        if not text:
            return default
        if re.fullmatch(r"[0-9]{1,15}", text) and low <= int(text) <= high:
            return int(text)
        self.reject(name, repr(text), f"a whole number from {low} to {high}")
        return default

    def seconds(self, name: str, default: float) -> float:
        text = self.get(name)
        if not text:
            return default
        if re.fullmatch(r"[0-9]{1,6}(\.[0-9]{1,6})?", text) and 0.1 <= float(text) <= 86400:
            return float(text)
        self.reject(name, repr(text), "seconds from 0.1 to 86400")
        return default

    def choice(self, name: str, choices: Mapping[str, T], default: str) -> T:
        text = self.get(name).lower() or default
        if text not in choices:
            self.reject(name, repr(text), " or ".join(choices))
        return choices.get(text, choices[default])

    def text_or_file(self, name: str) -> str:
        text = self.get(name)
        if not text:
            self.reject(name, "nothing", "a pipeline as JSON or YAML, or @ and the name of a file with one")
        elif text.startswith("@"):
            try:
                return Path(text[1:]).read_text(encoding="utf-8")
            except (OSError, ValueError) as error:
                reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
                self.reject(name, f"{text!r} ({reason})", "the name of a file that can be read")
        return text

    def folders(self, name: str) -> tuple[Path, ...] | None:
        text = self.get(name)
        folders = tuple(Path(part) for part in text.split(":") if part)
        for folder in folders:
            if not folder.is_absolute() or not folder.is_dir():
                self.reject(name, repr(str(folder)), "folders that exist, each from / on, with : between them")
        return folders or None

    def hosts(self, name: str) -> tuple[str, ...]:
        hosts = tuple(part.strip().lower() for part in self.get(name).split(",") if part.strip())
        for host in hosts:
            if not _HOST.fullmatch(host) and not short_address(host):
                self.reject(name, repr(host), "names, .domains or addresses without a port, with commas between them")
        return hosts

    def gpus(self, name: str) -> str | None:
        """Unlike elsewhere, an empty value is not an unset one: no GPU is visible. The driver checks the names."""
        text = self.env.get(name)
        if text is not None and not re.fullmatch(r"[A-Za-z0-9 ,/_-]*", text):
            self.reject(name, repr(text), "numbers or ids of GPUs, with commas between them")
        return text

    def address(self, name: str) -> str | None:
        text = self.get(name)
        if text and not short_address(text) and text != "localhost":
            self.reject(name, repr(text), "an IP address")
        return text or None

    def target(self, name: str) -> TargetUrl | None:
        text = self.get(name)
        if not text:
            return None
        url = _parse_url(text)
        if url is None or url.scheme not in ("http", "https") or not url.hostname or url.username is not None:
            self.reject(name, "something else (not shown: it holds a secret)", "http://<target>:<port>/<path>")
            return None
        if url.query or url.fragment or not url.path.strip("/"):
            self.reject(name, "no path, a query or a fragment (not shown)", "http://<target>:<port>/<path>")
            return None
        return TargetUrl(url.scheme, url.netloc, url.path.rstrip("/"))

    def tls(self) -> Tls:
        """Checked here, so that a start fails for it and not the first delivery."""
        skip = self.choice("AIS_SKIP_VERIFY_CRT", _SWITCH, "false")
        tls = Tls(self.get("AIS_CLIENT_CA"), self.get("AIS_CRT"), self.get("AIS_CRT_KEY"), not skip)
        if tls != Tls(verify=tls.verify):
            try:
                tls.context()
            except ValueError as error:
                self.problems.append(str(error))
        return tls

    def unknown(self) -> None:
        """Refuse unknown TVETL_* variables: ignoring a misspelled one would change a job silently."""
        known = [variable.name for variable in SETTINGS]
        for name in sorted(self.env):
            if name.startswith("TVETL_") and name not in known and not _KUBERNETES.fullmatch(name):
                close = difflib.get_close_matches(name, known, 1)
                self.problems.append(
                    f"{name}: no such setting" + (f"; did you mean {close[0]}?" if close else "; see --help")
                )


def short_address(text: str) -> str | None:
    """The shortest form of an IP address; None for any other text."""
    try:
        return str(ip_address(text))
    except ValueError:
        return None


def _parse_url(text: str) -> SplitResult | None:
    try:
        url = urlsplit(text)
        _ = url.port  # raises where it is no number
    except ValueError:
        return None
    return url


def cpus(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """CPUs of this container, at least 1: by affinity, and by the quota of cgroup v2, else v1, rounded up."""
    # macOS has no affinity; there the server runs only for `tvetl local`.
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    quota = _quota(cgroup)
    return max(1, count if quota is None else min(count, math.ceil(quota)))


def _quota(cgroup: Path) -> float | None:
    """CPUs by quota; None without one. v2 has one file, "<quota|max> <period>"; v1 has two, with -1 for no quota."""
    try:
        parts = (cgroup / "cpu.max").read_text().split()
    except OSError:
        try:
            parts = [(cgroup / "cpu" / f"cpu.cfs_{part}_us").read_text().strip() for part in ("quota", "period")]
        except OSError:
            return None
    try:
        quota, period = (float(part) for part in parts)
    except ValueError:  # "max"
        return None
    return quota / period if quota > 0 and period > 0 else None


def describe() -> str:
    """The table of SETTINGS as text, for ``--help``: name, unit, default, meaning."""
    name, unit, default, _ = (max(map(len, column)) for column in zip(*SETTINGS, strict=True))
    return "\n".join(f"  {v.name:{name}}  {v.unit:{unit}}  {v.default:{default}}  {v.help}" for v in SETTINGS)

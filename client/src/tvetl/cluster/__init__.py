"""A cluster through the AIStore SDK, 1.26 or 2.x: the only package that imports it.

``client`` is the cluster itself, ``registration`` how an ETL starts, ``connection`` how we connect, ``listing`` how
buckets are listed into ``names``. ``snapshots`` has the state of ETLs and jobs, and ``error_mapping`` turns answers and
the network's errors into ours. ``folders`` copies files into buckets and objects into files: ``local_files`` finds and
names the files, ``transport`` copies one. Not here: waiting for jobs and judging them
(:mod:`tvetl.jobs`), reading many objects at once (:mod:`tvetl.fetch`).
"""

from __future__ import annotations

from tvetl.access import Access
from tvetl.cluster.client import Cluster
from tvetl.cluster.connection import Target
from tvetl.cluster.error_mapping import Json, ObjectError
from tvetl.cluster.names import Names, Table
from tvetl.cluster.registration import Form
from tvetl.cluster.snapshots import EtlInfo, Registered, Snapshot

__all__ = [
    "Access",
    "Cluster",
    "EtlInfo",
    "Form",
    "Json",
    "Names",
    "ObjectError",
    "Registered",
    "Snapshot",
    "Table",
    "Target",
]

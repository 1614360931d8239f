"""The stand-in for AIStore on one machine: the SDK, this client and the server over real HTTP, without Kubernetes.

``stand_in`` starts and stops it. ``api`` has the routes, ``http`` and ``messages`` the protocol, ``guard`` tokens and
``certificates`` TLS. ``store`` has the buckets as folders, ``object_names`` the names of their files, ``remote`` the
buckets of other clusters. ``etl``, ``pods`` and ``watchdog`` run transformers, ``xactions`` and ``copying`` are the
jobs. Not here: AIStore's other features,
and any safety of data (docs/local.md lists the differences).
"""

from __future__ import annotations

from tvetl.local.stand_in import LocalCluster, serve

__all__ = ["LocalCluster", "serve"]

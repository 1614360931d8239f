"""The stand-in for AIStore on one machine: the SDK, this client and the server over real HTTP, without Kubernetes.

``stand_in`` starts and stops it, ``api`` has the routes, ``http`` the protocol, ``store`` the buckets as folders.
``etl`` and ``pods`` run transformers, ``xactions`` and ``copying`` are the jobs. Not here: AIStore's other features,
and any safety of data (docs/local.md lists the differences).
"""

from __future__ import annotations

from tvetl.local.stand_in import LocalCluster, serve

__all__ = ["LocalCluster", "serve"]

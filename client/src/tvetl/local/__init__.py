"""The stand-in for AIStore on one machine: the SDK, this client and the server over real HTTP, without Kubernetes.

It is no store for anyone's data, and it is not AIStore: it answers what tvetl's client, the SDK's examples and the
recordings of a real cluster ask (docs/local.md says what differs).
"""

from __future__ import annotations

from tvetl.local.stand_in import LocalCluster, serve

__all__ = ["LocalCluster", "serve"]

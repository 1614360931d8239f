"""The JSON of AIStore's requests that the stand-in reads, and the bucket properties that it answers."""

from __future__ import annotations

import msgspec

#: The properties of a bucket with nothing set; the SDK wants all of them.
BUCKET_PROPS: dict[str, object] = msgspec.json.decode(
    '{"backend_bck":{"name":"","provider":"","namespace":{"uuid":"","name":""}},"write_policy":{"data":"immediate",'
    '"md":"immediate"},"provider":"ais","Renamed":"","checksum":{"type":"xxhash2","validate_cold_get":false,'
    '"validate_warm_get":false,"validate_obj_move":false,"enable_read_range":false},"extra":{"aws":{},"gcp":{},'
    '"oci":{}},"rate_limit":{"backend":{"interval":"1m","max_tokens":1000,"enabled":false,"num_retries":3},'
    '"frontend":{"interval":"1m","max_tokens":1000,"enabled":false,"burst_size":375}},"ec":{"compression":"never",'
    '"bundle_multiplier":2,"burst_buffer":512,"objsize_limit":262144,"data_slices":2,"parity_slices":2,'
    '"enabled":false,"disk_only":false},"chunks":{"objsize_limit":"0B","max_monolithic_size":"1TiB",'
    '"chunk_size":"1GiB"},"mirror":{"copies":2,"burst_buffer":512,"enabled":false},"lru":{"dont_evict_time":"2h0m",'
    '"capacity_upd_time":"10m","batch_size":32768,"enabled":false},"access":"18446744073709551615","features":"0",'
    '"bid":"0","created":"0","versioning":{"enabled":true,"validate_warm_get":false,"synchronize":false}}'
)


class Namespace(msgspec.Struct):
    uuid: str = ""
    name: str = ""


class Bck(msgspec.Struct):
    name: str = ""
    provider: str = "ais"
    namespace: Namespace | None = None

    @property
    def space(self) -> str:
        """``@cluster#namespace``."""
        return f"@{self.namespace.uuid}#{self.namespace.name}" if self.namespace else ""


_SPELT = {"latest": "latest-ver", "workers": "num-workers", "job": "ID", "kind": "Kind", "etl": "id"}


class Value(msgspec.Struct, rename=_SPELT):
    """The value of any action: no two actions disagree about a member."""

    prefix: str = ""
    pagesize: int = 0
    uuid: str = ""
    props: str = ""
    continuation_token: str = ""
    flags: str = "0"
    objnames: list[str] | None = None
    template: str | None = None
    ext: dict[str, str] | None = None
    coer: bool = False
    prepend: str = ""
    dry_run: bool = False
    latest: bool = False
    workers: int = 0
    etl: str = ""
    pipeline: list[str] | None = None
    tobck: Bck | None = None
    job: str = ""
    kind: str = ""


class Action(msgspec.Struct):
    action: str = ""
    name: str = ""
    value: Value | None = None


class Query(msgspec.Struct, rename={"job": "ID", "kind_": "Kind"}):
    """A query for jobs; ``running_all`` spells its members differently."""

    job: str = ""
    kind_: str = ""
    kind: str = ""

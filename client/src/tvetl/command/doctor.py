"""Checks of an endpoint: each thing that ETLs need, with what to do where it is missing.

Changes nothing: its one PUT registers a pod without containers, which every AIStore refuses. The refusal shows which
form the cluster takes. Requests go to AIStore's API directly, so that an SDK that does not fit is a finding and not a
failure of ours.
"""

from __future__ import annotations

import base64
import json
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from email.utils import parsedate_to_datetime
from importlib.metadata import version
from typing import Literal, TypeAlias

import requests
import urllib3

from tvetl import proxies
from tvetl.access import TOKEN, Access, read_access
from tvetl.errors import NotReachable, TvetlError, UsageError
from tvetl.pod import DEFAULT_IMAGE

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"
Level = Literal["ok", "warn", "fail"]

#: Seconds to connect and to wait for an answer; a later one counts as none.
_TIMEOUT = (3.0, 15.0)
#: A pod that nothing can start: AIStore wants exactly one container.
_NO_POD = "apiVersion: v1\nkind: Pod\nmetadata: {name: tvetl-doctor}\nspec: {containers: []}\n"
#: AIStore's own defaults, in percent of a disk: from the first on it evicts, from the second on it stores nothing.
_HIGH_WATER, _FULL = 90, 95
#: Go's message where a target could not connect to a pod: "dial tcp 10.0.0.2:31234: connect: connection refused".
_DIAL = re.compile(r"dial tcp (\S+?): (?:connect: )?([\w /]+)")
#: What a server's log says at its start, and where a part is missing.
_JAIL = re.compile(r"The jail of decoders: (.+)")
_NO_PART = re.compile(r"off|none|.*; without .*")
_STAND_IN = "tvetl-local"
#: Seconds that two clocks may differ, and that a token should hold at least.
_APART, _SOON = 60, 600
_FEW_RIGHTS = "Without the right SHOW-CLUSTER no more is told here. Whoever may read a bucket can do so all the same."


@dataclass(frozen=True)
class Finding:
    """The result of one check: ``hint`` is what to do where ``level`` is not ok."""

    check: str
    level: Level
    message: str
    hint: str = ""


def examine(endpoint: str) -> list[Finding]:
    """All findings about the cluster at ``endpoint``, in order of importance. Raises nothing of its own."""
    try:
        access = read_access()
        _ = access.token
        if endpoint.startswith("https:"):
            access.tls()
    except UsageError as error:
        return [Finding("variables", "fail", error.message, error.hint)]
    return list(_Examination(endpoint.rstrip("/"), access).findings())


class _Examination:
    """The checks, with what the later ones need to know from the earlier ones."""

    def __init__(self, endpoint: str, access: Access) -> None:
        self.endpoint, self.access = endpoint, access
        self.is_stand_in = False
        self.behind: float | None = None  # seconds of this machine's clock behind the cluster's

    def findings(self) -> Iterator[Finding]:
        reachable = self._reachable()
        if reachable.level == "fail":
            yield reachable
            return
        status, body = self._get("daemon?what=smap")
        cluster_map = _mapping(body)
        refused = self._refused(status, body)
        if not refused and "tmap" not in cluster_map:
            yield self._no_aistore(status, "it has no cluster map")
            return
        yield reachable
        yield from self._tls()
        yield from self._clock()
        if refused:
            yield refused
            return
        yield from self._token()
        self.is_stand_in = cluster_map.get("uuid") == _STAND_IN
        targets = {
            name: str(_mapping(_mapping(node).get("public_net")).get("direct_url", ""))
            for name, node in _mapping(cluster_map.get("tmap")).items()
        }
        yield from self._proxied([self.endpoint, *targets.values()])
        state = {name: self._node(url) for name, url in targets.items()}
        yield self._version(state)
        etl = self._etl()
        yield etl
        yield self._targets(targets, state)
        yield self._disks(state)
        yield from self._readers(state)
        if etl.level != "fail":
            yield from self._form()
            yield from self._pods()

    # The checks

    def _reachable(self) -> Finding:
        status, body = self._get("health")
        if status == 200:
            return Finding("reachable", "ok", f"AIStore answers at {self.endpoint}")
        if not status:
            return Finding("reachable", "fail", _message(body), str(_mapping(body).get("hint", "")))
        if isinstance(error := self._explained(status, body), NotReachable) and "https" in error.message:
            return Finding("reachable", "fail", error.message, error.hint)
        return self._no_aistore(status, f"HTTP {status} to /v1/health")

    def _no_aistore(self, status: int, what: str) -> Finding:
        if proxy := proxies.before(self.endpoint):
            message = f"no AIStore answers for {self.endpoint} through {proxy}: {what}"
            return Finding("reachable", "fail", message, proxy.hint)
        if status == 503:
            hint = "Wait until its targets have joined: `kubectl -n ais get pods` shows them."
            return Finding("reachable", "fail", "AIStore is starting, and takes no requests yet", hint)
        hint = "`tvetl local` starts a cluster on this machine; AIS_ENDPOINT or --endpoint name another."
        return Finding("reachable", "fail", f"what answers at {self.endpoint} is no AIStore: {what}", hint)

    def _tls(self) -> Iterator[Finding]:
        access = self.access
        if not self.endpoint.startswith("https:"):
            return
        if not access.verify:
            hint = "Unset AIS_SKIP_VERIFY_CRT, and let AIS_CLIENT_CA name the cluster's authority."
            yield Finding("tls", "warn", "certificates are not verified (AIS_SKIP_VERIFY_CRT)", hint)
        elif access.authority and access.bundle:
            hint = f"`unset {access.bundle}` where programs of your own read by the SDK."
            message = f"AIS_CLIENT_CA verifies certificates here; the SDK alone would take {access.bundle}"
            yield Finding("tls", "warn", message, hint)
        else:
            yield Finding("tls", "ok", f"certificates are verified by {access.trust}")

    def _clock(self) -> Iterator[Finding]:
        if self.behind is not None and abs(self.behind) > _APART:
            way = "behind" if self.behind > 0 else "ahead of"
            message = f"this machine's clock is {abs(self.behind):.0f} s {way} the cluster's"
            hint = "Set the clocks: tokens and certificates hold, or not, by each machine's own."
            yield Finding("clock", "warn", message, hint)

    def _token(self) -> Iterator[Finding]:
        if not (source := self.access.bearer.source):
            return
        end = self.access.bearer.ends()
        left = None if end is None else end - time.time()
        message = f"the cluster takes the token of {source}" + (f", for {left:.0f} s more" if left is not None else "")
        if left is not None and left < _SOON and source == TOKEN:
            hint = "AIS_AUTHN_TOKEN_FILE names a file in its place, which is read anew when it is renewed."
            yield Finding("token", "warn", message, hint)
        else:
            yield Finding("token", "ok", message)

    def _refused(self, status: int, body: Json) -> Finding | None:
        """Why AIStore refuses the token, or a request without one; None where it does not."""
        if status not in (401, 403):
            return None
        error = self._explained(status, body)
        if status == 403:
            return Finding("token", "warn", error.message, _FEW_RIGHTS)
        return Finding("token", "fail", error.message, error.hint + self.access.bearer.apart(error.message))

    def _explained(self, status: int, body: Json) -> TvetlError:
        from tvetl.cluster.error_mapping import refused  # needs the SDK, which may be what is wrong

        text = body if isinstance(body, str) else json.dumps(body)
        return refused(self.endpoint, status, self.access.bearer.hidden(text), proxies.before(self.endpoint))

    def _proxied(self, urls: Sequence[str]) -> Iterator[Finding]:
        """The HTTP proxies of the environment before the cluster's nodes, which are seldom meant."""
        found = {proxy.host: proxy for proxy in map(proxies.before, urls) if proxy}
        if found:
            proxy = next(iter(found.values()))
            message = f"requests to {', '.join(found)} go through {proxy}, so that training input is read slower"
            yield Finding("proxy", "warn", message, replace(proxy, host=",".join(found)).hint)

    def _node(self, url: str) -> dict[str, Json] | None:
        """A target's own status; None where nobody answers at its address, empty where it refuses."""
        status, body = self._get("daemon?what=node_status", url)
        return None if not status else _mapping(body) if status == 200 else {}

    def _version(self, state: Mapping[str, dict[str, Json] | None]) -> Finding:
        if self.is_stand_in:
            return Finding("version", "ok", "tvetl's stand-in for AIStore 5.0")
        versions = sorted(
            {str(status["ais_version"]) for status in state.values() if status and "ais_version" in status}
        )
        if not versions:
            hint = "Are there targets, and can they be reached?"
            return Finding("version", "warn", "no target tells its version", hint)
        if len(versions) > 1:
            hint = "Bring all to one version."
            return Finding("version", "warn", f"the targets differ: {', '.join(versions)}", hint)
        if not re.match(r"v?5\.0\b", versions[0]):
            hint = "tvetl was tried with AIStore 5.0; the end-to-end tests, `make e2e`, tell whether this works too."
            return Finding("version", "warn", f"AIStore {versions[0]}", hint)
        return Finding("version", "ok", f"AIStore {versions[0]}")

    def _etl(self) -> Finding:
        status, body = self._get("etl")
        if status == 200:
            return Finding("etl", "ok", "ETL is compiled in")
        if "requires Kubernetes" in _message(body):
            hint = "AIStore starts ETLs as pods: see k8s/README.md; `tvetl local` needs no Kubernetes."
            return Finding("etl", "fail", "AIStore runs without Kubernetes", hint)
        if "without ETL support" in _message(body):
            hint = "Take an image built with AIStore's `etl` tag: aistorage/aisnode:v5.0-etl, not v5.0."
            return Finding("etl", "fail", "this AIStore was built without ETL", hint)
        if refused := self._refused(status, body):
            hint = "ETLs are for administrators where AIStore authenticates; others say an ETL's pipeline, --pipeline."
            message = f"the token has no right to ETLs: {refused.message}"
            return replace(refused, check="etl", level="fail", message=message, hint=hint)
        return Finding("etl", "fail", f"ETLs cannot be listed: {_message(body)} (HTTP {status})")

    def _targets(self, targets: Mapping[str, str], state: Mapping[str, dict[str, Json] | None]) -> Finding:
        if not targets:
            hint = "`kubectl -n ais get pods` shows whether they start, `kubectl -n ais logs` why not."
            return Finding("targets", "fail", "the cluster has no targets", hint)
        lost = sorted(url for name, url in targets.items() if state[name] is None)
        if lost:
            hint = (
                "Reads are sent on to the targets: run the client where it reaches the nodes, or inside of Kubernetes."
            )
            behind = [proxy for proxy in map(proxies.before, lost) if proxy]
            if behind:
                hint = replace(behind[0], host=",".join(dict.fromkeys(proxy.host for proxy in behind))).hint
            through = f" through {behind[0]}" if behind else ""
            return Finding("targets", "fail", f"from here nobody answers at {', '.join(lost)}{through}", hint)
        direct = "results go directly to other targets" if len(targets) > 1 else "alone, so without direct put"
        return Finding("targets", "ok", f"{len(targets)} of {len(targets)} answer from here, {direct}")

    def _disks(self, state: Mapping[str, dict[str, Json] | None]) -> Finding:
        if self.is_stand_in:
            return Finding("disks", "ok", "the stand-in stores into a folder")
        space = _mapping(_mapping(self._get("cluster?what=cluster_config")[1]).get("space"))
        high, full = _whole(space.get("highwm"), _HIGH_WATER), _whole(space.get("out_of_space"), _FULL)
        disks = [_mapping(node.get("capacity")) for node in state.values() if node]
        if not disks:
            return Finding("disks", "warn", "no target tells how full its disks are")
        used = max(_whole(disk.get("pct_max"), 0) for disk in disks)
        message = f"the fullest disk is {used} % full; high mark {high} %, no more is stored from {full} %"
        trouble = "; ".join(str(disk["cs_err"]) for disk in disks if disk.get("cs_err"))
        hint = "Make room on the targets' disks: `ais storage summary`, `minikube ssh -- df -h /data`."
        if used >= full:
            return Finding("disks", "fail", message, hint)
        if used >= high or trouble:
            return Finding("disks", "warn", f"{message}{'; ' + trouble if trouble else ''}", hint)
        return Finding("disks", "ok", message)

    def _readers(self, state: Mapping[str, dict[str, Json] | None]) -> Iterator[Finding]:
        """How many objects a job of AIStore's reads at once: by default one for each mountpath of each target."""
        paths = [len(_mapping(_mapping(node.get("capacity")).get("mountpaths"))) for node in state.values() if node]
        if self.is_stand_in or not sum(paths):
            return
        message = f"a job reads {_count(sum(paths), 'object')} at once: {_count(len(paths), 'target')}, "
        message += _count(sum(paths), "mountpath")
        if sum(paths) > 1:
            yield Finding("readers", "ok", message)
        else:
            hint = "A node of several CPUs is idle then: `tvetl transform --workers N` lets N objects be read at once."
            yield Finding("readers", "warn", message, hint)

    def _form(self) -> Iterator[Finding]:
        """The form of registering that the cluster takes, and what it means for the image."""
        spec = base64.b64encode(_NO_POD.encode()).decode()
        pod = {"name": "tvetl-doctor", "communication": "hpush://", "spec": spec}
        status, body = self._request("PUT", f"{self.endpoint}/v1/etl", pod)
        message = _message(body)
        sdk = version("aistore")
        how = "init_spec" if sdk.startswith("1.") else "PUT /v1/etl, as its SDK has no init_spec"
        if status == 400 and "number of containers" in message:
            yield Finding("form", "ok", f"takes a pod YAML (aistore {sdk}: {how})")
            yield Finding(
                "image", "ok", f"{DEFAULT_IMAGE} need only be on every node, as `minikube image load` brings it"
            )
        elif status == 400 and "runtime.image" in message:
            yield Finding("form", "warn", "takes the runtime form alone: no resources, no security settings")
            hint = "Push the image, and name it so: `tvetl register --image REGISTRY/tvetl-server:VERSION`."
            yield Finding("image", "warn", "the runtime form pulls at every start (imagePullPolicy Always)", hint)
        else:
            hint = "Registering asks for an administrator's rights." if status in (401, 403) else ""
            yield Finding("form", "warn", f"does not tell which form it takes: {message} (HTTP {status})", hint)

    def _pods(self) -> Iterator[Finding]:
        """For each ETL: whether its pods run, and whether its targets reach them."""
        for row in _rows(self._get("etl")[1]):
            name, stage = str(row.get("id")), str(row.get("stage"))
            if stage != "Running":
                hint = f"`tvetl start {name}` starts it, `tvetl rm {name}` frees its name."
                yield Finding("pods", "warn", f"{name} is {stage.lower()}", hint)
                continue
            status, body = self._get(f"etl/{name}/health")
            if status != 200 and not self.is_stand_in:  # as where somebody deleted a pod by force
                hint = f"`tvetl stop {name}` and `tvetl start {name}` make its pods anew."
                yield Finding("pods", "fail", f"{name}: its pods cannot be looked at: {_message(body)}", hint)
                continue
            health = {str(r.get("target_id")): str(r.get("health_status")) for r in _rows(body)}
            bad = {target: status for target, status in health.items() if status != "Running"}
            details = _mapping(self._get(f"etl/{name}")[1])
            unreached = {
                found[1]: found[2] for error in _rows(details.get("obj_errors")) if (found := _DIAL.search(str(error)))
            }
            if bad:
                hint = (
                    f"`tvetl logs {name}` shows what they wrote, `kubectl -n ais describe pods` why one does not run."
                )
                yield Finding(
                    "pods", "fail", f"{name}: " + ", ".join(f"{t} is {s}" for t, s in sorted(bad.items())), hint
                )
            elif unreached:
                hint = "Targets call their transformers at a node port: do network policies or a firewall let them?"
                ports = ", ".join(f"{address} ({why.strip()})" for address, why in sorted(unreached.items()))
                yield Finding("pods", "fail", f"{name}: targets did not reach the node port {ports}", hint)
            else:
                yield Finding("pods", "ok", f"{name} runs, and its targets reach it")
            yield from self._jail(name)

    def _jail(self, name: str) -> Iterator[Finding]:
        """Whether the decoders of an ETL are jailed, by the logs of its pods."""
        logs = [base64.b64decode(str(row.get("logs"))) for row in _rows(self._get(f"etl/{name}/logs")[1])]
        reports = [found[1] for log in logs if (found := _JAIL.search(log.decode(errors="replace")))]
        for report in dict.fromkeys(reports):
            if _NO_PART.fullmatch(report):
                hint = "docs/reliability.md says what each part needs; TVETL_JAIL=require starts no server without."
                yield Finding("jail", "warn", f"{name}: the jail of its decoders: {report}", hint)
            else:
                yield Finding("jail", "ok", f"{name}: its decoders are jailed ({report})")

    # Requests

    def _get(self, path: str, at: str = "") -> tuple[int, Json]:
        return self._request("GET", f"{at or self.endpoint}/v1/{path}")

    def _request(self, method: str, url: str, message: dict[str, str] | None = None) -> tuple[int, Json]:
        """Status and answer; status 0, with a message and a hint, where nobody answered.

        Targets get no token: what they are asked here is for everybody.
        """
        token = self.access.token if url.startswith(f"{self.endpoint}/") else ""
        if not self.access.verify:
            urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)  # it is a finding
        try:
            answer = requests.request(
                method, url, json=message, timeout=_TIMEOUT, allow_redirects=False, verify=self.access.verify,
                cert=self.access.certificate, headers={"Authorization": f"Bearer {token}"} if token else None,
            )  # fmt: skip
        except requests.RequestException as error:
            from tvetl.cluster.error_mapping import not_reached  # needs the SDK, which may be what is wrong

            explained = not_reached(url.partition("/v1/")[0], error)
            return 0, {"message": explained.message, "hint": explained.hint}
        with suppress(ValueError, TypeError):
            self.behind = parsedate_to_datetime(answer.headers.get("Date", "")).timestamp() - time.time()
        try:
            body: Json = answer.json()
        except ValueError:
            body = answer.text
        return answer.status_code, body


def _message(body: Json) -> str:
    """AIStore's sentence in an error."""
    return str(_mapping(body).get("message", body)).strip()


def _mapping(value: Json) -> dict[str, Json]:
    return value if isinstance(value, dict) else {}


def _rows(value: Json) -> list[dict[str, Json]]:
    return [_mapping(row) for row in value] if isinstance(value, list) else []


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _whole(value: Json, default: int) -> int:
    return value if isinstance(value, int) else default

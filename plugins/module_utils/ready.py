# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Waiting for named objects: what ready means for each kind, and a wait that ends as soon as it is known not to succeed.

All objects are waited for at once. A look asks for the objects kind by kind and namespace by namespace, so its cost grows with
the number of groups still awaited, not with the number of objects.
"""

from __future__ import annotations

import datetime
import difflib
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from ansible_collections.mlops.platform.plugins.module_utils.client import ApiError, ClusterError, UnknownKind
from ansible_collections.mlops.platform.plugins.module_utils.diagnose import (
    CERT_MANAGER,
    KNATIVE,
    KSERVE,
    TRAINING_JOBS,
    Cause,
    Patience,
    Snapshot,
    causes,
    condition,
    shorten,
)

FIRST_PAUSE, LONGEST_PAUSE = 0.3, 1.0  # seconds between looks
DIAGNOSE_EVERY = 2.0  # a diagnosis reads pods and events, which are longer lists
TROUBLE_ALLOWED = 30.0  # how long the API server may be away in the middle of a wait
FEW = 2  # up to so many objects of a group are asked for one by one
PROBE_TIMEOUT = 3.0
SETTLE = 2.5  # kube-proxy writes its rules at most once a second
FRESH = 10.0

# Kinds whose objects have no state to wait for.
STATELESS = {
    "ConfigMap", "Secret", "ServiceAccount", "Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding", "StorageClass", "PriorityClass",
    "IngressClass", "RuntimeClass", "NetworkPolicy", "LimitRange", "ResourceQuota", "Lease", "PodDisruptionBudget",
    "HorizontalPodAutoscaler", "ClusterServingRuntime", "ServingRuntime", "Endpoints", "EndpointSlice", "CronJob",
}  # fmt: skip
STATELESS_GROUPS = ("networking.istio.io", "security.istio.io", "telemetry.istio.io", "extensions.istio.io")
DEFAULT_CONDITION = {
    **{"APIService": "Available", "Gateway": "Programmed", "GatewayClass": "Accepted", "Experiment": "Succeeded"},
    **dict.fromkeys(TRAINING_JOBS, "Succeeded"),
}


@dataclass(frozen=True)
class Target:
    """An object to wait for, as the user names it."""

    kind: str
    name: str
    namespace: str | None = None
    api_version: str | None = None
    condition: str | None = None
    replicas: int | None = None

    @classmethod
    def parse(cls, spec: dict) -> Target:
        """From the mapping that playbooks write."""
        api_version = spec.get("apiVersion") or spec.get("api_version")
        return cls(spec["kind"], spec["name"], spec.get("namespace") or None, api_version, spec.get("condition"), spec.get("replicas"))

    def __str__(self) -> str:
        return "/".join(part for part in (self.kind.lower(), self.namespace, self.name) if part)

    @property
    def key(self) -> str:
        """Tells it from the other objects of the same wait."""
        return "|".join(str(part) for part in (self.api_version, self, self.condition, self.replicas))


@dataclass
class Verdict:
    """What one look at an object says. `failed`: it will not become ready by itself."""

    ready: bool
    text: str
    failed: bool = False


@dataclass
class Awaited:
    """A target, and what the last look showed."""

    target: Target
    verdict: Verdict = field(default_factory=lambda: Verdict(False, "not looked at yet"))
    live: dict | None = None
    causes: list[Cause] = field(default_factory=list)
    seconds: float | None = None  # when it was first seen ready

    def line(self) -> str:
        """Its state in one line."""
        why = shorten(f"{self.causes[0].reason}: {self.causes[0].message}", 160) if self.causes and not self.verdict.ready else ""
        return f"{self.target}: {self.verdict.text}" + (f" ({why})" if why else "")


# -- what ready means, kind by kind -------------------------------------------------------------------------------------


def judge(look: Look, live: dict, target: Target) -> Verdict:
    """Whether the live object is ready in the sense of the target."""
    meta = live["metadata"]
    if meta.get("deletionTimestamp"):
        finalizers = ", ".join(meta.get("finalizers") or (live.get("spec") or {}).get("finalizers") or [])
        return Verdict(False, "is being deleted" + (f", held by {finalizers}" if finalizers else ""))
    if target.condition:
        return _condition(live, target.condition)
    group, kind = live.get("apiVersion", "").rpartition("/")[0], live["kind"]
    if target.replicas is not None:
        return _replicas(look, live, target.replicas)
    return _RULES.get((group, kind), _generic)(look, live)


def _observed(live: dict, required: bool = False) -> Verdict | None:
    """A verdict if the status is about an earlier specification."""
    generation, observed = live["metadata"].get("generation", 0), (live.get("status") or {}).get("observedGeneration")
    if (observed is None and required) or (observed is not None and observed < generation):
        return Verdict(False, f"its controller has not seen generation {generation} yet")
    return None


ENDED = {"Succeeded", "Complete", "Completed"}  # what does not come any more where there is a condition Failed


def _condition(live: dict, wanted: str) -> Verdict:
    kind, _, status = wanted.partition("=")
    status = status or "True"
    if kind == "Exists":
        return Verdict(True, "exists")
    found = condition(live, kind)
    stale = _observed(live)
    if not stale and found.get("observedGeneration") is not None and found["observedGeneration"] < live["metadata"].get("generation", 0):
        stale = Verdict(False, f"condition {kind} is about generation {found['observedGeneration']} of {live['metadata']['generation']}")
    if stale:
        return stale
    failed = condition(live, "Failed")
    if kind in ENDED and failed.get("status") == "True":
        return Verdict(False, shorten(f"failed ({failed.get('reason')}: {failed.get('message')})", 300), failed=True)
    if not found:
        return Verdict(False, f"has no condition {kind} yet")
    if found.get("status") == status:
        return Verdict(True, f"{kind}" if status == "True" else f"{kind}={status}")
    return Verdict(False, f"{kind} is {found.get('status')}" + (f" ({found['reason']})" if found.get("reason") else ""))


def _generic(_look: Look, live: dict) -> Verdict:
    group = live.get("apiVersion", "").rpartition("/")[0]
    if live["kind"] in STATELESS or group in STATELESS_GROUPS or group.endswith("rbac.authorization.k8s.io"):
        return Verdict(True, "exists")
    return _condition(live, DEFAULT_CONDITION.get(live["kind"], "Ready"))


def _deployment(_look: Look, live: dict) -> Verdict:
    """As kubectl rollout status."""
    status, wanted = live.get("status") or {}, (live.get("spec") or {}).get("replicas", 1)
    if stale := _observed(live, required=True):
        return stale
    updated, available = status.get("updatedReplicas", 0), status.get("availableReplicas", 0)
    if updated < wanted:
        return Verdict(False, f"{updated} of {wanted} updated")
    if status.get("replicas", 0) > updated:
        return Verdict(False, f"{status['replicas'] - updated} old replicas are still to end")
    return Verdict(available >= updated, f"{available} of {wanted} available")


def _stateful_set(_look: Look, live: dict) -> Verdict:
    spec, status = live.get("spec") or {}, live.get("status") or {}
    if stale := _observed(live, required=True):
        return stale
    wanted, ready, updated = spec.get("replicas", 1), status.get("readyReplicas", 0), status.get("updatedReplicas", 0)
    if ready < wanted:
        return Verdict(False, f"{ready} of {wanted} ready")
    strategy = spec.get("updateStrategy") or {}
    if strategy.get("type") == "OnDelete":
        return Verdict(True, f"{ready} of {wanted} ready")
    partition = (strategy.get("rollingUpdate") or {}).get("partition") or 0
    if partition:
        return Verdict(updated >= wanted - partition, f"{updated} of {max(wanted - partition, 0)} updated (partition {partition})")
    if status.get("updateRevision") != status.get("currentRevision"):
        return Verdict(False, f"{updated} of {wanted} updated to {status.get('updateRevision')}")
    return Verdict(True, f"{ready} of {wanted} ready")


def _daemon_set(_look: Look, live: dict) -> Verdict:
    status = live.get("status") or {}
    if stale := _observed(live, required=True):
        return stale
    wanted, updated = status.get("desiredNumberScheduled", 0), status.get("updatedNumberScheduled", 0)
    available = status.get("numberAvailable", 0)
    if ((live.get("spec") or {}).get("updateStrategy") or {}).get("type") != "OnDelete" and updated < wanted:
        return Verdict(False, f"{updated} of {wanted} nodes updated")
    return Verdict(available >= wanted, f"available on {available} of {wanted} nodes")


def _replica_set(_look: Look, live: dict) -> Verdict:
    wanted, available = (live.get("spec") or {}).get("replicas", 1), (live.get("status") or {}).get("availableReplicas", 0)
    return _observed(live, required=True) or Verdict(available >= wanted, f"{available} of {wanted} available")


def _job(_look: Look, live: dict) -> Verdict:
    status = live.get("status") or {}
    if condition(live, "Complete").get("status") == "True":
        return Verdict(True, "complete")
    if condition(live, "Failed").get("status") == "True":
        return Verdict(False, f"failed ({condition(live, 'Failed').get('reason')})", failed=True)
    if (live.get("spec") or {}).get("suspend"):
        return Verdict(False, "suspended")
    wanted = (live.get("spec") or {}).get("completions") or 1
    return Verdict(False, f"{status.get('succeeded', 0)} of {wanted} succeeded, {status.get('failed', 0)} failed")


def _workflow(_look: Look, live: dict) -> Verdict:
    """One of Argo: it is awaited until it has ended well."""
    status = live.get("status") or {}
    phase = status.get("phase") or "Pending"
    if phase in ("Failed", "Error"):
        return Verdict(False, shorten(f"has ended as {phase} ({status.get('message')})", 300), failed=True)
    return Verdict(phase == "Succeeded", f"phase {phase}, progress {status.get('progress') or '0/0'}")


def _pod(_look: Look, live: dict) -> Verdict:
    phase = (live.get("status") or {}).get("phase", "Pending")
    if phase == "Failed":
        return Verdict(False, "failed", failed=True)
    return Verdict(phase == "Succeeded" or condition(live, "Ready").get("status") == "True", f"phase {phase}")


def _crd(_look: Look, live: dict) -> Verdict:
    missing = [kind for kind in ("NamesAccepted", "Established") if condition(live, kind).get("status") != "True"]
    return Verdict(not missing, f"not {' and '.join(missing)} yet" if missing else "established")


def _namespace(_look: Look, live: dict) -> Verdict:
    phase = (live.get("status") or {}).get("phase")
    return Verdict(phase == "Active", f"phase {phase}")


def _claim(look: Look, live: dict) -> Verdict:
    phase, spec, meta = (live.get("status") or {}).get("phase"), live.get("spec") or {}, live["metadata"]
    if phase == "Lost":
        return Verdict(False, "has lost its volume", failed=True)
    if phase == "Pending" and spec.get("storageClassName") and not spec.get("volumeName"):
        classes = {item["metadata"]["name"]: item for item in look.evidence("storage.k8s.io/v1", "StorageClass")}
        if classes.get(spec["storageClassName"], {}).get("volumeBindingMode") == "WaitForFirstConsumer":
            volumes = [v for pod in look.evidence("v1", "Pod", meta["namespace"]) for v in pod["spec"].get("volumes") or []]
            if not any((v.get("persistentVolumeClaim") or {}).get("claimName") == meta["name"] for v in volumes):
                return Verdict(True, "is bound when a pod uses it (WaitForFirstConsumer)")
    return Verdict(phase == "Bound", f"phase {phase}")


def _service(look: Look, live: dict) -> Verdict:
    spec, meta = live.get("spec") or {}, live["metadata"]
    if spec.get("type") == "ExternalName":
        return Verdict(bool(spec.get("externalName")), f"refers to {spec.get('externalName')}")
    if spec.get("type") == "LoadBalancer":
        addresses = [i.get("ip") or i.get("hostname") for i in ((live.get("status") or {}).get("loadBalancer") or {}).get("ingress") or []]
        if not any(addresses):
            return Verdict(False, "has no load balancer address yet")
    number = len(look.endpoints(meta["namespace"], meta["name"]))
    return Verdict(number > 0, f"{number} ready endpoint{'' if number == 1 else 's'}")


def _webhooks(look: Look, live: dict) -> Verdict:
    """Ready means that the API server can call it: an authority to trust, endpoints, and an answer by the API server's way to the pods."""
    webhooks = live.get("webhooks") or []
    for webhook in webhooks:
        client = webhook.get("clientConfig") or {}
        service = client.get("service")
        if not service:  # somewhere outside, by URL
            continue
        namespace, name, port = service["namespace"], service["name"], service.get("port") or 443
        who = f"webhook {webhook['name']}"
        if not client.get("caBundle"):
            return Verdict(False, f"{who} has no caBundle yet")
        if not look.named("v1", "Service", name, namespace):
            return Verdict(False, f"{who} is served by service {namespace}/{name}, which does not exist")
        if not look.endpoints(namespace, name):
            return Verdict(False, f"{who}: service {namespace}/{name} has no ready endpoints")
        silence = look.silence(namespace, name, port, service.get("path") or "/")
        if silence:
            return Verdict(False, f"{who}: service {namespace}/{name} does not answer the API server on port {port}: {silence}")
    return Verdict(True, f"{len(webhooks)} webhook{'' if len(webhooks) == 1 else 's'} answer" + ("s" if len(webhooks) == 1 else ""))


def _knative(_look: Look, live: dict) -> Verdict:
    if stale := _observed(live, required=True):
        return stale
    verdict = _condition(live, "Ready")
    url = (live.get("status") or {}).get("url")
    return Verdict(True, f"Ready at {url}") if verdict.ready and url else verdict


def _inference_service(_look: Look, live: dict) -> Verdict:
    verdict = _condition(live, "Ready")  # early KServe releases do not write observedGeneration, so it cannot be required
    url = (live.get("status") or {}).get("url")
    return Verdict(True, f"Ready at {url}") if verdict.ready and url else verdict


POD_LABEL = {
    (KNATIVE, "Service"): "serving.knative.dev/service",
    (KNATIVE, "Configuration"): "serving.knative.dev/configuration",
    (KNATIVE, "Revision"): "serving.knative.dev/revision",
    (KSERVE, "InferenceService"): "serving.kserve.io/inferenceservice",
}


def _replicas(look: Look, live: dict, wanted: int) -> Verdict:
    """Exactly so many replicas, all ready; none, as after scaling to zero, means that no pod is left but those that are ending."""
    if stale := _observed(live):
        return stale
    group, meta, status = live.get("apiVersion", "").rpartition("/")[0], live["metadata"], live.get("status") or {}
    if (group, live["kind"]) in POD_LABEL:
        selector = {POD_LABEL[group, live["kind"]]: meta["name"]}
    else:
        selector = ((live.get("spec") or {}).get("selector") or {}).get("matchLabels") or {}
    pods = [
        pod
        for pod in look.list("v1", "Pod", meta["namespace"])
        if selector
        and all((pod["metadata"].get("labels") or {}).get(key) == value for key, value in selector.items())
        and not pod["metadata"].get("deletionTimestamp")
        and (pod.get("status") or {}).get("phase") not in ("Succeeded", "Failed")
    ]
    ready = sum(condition(pod, "Ready").get("status") == "True" for pod in pods)
    counted = status.get("replicas", 0) if (group, live["kind"]) not in POD_LABEL else len(pods)
    return Verdict(len(pods) == ready == counted == wanted, f"{ready} ready of {len(pods)} replicas, {wanted} wanted")


_RULES: dict[tuple[str, str], Callable[[Look, dict], Verdict]] = {
    ("apps", "Deployment"): _deployment,
    ("apps", "StatefulSet"): _stateful_set,
    ("apps", "DaemonSet"): _daemon_set,
    ("apps", "ReplicaSet"): _replica_set,
    ("batch", "Job"): _job,
    ("", "Pod"): _pod,
    ("", "Service"): _service,
    ("", "Namespace"): _namespace,
    ("", "PersistentVolumeClaim"): _claim,
    ("apiextensions.k8s.io", "CustomResourceDefinition"): _crd,
    ("admissionregistration.k8s.io", "ValidatingWebhookConfiguration"): _webhooks,
    ("admissionregistration.k8s.io", "MutatingWebhookConfiguration"): _webhooks,
    (KNATIVE, "Service"): _knative,
    (KNATIVE, "Configuration"): _knative,
    (KNATIVE, "Revision"): _knative,
    (KNATIVE, "Route"): _knative,
    (KSERVE, "InferenceService"): _inference_service,
    ("argoproj.io", "Workflow"): _workflow,
    (CERT_MANAGER, "Certificate"): lambda look, live: _condition(live, "Ready"),
}


# -- looking ------------------------------------------------------------------------------------------------------------


class Look(Snapshot):
    """A snapshot that can also tell whether services have endpoints and answer.

    `answered` outlives the look: since when each service answers. Who answered once is not asked again.
    """

    def __init__(self, cluster, answered: dict[tuple, float] | None = None, clock: Callable[[], float] = time.monotonic):
        super().__init__(cluster)
        self._answered, self._clock = answered if answered is not None else {}, clock
        self._silent: dict[tuple, str] = {}

    def endpoints(self, namespace: str, service: str) -> list[dict]:
        """The ready endpoints of the service."""
        slices = self.list("discovery.k8s.io/v1", "EndpointSlice", namespace)
        ours = [s for s in slices if (s["metadata"].get("labels") or {}).get("kubernetes.io/service-name") == service]
        return [e for s in ours for e in s.get("endpoints") or [] if (e.get("conditions") or {}).get("ready") is not False]

    def silence(self, namespace: str, service: str, port: int, path: str) -> str:
        """Nothing if the service answers the API server over TLS, whatever it says; else why not."""
        key = (namespace, service, port)
        pods = {e["targetRef"].get("name") for e in self.endpoints(namespace, service) if (e.get("targetRef") or {}).get("kind") == "Pod"}
        if not pods:
            return ""  # the API server's proxy only goes to pods, so the others cannot be asked
        if key not in self._answered:
            if key not in self._silent:
                self._silent[key] = self._probe(f"/api/v1/namespaces/{namespace}/services/https:{service}:{port}/proxy/{path.lstrip('/')}")
            if self._silent[key]:
                return self._silent[key]
            self._answered[key] = self._clock()
        # Admission goes to the service's address, the probe to the pod itself: the nodes' rules for the address follow a little later.
        if self._clock() - self._answered[key] < SETTLE and all(self._fresh(namespace, pod) for pod in pods):
            return "its address is being set up"
        return ""

    def _fresh(self, namespace: str, pod: str) -> bool:
        """Whether the pod has become ready just now."""
        since = condition(self.named("v1", "Pod", pod, namespace) or {}, "Ready").get("lastTransitionTime")
        if not since:
            return False
        age = datetime.datetime.now(datetime.UTC) - datetime.datetime.fromisoformat(since)
        return abs(age.total_seconds()) < FRESH

    def _probe(self, path: str) -> str:
        try:
            self.cluster.request("GET", path, timeout=PROBE_TIMEOUT)
        except ApiError as error:
            # 503 (and 504) is the API server's own word for "nobody there"; anything else was said by the webhook.
            return shorten(error.message, 200) if error.status in (503, 504) else ""
        except ClusterError as error:
            if "credentials" in str(error):  # a 401 of the webhook: the credentials have just been good for lists
                return ""
            return f"no answer within {PROBE_TIMEOUT:g} s (private cluster: may the control plane reach the nodes on the webhook's port?)"
        return ""


@dataclass
class Outcome:
    """How far a wait came: `done`, or `failed` with a message, or neither if the slice ended first."""

    done: bool
    failed: bool
    message: str
    awaited: list[Awaited]


class Wait:
    """Waits for targets, in slices if need be: `state` carries all that the next slice has to know, as plain data.

    `grace` is how long a lasting cause (unschedulable, registry out of reach, crash loop, failed revision) is put up with,
    `missing_after` how long an object may not exist.
    """

    def __init__(
        self,
        cluster,
        targets: list[Target],
        grace: float = 30.0,
        missing_after: float = 60.0,
        state: dict | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ):
        self.cluster, self.clock, self._sleep = cluster, clock, sleep
        self.state = state or {"started": clock(), "ready": {}, "seen": {}, "looked": False, "trouble": None}
        self.patience = Patience(grace, self.state["seen"])
        self.missing_after = missing_after
        self.awaited = [Awaited(target) for target in dict.fromkeys(targets)]
        for item in self.awaited:
            if item.target.key in self.state["ready"]:
                item.seconds, item.verdict = self.state["ready"][item.target.key], Verdict(True, "ready")
        self._answered: dict[tuple, float] = {}
        self._diagnosed: float | None = None

    @property
    def elapsed(self) -> float:
        """Seconds since the wait, not the slice, began."""
        return self.clock() - self.state["started"]

    def look(self, everything: bool = False) -> Look:
        """Look once at what is still awaited."""
        look = Look(self.cluster, self._answered, self.clock)
        pending = [item for item in self.awaited if everything or item.seconds is None]
        groups: dict[tuple, list[Awaited]] = {}
        for item in pending:
            groups.setdefault((item.target.api_version, item.target.kind, item.target.namespace), []).append(item)
        with ThreadPoolExecutor(max_workers=min(4, len(groups) or 1)) as pool:
            for group, trouble in zip(groups.values(), pool.map(lambda key: self._fetch(look, key, groups[key]), groups), strict=True):
                for item in group:
                    item.verdict = Verdict(False, trouble) if trouble else self._judge(look, item)
        for item in pending:
            if not item.verdict.ready:
                item.seconds = None
                self.state["ready"].pop(item.target.key, None)
            elif item.seconds is None:
                item.seconds = self.state["ready"][item.target.key] = round(self.elapsed, 1)
                item.causes = []
        self.state["looked"] = True
        return look

    def _fetch(self, look: Look, key: tuple, group: list[Awaited]) -> str:
        """Read the live objects of one group; what is wrong with the whole group, if anything."""
        api_version, kind, namespace = key
        try:
            served = self.cluster.resource(api_version, kind)
            api_version, namespace = served.api_version, (namespace or "default") if served.namespaced else None
            if len(group) > FEW:
                live = {item["metadata"]["name"]: item for item in look.list(api_version, kind, namespace)}
            else:
                live = {item.target.name: look.get(api_version, kind, item.target.name, namespace) for item in group}
        except UnknownKind as error:
            for item in group:
                item.live = None
            return shorten(str(error), 300)
        for item in group:
            item.live = live.get(item.target.name)
        return ""

    def _judge(self, look: Look, item: Awaited) -> Verdict:
        if item.live is None:
            return Verdict(False, "does not exist")
        return judge(look, item.live, item.target)

    def diagnose(self, look: Look) -> None:
        """Find the causes of all that is not ready."""
        for item in self.awaited:
            if item.seconds is None:
                item.causes = causes(look, item.live) if item.live else [Cause(str(item.target), "NotFound", "")]
        self._diagnosed = self.clock()

    def _hopeless(self) -> list[Awaited]:
        """The objects for which waiting longer is known not to help."""
        over, now = [], self.clock()
        for item in self.awaited:
            if item.seconds is not None:
                continue
            if item.live is None:
                first = self.state["seen"].setdefault(f"{item.target.key}|missing", now)
                if now - first >= self.missing_after:
                    over.append(item)
                continue
            self.state["seen"].pop(f"{item.target.key}|missing", None)
            if item.verdict.failed or self.patience.exhausted(item.causes, now):
                over.append(item)
        return over

    def hopeless(self) -> str:
        """Look and diagnose once, if it is time for that again; why waiting is in vain, or nothing."""
        if self._diagnosed is not None and self.clock() - self._diagnosed < DIAGNOSE_EVERY:
            return ""
        self.diagnose(self.look(everything=True))
        over = self._hopeless()
        return self.explain(over) if over else ""

    def run(self, timeout: float, slice_: float | None = None) -> Outcome:
        """Wait until all are ready, one cannot become ready, `timeout` seconds of the whole wait or `slice_` of this run are over."""
        slice_end = self.clock() + slice_ if slice_ else None
        pause = FIRST_PAUSE
        while True:
            partial = len(self.pending) < len(self.awaited)
            look = self._look_patiently()
            if look and not self.pending:
                if partial:
                    look = self.look(everything=True)  # what was ready early may have fallen back
                if not self.pending:
                    return self._outcome(done=True)
            # The first seconds of a wait hardly need a diagnosis: most of what is not ready then just starts.
            last = self._diagnosed if self._diagnosed is not None else self.state["started"]
            if look and (self.clock() - last >= DIAGNOSE_EVERY or any(item.verdict.failed for item in self.awaited)):
                self.diagnose(look)
                over = self._hopeless()
                if over:
                    return self._outcome(failed=True, message=self.explain(over))
            if self.elapsed >= timeout:
                self.diagnose(look or Look(self.cluster))
                return self._outcome(failed=True, message=self.explain([], timeout))
            if slice_end and self.clock() >= slice_end:
                if look and self._diagnosed is None:
                    self.diagnose(look)
                return self._outcome()
            self._sleep(max(0.05, min(pause, timeout - self.elapsed)))
            pause = min(pause * 1.3, LONGEST_PAUSE)

    @property
    def pending(self) -> list[Awaited]:
        """What is not ready."""
        return [item for item in self.awaited if item.seconds is None]

    def _look_patiently(self) -> Look | None:
        """A look, or None if the API server is away for a moment, as it is while a control plane restarts."""
        try:
            look = self.look()
        except ClusterError as error:
            refused = isinstance(error, ApiError) and error.status < 500 and error.status != 429
            now = self.clock()
            if self.state["trouble"] is None:
                self.state["trouble"] = now
            if refused or not self.state["looked"] or now - self.state["trouble"] >= TROUBLE_ALLOWED:
                raise
            return None
        self.state["trouble"] = None
        return look

    def _outcome(self, done: bool = False, failed: bool = False, message: str = "") -> Outcome:
        return Outcome(done, failed, message, self.awaited)

    def explain(self, over: list[Awaited], timeout: float | None = None) -> str:
        """The failure in full: every object that is not ready, and why."""
        pending = self.pending
        what = f"{len(pending)} of {len(self.awaited)} objects " + ("is" if len(pending) == 1 else "are")
        when = f"{timeout:g} s (timeout)" if timeout is not None else f"{self.elapsed:.1f} s"
        lines = [f"{what} not ready after {when}{', and waiting longer is in vain' if over else ''}:"]
        for item in over or pending:
            lines.append(f"- {item.target}: {item.verdict.text}")
            lines += [f"    {cause}" for cause in self._telling(item.causes)]
            if item.live is None:
                lines += [f"    {hint}" for hint in self._hints(item.target)]
        others = [item for item in pending if over and item not in over]
        if others:
            lines.append("Also awaited:")
            lines += [f"- {item.line()}" for item in others]
        return "\n".join(lines)

    @staticmethod
    def _telling(found: list[Cause], most: int = 4) -> list[str]:
        """Causes worth reading: the same one in many pods counts once."""
        lines, told = [], set()
        for cause in found:
            same = (cause.reason, cause.message)
            if cause.reason != "NotFound" or cause.message:
                if same not in told:
                    lines.append(str(cause))
                told.add(same)
        return lines[:most] + ([f"… and {len(lines) - most} more"] if len(lines) > most else [])

    def _hints(self, target: Target) -> list[str]:
        """What there is instead of a missing object."""
        try:
            if target.namespace and self.cluster.get("v1", "Namespace", target.namespace) is None:
                return [f"the namespace {target.namespace} does not exist"]
            namespaced = self.cluster.resource(target.api_version, target.kind).namespaced
            others = self.cluster.list(target.api_version, target.kind, (target.namespace or "default") if namespaced else None)
        except ClusterError:
            return []
        close = difflib.get_close_matches(target.name, [item["metadata"]["name"] for item in others], 3, 0.5)
        return [f"there is {', '.join(close)}"] if close else []


def describe(item: Awaited) -> dict:
    """An awaited object as modules return it."""
    target = item.target
    why = [] if item.verdict.ready else item.causes
    return {
        "apiVersion": (item.live or {}).get("apiVersion") or target.api_version,
        "kind": target.kind,
        "name": target.name,
        "namespace": (item.live or {}).get("metadata", {}).get("namespace") or target.namespace,
        "ready": item.seconds is not None,
        "seconds": item.seconds,
        "status": item.verdict.text,
        "causes": [{"object": c.object, "reason": c.reason, "message": c.message, "terminal": c.terminal} for c in why],
    }


# Specifications are returned where a caller reads addresses or numbers from them; those of definitions and webhooks are long.
WITH_SPEC = {
    "Service", "Deployment", "StatefulSet", "DaemonSet", "Job", "Ingress", "PersistentVolumeClaim", "InferenceService",
    "ConfigConnectorContext", "ContainerCluster",
}  # fmt: skip


def resource(live: dict) -> dict:
    """A live object without what only the API server needs."""
    found = {
        "apiVersion": live.get("apiVersion"),
        "kind": live.get("kind"),
        "name": live["metadata"]["name"],
        "namespace": live["metadata"].get("namespace"),
        "status": live.get("status") or {},
    }
    if live.get("kind") in WITH_SPEC:
        found["spec"] = live.get("spec") or {}
    return found

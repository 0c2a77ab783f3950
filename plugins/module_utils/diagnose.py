# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Why an object is not ready: from the object to what it owns, down to containers, events, quotas and logs.

`causes` only reads. It never raises because a part of the evidence cannot be read: a diagnosis with a gap is better than none.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from ansible_collections.mlops.platform.plugins.module_utils.client import ApiError, ClusterError, UnknownKind

KNATIVE = "serving.knative.dev"
KSERVE = "serving.kserve.io"
CERT_MANAGER = "cert-manager.io"
CONFIG_CONNECTOR = ".cnrm.cloud.google.com"

TRAINING_JOBS = ("TFJob", "PyTorchJob", "MPIJob", "XGBoostJob", "PaddleJob", "MXJob")

CRASH_RESTARTS = 3  # from so many restarts on a crash is a crash loop
SCHEDULER_EVENTS = {"Scheduled", "FailedScheduling", "TriggeredScaleUp", "NotTriggerScaleUp"}
UNSTARTABLE = "unable to start container process"  # runc's word for a program that is not there or cannot be executed
PULL_REASONS = {"ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull", "InvalidImageName", "ImageInspectError", "RegistryUnavailable"}
# What a registry or the network answers for a while; looked for first, because such messages may contain "not found" too.
PASSING_PULL = re.compile(
    r"dial tcp|timeout|connection re(fused|set)|no such host|server misbehaving|network is unreachable|TLS|x509|EOF"
    r"|\b429\b|too ?many ?requests|\b50[0234]\b|canceled|QPS exceeded|no space left",
    re.IGNORECASE,
)
PULL_PREFIX = re.compile(
    r'^(Back-off pulling image "[^"]*": )?(ErrImagePull: )?'
    r'((rpc error: code = \w+ desc = )?failed to (pull and unpack|pull) image "[^"]*": )*',
    re.IGNORECASE,
)
FINAL_PULL = re.compile(
    r"not ?found|manifest unknown|does not exist|denied|unauthorized|forbidden|\b40[134]\b|no match for platform|invalid reference",
    re.IGNORECASE,
)
# Refusals that trying again does not change. Other ones (a service account still to come, a webhook still starting) may pass.
FINAL_REFUSAL = re.compile(
    r"exceeded quota|failed quota|denied the request|violates PodSecurity|is invalid|no PriorityClass|(maximum|minimum) \S+ usage per"
    r"|is forbidden: .*not allowed",
    re.IGNORECASE,
)
PASSING_REFUSAL = re.compile(r"failed calling webhook|service ?account|status unknown for quota|timeout|timed out", re.IGNORECASE)
# False conditions of Knative that also the way to readiness shows.
KNATIVE_PASSING = {
    "Deploying", "Uninitialized", "IngressNotConfigured", "NoTraffic", "Unschedulable", "ResolvingDigests", "MinimumReplicasUnavailable",
}  # fmt: skip
# What Config Connector says when Google, or a reference, refuses. It tries again, so only what lasts counts.
CONFIG_CONNECTOR_FAILED = {
    "CreateFailed", "UpdateFailed", "DeleteFailed", "DependencyNotFound", "DependencyInvalid", "ManagementConflict", "Unmanaged",
    "PreActuationTransformFailed", "PostActuationTransformFailed",
}  # fmt: skip
# KServe copies conditions of Deployments, False while a model still loads; only these mean that something failed.
KSERVE_FAILED = re.compile(r"Failed|Invalid|Missing|DeadlineExceeded|Error|^ExitCode", re.IGNORECASE)


@dataclass(frozen=True)
class Cause:
    """One reason why something is not ready.

    `terminal`: waiting longer does not help. `lasting`: it does not help either if this is still so after a grace (see Patience).
    """

    object: str
    reason: str
    message: str
    terminal: bool = False
    lasting: bool = False

    def __str__(self) -> str:
        return f"{self.object}: {self.reason}: {self.message}" if self.message else f"{self.object}: {self.reason}"


class Patience:
    """Decides, over repeated diagnoses, which causes are worth no more waiting. `seen` can be stored and handed to the next process."""

    CONFIRM = 2.0  # seconds; what looks final must still be so: a controller may be about to create the missing piece

    def __init__(self, grace: float = 30.0, seen: dict[str, float] | None = None):
        self.grace = grace
        self.seen = seen if seen is not None else {}

    def exhausted(self, found: Iterable[Cause], now: float) -> list[Cause]:
        """Those of the causes now found that are to end the wait. `now` is any clock that only grows."""
        over = []
        for cause in found:
            reason = "ImagePull" if cause.reason in PULL_REASONS else cause.reason  # ErrImagePull and ImagePullBackOff take turns
            first = self.seen.setdefault(f"{cause.object}|{reason}", now)
            if (cause.terminal and now - first >= self.CONFIRM) or (cause.lasting and now - first >= self.grace):
                over.append(cause)
        return over


class Snapshot:
    """One look at the cluster: every list is asked for once, however many objects are judged by it."""

    def __init__(self, cluster):
        self.cluster = cluster
        self._lists: dict[tuple, list[dict]] = {}
        self._objects: dict[tuple, dict | None] = {}

    def list(self, api_version: str | None, kind: str, namespace: str | None = None) -> list[dict]:
        """All objects of the kind in the namespace."""
        key = (api_version, kind, namespace)
        if key not in self._lists:
            self._lists[key] = self.cluster.list(api_version, kind, namespace)
        return self._lists[key]

    def get(self, api_version: str | None, kind: str, name: str, namespace: str | None = None) -> dict | None:
        """The object, from a list that was already asked for if there is one."""
        listed = self._lists.get((api_version, kind, namespace))
        if listed is not None:
            return next((item for item in listed if item["metadata"]["name"] == name), None)
        key = (api_version, kind, namespace, name)
        if key not in self._objects:
            self._objects[key] = self.cluster.get(api_version, kind, name, namespace)
        return self._objects[key]

    # For evidence that is welcome, not needed: nothing instead of an error.

    def evidence(self, api_version: str, kind: str, namespace: str | None = None) -> list[dict]:
        """Like list, but empty if it cannot be read."""
        try:
            return self.list(api_version, kind, namespace)
        except (UnknownKind, ApiError):
            return self._lists.setdefault((api_version, kind, namespace), [])

    def exists(self, api_version: str, kind: str, name: str, namespace: str | None = None) -> bool | None:
        """Whether it exists; None if that cannot be read."""
        try:
            return self.get(api_version, kind, name, namespace) is not None
        except (UnknownKind, ApiError):
            return None

    def named(self, api_version: str, kind: str, name: str | None, namespace: str | None = None) -> dict | None:
        """The object of that name in evidence, if it exists and can be read."""
        return next((item for item in self.evidence(api_version, kind, namespace) if item["metadata"]["name"] == name), None)

    def owned(self, api_version: str, kind: str, owner: dict) -> list[dict]:
        """The objects of the kind that the owner controls."""
        uid = owner["metadata"].get("uid")
        return [
            item
            for item in self.evidence(api_version, kind, owner["metadata"].get("namespace"))
            if any(reference.get("uid") == uid for reference in item["metadata"].get("ownerReferences") or [])
        ]

    def events(self, obj: dict) -> list[dict]:
        """The events about an object, latest last."""
        meta = obj["metadata"]
        about = [e for e in self.evidence("v1", "Event", meta.get("namespace") or "default") if _is_about(e, obj)]
        return sorted(about, key=event_time)

    def log(self, pod: dict, container: str, previous: bool) -> str:
        """The last lines of a container's log, in one line."""
        try:
            path = f"/api/v1/namespaces/{pod['metadata']['namespace']}/pods/{pod['metadata']['name']}/log"
            query = {"container": container, "previous": previous, "tailLines": 5, "limitBytes": 4000}
            text = self.cluster.request("GET", path, query, timeout=5)[1]
        except ClusterError:
            return ""
        lines = [line.strip() for line in str(text or "").splitlines() if line.strip()]
        return " / ".join(line[:300] for line in lines[-3:])


def causes(cluster, obj: dict) -> list[Cause]:
    """What keeps the object from being ready, gravest first. `cluster` is a Cluster or a Snapshot; `obj` a live object."""
    snapshot = cluster if isinstance(cluster, Snapshot) else Snapshot(cluster)
    api_version, kind = obj.get("apiVersion", ""), obj.get("kind", "")
    diagnosis = _BY_KIND.get((api_version.rpartition("/")[0], kind), _conditions)
    found = list(dict.fromkeys([*_deletion(obj), *diagnosis(snapshot, obj)]))
    if any(cause.reason == "ScalingUp" for cause in found):  # the conditions above the pods only repeat what the new node will cure
        found = [replace(cause, lasting=False) for cause in found]
    return sorted(found, key=lambda cause: (not cause.terminal, not cause.lasting))


# -- small helpers ------------------------------------------------------------------------------------------------------


def label(obj: dict) -> str:
    """Such as "Pod knative-serving/webhook-abc"."""
    meta = obj["metadata"]
    kind = obj.get("kind", "")
    if kind == "Service" and obj.get("apiVersion", "").startswith(KNATIVE):
        kind = "Knative Service"
    return f"{kind} {meta['namespace']}/{meta['name']}" if meta.get("namespace") else f"{kind} {meta['name']}"


def condition(obj: dict, kind: str) -> dict:
    """The condition of that type, {} without one."""
    return next((c for c in (obj.get("status") or {}).get("conditions") or [] if c.get("type") == kind), {})


def unseen(obj: dict) -> bool:
    """Whether the status is about an earlier generation than the specification (as far as the object says)."""
    observed = (obj.get("status") or {}).get("observedGeneration")
    return observed is not None and observed < obj["metadata"].get("generation", 0)


def event_time(event: dict) -> str:
    """When the event was last seen, comparable as text."""
    times = (event.get("lastTimestamp"), (event.get("series") or {}).get("lastObservedTime"), event.get("eventTime"))
    return max((t for t in times if t), default=event["metadata"].get("creationTimestamp") or "")[:19]


def shorten(text: str | None, limit: int = 600) -> str:
    """One line of at most that many characters."""
    line = " ".join(str(text or "").split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


def _is_about(event: dict, obj: dict) -> bool:
    about, meta = event.get("involvedObject") or {}, obj["metadata"]
    if about.get("kind") != obj.get("kind") or about.get("name") != meta["name"]:
        return False
    return not about.get("uid") or not meta.get("uid") or about["uid"] == meta["uid"]


def _last(events: list[dict], *reasons: str) -> dict | None:
    return next((e for e in reversed(events) if e.get("reason") in reasons), None)


def _deletion(obj: dict) -> list[Cause]:
    meta = obj["metadata"]
    if not meta.get("deletionTimestamp"):
        return []
    finalizers = ", ".join(meta.get("finalizers") or [])
    held = f", held by {finalizers}" if finalizers else ""
    return [Cause(label(obj), "Deleting", f"is being deleted since {meta['deletionTimestamp']}{held}")]


# -- pods ---------------------------------------------------------------------------------------------------------------


def _pods(snapshot: Snapshot, pods: Iterable[dict]) -> list[Cause]:
    """The causes in those pods that are wanted; pods that end, or that their controller has already replaced, are not to blame."""
    found = []
    for pod in pods:
        if pod["metadata"].get("deletionTimestamp") or (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed"):
            continue
        found += _pod(snapshot, pod)
    return found


def _pod(snapshot: Snapshot, pod: dict) -> list[Cause]:
    status, name = pod.get("status") or {}, label(pod)
    if condition(pod, "Ready").get("status") == "True" or status.get("phase") == "Succeeded":
        return []
    scheduled = condition(pod, "PodScheduled")
    if scheduled.get("status") == "False":
        return _unscheduled(snapshot, pod, scheduled)
    if not scheduled:
        return [Cause(name, "Pending", "the scheduler has not looked at it yet")]
    specs = {c["name"]: c for key in ("initContainers", "containers") for c in pod["spec"].get(key) or []}
    found = []
    for key, init in (("initContainerStatuses", True), ("containerStatuses", False)):
        for container in status.get(key) or []:
            found += _container(snapshot, pod, container, specs.get(container["name"], {}), init)
    if status.get("phase") == "Failed" and (status.get("message") or not found):
        message = shorten(status.get("message") or "the pod has failed")
        found.append(Cause(name, status.get("reason") or "Failed", message, terminal=not found))
    events = snapshot.events(pod)
    if not found:
        found += _start(snapshot, pod, events)
    for gate in pod["spec"].get("readinessGates") or []:
        if condition(pod, gate["conditionType"]).get("status") != "True":
            found.append(Cause(name, "ReadinessGate", f"its readiness gate {gate['conditionType']} is not met"))
    return found or [Cause(name, "Starting", f"phase {status.get('phase')}")]


def _unscheduled(snapshot: Snapshot, pod: dict, scheduled: dict) -> list[Cause]:
    message = scheduled.get("message") or "no node takes it"
    asked = []
    for resource in dict.fromkeys(re.findall(r"Insufficient ([\w./-]+?)[.,]?(?=\s|$)", message)):
        wants = [
            f"{container['name']} {(container.get('resources') or {}).get('requests', {}).get(resource)}"
            for container in [*(pod["spec"].get("initContainers") or []), *pod["spec"]["containers"]]
            if (container.get("resources") or {}).get("requests", {}).get(resource)
        ]
        asked.append(f"{resource}: {', '.join(wants)}")
    if re.search(r"node affinity|node selector|nodeselector", message, re.IGNORECASE) and pod["spec"].get("nodeSelector"):
        asked.append("nodes with " + ", ".join(f"{key}={value}" for key, value in pod["spec"]["nodeSelector"].items()))
    message = shorten(message) + (f" (it asks for {'; '.join(asked)})" if asked else "")
    reason = scheduled.get("reason") or "Unschedulable"
    events = snapshot.events(pod)
    scaling, refused = _last(events, "TriggeredScaleUp"), _last(events, "NotTriggerScaleUp")
    found = []
    if scaling and not (refused and event_time(refused) > event_time(scaling)):
        added = shorten(scaling.get("message"), 200)
        found.append(Cause(label(pod), "ScalingUp", f"the autoscaler adds a node ({added}); until then: {message}"))
    else:
        if refused:
            message += f"; the autoscaler does not help: {shorten(refused.get('message'), 200)}"
        found.append(Cause(label(pod), reason, message, lasting=reason == "Unschedulable"))
    for volume in pod["spec"].get("volumes") or []:
        claim = (volume.get("persistentVolumeClaim") or {}).get("claimName")
        live = claim and snapshot.named("v1", "PersistentVolumeClaim", claim, pod["metadata"]["namespace"])
        if live and (live.get("status") or {}).get("phase") != "Bound":
            found += _claim(snapshot, live)
    return found


def _container(snapshot: Snapshot, pod: dict, status: dict, spec: dict, init: bool) -> list[Cause]:
    where = f"{label(pod)} container {status['name']}"
    state = status.get("state") or {}
    waiting, running, ended = state.get("waiting"), state.get("running"), state.get("terminated")
    if status.get("ready") or (ended and ended.get("exitCode") == 0):
        return []
    reason = (waiting or {}).get("reason") or ""
    if reason in PULL_REASONS:
        return [_pull(snapshot, pod, where, spec.get("image") or status.get("image"), waiting)]
    if reason == "CreateContainerConfigError":
        return [_missing(snapshot, pod, Cause(where, reason, shorten(waiting.get("message")), terminal=True))]
    if reason in ("CreateContainerError", "RunContainerError"):
        final = UNSTARTABLE in (waiting.get("message") or "")
        return [Cause(where, reason, shorten(waiting.get("message")), terminal=final, lasting=not final)]
    crash = ended or (status.get("lastState") or {}).get("terminated")
    if crash and (crash.get("exitCode") or reason == "CrashLoopBackOff"):
        return [_crash(snapshot, pod, status, spec, where, crash)]
    if running and init:
        return [Cause(where, "Initializing", f"this init container runs since {running.get('startedAt')}")]
    if running:
        field = f"{{{status['name']}}}"
        unhealthy = _last([e for e in snapshot.events(pod) if field in (e["involvedObject"].get("fieldPath") or "")], "Unhealthy")
        said = unhealthy.get("message") if unhealthy else "runs, and its readiness probe has not passed yet"
        return [Cause(where, "NotReady", shorten(said))]
    return []


def _pull(snapshot: Snapshot, pod: dict, where: str, image: str, waiting: dict) -> Cause:
    reason, message = waiting["reason"], waiting.get("message") or ""
    if reason == "InvalidImageName":
        return Cause(where, reason, shorten(f"image {image}: {message}"), terminal=True)
    if re.fullmatch(r'Back-off pulling image "[^"]*"', message) or not message:  # kubelets before 1.32 say why in the event only
        said = [e.get("message") or "" for e in snapshot.events(pod) if e.get("reason") == "Failed"]
        message = next((text for text in reversed(said) if f'ailed to pull image "{image}"' in text), message)
    # What matters is the registry's answer at the end; the image's name is repeated up to four times before it.
    answer = PULL_PREFIX.sub("", message)
    passing = PASSING_PULL.search(answer.replace(image, ""))
    final = reason == "ErrImageNeverPull" or (not passing and FINAL_PULL.search(answer.replace(image, "")))
    return Cause(where, reason, shorten(f"image {image} cannot be pulled: {answer}"), terminal=bool(final), lasting=not final)


def _missing(snapshot: Snapshot, pod: dict, cause: Cause) -> Cause:
    """The cause, softened if what the kubelet missed exists by now: it will look again."""
    match = re.search(r'(configmap|secret) "([^"]+)" not found', cause.message, re.IGNORECASE)
    kind = {"configmap": "ConfigMap", "secret": "Secret"}[match[1].lower()] if match else None
    if kind and snapshot.exists("v1", kind, match[2], pod["metadata"]["namespace"]):
        return replace(cause, message=f"{cause.message} (it exists by now; the kubelet will look again)", terminal=False, lasting=False)
    return cause


def _crash(snapshot: Snapshot, pod: dict, status: dict, spec: dict, where: str, crash: dict) -> Cause:
    state, restarts = status.get("state") or {}, status.get("restartCount", 0)
    message = f"ended with exit code {crash.get('exitCode')}"
    if crash.get("reason") == "OOMKilled":
        message += f" (OOMKilled: memory limit {((spec.get('resources') or {}).get('limits') or {}).get('memory', 'of the node')})"
    elif crash.get("reason") not in (None, "", "Error", "Completed"):
        message += f" ({crash['reason']})"
    if restarts:
        message += f", {restarts} restart{'s' if restarts > 1 else ''}"
    said = shorten(crash.get("message"), 400) or snapshot.log(pod, status["name"], previous="running" in state)
    if said:
        message += f"; last output: {said}"
    # While it runs, it has another chance.
    reason = "CrashLoopBackOff" if restarts else "Crashed"
    final = UNSTARTABLE in (crash.get("message") or "")
    return Cause(where, reason, message, terminal=final, lasting=not final and "running" not in state and restarts >= CRASH_RESTARTS)


def _start(snapshot: Snapshot, pod: dict, events: list[dict]) -> list[Cause]:
    """What a pod waits for before its next container starts: volumes, network, image."""
    status = pod.get("status") or {}
    states = [c.get("state") or {} for key in ("initContainerStatuses", "containerStatuses") for c in status.get(key) or []]
    if states and not any((state.get("waiting") or {}).get("reason") in ("ContainerCreating", "PodInitializing") for state in states):
        return []
    event = next((e for e in reversed(events) if e.get("reason") not in SCHEDULER_EVENTS), None)
    if not event:
        return [Cause(label(pod), "ContainerCreating", "its containers are being created")]
    reason, message = event["reason"], shorten(event.get("message"))
    if reason in ("FailedMount", "FailedAttachVolume", "FailedCreatePodSandBox"):
        cause = Cause(label(pod), reason, message, lasting=reason == "FailedMount" and "not found" in message)
        return [_missing(snapshot, pod, cause)]
    return [Cause(label(pod), "Pulling" if reason == "Pulling" else "ContainerCreating", message[:1].lower() + message[1:])]


# -- what owns pods -----------------------------------------------------------------------------------------------------


def _refused(snapshot: Snapshot, obj: dict, message: str) -> Cause:
    """Why its controller cannot create pods."""
    final = bool(FINAL_REFUSAL.search(message)) and not PASSING_REFUSAL.search(message)
    if final and "exceeded quota" in message and not _quota_holds(snapshot, obj["metadata"]["namespace"], message):
        return Cause(label(obj), "FailedCreate", shorten(f"{message} (there is room by now; the controller will try again)"), lasting=True)
    return Cause(label(obj), "FailedCreate", shorten(message), terminal=final, lasting=not final)


def _quota_holds(snapshot: Snapshot, namespace: str, message: str) -> bool:
    """Whether the quota is still as full as the refusal said: controllers try again ever more rarely."""
    match = re.search(r"exceeded quota: ([^,]+), requested: .*?, used: (.*?), limited: (.*)", message)
    quotas = snapshot.evidence("v1", "ResourceQuota", namespace)
    if not match or not quotas:  # an unknown wording, or quotas may not be read
        return True
    quota = next((q for q in quotas if q["metadata"]["name"] == match[1]), {})
    status = quota.get("status") or {}
    return _pairs(match[2]).items() <= (status.get("used") or {}).items() and _pairs(match[3]).items() <= (status.get("hard") or {}).items()


def _pairs(text: str) -> dict[str, str]:
    return dict(pair.split("=", 1) for pair in text.split(",") if "=" in pair)


def _creation(snapshot: Snapshot, obj: dict) -> list[Cause]:
    """The controller's failure to create pods, unless it succeeded since."""
    failure = condition(obj, "ReplicaFailure")
    if failure.get("status") == "True":
        return [_refused(snapshot, obj, failure.get("message") or failure.get("reason") or "")]
    events = snapshot.events(obj)
    failed, created = _last(events, "FailedCreate"), _last(events, "SuccessfulCreate")
    if failed and obj.get("kind") != "ReplicaSet" and not (created and event_time(created) >= event_time(failed)):
        return [_refused(snapshot, obj, failed.get("message") or "")]
    return []


def _pod_owner(snapshot: Snapshot, obj: dict) -> list[Cause]:
    return [*_creation(snapshot, obj), *_pods(snapshot, snapshot.owned("v1", "Pod", obj))]


def _deployment(snapshot: Snapshot, obj: dict) -> list[Cause]:
    if unseen(obj):  # the newest ReplicaSet still belongs to the earlier specification
        return []
    found = []
    sets = snapshot.owned("apps/v1", "ReplicaSet", obj)
    if sets:
        found += _pod_owner(snapshot, max(sets, key=_revision))
    failure, progressing = condition(obj, "ReplicaFailure"), condition(obj, "Progressing")
    if failure.get("status") == "True" and not any(cause.reason == "FailedCreate" for cause in found):
        found.append(_refused(snapshot, obj, failure.get("message") or ""))
    if progressing.get("status") == "False":
        found.append(Cause(label(obj), progressing.get("reason") or "NotProgressing", shorten(progressing.get("message")), lasting=True))
    if (obj.get("spec") or {}).get("paused"):
        found.append(Cause(label(obj), "Paused", "its rollout is paused: kubectl rollout resume", lasting=True))
    return found


def _revision(replica_set: dict) -> int:
    return int((replica_set["metadata"].get("annotations") or {}).get("deployment.kubernetes.io/revision") or 0)


def _job(snapshot: Snapshot, obj: dict) -> list[Cause]:
    found = _creation(snapshot, obj)
    failed = condition(obj, "Failed")
    if failed.get("status") == "True":
        found.append(Cause(label(obj), failed.get("reason") or "Failed", shorten(failed.get("message")), terminal=True))
    if (obj.get("spec") or {}).get("suspend"):
        found.append(Cause(label(obj), "Suspended", "the job is suspended", lasting=True))
    pods = sorted(snapshot.owned("v1", "Pod", obj), key=lambda pod: pod["metadata"].get("creationTimestamp") or "")
    running = [pod for pod in pods if (pod.get("status") or {}).get("phase") not in ("Succeeded", "Failed")]
    failures = [pod for pod in pods if (pod.get("status") or {}).get("phase") == "Failed"]
    for pod in failures[-1:]:  # why the last try failed
        found += [replace(cause, terminal=False, lasting=False) for cause in _pod(snapshot, pod)]
    return found + _pods(snapshot, running)


def _workflow(snapshot: Snapshot, obj: dict) -> list[Cause]:
    """The steps of an Argo workflow that failed, and the pods of those that do not start."""
    nodes = sorted(((obj.get("status") or {}).get("nodes") or {}).values(), key=lambda node: node.get("finishedAt") or "")
    found = [
        Cause(f"{label(obj)} step {node.get('displayName')}", node["phase"], shorten(node.get("message")))
        for node in nodes
        if node.get("type") == "Pod" and node.get("phase") in ("Failed", "Error")
    ]
    return found + _pods(snapshot, snapshot.owned("v1", "Pod", obj))


# -- services, webhooks, claims, namespaces -----------------------------------------------------------------------------


def matches(selector: dict, labels: dict | None) -> bool:
    """Whether the labels have all pairs of the selector."""
    return bool(selector) and all((labels or {}).get(key) == value for key, value in selector.items())


def _service(snapshot: Snapshot, obj: dict) -> list[Cause]:
    spec, namespace, name = obj.get("spec") or {}, obj["metadata"].get("namespace"), label(obj)
    selector = spec.get("selector") or {}
    found = []
    if spec.get("type") == "LoadBalancer" and not ((obj.get("status") or {}).get("loadBalancer") or {}).get("ingress"):
        event = _last(snapshot.events(obj), "SyncLoadBalancerFailed", "CreatingLoadBalancerFailed", "EnsuringLoadBalancer")
        message = event.get("message") if event else "nothing gave it an address: is there a load balancer controller in this cluster?"
        found.append(Cause(name, event["reason"] if event else "NoAddress", shorten(message)))
    if not selector:
        return found
    pods = [pod for pod in snapshot.evidence("v1", "Pod", namespace) if matches(selector, pod["metadata"].get("labels"))]
    if any(condition(pod, "Ready").get("status") == "True" for pod in pods) or obj["spec"].get("type") == "ExternalName":
        return found
    owners = [
        owner
        for kind in ("Deployment", "StatefulSet", "DaemonSet")
        for owner in snapshot.evidence("apps/v1", kind, namespace)
        if matches(selector, ((owner["spec"].get("template") or {}).get("metadata") or {}).get("labels"))
    ]
    for owner in owners:
        if owner["kind"] != "DaemonSet" and owner["spec"].get("replicas") == 0:
            found.append(Cause(label(owner), "ScaledToZero", f"has 0 replicas, so {name} has no endpoints", lasting=True))
        found += causes(snapshot, owner)
    if not owners:
        wanted = ",".join(f"{key}={value}" for key, value in selector.items())
        nobody = Cause(name, "NoPods", f"no pod of namespace {namespace} has the labels it selects ({wanted})", lasting=True)
        found += _pods(snapshot, pods) or [nobody]
    return found


def _webhooks(snapshot: Snapshot, obj: dict) -> list[Cause]:
    found, seen = [], set()
    for webhook in obj.get("webhooks") or []:
        client = webhook.get("clientConfig") or {}
        service = client.get("service")
        if not service:
            continue
        if not client.get("caBundle"):
            found += _authority(snapshot, obj, webhook["name"])
        key = (service["namespace"], service["name"])
        if key in seen:
            continue
        seen.add(key)
        live = snapshot.named("v1", "Service", key[1], key[0])
        if live:
            found += _service(snapshot, live)
        else:
            found.append(Cause(f"Service {key[0]}/{key[1]}", "NotFound", f"does not exist, and {label(obj)} calls it", lasting=True))
    return found


def _authority(snapshot: Snapshot, obj: dict, webhook: str) -> list[Cause]:
    """Why the caBundle is still empty."""
    annotations = obj["metadata"].get("annotations") or {}
    certificate = annotations.get("cert-manager.io/inject-ca-from")
    missing = f"webhook {webhook} has no caBundle yet"
    if not certificate:
        secret = annotations.get("cert-manager.io/inject-ca-from-secret")
        filler = f"cert-manager's cainjector takes it from Secret {secret}" if secret else "what serves it fills it in"
        return [Cause(label(obj), "NoCABundle", f"{missing}; {filler}")]
    namespace, _, name = certificate.partition("/")
    found = [Cause(label(obj), "NoCABundle", f"{missing}; cert-manager's cainjector takes it from Certificate {certificate}")]
    live = snapshot.named("cert-manager.io/v1", "Certificate", name, namespace)
    if live is None:
        return [*found, Cause(f"Certificate {certificate}", "NotFound", "does not exist", lasting=True)]
    return found if condition(live, "Ready").get("status") == "True" else [*found, *_certificate(snapshot, live)]


def _certificate(snapshot: Snapshot, obj: dict) -> list[Cause]:
    found = _conditions(snapshot, obj)
    issuer = (obj.get("spec") or {}).get("issuerRef") or {}
    kind = issuer.get("kind") or "Issuer"
    if issuer.get("group", CERT_MANAGER) == CERT_MANAGER:
        namespace = obj["metadata"]["namespace"] if kind == "Issuer" else None
        live = snapshot.named("cert-manager.io/v1", kind, issuer.get("name"), namespace)
        if live is None:
            found.append(Cause(f"{kind} {issuer.get('name')}", "NotFound", f"does not exist, and {label(obj)} asks it", lasting=True))
        elif condition(live, "Ready").get("status") != "True":
            found += _conditions(snapshot, live)
    for request in snapshot.owned("cert-manager.io/v1", "CertificateRequest", obj):
        ready = condition(request, "Ready")
        if ready.get("status") == "False" and ready.get("reason") in ("Failed", "Denied", "InvalidRequest"):
            found.append(Cause(label(request), ready["reason"], shorten(ready.get("message")), lasting=True))
    return found


def _claim(snapshot: Snapshot, obj: dict) -> list[Cause]:
    name, storage_class = label(obj), (obj.get("spec") or {}).get("storageClassName")
    if (obj.get("status") or {}).get("phase") == "Lost":
        return [Cause(name, "Lost", "its volume is lost", terminal=True)]
    if storage_class and not obj["spec"].get("volumeName") and snapshot.exists("storage.k8s.io/v1", "StorageClass", storage_class) is False:
        return [Cause(name, "NoStorageClass", f"storage class {storage_class} does not exist", lasting=True)]
    event = _last(snapshot.events(obj), "ProvisioningFailed", "FailedBinding", "WaitForFirstConsumer", "ExternalProvisioning")
    if not event:
        return [Cause(name, "Pending", "is not bound to a volume yet")]
    return [Cause(name, event["reason"], shorten(event.get("message")), lasting=event["reason"] in ("ProvisioningFailed", "FailedBinding"))]


def _namespace(snapshot: Snapshot, obj: dict) -> list[Cause]:
    return [Cause(label(obj), "Terminating", reason) for reason in remains(snapshot, obj)]


# How a namespace's condition NamespaceContentRemaining names what is left: "pods. has 1 resource instances"
REMAINING = re.compile(r"([a-z0-9-]+)\.([a-z0-9.-]*) has \d+ resource instances")
# Who takes which finalizer (a pattern) away. Of others, the field manager that has set it is named.
FINALIZERS = (
    ("profile-finalizer", "Deployment kubeflow/profiles-deployment"),
    ("update-prometheus-metrics", "Deployment kubeflow/katib-controller"),
    ("clean-metrics-in-db", "Deployment kubeflow/katib-controller"),
    ("workflows.argoproj.io/*", "Deployment kubeflow/workflow-controller"),
    ("inferenceservice.finalizers", "KServe (Deployment kserve-controller-manager)"),
    ("*.serving.knative.dev", "Deployment knative-serving/controller"),
    ("*.networking.internal.knative.dev", "Deployment knative-serving/net-istio-controller"),
    ("cnrm.cloud.google.com/*", "Config Connector"),
    ("kubernetes.io/pvc-protection", "Kubernetes, as soon as no pod uses the volume"),
    ("foregroundDeletion", "Kubernetes, as soon as what the object owns is gone"),
)
SHOWN = 3  # objects of a kind that are named


def remains(snapshot: Snapshot, namespace: dict) -> list[str]:
    """What a namespace waits for that is being deleted: which objects with which finalizer, whose it is, and the remedy."""
    name, said, found = namespace["metadata"]["name"], condition(namespace, "NamespaceContentRemaining"), []
    for plural, group in REMAINING.findall(said.get("message") or "") if said.get("status") == "True" else ():
        resource, what = snapshot.cluster.named(plural, group), plural + (f".{group}" if group else "")
        there = snapshot.evidence(resource.api_version, resource.kind, name) if resource else []
        held = [item for item in there if item["metadata"].get("finalizers")]
        for item in held[:SHOWN]:
            who = ", ".join(f"{entry}, to be taken away by {_keeper(item, entry)}" for entry in item["metadata"]["finalizers"])
            found.append(f"waits for {resource.kind}/{item['metadata']['name']} with finalizer {who}")
        if len(held) > SHOWN:
            found.append(f"waits for {len(held) - SHOWN} more {what}")
        if held:
            first, patch = held[0]["metadata"]["name"], '{"metadata": {"finalizers": null}}'
            found.append(
                "see why that does not happen, and only if it never will, take it away by hand: "
                f"kubectl --namespace {name} patch {what} {first} --type=merge --patch '{patch}'"
            )
    told = {"NamespaceContentRemaining", "NamespaceFinalizersRemaining"} if found else set()
    found += [
        f"{c.get('reason') or c['type']}: {shorten(c.get('message'))}"
        for c in (namespace.get("status") or {}).get("conditions") or []
        if c.get("status") == "True" and c["type"].startswith("Namespace") and c["type"] not in told
    ]
    other = [entry for entry in (namespace.get("spec") or {}).get("finalizers") or [] if entry != "kubernetes"]
    other += namespace["metadata"].get("finalizers") or []
    return found + [f"has itself the finalizer {entry}, to be taken away by {_keeper(namespace, entry)}" for entry in other]


def _keeper(obj: dict, finalizer: str) -> str:
    """Who takes the finalizer away: known, or the field manager that has set it."""
    known = next((who for pattern, who in FINALIZERS if fnmatchcase(finalizer, pattern)), None)
    setters = [
        part.get("manager")
        for part in obj["metadata"].get("managedFields") or []
        if f'v:"{finalizer}"' in ((part.get("fieldsV1") or {}).get("f:metadata") or {}).get("f:finalizers", {})
    ]
    return known or (f"{setters[0]}, which has set it" if setters else "its controller")


def _crd(_snapshot: Snapshot, obj: dict) -> list[Cause]:
    return [
        Cause(label(obj), c.get("reason") or kind, shorten(c.get("message")), lasting=True)
        for kind in ("NamesAccepted", "Established")
        if (c := condition(obj, kind)).get("status") == "False" and c.get("reason") != "Installing"
    ]


# -- Knative, KServe, anything with conditions --------------------------------------------------------------------------


def _conditions(snapshot: Snapshot, obj: dict) -> list[Cause]:
    """What the conditions say: all that are not True for Knative and KServe, whose conditions all mean something good; else Ready."""
    group = obj.get("apiVersion", "").rpartition("/")[0]
    if unseen(obj):
        return []
    found, told = [], set()
    ours = group in (KNATIVE, KSERVE) or group.endswith(".knative.dev")
    told_by = ("Ready", "Accepted", "Programmed", "Available")
    conditions = [c for c in (obj.get("status") or {}).get("conditions") or [] if ours or c.get("type") in told_by]
    for c in sorted(conditions, key=lambda c: c.get("type") == "Ready"):  # Ready repeats what a more precise one says
        said = c.get("message") or c.get("reason")
        if c.get("status") == "True" or c.get("severity") in ("Info", "Warning") or not said or said in told:
            continue
        told.add(said)
        reason, failed = c.get("reason") or "", c.get("status") == "False"
        if group == KSERVE:
            failed = failed and bool(KSERVE_FAILED.search(reason))
        elif ours:
            failed = failed and reason not in KNATIVE_PASSING
        elif group.endswith(CONFIG_CONNECTOR):
            failed = reason in CONFIG_CONNECTOR_FAILED
        else:
            failed = False
        where = f"{label(obj)} condition {c.get('type')}"
        found.append(Cause(where, reason or str(c.get("status")), shorten(c.get("message")), lasting=failed))
    return found


def _knative_service(snapshot: Snapshot, obj: dict) -> list[Cause]:
    if unseen(obj):
        return []
    namespace, name = obj["metadata"]["namespace"], obj["metadata"]["name"]
    configuration = snapshot.named(f"{KNATIVE}/v1", "Configuration", name, namespace)
    return [*(_configuration(snapshot, configuration) if configuration else []), *_conditions(snapshot, obj)]


def _configuration(snapshot: Snapshot, obj: dict) -> list[Cause]:
    if unseen(obj):
        return []
    created = (obj.get("status") or {}).get("latestCreatedRevisionName")
    revision = snapshot.named(f"{KNATIVE}/v1", "Revision", created, obj["metadata"]["namespace"])
    return (_knative_revision(snapshot, revision) if revision else []) or _conditions(snapshot, obj)


def _knative_revision(snapshot: Snapshot, obj: dict) -> list[Cause]:
    deployments = snapshot.owned("apps/v1", "Deployment", obj)
    return [*(cause for deployment in deployments for cause in _deployment(snapshot, deployment)), *_conditions(snapshot, obj)]


def _inference_service(snapshot: Snapshot, obj: dict) -> list[Cause]:
    if unseen(obj):
        return []
    found = []
    for api_version, kind in ((f"{KNATIVE}/v1", "Service"), ("apps/v1", "Deployment")):
        for child in snapshot.owned(api_version, kind, obj):
            if condition(child, "Ready" if kind == "Service" else "Available").get("status") != "True":
                found += causes(snapshot, child)
    failure = ((obj.get("status") or {}).get("modelStatus") or {}).get("lastFailureInfo") or {}
    if failure:
        found.append(Cause(label(obj), failure.get("reason") or "ModelFailed", shorten(failure.get("message"))))
    return [*found, *_conditions(snapshot, obj)]


_BY_KIND = {
    ("", "Pod"): _pod,
    ("", "Service"): _service,
    ("", "PersistentVolumeClaim"): _claim,
    ("", "Namespace"): _namespace,
    ("", "ReplicationController"): _pod_owner,
    ("apps", "Deployment"): _deployment,
    ("apps", "ReplicaSet"): _pod_owner,
    ("apps", "StatefulSet"): _pod_owner,
    ("apps", "DaemonSet"): _pod_owner,
    ("batch", "Job"): _job,
    **{("kubeflow.org", kind): _job for kind in TRAINING_JOBS},
    ("argoproj.io", "Workflow"): _workflow,
    ("apiextensions.k8s.io", "CustomResourceDefinition"): _crd,
    ("admissionregistration.k8s.io", "ValidatingWebhookConfiguration"): _webhooks,
    ("admissionregistration.k8s.io", "MutatingWebhookConfiguration"): _webhooks,
    (CERT_MANAGER, "Certificate"): _certificate,
    (KNATIVE, "Service"): _knative_service,
    (KNATIVE, "Configuration"): _configuration,
    (KNATIVE, "Revision"): _knative_revision,
    (KSERVE, "InferenceService"): _inference_service,
}

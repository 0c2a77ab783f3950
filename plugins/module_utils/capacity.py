# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Whether a cluster is one that a release set is meant for: its version, and what its nodes have left."""

from __future__ import annotations

import re
from collections.abc import Iterable
from decimal import Decimal

from ansible_collections.mlops.platform.plugins.module_utils.documents import group_of, key, label
from ansible_collections.mlops.platform.plugins.module_utils.inputs import Wrong, quantity

FINISHED = ("Succeeded", "Failed")
KEEPS_AWAY = ("NoSchedule", "NoExecute")
TOLERANT = {"spec": {"tolerations": [{"operator": "Exists"}]}}  # a pod that any node takes
# Kinds with pods, and where each says how many; the pods of a DaemonSet are as many as the nodes that take them.
WORKLOADS = {
    ("apps", "Deployment"): "replicas",
    ("apps", "StatefulSet"): "replicas",
    ("apps", "ReplicaSet"): "replicas",
    ("apps", "DaemonSet"): "",
    ("batch", "Job"): "parallelism",
}
_BYTES = (("Gi", 2**30), ("Mi", 2**20), ("Ki", 2**10))


def minor(version: str) -> tuple[int, int]:
    """(1, 34) of v1.34.4-gke.100, 1.34 and the like; a ValueError names what is none."""
    found = re.match(r"v?(\d+)\.(\d+)", version)
    if not found:
        raise ValueError(f"{version!r} is not a version of Kubernetes, such as 1.34")
    return int(found[1]), int(found[2])


def requests(pod: dict) -> dict[str, Decimal]:
    """What the scheduler counts: containers and sidecars together, or the greediest init container if that is more; plus overhead.

    The pod itself counts too: a node takes a number of them.
    """
    spec = pod["spec"]
    starting = spec.get("initContainers") or []
    sidecars = [container for container in starting if container.get("restartPolicy") == "Always"]
    total = _sum(map(_asked, [*spec["containers"], *sidecars]))
    for container in starting:
        if container not in sidecars:
            total = {name: max(total.get(name, Decimal(0)), amount) for name, amount in {**total, **_asked(container)}.items()}
    return _sum([total, _quantities(spec.get("overhead")), {"pods": Decimal(1)}])


def free(nodes: Iterable[dict], pods: Iterable[dict], templates: Iterable[dict] = ()) -> dict[str, dict[str, Decimal]]:
    """By resource: allocatable on nodes that take pods (one of these templates, if there are any), requested there, and free."""
    templates = list(templates)
    usable = [node for node in nodes if any(takes(node, template) for template in templates or [TOLERANT])]
    names = {node["metadata"]["name"] for node in usable}
    allocatable = _sum(_quantities(node["status"].get("allocatable")) for node in usable)
    here = (pod for pod in pods if pod["spec"].get("nodeName") in names and pod.get("status", {}).get("phase") not in FINISHED)
    requested = _sum(map(requests, here))
    return {
        name: {"allocatable": amount, "requested": requested.get(name, Decimal(0)), "free": amount - requested.get(name, Decimal(0))}
        for name, amount in allocatable.items()
    }


def takes(node: dict, pod: dict) -> bool:
    """Whether the scheduler may put the pod on the node, as far as cordons, taints and the pod's node selector say."""
    spec, labels = pod["spec"], node["metadata"].get("labels") or {}
    if node["spec"].get("unschedulable") or not (spec.get("nodeSelector") or {}).items() <= labels.items():
        return False
    taints = [taint for taint in node["spec"].get("taints") or [] if taint["effect"] in KEEPS_AWAY]
    return all(any(_tolerates(each, taint) for each in spec.get("tolerations") or []) for taint in taints)


def _tolerates(toleration: dict, taint: dict) -> bool:
    if toleration.get("effect") not in (None, "", taint["effect"]) or toleration.get("key") not in (None, "", taint["key"]):
        return False
    return toleration.get("operator") == "Exists" or (toleration.get("value") or "") == (taint.get("value") or "")


def shortage(cluster, docs: Iterable[dict], dropped: Iterable[dict] = ()) -> list[str]:
    """What the cluster's nodes have too little of for the documents, a sentence each; nothing where no workload is new or wants more.

    What runs of them already is not needed once more; neither is what `dropped`, documents that are about to be deleted, leave behind.
    Nodes and pods are only asked for where something is needed. What other controllers add (sidecars, autoscaled replicas) is not known.
    """
    wanted = [doc for doc in docs if _kind(doc) in WORKLOADS and _template(doc)]
    gone = [doc for doc in dropped if _kind(doc) in WORKLOADS]
    live = _live(cluster, [*wanted, *gone])
    pairs = [(doc, live.get(key(doc))) for doc in wanted]
    leaving = [live[key(doc)] for doc in gone if key(doc) in live]
    growing = [doc for doc, found in pairs if not found or _grows(_demand(found), _demand(doc, found))]
    if not growing:
        return []
    nodes, present = cluster.list("v1", "Node"), [*(found for _doc, found in pairs if found), *leaving]
    total = _sum([*(_demand(doc, found, nodes) for doc, found in pairs), *(_negative(_demand(found, nodes=nodes)) for found in present)])
    needed = {name: amount for name, amount in total.items() if amount > 0}
    return lacking(needed, free(nodes, cluster.list("v1", "Pod"), [_template(doc) for doc in growing]))


def _live(cluster, docs: list[dict]) -> dict[tuple, dict]:
    """What there is of the documents' objects, by key: one question for each kind and namespace."""
    places = sorted({(doc["apiVersion"], doc["kind"], doc["metadata"].get("namespace") or "") for doc in docs})
    found = [item for version, kind, namespace in places for item in cluster.list(version, kind, namespace)]
    return {key(item): item for item in found if not item["metadata"].get("deletionTimestamp")}


def _demand(doc: dict, live: dict | None = None, nodes: list[dict] | None = None) -> dict[str, Decimal]:
    """What all pods of a workload request together. Where it does not say how many there are, it is as many as live, or one."""
    pod, field = _template(doc), WORKLOADS[_kind(doc)]
    if field:
        given = doc["spec"].get(field)
        count = given if given is not None else ((live or {}).get("spec") or {}).get(field, 1)
    else:
        count = 1 if nodes is None else sum(takes(node, pod) for node in nodes)
    try:
        return {name: amount * count for name, amount in requests(pod).items()}
    except ValueError as error:
        raise ValueError(f"{label(doc)}: {error}") from error


def _template(doc: dict) -> dict | None:
    """The template of a workload's pods; None where the document has none, which the API server refuses."""
    template = (doc.get("spec") or {}).get("template") or {}
    return template if (template.get("spec") or {}).get("containers") else None


def _grows(before: dict[str, Decimal], after: dict[str, Decimal]) -> bool:
    return any(amount > before.get(name, 0) for name, amount in after.items())


def _negative(amounts: dict[str, Decimal]) -> dict[str, Decimal]:
    return {name: -amount for name, amount in amounts.items()}


def _kind(doc: dict) -> tuple[str, str]:
    return group_of(doc), doc["kind"]


def lacking(wanted: dict[str, object], available: dict[str, dict[str, Decimal]]) -> list[str]:
    """What does not fit, a sentence each, with the sums."""
    nothing = {"allocatable": Decimal(0), "requested": Decimal(0), "free": Decimal(0)}
    return [
        f"{name}: {shown(name, amount)} needed, {shown(name, max(found['free'], Decimal(0)))} free "
        f"({shown(name, found['allocatable'])} allocatable on all nodes that take pods, "
        f"{shown(name, found['requested'])} requested already)"
        for name, amount in _quantities(wanted).items()
        if (found := available.get(name, nothing))["free"] < amount
    ]


def shown(name: str, amount: Decimal) -> str:
    """A quantity as people write it: 1500m CPUs, 3.5Gi of memory, 2 of anything else."""
    if name == "cpu":
        return f"{amount.normalize():f}" if amount == amount.to_integral() else f"{int(amount * 1000)}m"
    for unit, size in _BYTES if name in ("memory", "ephemeral-storage") else ():
        if amount >= size:
            return f"{round(amount / size, 1).normalize():f}{unit}"
    return f"{amount.normalize():f}"


def _asked(container: dict) -> dict[str, Decimal]:
    resources = container.get("resources") or {}
    return _quantities({**(resources.get("limits") or {}), **(resources.get("requests") or {})})  # as the API server fills it in


def _quantities(given: dict | None) -> dict[str, Decimal]:
    return {name: amount if isinstance(amount, Decimal) else _quantity(name, amount) for name, amount in (given or {}).items()}


def _quantity(name: str, amount: object) -> Decimal:
    try:
        return quantity(amount)
    except Wrong as error:
        raise ValueError(f"{name} {amount!r} {error}") from error


def _sum(parts: Iterable[dict[str, Decimal]]) -> dict[str, Decimal]:
    total: dict[str, Decimal] = {}
    for part in parts:
        for name, amount in part.items():
            total[name] = total.get(name, Decimal(0)) + amount
    return total

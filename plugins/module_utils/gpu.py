# Copyright: the mlops.platform contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""GPUs of a cluster's nodes: whether they can be given to pods, why not, and GPUs that are only simulated."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from ansible_collections.mlops.platform.plugins.module_utils.client import ApiError
from ansible_collections.mlops.platform.plugins.module_utils.diagnose import Cause, Patience, Snapshot, causes, condition, matches, shorten

RESOURCE = "nvidia.com/gpu"
SIMULATED = "mlops.platform/simulated-gpu"  # label of nodes whose GPUs do not exist
OURS = (
    "mlops.platform/simulated-here"  # annotation of those among them whose GPUs are simulated here, and not by a rehearsal of Google Cloud
)
ACCELERATOR = "cloud.google.com/gke-accelerator"
CLOUDS = ("gce://", "aws:///", "azure:///")  # providerID of nodes on which nothing is simulated
MERGE_PATCH = "application/merge-patch+json"


# -- nodes --------------------------------------------------------------------------------------------------------------


def gpus(node: dict, what: str = "allocatable") -> int:
    """How many GPUs a node has (`capacity`) or can give to pods (`allocatable`)."""
    return int(((node.get("status") or {}).get(what) or {}).get(RESOURCE, 0))


def is_simulated(node: dict) -> bool:
    """Whether its GPUs do not exist."""
    return (node["metadata"].get("labels") or {}).get(SIMULATED) == "true"


def usable(node: dict) -> bool:
    """Whether the node is ready for pods."""
    return condition(node, "Ready").get("status") == "True" and not node["spec"].get("unschedulable")


def describe(node: dict) -> dict:
    """A node as modules return it."""
    return {
        "name": node["metadata"]["name"],
        "ready": usable(node),
        "capacity": gpus(node, "capacity"),
        "allocatable": gpus(node),
        "accelerator": (node["metadata"].get("labels") or {}).get(ACCELERATOR, ""),
        "simulated": is_simulated(node),
    }


@dataclass
class Pool:
    """Nodes that are looked at together, and how many GPUs they are to offer. `selector`: their labels; empty is every node with a GPU."""

    name: str
    selector: dict = field(default_factory=dict)
    wanted: int = 0
    nodes: list[dict] = field(default_factory=list)

    def look(self, nodes: Iterable[dict]) -> None:
        """Keep those of the nodes that belong to it."""
        self.nodes = [
            node for node in nodes if (matches(self.selector, node["metadata"].get("labels")) if self.selector else gpus(node, "capacity"))
        ]

    @property
    def offered(self) -> int:
        """GPUs that can be given to pods."""
        return sum(gpus(node) for node in self.nodes if usable(node))

    @property
    def ready(self) -> bool:
        """Whether it offers as many as are wanted."""
        return self.offered >= self.wanted

    def __str__(self) -> str:
        nodes = f"{len(self.nodes)} node{'' if len(self.nodes) == 1 else 's'}"
        return f"{self.name}: {self.offered} of {self.wanted} {RESOURCE} can be given to pods, on {nodes}"

    def result(self) -> dict:
        """As the module returns it."""
        return {"name": self.name, "wanted": self.wanted, "offered": self.offered, "nodes": [describe(node) for node in self.nodes]}


def missing(snapshot: Snapshot, pool: Pool) -> list[Cause]:
    """Why a pool offers fewer GPUs than are wanted."""
    if not pool.nodes:
        labels = ", ".join(f"{key}={value}" for key, value in pool.selector.items()) or f"the resource {RESOURCE}"
        return [Cause(f"Pool {pool.name}", "NoNodes", f"no node has {labels}", lasting=True)]
    found = [cause for node in pool.nodes for cause in _of_node(snapshot, node)]
    if found:
        return found
    return [Cause(f"Pool {pool.name}", "TooFew", f"its {len(pool.nodes)} nodes have no more than {pool.offered} GPUs", lasting=True)]


def _of_node(snapshot: Snapshot, node: dict) -> list[Cause]:
    name, ready = f"Node {node['metadata']['name']}", condition(node, "Ready")
    if ready.get("status") != "True":
        return [Cause(name, ready.get("reason") or "NotReady", shorten(ready.get("message") or "it has not reported yet"))]
    if node["spec"].get("unschedulable"):
        remedy = f"kubectl uncordon {node['metadata']['name']}"
        return [Cause(name, "Cordoned", f"takes no pods. Remedy: {remedy}", lasting=True)]
    if gpus(node):
        return []
    if gpus(node, "capacity"):
        return [Cause(name, "Unhealthy", f"none of its {gpus(node, 'capacity')} {RESOURCE} is healthy: see its driver, nvidia-smi")]
    pods = [pod for pod in snapshot.evidence("v1", "Pod") if pod["spec"].get("nodeName") == node["metadata"]["name"] and _is_of_nvidia(pod)]
    found = [cause for pod in pods for cause in causes(snapshot, pod)]
    if found:
        return found
    if pods:
        names = ", ".join(f"{pod['metadata']['namespace']}/{pod['metadata']['name']}" for pod in pods)
        return [Cause(name, "NotAdvertised", f"has no {RESOURCE} although {names} runs on it: see its log")]
    text = f"has no {RESOURCE}, and no device plugin runs on it. With driver_version disabled, install driver and plugin yourself"
    return [Cause(name, "NoDevicePlugin", text, lasting=True)]


def _is_of_nvidia(pod: dict) -> bool:
    """Whether it is a driver installer or device plugin, of GKE or of NVIDIA's operator."""
    return "nvidia" in pod["metadata"]["name"] and (
        pod["metadata"]["namespace"] in ("kube-system", "gpu-operator", "gmp-system") or "device-plugin" in pod["metadata"]["name"]
    )


class Wait:
    """Waits until every pool offers its GPUs, in slices if need be: `state` carries what the next slice has to know, as plain data."""

    PAUSE, DIAGNOSE_EVERY = 1.0, 3.0  # seconds

    def __init__(
        self,
        cluster,
        pools: list[Pool],
        grace: float = 120.0,
        state: dict | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ):
        self.cluster, self.pools, self.clock, self._sleep = cluster, pools, clock, sleep
        self.state = state or {"started": clock(), "seen": {}}
        self.patience = Patience(grace, self.state["seen"])
        self.causes: dict[str, list[Cause]] = {}
        self._diagnosed: float | None = None

    @property
    def elapsed(self) -> float:
        """Seconds since the wait, not the slice, began."""
        return self.clock() - self.state["started"]

    @property
    def pending(self) -> list[Pool]:
        """Pools that offer too few."""
        return [pool for pool in self.pools if not pool.ready]

    def look(self) -> None:
        """Look at the nodes once."""
        nodes = self.cluster.list("v1", "Node")
        for pool in self.pools:
            pool.look(nodes)

    def diagnose(self) -> None:
        """Find the causes."""
        snapshot = Snapshot(self.cluster)
        self.causes = {pool.name: missing(snapshot, pool) for pool in self.pending}
        self._diagnosed = self.clock()

    def run(self, timeout: float, slice_: float | None = None) -> str | None:
        """ "" when all pools offer their GPUs, a message when they will not, None when the slice ended first."""
        end = self.clock() + slice_ if slice_ else None
        while True:
            self.look()
            if not self.pending:
                return ""
            if self._diagnosed is None or self.clock() - self._diagnosed >= self.DIAGNOSE_EVERY:
                self.diagnose()
                over = self.patience.exhausted([cause for found in self.causes.values() for cause in found], self.clock())
                if over:
                    return self.explain(f"after {self.elapsed:.0f} s, and waiting longer is in vain")
            if self.elapsed >= timeout:
                self.diagnose()
                return self.explain(f"after {timeout:g} s (timeout)")
            if end and self.clock() >= end:
                return None
            self._sleep(max(0.05, min(self.PAUSE, timeout - self.elapsed)))

    def lines(self) -> list[str]:
        """What is awaited, a line each."""
        why = {name: f" ({shorten(str(found[0]), 160)})" for name, found in self.causes.items() if found}
        return [f"{pool}{why.get(pool.name, '')}" for pool in self.pending]

    def explain(self, when: str) -> str:
        """The failure in full."""
        lines = [f"{len(self.pending)} of {len(self.pools)} pools {'is' if len(self.pending) == 1 else 'are'} short of GPUs {when}:"]
        for pool in self.pending:
            lines.append(f"- {pool}")
            lines += [f"    {cause}" for cause in self.causes.get(pool.name, [])[:4]]
        return "\n".join(lines)


# -- GPUs that do not exist ---------------------------------------------------------------------------------------------


class Refused(Exception):
    """Nothing may be simulated there; the message has the remedy."""


def candidates(nodes: Iterable[dict], names: Iterable[str]) -> list[dict]:
    """The nodes that are named, or all that take pods without being tolerated. Raises Refused for a name that is not there."""
    nodes, names = list(nodes), list(names)
    absent = sorted(set(names) - {node["metadata"]["name"] for node in nodes})
    if absent:
        there = ", ".join(sorted(node["metadata"]["name"] for node in nodes))
        raise Refused(f"There is no node {', '.join(absent)}. Remedy: name one of {there}.")
    if names:
        return [node for node in nodes if node["metadata"]["name"] in names]
    return [node for node in nodes if not any(t.get("effect") in ("NoSchedule", "NoExecute") for t in node["spec"].get("taints") or [])]


def check_simulation(node: dict) -> None:
    """Raises Refused for a node on which pods would wait in vain for a GPU that they need."""
    provider = node["spec"].get("providerID") or ""
    if provider.startswith(CLOUDS):
        raise Refused(
            f"Node {node['metadata']['name']} is a machine in a cloud ({provider.partition(':')[0]}), where pods that ask for a GPU "
            "need one. Remedy: simulate GPUs on test clusters only (gpu_nodes_simulated: 0)."
        )


def is_ours(node: dict) -> bool:
    """Whether its GPUs were simulated here."""
    return is_simulated(node) and OURS in (node["metadata"].get("annotations") or {})


def simulation(node: dict, count: int, accelerator: str) -> dict[str, dict]:
    """What to change of a node: {labels: …, annotations: …, resources: …}, all empty if nothing. Values of None take away.

    A node that advertises GPUs and is not marked has real ones, and stays as it is. So do, if `count` is 0, those of a rehearsal.
    """
    unchanged: dict[str, dict] = {"labels": {}, "annotations": {}, "resources": {}}
    if (not is_simulated(node) and gpus(node, "capacity")) or (not count and not is_ours(node)):
        return unchanged
    meta, status, text = node["metadata"], node.get("status") or {}, str(count) if count else None
    labels = {SIMULATED: "true" if count else None}
    if accelerator or not count:
        labels[ACCELERATOR] = accelerator if count else None
    change = {
        "labels": {name: value for name, value in labels.items() if (meta.get("labels") or {}).get(name) != value},
        "annotations": {},
        "resources": {what: {RESOURCE: text} for what in ("capacity", "allocatable") if (status.get(what) or {}).get(RESOURCE) != text},
    }
    if (change["labels"] or change["resources"]) and is_ours(node) != bool(count):
        change["annotations"] = {OURS: "" if count else None}
    return change


def simulate(cluster, node: dict, change: dict[str, dict]) -> None:
    """Write a change. The mark is there as long as the GPUs are: it comes first and goes last."""
    path = cluster.resource("v1", "Node").path(None, node["metadata"]["name"])
    steps = []
    if change["labels"] or change["annotations"]:
        steps.append((path, {"metadata": {"labels": change["labels"], "annotations": change["annotations"]}}))
    if change["resources"]:
        steps.append((f"{path}/status", {"status": change["resources"]}))
    if change["labels"].get(SIMULATED, "") is None:
        steps.reverse()
    for where, body in steps:
        try:
            cluster.request("PATCH", where, body=body, content_type=MERGE_PATCH)
        except ApiError as error:
            raise Refused(f"Node {node['metadata']['name']} cannot be changed: {error}. Remedy: act as an administrator of it.") from error

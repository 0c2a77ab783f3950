# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Whether a cluster is one that a release set is meant for: its version, and what its nodes have left."""

from __future__ import annotations

import re
from collections.abc import Iterable
from decimal import Decimal

from ansible_collections.mlops.platform.plugins.module_utils.inputs import quantity

FINISHED = ("Succeeded", "Failed")
_BYTES = (("Gi", 2**30), ("Mi", 2**20), ("Ki", 2**10))


def minor(version: str) -> tuple[int, int]:
    """(1, 34) of v1.34.4-gke.100, 1.34 and the like; a ValueError names what is none."""
    found = re.match(r"v?(\d+)\.(\d+)", version)
    if not found:
        raise ValueError(f"{version!r} is not a version of Kubernetes, such as 1.34")
    return int(found[1]), int(found[2])


def requests(pod: dict) -> dict[str, Decimal]:
    """What the scheduler counts: containers and sidecars together, or the greediest init container if that is more; plus overhead."""
    spec = pod["spec"]
    starting = spec.get("initContainers") or []
    sidecars = [container for container in starting if container.get("restartPolicy") == "Always"]
    total = _sum(map(_asked, [*spec["containers"], *sidecars]))
    for container in starting:
        if container not in sidecars:
            total = {name: max(total.get(name, Decimal(0)), amount) for name, amount in {**total, **_asked(container)}.items()}
    return _sum([total, _quantities(spec.get("overhead"))])


def free(nodes: Iterable[dict], pods: Iterable[dict]) -> dict[str, dict[str, Decimal]]:
    """By resource: allocatable on nodes that take pods, requested there, and free."""
    usable = [node for node in nodes if not node["spec"].get("unschedulable")]
    names = {node["metadata"]["name"] for node in usable}
    allocatable = _sum(_quantities(node["status"].get("allocatable")) for node in usable)
    here = (pod for pod in pods if pod["spec"].get("nodeName") in names and pod.get("status", {}).get("phase") not in FINISHED)
    requested = _sum(map(requests, here))
    return {
        name: {"allocatable": amount, "requested": requested.get(name, Decimal(0)), "free": amount - requested.get(name, Decimal(0))}
        for name, amount in allocatable.items()
    }


def lacking(wanted: dict[str, object], available: dict[str, dict[str, Decimal]]) -> list[str]:
    """What does not fit, a sentence each, with the sums."""
    nothing = {"allocatable": Decimal(0), "requested": Decimal(0), "free": Decimal(0)}
    return [
        f"{name}: {shown(name, quantity(amount))} needed, {shown(name, max(found['free'], Decimal(0)))} free "
        f"({shown(name, found['allocatable'])} allocatable on all nodes that take pods, "
        f"{shown(name, found['requested'])} requested already)"
        for name, amount in wanted.items()
        if (found := available.get(name, nothing))["free"] < quantity(amount)
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
    return _quantities(container.get("resources", {}).get("requests"))


def _quantities(given: dict | None) -> dict[str, Decimal]:
    return {name: quantity(amount) for name, amount in (given or {}).items()}


def _sum(parts: Iterable[dict[str, Decimal]]) -> dict[str, Decimal]:
    total: dict[str, Decimal] = {}
    for part in parts:
        for name, amount in part.items():
            total[name] = total.get(name, Decimal(0)) + amount
    return total

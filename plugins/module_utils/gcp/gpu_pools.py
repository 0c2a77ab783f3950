# Copyright: the mlops.platform contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""GPU node pools of GKE as users describe them: by accelerator and number, from which everything else follows."""

from __future__ import annotations

import re
from collections.abc import Iterable

NAME = re.compile(r"[a-z]([a-z0-9-]{0,38}[a-z0-9])?")

# The machine type for so many GPUs on a node. Where there are several, the smallest on which a notebook with 4 CPUs and one GPU fits.
MACHINE_TYPES: dict[str, dict[int, str]] = {
    "nvidia-l4": {1: "g2-standard-8", 2: "g2-standard-24", 4: "g2-standard-48", 8: "g2-standard-96"},
    "nvidia-rtx-pro-6000": {1: "g4-standard-48", 2: "g4-standard-96", 4: "g4-standard-192", 8: "g4-standard-384"},
    "nvidia-tesla-a100": {
        1: "a2-highgpu-1g", 2: "a2-highgpu-2g", 4: "a2-highgpu-4g", 8: "a2-highgpu-8g", 16: "a2-megagpu-16g"
    },
    "nvidia-a100-80gb": {1: "a2-ultragpu-1g", 2: "a2-ultragpu-2g", 4: "a2-ultragpu-4g", 8: "a2-ultragpu-8g"},
    "nvidia-h100-80gb": {1: "a3-highgpu-1g", 2: "a3-highgpu-2g", 4: "a3-highgpu-4g", 8: "a3-highgpu-8g"},
    "nvidia-h100-mega-80gb": {8: "a3-megagpu-8g"},
    "nvidia-h200-141gb": {8: "a3-ultragpu-8g"},
    "nvidia-b200": {8: "a4-highgpu-8g"},
    # attached to machines of the series N1, within the CPUs that so many cards allow
    "nvidia-tesla-t4": {1: "n1-standard-8", 2: "n1-standard-16", 4: "n1-standard-32"},
    "nvidia-tesla-p4": {1: "n1-standard-8", 2: "n1-standard-16", 4: "n1-standard-32"},
    "nvidia-tesla-p100": {1: "n1-standard-8", 2: "n1-standard-16", 4: "n1-standard-32"},
    "nvidia-tesla-v100": {1: "n1-standard-8", 2: "n1-standard-16", 4: "n1-standard-32", 8: "n1-standard-64"},
}  # fmt: skip


class PoolError(Exception):
    """A pool that cannot be made as it is described."""

    def __init__(self, what: str, remedy: str):
        super().__init__(f"{what}. Remedy: {remedy}")
        self.what, self.remedy = what, remedy


def machine_type(accelerator: str, count: int) -> str:
    """The machine type for `count` GPUs on a node. Raises PoolError."""
    known = MACHINE_TYPES.get(accelerator)
    if known is None:
        types = ", ".join(MACHINE_TYPES)
        raise PoolError(
            f"has the accelerator {accelerator}, for which no machine type is known here", f"machine_type too, or one of {types}"
        )
    if count not in known:
        numbers = ", ".join(map(str, known))
        raise PoolError(
            f"wants {count} × {accelerator} on a node, which no machine type has", f"a count of {numbers}, and max for more nodes"
        )
    return known[count]


def node_pool(pool: dict, service_account: str = "", zones: Iterable[str] = ()) -> dict:
    """A pool as users describe it, in the options of the module gke_node_pools. `zones`: of one that names none. Raises PoolError."""
    name, accelerator, count = pool.get("name") or "", pool.get("accelerator") or "", int(pool.get("count") or 1)
    if not NAME.fullmatch(name):
        raise PoolError(f"has the name {name!r}", "a name of at most 40 small letters, digits and hyphens, a letter first")
    if pool.get("state") == "absent":
        return {"name": name, "state": "absent"}
    if not accelerator:
        raise PoolError("has no accelerator", "a type such as nvidia-l4")
    low = int(pool.get("min") or 0)
    high = max(low, 1) if pool.get("max") is None else int(pool["max"])
    if not 0 <= low <= high or high < 1:
        raise PoolError(f"has min {low} and max {high}", "0 or more, and no less than that, at least 1")
    sharing, spot = _given(pool.get("sharing") or {}), bool(pool.get("spot"))
    if sharing and not 2 <= int(sharing.get("max_clients") or 0) <= 48:
        raise PoolError(f"has sharing.max_clients {sharing.get('max_clients', 'not set')}", "2 to 48 containers, which share a GPU")
    machine = pool.get("machine_type") or machine_type(accelerator, count)
    driver = pool.get("driver_version") or "default"
    gpu = {"type": accelerator, "count": count, "driver_version": driver}
    return _given(
        {
            "name": name,
            "state": "present",
            "machine_type": machine,
            "accelerator": {**gpu, "sharing": {"strategy": "time-sharing", **sharing}} if sharing else gpu,
            "autoscaling": {"min": low, "max": high, **({"location_policy": "ANY"} if spot else {})},
            "spot": spot,
            "service_account": service_account,
            "locations": pool.get("locations") or list(zones),
            **{key: pool.get(key) for key in ("disk_size_gb", "disk_type", "labels", "taints")},
        }
    )


def demand(pools: Iterable[dict], location: str) -> list[dict]:
    """What new pools (in the options of gke_node_pools) ask of each location: options of the module gcp_accelerators.

    A pool that starts at zero needs one node, or nobody could ever use it.
    """
    places: dict[str, list[dict]] = {}
    for pool in pools:
        if pool.get("state") == "absent":
            continue
        zones = pool.get("locations") or [location]
        nodes = max(pool["autoscaling"]["min"] * len(zones), 1)
        wanted = {"type": pool["accelerator"]["type"], "count": pool["accelerator"]["count"] * nodes, "spot": bool(pool.get("spot"))}
        places.setdefault(zones[0], []).append(wanted)
    return [{"location": place, "accelerators": wanted} for place, wanted in places.items()]


def _given(values: dict) -> dict:
    return {key: value for key, value in values.items() if value not in (None, "", [], {})}

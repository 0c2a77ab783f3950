#!/usr/bin/python
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Let nodes without GPUs advertise some, to try how pods that ask for GPUs are scheduled."""

from __future__ import annotations

DOCUMENTATION = r"""
module: simulated_gpu
author: The mlops.platform contributors (@mlops)
short_description: Let nodes of a test cluster advertise GPUs that they do not have
version_added: 1.0.0
description:
  - Sets C(nvidia.com/gpu) in the status of nodes, so that pods that ask for a GPU are scheduled there, and the label
    C(mlops.platform/simulated-gpu=true), so that nobody takes them for real ones. No pod gets a device.
  - A node that advertises GPUs without that label has real ones, and stays as it is. Those that the rehearsal of Google Cloud simulates
    are not taken away. On machines of Google Cloud, AWS and Azure the module refuses to work.
options:
  count:
    description: GPUs that each node advertises. V(0) takes away what this module has simulated, with the labels.
    type: int
    required: true
  nodes:
    description:
      - Names of nodes. By default all that have no taint of effect C(NoSchedule) or C(NoExecute); with O(count=0) all that are labelled.
    type: list
    elements: str
    default: []
  accelerator:
    description: What they are said to be, for the label C(cloud.google.com/gke-accelerator). By default there is no such label.
    type: str
extends_documentation_fragment:
  - mlops.platform.cluster
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
"""

EXAMPLES = r"""
- name: Two GPUs on each node
  mlops.platform.simulated_gpu:
    kubeconfig: ~/.cache/mlops-platform/kind/mlops-platform.kubeconfig
    count: 2
    accelerator: nvidia-l4

- name: None any more
  mlops.platform.simulated_gpu:
    kubeconfig: ~/.cache/mlops-platform/kind/mlops-platform.kubeconfig
    count: 0
"""

RETURN = r"""
nodes:
  description: The nodes that were looked at, and what was done to each.
  returned: success
  type: list
  elements: dict
  contains:
    name:
      description: Name.
      type: str
    action:
      description: V(simulated), V(unchanged), V(removed), or V(left) for a node with GPUs that are not this module's.
      type: str
    gpus:
      description: GPUs that it advertises.
      type: int
"""

import traceback

from ansible.module_utils.basic import AnsibleModule, missing_required_lib

try:
    from ansible_collections.mlops.platform.plugins.module_utils import gpu
    from ansible_collections.mlops.platform.plugins.module_utils.client import Cluster, ClusterError

    MISSING = None
except ImportError:
    MISSING = traceback.format_exc()

OPTIONS = {
    "kubeconfig": {"type": "path"},
    "context": {"type": "str"},
    "count": {"type": "int", "required": True},
    "nodes": {"type": "list", "elements": "str", "default": []},
    "accelerator": {"type": "str"},
}


def main() -> None:
    """Run the module."""
    module = AnsibleModule(argument_spec=OPTIONS, supports_check_mode=True)
    if MISSING:
        module.fail_json(msg=missing_required_lib("kubernetes"), exception=MISSING)
    if module.params["count"] < 0:
        module.fail_json(msg=f"count: {module.params['count']} is less than 0; write 0 to take simulated GPUs away")
    try:
        result = run(Cluster(module.params["kubeconfig"], module.params["context"]), module.params, module.check_mode)
    except (ClusterError, gpu.Refused) as error:
        module.fail_json(msg=str(error))
    if not module._diff:
        del result["diff"]
    module.exit_json(**result)


def run(cluster, params: dict, check_mode: bool) -> dict:
    """Compare all nodes before one is changed."""
    count, accelerator = params["count"], params["accelerator"] or ""
    listed = cluster.list("v1", "Node")
    nodes = gpu.candidates(listed, params["nodes"])
    if not count and not params["nodes"]:
        nodes = [node for node in listed if gpu.is_simulated(node)]
    changes = [(node, gpu.simulation(node, count, accelerator)) for node in nodes]
    for node, change in changes:
        if count and (change["labels"] or change["resources"]):
            gpu.check_simulation(node)
    result = {"changed": False, "nodes": [], "diff": []}
    for node, change in changes:
        changed = bool(change["labels"] or change["resources"])
        if changed and not check_mode:
            gpu.simulate(cluster, node, change)
        left = not changed and gpu.gpus(node, "capacity") and not (gpu.is_simulated(node) if count else gpu.is_ours(node))
        action = ("simulated" if count else "removed") if changed else "left" if left else "unchanged"
        advertised = gpu.gpus(node, "capacity") if action in ("left", "unchanged") else count
        result["nodes"].append({"name": node["metadata"]["name"], "action": action, "gpus": advertised})
        result["changed"] = result["changed"] or changed
        if changed:
            result["diff"].append(_diff(node, change))
    return result


def _diff(node: dict, change: dict) -> dict:
    """The changed labels and resources, before and after."""
    meta, status = node["metadata"], node.get("status") or {}
    before = {
        **{
            what: {name: value for name, value in (meta.get(what) or {}).items() if name in change[what]}
            for what in ("labels", "annotations")
        },
        **{what: {name: (status.get(what) or {}).get(name) for name in named} for what, named in change["resources"].items()},
    }
    after = {
        **{what: {name: value for name, value in change[what].items() if value is not None} for what in ("labels", "annotations")},
        **change["resources"],
    }
    name = f"Node {node['metadata']['name']}"
    return {"before_header": name, "after_header": name, "before": before, "after": after}


if __name__ == "__main__":
    main()

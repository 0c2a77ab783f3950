#!/usr/bin/python
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Wait until nodes offer their GPUs to pods."""

from __future__ import annotations

DOCUMENTATION = r"""
module: gpu_ready
author: The mlops.platform contributors (@mlops)
short_description: Wait until nodes offer GPUs to pods, and say why they do not
version_added: 1.0.0
description:
  - Waits until each pool of nodes has as many allocatable C(nvidia.com/gpu) as are wanted, on nodes that are ready and take pods.
  - The wait ends as soon as a cause has lasted for O(grace) that waiting does not cure, such as a node without device plugin, a driver
    that is not installed or a device plugin that crashes.
  - What is still awaited is printed about every ten seconds.
  - Never changes anything. In check mode it looks once, does not wait and does not fail.
options:
  pools:
    description: The pools.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: What it is called in messages.
        type: str
        required: true
      selector:
        description: Labels of its nodes. By default all nodes with a GPU belong to it.
        type: dict
        default: {}
      gpus:
        description: GPUs that it must offer. With V(0) it is only looked at.
        type: int
        default: 0
  timeout:
    description: Seconds after which the wait fails.
    type: float
    default: 900
  grace:
    description: Seconds for which a cause that may still pass is put up with.
    type: float
    default: 120
  slice:
    description: Internal. Seconds of one run of the module; the action plugin repeats it and prints in between what is awaited.
    type: float
  state:
    description: Internal. What the earlier slices of this wait found.
    type: dict
extends_documentation_fragment:
  - mlops.platform.cluster
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
    description: Changes nothing.
"""

EXAMPLES = r"""
- name: Both nodes of the pool offer their GPU
  mlops.platform.gpu_ready:
    pools:
      - {name: gpu, selector: {cloud.google.com/gke-nodepool: gpu}, gpus: 2}
"""

RETURN = r"""
pools:
  description: The pools as they are.
  returned: always
  type: list
  elements: dict
  contains:
    name:
      description: Name.
      type: str
    wanted:
      description: GPUs that were wanted.
      type: int
    offered:
      description: GPUs that can be given to pods.
      type: int
    nodes:
      description: Its nodes, each with C(name), C(ready), C(capacity), C(allocatable), C(accelerator) and C(simulated).
      type: list
      elements: dict
seconds:
  description: How long the wait took.
  returned: always
  type: float
"""

import traceback

from ansible.module_utils.basic import AnsibleModule, missing_required_lib

try:
    from ansible_collections.mlops.platform.plugins.module_utils import gpu
    from ansible_collections.mlops.platform.plugins.module_utils.client import Cluster, ClusterError

    MISSING = None
except ImportError:
    MISSING = traceback.format_exc()

POOL = {"name": {"type": "str", "required": True}, "selector": {"type": "dict", "default": {}}, "gpus": {"type": "int", "default": 0}}
OPTIONS = {
    "kubeconfig": {"type": "path"},
    "context": {"type": "str"},
    "pools": {"type": "list", "elements": "dict", "required": True, "options": POOL},
    "timeout": {"type": "float", "default": 900},
    "grace": {"type": "float", "default": 120},
    "slice": {"type": "float"},
    "state": {"type": "dict"},
}


def main() -> None:
    """Run one slice of the wait, or all of it."""
    module = AnsibleModule(argument_spec=OPTIONS, supports_check_mode=True)
    if MISSING:
        module.fail_json(msg=missing_required_lib("kubernetes"), exception=MISSING)
    params = module.params
    pools = [gpu.Pool(pool["name"], pool["selector"], pool["gpus"]) for pool in params["pools"]]
    try:
        wait = gpu.Wait(Cluster(params["kubeconfig"], params["context"]), pools, params["grace"], params["state"])
        if module.check_mode:
            wait.look()
            message = ""
        else:
            message = wait.run(params["timeout"], params["slice"])
    except ClusterError as error:
        module.fail_json(msg=str(error))
    result = {"changed": False, "pools": [pool.result() for pool in pools], "seconds": round(wait.elapsed, 1)}
    if message:
        module.fail_json(msg=message, **result)
    if message is None:
        result.update(state=wait.state, waiting=wait.lines())
    module.exit_json(**result)


if __name__ == "__main__":
    main()

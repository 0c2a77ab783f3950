# Copyright: the mlops.platform contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Filters from GPU pools as users describe them to what modules take."""

from __future__ import annotations

DOCUMENTATION = r"""
name: gpu_node_pools
author: The mlops.platform contributors (@mlops)
short_description: GPU pools as users describe them, as node pools of GKE
version_added: "0.2.0"
positional: service_account, zones
description:
  - Turns GPU pools into the O(mlops.platform.gke_node_pools#module:node_pools), with a machine type that has the accelerators.
options:
  _input:
    description: Pools with C(name), C(accelerator), C(count) and the others of the role gpu_nodes.
    type: list
    elements: dict
    required: true
  service_account:
    description: E-mail address of the nodes' service account.
    type: str
    default: ''
  zones:
    description: Zones of the pools that name none, by name of the pool.
    type: dict
    default: {}
"""

EXAMPLES = r"""
- name: Show the node pools
  ansible.builtin.debug:
    msg: "{{ [{'name': 'gpu', 'accelerator': 'nvidia-l4', 'max': 2}] | mlops.platform.gpu_node_pools }}"
"""

RETURN = r"""
_value:
  description: Node pools for M(mlops.platform.gke_node_pools).
  type: list
  elements: dict
"""

from ansible.errors import AnsibleFilterError

from ansible_collections.mlops.platform.plugins.module_utils.gcp import gpu_pools


def gpu_node_pools(pools, service_account="", zones=None):
    """Return the pools in the options of gke_node_pools."""
    try:
        return [gpu_pools.node_pool(pool, service_account, (zones or {}).get(pool["name"], ())) for pool in pools]
    except gpu_pools.PoolError as error:
        raise AnsibleFilterError(f"gpu_node_pools: a pool {error}") from error


class FilterModule:
    """The filter under its name."""

    def filters(self):
        """Return the filters of this file."""
        return {"gpu_node_pools": gpu_node_pools}

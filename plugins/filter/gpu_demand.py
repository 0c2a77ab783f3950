# Copyright: the mlops.platform contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Filter from node pools to what they ask of locations."""

from __future__ import annotations

DOCUMENTATION = r"""
name: gpu_demand
author: The mlops.platform contributors (@mlops)
short_description: What new GPU pools ask of each location
version_added: "0.2.0"
description:
  - Sums up, by location, the accelerators that node pools start with; of one that starts at zero, those of one node.
positional: location
options:
  _input:
    description: Node pools as M(mlops.platform.gke_node_pools) takes them.
    type: list
    elements: dict
    required: true
  location:
    description: Location of those that name no zones.
    type: str
    required: true
"""

EXAMPLES = r"""
- name: Show what they ask for
  ansible.builtin.debug:
    msg: "{{ pools | mlops.platform.gpu_demand('asia-northeast3-b') }}"
"""

RETURN = r"""
_value:
  description:
    - One entry a location, with O(mlops.platform.gcp_accelerators#module:location) and
      O(mlops.platform.gcp_accelerators#module:accelerators).
  type: list
  elements: dict
"""

from ansible_collections.mlops.platform.plugins.module_utils.gcp import gpu_pools


class FilterModule:
    """The filter under its name."""

    def filters(self):
        """Return the filters of this file."""
        return {"gpu_demand": gpu_pools.demand}

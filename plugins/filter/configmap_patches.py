# Copyright: the mlops.platform contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Filter from the data of ConfigMaps to patches of mlops.platform.k8s_apply."""

from __future__ import annotations

DOCUMENTATION = r"""
name: configmap_patches
author: The mlops.platform contributors (@mlops)
short_description: Data of ConfigMaps, as patches
version_added: 1.0.0
description:
  - Turns a mapping of ConfigMaps to their data into the O(mlops.platform.k8s_apply#module:patches) that set it in a release's manifests.
  - A ConfigMap holds strings only. Booleans become C(true) and C(false), numbers their digits.
options:
  _input:
    description: Data by name of the ConfigMap.
    type: dict
    required: true
  json:
    description:
      - Whether each value is a mapping, to be merged into the JSON text that the ConfigMap has under the key.
    type: bool
    default: false
"""

EXAMPLES = r"""
- name: Show the patches
  ansible.builtin.debug:
    msg: "{{ {'config-gc': {'max-non-active-revisions': 5}} | mlops.platform.configmap_patches }}"
"""

RETURN = r"""
_value:
  description: Patches for M(mlops.platform.k8s_apply); none for a ConfigMap without data.
  type: list
  elements: dict
"""

from ansible.errors import AnsibleFilterError


def configmap_patches(config, json=False):
    """Return one patch for each ConfigMap that has data."""
    return [
        {"target": {"kind": "ConfigMap", "name": name}, **({"json_data": data} if json else {"merge": {"data": _strings(name, data)}})}
        for name, data in config.items()
        if data
    ]


def _strings(name, data):
    return {key: _string(f"{name}.{key}", value) for key, value in data.items()}


def _string(where, value):
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str | int | float):
        return str(value)
    raise AnsibleFilterError(f"configmap_patches: {where} must be a string, is {value!r}; write YAML or JSON text as a block (|)")


class FilterModule:
    """The filter under its name."""

    def filters(self):
        """Return the filters of this file."""
        return {"configmap_patches": configmap_patches}

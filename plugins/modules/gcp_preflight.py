#!/usr/bin/python
# Copyright: the mlops.platform contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Look whether a project is ready for what is going to be made in it."""

from __future__ import annotations

DOCUMENTATION = r"""
module: gcp_preflight
author: The mlops.platform contributors (@mlops)
short_description: Look whether a project, its billing and the caller's permissions are ready for what is going to be made
version_added: 1.0.0
description:
  - Looks at credentials, project, billing account, permissions of the caller, services that are off and the network, and returns all that
    it finds at once, with remedies. What cannot be looked at is said to be unchecked, and is no problem.
  - Never changes anything, and asks for nothing that costs.
options:
  permissions:
    description: Permissions that the caller is going to need on the project.
    type: list
    elements: str
    default: []
  services:
    description: Services that are going to be used. One that is off is a problem only if the caller may not switch it on.
    type: list
    elements: str
    default: []
  network:
    description: Network that must exist.
    type: str
  subnetwork:
    description: Subnetwork that must exist in O(region).
    type: str
  region:
    description: Region of O(subnetwork).
    type: str
extends_documentation_fragment:
  - mlops.platform.gcp
attributes:
  check_mode:
    support: full
    description: Changes nothing in any mode.
  diff_mode:
    support: none
    description: Changes nothing.
"""

EXAMPLES = r"""
- name: Look before making a cluster
  mlops.platform.gcp_preflight:
    project: my-project
    permissions: [container.clusters.create, compute.globalAddresses.create]
    services: [container.googleapis.com, compute.googleapis.com]
    network: default
"""

RETURN = r"""
checks:
  description: What was looked at, in this order.
  returned: always
  type: list
  elements: dict
  contains:
    what:
      description: What was looked at.
      type: str
    state:
      description: V(ok), V(problem) or V(unchecked).
      type: str
    found:
      description: What was found, in a sentence.
      type: str
    remedy:
      description: What to do about a problem.
      type: str
project_number:
  description: Number of the project.
  returned: when the project can be read
  type: str
principal:
  description: E-mail address of the caller, where it is known.
  returned: always
  type: str
missing_permissions:
  description: Those of O(permissions) that the caller lacks.
  returned: always
  type: list
  elements: str
services_off:
  description: Those of O(services) that are off.
  returned: always
  type: list
  elements: str
"""

from concurrent.futures import ThreadPoolExecutor

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.mlops.platform.plugins.module_utils.gcp import api, preflight


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            **api.argument_spec(),
            "permissions": {"type": "list", "elements": "str", "default": []},
            "services": {"type": "list", "elements": "str", "default": []},
            "network": {"type": "str"},
            "subnetwork": {"type": "str"},
            "region": {"type": "str"},
        },
        required_by={"subnetwork": ["network", "region"]},
        supports_check_mode=True,
    )
    gcp = api.connect(module)
    params = module.params
    found = preflight.Preflight(gcp)
    try:
        gcp.token()
    except api.GcpError as error:
        api.fail(module, error)
    with ThreadPoolExecutor(max_workers=4) as pool:
        for each in (
            pool.submit(found.project),
            pool.submit(found.billing),
            pool.submit(found.permissions, params["permissions"]),
            pool.submit(found.services, params["services"]),
            pool.submit(found.network, params["network"], params["subnetwork"], params["region"]),
        ):
            each.result()
    result = found.result()
    problems = [check for check in result["checks"] if check["state"] == "problem"]
    if problems:
        module.fail_json(msg=preflight.message(gcp, problems), **result)
    module.exit_json(changed=False, **result)


if __name__ == "__main__":
    main()

#!/usr/bin/python
# Copyright: the mlops.platform contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Give an IP address a name under cloud.goog."""

from __future__ import annotations

DOCUMENTATION = r"""
module: cloud_endpoints
author: The mlops.platform contributors (@mlops)
short_description: Give an IP address a name under cloud.goog
version_added: 1.0.0
description:
  - Makes C(<name>.endpoints.<project>.cloud.goog) resolve to an address, by a Cloud Endpoints service with an OpenAPI document that holds
    nothing but that. A configuration is submitted and rolled out only if the one in effect is of another document.
  - Until the name resolves everywhere, some minutes may pass.
options:
  name:
    description: The first label of the host. The whole host may have 62 characters.
    type: str
    required: true
  target:
    description: The IP address. Required unless O(state=absent); in check mode it may be empty.
    type: str
  title:
    description: Title of the service in the console.
    type: str
    default: ML platform
  state:
    description: Whether there shall be a service. A deleted one is kept by Google for 30 days, and brought back by V(present).
    type: str
    choices: [present, absent]
    default: present
extends_documentation_fragment:
  - mlops.platform.gcp
requirements:
  - PyYAML (Python package)
attributes:
  check_mode:
    support: full
    description: As long as the Service Management API is switched off, the service is predicted as created, with a warning.
  diff_mode:
    support: full
    description: The OpenAPI document.
"""

EXAMPLES = r"""
- name: A name for the ingress
  mlops.platform.cloud_endpoints:
    project: my-project
    name: kubeflow
    target: 203.0.113.7
  register: endpoint

- name: Show it
  ansible.builtin.debug:
    msg: https://{{ endpoint.host }}  # https://kubeflow.endpoints.my-project.cloud.goog
"""

RETURN = r"""
host:
  description: The host.
  returned: always
  type: str
  sample: kubeflow.endpoints.my-project.cloud.goog
config_id:
  description: ID of the configuration that is in effect, empty if there is none yet.
  returned: always
  type: str
  sample: 2026-11-23r0
"""

import traceback

from ansible.module_utils.basic import AnsibleModule, missing_required_lib

from ansible_collections.mlops.platform.plugins.module_utils.gcp import api

try:
    from ansible_collections.mlops.platform.plugins.module_utils.gcp import endpoints

    MISSING = None
except ImportError:
    MISSING = traceback.format_exc()

OPTIONS = {
    "name": {"type": "str", "required": True},
    "target": {"type": "str"},
    "title": {"type": "str", "default": "ML platform"},
    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
}


def main() -> None:
    """Run the module."""
    module = AnsibleModule(argument_spec={**api.argument_spec(), **OPTIONS}, supports_check_mode=True)
    if MISSING:
        module.fail_json(msg=missing_required_lib("PyYAML"), exception=MISSING)
    params = module.params
    present = params["state"] == "present"
    try:
        host = endpoints.host(params["name"], params["project"])
        if present and not (module.check_mode and not params["target"]):
            endpoints.check_target(params["target"] or "")
    except ValueError as error:
        module.fail_json(msg=str(error))
    gcp = api.connect(module)
    service = endpoints.Service(gcp, host)
    try:
        _look(module, service)
        before = service.document
        wanted = endpoints.document(host, params["target"] or "(not known yet)", params["title"]) if present else None
        changed = service.document != wanted or (not present and service.exists)
        if changed and not module.check_mode:
            _carry_out(service, wanted)
    except api.GcpError as error:
        api.fail(module, error, host=host, config_id=service.config_id)
    result = {"changed": changed, "host": host, "config_id": service.config_id}
    if module._diff and changed:
        headers = {"before_header": host if before else "(none)", "after_header": host if wanted else "(deleted)"}
        result["diff"] = {**headers, "before": before, "after": wanted}
    module.exit_json(**result)


def _look(module: AnsibleModule, service) -> None:
    try:
        service.look()
    except api.ApiDisabled as error:
        if not module.check_mode:
            raise
        module.warn(f"Nothing can be there yet: {error.service} is not switched on in {service.gcp.project}.")


def _carry_out(service, wanted: dict | None) -> None:
    if wanted is None:
        service.delete()
        service.config_id = ""
        return
    if not service.exists:
        service.create()
    service.roll_out(wanted)


if __name__ == "__main__":
    main()

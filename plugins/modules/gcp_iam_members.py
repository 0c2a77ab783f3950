#!/usr/bin/python
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Add members to, or remove them from, IAM policies of Google Cloud."""

from __future__ import annotations

DOCUMENTATION = r"""
module: gcp_iam_members
author: The mlops.platform contributors (@mlops)
short_description: Members of IAM roles on a project or on service accounts, beside whatever else is there
version_added: 1.0.0
description:
  - Adds members to roles, or removes them. Nothing else of a policy is touched, neither other members nor bindings with conditions.
  - Reads each policy once, and writes it once if something is missing. If somebody else changes the policy meanwhile, it is read and
    merged again, so that neither change is lost.
  - A service account that has just been made may not be known to IAM yet; that is waited for, up to two minutes.
options:
  policies:
    description: The policies and what must be in them. The same resource may come several times.
    type: list
    elements: dict
    default: []
    suboptions:
      resource:
        description: V(project), or V(service_account:EMAIL).
        type: str
        default: project
      bindings:
        description: Roles and members.
        type: list
        elements: dict
        required: true
        suboptions: &binding
          role:
            description: A role such as V(roles/viewer), or a custom one as V(projects/PROJECT/roles/NAME).
            type: str
            required: true
          members:
            description: Members such as V(user:ann@example.com), V(group:…), V(serviceAccount:…), V(domain:…) or V(principalSet://…).
            type: list
            elements: str
            required: true
          condition:
            description:
              - The condition under which they have the role. Members with another condition, or with none, are others.
            type: dict
            suboptions:
              title:
                description: Its name.
                type: str
                required: true
              expression:
                description: In the Common Expression Language.
                type: str
                required: true
              description:
                description: What it is for.
                type: str
  resource:
    description: The resource of O(bindings).
    type: str
    default: project
  bindings:
    description: Short for O(policies) with one resource.
    type: list
    elements: dict
    default: []
    suboptions: *binding
  state:
    description: Whether the members must have the roles, or must not.
    type: str
    choices: [present, absent]
    default: present
extends_documentation_fragment:
  - mlops.platform.gcp
attributes:
  check_mode:
    support: full
    description: A service account that does not exist yet, or an API that is not switched on yet, is predicted as an empty policy.
  diff_mode:
    support: full
"""

EXAMPLES = r"""
- name: Let a group log in
  mlops.platform.gcp_iam_members:
    project: my-project
    bindings:
      - role: roles/iap.httpsResourceAccessor
        members: [group:ml@example.com]

- name: Roles of an account, and who may act as it
  mlops.platform.gcp_iam_members:
    project: my-project
    policies:
      - resource: project
        bindings:
          - {role: roles/logging.logWriter, members: ["serviceAccount:ml-vm@my-project.iam.gserviceaccount.com"]}
      - resource: service_account:ml-user@my-project.iam.gserviceaccount.com
        bindings:
          - role: roles/iam.workloadIdentityUser
            members: ["serviceAccount:my-project.svc.id.goog[kubeflow/pipeline-runner]"]
"""

RETURN = r"""
policies:
  description: What was changed, one entry a resource.
  returned: always
  type: list
  elements: dict
  contains:
    resource:
      description: The resource.
      type: str
    added:
      description: The roles with the members that were added, and the title of the condition, if there is one.
      type: list
      elements: dict
    removed:
      description: The roles with the members that were removed, likewise.
      type: list
      elements: dict
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.mlops.platform.plugins.module_utils.gcp import api, iam

BINDING = {
    "role": {"type": "str", "required": True},
    "members": {"type": "list", "elements": "str", "required": True},
    "condition": {
        "type": "dict",
        "options": {
            "title": {"type": "str", "required": True},
            "expression": {"type": "str", "required": True},
            "description": {"type": "str"},
        },
    },
}
BINDINGS = {"type": "list", "elements": "dict", "options": BINDING}
OPTIONS = {
    **api.argument_spec(),
    "policies": {
        "type": "list",
        "elements": "dict",
        "default": [],
        "options": {"resource": {"type": "str", "default": "project"}, "bindings": {**BINDINGS, "required": True}},
    },
    "resource": {"type": "str", "default": "project"},
    "bindings": {**BINDINGS, "default": []},
    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
}


def main() -> None:
    """Run the module."""
    module = AnsibleModule(argument_spec=OPTIONS, supports_check_mode=True)
    policies = module.params["policies"] + [{name: module.params[name] for name in ("resource", "bindings")}]
    wanted: dict[str, list[dict]] = {}
    for policy in policies:
        if policy["bindings"]:
            wanted.setdefault(policy["resource"], []).extend(policy["bindings"])
    problems = iam.problems(wanted)
    if problems:
        module.fail_json(msg="\n".join(problems))
    gcp = api.connect(module)
    changes, error = iam.ensure(gcp, wanted, absent=module.params["state"] == "absent", dry_run=module.check_mode)
    for change in changes:
        for warning in change.warnings:
            module.warn(warning)
    result: dict = {
        "changed": any(change.changed for change in changes),
        "policies": [{"resource": change.resource, "added": change.added, "removed": change.removed} for change in changes],
    }
    if module._diff:
        result["diff"] = [
            {"before_header": change.resource, "after_header": change.resource, "before": change.before, "after": change.after}
            for change in changes
            if change.changed
        ]
    if error:
        api.fail(module, error, **result)
    module.exit_json(**result)


if __name__ == "__main__":
    main()

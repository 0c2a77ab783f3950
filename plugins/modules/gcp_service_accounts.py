#!/usr/bin/python
# Copyright: the mlops.platform contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Keep service accounts of a project as described."""

from __future__ import annotations

DOCUMENTATION = r"""
module: gcp_service_accounts
author: The mlops.platform contributors (@mlops)
short_description: Keep service accounts of a project as described
version_added: 1.0.0
description:
  - Creates the accounts that are missing and repairs display names and descriptions, with one request to see what is there and one for each
    that differs. Other accounts are left alone. Roles are granted by M(mlops.platform.gcp_iam_members).
options:
  accounts:
    description: The accounts.
    type: list
    elements: dict
    required: true
    suboptions:
      account_id:
        description: What stands before the C(@) - 6 to 30 lower-case letters, digits and hyphens.
        type: str
        required: true
      display_name:
        description: Name to show, at most 100 bytes. One that is not given is left as it is.
        type: str
      description:
        description: Description, at most 256 bytes. One that is not given is left as it is.
        type: str
  state:
    description: Whether they shall be there. Google keeps a deleted account for 30 days; a new one of that name is another account.
    type: str
    choices: [present, absent]
    default: present
extends_documentation_fragment:
  - mlops.platform.gcp
attributes:
  check_mode:
    support: full
    description: As long as the IAM API is switched off, everything is predicted as created, with a warning.
  diff_mode:
    support: full
    description: Display name and description.
"""

EXAMPLES = r"""
- name: Accounts of the platform
  mlops.platform.gcp_service_accounts:
    project: my-project
    accounts:
      - {account_id: kubeflow-admin, display_name: Kubeflow, description: Ingress and profiles of the cluster kubeflow}
      - {account_id: kubeflow-user, display_name: Kubeflow users}
  register: made

- name: An e-mail address
  ansible.builtin.debug:
    var: made.accounts['kubeflow-user'].email
"""

RETURN = r"""
accounts:
  description: By account ID, what is there and what was done.
  returned: always
  type: dict
  sample:
    kubeflow-user:
      {email: kubeflow-user@my-project.iam.gserviceaccount.com, unique_id: "104857600000000000001", action: created, disabled: false}
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.mlops.platform.plugins.module_utils.gcp import api, service_accounts

ACCOUNT = {"account_id": {"type": "str", "required": True}, "display_name": {"type": "str"}, "description": {"type": "str"}}
OPTIONS = {
    "accounts": {"type": "list", "elements": "dict", "required": True, "options": ACCOUNT},
    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
}


def main() -> None:
    """Run the module."""
    module = AnsibleModule(argument_spec={**api.argument_spec(), **OPTIONS}, supports_check_mode=True)
    absent = module.params["state"] == "absent"
    wrong = service_accounts.problems(module.params["accounts"])
    if wrong:
        module.fail_json(msg="\n".join(wrong))
    gcp = api.connect(module)
    accounts = service_accounts.accounts_of(gcp.project, module.params["accounts"])
    done: list = []
    diff: list = []
    try:
        _look(module, gcp, accounts)
        service_accounts.plan(accounts, absent)
        for account in accounts:
            planned = account.diff()
            if not module.check_mode:
                service_accounts.carry_out(gcp, account)
            done.append(account)
            if account.action != "unchanged":
                diff.append(planned)
            elif account.found and account.found.get("disabled") and not absent:
                module.warn(
                    f"The service account {account.email} is disabled: nothing can act as it. "
                    f"Remedy: `gcloud iam service-accounts enable {account.email} --project {gcp.project}`."
                )
    except api.GcpError as error:
        api.fail(module, error, **_result(done, diff, module))
    module.exit_json(**_result(done, diff, module))


def _look(module: AnsibleModule, gcp: api.Gcp, accounts: list) -> None:
    try:
        service_accounts.look(gcp, accounts)
    except api.ApiDisabled as error:
        if not module.check_mode:
            raise
        module.warn(f"Nothing can be there yet: {error.service} is not switched on in {gcp.project}.")


def _result(done: list, diff: list, module: AnsibleModule) -> dict:
    result = {
        "changed": any(account.action != "unchanged" for account in done),
        "accounts": {account.account_id: account.result() for account in done},
    }
    return {**result, "diff": diff} if module._diff else result


if __name__ == "__main__":
    main()

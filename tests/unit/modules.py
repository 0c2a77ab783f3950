"""Runs a module in this process, as Ansible does in one of its own."""

from __future__ import annotations

import contextlib
import io
import json
from unittest import mock

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.testing import patch_module_args


def run(module, rehearsal, *, check: bool = False, diff: bool = True, **options) -> dict:
    """What the module returns; `failed` is always there. It speaks to the rehearsal unless the options say otherwise."""
    common = {"project": rehearsal.project, "endpoint": rehearsal.endpoint, "credentials_file": rehearsal.credentials_file}
    internal = {"_ansible_check_mode": check, "_ansible_diff": diff, "_ansible_remote_tmp": "/tmp", "_ansible_keep_remote_files": False}
    output, warned = io.StringIO(), []
    given = {name: value for name, value in {**common, **options}.items() if value is not None}
    # once a test has loaded the controller's display in this process, warnings would go there instead of into the result
    collect = mock.patch.object(AnsibleModule, "warn", lambda self, text: warned.append(text))
    with collect, patch_module_args({**given, **internal}), contextlib.redirect_stdout(output), contextlib.suppress(SystemExit):
        module.main()
    printed = [line for line in output.getvalue().splitlines() if line.startswith("{")]  # the rehearsal prints its log there, too
    return {"failed": False, "changed": False, **json.loads(printed[-1]), "warnings": warned}

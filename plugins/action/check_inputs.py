# Copyright: the mlops.platform contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Check what users set, before anything is touched. Runs on the controller only."""

from __future__ import annotations

from ansible.errors import AnsibleActionFail, AnsibleError
from ansible.plugins.action import ActionBase
from ansible.template import trust_as_template

from ansible_collections.mlops.platform.plugins.module_utils import inputs


class ActionModule(ActionBase):
    """`mlops.platform.check_inputs`: all problems at once."""

    _requires_connection = False
    _supports_check_mode = True
    TRANSFERS_FILES = False

    def run(self, tmp=None, task_vars=None):
        """Check every rule and fail with all problems in one message."""
        result = super().run(tmp, task_vars)
        variables = task_vars or {}
        rules = self._task.args.get("rules")
        unknown = sorted(set(self._task.args) - {"rules"})
        if unknown or not isinstance(rules, list):
            raise AnsibleActionFail(f"check_inputs takes `rules`, a list{f', and not {unknown[0]}' if unknown else ''}.")

        def look_up(name: str) -> object:
            if name not in variables:
                raise KeyError(name)
            try:
                return self._templar.template(trust_as_template("{{ lookup('ansible.builtin.vars', " + repr(str(name)) + ") }}"))
            except AnsibleError as error:
                cause = str(error).strip().splitlines()[-1]
                raise inputs.Wrong(f"cannot be evaluated: {cause}", "set the variables that it is made of") from None

        try:
            problems = inputs.check(rules, look_up)
        except inputs.RuleError as error:
            raise AnsibleActionFail(str(error)) from None
        result.update(changed=False, checked=len(rules))
        if problems:
            result.update(failed=True, msg=inputs.message(problems))
        return result

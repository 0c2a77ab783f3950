# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Runs the module k8s_ready slice by slice, and prints in between what is still awaited."""

from __future__ import annotations

from ansible.plugins.action import ActionBase
from ansible.utils.display import Display

FIRST_SLICE, SLICE = 12, 10  # seconds; most waits end within the first
MOST_LINES = 12

display = Display()


class ActionModule(ActionBase):
    """The controller's half of k8s_ready: a module cannot print while it runs."""

    MODULE = "mlops.platform.k8s_ready"
    _supports_check_mode = True
    _supports_async = False

    def run(self, tmp=None, task_vars=None):
        """Repeat the module until the wait is over."""
        result = super().run(tmp, task_vars)
        del tmp
        arguments = dict(self._task.args)
        state, slice_, shown = None, arguments.pop("slice", None) or FIRST_SLICE, set()
        while True:
            answer = self._execute_module(
                module_name=self.MODULE, module_args={**arguments, "slice": slice_, "state": state}, task_vars=task_vars
            )
            state = answer.pop("state", None)
            waiting = answer.pop("waiting", None)
            if state is None or answer.get("failed"):
                result.update(answer)
                return result
            shown = _show(waiting, shown)
            slice_ = min(slice_, SLICE)


def _show(waiting: list[str], shown: set[str]) -> set[str]:
    """Print what was not printed before; returns what the reader knows by now."""
    fresh = [line for line in waiting if line not in shown]
    for line in fresh[:MOST_LINES]:
        display.display(f"  waiting for {line}")
    if len(fresh) > MOST_LINES:
        display.display(f"  … and {len(fresh) - MOST_LINES} more")
    return set(waiting)

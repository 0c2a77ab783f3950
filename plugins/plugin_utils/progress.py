# Copyright: the mlops.platform contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Prints what a module reports while it runs: a module itself cannot print."""

from __future__ import annotations

import os
import tempfile
import threading

from ansible.plugins.action import ActionBase
from ansible.utils.display import Display

EVERY = 0.5  # seconds between two looks

display = Display()


class ActionModule(ActionBase):
    """The controller's half of modules whose operations take minutes: follows the file that the module writes its progress to.

    Where the module runs elsewhere, or as another user, there is no such file, and nothing is printed before the end.
    """

    _supports_check_mode = True
    _supports_async = True

    def run(self, tmp=None, task_vars=None):
        """Run the module, and print its lines as they come."""
        result = super().run(tmp, task_vars)
        del tmp
        in_background = bool(self._task.async_val)
        here = self._connection.transport.rpartition(".")[2] == "local" and not self._play_context.become
        if in_background or not here:
            result.update(self._execute_module(task_vars=task_vars, wrap_async=in_background))
            return result
        handle, path = tempfile.mkstemp(prefix="mlops-platform-progress-")
        os.close(handle)
        ended = threading.Event()
        follower = threading.Thread(target=_follow, args=(path, ended), daemon=True)
        follower.start()
        environment = self._task.environment
        self._task.environment = [*(environment or []), {"MLOPS_PLATFORM_PROGRESS": path}]
        try:
            result.update(self._execute_module(task_vars=task_vars))
        finally:
            self._task.environment = environment
            ended.set()
            follower.join()
            os.unlink(path)
        return result


def _follow(path: str, ended: threading.Event) -> None:
    """Print the lines of a file as they are written to it."""
    with open(path, encoding="utf-8") as file:
        while True:
            last = ended.wait(EVERY)
            for line in file:
                display.display(f"  {line.rstrip()}")
            if last:
                return

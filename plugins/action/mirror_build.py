"""Builds the mirror in the controller's own process, so that what is being built is printed while it is being built."""

from __future__ import annotations

import pathlib

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display

from ansible_collections.mlops.platform.plugins.module_utils.mirror.builder import NODE_IMAGE, REGISTRY, Builder, DataError
from ansible_collections.mlops.platform.plugins.module_utils.mirror.engine import Cancelled, Engine, StepError

REQUIRED = (
    "releases",
    "components",
    "kubernetes",
    "tools",
    "registry",
    "bases",
    "wheels",
    "node_packages",
    "suite",
    "python",
    "go_minimum",
    "files",
    "cache_dir",
)


class ActionModule(ActionBase):
    """Runs the steps whose inputs have changed; see the module's documentation."""

    TRANSFERS_FILES = False
    _requires_connection = False
    _supports_check_mode = True

    def run(self, tmp=None, task_vars=None):
        """Plan, say what there is to do, do it."""
        result = super().run(tmp, task_vars)
        arguments = {**self._task.args}
        if missing := [name for name in REQUIRED if arguments.get(name) is None]:
            raise AnsibleActionFail(f"missing options: {', '.join(missing)}")
        display = Display()
        directory = pathlib.Path(arguments["cache_dir"]).expanduser().absolute() / "mirror"
        engine = Engine(
            directory, lambda line: display.display(f"    mirror  {line}"), {"cpu": int(arguments.get("workers") or 2), "net": 2, "io": 1}
        )
        try:
            builder = Builder({**arguments, "cache_dir": str(directory.parent)})
            if self._task.check_mode:
                steps = [{"name": step.name} for step in engine.plan(builder.plan())]
                for step in steps:
                    display.display(f"    mirror  would build  {step['name']}")
            else:
                with engine.locked():
                    steps = engine.run(builder.plan())
        except (DataError, StepError) as error:
            raise AnsibleActionFail(str(error)) from error
        except Cancelled as error:
            raise AnsibleActionFail(f"the mirror was interrupted: {error}; run it again to continue") from error
        result.update(
            changed=bool(steps),
            steps=steps,
            images=sorted(builder.images),
            registry=REGISTRY,
            node_images=sorted(
                {f"{NODE_IMAGE}:v{release['kubernetes']['version'].removeprefix('v')}" for release in arguments["releases"]}
            ),
        )
        return result

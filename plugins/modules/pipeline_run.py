#!/usr/bin/python
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Compile a pipeline and run it on Kubeflow Pipelines."""

from __future__ import annotations

DOCUMENTATION = r"""
module: pipeline_run
author: The mlops.platform contributors (@mlops)
short_description: Run a pipeline on Kubeflow Pipelines, and wait until it has ended
version_added: 1.0.0
description:
  - Compiles the pipeline with the SDK of Kubeflow Pipelines, in a virtual environment of its own, makes the experiment if it is missing,
    starts the run, and waits until it has ended. A run that does not succeed is an error that names the task that failed.
  - A run of this name that the experiment has already is not started again; it is waited for, and its end reported.
options:
  file:
    description: A file with one pipeline in Python, compiled first, or with what was compiled from one (V(.yaml)).
    type: path
    required: true
  requirements:
    description: The SDK and all it needs, with hashes, as uv writes it. Needed for a pipeline in Python.
    type: path
  cache_dir:
    description: Directory below which the virtual environment is.
    type: path
    default: ~/.cache/mlops-platform
  url:
    description: URL of Kubeflow Pipelines, such as V(https://kubeflow.example.com/pipeline).
    type: str
    required: true
  host:
    description: Value of the Host header. With TLS also the name that the certificate must carry.
    type: str
  ca_path:
    description: File with the authorities to trust.
    type: path
  headers:
    description: More request headers, such as the one that tells who asks.
    type: dict
    default: {}
  token:
    description: Bearer token of who asks.
    type: str
    default: ''
  namespace:
    description: Namespace of the run, a user's.
    type: str
    required: true
  experiment:
    description: Experiment that the run belongs to.
    type: str
    default: Default
  name:
    description: Name of the run.
    type: str
    required: true
  arguments:
    description: Arguments of the pipeline.
    type: dict
    default: {}
  wait:
    description: Whether to wait until the run has ended.
    type: bool
    default: true
  timeout:
    description: Seconds that this may take.
    type: float
    default: 300
attributes:
  check_mode:
    support: full
    description: Compiles the pipeline, and asks whether there is a run of that name.
"""

EXAMPLES = r"""
- name: Run a pipeline
  mlops.platform.pipeline_run:
    file: training.py
    requirements: kfp-requirements.txt
    url: https://kubeflow.example.com/pipeline
    token: "{{ vault_token }}"
    namespace: ada
    name: training-2
    arguments: {iterations: 100}
"""

RETURN = r"""
run_id:
  description: The run.
  returned: when there is one
  type: str
state:
  description: Its state, such as V(SUCCEEDED).
  returned: when there is one
  type: str
tasks:
  description: Its tasks, each with name, state, error and outputs (artifacts).
  returned: when there is one
  type: list
  elements: dict
"""

import traceback

from ansible.module_utils.basic import AnsibleModule, missing_required_lib

try:
    from ansible_collections.mlops.platform.plugins.module_utils import pipelines

    MISSING = None
except ImportError:
    MISSING = traceback.format_exc()

OPTIONS = {
    "file": {"type": "path", "required": True},
    "requirements": {"type": "path"},
    "cache_dir": {"type": "path", "default": "~/.cache/mlops-platform"},
    "url": {"type": "str", "required": True},
    "host": {"type": "str"},
    "ca_path": {"type": "path"},
    "headers": {"type": "dict", "default": {}, "no_log": True},
    "token": {"type": "str", "default": "", "no_log": True},
    "namespace": {"type": "str", "required": True},
    "experiment": {"type": "str", "default": "Default"},
    "name": {"type": "str", "required": True},
    "arguments": {"type": "dict", "default": {}},
    "wait": {"type": "bool", "default": True},
    "timeout": {"type": "float", "default": 300},
}


def main() -> None:
    """Run the module."""
    module = AnsibleModule(argument_spec=OPTIONS, supports_check_mode=True)
    if MISSING:
        module.fail_json(msg=missing_required_lib("PyYAML"), exception=MISSING)
    params = module.params
    if params["file"].endswith(".py") and not params["requirements"]:
        module.fail_json(msg="a pipeline in Python needs requirements, the locked SDK that compiles it")
    result = {"changed": False}
    try:
        run(params, module.check_mode, result)
    except (pipelines.PipelineError, OSError) as error:
        module.fail_json(msg=str(error), **result)
    module.exit_json(**result)


def run(params: dict, check_mode: bool, result: dict) -> None:
    """Do what the parameters say; what is known of the run is in `result`, whatever happens."""
    spec = pipelines.compiled(params["file"], params["requirements"] or "", params["cache_dir"])
    headers = {str(name): str(value) for name, value in params["headers"].items()}
    if params["token"]:
        headers["Authorization"] = f"Bearer {params['token']}"
    api = pipelines.Pipelines(params["url"], params["namespace"], headers, params["host"], params["ca_path"])
    experiment = api.experiment(params["experiment"])
    found = api.run(params["name"], experiment["experiment_id"]) if experiment else None
    if not found:
        result["changed"] = True
        if check_mode:
            return
        experiment = experiment or api.create_experiment(params["experiment"])
        found = api.start(params["name"], experiment["experiment_id"], spec, params["arguments"])
    if params["wait"] and not check_mode:
        result.update(run_id=found["run_id"], state=found.get("state"), tasks=pipelines.tasks(found))
        found = api.wait(found, params["timeout"])
    result.update(run_id=found["run_id"], state=found.get("state"), tasks=pipelines.tasks(found))
    if found.get("state") in ("FAILED", "CANCELED") and params["wait"]:
        raise pipelines.PipelineError(pipelines.failure(found))


if __name__ == "__main__":
    main()

#!/usr/bin/python
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Tell which version a namespace has."""

from __future__ import annotations

DOCUMENTATION = r"""
module: installed_version
short_description: Tell which version of something a namespace has, before it is changed into another one
description:
  - Reads the annotation C(mlops.platform/version) of a namespace, and which volumes are claimed in it.
  - Where there is no such namespace, or no cluster yet, there is no version either; that is not a failure.
  - Never changes anything.
version_added: 1.0.0
extends_documentation_fragment:
  - mlops.platform.cluster
options:
  namespace:
    description: The namespace.
    type: str
    required: true
attributes:
  check_mode:
    support: full
    description: Changes nothing in either mode.
author:
  - MLOps Platform (@mlops-platform)
"""

EXAMPLES = r"""
- name: Which Kubeflow there is
  mlops.platform.installed_version:
    namespace: kubeflow
  register: before
"""

RETURN = r"""
version:
  description: The version, empty where there is none.
  returned: success
  type: str
  sample: 1.8.0
claims:
  description: Names of the namespace's PersistentVolumeClaims.
  returned: success
  type: list
  elements: str
  sample: [mysql-pv-claim]
"""

import traceback

from ansible.module_utils.basic import AnsibleModule, missing_required_lib

try:
    from ansible_collections.mlops.platform.plugins.module_utils.client import ApiError, Cluster, ClusterError

    MISSING = None
except ImportError:
    MISSING = traceback.format_exc()

ANNOTATION = "mlops.platform/version"


def main() -> None:
    """Read namespace and claims."""
    module = AnsibleModule(
        argument_spec={
            "kubeconfig": {"type": "path"},
            "context": {"type": "str"},
            "namespace": {"type": "str", "required": True},
        },
        supports_check_mode=True,
    )
    if MISSING:
        module.fail_json(msg=missing_required_lib("kubernetes"), exception=MISSING)
    params = module.params
    result = {"changed": False, "version": "", "claims": []}
    try:
        cluster = Cluster(params["kubeconfig"], params["context"])
        namespace = cluster.get("v1", "Namespace", params["namespace"])
        if namespace:
            result["version"] = (namespace["metadata"].get("annotations") or {}).get(ANNOTATION, "")
            claims = cluster.list("v1", "PersistentVolumeClaim", params["namespace"])
            result["claims"] = sorted(claim["metadata"]["name"] for claim in claims)
    except ApiError as error:
        module.fail_json(msg=f"which version namespace {params['namespace']} has cannot be read: {error}", **result)
    except ClusterError as error:  # whoever needs the cluster says so
        result["msg"] = str(error)
    module.exit_json(**result)


if __name__ == "__main__":
    main()

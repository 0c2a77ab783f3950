#!/usr/bin/python
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Check that a cluster is what a release set is meant for."""

from __future__ import annotations

DOCUMENTATION = r"""
module: cluster_check
short_description: Check a cluster's version and what its nodes have left, before anything is applied
description:
  - Fails where the cluster's Kubernetes is older than wanted or where its nodes have less free than needed, with the sums.
  - Warns where Kubernetes is newer than what was tried.
  - With O(provider), fails where a node is another's.
  - Never changes anything.
version_added: 1.0.0
extends_documentation_fragment:
  - mlops.platform.cluster
options:
  subject:
    description: What needs this, for messages.
    type: str
    default: This
  min_version:
    description: The oldest minor version of Kubernetes, as C(1.29).
    type: str
  max_version:
    description: The newest minor version of Kubernetes that was tried.
    type: str
  requests:
    description:
      - What must be free on the nodes together, by resource, as in a pod's requests.
      - The sum of the nodes says what surely does not fit; that everything fits on single nodes is the scheduler's to find.
    type: dict
    default: {}
  provider:
    description: What the provider ID of every node begins with, as C(kind://), where this is for such clusters only.
    type: str
attributes:
  check_mode:
    support: full
    description: Changes nothing in either mode.
author:
  - MLOps Platform (@mlops-platform)
"""

EXAMPLES = r"""
- name: Check the cluster
  mlops.platform.cluster_check:
    subject: The release set serving-1.14
    min_version: '1.29'
    max_version: '1.34'
    requests: {cpu: '2', memory: 4Gi}
"""

RETURN = r"""
version:
  description: Version of the cluster's Kubernetes.
  returned: success
  type: str
  sample: v1.34.4
free:
  description: What the nodes have left, by resource, as numbers (CPUs, bytes).
  returned: when requests are given
  type: dict
"""

import traceback

from ansible.module_utils.basic import AnsibleModule, missing_required_lib

try:
    from ansible_collections.mlops.platform.plugins.module_utils import capacity
    from ansible_collections.mlops.platform.plugins.module_utils.client import Cluster, ClusterError

    MISSING = None
except ImportError:
    MISSING = traceback.format_exc()


def main() -> None:
    """Compare the cluster with what is needed."""
    module = AnsibleModule(
        argument_spec={
            "kubeconfig": {"type": "path"},
            "context": {"type": "str"},
            "subject": {"type": "str", "default": "This"},
            "min_version": {"type": "str"},
            "max_version": {"type": "str"},
            "requests": {"type": "dict", "default": {}},
            "provider": {"type": "str"},
        },
        supports_check_mode=True,
    )
    if MISSING:
        module.fail_json(msg=missing_required_lib("kubernetes"), exception=MISSING)
    params, subject = module.params, module.params["subject"]
    result = {"changed": False}
    try:
        cluster = Cluster(params["kubeconfig"], params["context"])
        result["version"] = cluster.git_version
        found = capacity.minor(cluster.git_version)
        if params["min_version"] and found < capacity.minor(params["min_version"]):
            module.fail_json(
                msg=f"{subject} needs Kubernetes {params['min_version']} or newer, {cluster} runs {cluster.git_version}. "
                "Remedy: upgrade the cluster, or choose an older release set (platform_release)."
            )
        if params["max_version"] and found > capacity.minor(params["max_version"]):
            module.warn(f"{subject} was tried up to Kubernetes {params['max_version']}; {cluster} runs {cluster.git_version}.")
        nodes = cluster.list("v1", "Node") if params["provider"] or params["requests"] else []
        if params["provider"]:
            others = [node for node in nodes if not str(node["spec"].get("providerID", "")).startswith(params["provider"])]
            if others or not nodes:
                which = "it has none"
                if others:
                    which = f"{others[0]['metadata']['name']} is {others[0]['spec'].get('providerID') or 'of no provider'}"
                module.fail_json(
                    msg=f"{subject} is for clusters only whose nodes are {params['provider']}; {cluster}: {which}. "
                    "Remedy: another setting, or another cluster (…_kubeconfig, …_context)."
                )
        if params["requests"]:
            available = capacity.free(nodes, cluster.list("v1", "Pod"))
            problems = capacity.lacking(params["requests"], available)
            if problems:
                module.fail_json(
                    msg=f"{subject} does not fit on {cluster}: {'; '.join(problems)}. "
                    "Remedy: add nodes, or lower the requests (…_resources)."
                )
            result["free"] = {name: float(amounts["free"]) for name, amounts in available.items()}
    except (ClusterError, ValueError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(**result)


if __name__ == "__main__":
    main()

# Copyright: the mlops.platform contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Filter from a role's settings of workloads to patches of mlops.platform.k8s_apply."""

from __future__ import annotations

DOCUMENTATION = r"""
name: workload_patches
author: The mlops.platform contributors (@mlops)
short_description: Replicas, resources and placement of workloads, as patches
version_added: 1.0.0
description:
  - Turns what a role lets its user set about Deployments and their like into the O(mlops.platform.k8s_apply#module:patches) that set it
    in a release's manifests.
positional: workloads
options:
  _input:
    description:
      - What is set for single workloads, by the name of the object.
      - Each may have C(replicas), C(resources), C(node_selector) and C(tolerations).
    type: dict
    required: true
  workloads:
    description:
      - The workloads of the manifests. C(name) of the object, C(container) that does the work (or C(containers), all whose resources are
        set), C(kind) (default C(Deployment)), C(autoscaled) (true where a HorizontalPodAutoscaler of the same name owns the replicas;
        its minimum is set then) and C(optional) (true where not every version has the object).
    type: list
    elements: dict
    required: true
  resources:
    description: Resources of every workload.
    type: dict
    default: {}
  node_selector:
    description: Node selector of every workload.
    type: dict
    default: {}
  tolerations:
    description: Tolerations of every workload.
    type: list
    elements: dict
    default: []
"""

EXAMPLES = r"""
- name: Show the patches
  ansible.builtin.debug:
    msg: "{{ {'web': {'replicas': 2}} | mlops.platform.workload_patches([{'name': 'web', 'container': 'server'}]) }}"
"""

RETURN = r"""
_value:
  description: Patches for M(mlops.platform.k8s_apply); none for a workload of which nothing is set.
  type: list
  elements: dict
"""

from ansible.errors import AnsibleFilterError


def workload_patches(settings, workloads, resources=None, node_selector=None, tolerations=None):
    """Return the patches that give the workloads what is set for all of them and for each by name."""
    unknown = sorted(set(settings) - {workload["name"] for workload in workloads})
    if unknown:
        known = ", ".join(workload["name"] for workload in workloads)
        raise AnsibleFilterError(f"workload_patches: there is no workload {', '.join(unknown)} (there are: {known})")
    everywhere = {"resources": resources or {}, "node_selector": node_selector or {}, "tolerations": tolerations or []}
    patches = []
    for workload in workloads:
        wanted = {**everywhere, **settings.get(workload["name"], {})}
        pod = {}
        if wanted["node_selector"]:
            pod["nodeSelector"] = wanted["node_selector"]
        if wanted["tolerations"]:
            pod["tolerations"] = wanted["tolerations"]
        if wanted["resources"]:
            containers = workload.get("containers") or [workload["container"]]
            pod["containers"] = [{"name": container, "resources": wanted["resources"]} for container in containers]
        spec = {"template": {"spec": pod}} if pod else {}
        if wanted.get("replicas") is not None:
            if workload.get("autoscaled"):
                patches.append(_patch(workload, "HorizontalPodAutoscaler", {"minReplicas": wanted["replicas"]}))
            else:
                spec["replicas"] = wanted["replicas"]
        if spec:
            patches.append(_patch(workload, workload.get("kind", "Deployment"), spec))
    return patches


def _patch(workload, kind, spec):
    return {"target": {"kind": kind, "name": workload["name"]}, "merge": {"spec": spec}, "optional": workload.get("optional", False)}


class FilterModule:
    """The filter under its name."""

    def filters(self):
        """Return the filters of this file."""
        return {"workload_patches": workload_patches}

#!/usr/bin/python
# Copyright: the mlops.platform contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Install and upgrade Helm releases."""

from __future__ import annotations

DOCUMENTATION = r"""
module: helm_release
author: The mlops.platform contributors (@mlops)
short_description: Helm releases, with drift repaired
version_added: 1.0.0
description:
  - Installs and upgrades Helm releases from charts in directories. They are ordinary releases that C(helm list) and C(helm rollback) know.
  - Helm is not even started where chart and values are those of the last revision and no object of the release was changed since.
  - Fields that a controller of the cluster changed (such as the C(caBundle) of a webhook) are the controller's. Every other change of what
    the chart declares is repaired with a new revision.
  - A revision that a killed run left pending is marked as failed and upgraded from there; nothing is deleted. One that someone else is
    working on is waited for.
  - CustomResourceDefinitions that exist without an owner are taken over; objects of another release never are.
options:
  kubeconfig:
    description: Path of the kubeconfig. Default is C(KUBECONFIG), else C(~/.kube/config).
    type: str
  context:
    description: Context of the kubeconfig. Default is its current one.
    type: str
  helm:
    description: Name or path of helm, 3.17 or later.
    type: path
    default: helm
  timeout:
    description: How long an operation may take, in seconds, and how long another run is waited for.
    type: int
    default: 300
  take_ownership:
    description: Take over objects of any kind that exist and belong to no Helm release, not only CustomResourceDefinitions.
    type: bool
    default: false
  releases:
    description: The releases, in the order in which they are installed.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: Name of the release.
        type: str
        required: true
      namespace:
        description: Namespace of the release.
        type: str
        required: true
      chart:
        description: Directory of the chart.
        type: path
        required: true
      values:
        description: Values; what is not given here has the chart's default.
        type: dict
        default: {}
      create_namespace:
        description: Create the namespace if it does not exist.
        type: bool
        default: false
requirements:
  - kubernetes (Python package)
  - helm, where something is to be changed
attributes:
  check_mode:
    support: full
    description: Predicts revisions and objects, also where the cluster does not know the kinds yet.
  diff_mode:
    support: full
    description: Shows what changes in the cluster, an object each; values of Secrets are hidden.
"""

EXAMPLES = r"""
- name: Release Istio's base
  mlops.platform.helm_release:
    releases:
      - name: istio-base
        namespace: istio-system
        create_namespace: true
        chart: "{{ istio_files.paths.base }}"
"""

RETURN = r"""
releases:
  description: The releases, in the order given.
  returned: success
  type: list
  elements: dict
  contains:
    name:
      description: Name of the release.
      type: str
    namespace:
      description: Its namespace.
      type: str
    revision:
      description: Its revision now (in check mode the one that it would have).
      type: int
    action:
      description: What was done, V(installed), V(upgraded), V(repaired) or V(unchanged).
      type: str
    reason:
      description: Why.
      type: str
"""

import traceback

from ansible.module_utils.basic import AnsibleModule, missing_required_lib

try:
    from ansible_collections.mlops.platform.plugins.module_utils import helm
    from ansible_collections.mlops.platform.plugins.module_utils.client import Cluster, ClusterError
    from ansible_collections.mlops.platform.plugins.module_utils.documents import DocumentError

    MISSING = None
except ImportError:
    MISSING = traceback.format_exc()


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "kubeconfig": {"type": "str"},
            "context": {"type": "str"},
            "helm": {"type": "path", "default": "helm"},
            "timeout": {"type": "int", "default": 300},
            "take_ownership": {"type": "bool", "default": False},
            "releases": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": {
                    "name": {"type": "str", "required": True},
                    "namespace": {"type": "str", "required": True},
                    "chart": {"type": "path", "required": True},
                    "values": {"type": "dict", "default": {}},
                    "create_namespace": {"type": "bool", "default": False},
                },
            },
        },
        supports_check_mode=True,
    )
    if MISSING:
        module.fail_json(msg=missing_required_lib("kubernetes"), exception=MISSING)
    options = module.params
    outcomes: list = []
    try:
        cluster = Cluster(options["kubeconfig"], options["context"])
        releases = helm.Releases(cluster, options["helm"], options["timeout"], options["take_ownership"])
        for item in options["releases"]:
            outcomes.append(releases.ensure(helm.Wanted(**item), check=module.check_mode, diff=module._diff))
    except (helm.HelmError, ClusterError, DocumentError) as error:
        module.fail_json(msg=str(error), releases=_shown(outcomes), changed=any(outcome.changed for outcome in outcomes))
    for warning in releases.warnings:
        module.warn(warning)
    result = {"changed": any(outcome.changed for outcome in outcomes), "releases": _shown(outcomes)}
    if module._diff:
        result["diff"] = [entry for outcome in outcomes for entry in outcome.diff]
    module.exit_json(**result)


def _shown(outcomes: list) -> list[dict]:
    return [{key: getattr(outcome, key) for key in ("name", "namespace", "revision", "action", "reason")} for outcome in outcomes]


if __name__ == "__main__":
    main()

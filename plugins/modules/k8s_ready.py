#!/usr/bin/python
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Wait until named Kubernetes objects are ready."""

from __future__ import annotations

DOCUMENTATION = r"""
module: k8s_ready
short_description: Wait until named Kubernetes objects are ready, and say why one does not become so
description:
  - Waits for all named objects at once. What ready means depends on the kind; a status that is about an earlier generation of an
    object never counts.
  - Deployments, StatefulSets and DaemonSets are judged as by C(kubectl rollout status), Jobs by Complete or Failed,
    CustomResourceDefinitions by Established and NamesAccepted, Services by their ready endpoints (and, for type LoadBalancer, their
    address), webhook configurations by their caBundle, the endpoints of their services and an answer through the API server,
    PersistentVolumeClaims by being bound, Namespaces by being Active, Knative, KServe and cert-manager objects and all others by
    their condition Ready. Kinds without a state, such as ConfigMap or an Istio Gateway, are ready when they exist.
  - The wait ends as soon as it is known not to succeed, with the cause. An image that does not exist, a missing ConfigMap, a used up quota
    or a refusal by admission ends it at once; a pod that no node takes (unless an autoscaler adds one), a registry out of
    reach, a crash loop, a failed Knative revision when they have lasted for O(grace).
  - What is still awaited is printed about every ten seconds.
  - Never changes anything. In check mode it looks once, does not wait and does not fail.
version_added: 1.0.0
extends_documentation_fragment:
  - mlops.platform.cluster
options:
  objects:
    description: The objects to wait for.
    type: list
    elements: dict
    required: true
    suboptions:
      kind:
        description: Kind. V(Service) is the one of Kubernetes itself unless O(objects[].apiVersion) says V(serving.knative.dev/v1).
        type: str
        required: true
      name:
        description: Name.
        type: str
        required: true
      namespace:
        description: Namespace, V(default) if a namespaced object is named without one.
        type: str
      apiVersion:
        description: API version. By default the group that serves the kind, Kubernetes' own groups first.
        type: str
        aliases: [api_version]
      condition:
        description:
          - Wait for this condition instead, as V(Type) or V(Type=Status). V(Exists) only waits for the object to exist.
        type: str
      replicas:
        description:
          - Wait for exactly so many replicas, all of them ready, instead. With V(0), until no pod is left except those that are ending,
            as after scaling to zero. For workloads, Knative Services, Revisions and InferenceServices.
        type: int
  timeout:
    description: Seconds after which the wait fails.
    type: float
    default: 300
  grace:
    description: Seconds for which a cause that may still pass is put up with.
    type: float
    default: 30
  missing_after:
    description: Seconds after which an object that does not exist ends the wait.
    type: float
    default: 60
  slice:
    description: Internal. Seconds of one run of the module; the action plugin repeats it and prints in between what is awaited.
    type: float
  state:
    description: Internal. What the earlier slices of this wait found.
    type: dict
author:
  - MLOps Platform (@mlops-platform)
"""

EXAMPLES = r"""
- name: Knative Serving is ready, its webhook included
  mlops.platform.k8s_ready:
    objects:
      - {kind: CustomResourceDefinition, name: services.serving.knative.dev}
      - {kind: Deployment, name: controller, namespace: knative-serving}
      - {kind: Deployment, name: webhook, namespace: knative-serving}
      - {kind: ValidatingWebhookConfiguration, name: validation.webhook.serving.knative.dev}
    timeout: 300

- name: The model has been scaled to zero
  mlops.platform.k8s_ready:
    objects:
      - {kind: Service, apiVersion: serving.knative.dev/v1, name: sklearn-iris-predictor, namespace: kserve-test, replicas: 0}
    timeout: 180

- name: An account is reconciled by Config Connector
  mlops.platform.k8s_ready:
    objects:
      - {kind: IAMServiceAccount, apiVersion: iam.cnrm.cloud.google.com/v1beta1, name: admin, namespace: project, condition: Ready}
"""

RETURN = r"""
objects:
  description: The awaited objects, in the order given.
  returned: always
  type: list
  elements: dict
  sample:
    - {apiVersion: apps/v1, kind: Deployment, name: webhook, namespace: knative-serving, ready: true, seconds: 7.4, status: 1 of 1}
resources:
  description: The live objects, reduced to what callers read - apiVersion, kind, name, namespace, status and, where it is of use, spec.
  returned: when they exist
  type: list
  elements: dict
seconds:
  description: How long the wait took.
  returned: always
  type: float
  sample: 12.3
"""

import traceback

from ansible.module_utils.basic import AnsibleModule, missing_required_lib

try:
    from ansible_collections.mlops.platform.plugins.module_utils import ready
    from ansible_collections.mlops.platform.plugins.module_utils.client import Cluster, ClusterError

    MISSING = None
except ImportError:
    MISSING = traceback.format_exc()

OBJECT = {
    "kind": {"type": "str", "required": True},
    "name": {"type": "str", "required": True},
    "namespace": {"type": "str"},
    "apiVersion": {"type": "str", "aliases": ["api_version"]},
    "condition": {"type": "str"},
    "replicas": {"type": "int"},
}


def main() -> None:
    """Run one slice of the wait, or all of it."""
    module = AnsibleModule(
        argument_spec={
            "kubeconfig": {"type": "path"},
            "context": {"type": "str"},
            "objects": {"type": "list", "elements": "dict", "required": True, "options": OBJECT},
            "timeout": {"type": "float", "default": 300},
            "grace": {"type": "float", "default": 30},
            "missing_after": {"type": "float", "default": 60},
            "slice": {"type": "float"},
            "state": {"type": "dict"},
        },
        supports_check_mode=True,
    )
    if MISSING:
        module.fail_json(msg=missing_required_lib("kubernetes"), exception=MISSING)
    params = module.params
    try:
        wait = ready.Wait(
            Cluster(params["kubeconfig"], params["context"]),
            [ready.Target.parse(spec) for spec in params["objects"]],
            grace=params["grace"],
            missing_after=params["missing_after"],
            state=params["state"],
        )
        if module.check_mode:
            wait.diagnose(wait.look())
            outcome = ready.Outcome(True, False, "", wait.awaited)
        else:
            outcome = wait.run(params["timeout"], params["slice"])
    except ClusterError as error:
        module.fail_json(msg=str(error))
    result = {
        "changed": False,
        "objects": [ready.describe(item) for item in outcome.awaited],
        "seconds": round(wait.elapsed, 1),
    }
    if outcome.failed:
        module.fail_json(msg=outcome.message, **result)
    if outcome.done:
        result["resources"] = [ready.resource(item.live) for item in outcome.awaited if item.live]
    else:
        result["state"] = wait.state
        result["waiting"] = [item.line() for item in outcome.awaited if item.seconds is None]
    module.exit_json(**result)


if __name__ == "__main__":
    main()

#!/usr/bin/python
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Tell for whom the tokens are that Identity-Aware Proxy sends to a gateway."""

from __future__ import annotations

DOCUMENTATION = r"""
module: iap_audience
author: The mlops.platform contributors (@mlops)
short_description: Tell for whom the tokens are that Identity-Aware Proxy sends to a gateway
version_added: 1.0.0
description:
  - Identity-Aware Proxy makes its tokens out to the backend service of the load balancer, C(/projects/NUMBER/global/backendServices/ID).
    GKE makes that service for an Ingress or a Gateway, and a new one with a new ID when the load balancer is made anew. So who verifies
    tokens has to ask for it again on each run.
  - Only backend services that Identity-Aware Proxy is switched on for count.
  - Never changes anything.
options:
  kind:
    description: What the load balancer is made for.
    type: str
    choices: [Ingress, Gateway]
    default: Ingress
  name:
    description: Name of the Ingress or the Gateway (of the Gateway API).
    type: str
    required: true
  namespace:
    description: Its namespace.
    type: str
    required: true
  service:
    description: The Service behind the load balancer, in O(namespace).
    type: str
    required: true
  wait:
    description:
      - Seconds to wait for a backend service that Identity-Aware Proxy is switched on for, after which the module fails and says what is
        missing and why. With V(0) that it is not known yet is no failure; so it is in check mode, which never waits.
    type: int
    default: 0
extends_documentation_fragment:
  - mlops.platform.gcp
  - mlops.platform.cluster
attributes:
  check_mode:
    support: full
    description: Changes nothing in either mode.
"""

EXAMPLES = r"""
- name: For whom the tokens are
  mlops.platform.iap_audience:
    project: my-project
    context: kubeflow
    name: envoy-ingress
    namespace: istio-ingress
    service: istio-ingress
    wait: 1800
  register: tokens
"""

RETURN = r"""
audiences:
  description: The audiences, none if they are not known yet.
  returned: success
  type: list
  elements: str
  sample: [/projects/123456789012/global/backendServices/1234567890123456789]
backend_services:
  description: Names of the backend services.
  returned: success
  type: list
  elements: str
missing:
  description: What is awaited, empty if the audiences are known.
  returned: success
  type: str
"""

import time
import traceback

from ansible.module_utils.basic import AnsibleModule, missing_required_lib

from ansible_collections.mlops.platform.plugins.module_utils.gcp import api, backends

try:
    from ansible_collections.mlops.platform.plugins.module_utils.client import Cluster, ClusterError, UnknownKind

    MISSING = None
except ImportError:
    MISSING = traceback.format_exc()

OPTIONS = {
    **api.argument_spec(),
    "kubeconfig": {"type": "path"},
    "context": {"type": "str"},
    "kind": {"type": "str", "choices": ["Ingress", "Gateway"], "default": "Ingress"},
    "name": {"type": "str", "required": True},
    "namespace": {"type": "str", "required": True},
    "service": {"type": "str", "required": True},
    "wait": {"type": "int", "default": 0},
}
EVERY = 5  # seconds between two looks


def main() -> None:
    """Look until it is known, or long enough."""
    module = AnsibleModule(argument_spec=OPTIONS, supports_check_mode=True)
    if MISSING:
        module.fail_json(msg=missing_required_lib("kubernetes"), exception=MISSING)
    params = module.params
    wait = 0 if module.check_mode else params["wait"]
    end = time.monotonic() + wait
    gcp, told = api.connect(module), ""
    try:
        cluster = Cluster(params["kubeconfig"], params["context"])
        while True:
            try:
                found = _look(gcp, cluster, params)
                break
            except backends.NotYet as error:
                missing = str(error)
            if not wait:
                module.exit_json(changed=False, audiences=[], backend_services=[], missing=missing)
            if time.monotonic() >= end:
                module.fail_json(msg=_failure(cluster, params, missing))
            if missing != told:
                gcp.report(f"{params['kind']} {params['namespace']}/{params['name']}: {missing}")
                told = missing
            time.sleep(min(EVERY, max(0.0, end - time.monotonic())))
    except ClusterError as error:
        module.fail_json(msg=str(error))
    except api.GcpError as error:
        api.fail(module, error)
    module.exit_json(changed=False, missing="", **found)


def _look(gcp: api.Gcp, cluster: Cluster, params: dict) -> dict:
    kind, namespace = params["kind"], params["namespace"]
    try:
        live = cluster.get(backends.VERSIONS[kind], kind, params["name"], namespace)
    except UnknownKind:
        live = None
    named = backends.names(kind, live)
    listed = gcp.pages("compute.backendServices.list", "items")
    found = backends.protected(named, listed, f"{namespace}/{params['service']}")
    number = gcp.call("cloudresourcemanager.projects.get", name=f"projects/{gcp.project}")["name"].rpartition("/")[2]
    return {
        "audiences": [backends.audience(number, each) for each in found],
        "backend_services": [each["name"] for each in found],
    }


def _failure(cluster: Cluster, params: dict, missing: str) -> str:
    kind, namespace, name = params["kind"], params["namespace"], params["name"]
    events = [
        event
        for event in cluster.list("v1", "Event", namespace)
        if event.get("type") == "Warning" and (event["involvedObject"].get("kind"), event["involvedObject"].get("name")) == (kind, name)
    ]
    newest = max(events, key=lambda event: event.get("lastTimestamp") or event.get("eventTime") or "", default=None)
    said = f" GKE says: {newest.get('reason')}: {(newest.get('message') or '').strip()}." if newest else ""
    return (
        f"{kind} {namespace}/{name}: {missing}, after {params['wait']} s.{said} Until the gateway knows for whom the tokens of "
        "Identity-Aware Proxy are, it refuses everybody. Remedy: see "
        f"`kubectl --namespace={namespace} describe {kind.lower()} {name}`, repair what it complains of (the Secret with the OAuth client, "
        "the Service's annotations, quota), then run again."
    )


if __name__ == "__main__":
    main()

#!/usr/bin/python
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Tell where a gateway can be reached."""

from __future__ import annotations

DOCUMENTATION = r"""
module: gateway_address
short_description: Tell where a gateway's Service can be reached from outside the cluster
description:
  - For a Service of type LoadBalancer its address, waited for; for one of type NodePort the address of a node and the node port.
  - Never changes anything. In check mode it does not wait, and an address that does not exist yet is not a failure.
version_added: 1.0.0
extends_documentation_fragment:
  - mlops.platform.cluster
options:
  service:
    description: Name of the Service.
    type: str
    required: true
  namespace:
    description: Its namespace.
    type: str
    required: true
  port:
    description: Name or number of the Service's port.
    type: str
    default: http2
  timeout:
    description: Seconds to wait for an address.
    type: float
    default: 120
author:
  - MLOps Platform (@mlops-platform)
"""

EXAMPLES = r"""
- name: Where requests go in
  mlops.platform.gateway_address:
    service: istio-ingress
    namespace: istio-ingress
  register: gateway
"""

RETURN = r"""
address:
  description: IP address or host name.
  returned: success
  type: str
  sample: 172.18.0.2
port:
  description: Port at that address.
  returned: success
  type: int
  sample: 31380
url:
  description: Scheme, address and, if it is not the scheme's own, port.
  returned: success
  type: str
  sample: http://172.18.0.2:31380
"""

import time
import traceback

from ansible.module_utils.basic import AnsibleModule, missing_required_lib

try:
    from ansible_collections.mlops.platform.plugins.module_utils import gateway
    from ansible_collections.mlops.platform.plugins.module_utils.client import Cluster, ClusterError

    MISSING = None
except ImportError:
    MISSING = traceback.format_exc()


def main() -> None:
    """Find the address, as soon as there is one."""
    module = AnsibleModule(
        argument_spec={
            "kubeconfig": {"type": "path"},
            "context": {"type": "str"},
            "service": {"type": "str", "required": True},
            "namespace": {"type": "str", "required": True},
            "port": {"type": "str", "default": "http2"},
            "timeout": {"type": "float", "default": 120},
        },
        supports_check_mode=True,
    )
    if MISSING:
        module.fail_json(msg=missing_required_lib("kubernetes"), exception=MISSING)
    params = module.params
    end = time.monotonic() + params["timeout"]
    try:
        cluster = Cluster(params["kubeconfig"], params["context"])
        while True:
            try:
                found = gateway.find(cluster, params["namespace"], params["service"], params["port"])
                break
            except gateway.NoAddress as error:
                if module.check_mode:
                    module.exit_json(changed=False, msg=str(error))
                if error.final or time.monotonic() >= end:
                    module.fail_json(msg=f"{error}." + ("" if error.final else f" (Waited {params['timeout']:g} s.)"))
            time.sleep(1)
    except ClusterError as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=False, address=found.address, port=found.port, url=found.url)


if __name__ == "__main__":
    main()

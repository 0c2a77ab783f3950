#!/usr/bin/python
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Make, change and remove a GKE cluster."""

from __future__ import annotations

DOCUMENTATION = r"""
module: gke_cluster
author: The mlops.platform contributors (@mlops)
short_description: Make, change and remove a GKE cluster
version_added: 1.0.0
description:
  - A new cluster gets its node pools in the same request, and so no default pool. It is VPC-native.
  - Of a cluster that is there, the options that are given are compared, and what differs is changed, with one request for each kind of
    change as GKE wants it. What GKE cannot change is an error that names the option, what is there and what is wanted, before anything
    is changed.
  - A cluster that another run is making is waited for and taken over. One whose creation failed (status ERROR,
    no nodes) is deleted and made anew, with a warning that says why it failed; any other with the status ERROR is an error that says why.
options:
  name:
    description: Name.
    type: str
    required: true
  location:
    description: A zone, or a region for a control plane and nodes in several zones.
    type: str
    required: true
  state:
    description: Whether it exists. With V(absent), its node pools, disks of nodes and everything that runs on them go, too.
    type: str
    choices: [present, absent]
    default: present
  release_channel:
    description: Release channel, which chooses the version and upgrades it.
    type: str
    choices: [RAPID, REGULAR, STABLE, EXTENDED, UNSPECIFIED]
  network:
    description: VPC network, by name or path. Default of a new cluster is V(default). Cannot be changed afterwards.
    type: str
  subnetwork:
    description: Subnetwork, by name or path. Cannot be changed afterwards.
    type: str
  node_locations:
    description: Zones of the nodes. Default is the zone of the cluster, or three zones of the region.
    type: list
    elements: str
  pods_range:
    description:
      - Addresses of the pods - a CIDR, a size such as V(/17), or the name of a secondary range of the subnetwork. Cannot be changed
        afterwards.
    type: str
  services_range:
    description: Addresses of the services, written like O(pods_range). Cannot be changed afterwards.
    type: str
  private_nodes:
    description: Whether nodes have internal addresses only. A change is for node pools that are made later.
    type: bool
  control_plane_cidr:
    description:
      - A V(/28) for the control plane, with O(private_nodes=true). GKE chooses addresses itself without it. Cannot be changed afterwards.
    type: str
  authorized_networks:
    description: CIDRs that reach the control plane. An empty list opens it to all.
    type: list
    elements: str
  dataplane_v2:
    description: Whether it has Dataplane V2 (Cilium), which enforces NetworkPolicy. Cannot be changed afterwards.
    type: bool
  shielded_nodes:
    description: Whether nodes prove that they are of this cluster.
    type: bool
  workload_identity:
    description: Whether Kubernetes service accounts can act as Google's, in the pool C(PROJECT.svc.id.goog).
    type: bool
  autoprovisioning:
    description: Makes node pools for pods that fit nowhere.
    type: dict
    suboptions:
      enabled:
        description: Whether it does.
        type: bool
        default: true
      limits:
        description: Greatest amounts in the cluster, of V(cpu), V(memory) in GB, and accelerator types.
        type: dict
      service_account:
        description: E-mail address of the service account of such nodes.
        type: str
      oauth_scopes:
        description: OAuth scopes of such nodes. Default is V(cloud-platform).
        type: list
        elements: str
  labels:
    description: Labels of the cluster. Others that it has stay.
    type: dict
  node_pools:
    description:
      - Node pools of a new cluster, at least one. Of a cluster that is there, they are neither compared nor changed; that is what
        M(mlops.platform.gke_node_pools) does.
extends_documentation_fragment:
  - mlops.platform.gcp
  - mlops.platform.gke_node_pools
attributes:
  check_mode:
    support: full
    description: Where the API is not switched on yet, the cluster is predicted as created, with a warning.
  diff_mode:
    support: full
    description: Shows the options that are given.
"""

EXAMPLES = r"""
- name: A cluster with private nodes
  mlops.platform.gke_cluster:
    project: my-project
    location: asia-northeast3-b
    name: kubeflow
    release_channel: REGULAR
    private_nodes: true
    control_plane_cidr: 172.16.0.0/28
    dataplane_v2: true
    shielded_nodes: true
    workload_identity: true
    autoprovisioning:
      limits: {cpu: 128, memory: 2000, nvidia-l4: 16}
    node_pools:
      - name: main
        machine_type: e2-standard-8
        autoscaling: {min: 2, max: 6}
  register: cluster

- name: Remove it
  mlops.platform.gke_cluster:
    project: my-project
    location: asia-northeast3-b
    name: kubeflow
    state: absent
"""

RETURN = r"""
action:
  description: V(created), V(changed), V(deleted) or V(unchanged).
  returned: always
  type: str
fields:
  description: The options that differed.
  returned: always
  type: list
  elements: str
endpoint:
  description: Address of the control plane. Empty where there is no cluster (yet).
  returned: success
  type: str
ca_certificate:
  description: Its certificate authority, in PEM, base64.
  returned: success
  type: str
location:
  description: Zone or region.
  returned: success
  type: str
version:
  description: Version of the control plane.
  returned: success
  type: str
status:
  description: Status, such as V(RUNNING).
  returned: success
  type: str
workload_pool:
  description: The pool of its workload identities.
  returned: success
  type: str
node_pools:
  description: Names of its node pools.
  returned: success
  type: list
  elements: str
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.mlops.platform.plugins.module_utils.gcp import api, gke

ATTEMPTS = 5  # at a change that others make at the same time

OPTIONS = {
    **api.argument_spec(),
    "name": {"type": "str", "required": True},
    "location": {"type": "str", "required": True},
    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
    "release_channel": {"type": "str", "choices": ["RAPID", "REGULAR", "STABLE", "EXTENDED", "UNSPECIFIED"]},
    "network": {"type": "str"},
    "subnetwork": {"type": "str"},
    "node_locations": {"type": "list", "elements": "str"},
    "pods_range": {"type": "str"},
    "services_range": {"type": "str"},
    "private_nodes": {"type": "bool"},
    "control_plane_cidr": {"type": "str"},
    "authorized_networks": {"type": "list", "elements": "str"},
    "dataplane_v2": {"type": "bool"},
    "shielded_nodes": {"type": "bool"},
    "workload_identity": {"type": "bool"},
    "autoprovisioning": {
        "type": "dict",
        "options": {
            "enabled": {"type": "bool", "default": True},
            "limits": {"type": "dict"},
            "service_account": {"type": "str"},
            "oauth_scopes": {"type": "list", "elements": "str"},
        },
    },
    "labels": {"type": "dict"},
    "node_pools": gke.pools_spec(),
}


def main() -> None:
    """Run the module."""
    module = AnsibleModule(argument_spec=OPTIONS, supports_check_mode=True)
    options = gke.without_empty(module.params)
    try:
        gke.check_cluster(options)
    except api.GcpError as error:
        api.fail(module, error)
    gcp = api.connect(module)
    work = Work(gcp, options)
    try:
        try:
            work.plan()
        except api.ApiDisabled as error:
            if not module.check_mode:
                raise
            module.warn(gke.prediction(error, gcp.project))
            work.compare(None)
        if not module.check_mode:
            work.do()
    except api.GcpError as error:
        api.fail(module, error, changed=bool(work.runner.done), action=work.action, fields=work.fields)
    for warning in work.warnings:
        module.warn(warning)
    module.exit_json(changed=work.action != "unchanged", **work.result(), **({"diff": work.diff()} if module._diff else {}))


class Work:
    """What is to be done to a cluster."""

    def __init__(self, gcp: api.Gcp, options: dict):
        self.gcp, self.options = gcp, options
        self.name = f"cluster {options['name']}"
        self.path = gke.cluster_path(gcp.project, options["location"], options["name"])
        self.wanted = gke.cluster_wanted(options)
        self.cluster: dict = {}  # as the API answers it
        self.found: dict = {}
        self.action, self.fields = "unchanged", []
        self.warnings: list[str] = []
        self.runner = gke.Runner(gcp, options["location"])

    def plan(self) -> None:
        """Read and compare. Raises GcpError for what cannot be had."""
        self.compare(self._settled())

    def _settled(self) -> dict | None:
        """The cluster, once it is neither being made nor removed."""
        return gke.settle(
            self.gcp,
            lambda: self.gcp.call(f"{gke.CLUSTERS}.get", name=self.path),
            lambda cluster: cluster["status"] if cluster["status"] in ("PROVISIONING", "STOPPING") else "",
            self.name,
        )

    def compare(self, cluster: dict | None) -> None:
        """Find out what is to be done. Raises GcpError for what cannot be repaired."""
        self.cluster, self.action, self.fields, self.found = cluster or {}, "unchanged", [], {}
        if self.options["state"] == "absent":
            self.action = "deleted" if cluster else "unchanged"
        elif not cluster:
            gke.check_new_cluster(self.options)
            self.action = "created"
        elif cluster["status"] == "ERROR" and not cluster.get("currentNodeCount"):
            # It never ran, and Google says of such a cluster that it is unusable and will be deleted.
            gke.check_new_cluster(self.options)
            self.action = "created"
            why = gke.conditions(cluster)
            self.warnings.append(f"{self.name} was never made: {why}. What is left of it is deleted, and it is made anew")
        elif cluster["status"] == "ERROR":
            raise gke.broken(self.name, cluster, self.gcp.project, "remove the cluster (state: absent) and make it again")
        else:
            if cluster["status"] == "DEGRADED":
                self.warnings.append(f"{self.name} has the status DEGRADED: {gke.conditions(cluster)}")
            self.found = gke.cluster_found(cluster, self.wanted)
            self.fields = gke.different(self.wanted, self.found)
            gke.check_cluster_changes(self.options["name"], self.fields, self.wanted, self.found)
            self.action = "changed" if self.fields else "unchanged"

    def do(self) -> None:
        """Run the requests, and read what has become of it."""
        action, fields, before = self.action, self.fields, self.found
        if action == "unchanged":
            return
        if action == "changed":
            self._change()
        else:
            if self.cluster:
                self.runner.run([self._delete()])
            if action == "created":
                self.runner.run([self._create()])
        if action == "deleted":
            self.cluster = {}
        else:
            self.compare(self._settled())
            if self.action != "unchanged":
                left = ", ".join(self.fields)
                self.warnings.append(f"{self.name} was {action}, but GKE does not show it yet ({left or 'it is not there'})")
        self.action, self.fields, self.found = action, fields, before

    def _create(self) -> gke.Step:
        body = {"cluster": gke.cluster_body(self.options, self.gcp.project)}
        parent = {"parent": gke.cluster_path(self.gcp.project, self.options["location"])}
        types = [pool["accelerator"]["type"] for pool in self.options["node_pools"] or [] if pool["accelerator"]]
        types += [name for name in (self.options["autoprovisioning"] or {}).get("limits") or {} if name not in ("cpu", "memory")]
        return gke.Step(self.name, "create", f"{gke.CLUSTERS}.create", body, parent, again=True, accelerators=tuple(types))

    def _delete(self) -> gke.Step:
        return gke.Step(self.name, "delete", f"{gke.CLUSTERS}.delete", None, {"name": self.path}, again=True)

    def _change(self) -> None:
        """Labels carry a fingerprint: where somebody else has changed them meanwhile, they are read again."""
        for attempt in range(ATTEMPTS):
            calls = gke.cluster_calls(self.options, self.cluster, self.fields, self.gcp.project)
            steps = [gke.Step(self.name, doing, method, body, {"name": self.path}) for doing, method, body in calls]
            try:
                self.runner.run(steps)
                return
            except (api.Conflict, api.BadRequest) as error:
                stale = isinstance(error, api.Conflict) or "fingerprint" in error.message
                if not stale or attempt == ATTEMPTS - 1:
                    raise
                self.runner.failures.clear()
                self.compare(self._settled())

    def result(self) -> dict:
        """What the module returns."""
        cluster = self.cluster
        return {
            "action": self.action,
            "fields": self.fields,
            "endpoint": cluster.get("endpoint", ""),
            "ca_certificate": cluster.get("masterAuth", {}).get("clusterCaCertificate", ""),
            "location": cluster.get("location", self.options["location"]),
            "version": cluster.get("currentMasterVersion", ""),
            "status": cluster.get("status", ""),
            "workload_pool": cluster.get("workloadIdentityConfig", {}).get("workloadPool", ""),
            "node_pools": [pool["name"] for pool in cluster.get("nodePools", [])],
        }

    def diff(self) -> dict:
        """The given options before and after."""
        if self.action == "deleted":
            return {"before": {"state": "present"}, "after": {"state": "absent"}}
        if self.action == "created":
            pools = {pool["name"]: gke.pool_wanted(pool) for pool in self.options["node_pools"] or [] if pool["state"] == "present"}
            return {"before": {}, "after": {**self.wanted, "node_pools": pools}}
        return {"before": self.found, "after": self.wanted}


if __name__ == "__main__":
    main()

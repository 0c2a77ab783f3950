#!/usr/bin/python
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Make, change and remove node pools of a GKE cluster."""

from __future__ import annotations

DOCUMENTATION = r"""
module: gke_node_pools
author: The mlops.platform contributors (@mlops)
short_description: Make, change and remove node pools of a GKE cluster, all of them at once
version_added: 1.0.0
description:
  - Reads the cluster once, compares each node pool field by field, and starts as many operations at once as GKE lets. Node pools are
    removed last, after all the others are as they should be.
  - What GKE can change in a node pool is changed, with the request that is meant for it. Anything else that differs is an error that
    names the option, what is there and what is wanted, before anything is changed.
  - Node pools that are not named are left alone. One that another run is making is waited for.
options:
  cluster:
    description: Name of the cluster.
    type: str
    required: true
  location:
    description: Zone or region of the cluster.
    type: str
    required: true
  node_pools:
    required: true
extends_documentation_fragment:
  - mlops.platform.gcp
  - mlops.platform.gke_node_pools
attributes:
  check_mode:
    support: full
    description: Where the cluster, or the API, is not there yet, all node pools are predicted as created, with a warning.
  diff_mode:
    support: full
    description: Shows the options that are given, of node pools that are changed.
"""

EXAMPLES = r"""
- name: A GPU pool that costs nothing while it is not used, instead of the old one
  mlops.platform.gke_node_pools:
    project: my-project
    location: asia-northeast3-b
    cluster: kubeflow
    node_pools:
      - name: l4
        machine_type: g2-standard-8
        accelerator: {type: nvidia-l4, driver_version: latest, sharing: {max_clients: 4}}
        autoscaling: {min: 0, max: 2, location_policy: ANY}
        spot: true
      - name: k80
        state: absent
"""

RETURN = r"""
node_pools:
  description: What was done to each node pool.
  returned: always
  type: list
  elements: dict
  contains:
    name:
      description: Name.
      type: str
    action:
      description: V(created), V(changed), V(deleted) or V(unchanged).
      type: str
    fields:
      description: The options that differed.
      type: list
      elements: str
    status:
      description: Status, such as V(RUNNING). Empty for one that is not there.
      type: str
    version:
      description: Version of the nodes.
      type: str
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.mlops.platform.plugins.module_utils.gcp import api, gke

OPTIONS = {
    **api.argument_spec(),
    "cluster": {"type": "str", "required": True},
    "location": {"type": "str", "required": True},
    "node_pools": {**gke.pools_spec(), "required": True},
}


def main() -> None:
    """Run the module."""
    module = AnsibleModule(argument_spec=OPTIONS, supports_check_mode=True)
    node_pools = gke.without_empty(module.params)["node_pools"]
    try:
        gke.check_name("cluster", module.params["cluster"])
        gke.check_location(module.params["location"])
        gke.check_pools(node_pools)
    except api.GcpError as error:
        api.fail(module, error)
    gcp = api.connect(module)
    work = Work(gcp, module.params["location"], module.params["cluster"], node_pools)
    try:
        try:
            work.plan()
        except (api.ApiDisabled, api.NotFound) as error:
            if not module.check_mode:
                raise
            module.warn(gke.prediction(error, gcp.project))
            work.compare({})
        if not module.check_mode:
            work.do()
    except api.GcpError as error:
        api.fail(module, error, changed=work.changed_something)
    for warning in work.warnings:
        module.warn(warning)
    module.exit_json(changed=bool(work.actions), node_pools=work.result(), **({"diff": work.diff()} if module._diff else {}))


class Work:
    """What is to be done to the node pools of a cluster."""

    def __init__(self, gcp: api.Gcp, location: str, cluster: str, options: list[dict]):
        self.gcp, self.location, self.options = gcp, location, options
        self.name = cluster
        self.path = gke.cluster_path(gcp.project, location, cluster)
        self.present: dict[str, dict] = {}  # as the API answers them, by name
        self.wanted = {pool["name"]: gke.pool_wanted(pool) for pool in options}
        self.found: dict[str, dict] = {}
        self.actions: dict[str, str] = {}
        self.fields: dict[str, list[str]] = {}
        self.warnings: list[str] = []
        self.runner = gke.Runner(gcp, location)

    @property
    def changed_something(self) -> bool:
        """Whether at least one operation has ended well."""
        return bool(self.runner.done)

    def plan(self) -> None:
        """Read and compare. What other runs make or remove at the moment is waited for. Raises GcpError for what cannot be had."""
        cluster = self._settled(self._transient)
        if cluster["status"] == "ERROR":
            remedy = "remove the cluster and make it again (gke_cluster, state: absent)"
            raise gke.broken(f"cluster {self.name}", cluster, self.gcp.project, remedy)
        self.compare(cluster)
        if self._changing(cluster):
            self.compare(self._settled(self._changing))

    def do(self) -> None:
        """Run the requests, and read what has become of it. Raises GcpError, after those that had been begun."""
        if not self.actions:
            return
        actions, fields, before = self.actions, self.fields, self.found
        self.runner.run(*self.steps())
        self.compare(self._settled(self._transient))
        for name in self.actions:
            left = f" ({', '.join(self.fields[name])})" if name in self.fields else ""
            self.warnings.append(f"node pool {name} was {actions.get(name, 'unchanged')}, but GKE does not show it yet{left}")
        self.actions, self.fields, self.found = actions, fields, before

    def _settled(self, busy) -> dict:
        cluster = gke.settle(self.gcp, lambda: self.gcp.call(f"{gke.CLUSTERS}.get", name=self.path), busy, f"cluster {self.name}")
        if cluster is None:
            raise api.NotFound(
                f"There is no cluster {self.name} in {self.location}, project {self.gcp.project}.",
                "see that cluster and location are right, or make it with gke_cluster",
                status=404,
                reason="NOT_FOUND",
            )
        return cluster

    def _transient(self, cluster: dict) -> str:
        """What has to be over before a comparison makes sense."""
        if cluster["status"] in ("PROVISIONING", "STOPPING"):
            return cluster["status"]
        return self._those(cluster, self.wanted, ("PROVISIONING", "STOPPING"))

    def _changing(self, cluster: dict) -> str:
        """What has to be over before node pools that differ can be changed. Perhaps it is just that change, of a run that was cut off."""
        return self._those(cluster, self.fields, ("RECONCILING",))

    def _those(self, cluster: dict, names, states) -> str:
        pools = [pool for pool in cluster.get("nodePools", []) if pool["name"] in names]
        return ", ".join(f"node pool {pool['name']} {pool['status']}" for pool in pools if pool.get("status") in states)

    def compare(self, cluster: dict) -> None:
        """Find out what is to be done. Raises GcpError for what cannot be repaired."""
        self.present = {pool["name"]: pool for pool in cluster.get("nodePools", [])}
        self.actions, self.fields, self.found, self.warnings = {}, {}, {}, []
        for options in self.options:
            name = options["name"]
            pool, wanted = self.present.get(name), self.wanted[name]
            if options["state"] == "absent":
                if pool:
                    self.actions[name] = "deleted"
            elif not pool:
                self.actions[name] = "created"
            elif pool.get("status") == "ERROR":
                remedy = "remove the node pool (state: absent) and make it again"
                raise gke.broken(f"node pool {name}", pool, self.gcp.project, remedy)
            else:
                if pool.get("status") == "RUNNING_WITH_ERROR":
                    self.warnings.append(f"node pool {name} lacks nodes: {gke.conditions(pool)}")
                self.found[name] = gke.pool_found(pool, wanted)
                fields = gke.different(wanted, self.found[name])
                gke.check_pool_changes(name, fields, wanted, self.found[name])
                if fields:
                    self.actions[name], self.fields[name] = "changed", fields

    def steps(self) -> tuple[list[gke.Step], list[gke.Step]]:
        """The requests that make and change, and those that remove."""
        steps, last = [], []
        for options in self.options:
            name, target = options["name"], f"node pool {options['name']}"
            path = {"name": f"{self.path}/nodePools/{name}"}
            action = self.actions.get(name)
            if action == "created":
                accelerators = (options["accelerator"]["type"],) if options["accelerator"] else ()
                parent, body = {"parent": self.path}, {"nodePool": gke.pool_body(options)}
                steps.append(gke.Step(target, "create", f"{gke.POOLS}.create", body, parent, again=True, accelerators=accelerators))
            elif action == "deleted":
                last.append(gke.Step(target, "delete", f"{gke.POOLS}.delete", None, path, again=True))
            elif action == "changed":
                calls = gke.pool_calls(options, self.present[name], self.fields[name])
                steps += [gke.Step(target, doing, method, body, path) for doing, method, body in calls]
        return steps, last

    def result(self) -> list[dict]:
        """What the module returns of each node pool."""
        result = []
        for options in self.options:
            name = options["name"]
            pool = self.present.get(name, {})
            result.append(
                {
                    "name": name,
                    "action": self.actions.get(name, "unchanged"),
                    "fields": self.fields.get(name, []),
                    "status": pool.get("status", ""),
                    "version": pool.get("version", ""),
                }
            )
        return result

    def diff(self) -> dict:
        """The given options of what is changed, before and after."""
        before = {name: self.found[name] for name, action in self.actions.items() if action == "changed"}
        after = {name: self.wanted[name] for name, action in self.actions.items() if action != "deleted"}
        before.update({name: {"state": "present"} for name, action in self.actions.items() if action == "deleted"})
        return {"before": before, "after": after}


if __name__ == "__main__":
    main()

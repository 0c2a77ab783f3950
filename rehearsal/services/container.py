# Copyright: the mlops.platform contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Google Kubernetes Engine: clusters and node pools, one operation at a time per cluster."""

from __future__ import annotations

from dataclasses import dataclass

from rehearsal import Call, Refused, errors, gke, handles, locations
from rehearsal.services import compute

# Fields of nodePools.update that replace the nodes; the others are applied to them where they are.
_RECREATING = {"nodeVersion", "imageType", "machineType", "diskType", "diskSizeGb", "bootDisk", "accelerators", "workloadMetadataConfig"}


@dataclass
class Place:
    """What a request's URL names, in the style of locations or of zones."""

    call: Call
    location: str
    cluster: str = ""
    pool: str = ""

    @staticmethod
    def of(call: Call) -> Place:
        """From path parameters."""
        parts = (call.params.get("name") or call.params.get("parent") or "").split("/")
        named = dict(zip(parts[::2], parts[1::2], strict=False))
        where = named.get("locations") or named.get("zones") or call.params.get("zone", "")
        cluster = named.get("clusters") or call.params.get("clusterId", "")
        return Place(call, where, cluster, named.get("nodePools") or call.params.get("nodePoolId", ""))

    @property
    def clusters(self) -> dict:
        """The project's clusters by location/name."""
        return self.call.project.setdefault("container", {}).setdefault("clusters", {})

    @property
    def key(self) -> str:
        """Of the cluster in the state."""
        return f"{self.location}/{self.cluster}"

    def path(self, identity: str = "", pool: str = "") -> str:
        """The resource's relative name: of the cluster, or of a node pool in it."""
        kind = "zones" if self.location.count("-") > 1 else "locations"
        path = f"projects/{identity or self.call.project_id}/{kind}/{self.location}/clusters/{self.cluster}"
        return f"{path}/nodePools/{pool}" if pool else path

    def target(self, pool: str = "") -> str:
        """The resource in an operation's targetLink, which has the project's number."""
        return self.path(self.call.project["projectNumber"], pool)

    def found(self) -> dict:
        """The cluster; 404 if there is none."""
        if self.key not in self.clusters:
            raise Refused(404, "", f"Not found: {self.path()}.")
        return self.clusters[self.key]

    def found_pool(self) -> tuple[dict, dict]:
        """The cluster and its node pool; 404 if there is none."""
        cluster = self.found()
        if self.pool not in cluster["nodePools"]:
            raise Refused(404, "", f"Not found: {self.path(pool=self.pool)}.")
        return cluster, cluster["nodePools"][self.pool]

    def changeable(self) -> dict:
        """The cluster, which no other operation may be at work on; state container.parallelNodePools: on how many pools there may be."""
        cluster = self.found()
        running = self.call.running(self.target())
        together = bool(self.pool) and all("/nodePools/" in one["target"] and one["target"] != self.target(self.pool) for one in running)
        if running and not (together and len(running) < self.call.project["container"].get("parallelNodePools", 1)):
            raise errors.precondition(f"Cluster is running incompatible operation {running[0]['name']}.")
        if cluster["status"] not in ("RUNNING", "RECONCILING", "DEGRADED") and "delete" not in self.call.method:
            raise errors.precondition(f"Cluster {self.cluster} is in status {cluster['status']}; it must be RUNNING.")
        return cluster

    def operation(self, kind: str, finish: object, failed: object, pool: str = "", **arguments: object) -> dict:
        """Starts an operation on the cluster or a node pool of it."""
        given = {"project": self.call.project_id, "key": self.key, **({"pool": pool} if pool else {}), **arguments}
        return self.call.operation(kind, self.target(pool), finish=finish, failed=failed, arguments=given, location=self.location)


def _stored(server: object, project: str, key: str) -> tuple[dict, dict]:
    found = server.state["projects"][project]
    return found, found["container"]["clusters"][key]


def _rest(server: object, project: str, key: str) -> None:
    """The cluster's status once an operation on it has ended."""
    _, cluster = _stored(server, project, key)
    same = {"project": project, "key": key}
    ours = (one for one in server.state["operations"].values() if one["service"] == "container" and not one["done"])
    cluster["status"] = "RECONCILING" if any(same.items() <= one["arguments"].items() for one in ours) else "RUNNING"


def _reached(server: object) -> dict | None:
    """Where the cluster answers that stands in for all of GKE's, if there is one."""
    if not server.kubeconfig:
        return None
    from rehearsal import cluster

    return cluster.reached(server.kubeconfig, server.context)


def advertise(server: object) -> None:
    """Shows the GPUs of all node pools on the node of the cluster that stands in for GKE's."""
    if not server.kubeconfig:
        return
    from rehearsal import cluster

    pools = [
        pool
        for project in server.state["projects"].values()
        for made in project.get("container", {}).get("clusters", {}).values()
        for pool in made["nodePools"].values()
        if pool["config"].get("accelerators") and pool["status"] not in ("PROVISIONING", "STOPPING", "ERROR")
    ]
    cluster.advertise(server.kubeconfig, server.context, pools)


def _both(*verbs: str, group: str = "clusters") -> list[str]:
    """The methods of these names in both styles."""
    return [f"container.projects.{style}.{group}.{verb}" for style in ("locations", "zones") for verb in verbs]


def _check_quotas(project: dict, cluster: dict, pools: list[dict], instead_of: list[dict] | None = None) -> None:
    """403 for nodes that the project's quotas have no room for, in GKE's words. `instead_of`: pools whose share becomes free."""
    wanted: dict[tuple[str, str], float] = {}
    for sign, some in ((1, pools), (-1, instead_of or [])):
        for pool in some:
            for key, amount in compute.taken(project, cluster, pool).items():
                wanted[key] = wanted.get(key, 0) + sign * amount
    short = []
    for (region, metric), amount in sorted(wanted.items()):
        limit = compute.limits(project, region).get(metric, 0.0)
        free = max(limit - compute.usage(project, region).get(metric, 0), 0.0)
        if amount > free:
            scope = "regional" if region else "project"
            short.append(
                f"insufficient {scope} quota to satisfy request: resource \"{metric}\": request requires '{float(amount)}' and is short "
                f"'{float(amount - free)}'. project has a quota of '{float(limit)}' with '{float(free)}' available. View and manage quotas "
                f"at https://console.cloud.google.com/iam-admin/quotas?usage=USED&project={project['projectId']}."
            )
    if len(short) == 1:
        raise Refused(403, "", short[0][0].upper() + short[0][1:])
    if short:
        raise Refused(403, "", "".join(f"\n\t({number}) {text}" for number, text in enumerate(short, 1)))


# ---- versions


@handles("container.projects.locations.getServerConfig", "container.projects.zones.getServerconfig")
def server_config(call: Call) -> dict:
    """Versions and release channels."""
    call.project  # noqa: B018 - refuses if there is none
    location = Place.of(call).location
    if not locations.zones_of(location):
        raise errors.invalid(f'Location "{location}" does not exist.')
    return gke.server_config()


# ---- clusters


@handles(*_both("get"))
def get(call: Call) -> dict:
    """One cluster with its node pools."""
    return gke.shown_cluster(call.project, Place.of(call).found(), _reached(call.server))


@handles(*_both("list"))
def listed(call: Call) -> dict:
    """The clusters of a location, or of all (-)."""
    place, reached = Place.of(call), _reached(call.server)
    found = [cluster for cluster in place.clusters.values() if place.location in (cluster["location"], "-")]
    return {"clusters": [gke.shown_cluster(call.project, cluster, reached) for cluster in found]} if found else {}


@handles(*_both("create"))
def create(call: Call) -> dict:
    """Makes a cluster with its node pools; PROVISIONING until the operation is done."""
    call.need("cluster")
    place = Place.of(call)
    place.cluster = call.body["cluster"].get("name", "")
    if place.key in place.clusters:
        raise Refused(409, "", f"Already exists: {place.path()}.")
    cluster = gke.new_cluster(call.project, place.location, call.body["cluster"])
    _check_quotas(call.project, cluster, list(cluster["nodePools"].values()))
    place.clusters[place.key] = cluster
    return place.operation("CREATE_CLUSTER", created, broken)


def created(server: object, operation: dict, project: str, key: str) -> None:
    """The cluster runs, and its pools."""
    found, cluster = _stored(server, project, key)
    for pool in cluster["nodePools"].values():
        pool["status"] = "RUNNING"
    advertise(server)
    gke.running(found, cluster)


def broken(server: object, operation: dict, project: str, key: str) -> None:
    """A cluster that could not be made stays, with the reason, until it is deleted."""
    _, cluster = _stored(server, project, key)
    for broken in (cluster, *cluster["nodePools"].values()):
        _explain(broken, operation["error"])


def _explain(resource: dict, error: dict) -> None:
    resource["status"] = "ERROR"
    resource["statusMessage"] = error["message"]
    code = error["status"] if error["status"] in _CANONICAL else "UNKNOWN"
    resource["conditions"] = [{"canonicalCode": code, "message": error["message"]}]


_CANONICAL = {
    "CANCELLED", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS", "PERMISSION_DENIED", "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION", "ABORTED", "INTERNAL", "UNAVAILABLE",
}  # fmt: skip


@handles(*_both("delete"))
def delete(call: Call) -> dict:
    """Deletes a cluster with its node pools."""
    place = Place.of(call)
    cluster = place.changeable()
    before = cluster["status"]
    for stopping in (cluster, *cluster["nodePools"].values()):
        stopping["status"] = "STOPPING"
    return place.operation("DELETE_CLUSTER", deleted, kept, status=before)


def deleted(server: object, operation: dict, project: str, key: str, status: str) -> None:
    """The cluster is gone."""
    advertise(server)
    del server.state["projects"][project]["container"]["clusters"][key]


def kept(server: object, operation: dict, project: str, key: str, status: str, **change: object) -> None:
    """A cluster that could not be deleted or changed is as it was."""
    _, cluster = _stored(server, project, key)
    cluster["status"] = status
    for pool in cluster["nodePools"].values():
        pool["status"] = "RUNNING" if pool["status"] == "STOPPING" else pool["status"]


@handles(*_both("update"))
def update(call: Call) -> dict:
    """Changes one thing about a cluster."""
    call.need("update")
    change = call.body["update"]
    kind = "UPGRADE_MASTER" if "desiredMasterVersion" in change else "UPGRADE_NODES" if "desiredNodeVersion" in change else "UPDATE_CLUSTER"
    return _update(call, kind, change)


def _update(call: Call, kind: str, change: dict) -> dict:
    place = Place.of(call)
    cluster = place.changeable()
    gke.updated_cluster(call.project, cluster, change)  # refuses now what it would refuse later
    cluster["status"] = "RECONCILING"
    return place.operation(kind, updated, kept, status="RUNNING", change={key: value for key, value in change.items() if key != "etag"})


def updated(server: object, operation: dict, project: str, key: str, status: str, change: dict) -> None:
    """The change is made."""
    found, cluster = _stored(server, project, key)
    found["container"]["clusters"][key] = cluster = gke.updated_cluster(found, cluster, change)
    gke.running(found, cluster)


_ALSO = {  # method of its own → the update that it stands for, from the request
    "setAddons": lambda body: {"desiredAddonsConfig": body["addonsConfig"]},
    "setLocations": lambda body: {"desiredLocations": body["locations"]},
    "setLogging": lambda body: {"desiredLoggingService": body["loggingService"]},
    "setMonitoring": lambda body: {"desiredMonitoringService": body["monitoringService"]},
    "updateMaster": lambda body: {"desiredMasterVersion": body["masterVersion"]},
}
_IN_ZONES = {
    "setAddons": "addons",
    "setLocations": "locations",
    "setLogging": "logging",
    "setMonitoring": "monitoring",
    "updateMaster": "master",
}
_NEEDED = {
    "setAddons": "addonsConfig", "setLocations": "locations", "setLogging": "loggingService", "setMonitoring": "monitoringService",
    "updateMaster": "masterVersion",
}  # fmt: skip


@handles(
    *(f"container.projects.locations.clusters.{verb}" for verb in _ALSO),
    *(f"container.projects.zones.clusters.{verb}" for verb in _IN_ZONES.values()),
)
def also_update(call: Call) -> dict:
    """The older methods, each for one thing."""
    verb = call.method.rpartition(".")[2]
    verb = next((name for name, zonal in _IN_ZONES.items() if zonal == verb), verb)
    call.need(_NEEDED[verb])
    return _update(call, "UPGRADE_MASTER" if verb == "updateMaster" else "UPDATE_CLUSTER", _ALSO[verb](call.body))


@handles("container.projects.locations.clusters.setResourceLabels", "container.projects.zones.clusters.resourceLabels")
def set_labels(call: Call) -> dict:
    """Replaces the resource labels, if the request knows the present ones."""
    place = Place.of(call)
    cluster = place.changeable()
    given, expected = call.body.get("labelFingerprint", ""), gke.label_fingerprint(cluster)
    if given != expected:
        raise errors.precondition(
            "Labels could not be set due to fingerprint mismatch; try again with the proper fingerprint: incorrect fingerprint supplied "
            f'was "{given}", the expected one is "{expected}".'
        )
    labels = call.body.get("resourceLabels", {})
    gke.check_labels(labels)
    return place.operation("SET_LABELS", fields_set, None, fields={"resourceLabels": labels})


@handles("container.projects.locations.clusters.setLegacyAbac", "container.projects.zones.clusters.legacyAbac")
def set_legacy_abac(call: Call) -> dict:
    """Switches the old authorization on or off."""
    place = Place.of(call)
    place.changeable()
    return place.operation("UPDATE_CLUSTER", fields_set, None, fields={"legacyAbac": gke.read("LegacyAbac", call.body)})


@handles(*_both("setMaintenancePolicy"))
def set_maintenance(call: Call) -> dict:
    """Sets when GKE may upgrade."""
    place = Place.of(call)
    cluster = place.changeable()
    call.need("maintenancePolicy")
    policy = gke.read("MaintenancePolicy", call.body["maintenancePolicy"])
    known = cluster["maintenancePolicy"]["resourceVersion"]
    if policy.get("resourceVersion", known) != known:
        raise errors.precondition("The maintenance policy was changed since it was read: its resource_version does not match.")
    policy["resourceVersion"] = f"{(int(known, 16) + 1) % 2**32:08x}"
    return place.operation("SET_MAINTENANCE_POLICY", fields_set, None, fields={"maintenancePolicy": policy})


@handles(*_both("setNetworkPolicy"))
def set_network_policy(call: Call) -> dict:
    """Switches network policies on or off."""
    place = Place.of(call)
    place.changeable()
    policy = gke.read("NetworkPolicy", call.body.get("networkPolicy", {}))
    return place.operation("SET_NETWORK_POLICY", fields_set, None, fields={"networkPolicy": policy})


def fields_set(server: object, operation: dict, project: str, key: str, fields: dict) -> None:
    """The fields are set."""
    _stored(server, project, key)[1].update(fields)


# ---- node pools


@handles(*_both("get", group="clusters.nodePools"))
def get_pool(call: Call) -> dict:
    """One node pool."""
    cluster, pool = Place.of(call).found_pool()
    return gke.shown_pool(call.project, cluster, pool)


@handles(*_both("list", group="clusters.nodePools"))
def list_pools(call: Call) -> dict:
    """The node pools of a cluster."""
    cluster = Place.of(call).found()
    pools = [gke.shown_pool(call.project, cluster, pool) for pool in cluster["nodePools"].values()]
    return {"nodePools": pools} if pools else {}


@handles(*_both("create", group="clusters.nodePools"))
def create_pool(call: Call) -> dict:
    """Makes a node pool; PROVISIONING until the operation is done."""
    call.need("nodePool")
    place = Place.of(call)
    place.pool = call.body["nodePool"].get("name", "")
    cluster = place.found()
    if place.pool in cluster["nodePools"]:
        raise Refused(409, "", f"Already exists: {place.path(pool=place.pool)}.")
    place.changeable()
    pool = gke.new_pool(call.project, cluster, call.body["nodePool"])
    _check_quotas(call.project, cluster, [pool])
    cluster["nodePools"][place.pool] = pool
    cluster["status"] = "RECONCILING"
    return place.operation("CREATE_NODE_POOL", pool_ready, pool_broken, place.pool)


def pool_ready(server: object, operation: dict, project: str, key: str, pool: str) -> None:
    """The node pool runs."""
    _, cluster = _stored(server, project, key)
    cluster["nodePools"][pool]["status"] = "RUNNING"
    advertise(server)
    _rest(server, project, key)


def pool_broken(server: object, operation: dict, project: str, key: str, pool: str) -> None:
    """A node pool that could not be made stays, with the reason, until it is deleted."""
    _, cluster = _stored(server, project, key)
    _explain(cluster["nodePools"][pool], operation["error"])
    _rest(server, project, key)


@handles(*_both("delete", group="clusters.nodePools"))
def delete_pool(call: Call) -> dict:
    """Deletes a node pool with its nodes."""
    place = Place.of(call)
    _, pool = place.found_pool()
    cluster, before = place.changeable(), pool["status"]
    pool["status"], cluster["status"] = "STOPPING", "RECONCILING"
    return place.operation("DELETE_NODE_POOL", pool_deleted, pool_kept, place.pool, status=before)


def pool_deleted(server: object, operation: dict, project: str, key: str, pool: str, status: str) -> None:
    """The node pool is gone."""
    advertise(server)
    del _stored(server, project, key)[1]["nodePools"][pool]
    _rest(server, project, key)


def pool_kept(server: object, operation: dict, project: str, key: str, pool: str, status: str, **change: object) -> None:
    """A node pool that could not be deleted or changed is as it was."""
    _, cluster = _stored(server, project, key)
    cluster["nodePools"][pool]["status"] = status
    _rest(server, project, key)


@handles(*_both("update", group="clusters.nodePools"))
def update_pool(call: Call) -> dict:
    """Changes a node pool."""
    place = Place.of(call)
    place.found_pool()
    cluster = place.changeable()
    pool = cluster["nodePools"][place.pool]
    changed = gke.updated_pool(call.project, cluster, pool, call.body)  # refuses now what it would refuse later
    _check_quotas(call.project, cluster, [changed], instead_of=[pool])
    kind = "UPGRADE_NODES" if set(call.body) & _RECREATING else "UPDATE_CLUSTER"
    return _change_pool(place, cluster, pool, kind, {key: value for key, value in call.body.items() if key != "etag"})


def _change_pool(place: Place, cluster: dict, pool: dict, kind: str, change: dict) -> dict:
    before, pool["status"], cluster["status"] = pool["status"], "RECONCILING", "RECONCILING"
    return place.operation(kind, pool_updated, pool_kept, place.pool, status=before, change=change)


def pool_updated(server: object, operation: dict, project: str, key: str, pool: str, status: str, change: dict) -> None:
    """The change is made."""
    found, cluster = _stored(server, project, key)
    cluster["nodePools"][pool] = gke.updated_pool(found, cluster, cluster["nodePools"][pool], change) | {"status": status}
    advertise(server)
    _rest(server, project, key)


@handles("container.projects.locations.clusters.nodePools.setAutoscaling", "container.projects.zones.clusters.nodePools.autoscaling")
def set_autoscaling(call: Call) -> dict:
    """Sets the limits between which a pool grows."""
    call.need("autoscaling")
    place = Place.of(call)
    place.found_pool()
    return _set(place, "UPDATE_CLUSTER", {"autoscaling": gke.checked_pool_autoscaling(call.body["autoscaling"])})


@handles(*_both("setManagement", group="clusters.nodePools"))
def set_management(call: Call) -> dict:
    """Switches upgrades and repairs by GKE on or off."""
    call.need("management")
    place = Place.of(call)
    cluster, _ = place.found_pool()
    return _set(place, "SET_NODE_POOL_MANAGEMENT", {"management": gke.managed(cluster, call.body["management"])})


@handles(*_both("setSize", group="clusters.nodePools"))
def set_size(call: Call) -> dict:
    """Sets the number of nodes in each of a pool's zones."""
    place = Place.of(call)
    cluster, pool = place.found_pool()
    nodes = call.body.get("nodeCount", 0)
    if nodes < 0:
        raise errors.invalid("node_count must not be negative.")
    _check_quotas(call.project, cluster, [{**pool, "initialNodeCount": nodes}], instead_of=[pool])
    return _set(place, "SET_NODE_POOL_SIZE", {"initialNodeCount": nodes})


def _set(place: Place, kind: str, fields: dict) -> dict:
    cluster = place.changeable()
    pool = cluster["nodePools"][place.pool]
    before, pool["status"], cluster["status"] = pool["status"], "RECONCILING", "RECONCILING"
    return place.operation(kind, pool_fields_set, pool_kept, place.pool, status=before, fields=fields)


def pool_fields_set(server: object, operation: dict, project: str, key: str, pool: str, status: str, fields: dict) -> None:
    """The fields are set."""
    _, cluster = _stored(server, project, key)
    cluster["nodePools"][pool].update(fields, status=status)
    advertise(server)
    _rest(server, project, key)

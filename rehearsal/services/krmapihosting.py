# Copyright: the mlops.platform contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Config Controller: an instance is a GKE cluster, krmapihost-<name>, that container shows too."""

from __future__ import annotations

import copy
import re

from rehearsal import Call, Refused, errors, gke, handles, locations
from rehearsal.call import now
from rehearsal.state import merge

NAME = re.compile(r"[a-z](?:[-a-z0-9]{0,27}[a-z0-9])?\Z")  # krmapihost-<name> is the name of a cluster: 40 characters at most
TYPE = "type.googleapis.com/google.cloud.krmapihosting.v1"


def _hosts(project: dict) -> dict:
    return project.setdefault("krmapihosting", {}).setdefault("hosts", {})


def _found(call: Call) -> dict:
    key = "/".join(call.params["name"].split("/")[3::2])
    if key not in _hosts(call.project):
        raise Refused(404, "", f"Resource '{call.params['name']}' was not found")
    return _hosts(call.project)[key]


def _operation(call: Call, name: str, finish: object, failed: object, **arguments: object) -> dict:
    verb = call.method.rpartition(".")[2].replace("patch", "update")
    metadata = {
        "@type": f"{TYPE}.OperationMetadata",
        "createTime": now(),
        "target": name,
        "verb": verb,
        "requestedCancellation": False,
        "apiVersion": "v1",
    }
    arguments = {"project": call.project_id, "location": name.split("/")[3], "host": name.split("/")[5], **arguments}
    return call.operation(verb, name, finish=finish, failed=failed, arguments=arguments, metadata=metadata)


@handles("krmapihosting.projects.locations.krmApiHosts.create")
def create(call: Call) -> dict:
    """Makes an instance and its cluster."""
    name, location = call.params.get("krmApiHostId", ""), call.location
    if not NAME.match(name):
        raise errors.violations(
            [("krm_api_host_id", f"Invalid value at 'krm_api_host_id': '{name}'. Must be a match of regex '{NAME.pattern}'")]
        )
    if location not in locations.REGIONS:
        raise Refused(403, "", f"Permission denied on 'locations/{location}' (or it may not exist).")
    call.need("bundlesConfig.configControllerConfig", "managementConfig")
    kinds = [kind for kind in ("standardManagementConfig", "fullManagementConfig") if kind in call.body["managementConfig"]]
    if len(kinds) != 1:
        raise errors.invalid("Exactly one of standard_management_config and full_management_config must be set.")
    if f"{location}/{name}" in _hosts(call.project):
        raise Refused(409, "", f"Resource '{call.params['parent']}/krmApiHosts/{name}' already exists")
    if "container.googleapis.com" not in call.project["services"]:
        raise errors.service_disabled("container", "Kubernetes Engine API", call.project["projectNumber"])
    full = f"projects/{call.project_id}/locations/{location}/krmApiHosts/{name}"
    cluster = _cluster(call.project, location, name, kinds[0], call.body["managementConfig"][kinds[0]])
    call.project.setdefault("container", {}).setdefault("clusters", {})[f"{location}/{cluster['name']}"] = cluster
    _hosts(call.project)[f"{location}/{name}"] = {
        **copy.deepcopy(call.body),
        "name": full,
        "state": "CREATING",
        "gkeResourceLink": f"//container.googleapis.com/projects/{call.project_id}/locations/{location}/clusters/{cluster['name']}",
    }
    return _operation(call, full, created, gone)


def _cluster(project: dict, location: str, name: str, kind: str, wanted: dict) -> dict:
    full = kind == "fullManagementConfig"
    body = {
        "name": f"krmapihost-{name}",
        "network": wanted.get("network") or "default",
        "subnetwork": wanted.get("subnet", ""),
        "addonsConfig": {"configConnectorConfig": {"enabled": True}},
        "privateClusterConfig": {"enablePrivateNodes": True, "masterIpv4CidrBlock": wanted.get("masterIpv4CidrBlock") or "172.16.0.128/28"},
        "workloadIdentityConfig": {"workloadPool": f"{project['projectId']}.svc.id.goog"},
        "resourceLabels": {"goog-config-controller": "true"},
        **({"autopilot": {"enabled": True}} if full else {"initialNodeCount": 1, "nodeConfig": {"machineType": "e2-standard-4"}}),
    }
    return gke.new_cluster(project, location, body)


def _state(server: object, project: str, location: str, host: str) -> tuple[dict, dict]:
    found = server.state["projects"][project]
    return _hosts(found)[f"{location}/{host}"], found["container"]["clusters"][f"{location}/krmapihost-{host}"]


def created(server: object, operation: dict, project: str, location: str, host: str) -> dict:
    """The instance runs, and its cluster."""
    found, cluster = _state(server, project, location, host)
    found["state"] = "RUNNING"
    gke.running(server.state["projects"][project], cluster)
    for pool in cluster["nodePools"].values():
        pool["status"] = "RUNNING"
    return {"@type": f"{TYPE}.KrmApiHost", **copy.deepcopy(found)}


def gone(server: object, operation: dict, project: str, location: str, host: str) -> None:
    """The instance is not there, nor is its cluster."""
    found = server.state["projects"][project]
    _hosts(found).pop(f"{location}/{host}", None)
    found["container"]["clusters"].pop(f"{location}/krmapihost-{host}", None)


@handles("krmapihosting.projects.locations.krmApiHosts.get")
def get(call: Call) -> dict:
    """One instance."""
    return copy.deepcopy(_found(call))


@handles("krmapihosting.projects.locations.krmApiHosts.list")
def listed(call: Call) -> dict:
    """The instances of a location, or of all (-)."""
    found = [host for key, host in _hosts(call.project).items() if call.location in (key.split("/")[0], "-")]
    return call.page("krmApiHosts", copy.deepcopy(found)) if found else {}


@handles("krmapihosting.projects.locations.krmApiHosts.patch")
def patch(call: Call) -> dict:
    """Changes what can be changed: labels and the networks that may reach the control plane."""
    found = _found(call)
    fields = [field for field in call.params.get("updateMask", "").split(",") if field]
    if not fields:
        raise errors.invalid("update_mask must be specified.")
    for field in fields:
        if not re.match(r"labels|(managementConfig|management_config)\.", field):
            raise errors.invalid(f"Invalid field path in update_mask: {field} cannot be changed.")
    if call.running(found["name"]):
        raise errors.aborted(f"Resource '{found['name']}' has an operation running already.")
    tops = {field.split(".")[0].replace("management_config", "managementConfig") for field in fields}
    change = {key: value for key, value in call.body.items() if key in tops}
    return _operation(call, found["name"], patched, None, change=change)


def patched(server: object, operation: dict, project: str, location: str, host: str, change: dict) -> dict:
    """The change is made."""
    found, _ = _state(server, project, location, host)
    merge(found, change)
    return {"@type": f"{TYPE}.KrmApiHost", **copy.deepcopy(found)}


@handles("krmapihosting.projects.locations.krmApiHosts.delete")
def delete(call: Call) -> dict:
    """Deletes an instance with its cluster."""
    found = _found(call)
    if call.running(found["name"]):
        raise errors.aborted(f"Resource '{found['name']}' has an operation running already.")
    found["state"] = "DELETING"
    _, cluster = _state(call.server, call.project_id, *found["name"].split("/")[3::2])
    cluster["status"] = "STOPPING"
    return _operation(call, found["name"], gone, still_there)


def still_there(server: object, operation: dict, project: str, location: str, host: str) -> None:
    """What could not be deleted runs on."""
    found, cluster = _state(server, project, location, host)
    found["state"] = cluster["status"] = "RUNNING"

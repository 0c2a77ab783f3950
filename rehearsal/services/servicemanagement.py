# Copyright: the mlops.platform contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Cloud Endpoints: services under <project>.cloud.goog, their configurations from OpenAPI documents, and rollouts."""

from __future__ import annotations

import base64
import copy
import json
import re
from datetime import UTC, datetime

import yaml

from rehearsal import Call, Refused, errors, handles, policies
from rehearsal.call import now

TYPE = "type.googleapis.com/google.api.servicemanagement.v1"
_VERBS = ("get", "put", "post", "delete", "options", "head", "patch")


def _services(project: dict) -> dict:
    return project.setdefault("endpoints", {})


def _find(state: dict, name: str, *, deleted: bool = False) -> dict:
    """A service of any project; 404 or 403 if there is none: Google does not tell which."""
    for project in state["projects"].values():
        service = project.get("endpoints", {}).get(name)
        if service and service["deleted"] == deleted:
            return service
    raise Refused(403, "", f"Service '{name}' not found or permission denied.", [errors.info("SERVICE_NOT_FOUND", service=name)])


def _operation(call: Call, name: str, finish: object, failed: object = None, **arguments: object) -> dict:
    metadata = {"@type": f"{TYPE}.OperationMetadata", "resourceNames": [f"services/{name}"], "startTime": now()}
    return call.operation(
        call.method, f"services/{name}", finish=finish, failed=failed, arguments={"name": name, **arguments}, metadata=metadata
    )


@handles("servicemanagement.services.create")
def create(call: Call) -> dict:
    """Makes a service in the project that produces it."""
    call.need("serviceName", "producerProjectId")
    name, producer = call.body["serviceName"], call.body["producerProjectId"]
    project = call.state["projects"].get(producer)
    if project is None:
        raise Refused(403, "", f"Permission denied on resource project {producer}.")
    if len(name) > 62 or not re.fullmatch(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)+", name):
        raise errors.invalid(f"Invalid service name '{name}': it must be a DNS name of at most 62 characters.")
    if not name.endswith((f".endpoints.{producer}.cloud.goog", f".{producer}.appspot.com")):
        raise errors.precondition(f"Ownership verification failed for domain name '{name}'. Please verify it with Google Search Console.")
    for owner in call.state["projects"].values():
        if found := owner.get("endpoints", {}).get(name):
            if found["deleted"]:
                raise errors.precondition(
                    f"Service {name} has been deleted and will be purged after 30 days. To reuse this service, please undelete the service."
                )
            raise Refused(409, "", f"Service '{name}' already exists.")
    _services(project)[name] = {
        "service": {"serviceName": name, "producerProjectId": producer},
        "configs": {},
        "rollouts": [],
        "deleted": False,
        "iamPolicy": {"version": 1, "bindings": [{"role": "roles/servicemanagement.admin", "members": [_member(call.principal)]}]},
    }
    return _operation(call, name, created, unmade)


def _member(principal: str) -> str:
    return f"{'serviceAccount' if principal.endswith('.gserviceaccount.com') else 'user'}:{principal}"


def created(server: object, operation: dict, name: str) -> dict:
    """The service is there."""
    return {"@type": f"{TYPE}.ManagedService", **_find(server.state, name)["service"]}


def unmade(server: object, operation: dict, name: str) -> None:
    """A service that could not be made is not there."""
    for project in server.state["projects"].values():
        project.get("endpoints", {}).pop(name, None)


@handles("servicemanagement.services.get")
def get(call: Call) -> dict:
    """One service."""
    return dict(_find(call.state, call.params["serviceName"])["service"])


@handles("servicemanagement.services.list")
def listed(call: Call) -> dict:
    """The services of a project."""
    producer = call.params.get("producerProjectId", "")
    projects = [call.state["projects"][producer]] if producer in call.state["projects"] else call.state["projects"].values()
    found = [service["service"] for project in projects for service in _services(project).values() if not service["deleted"]]
    return call.page("services", copy.deepcopy(found)) if found else {}


@handles("servicemanagement.services.delete")
def delete(call: Call) -> dict:
    """Deletes a service; for 30 days it can be undeleted, and its name is not free."""
    name = call.params["serviceName"]
    _find(call.state, name)
    return _operation(call, name, deleted)


def deleted(server: object, operation: dict, name: str) -> None:
    """The service is gone, as far as anyone can see."""
    _find(server.state, name)["deleted"] = True


@handles("servicemanagement.services.undelete")
def undelete(call: Call) -> dict:
    """Brings a deleted service back."""
    name = call.params["serviceName"]
    _find(call.state, name, deleted=True)
    return _operation(call, name, undeleted)


def undeleted(server: object, operation: dict, name: str) -> dict:
    """The service is back."""
    service = _find(server.state, name, deleted=True)
    service["deleted"] = False
    return {"@type": f"{TYPE}.UndeleteServiceResponse", "service": service["service"]}


# ---- configurations


@handles("servicemanagement.services.configs.submit")
def submit(call: Call) -> dict:
    """Makes a configuration from an OpenAPI document; it is used once it is rolled out."""
    name = call.params["serviceName"]
    service = _find(call.state, name)
    files = call.body.get("configSource", {}).get("files", [])
    if not files:
        raise errors.invalid("Required field 'config_source.files' is missing.")
    config = _converted(name, service["service"]["producerProjectId"], files)
    if call.body.get("validateOnly"):
        return _operation(call, name, submitted, config=config, only_checked=True)
    today = f"{datetime.now(UTC):%Y-%m-%d}"
    config["id"] = f"{today}r{sum(identity.startswith(today) for identity in service['configs'])}"
    return _operation(call, name, submitted, config=config, only_checked=False)


def submitted(server: object, operation: dict, name: str, config: dict, only_checked: bool) -> dict:
    """The configuration is there."""
    if not only_checked:
        _find(server.state, name)["configs"][config["id"]] = config
    return {"@type": f"{TYPE}.SubmitConfigSourceResponse", "serviceConfig": _shown(config, full=False)}


def _wrong(path: str, message: str) -> Refused:
    return errors.invalid(f'Cannot convert to service config.\n\'location: "{path}" kind: ERROR message: "{message}"\'')


def _converted(name: str, producer: str, files: list[dict]) -> dict:
    """The service configuration that OpenAPI documents mean."""
    documents = [file for file in files if file.get("fileType") in ("OPEN_API_YAML", "OPEN_API_JSON")]
    if len(documents) != 1:
        raise errors.invalid("Exactly one OpenAPI document is expected among config_source.files.")
    path = documents[0].get("filePath", "openapi.yaml")
    text = base64.b64decode(documents[0].get("fileContents", "").translate(str.maketrans("-_", "+/")))
    try:
        document = json.loads(text) if documents[0]["fileType"] == "OPEN_API_JSON" else yaml.safe_load(text)
    except (ValueError, yaml.YAMLError) as error:
        raise _wrong(path, f"the document cannot be parsed: {str(error).splitlines()[0]}") from error
    if not isinstance(document, dict) or document.get("swagger") != "2.0":
        raise _wrong(path, "the document is no OpenAPI document of version 2.0 (swagger: '2.0').")
    if document.get("host") != name:
        raise _wrong(path, f"the host {document.get('host')} is not the name of the service, {name}.")
    for field in ("title", "version"):
        if not document.get("info", {}).get(field):
            raise _wrong(path, f"info.{field} is missing.")
    if not document.get("paths"):
        raise _wrong(path, "paths is missing or empty.")
    methods = []
    for route, verbs in document["paths"].items():
        for verb, operation in verbs.items():
            if verb in _VERBS:
                if not operation.get("operationId"):
                    raise _wrong(path, f"operationId of {verb} {route} is missing.")
                if not operation.get("responses"):
                    raise _wrong(path, f"responses of {verb} {route} is missing.")
                methods.append({"name": operation["operationId"]})
    endpoints = [_endpoint(name, path, endpoint) for endpoint in document.get("x-google-endpoints", [])] or [{"name": name}]
    return {
        "name": name,
        "title": document["info"]["title"],
        "producerProjectId": producer,
        "apis": [
            {"name": f"1.{name.replace('.', '_').replace('-', '_')}", "version": str(document["info"]["version"]), "methods": methods}
        ],
        "endpoints": endpoints,
        "control": {"environment": "servicecontrol.googleapis.com"},
        "configVersion": 3,
        "sourceInfo": {"sourceFiles": [{"@type": f"{TYPE}.ConfigFile", **file} for file in files]},
    }


def _endpoint(name: str, path: str, endpoint: dict) -> dict:
    if endpoint.get("name") != name:
        raise _wrong(path, f"the name of the endpoint, {endpoint.get('name')}, is not the name of the service, {name}.")
    target = str(endpoint.get("target", ""))
    if target and not re.fullmatch(r"[0-9A-Za-z.:-]+", target):
        raise _wrong(path, f"the target of the endpoint, {target}, is no IP address.")
    known = {"name": name, "target": target, "allowCors": bool(endpoint.get("allowCors"))}
    return {key: value for key, value in known.items() if value}


def _shown(config: dict, *, full: bool) -> dict:
    return {key: copy.deepcopy(value) for key, value in config.items() if full or key != "sourceInfo"}


@handles("servicemanagement.services.configs.list")
def list_configs(call: Call) -> dict:
    """The configurations of a service, newest first."""
    configs = [_shown(config, full=False) for config in _find(call.state, call.params["serviceName"])["configs"].values()]
    return call.page("serviceConfigs", configs[::-1]) if configs else {}


@handles("servicemanagement.services.configs.get", "servicemanagement.services.getConfig")
def get_config(call: Call) -> dict:
    """One configuration; without an id the one that is rolled out. view FULL shows the documents that it was made from."""
    service = _find(call.state, call.params["serviceName"])
    used = next((rollout for rollout in reversed(service["rollouts"]) if rollout["status"] == "SUCCESS"), None)
    identity = call.params.get("configId") or (next(iter(used["trafficPercentStrategy"]["percentages"])) if used else "")
    if identity not in service["configs"]:
        raise Refused(404, "", f"Service config '{identity}' not found for service '{call.params['serviceName']}'.")
    return _shown(service["configs"][identity], full=call.params.get("view") == "FULL")


# ---- rollouts


@handles("servicemanagement.services.rollouts.create")
def roll_out(call: Call) -> dict:
    """Makes configurations the ones that are used."""
    name = call.params["serviceName"]
    service = _find(call.state, name)
    percentages = call.body.get("trafficPercentStrategy", {}).get("percentages", {})
    if not percentages or abs(sum(percentages.values()) - 100) > 0.01:
        raise errors.invalid("traffic_percent_strategy.percentages must add up to 100.")
    for identity in percentages:
        if identity not in service["configs"]:
            raise errors.invalid(f"Service config '{identity}' of the rollout does not exist.")
    today = f"{datetime.now(UTC):%Y-%m-%d}"
    rollout = {
        "rolloutId": call.body.get("rolloutId") or f"{today}r{sum(one['rolloutId'].startswith(today) for one in service['rollouts'])}",
        "createTime": now(),
        "createdBy": call.principal,
        "serviceName": name,
        "status": "IN_PROGRESS",
        "trafficPercentStrategy": {"percentages": {identity: float(share) for identity, share in percentages.items()}},
    }
    if any(one["rolloutId"] == rollout["rolloutId"] for one in service["rollouts"]):
        raise Refused(409, "", f"Rollout '{rollout['rolloutId']}' already exists.")
    service["rollouts"].append(rollout)
    return _operation(call, name, rolled_out, failed_rollout, rollout=rollout["rolloutId"])


def _rollout(service: dict, identity: str) -> dict:
    for rollout in service["rollouts"]:
        if rollout["rolloutId"] == identity:
            return rollout
    raise Refused(404, "", f"Rollout '{identity}' not found.")


def rolled_out(server: object, operation: dict, name: str, rollout: str) -> dict:
    """The rollout is done."""
    found = _rollout(_find(server.state, name), rollout)
    found["status"] = "SUCCESS"
    return {"@type": f"{TYPE}.Rollout", **copy.deepcopy(found)}


def failed_rollout(server: object, operation: dict, name: str, rollout: str) -> None:
    """The configuration before it stays in use."""
    _rollout(_find(server.state, name), rollout)["status"] = "FAILED"


@handles("servicemanagement.services.rollouts.get")
def get_rollout(call: Call) -> dict:
    """One rollout."""
    return copy.deepcopy(_rollout(_find(call.state, call.params["serviceName"]), call.params["rolloutId"]))


@handles("servicemanagement.services.rollouts.list")
def list_rollouts(call: Call) -> dict:
    """The rollouts of a service, newest first; filter: status=SUCCESS and the like."""
    found = _find(call.state, call.params["serviceName"])["rollouts"][::-1]
    if asked := re.search(r"status\s*=\s*'?\"?(\w+)", call.params.get("filter", "")):
        found = [rollout for rollout in found if rollout["status"] == asked[1]]
    return call.page("rollouts", copy.deepcopy(found)) if found else {}


# ---- policies


@handles("servicemanagement.services.getIamPolicy")
def get_policy(call: Call) -> dict:
    """Who may do what with a service."""
    return policies.read(call, _find(call.state, call.params["resource"].removeprefix("services/")))


@handles("servicemanagement.services.setIamPolicy")
def set_policy(call: Call) -> dict:
    """Sets who may do what with a service."""
    return policies.write(call, _find(call.state, call.params["resource"].removeprefix("services/")))


@handles("servicemanagement.services.testIamPermissions")
def test_permissions(call: Call) -> dict:
    """Which permissions the caller has on a service."""
    _find(call.state, call.params["resource"].removeprefix("services/"))
    return policies.test(call)

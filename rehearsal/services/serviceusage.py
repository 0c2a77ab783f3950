# Copyright: the mlops.platform contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Service Usage: which APIs are on in a project."""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import TYPE_CHECKING

from googleapiclient import discovery_cache

from rehearsal import Call, Refused, errors, handles
from rehearsal.state import BILLED

if TYPE_CHECKING:
    from rehearsal.server import Rehearsal

TYPE = "type.googleapis.com/google.api.serviceusage.v1"
# What comes with an API, and cannot be switched off before it.
DEPENDENCIES = {"container": ["compute"], "compute": ["oslogin"], "krmapihosting": ["container"]}
UNDESCRIBED = {
    "anthos", "cloudapis", "containerregistry", "endpoints", "krmapihosting", "mesh", "meshca", "meshconfig", "meshtelemetry",
    "sql-component", "stackdriver", "storage-api", "storage-component",
}  # fmt: skip


@functools.cache
def _known() -> frozenset[str]:
    """APIs that there are: those that Google describes, and some more."""
    documents = Path(discovery_cache.DISCOVERY_DOC_DIR).glob("*.json")
    return frozenset(f"{name}.googleapis.com" for name in UNDESCRIBED | {path.name.split(".")[0] for path in documents})


def _check(call: Call, names: list[str]) -> None:
    unknown = [name for name in names if name not in _known() and not re.fullmatch(r"[\w.-]+\.endpoints\.[\w-]+\.cloud\.goog", name)]
    if unknown:
        listed = ",".join(unknown)
        detail = errors.info("SERVICE_CONFIG_NOT_FOUND_OR_PERMISSION_DENIED", "serviceusage.googleapis.com", services=listed)
        raise Refused(403, "", f"Not found or permission denied for service(s): {listed}.", [detail])


def _shown(project: dict, name: str) -> dict:
    parent = f"projects/{project['projectNumber']}"
    state = "ENABLED" if name in project["services"] else "DISABLED"
    return {"name": f"{parent}/services/{name}", "config": {"name": name}, "state": state, "parent": parent}


def _with_dependencies(names: list[str]) -> list[str]:
    found = list(names)
    for name in found:  # grows while it is read
        found += [f"{one}.googleapis.com" for one in DEPENDENCIES.get(name.split(".")[0], []) if f"{one}.googleapis.com" not in found]
    return found


def _enable(call: Call, names: list[str], response: str) -> dict:
    _check(call, names)
    project = call.project
    missing = [name for name in _with_dependencies(names) if name not in project["services"]]
    billed = [name for name in missing if name.split(".")[0] in BILLED]
    if billed and not project["billing"]["billingEnabled"]:
        number, listed = project["projectNumber"], ",".join(billed)
        message = (
            f"Billing account for project '{number}' is not found. Billing must be enabled for activation of service(s) "
            f"'{listed}' to proceed."
        )
        detail = errors.info("UREQ_PROJECT_BILLING_NOT_FOUND", "serviceusage.googleapis.com", project=number, services=listed)
        raise Refused(400, "FAILED_PRECONDITION", message, [detail])
    arguments = {"project": project["projectId"], "names": names, "missing": missing, "response": response}
    if not missing:
        return {"name": "operations/noop.DONE_OPERATION", "done": True, "response": enabled(call.server, {}, **arguments)}
    parent = f"projects/{project['projectNumber']}"
    metadata = {"@type": f"{TYPE}.OperationMetadata", "resourceNames": [f"{parent}/services/{name}" for name in missing]}
    return call.operation("ENABLE", parent, finish=enabled, arguments=arguments, metadata=metadata)


def enabled(server: Rehearsal, operation: dict, project: str, names: list[str], missing: list[str], response: str) -> dict:
    """The end of enabling."""
    state = server.state["projects"][project]
    state["services"] = sorted({*state["services"], *missing})
    shown = [_shown(state, name) for name in names]
    return {"@type": f"{TYPE}.{response}", **({"services": shown} if response.startswith("Batch") else {"service": shown[0]})}


@handles("serviceusage.services.enable")
def enable(call: Call) -> dict:
    """One API."""
    return _enable(call, [call.params["name"].split("/")[-1]], "EnableServiceResponse")


@handles("serviceusage.services.batchEnable")
def batch_enable(call: Call) -> dict:
    """Up to 20 APIs in one operation, all or none."""
    call.need("serviceIds")
    if len(call.body["serviceIds"]) > 20:
        raise errors.invalid(f"A maximum of 20 services can be enabled in a batch; {len(call.body['serviceIds'])} were given.")
    return _enable(call, call.body["serviceIds"], "BatchEnableServicesResponse")


@handles("serviceusage.services.disable")
def disable(call: Call) -> dict:
    """One API, and with disableDependentServices those that need it."""
    name, project = call.params["name"].split("/")[-1], call.project
    _check(call, [name])
    off, needing = [name], [one for one in project["services"] if one != name and name in _with_dependencies([one])]
    if needing:
        if not call.body.get("disableDependentServices"):
            raise errors.precondition(
                f"The service {name} is depended on by the following active service(s): {','.join(needing)}; "
                "Please specify disable_dependent_services=true if you want to proceed with disabling all services."
            )
        off += needing
    return call.operation("DISABLE", call.params["name"], finish=disabled, arguments={"project": project["projectId"], "names": off})


def disabled(server: Rehearsal, operation: dict, project: str, names: list[str]) -> dict:
    """The end of disabling."""
    state = server.state["projects"][project]
    state["services"] = [name for name in state["services"] if name not in names]
    return {"@type": f"{TYPE}.DisableServiceResponse", "service": _shown(state, names[0])}


@handles("serviceusage.services.get")
def get(call: Call) -> dict:
    """Whether one API is on."""
    name = call.params["name"].split("/")[-1]
    _check(call, [name])
    return _shown(call.project, name)


@handles("serviceusage.services.batchGet")
def batch_get(call: Call) -> dict:
    """Up to 30 APIs."""
    names, project = call.params.get("names", []), call.project
    if not 0 < len(names) <= 30:
        raise errors.invalid(f"Between 1 and 30 services can be asked for in a batch; {len(names)} were given.")
    for name in names:
        if not re.fullmatch(rf"projects/({project['projectId']}|{project['projectNumber']})/services/[^/]+", name):
            raise errors.invalid(f"The name '{name}' is not below the parent '{call.params['parent']}'.")
    short = [name.rsplit("/", 1)[-1] for name in names]
    _check(call, short)
    return {"services": [_shown(project, name) for name in short]}


@handles("serviceusage.services.list")
def listed(call: Call) -> dict:
    """APIs by state; pages of 50, or of up to 200 on request."""
    wanted = call.params.get("filter", "")
    if wanted not in ("", "state:ENABLED", "state:DISABLED"):
        raise errors.invalid(f"The filter '{wanted}' is not supported: it may be state:ENABLED or state:DISABLED.")
    shown = [_shown(call.project, name) for name in sorted({*_known(), *call.project["services"]})]
    call.params["pageSize"] = min(call.params.get("pageSize", 50), 200)
    return call.page("services", [one for one in shown if wanted in ("", f"state:{one['state']}")])

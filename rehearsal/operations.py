# Copyright: the mlops.platform contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Operations that take time, in the forms of container, of compute and of the rest (google.longrunning)."""

from __future__ import annotations

import importlib
import secrets
import time
import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING

from rehearsal import errors
from rehearsal.call import Call, handles, now
from rehearsal.errors import CODES, Refused
from rehearsal.faults import Faults

if TYPE_CHECKING:
    from rehearsal.server import Rehearsal

KEPT = 500  # ended operations to remember


def _name(function: Callable | None) -> str:
    return f"{function.__module__}:{function.__qualname__}" if function else ""


def _function(name: str) -> Callable:
    module, function = name.split(":")
    return getattr(importlib.import_module(module), function)


class Operations:
    """Those of one server. What is due is finished at the start of the next request, so no thread changes the state."""

    def __init__(self, server: Rehearsal):
        self.server = server

    def start(
        self, call: Call, kind: str, target: str, finish: Callable | None, failed: Callable | None, arguments: dict, metadata: dict,
        seconds: float | None, location: str,
    ) -> dict:  # fmt: skip
        """See Call.operation."""
        short = f"operation-{int(time.time() * 1000)}-{secrets.token_hex(4)}"
        if call.service not in ("container", "compute"):
            inside = f"projects/{call.project_id}/locations/{location}/" if call.service == "krmapihosting" else ""
            short = f"{inside}operations/{short}"
        fault = Faults.take(call, "operation_error") or {}
        slower = Faults.take(call, "operation_slow") or {}
        seconds = self.server.operation_seconds if seconds is None else seconds
        seconds = slower.get("seconds", fault.get("seconds", seconds))
        operation = {
            "id": str(uuid.uuid4().int >> 65), "name": short, "service": call.service, "version": call.version, "method": call.method,
            "project": call.project_id, "kind": kind, "target": target, "link": call.link(target), "location": location,
            "user": call.principal, "created": now(), "ends": time.time() + seconds, "ended": "", "metadata": metadata, "done": False,
            "finish": _name(finish), "failed": _name(failed), "arguments": arguments, "response": None, "error": None,
        }  # fmt: skip
        if fault:
            status = fault.get("status", "INTERNAL")
            message = fault.get("message", "An internal error happened while the operation ran.")
            operation["planned"] = {"status": status, "message": message, "details": fault.get("details", [])}
        self.server.state["operations"][f"{call.service}/{short}"] = operation
        return self.show(operation)

    def settle(self) -> bool:
        """Ends what is due; True if there was something."""
        kept = self.server.state["operations"]
        due = [operation for operation in kept.values() if not operation["done"] and operation["ends"] <= time.time()]
        for operation in sorted(due, key=lambda one: one["ends"]):
            operation |= {"done": True, "ended": now()}
            try:
                if planned := operation.pop("planned", None):
                    raise Refused(400, planned["status"], planned["message"], planned["details"])
                if operation["finish"]:
                    operation["response"] = _function(operation["finish"])(self.server, operation, **operation["arguments"])
            except Exception as error:
                refused = error if isinstance(error, Refused) else Refused(500, "", f"The rehearsal failed: {errors.where(error)}")
                operation["error"] = {"status": refused.status, "message": refused.message, "details": refused.details}
                if operation["failed"]:
                    _function(operation["failed"])(self.server, operation, **operation["arguments"])
        if due:
            ended = [name for name, operation in kept.items() if operation["done"]]
            for name in ended[:-KEPT]:
                del kept[name]
        return bool(due)

    def show(self, operation: dict) -> dict:
        """An operation as its service answers it."""
        form = {"container": self._container, "compute": self._compute}.get(operation["service"], self._longrunning)
        return form(operation)

    def _longrunning(self, operation: dict) -> dict:
        shown: dict = {"name": operation["name"]}
        if operation["metadata"]:
            shown["metadata"] = operation["metadata"]
        if operation["done"]:
            shown["done"] = True
            if error := operation["error"]:
                shown["error"] = {"code": CODES.get(error["status"], 2), "message": error["message"], "details": error["details"]}
            else:
                shown["response"] = operation["response"] or {"@type": "type.googleapis.com/google.protobuf.Empty"}
        return shown

    def _container(self, operation: dict) -> dict:
        number = self.server.state["projects"].get(operation["project"], {}).get("projectNumber", operation["project"])
        location = operation["location"]
        base = f"https://container.googleapis.com/{operation['version']}/projects/{number}"
        scope = "zones" if location.count("-") == 2 else "locations"
        shown = {
            "name": operation["name"], "operationType": operation["kind"], "status": "DONE" if operation["done"] else "RUNNING",
            "location": location, "selfLink": f"{base}/{scope}/{location}/operations/{operation['name']}",
            "targetLink": operation["link"], "startTime": operation["created"],
        }  # fmt: skip
        if scope == "zones":
            shown["zone"] = location
        if operation["done"]:
            shown["endTime"] = operation["ended"]
        if error := operation["error"]:
            shown |= {"error": {"code": CODES.get(error["status"], 2), "message": error["message"]}, "statusMessage": error["message"]}
        return shown

    def _compute(self, operation: dict) -> dict:
        location = operation["location"]
        base = f"https://www.googleapis.com/compute/v1/projects/{operation['project']}"
        scope = "" if location == "global" else "zone" if location.count("-") == 2 else "region"
        where = f"{scope}s/{location}" if scope else "global"
        shown = {
            "kind": "compute#operation", "id": operation["id"], "name": operation["name"], "operationType": operation["kind"],
            "targetLink": operation["link"], "selfLink": f"{base}/{where}/operations/{operation['name']}", "user": operation["user"],
            "status": "DONE" if operation["done"] else "RUNNING", "progress": 100 if operation["done"] else 0,
            "insertTime": operation["created"], "startTime": operation["created"],
        }  # fmt: skip
        if scope:
            shown[scope] = f"{base}/{where}"
        if operation["done"]:
            shown["endTime"] = operation["ended"]
        if error := operation["error"]:
            code = "QUOTA_EXCEEDED" if error["status"] == "RESOURCE_EXHAUSTED" else error["status"]
            shown["error"] = {"errors": [{"code": code, "message": error["message"]}]}
            shown |= {"httpErrorStatusCode": 400, "httpErrorMessage": "BAD REQUEST"}
        return shown


SCOPES = ("compute.globalOperations", "compute.regionOperations", "compute.zoneOperations")
LONGRUNNING = (
    "serviceusage.operations", "cloudresourcemanager.operations", "servicemanagement.operations",
    "krmapihosting.projects.locations.operations",
)  # fmt: skip
CONTAINER = ("container.projects.locations.operations", "container.projects.zones.operations")


def _find(call: Call) -> dict:
    name = call.params.get("operation") or call.params.get("operationId") or call.params["name"]
    if call.service == "container":
        name = name.rsplit("/", 1)[-1]
    found = call.state["operations"].get(f"{call.service}/{name}")
    scoped = call.service in ("compute", "container")
    if found is None or (scoped and (found["project"], found["location"]) != (call.project_id, call.location)):
        raise errors.not_found(name)
    return found


@handles(*(f"{group}.get" for group in (*SCOPES, *LONGRUNNING, *CONTAINER)))
def get(call: Call) -> dict:
    """One operation as it is now."""
    return call.server.operations.show(_find(call))


@handles(*(f"{group}.wait" for group in SCOPES))
def wait(call: Call) -> dict:
    """Compute's way to wait: answers once the operation is done, after two minutes at the latest."""
    operation = _find(call)
    deadline = time.time() + 120
    while not operation["done"] and time.time() < deadline:
        call.server.pause(min(operation["ends"], deadline) - time.time())
        call.server.operations.settle()
    return call.server.operations.show(operation)


@handles(*(f"{group}.list" for group in (*SCOPES, *CONTAINER)))
def listed(call: Call) -> dict:
    """The operations of a location; container's location may be -."""
    call.project  # noqa: B018 - refuses if there is none
    shown = [
        call.server.operations.show(one) for one in call.state["operations"].values()
        if (one["service"], one["project"]) == (call.service, call.project_id) and call.location in (one["location"], "-")
    ]  # fmt: skip
    return call.page("items", shown) if call.service == "compute" else {"operations": shown}


@handles(*(f"{group}.cancel" for group in CONTAINER))
def cancel(call: Call) -> dict:
    """Ends an operation with CANCELLED at once."""
    operation = _find(call)
    if operation["done"]:
        raise errors.precondition("Operation is already complete.")
    operation |= {"planned": {"status": "CANCELLED", "message": "The operation was cancelled.", "details": []}, "ends": time.time()}
    call.server.operations.settle()
    return {}

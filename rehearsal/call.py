# Copyright: the mlops.platform contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a service's function is given: the call, checked against Google's description, and the state that it may change."""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rehearsal import errors

if TYPE_CHECKING:
    from rehearsal.server import Rehearsal

HANDLERS: dict[str, Callable[[Call], dict]] = {}


def handles(*methods: str) -> Callable:
    """Decorator: the function answers these methods (ids in Google's descriptions, e.g. container.projects.locations.clusters.get)."""

    def register(function: Callable[[Call], dict]) -> Callable[[Call], dict]:
        for method in methods:
            if method in HANDLERS:
                raise ValueError(f"two functions for {method}")
            HANDLERS[method] = function
        return function

    return register


def now(offset: float = 0) -> str:
    """The time in offset seconds, as Google writes it."""
    moment = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=offset)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def project_of(params: dict) -> str:
    """The project (ID or number) that a call's parameters name; "" if none."""
    for name in ("project", "projectId"):
        if params.get(name):
            return params[name]
    for name in ("name", "parent", "resource", "clusterName"):
        if found := re.match(r"projects/([^/:]+)", str(params.get(name, ""))):
            if found[1] == "-":  # "whichever it is in": the e-mail of a service account says it
                account = re.search(r"@([^/]+)\.iam\.gserviceaccount\.com", params[name])
                return account[1] if account else ""
            return found[1]
    resource = params.get("resource", "")  # version 1 of cloudresourcemanager gives the bare ID
    return "" if "/" in resource else resource


@dataclass
class Call:
    """One request, after every check that Google's description allows. Functions change state in place: the server holds the lock."""

    server: Rehearsal
    method: str  # its id, e.g. container.projects.locations.clusters.create
    description: dict  # of the method
    service: str
    version: str
    params: dict  # path and query parameters, by their names and with their types in the description
    body: dict
    principal: str  # e-mail of the caller
    quota_project: str = ""  # what the header X-Goog-User-Project names

    @property
    def state(self) -> dict:
        """Everything: {"projects": {id: …}, "operations": {…}, …}; JSON values only, for it is written to disk."""
        return self.server.state

    @property
    def project_id(self) -> str:
        """ID of the project in the request ("" if it names none), also where the request has the number."""
        named = project_of(self.params)
        for identity, project in self.state["projects"].items():
            if named in (identity, project["projectNumber"]):
                return identity
        return named

    @property
    def project(self) -> dict:
        """State of the project in the request; refuses as Google does if there is none."""
        project = self.state["projects"].get(self.project_id)
        if project is None or project["lifecycleState"] != "ACTIVE":
            raise errors.no_project(self.service, project_of(self.params))
        return project

    @property
    def location(self) -> str:
        """Zone, region or location in the request, else global."""
        for name in ("zone", "region", "location"):
            if self.params.get(name):
                return self.params[name]
        for name in ("name", "parent", "resource"):
            if found := re.search(r"/(?:locations|zones|regions)/([^/:]+)", str(self.params.get(name, ""))):
                return found[1]
        return "global"

    def link(self, resource: str) -> str:
        """selfLink of a resource: https://<service>.googleapis.com/<version>/<resource>; compute's has an older host."""
        base = "www.googleapis.com/compute" if self.service == "compute" else f"{self.service}.googleapis.com"
        return f"https://{base}/{self.version}/{resource}"

    def need(self, *fields: str) -> None:
        """Refuses if the body lacks one of the fields (dots: nested)."""
        for path in fields:
            value: object = self.body
            for part in path.split("."):
                value = value.get(part) if isinstance(value, dict) else None
            if value in (None, "", [], {}):
                snake = re.sub(r"([A-Z])", lambda found: "_" + found[1].lower(), path)
                raise errors.violations([(snake, f"Required field '{snake}' is missing.")])

    def page(self, key: str, items: list) -> dict:
        """The page of items that the request asks for: {key: […], "nextPageToken": …}."""
        size = int(self.params.get("pageSize") or self.params.get("maxResults") or 0) or len(items)
        token = self.params.get("pageToken") or "0"
        if not token.isdigit():
            raise errors.invalid("The page token is invalid.")
        start = int(token)
        answer = {key: items[start : start + size]}
        if start + size < len(items):
            answer["nextPageToken"] = str(start + size)
        return answer

    def operation(
        self,
        kind: str,
        target: str,
        *,
        finish: Callable | None = None,
        failed: Callable | None = None,
        arguments: dict | None = None,
        metadata: dict | None = None,
        seconds: float | None = None,
        location: str = "",
    ) -> dict:
        """Starts an operation and returns it in the service's own form.

        kind: operationType of container and compute; target: relative name of the resource, e.g. projects/p/locations/l/clusters/c.
        finish: module-level function, called as finish(server, operation, **arguments) once the time (default --operation-seconds) is
        over; returns the response of a long-running operation or None; may raise Refused, then the operation ends with that error.
        failed: the same, called instead of finish if the operation ends with an error (operation["error"]).
        """
        return self.server.operations.start(
            self, kind, target, finish, failed, arguments or {}, metadata or {}, seconds, location or self.location
        )

    def running(self, target: str) -> list[dict]:
        """Operations that have not ended on the resource, or on what is below it."""
        return [
            operation
            for operation in self.state["operations"].values()
            if not operation["done"] and operation["service"] == self.service and f"{operation['target']}/".startswith(f"{target}/")
        ]

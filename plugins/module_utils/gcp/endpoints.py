# Copyright: the mlops.platform contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A name under cloud.goog: a Cloud Endpoints service, whose rolled-out configuration tells the address that the name resolves to."""

from __future__ import annotations

import base64
import ipaddress
import re

import yaml

from ansible_collections.mlops.platform.plugins.module_utils.gcp import api

LONGEST = 62  # characters of a host; a certificate's common name must hold it
NAME = re.compile(r"[a-z]([a-z0-9-]*[a-z0-9])?\Z")
OPERATION = "servicemanagement.operations.get"
FILE = "openapi.yaml"


def host(name: str, project: str) -> str:
    """The host of a name in a project. ValueError says what is wrong with it."""
    full = f"{name}.endpoints.{project}.cloud.goog"
    if not NAME.match(name):
        raise ValueError(f"name: {name!r} is not a label of a host; write lower-case letters, digits and hyphens, a letter first")
    if len(full) > LONGEST:
        most = LONGEST - len(full) + len(name)
        remedy = f"write a name of at most {most} characters" if most > 0 else "the project's ID is too long for any name"
        raise ValueError(f"name: {full} has {len(full)} characters, {LONGEST} are possible; {remedy}")
    return full


def check_target(target: str) -> None:
    """ValueError if it is not an IP address that clients can reach."""
    try:
        ipaddress.ip_address(target)
    except ValueError:
        raise ValueError(f"target: {target!r} is not an IP address; write the one of the ingress, such as 203.0.113.7") from None


def document(full: str, target: str, title: str) -> dict:
    """The OpenAPI 2.0 document: any path, and the address that the name gets."""
    return {
        "swagger": "2.0",
        "info": {"title": title, "description": f"Makes {full} resolve to {target}.", "version": "1.0.0"},
        "host": full,
        "x-google-endpoints": [{"name": full, "target": target}],
        "basePath": "/",
        "schemes": ["https"],
        "paths": {"/**": {"get": {"operationId": "get", "responses": {"200": {"description": "any"}}}}},
    }


class Service:
    """The service of one host: what Service Management knows about it."""

    def __init__(self, gcp: api.Gcp, full: str):
        self.gcp, self.host = gcp, full
        self.exists = False
        self.config_id = ""
        self.document: dict | None = None  # of the configuration that is rolled out
        self.hidden: api.Denied | None = None  # what was answered instead of telling whether there is a service

    def look(self) -> None:
        """Find out what is rolled out. Service Management says 403 to whoever asks for a service that does not exist."""
        try:
            answer = self.gcp.call("servicemanagement.services.rollouts.list", serviceName=self.host, filter="status=SUCCESS")
        except api.NotFound:
            return
        except api.ApiDisabled:
            raise
        except api.Denied as error:
            self.hidden = error
            return
        self.exists = True
        newest = next((each for each in answer.get("rollouts", []) if each.get("trafficPercentStrategy")), None)
        if newest:
            percentages = newest["trafficPercentStrategy"].get("percentages", {})
            self.config_id = max(percentages, key=percentages.get, default="")
        if self.config_id:
            config = self.gcp.call("servicemanagement.services.configs.get", serviceName=self.host, configId=self.config_id, view="FULL")
            self.document = _source(config)

    def create(self) -> None:
        """Make the service, or bring back one that was deleted within the last 30 days."""
        what = f"Cloud Endpoints service {self.host}"
        body = {"serviceName": self.host, "producerProjectId": self.gcp.project}
        try:
            self._wait(self.gcp.call("servicemanagement.services.create", body), what)
        except api.AlreadyExists:
            if self.hidden:  # it is there, and the caller may not see it
                raise self.hidden from None
        except (api.BadRequest, api.OperationFailed) as error:
            if "undelete" not in str(error):
                raise
            self._wait(self.gcp.call("servicemanagement.services.undelete", serviceName=self.host), f"{what}, brought back")
        self.exists = True

    def roll_out(self, wanted: dict) -> None:
        """Submit a configuration and let it take effect."""
        text = yaml.safe_dump(wanted, sort_keys=False)
        file = {"filePath": FILE, "fileType": "OPEN_API_YAML", "fileContents": base64.b64encode(text.encode()).decode()}
        operation = self.gcp.call("servicemanagement.services.configs.submit", {"configSource": {"files": [file]}}, serviceName=self.host)
        operation = self._wait(operation, f"configuration of {self.host}")
        self.config_id = operation["response"]["serviceConfig"]["id"]
        rollout = {"serviceName": self.host, "trafficPercentStrategy": {"percentages": {self.config_id: 100}}}
        self._wait(self.gcp.call("servicemanagement.services.rollouts.create", rollout, serviceName=self.host), f"rollout of {self.host}")
        self.document = wanted

    def delete(self) -> None:
        """Delete the service; Google keeps it for 30 days."""
        try:
            operation = self.gcp.call("servicemanagement.services.delete", serviceName=self.host)
        except api.NotFound:
            return
        self._wait(operation, f"deletion of {self.host}")

    def _wait(self, operation: dict, what: str) -> dict:
        return self.gcp.wait(operation, OPERATION, what=what)


def _source(config: dict) -> dict | None:
    """The OpenAPI document that a configuration was made of, or None if it was made of something else."""
    for file in config.get("sourceInfo", {}).get("sourceFiles", []):
        if str(file.get("fileType", "")).startswith("OPEN_API"):
            try:
                found = yaml.safe_load(base64.b64decode(file.get("fileContents", "")))
            except (ValueError, yaml.YAMLError):
                return None
            return found if isinstance(found, dict) else None
    return None

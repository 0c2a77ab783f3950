# Copyright: the mlops.platform contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Secret Manager: secrets and their versions. Payloads are kept under private keys, which the admin API leaves out."""

from __future__ import annotations

import base64
import re

from rehearsal import Call, errors, handles
from rehearsal.call import now
from rehearsal.state import PRIVATE

PAYLOAD = f"{PRIVATE}data"


def crc32c(data: bytes) -> int:
    """The checksum by which clients see that a payload arrived whole (Castagnoli's polynomial, unlike zlib's)."""
    value = 0xFFFFFFFF
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
    return value ^ 0xFFFFFFFF


def _number(call: Call) -> str:
    return f"projects/{call.project['projectNumber']}"


def _secret(call: Call) -> dict:
    """The secret that the call's name or parent means."""
    full = call.params.get("name") or call.params["parent"]
    name = full.split("/")[3]
    if name not in call.project["secrets"]:
        raise errors.Refused(404, "", f"Secret [{_number(call)}/secrets/{name}] not found.")
    return call.project["secrets"][name]


def _shown(call: Call, name: str, secret: dict) -> dict:
    return {"name": f"{_number(call)}/secrets/{name}", **{key: value for key, value in secret.items() if key != "versions"}}


def _version(call: Call, number: str, version: dict) -> dict:
    name = call.params.get("name") or call.params["parent"]
    return {
        "name": f"{_number(call)}/secrets/{name.split('/')[3]}/versions/{number}",
        "createTime": version["createTime"],
        "state": version["state"],
        "clientSpecifiedPayloadChecksum": version.get("checked", False),
    }


@handles("secretmanager.projects.secrets.create")
def create(call: Call) -> dict:
    """A secret without versions."""
    name = call.params.get("secretId", "")
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,255}", name):
        raise errors.invalid(f"The provided Secret ID [{name}] does not match the expected format [[a-zA-Z_0-9]+].")
    call.need("replication")
    if name in call.project["secrets"]:
        raise errors.Refused(409, "", f"Secret [{_number(call)}/secrets/{name}] already exists.")
    secret = {"replication": call.body["replication"], "labels": call.body.get("labels", {}), "createTime": now(), "versions": {}}
    call.project["secrets"][name] = secret
    return _shown(call, name, secret)


@handles("secretmanager.projects.secrets.get")
def get(call: Call) -> dict:
    """A secret, without payloads."""
    return _shown(call, call.params["name"].split("/")[3], _secret(call))


@handles("secretmanager.projects.secrets.list")
def listed(call: Call) -> dict:
    """All secrets of a project."""
    return call.page("secrets", [_shown(call, name, secret) for name, secret in sorted(call.project["secrets"].items())])


@handles("secretmanager.projects.secrets.delete")
def delete(call: Call) -> dict:
    """A secret goes with all its versions."""
    _secret(call)
    del call.project["secrets"][call.params["name"].split("/")[3]]
    return {}


@handles("secretmanager.projects.secrets.addVersion")
def add_version(call: Call) -> dict:
    """A new payload."""
    call.need("payload.data")
    versions, payload = _secret(call)["versions"], call.body["payload"]
    checked, number = "dataCrc32c" in payload, str(len(versions) + 1)
    if checked and int(payload["dataCrc32c"]) != crc32c(base64.b64decode(payload["data"])):
        raise errors.invalid("The checksum of the payload does not match the one given.")
    versions[number] = {"createTime": now(), "state": "ENABLED", "checked": checked, PAYLOAD: payload["data"]}
    return _version(call, number, versions[number])


def _find(call: Call) -> tuple[str, dict]:
    versions, number = _secret(call)["versions"], call.params["name"].split("/")[5]
    if number == "latest":
        number = str(len(versions))
    if number not in versions:
        raise errors.Refused(404, "", f"Secret Version [{call.params['name']}] not found.")
    return number, versions[number]


@handles("secretmanager.projects.secrets.versions.get")
def get_version(call: Call) -> dict:
    """A version, without its payload."""
    return _version(call, *_find(call))


@handles("secretmanager.projects.secrets.versions.list")
def versions(call: Call) -> dict:
    """The newest first."""
    found = [_version(call, number, version) for number, version in reversed(_secret(call)["versions"].items())]
    return call.page("versions", found)


@handles("secretmanager.projects.secrets.versions.access")
def access(call: Call) -> dict:
    """A version's payload."""
    number, version = _find(call)
    if version["state"] != "ENABLED":
        raise errors.precondition(f"Secret Version [{call.params['name']}] is in {version['state']} state.")
    checksum = str(crc32c(base64.b64decode(version[PAYLOAD])))
    return {"name": _version(call, number, version)["name"], "payload": {"data": version[PAYLOAD], "dataCrc32c": checksum}}


@handles("secretmanager.projects.secrets.versions.disable", "secretmanager.projects.secrets.versions.enable")
def switch(call: Call) -> dict:
    """Payloads of a disabled version cannot be read."""
    number, version = _find(call)
    version["state"] = "DISABLED" if call.method.endswith("disable") else "ENABLED"
    return _version(call, number, version)

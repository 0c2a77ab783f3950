# Copyright: the mlops.platform contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the rehearsal knows: JSON values in one dict, written to disk after each request that may have changed it."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

from rehearsal.call import now

PROJECT = "rehearsal-project"
ACCOUNT = f"rehearsal@{PROJECT}.iam.gserviceaccount.com"  # of the credentials file
USER = "engineer@example.com"
PRIVATE = "private:"  # a key that begins so never leaves by the admin API
# On in a new project, as Google's console makes it.
FRESH = [
    "bigquery", "bigquerystorage", "cloudapis", "cloudtrace", "datastore", "logging", "monitoring", "servicemanagement", "serviceusage",
    "sql-component", "storage", "storage-api", "storage-component",
]  # fmt: skip

BILLED = {"cloudbuild", "compute", "container", "containerregistry", "krmapihosting", "ml"}  # refuse a project without billing


def merge(target: object, patch: object) -> object:
    """Target with a JSON merge patch applied (RFC 7396): null deletes, lists are replaced. The target's dicts are changed in place."""
    if not isinstance(patch, dict):
        return patch
    if not isinstance(target, dict):
        target = {}
    for key, value in patch.items():
        if value is None:
            target.pop(key, None)
        else:
            target[key] = merge(target.get(key), value)
    return target


def new_project(identity: str) -> dict:
    """A project as Google's console makes it: billed, few APIs on, its makers are the owners."""
    number = str(10**11 + int(hashlib.sha256(identity.encode()).hexdigest(), 16) % (9 * 10**11))
    return {
        "projectId": identity,
        "projectNumber": number,
        "name": identity,
        "lifecycleState": "ACTIVE",
        "parent": "organizations/123456789012",
        "createTime": now(),
        "labels": {},
        "billing": {"billingAccountName": "billingAccounts/012345-6789AB-CDEF01", "billingEnabled": True},
        "services": [f"{name}.googleapis.com" for name in FRESH],
        "iamPolicy": {"version": 1, "bindings": [{"role": "roles/owner", "members": [f"serviceAccount:{ACCOUNT}", f"user:{USER}"]}]},
        "serviceAccounts": {},
        "secrets": {},
    }


def new_state() -> dict:
    """One project, which nothing was done with."""
    return {
        "projects": {PROJECT: new_project(PROJECT)},
        "operations": {},
        "faults": [],
        "oauthClients": {},
        "unknownMembers": [],  # globs of IAM members that do not exist, e.g. user:nobody@example.com
    }


def seed(state: dict, given: dict) -> None:
    """Adds to the state; a project that is not there is a new one with what is given laid over it."""
    for identity in given.get("projects", {}):
        state["projects"].setdefault(identity, new_project(identity))
    merge(state, given)


def public(value: object) -> object:
    """A copy without what is private."""
    if isinstance(value, dict):
        return {key: public(item) for key, item in value.items() if not key.startswith(PRIVATE)}
    return [public(item) for item in value] if isinstance(value, list) else value


def write(path: Path, text: str | bytes) -> None:
    """Writes a file that only its owner may read, wholly or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    data = text.encode() if isinstance(text, str) else text
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
    temporary.replace(path)


def load(path: Path) -> dict:
    """The state on disk, or a new one."""
    return json.loads(path.read_text()) if path.exists() else new_state()

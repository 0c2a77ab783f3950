# Copyright: the mlops.platform contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""IAM policies, for every service that has them: etags, versions, conditions, and members that do not exist."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from fnmatch import fnmatchcase

from rehearsal import errors
from rehearsal.call import Call
from rehearsal.faults import Faults
from rehearsal.state import ACCOUNT

EMAIL = r"[^@\s:/]+@[^@\s:/]+\.[^@\s:/]+"
MEMBER = re.compile(
    rf"allUsers|allAuthenticatedUsers|(user|group):{EMAIL}|domain:[^\s:/]+\.[^\s:/]+"
    rf"|serviceAccount:({EMAIL}|(?P<pool>[a-z][a-z0-9-]+)\.svc\.id\.goog\[[^/\]]+/[^/\]]+\])"
    r"|(principal|principalSet)://\S+|deleted:\S+"
)
ROLE = re.compile(r"roles/[A-Za-z0-9_.]+|(projects|organizations)/[^/]+/roles/[A-Za-z0-9_.]+")


def _etag(policy: dict) -> str:
    content = json.dumps([policy.get("bindings", []), policy.get("version", 1), policy.get("auditConfigs", [])], sort_keys=True)
    return base64.b64encode(b"\x07" + hashlib.sha256(content.encode()).digest()[:7]).decode()


def _shown(policy: dict) -> dict:
    return {"version": policy.get("version", 1), **policy, "etag": _etag(policy)}


def _version(value: object) -> int:
    if int(value or 0) not in (0, 1, 3):
        raise errors.invalid(f"Invalid policy version {value}: it may be 0, 1 or 3.")
    return int(value or 0)


def read(call: Call, holder: dict) -> dict:
    """getIamPolicy. Who does not ask for version 3 gets conditional bindings without their conditions, under names that cannot be set."""
    options = call.body.get("options", {}).get("requestedPolicyVersion")
    version = _version(options or call.params.get("options.requestedPolicyVersion") or call.params.get("optionsRequestedPolicyVersion"))
    policy = holder.setdefault("iamPolicy", {"version": 1, "bindings": []})
    shown = json.loads(json.dumps(_shown(policy)))
    if version < 3:
        for binding in shown.get("bindings", []):
            if condition := binding.pop("condition", None):
                digest = hashlib.sha256(json.dumps(condition, sort_keys=True).encode()).hexdigest()[:20]
                binding["role"] += f"_withcond_{digest}"
        shown["version"] = 1
    return shown


def write(call: Call, holder: dict) -> dict:
    """setIamPolicy: refuses a stale etag, lost conditions, malformed roles and members, and members that do not exist."""
    call.need("policy")
    policy = {key: value for key, value in call.body["policy"].items() if key != "etag"}
    current = holder.setdefault("iamPolicy", {"version": 1, "bindings": []})
    etag, version = call.body["policy"].get("etag"), _version(policy.get("version"))
    if etag and etag not in (_etag(current), _etag(current).translate(str.maketrans("+/", "-_"))):
        raise errors.aborted(
            "There were concurrent policy changes. Please retry the whole read-modify-write with exponential backoff. "
            f"The request's ETag '{etag}' did not match the current policy's ETag '{_etag(current)}'."
        )
    if version < 3 and any("condition" in binding for binding in [*policy.get("bindings", []), *(current["bindings"] if etag else [])]):
        raise errors.invalid("The policy has conditional role bindings: specify policy version 3.")
    merged: dict[str, dict] = {}
    for binding in policy.get("bindings", []):
        _check(call, binding)
        if binding.get("members"):
            key = json.dumps([binding["role"], binding.get("condition")], sort_keys=True)
            kept = merged.setdefault(key, {**binding, "members": []})
            kept["members"] += [member for member in binding["members"] if member not in kept["members"]]
    bindings = sorted(merged.values(), key=lambda binding: binding["role"])
    holder["iamPolicy"] = {**policy, "version": 3 if any("condition" in binding for binding in bindings) else 1, "bindings": bindings}
    return _shown(holder["iamPolicy"])


def _check(call: Call, binding: dict) -> None:
    role = binding.get("role", "")
    if not ROLE.fullmatch(role) or "_withcond_" in role:
        raise errors.invalid(f"Role {role} is not supported for this resource.")
    if "condition" in binding and not binding["condition"].get("expression"):
        raise errors.invalid("Invalid condition: its expression is empty.")
    for member in binding.get("members", []):
        if not (found := MEMBER.fullmatch(member)):
            raise errors.invalid(f"Invalid argument: '{member}' is no member: the form is <type>:<e-mail>, as in user:alice@example.com.")
        kind, _, name = member.partition(":")
        if any(fnmatchcase(member, glob) for glob in call.state["unknownMembers"]):
            raise errors.invalid(f"{kind[:1].upper()}{kind[1:]} {name} does not exist.")
        pool = call.state["projects"].get(found["pool"] or "")  # made with a project's first cluster that has workload identity
        if pool is not None and not pool.get("identityPool"):
            raise errors.invalid(
                f"Identity Pool does not exist ({found['pool']}.svc.id.goog). Please check that you specified a valid resource "
                "name as returned in the `name` attribute in the configuration API."
            )
        home = call.state["projects"].get(name.rpartition("@")[2].removesuffix(".iam.gserviceaccount.com"))
        if kind == "serviceAccount" and home and name not in (ACCOUNT, *home["serviceAccounts"]):
            raise errors.invalid(f"Service account {name} does not exist.")


def test(call: Call) -> dict:
    """testIamPermissions: all that is asked for, but what a fault takes away."""
    asked = call.body.get("permissions", [])
    if wild := [name for name in asked if "*" in name]:
        raise errors.invalid(f"Permission {wild[0]} is not valid: wildcards are not allowed.")
    granted = [name for name in asked if name not in Faults.lacking(call, asked)]
    return {"permissions": granted} if granted else {}

# Copyright: the mlops.platform contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""IAM policies: members added or removed, everything else left as it is."""

from __future__ import annotations

import copy
import random
import re
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from ansible_collections.mlops.platform.plugins.module_utils.gcp import api

VERSION = 3  # of policies that may have conditions
WRITERS_AT_ONCE = 8
CONFLICTS = 20  # how often somebody else may come first
NEW_ACCOUNT = 120  # seconds until IAM knows a service account that was just made

_ROLE = re.compile(r"roles/[\w.]+|(projects|organizations)/[^/\s]+/roles/[\w.]+")
_MEMBER = re.compile(
    r"(user|group|serviceAccount):[^@\s:]+@[^@\s]+\.[^@\s]+|serviceAccount:[^@\s\[\]]+\.svc\.id\.goog\[[a-z0-9-]+/[\w.-]+\]"
    r"|domain:[^@\s]+\.[^@\s]+|principal(Set)?://\S+|project(Owner|Editor|Viewer):\S+|allUsers|allAuthenticatedUsers"
)
_SAME_IN_ANY_CASE = ("user:", "group:", "serviceAccount:", "domain:")


@dataclass
class Change:
    """What differs, or differed, in one resource's policy; `before` and `after` are the touched bindings as text."""

    resource: str
    added: list[dict] = field(default_factory=list)
    removed: list[dict] = field(default_factory=list)
    before: str = ""
    after: str = ""
    warnings: list[str] = field(default_factory=list)

    @property
    def changed(self) -> bool:
        """Whether there is a difference."""
        return bool(self.added or self.removed)


def problems(wanted: dict[str, list[dict]]) -> list[str]:
    """What is wrong with resources, roles and members, a line each."""
    found = []
    for resource, bindings in wanted.items():
        if resource != "project" and not re.fullmatch(r"service_account:[^@\s]+@[^@\s]+\.gserviceaccount\.com", resource):
            found.append(f"resource: {resource!r} is neither project nor a service account; write project or service_account:EMAIL")
        for binding in bindings:
            if not _ROLE.fullmatch(binding["role"]):
                found.append(f"{resource}: {binding['role']!r} is not a role; write one such as roles/viewer")
            for member in binding["members"]:
                if not _MEMBER.fullmatch(member):
                    found.append(
                        f"{resource}, {binding['role']}: {member!r} is not a member; "
                        "write user:EMAIL, group:EMAIL, serviceAccount:EMAIL or domain:DOMAIN"
                    )
    return found


def ensure(
    gcp: api.Gcp, wanted: dict[str, list[dict]], *, absent: bool = False, dry_run: bool = False
) -> tuple[list[Change], api.GcpError | None]:
    """Bring the policies of the resources to what is wanted of them; the changes made, and the first error, if there was one."""

    def one(resource: str) -> Change | api.GcpError:
        try:
            return _ensure_one(gcp, resource, wanted[resource], absent, dry_run)
        except api.GcpError as error:
            return error

    with ThreadPoolExecutor(WRITERS_AT_ONCE) as pool:
        results = list(pool.map(one, wanted))
    changes = [result for result in results if isinstance(result, Change)]
    return changes, next((result for result in results if isinstance(result, api.GcpError)), None)


def _ensure_one(gcp: api.Gcp, resource: str, bindings: list[dict], absent: bool, dry_run: bool) -> Change:
    ours: Change | None = None
    conflicts, give_up = 0, time.monotonic() + NEW_ACCOUNT
    while True:
        warnings = []
        try:
            policy = _read(gcp, resource)
        except (api.ApiDisabled, api.NotFound) as error:
            if not dry_run and not (absent and isinstance(error, api.NotFound)):
                raise
            policy = {}
            if not absent:
                warnings = [f"The policy of {resource} cannot be read yet, all members are predicted as missing: {error.message}"]
        new, change = merge(policy, bindings, absent)
        change.resource, change.warnings = resource, warnings
        if not change.changed or dry_run:
            # nothing left to do after a conflict: the write before it had arrived, only its answer was lost
            return ours or change
        ours = change
        try:
            _write(gcp, resource, new)
            return ours
        except api.Conflict:
            conflicts += 1
            if conflicts >= CONFLICTS:
                raise
            time.sleep(random.uniform(0, min(0.1 * 2**conflicts, 5)))
        except api.BadRequest as error:
            account = re.search(r"[Ss]ervice account \S+ does not exist", error.message)
            if not account or time.monotonic() >= give_up:
                raise _explained(error) from error
            gcp.report(f"{resource}: {account[0]} yet")
            time.sleep(3)


def _explained(error: api.BadRequest) -> api.BadRequest:
    remedy = "see that all members exist and are spelled right; nothing of this policy was changed"
    if "dentity Pool does not exist" in error.message or "identity namespace" in error.message.lower():
        remedy = "make a cluster with workload identity in the project first: the pool PROJECT.svc.id.goog comes with it"
    return api.BadRequest(error.message, remedy, status=error.status, code=error.code, reason=error.reason, details=error.details)


def _name(gcp: api.Gcp, resource: str) -> str:
    if resource == "project":
        return f"projects/{gcp.project}"
    email = resource.partition(":")[2]
    domain = email.partition("@")[2]
    owner = domain.removesuffix(".iam.gserviceaccount.com") if domain.endswith(".iam.gserviceaccount.com") else gcp.project
    return f"projects/{owner}/serviceAccounts/{email}"


def _read(gcp: api.Gcp, resource: str) -> dict:
    if resource == "project":
        options = {"options": {"requestedPolicyVersion": VERSION}}
        return gcp.call("cloudresourcemanager.projects.getIamPolicy", options, resource=_name(gcp, resource), retry=True)
    return gcp.call(
        "iam.projects.serviceAccounts.getIamPolicy",
        resource=_name(gcp, resource),
        retry=True,
        **{"options.requestedPolicyVersion": VERSION},
    )


def _write(gcp: api.Gcp, resource: str, policy: dict) -> None:
    service = "cloudresourcemanager.projects" if resource == "project" else "iam.projects.serviceAccounts"
    # With an etag a second try is harmless: if the first has arrived, it is a conflict.
    gcp.call(f"{service}.setIamPolicy", {"policy": policy}, resource=_name(gcp, resource), retry=True if "etag" in policy else None)


def merge(policy: dict, wanted: list[dict], absent: bool = False) -> tuple[dict, Change]:
    """The policy with the wanted members added (or, absent, removed), and what that changes. The given policy stays as it is."""
    new, change = copy.deepcopy(policy), Change("")
    bindings = new.setdefault("bindings", [])
    touched: dict[tuple, str] = {}
    before, after = [], []
    for binding in wanted:
        condition = {key: value for key, value in (binding.get("condition") or {}).items() if value}
        key = (binding["role"], *sorted(condition.items()))
        same = [
            item
            for item in bindings
            if item.get("role") == binding["role"]
            and {k: v for k, v in (item.get("condition") or {}).items() if k != "location" and v} == condition
        ]
        if key not in touched:
            touched[key] = condition.get("title", "")
            before.append((key, _members(same)))
        there = {_key(member) for item in same for member in item.get("members", [])}
        asked = {_key(member): member for member in binding["members"]}
        about = {"role": binding["role"], **({"condition": condition["title"]} if condition else {})}
        if absent:
            gone = sorted(member for item in same for member in item.get("members", []) if _key(member) in asked)
            for item in same:
                item["members"] = [member for member in item.get("members", []) if _key(member) not in asked]
            if gone:
                change.removed.append({**about, "members": gone})
        else:
            fresh = [member for name, member in asked.items() if name not in there]
            if fresh and not same:
                same = [{"role": binding["role"], "members": [], **({"condition": condition} if condition else {})}]
                bindings += same
            if fresh:
                same[0]["members"] = [*same[0].get("members", []), *fresh]
                change.added.append({**about, "members": fresh})
        after = [item for item in after if item[0] != key] + [(key, _members(same))]
    if absent:
        kept = [item for item in bindings if item.get("members")]
        new["bindings"] = kept if len(kept) < len(bindings) else bindings
    if any(item.get("condition") for item in new["bindings"]):
        new["version"] = VERSION
    change.before, change.after = _text(before, touched), _text(after, touched)
    return new, change


def _key(member: str) -> str:
    return member.lower() if member.startswith(_SAME_IN_ANY_CASE) and "[" not in member else member


def _members(bindings: list[dict]) -> list[str]:
    return sorted(member for item in bindings for member in item.get("members", []))


def _text(entries: list[tuple], titles: dict[tuple, str]) -> str:
    lines = []
    for key, members in entries:
        title = f" if {titles[key]}" if titles[key] else ""
        lines += [f"{key[0]}{title}: {member}\n" for member in members]
    return "".join(lines)

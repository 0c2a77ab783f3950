# Copyright: the mlops.platform contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Resource Manager: projects and their IAM policies, in versions 1 and 3."""

from __future__ import annotations

import base64
import re

from rehearsal import Call, errors, handles, policies


def _shown(call: Call, project: dict) -> dict:
    kind, _, number = project["parent"].partition("/")
    common = {"projectId": project["projectId"], "createTime": project["createTime"], "labels": project["labels"]}
    if call.version == "v1":
        parent = {"type": kind.removesuffix("s"), "id": number}
        return common | {
            "projectNumber": project["projectNumber"], "lifecycleState": project["lifecycleState"], "name": project["name"],
            "parent": parent,
        }  # fmt: skip
    etag = base64.b64encode(project["name"].encode()).decode()
    return common | {
        "name": f"projects/{project['projectNumber']}", "parent": project["parent"], "state": project["lifecycleState"],
        "displayName": project["name"], "etag": etag,
    }  # fmt: skip


@handles("cloudresourcemanager.projects.get")
def get(call: Call) -> dict:
    """One project, by ID or number."""
    return _shown(call, call.project)


@handles("cloudresourcemanager.projects.list", "cloudresourcemanager.projects.search")
def listed(call: Call) -> dict:
    """The projects that the caller may see; filter or query: id:x or projectId:x, also with * at the end, or lifecycleState:x."""
    projects = list(call.state["projects"].values())
    for term in (call.params.get("filter") or call.params.get("query") or "").split():
        found = re.fullmatch(r"(id|projectId|lifecycleState|state)[:=]([\w-]+)(\*?)", term)
        if not found:
            raise errors.invalid(f"The filter '{term}' is not supported by the rehearsal.")
        key = "lifecycleState" if found[1].endswith("tate") else "projectId"
        projects = [one for one in projects if one[key] == found[2] or (found[3] and one[key].startswith(found[2]))]
    if parent := call.params.get("parent"):
        projects = [one for one in projects if one["parent"] == parent]
    return call.page("projects", [_shown(call, project) for project in projects])


@handles("cloudresourcemanager.projects.getIamPolicy")
def get_policy(call: Call) -> dict:
    """The project's policy."""
    return policies.read(call, call.project)


@handles("cloudresourcemanager.projects.setIamPolicy")
def set_policy(call: Call) -> dict:
    """Replaces the project's policy."""
    return policies.write(call, call.project)


@handles("cloudresourcemanager.projects.testIamPermissions")
def test_permissions(call: Call) -> dict:
    """Which of the permissions asked for the caller has on the project."""
    call.project  # noqa: B018 - refuses if there is none
    return policies.test(call)

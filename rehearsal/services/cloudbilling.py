# Copyright: the mlops.platform contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Cloud Billing: whether a project is paid for, and by which account."""

from __future__ import annotations

from rehearsal import Call, Refused, handles


def _shown(project: dict) -> dict:
    return {"name": f"projects/{project['projectId']}/billingInfo", "projectId": project["projectId"], **project["billing"]}


@handles("cloudbilling.projects.getBillingInfo")
def get(call: Call) -> dict:
    """The account of a project."""
    return _shown(call.project)


@handles("cloudbilling.projects.updateBillingInfo")
def update(call: Call) -> dict:
    """Another account, or none."""
    account = call.body.get("billingAccountName", "")
    if account and account not in _accounts(call):
        raise Refused(403, "", "The caller does not have permission")
    call.project["billing"] = {"billingAccountName": account, "billingEnabled": bool(account)}
    return _shown(call.project)


def _accounts(call: Call) -> list[str]:
    used = {project["billing"]["billingAccountName"] for project in call.state["projects"].values()}
    return sorted(used | {"billingAccounts/012345-6789AB-CDEF01"} - {""})


@handles("cloudbilling.billingAccounts.list")
def accounts(call: Call) -> dict:
    """The accounts that the caller may see."""
    shown = [{"name": name, "open": True, "displayName": "Rehearsal"} for name in _accounts(call) if name]
    return call.page("billingAccounts", shown)

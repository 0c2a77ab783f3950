# Copyright: the mlops.platform contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""IAM: service accounts and their policies."""

from __future__ import annotations

import re

from rehearsal import Call, Refused, errors, handles, policies, shapes

LIMIT = 100  # service accounts in a project


def _accounts(call: Call) -> dict:
    return call.project.setdefault("serviceAccounts", {})


def _found(call: Call) -> dict:
    """The account that the request names by e-mail or unique id."""
    named = (call.params.get("name") or call.params["resource"]).rpartition("/")[2]
    accounts = _accounts(call) if call.project_id else {}
    for email, account in accounts.items():
        if named in (email, account["uniqueId"]):
            return account
    raise Refused(404, "", f"Unknown service account: {named}")


def _shown(account: dict) -> dict:
    return {key: value for key, value in account.items() if key != "iamPolicy" and value not in ("", False)}


def _check_texts(account: dict) -> None:
    for field, most in (("displayName", 100), ("description", 256)):
        if len(account.get(field, "").encode()) > most:
            raise errors.invalid(f"The {field} of a service account may have {most} bytes at most.")


@handles("iam.projects.serviceAccounts.create")
def create(call: Call) -> dict:
    """Makes a service account."""
    call.need("accountId")
    identity, accounts, given = call.body["accountId"], _accounts(call), call.body.get("serviceAccount", {})
    if not 6 <= len(identity) <= 30:
        raise errors.invalid(f'The account ID "{identity}" does not have a length between 6 and 30.')
    if not re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])", identity):
        raise errors.invalid(f'The account ID "{identity}" must be a match of regex [a-z]([-a-z0-9]*[a-z0-9]).')
    _check_texts(given)
    email = f"{identity}@{call.project_id}.iam.gserviceaccount.com"
    if email in accounts:
        raise Refused(409, "", f"Service account {identity} already exists within project projects/{call.project_id}.")
    if len(accounts) >= LIMIT:
        raise Refused(429, "", "Maximum number of service accounts on project reached.")
    unique = shapes.identifier(email, str(len(accounts)), digits=21)
    accounts[email] = {
        "name": f"projects/{call.project_id}/serviceAccounts/{email}",
        "projectId": call.project_id,
        "uniqueId": unique,
        "email": email,
        "displayName": given.get("displayName", ""),
        "description": given.get("description", ""),
        "etag": "MDEwMjE5MjA=",
        "oauth2ClientId": unique,
        "disabled": False,
    }
    return _shown(accounts[email])


@handles("iam.projects.serviceAccounts.get")
def get(call: Call) -> dict:
    """One service account."""
    return _shown(_found(call))


@handles("iam.projects.serviceAccounts.list")
def listed(call: Call) -> dict:
    """The service accounts of a project, 20 a page if the request does not say otherwise."""
    call.params.setdefault("pageSize", 20)
    call.params["pageSize"] = min(call.params["pageSize"] or 20, 100)
    page = call.page("accounts", [_shown(account) for account in _accounts(call).values()])
    return page if page["accounts"] else {}


@handles("iam.projects.serviceAccounts.patch")
def patch(call: Call) -> dict:
    """Changes display name and description."""
    account, given = _found(call), call.body.get("serviceAccount", {})
    fields = [field.replace("display_name", "displayName") for field in call.body.get("updateMask", "").split(",") if field]
    if not fields or set(fields) - {"displayName", "description"}:
        raise errors.invalid("update_mask must name display_name, description or both.")
    _check_texts(given)
    account.update({field: given.get(field, "") for field in fields})
    return _shown(account)


@handles("iam.projects.serviceAccounts.update")
def update(call: Call) -> dict:
    """Replaces the display name."""
    account = _found(call)
    _check_texts(call.body)
    account["displayName"] = call.body.get("displayName", "")
    return _shown(account)


@handles("iam.projects.serviceAccounts.enable", "iam.projects.serviceAccounts.disable")
def switch(call: Call) -> dict:
    """Lets an account be used or not."""
    _found(call)["disabled"] = call.method.endswith(".disable")
    return {}


@handles("iam.projects.serviceAccounts.delete")
def delete(call: Call) -> dict:
    """Deletes an account; policies keep it, marked as deleted."""
    account = _found(call)
    del _accounts(call)[account["email"]]
    member = f"serviceAccount:{account['email']}"
    for project in call.state["projects"].values():
        for binding in project["iamPolicy"]["bindings"]:
            binding["members"] = [f"deleted:{member}?uid={account['uniqueId']}" if one == member else one for one in binding["members"]]
    return {}


@handles("iam.projects.serviceAccounts.getIamPolicy")
def get_policy(call: Call) -> dict:
    """The policy of an account: who may use it."""
    return policies.read(call, _found(call))


@handles("iam.projects.serviceAccounts.setIamPolicy")
def set_policy(call: Call) -> dict:
    """Sets the policy of an account."""
    return policies.write(call, _found(call))


@handles("iam.projects.serviceAccounts.testIamPermissions")
def test_permissions(call: Call) -> dict:
    """Which permissions the caller has on an account."""
    _found(call)
    return policies.test(call)

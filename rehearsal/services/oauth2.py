# Copyright: the mlops.platform contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Who the caller is (oauth2), and tokens for service accounts that the caller may impersonate (iamcredentials)."""

from __future__ import annotations

import re

from rehearsal import Call, Refused, errors, handles
from rehearsal.call import now


@handles("oauth2.userinfo.get", "oauth2.userinfo.v2.me.get")
def user_info(call: Call) -> dict:
    """The caller's e-mail address."""
    return {"email": call.principal, "verified_email": True}


@handles("iamcredentials.projects.serviceAccounts.generateAccessToken")
def impersonate(call: Call) -> dict:
    """A token of a service account, for whom its policy or its project's makes a token creator; owners are none by that."""
    call.need("scope")
    email = call.params["name"].rsplit("/", 1)[-1]
    project = call.state["projects"].get(call.project_id, {"serviceAccounts": {}})
    account = project["serviceAccounts"].get(email)
    member = f"{'serviceAccount' if call.principal.endswith('.gserviceaccount.com') else 'user'}:{call.principal}"
    bindings = [binding for holder in (project, account or {}) for binding in holder.get("iamPolicy", {}).get("bindings", [])]
    allowed = any(one["role"] == "roles/iam.serviceAccountTokenCreator" and member in one["members"] for one in bindings)
    if account is None or not allowed:
        detail = errors.info("IAM_PERMISSION_DENIED", "iam.googleapis.com", permission="iam.serviceAccounts.getAccessToken")
        message = "Permission 'iam.serviceAccounts.getAccessToken' denied on resource (or it may not exist)."
        raise Refused(403, "", message, [detail])
    found = re.fullmatch(r"(\d+)s", call.body.get("lifetime", "3600s"))
    if not found or not 0 < int(found[1]) <= 3600:
        raise errors.invalid("The lifetime of the token must be between 1s and 3600s.")
    token = call.server.issue(email, call.body["scope"], int(found[1]))
    return {"accessToken": token, "expireTime": re.sub(r"\.\d+Z", "Z", now(int(found[1])))}

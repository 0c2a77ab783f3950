# Copyright: the mlops.platform contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Identity-Aware Proxy: who may reach what is behind it, and its settings. Brands and OAuth clients are no longer made by API."""

from __future__ import annotations

import copy
import re

from rehearsal import Call, Refused, errors, handles, policies, shapes
from rehearsal.state import merge

_RESOURCE = re.compile(
    r"projects/[^/]+(/iap_web(/(compute|appengine-[^/]+|forwarding_rule)(-[a-z0-9-]+)?(/services/[^/]+(/versions/[^/]+)?)?)?|/iap_tunnel.*)?\Z"
)


def _holder(call: Call, name: str, what: str) -> dict:
    """Where the policy or the settings of a resource are kept; the project's number and its ID mean the same."""
    if not _RESOURCE.match(name):
        raise errors.invalid(f"The resource name '{name}' is invalid.")
    return call.project.setdefault("iap", {}).setdefault(what, {}).setdefault("/".join(name.split("/")[2:]) or "project", {})


@handles("iap.getIamPolicy")
def get_policy(call: Call) -> dict:
    """The policy of a resource behind the proxy."""
    return policies.read(call, _holder(call, call.params["resource"], "policies"))


@handles("iap.setIamPolicy")
def set_policy(call: Call) -> dict:
    """Sets the policy of a resource behind the proxy."""
    return policies.write(call, _holder(call, call.params["resource"], "policies"))


@handles("iap.testIamPermissions")
def test_permissions(call: Call) -> dict:
    """Which permissions the caller has there."""
    _holder(call, call.params["resource"], "policies")
    return policies.test(call)


@handles("iap.getIapSettings")
def get_settings(call: Call) -> dict:
    """The settings of a resource behind the proxy."""
    return {"name": call.params["name"], **copy.deepcopy(_holder(call, call.params["name"], "settings"))}


@handles("iap.updateIapSettings")
def update_settings(call: Call) -> dict:
    """Changes the settings that updateMask names, or all."""
    settings = _holder(call, call.params["name"], "settings")
    given = shapes.read("iap", "IapSettings", call.body)
    given.pop("name", None)
    fields = {field.split(".")[0] for field in call.params.get("updateMask", "").split(",") if field}
    if unknown := sorted(fields - {"accessSettings", "applicationSettings"}):
        raise errors.invalid(f"Invalid field path in update_mask: {unknown[0]}.")
    merge(settings, {key: value for key, value in given.items() if not fields or key in fields})
    return {"name": call.params["name"], **copy.deepcopy(settings)}


@handles(
    *(f"iap.projects.brands.{verb}" for verb in ("create", "get", "list")),
    *(f"iap.projects.brands.identityAwareProxyClients.{verb}" for verb in ("create", "delete", "get", "list", "resetSecret")),
)
def shut_down(call: Call) -> dict:
    """Brands and clients: Google shut these methods down in March 2026."""
    raise Refused(501, "", "The IAP OAuth Admin API was shut down on March 19, 2026. OAuth clients are made in the Google Cloud console.")

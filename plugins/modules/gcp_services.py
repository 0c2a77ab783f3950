#!/usr/bin/python
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Switch the services (APIs) of a Google Cloud project on, or single ones off."""

from __future__ import annotations

DOCUMENTATION = r"""
module: gcp_services
author: The mlops.platform contributors (@mlops)
short_description: Switch APIs of a Google Cloud project on in batches, or single ones off
version_added: 1.0.0
description:
  - Looks at all services with one request for each thirty, switches on with one request for each twenty those that are off, and waits.
  - Verifies that the project has an open billing account before anything is switched on. Where C(cloudbilling.googleapis.com) cannot be
    asked because it is off, Compute Engine is asked instead, which answers only where there is billing; where that is off too, switching
    it on is what proves it. Where the caller may ask neither, the module warns and goes on.
options:
  services:
    description: Services that must be on, as V(compute.googleapis.com) or V(compute).
    type: list
    elements: str
    default: []
  disabled:
    description:
      - Services that must be off. They are switched off one by one in this order, after the others have been switched on. One that
        another active service depends on is refused; no other service is ever switched off along with it.
    type: list
    elements: str
    default: []
  billing:
    description: Whether the project must have billing, or is not asked about it.
    type: str
    choices: [required, unchecked]
    default: required
extends_documentation_fragment:
  - mlops.platform.gcp
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
"""

EXAMPLES = r"""
- name: Switch on what a cluster needs
  mlops.platform.gcp_services:
    project: my-project
    services: [compute, container, iam]

- name: Switch one off
  mlops.platform.gcp_services:
    project: my-project
    disabled: [sqladmin.googleapis.com]
"""

RETURN = r"""
switched_on:
  description: The services that were off and have been switched on.
  returned: always
  type: list
  elements: str
switched_off:
  description: The services that were on and have been switched off.
  returned: always
  type: list
  elements: str
billing_account:
  description: The billing account, such as V(billingAccounts/012345-567890-ABCDEF). Empty where Cloud Billing was not asked.
  returned: always
  type: str
project_number:
  description: Number of the project.
  returned: when there are services
  type: str
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.mlops.platform.plugins.module_utils.gcp import api

READ_AT_ONCE = 30  # Google's limits
ENABLE_AT_ONCE = 20
BILLING = "cloudbilling.googleapis.com"
COMPUTE = "compute.googleapis.com"

OPTIONS = {
    **api.argument_spec(),
    "services": {"type": "list", "elements": "str", "default": []},
    "disabled": {"type": "list", "elements": "str", "default": []},
    "billing": {"type": "str", "choices": ["required", "unchecked"], "default": "required"},
}


def main() -> None:
    """Run the module."""
    module = AnsibleModule(argument_spec=OPTIONS, supports_check_mode=True)
    wanted, unwanted = names(module.params["services"]), names(module.params["disabled"])
    both = [name for name in unwanted if name in wanted]
    if both:
        module.fail_json(msg=f"disabled: {', '.join(both)} is among the services that must be on. Remedy: name it in one of both lists")
    gcp = api.connect(module)
    result: dict = {"changed": False, "switched_on": [], "switched_off": [], "billing_account": ""}
    try:
        billed = module.params["billing"] == "required"
        everything, number = read(gcp, list(dict.fromkeys([*wanted, *unwanted, *((BILLING, COMPUTE) if billed else ())])))
        states = {name: everything[name] for name in wanted + unwanted}
        if billed:
            result["billing_account"], warning = billing(gcp, everything)
            if warning:
                module.warn(warning)
        off = [name for name in wanted if states[name] != "ENABLED"]
        on = [name for name in unwanted if states[name] == "ENABLED"]
        if module.check_mode:
            result.update(switched_on=off, switched_off=on)
        else:
            for start in range(0, len(off), ENABLE_AT_ONCE):
                enable(gcp, off[start : start + ENABLE_AT_ONCE])
                result["switched_on"] += off[start : start + ENABLE_AT_ONCE]
            for name in on:
                disable(gcp, name)
                result["switched_off"].append(name)
    except api.GcpError as error:
        result["changed"] = bool(result["switched_on"] or result["switched_off"])
        api.fail(module, error, **result)
    result["changed"] = bool(off or on)
    result["project_number"] = number
    if module._diff:
        after = {**states, **dict.fromkeys(off, "ENABLED"), **dict.fromkeys(on, "DISABLED")}
        result["diff"] = {"before": listed(gcp.project, states), "after": listed(gcp.project, after)}
    module.exit_json(**result)


def names(services: list[str]) -> list[str]:
    """Full names, each once."""
    return list(dict.fromkeys(name if "." in name else f"{name}.googleapis.com" for name in services))


def listed(project: str, states: dict[str, str]) -> str:
    """The states, for a diff."""
    return "".join(f"{project} {name}: {state.lower()}\n" for name, state in states.items())


def read(gcp: api.Gcp, services: list[str]) -> tuple[dict[str, str], str]:
    """The states (ENABLED, DISABLED) by name, and the project's number."""
    states, number = {}, ""
    for start in range(0, len(services), READ_AT_ONCE):
        answer = gcp.call(
            "serviceusage.services.batchGet",
            parent=f"projects/{gcp.project}",
            names=[f"projects/{gcp.project}/services/{name}" for name in services[start : start + READ_AT_ONCE]],
            fields="services(name,state)",
        )
        for service in answer.get("services", []):
            _, number, _, name = service["name"].split("/")
            states[name] = service.get("state", "DISABLED")
    return {name: states.get(name, "DISABLED") for name in services}, number


def billing(gcp: api.Gcp, states: dict[str, str]) -> tuple[str, str]:
    """The billing account as far as it may be asked for, and a warning where nothing may. Raises BillingDisabled."""
    try:
        if states[BILLING] == "ENABLED" or states[COMPUTE] != "ENABLED":
            return billing_account(gcp), ""
    except api.ApiDisabled:
        if states[COMPUTE] != "ENABLED":
            return "", ""  # Compute Engine, like much else, cannot be switched on without billing
    except api.Denied as error:
        if states[COMPUTE] != "ENABLED":
            return "", unverified(gcp, error)
    try:
        gcp.call("compute.projects.get", fields="name")
    except api.ApiDisabled:
        return "", ""  # another run has just switched it off
    except api.Denied as error:
        return "", unverified(gcp, error)
    return "", ""


def unverified(gcp: api.Gcp, error: api.Denied) -> str:
    """The warning."""
    return f"Whether project {gcp.project} has billing could not be verified. {error}"


def billing_account(gcp: api.Gcp) -> str:
    """The billing account that Cloud Billing names."""
    info = gcp.call("cloudbilling.projects.getBillingInfo", name=f"projects/{gcp.project}")
    account = info.get("billingAccountName", "")
    if info.get("billingEnabled"):
        return account
    what = f"its billing account {account} is closed" if account else "it has no billing account"
    raise api.BillingDisabled(
        f"Project {gcp.project} has no billing: {what}.",
        f"link an open one: `gcloud billing projects link {gcp.project} --billing-account ACCOUNT` (`gcloud billing accounts list`)",
        reason="BILLING_DISABLED",
    )


def enable(gcp: api.Gcp, services: list[str]) -> None:
    """Switch on up to twenty, all or none of them."""
    operation = gcp.call("serviceusage.services.batchEnable", {"serviceIds": services}, parent=f"projects/{gcp.project}", retry=True)
    what = f"switching on {services[0]}" + (f" and {len(services) - 1} more" if len(services) > 1 else "")
    answer = gcp.wait(operation, "serviceusage.operations.get", what=what).get("response", {})
    failures = [f"{item.get('serviceId')}: {item.get('errorMessage')}" for item in answer.get("failures", [])]
    if failures:
        raise api.BadRequest(
            f"Not all services could be switched on: {'; '.join(failures)}.", "see that these services are offered to the project"
        )


def disable(gcp: api.Gcp, service: str) -> None:
    """Switch off one, and no other with it."""
    try:
        operation = gcp.call(
            "serviceusage.services.disable", {"disableDependentServices": False}, name=f"projects/{gcp.project}/services/{service}"
        )
        gcp.wait(operation, "serviceusage.operations.get", what=f"switching off {service}")
    except (api.BadRequest, api.OperationFailed) as error:
        if "depend" not in error.message:
            raise
        raise api.BadRequest(
            error.message,
            "name those services before it in disabled, or keep it on",
            status=error.status,
            code=error.code,
            reason=error.reason,
        ) from error


if __name__ == "__main__":
    main()

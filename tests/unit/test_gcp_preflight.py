"""What preflight says of a project, from answers as Google gives them."""

from __future__ import annotations

import pytest

from ansible_collections.mlops.platform.plugins.module_utils.gcp import api, preflight

PROJECT = {"name": "projects/123456789012", "projectId": "my-project", "state": "ACTIVE"}
BILLED = {"billingEnabled": True, "billingAccountName": "billingAccounts/012345-567890-ABCDEF"}


class Google:
    """Answers by method: a dict, an error to raise, or a function of the call's arguments."""

    project, principal = "my-project", "ann@example.com"

    def __init__(self, **answers):
        self.answers = {name.replace("__", "."): answer for name, answer in answers.items()}
        self.asked = []

    def call(self, method, body=None, *, retry=None, **parameters):
        self.asked.append((method, body, parameters))
        answer = self.answers[method]
        if callable(answer):
            answer = answer(body, parameters)
        if isinstance(answer, Exception):
            raise answer
        return answer


def look(what, *arguments, **answers):
    google = Google(**answers)
    found = preflight.Preflight(google)
    getattr(found, what)(*arguments)
    return google, found, found.checks[-1]


def disabled(service):
    error = api.ApiDisabled(f"{service} has not been used", f"`gcloud services enable {service}`")
    error.service = service
    return error


def test_an_active_project():
    _google, found, check = look("project", cloudresourcemanager__projects__get=PROJECT)
    assert (check.state, found.number) == ("ok", "123456789012")


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (api.Denied("no"), "my-project does not exist, or ann@example.com may not see it"),
        (api.NotFound("no"), "my-project does not exist, or ann@example.com may not see it"),
        ({**PROJECT, "state": "DELETE_REQUESTED"}, "my-project is DELETE_REQUESTED"),
        (api.TokenExpired("expired", "log in"), "expired"),
    ],
)
def test_a_project_that_cannot_be_used(answer, said):
    _google, _found, check = look("project", cloudresourcemanager__projects__get=answer)
    assert (check.state, check.found) == ("problem", said)
    assert check.remedy


@pytest.mark.parametrize(
    ("answer", "state", "said"),
    [
        (BILLED, "ok", "billed to 012345-567890-ABCDEF"),
        ({"billingEnabled": False}, "problem", "my-project has no billing account"),
        ({**BILLED, "billingEnabled": False}, "problem", "the billing account 012345-567890-ABCDEF is closed"),
        (api.Denied("ann may not do that."), "unchecked", "it may not be looked at: ann may not do that"),
        (disabled("cloudbilling.googleapis.com"), "unchecked", "cloudbilling.googleapis.com is off, so it cannot be asked for"),
    ],
)
def test_billing(answer, state, said):
    _google, _found, check = look("billing", cloudbilling__projects__getBillingInfo=answer)
    assert (check.state, check.found) == (state, said)


def test_missing_permissions_are_named_and_asked_for_a_hundred_at_a_time():
    def granted(body, _parameters):
        return {"permissions": [name for name in body["permissions"] if name != "iam.serviceAccounts.actAs"]}

    wanted = [f"compute.things.get{number}" for number in range(120)] + ["iam.serviceAccounts.actAs"]
    google, found, check = look("permissions", wanted, cloudresourcemanager__projects__testIamPermissions=granted)
    assert [len(body["permissions"]) for _method, body, _parameters in google.asked] == [100, 21]
    assert found.missing == ["iam.serviceAccounts.actAs"]
    assert (check.state, check.found) == ("problem", "ann@example.com lacks iam.serviceAccounts.actAs")


def test_all_permissions():
    _google, found, check = look("permissions", ["a.b.c"], cloudresourcemanager__projects__testIamPermissions={"permissions": ["a.b.c"]})
    assert (check.state, found.missing) == ("ok", [])


def test_what_cannot_be_asked_because_its_api_is_off_is_no_problem():
    off = disabled("cloudresourcemanager.googleapis.com")
    for what, method in (("project", "get"), ("permissions", "testIamPermissions")):
        arguments = [["a.b.c"]] if what == "permissions" else []
        _google, _found, check = look(what, *arguments, **{f"cloudresourcemanager__projects__{method}": off})
        assert (check.state, check.found) == ("unchecked", "cloudresourcemanager.googleapis.com is off, so it cannot be asked for")


def test_services_that_are_off_are_listed_once():
    def states(_body, parameters):
        return {"services": [{"name": name, "state": "DISABLED" if "compute" in name else "ENABLED"} for name in parameters["names"]]}

    wanted = ["compute", "compute.googleapis.com", "iam.googleapis.com"]
    _google, found, check = look("services", wanted, serviceusage__services__batchGet=states)
    assert found.off == ["compute.googleapis.com"]
    assert (check.state, check.found.split(",")[0]) == ("ok", "1 of 2 are off")


def test_without_serviceusage_nothing_can_be_switched_on():
    _google, _found, check = look("services", ["compute"], serviceusage__services__batchGet=disabled("serviceusage.googleapis.com"))
    assert check.state == "problem"


def test_a_missing_network():
    _google, _found, check = look("network", "default", None, None, compute__networks__get=api.NotFound("networks/default was not found."))
    assert (check.state, check.found) == ("problem", "networks/default was not found")
    assert "gcloud compute networks create default" in check.remedy


def test_a_network_with_its_subnetwork():
    google, _found, check = look(
        "network", "default", "default", "asia-northeast3", compute__networks__get={}, compute__subnetworks__get={}
    )
    assert check.found == "default with the subnetwork default in asia-northeast3 is there"
    assert google.asked[1][2] == {"project": "my-project", "region": "asia-northeast3", "subnetwork": "default"}


def test_all_problems_are_one_message():
    google = Google()
    text = preflight.message(
        google, [{"what": "billing", "found": "closed", "remedy": "pay"}, {"what": "network", "found": "gone", "remedy": ""}]
    )
    assert text == "2 things are not ready in project my-project:\n- billing: closed. Remedy: pay.\n- network: gone."

"""A name under cloud.goog: the document, and when it is rolled out."""

from __future__ import annotations

import ipaddress

import pytest

from ansible_collections.mlops.platform.plugins.module_utils.gcp import endpoints
from ansible_collections.mlops.platform.plugins.modules import cloud_endpoints
from tests.unit.modules import run

HOST = "kubeflow.endpoints.rehearsal-project.cloud.goog"
OPTIONS = {"name": "kubeflow", "target": "203.0.113.7"}


def service(rehearsal):
    return rehearsal.state["projects"][rehearsal.project]["endpoints"][HOST]


def mutations(rehearsal):
    asked = rehearsal.requests("servicemanagement.*")
    return [each["method"].removeprefix("servicemanagement.services.") for each in asked if each["verb"] != "GET"]


def test_host_has_a_limit():
    assert endpoints.host("kubeflow", "prj-12") == "kubeflow.endpoints.prj-12.cloud.goog"
    project = "p" * 30
    longest = "k" * (endpoints.LONGEST - len(f".endpoints.{project}.cloud.goog"))
    assert len(endpoints.host(longest, project)) == endpoints.LONGEST
    with pytest.raises(ValueError, match=f"63 characters, 62 are possible; write a name of at most {len(longest)} characters"):
        endpoints.host(longest + "k", project)


@pytest.mark.parametrize("name", ["Kubeflow", "-k", "k-", "a.b", "", "1st"])
def test_names_that_are_no_label(name):
    with pytest.raises(ValueError, match="is not a label of a host"):
        endpoints.host(name, "prj-12")


def test_document_names_host_and_target():
    document = endpoints.document(HOST, "203.0.113.7", "Platform")
    assert document["swagger"] == "2.0" and document["host"] == HOST
    assert document["x-google-endpoints"] == [{"name": HOST, "target": "203.0.113.7"}]


def test_name_is_made_once(rehearsal):
    made = run(cloud_endpoints, rehearsal, **OPTIONS)
    assert not made["failed"], made["msg"]
    assert (made["host"], made["changed"]) == (HOST, True)
    assert mutations(rehearsal) == ["create", "configs.submit", "rollouts.create"]
    (config,) = service(rehearsal)["configs"].values()
    assert config["id"] == made["config_id"] and config["endpoints"] == [{"name": HOST, "target": "203.0.113.7"}]
    again = run(cloud_endpoints, rehearsal, **OPTIONS)
    assert not again["changed"] and again["config_id"] == made["config_id"]
    assert len(mutations(rehearsal)) == 3


def test_check_mode_predicts_even_without_an_address(rehearsal):
    result = run(cloud_endpoints, rehearsal, check=True, name="kubeflow", target="")
    assert result["changed"] and result["host"] == HOST
    assert result["diff"]["after"]["x-google-endpoints"][0]["target"] == "(not known yet)"
    assert mutations(rehearsal) == []
    assert "target: '' is not an IP address" in run(cloud_endpoints, rehearsal, name="kubeflow", target="")["msg"]


def test_another_address_is_rolled_out_and_so_is_what_others_changed(rehearsal):
    first = run(cloud_endpoints, rehearsal, **OPTIONS)
    moved = run(cloud_endpoints, rehearsal, name="kubeflow", target="203.0.113.8")
    assert moved["diff"]["before"]["x-google-endpoints"][0]["target"] == "203.0.113.7"
    assert mutations(rehearsal)[3:] == ["configs.submit", "rollouts.create"]
    older = {"rolloutId": "by-hand", "status": "SUCCESS", "trafficPercentStrategy": {"percentages": {first["config_id"]: 100}}}
    service(rehearsal)["rollouts"].append(older)
    assert run(cloud_endpoints, rehearsal, check=True, name="kubeflow", target="203.0.113.8")["changed"]
    run(cloud_endpoints, rehearsal, name="kubeflow", target="203.0.113.8")
    assert not run(cloud_endpoints, rehearsal, name="kubeflow", target="203.0.113.8")["changed"]


def test_a_failed_rollout_is_made_up_for(rehearsal):
    rehearsal.faults({"kind": "operation_error", "method": "*rollouts.create", "status": "INTERNAL", "message": "no luck"})
    failed = run(cloud_endpoints, rehearsal, **OPTIONS)
    assert failed["failed"] and f"rollout of {HOST} failed: no luck" in failed["msg"]
    assert not run(cloud_endpoints, rehearsal, **OPTIONS)["failed"]
    assert not run(cloud_endpoints, rehearsal, **OPTIONS)["changed"]


def test_deleted_and_brought_back(rehearsal):
    run(cloud_endpoints, rehearsal, **OPTIONS)
    assert run(cloud_endpoints, rehearsal, name="kubeflow", state="absent")["changed"]
    assert service(rehearsal)["deleted"]
    assert not run(cloud_endpoints, rehearsal, name="kubeflow", state="absent")["changed"]
    back = run(cloud_endpoints, rehearsal, **OPTIONS)
    assert not back["failed"], back["msg"]
    assert not service(rehearsal)["deleted"]
    assert "undelete" in mutations(rehearsal)


def test_a_service_that_the_caller_may_not_see(rehearsal):
    run(cloud_endpoints, rehearsal, **OPTIONS)
    rehearsal.faults({"kind": "denied", "method": "*rollouts.list", "times": None})
    result = run(cloud_endpoints, rehearsal, **OPTIONS)
    assert result["failed"] and result["permission"] == "servicemanagement.rollouts.list"


def test_missing_permission_to_make_it(rehearsal):
    rehearsal.faults({"kind": "denied", "method": "servicemanagement.services.create", "times": None})
    result = run(cloud_endpoints, rehearsal, **OPTIONS)
    assert result["permission"] == "servicemanagement.services.create"
    assert "--role=roles/servicemanagement.admin" in result["msg"]


def test_api_that_is_off(rehearsal):
    rehearsal.seed({"projects": {rehearsal.project: {"services": ["serviceusage.googleapis.com"]}}})
    assert "gcloud services enable servicemanagement.googleapis.com" in run(cloud_endpoints, rehearsal, **OPTIONS)["msg"]
    predicted = run(cloud_endpoints, rehearsal, check=True, **OPTIONS)
    assert predicted["changed"] and "servicemanagement.googleapis.com is not switched on" in predicted["warnings"][0]


def test_targets():
    endpoints.check_target(str(ipaddress.ip_address("2001:db8::1")))
    with pytest.raises(ValueError, match="'ingress' is not an IP address"):
        endpoints.check_target("ingress")

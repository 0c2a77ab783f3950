"""Config Controller: what is asked for, what counts as different, and what becomes of an instance in the rehearsal."""

from __future__ import annotations

import pytest

from ansible_collections.mlops.platform.plugins.module_utils.gcp import api
from ansible_collections.mlops.platform.plugins.modules import config_controller
from tests.unit.modules import run

REGION, NAME, PROJECT = "asia-northeast1", "mgt-cluster", "rehearsal-project"


@pytest.fixture(autouse=True)
def often(monkeypatch):
    """The rehearsal's operations take 50 ms."""
    monkeypatch.setattr(api, "POLL_FIRST", 0.03)


def options(**given):
    every = dict.fromkeys(config_controller.OPTIONS)
    return {**every, "name": NAME, "location": REGION, "state": "present", **given}


def ensure(rehearsal, check=False, **changes):
    return run(config_controller, rehearsal, check=check, **{"name": NAME, "location": REGION, **changes})


def host(rehearsal):
    return rehearsal.state["projects"][PROJECT]["krmapihosting"]["hosts"][f"{REGION}/{NAME}"]


def verbs(rehearsal, since=0):
    return [
        entry["method"].rpartition(".")[2] for entry in rehearsal.requests("krmapihosting.*")[since:] if "operations" not in entry["method"]
    ]


@pytest.mark.parametrize("name", ["a", "mgt-cluster", "a23456789012345678"])
def test_names_that_may_be(name):
    config_controller.check(options(name=name))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"name": "a234567890123456789"}, "It has 19 characters; a234567890123456789-cnrm-system would be too long"),
        ({"name": "Mgt"}, "'Mgt' cannot be the name"),
        ({"name": "mgt-"}, "no hyphen last"),
        ({"location": "us-central1-a"}, "is a zone. Remedy: Config Controller wants a region, such as us-central1"),
        ({"location": "Tokyo"}, "is no zone or region"),
    ],
)
def test_names_and_locations_that_may_not_be(given, said):
    with pytest.raises(api.BadRequest) as error:
        config_controller.check(options(**given))
    assert said in str(error.value)


def test_what_is_asked_for():
    bundles = {"bundlesConfig": {"configControllerConfig": {"enabled": True}}}
    standard = {"standardManagementConfig": {"masterIpv4CidrBlock": "172.16.0.128/28"}}
    assert config_controller.body_of(options()) == {**bundles, "managementConfig": standard}
    given = {"management": "full", "network": "mine", "subnet": "sub", "authorized_network": "192.0.2.0/24", "private_endpoint": True}
    assert config_controller.body_of(options(**given)) == {
        **bundles,
        "managementConfig": {"fullManagementConfig": {"network": "mine", "subnet": "sub", "manBlock": "192.0.2.0/24"}},
        "usePrivateEndpoint": True,
    }


def test_made_once_and_never_again(rehearsal):
    predicted = ensure(rehearsal, check=True)
    assert predicted["changed"] and predicted["action"] == "created" and predicted["cluster"] == "krmapihost-mgt-cluster"
    assert verbs(rehearsal) == ["get"]
    made = ensure(rehearsal, management="standard")
    assert made["changed"] and made["instance_state"] == "RUNNING" and not made["warnings"], made
    assert (made["cluster"], made["cluster_location"]) == ("krmapihost-mgt-cluster", REGION)
    again = ensure(rehearsal, management="standard", network="default", control_plane_cidr="172.16.0.128/28")
    assert not again["changed"] and again["cluster"] == made["cluster"]
    assert verbs(rehearsal) == ["get", "get", "create", "get", "get"]


def test_the_one_thing_that_can_be_changed(rehearsal):
    ensure(rehearsal)
    shown = ensure(rehearsal, authorized_network="192.0.2.0/24", check=True)
    assert shown["diff"] == {"before": {"authorized_network": "0.0.0.0/0"}, "after": {"authorized_network": "192.0.2.0/24"}}
    assert ensure(rehearsal, authorized_network="192.0.2.0/24")["fields"] == ["authorized_network"]
    assert host(rehearsal)["managementConfig"]["standardManagementConfig"] == {
        "manBlock": "192.0.2.0/24",
        "masterIpv4CidrBlock": "172.16.0.128/28",
    }
    assert not ensure(rehearsal, authorized_network="192.0.2.0/24")["changed"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"management": "full"}, "management is standard, wanted full"),
        ({"control_plane_cidr": "10.0.0.0/28"}, "control_plane_cidr is 172.16.0.128/28, wanted 10.0.0.0/28"),
        ({"private_endpoint": True}, "private_endpoint is false, wanted true"),
    ],
)
def test_what_cannot_be_changed_is_refused(rehearsal, change, said):
    ensure(rehearsal)
    result = ensure(rehearsal, **change)
    assert result["failed"] and said in result["msg"] and "remove the instance" in result["remedy"]
    assert "patch" not in verbs(rehearsal)


def test_what_is_empty_is_not_given(rehearsal):
    ensure(rehearsal)
    assert not ensure(rehearsal, network="", subnet="", control_plane_cidr="", authorized_network="")["changed"]


def test_removal(rehearsal):
    assert not ensure(rehearsal, state="absent")["changed"]
    ensure(rehearsal)
    assert ensure(rehearsal, state="absent", check=True)["action"] == "deleted" and host(rehearsal)
    assert ensure(rehearsal, state="absent")["changed"]
    assert rehearsal.state["projects"][PROJECT]["krmapihosting"]["hosts"] == {}
    assert not ensure(rehearsal, state="absent")["changed"]


def test_an_interrupted_run_is_taken_over(rehearsal):
    rehearsal.faults({"kind": "operation_slow", "method": "*krmApiHosts.create", "seconds": 3})
    cut = ensure(rehearsal, timeout=1)
    assert cut["failed"] and "Config Controller mgt-cluster" in cut["msg"] and "run again later" in cut["msg"]
    assert host(rehearsal)["state"] == "CREATING"
    result = ensure(rehearsal)
    assert not result["changed"] and result["instance_state"] == "RUNNING"
    assert verbs(rehearsal).count("create") == 1


@pytest.mark.parametrize("verb", ["create", "delete"])
def test_a_cut_connection_does_it_once(rehearsal, verb):
    if verb == "delete":
        ensure(rehearsal)
    rehearsal.faults({"kind": "cut", "method": f"*krmApiHosts.{verb}", "when": "after"})
    state = "present" if verb == "create" else "absent"
    result = ensure(rehearsal, state=state)
    assert not result["failed"], result
    assert not ensure(rehearsal, state=state)["changed"]


def test_one_that_could_not_be_made_is_made_by_the_next_run(rehearsal):
    rehearsal.faults({"kind": "operation_error", "method": "*krmApiHosts.create", "status": "INTERNAL", "message": "no luck"})
    result = ensure(rehearsal)
    assert result["failed"] and "Config Controller mgt-cluster: create failed: no luck" in result["msg"]
    assert ensure(rehearsal)["instance_state"] == "RUNNING"


@pytest.mark.parametrize(("state", "remedy"), [("SUSPENDED", "console"), ("READ_ONLY", "billing account")])
def test_one_that_google_has_stopped(rehearsal, state, remedy):
    ensure(rehearsal)
    host(rehearsal)["state"] = state
    result = ensure(rehearsal)
    assert result["failed"] and f"has the state {state}" in result["msg"] and remedy in result["remedy"]


def test_a_region_that_does_not_have_it(rehearsal):
    predicted = ensure(rehearsal, location="asia-northeast3", check=True)
    assert predicted["changed"] and "asia-northeast3 is not among the regions" in predicted["warnings"][0]
    said = "Permission denied on 'locations/asia-northeast3' (or it may not exist)."
    rehearsal.faults({"kind": "refused", "method": "*krmApiHosts.create", "http": 403, "status": "PERMISSION_DENIED", "message": said})
    result = ensure(rehearsal, location="asia-northeast3")
    assert result["failed"] and "may not exist" in result["msg"] and "us-central1" in result["msg"]


def test_the_api_is_off(rehearsal):
    rehearsal.state["projects"][PROJECT]["services"].remove("krmapihosting.googleapis.com")
    predicted = ensure(rehearsal, check=True)
    assert predicted["action"] == "created" and "krmapihosting.googleapis.com is not switched on" in predicted["warnings"][0]
    result = ensure(rehearsal)
    assert result["failed"] and result["service"] == "krmapihosting.googleapis.com"

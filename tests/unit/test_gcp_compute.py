"""Global addresses, firewall rules and routers with NAT: made, repaired, refused, removed."""

from __future__ import annotations

import pytest

from ansible_collections.mlops.platform.plugins.module_utils.gcp import compute
from ansible_collections.mlops.platform.plugins.modules import gcp_compute
from tests.unit.modules import run

ADDRESS = {"name": "kubeflow-ip", "description": "ingress"}
WEBHOOKS = {
    "name": "kubeflow-webhooks",
    "network": "default",
    "source_ranges": ["172.16.0.0/28"],
    "target_service_accounts": ["kubeflow-vm@rehearsal-project.iam.gserviceaccount.com"],
    "allowed": [{"ip_protocol": "tcp", "ports": ["8443", "9443", "15017"]}],
}
ROUTER = {"name": "kubeflow", "region": "asia-northeast3", "network": "default", "nats": [{"name": "kubeflow"}]}
ALL = {"addresses": [ADDRESS], "firewalls": [WEBHOOKS], "routers": [ROUTER]}


def stored(rehearsal, kind, name):
    return rehearsal.state["projects"][rehearsal.project]["compute"][kind].get(name)


def mutations(rehearsal):
    return [each["method"] for each in rehearsal.requests("compute.*") if each["verb"] != "GET"]


# -- logic


def test_camel_is_the_apis_spelling():
    rule = {"ip_protocol": "tcp", "ports": None}
    assert compute.camel({"name": "x", "source_ranges": ["a"], "allowed": [rule], "log_config": {"enable": False}, "priority": None}) == {
        "name": "x",
        "sourceRanges": ["a"],
        "allowed": [{"IPProtocol": "tcp"}],
        "logConfig": {"enable": False},
    }


@pytest.mark.parametrize(
    "given", ["net", "global/networks/net", "projects/prj/global/networks/net", "https://www.googleapis.com/compute/v1/projects/prj/global/networks/net"]
)  # fmt: skip
def test_networks_have_many_spellings(given):
    assert compute.link(given, "prj") == "projects/prj/global/networks/net"


def test_the_same_thing_twice_is_refused():
    with pytest.raises(compute.Refused, match="given twice: router r in us-east1"):
        compute.wanted("prj", [], [], [{"name": "r", "region": "us-east1", "network": "default"}] * 2)
    both = [{"name": "r", "region": region, "network": "default"} for region in ("us-east1", "us-west1")]
    assert len(compute.wanted("prj", [], [], both)) == 2


def planned(options, found, kind="firewalls"):
    lists = {"addresses": [], "firewalls": [], "routers": [], kind: [options]}
    (resource,) = compute.wanted("prj", *lists.values())
    resource.found = found
    compute.plan([resource])
    return resource


FOUND_RULE = {
    "name": "r",
    "network": "https://www.googleapis.com/compute/v1/projects/prj/global/networks/default",
    "direction": "INGRESS",
    "priority": 1000,
    "sourceRanges": ["10.0.0.0/8", "172.16.0.0/12"],
    "allowed": [{"IPProtocol": "tcp", "ports": ["443", "80"]}, {"IPProtocol": "udp"}],
    "disabled": False,
    "logConfig": {"enable": False},
}


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"network": "default", "direction": "INGRESS", "priority": 1000, "disabled": False},
        {"source_ranges": ["172.16.0.0/12", "10.0.0.0/8"]},
        {"allowed": [{"ip_protocol": "UDP"}, {"ip_protocol": "tcp", "ports": ["80", "443"]}]},
        {"log_config": {"enable": False}, "target_tags": []},
    ],
)
def test_rules_that_are_the_same(given):
    assert planned({"name": "r", **given}, FOUND_RULE).action == "unchanged"


def test_a_rule_as_old_as_defaults_is_compared_with_them():
    bare = {key: FOUND_RULE[key] for key in ("name", "network")}
    assert planned({"name": "r", "priority": 1000, "disabled": False, "log_config": {"enable": False}}, bare).action == "unchanged"
    assert planned({"name": "r", "priority": 900}, bare).patch == {"priority": 900}


def test_only_differing_fields_are_patched():
    rule = planned({"name": "r", "source_ranges": ["10.0.0.0/8"], "priority": 1000, "disabled": True}, FOUND_RULE)
    assert rule.patch == {"sourceRanges": ["10.0.0.0/8"], "disabled": True}
    assert rule.diff()["before"] == {"sourceRanges": ["10.0.0.0/8", "172.16.0.0/12"], "disabled": False}


def test_all_that_cannot_be_changed_is_named():
    with pytest.raises(compute.Refused) as error:
        planned({"name": "r", "network": "other", "direction": "EGRESS", "priority": 1}, FOUND_RULE)
    lines = str(error.value).splitlines()
    assert len(lines) == 2
    assert "firewall r: direction is 'INGRESS', wanted 'EGRESS', and cannot be changed. Remedy: delete the rule first" in lines[1]


def test_nats_of_others_stay():
    found = {"name": "r", "network": "projects/prj/global/networks/default", "nats": [{"name": "theirs", "minPortsPerVm": 128}]}
    router = planned({"name": "r", "region": "us-east1", "network": "default", "nats": [{"name": "ours"}]}, found, "routers")
    assert router.patch == {"nats": [{"name": "theirs", "minPortsPerVm": 128}, {**compute.NAT_DEFAULTS, "name": "ours"}]}


# -- the module, against the rehearsal


def test_all_kinds_are_made_and_then_stay(rehearsal):
    made = run(gcp_compute, rehearsal, **ALL)
    assert not made["failed"], made["msg"]
    assert [(each["kind"], each["action"]) for each in made["resources"]] == [
        ("globalAddress", "created"), ("firewall", "created"), ("router", "created"),
    ]  # fmt: skip
    assert made["addresses"]["kubeflow-ip"] == stored(rehearsal, "globalAddresses", "kubeflow-ip")["address"] != ""
    assert stored(rehearsal, "routers", "asia-northeast3/kubeflow")["nats"][0]["natIpAllocateOption"] == "AUTO_ONLY"
    assert [each["after"]["name"] for each in made["diff"]] == ["kubeflow-ip", "kubeflow-webhooks", "kubeflow"]
    before = len(rehearsal.requests("compute.*"))
    again = run(gcp_compute, rehearsal, **ALL)
    assert not again["changed"] and not again.get("diff")
    assert again["addresses"] == made["addresses"]
    assert len(rehearsal.requests("compute.*")) - before == 3  # one for each kind
    assert len(mutations(rehearsal)) == 3


def test_check_mode_predicts_and_changes_nothing(rehearsal):
    result = run(gcp_compute, rehearsal, check=True, **ALL)
    assert result["changed"] and len(result["diff"]) == 3
    assert result["addresses"] == {"kubeflow-ip": ""}
    assert mutations(rehearsal) == []


def test_drift_is_shown_and_repaired_alone(rehearsal):
    run(gcp_compute, rehearsal, **ALL)
    stored(rehearsal, "firewalls", "kubeflow-webhooks")["allowed"][0]["ports"] = ["8443"]
    stored(rehearsal, "firewalls", "kubeflow-webhooks")["description"] = "somebody's"
    stored(rehearsal, "routers", "asia-northeast3/kubeflow")["nats"][0]["logConfig"] = {"enable": True, "filter": "ALL"}
    before = len(mutations(rehearsal))
    shown = run(gcp_compute, rehearsal, check=True, **ALL)
    assert [each["after"] for each in shown["diff"]] == [{"allowed": [{"IPProtocol": "tcp", "ports": ["8443", "9443", "15017"]}]}]
    assert len(mutations(rehearsal)) == before
    assert run(gcp_compute, rehearsal, **ALL)["diff"] == shown["diff"]
    assert mutations(rehearsal)[before:] == ["compute.firewalls.patch"]
    assert stored(rehearsal, "firewalls", "kubeflow-webhooks")["description"] == "somebody's"
    assert not run(gcp_compute, rehearsal, **ALL)["changed"]


def test_nats_are_changed_in_place(rehearsal):
    run(gcp_compute, rehearsal, **ALL)
    nat = {"name": "kubeflow", "min_ports_per_vm": 256, "log_config": {"enable": True, "filter": "ERRORS_ONLY"}}
    only_primary = {"name": "second", "nat_ips": [], "source_subnetwork_ip_ranges_to_nat": "ALL_SUBNETWORKS_ALL_PRIMARY_IP_RANGES"}
    routers = [{**ROUTER, "nats": [nat, only_primary]}]
    assert run(gcp_compute, rehearsal, routers=routers)["changed"]
    found = stored(rehearsal, "routers", "asia-northeast3/kubeflow")["nats"]
    assert (found[0]["minPortsPerVm"], found[0]["logConfig"]["filter"]) == (256, "ERRORS_ONLY")
    assert found[1]["sourceSubnetworkIpRangesToNat"] == "ALL_SUBNETWORKS_ALL_PRIMARY_IP_RANGES"
    assert not run(gcp_compute, rehearsal, routers=routers)["changed"]


def test_what_cannot_be_changed_is_refused_before_anything_is(rehearsal):
    run(gcp_compute, rehearsal, **ALL)
    before = len(mutations(rehearsal))
    other = {**ALL, "addresses": [{**ADDRESS, "ip_version": "IPV6"}], "firewalls": [{**WEBHOOKS, "priority": 5}]}
    result = run(gcp_compute, rehearsal, **other)
    assert "globalAddress kubeflow-ip: ipVersion is 'IPV4', wanted 'IPV6', and cannot be changed" in result["msg"]
    assert "release it (another IP address will be given)" in result["msg"]
    assert len(mutations(rehearsal)) == before


def test_absent_removes_what_is_there(rehearsal):
    run(gcp_compute, rehearsal, **ALL)
    removed = run(gcp_compute, rehearsal, state="absent", **ALL)
    assert {each["action"] for each in removed["resources"]} == {"deleted"}
    assert removed["addresses"] == {"kubeflow-ip": ""}
    assert stored(rehearsal, "firewalls", "kubeflow-webhooks") is None
    assert not run(gcp_compute, rehearsal, state="absent", **ALL)["changed"]


def test_a_failing_operation_does_not_stop_the_others(rehearsal):
    rehearsal.faults({"kind": "operation_error", "method": "compute.firewalls.insert", "status": "INTERNAL", "message": "no luck"})
    result = run(gcp_compute, rehearsal, **ALL)
    assert result["failed"] and result["changed"]
    assert "firewall kubeflow-webhooks: created failed: no luck" in result["msg"]
    assert [each["action"] for each in result["resources"]] == ["created", "failed", "created"]
    again = run(gcp_compute, rehearsal, **ALL)
    assert not again["failed"]
    assert [each["action"] for each in again["resources"]] == ["unchanged", "created", "unchanged"]


def test_somebody_else_was_faster(rehearsal):
    rule = {
        **FOUND_RULE,
        "name": "kubeflow-webhooks",
        "selfLink": "https://x/y",
        "network": FOUND_RULE["network"].replace("prj", rehearsal.project),
    }
    theirs = {"projects": {rehearsal.project: {"compute": {"firewalls": {"kubeflow-webhooks": rule}}}}}
    rehearsal.faults({"kind": "change", "method": "compute.firewalls.insert", "state": theirs})
    result = run(gcp_compute, rehearsal, firewalls=[WEBHOOKS])
    assert not result["failed"], result["msg"]
    assert mutations(rehearsal) == ["compute.firewalls.insert", "compute.firewalls.patch"]
    assert stored(rehearsal, "firewalls", "kubeflow-webhooks")["sourceRanges"] == ["172.16.0.0/28"]


def test_quota_names_metric_limit_and_usage(rehearsal):
    rehearsal.seed({"projects": {rehearsal.project: {"quotas": {"global": {"STATIC_ADDRESSES": 0}}}}})
    result = run(gcp_compute, rehearsal, addresses=[ADDRESS])
    assert result["failed"] and (result["metric"], result["limit"]) == ("STATIC_ADDRESSES", 0)
    assert "ask for more at https://console.cloud.google.com/iam-admin/quotas?project=rehearsal-project" in result["msg"]


def test_api_that_is_off(rehearsal):
    rehearsal.seed({"projects": {rehearsal.project: {"services": ["serviceusage.googleapis.com"]}}})
    assert "gcloud services enable compute.googleapis.com" in run(gcp_compute, rehearsal, **ALL)["msg"]
    predicted = run(gcp_compute, rehearsal, check=True, **ALL)
    assert {each["action"] for each in predicted["resources"]} == {"created"}
    assert "compute.googleapis.com is not switched on" in predicted["warnings"][0]


def test_two_kinds_of_rule_exclude_each_other(rehearsal):
    both = {**WEBHOOKS, "denied": [{"ip_protocol": "udp"}]}
    assert "mutually exclusive" in run(gcp_compute, rehearsal, firewalls=[both])["msg"]

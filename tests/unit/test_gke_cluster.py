"""GKE clusters: what is asked for, what counts as different, which requests follow, and what is said when something cannot be had."""

from __future__ import annotations

import copy

import pytest
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator

from ansible_collections.mlops.platform.plugins.module_utils.gcp import api, gke
from ansible_collections.mlops.platform.plugins.modules import gke_cluster
from tests.unit.modules import run

ZONE, PROJECT = "asia-northeast3-b", "rehearsal-project"
CLOUD_PLATFORM = "https://www.googleapis.com/auth/cloud-platform"
SPEC = {name: option for name, option in gke_cluster.OPTIONS.items() if name not in api.argument_spec()}
KUBEFLOW = {
    "name": "kubeflow",
    "location": ZONE,
    "release_channel": "REGULAR",
    "network": "default",
    "private_nodes": True,
    "control_plane_cidr": "172.16.0.0/28",
    "authorized_networks": ["203.0.113.0/24", "198.51.100.7/32"],
    "dataplane_v2": True,
    "shielded_nodes": True,
    "workload_identity": True,
    "autoprovisioning": {"limits": {"cpu": 128, "memory": 2000, "nvidia-l4": 16}},
    "labels": {"mesh": "istio"},
    "node_pools": [{"name": "main", "machine_type": "e2-standard-8", "autoscaling": {"min": 1, "max": 3}}],
}


@pytest.fixture(autouse=True)
def often(monkeypatch):
    """The rehearsal's operations take 50 ms."""
    monkeypatch.setattr(api, "POLL_FIRST", 0.03)


def options(**given):
    """A cluster's options as the module gets them, all of them, those that are not given as None."""
    result = ArgumentSpecValidator(SPEC).validate({"name": "kubeflow", "location": ZONE, **copy.deepcopy(given)})
    assert not result.error_messages
    return result.validated_parameters


def compared(cluster, **given):
    wanted = gke.cluster_wanted(options(**given))
    found = gke.cluster_found(cluster, wanted)
    return {name: (found[name], wanted[name]) for name in gke.different(wanted, found)}


def calls(cluster, **given):
    given = options(**given)
    wanted = gke.cluster_wanted(given)
    return gke.cluster_calls(given, cluster, gke.different(wanted, gke.cluster_found(cluster, wanted)), PROJECT)


def ensure(rehearsal, check=False, **changes):
    return run(gke_cluster, rehearsal, check=check, **copy.deepcopy({**KUBEFLOW, **changes}))


def stored(rehearsal):
    return rehearsal.state["projects"][rehearsal.project]["container"]["clusters"][f"{ZONE}/kubeflow"]


def verbs(rehearsal, since=0):
    return [
        entry["method"].rpartition(".")[2] for entry in rehearsal.requests("container.*")[since:] if "operations" not in entry["method"]
    ]


# -- what is asked for


def test_a_cluster_in_googles_words():
    body = gke.cluster_body(options(**KUBEFLOW), PROJECT)
    assert body == {
        "name": "kubeflow",
        "releaseChannel": {"channel": "REGULAR"},
        "network": "default",
        "ipAllocationPolicy": {"useIpAliases": True},
        "privateClusterConfig": {"enablePrivateNodes": True, "masterIpv4CidrBlock": "172.16.0.0/28"},
        "masterAuthorizedNetworksConfig": {
            "enabled": True,
            "cidrBlocks": [{"cidrBlock": "198.51.100.7/32"}, {"cidrBlock": "203.0.113.0/24"}],
        },
        "networkConfig": {"datapathProvider": "ADVANCED_DATAPATH"},
        "shieldedNodes": {"enabled": True},
        "workloadIdentityConfig": {"workloadPool": "rehearsal-project.svc.id.goog"},
        "autoscaling": {
            "enableNodeAutoprovisioning": True,
            "resourceLimits": [
                {"resourceType": "cpu", "maximum": "128"},
                {"resourceType": "memory", "maximum": "2000"},
                {"resourceType": "nvidia-l4", "maximum": "16"},
            ],
            "autoprovisioningNodePoolDefaults": {
                "management": {"autoRepair": True, "autoUpgrade": True},
                "oauthScopes": [CLOUD_PLATFORM],
            },
        },
        "resourceLabels": {"mesh": "istio"},
        "nodePools": [
            {
                "name": "main",
                "initialNodeCount": 1,
                "autoscaling": {"enabled": True, "minNodeCount": 1, "maxNodeCount": 3},
                "management": {"autoRepair": True, "autoUpgrade": True},
                "config": {"machineType": "e2-standard-8", "oauthScopes": [CLOUD_PLATFORM]},
            }
        ],
    }


def test_addresses_by_size_by_cidr_and_by_the_name_of_a_range():
    policy = gke.cluster_body(options(pods_range="/17", services_range="services"), PROJECT)["ipAllocationPolicy"]
    assert policy == {"useIpAliases": True, "clusterIpv4CidrBlock": "/17", "servicesSecondaryRangeName": "services"}
    found = {"ipAllocationPolicy": {"clusterIpv4CidrBlock": "10.4.0.0/17", "servicesSecondaryRangeName": "services"}}
    assert compared(found, pods_range="/17", services_range="services") == {}
    assert compared(found, pods_range="10.4.0.0/17") == {}
    assert compared(found, pods_range="10.8.0.0/17") == {"pods_range": ("10.4.0.0/17", "10.8.0.0/17")}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"name": "Kubeflow"}, "'Kubeflow' is not a name"),
        ({"location": "Seoul"}, "'Seoul' is no zone or region"),
        ({"control_plane_cidr": "172.16.0.0/28"}, "is for clusters with private nodes"),
        ({"control_plane_cidr": "172.16.0.0/24", "private_nodes": True}, "is a /24"),
        ({"control_plane_cidr": "172.16.0.1/28", "private_nodes": True}, "has host bits set"),
        ({"authorized_networks": ["home"]}, "'home' does not appear to be"),
        ({"autoprovisioning": {"limits": {"cpu": "many"}}}, "cpu is 'many'"),
        ({"node_pools": [{"name": "p", "autoscaling": {"min": 1}}]}, "autoscaling.max is missing"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_asked(given, said):
    with pytest.raises(api.BadRequest) as error:
        gke.check_cluster(options(**given))
    assert said in str(error.value) and "Remedy: " in str(error.value)


# -- what counts as different


def test_what_is_not_given_is_not_compared():
    assert compared({"releaseChannel": {"channel": "STABLE"}, "network": "other", "resourceLabels": {"a": "b"}}) == {}


def test_what_google_leaves_out_is_its_default():
    given = {"private_nodes": False, "dataplane_v2": False, "shielded_nodes": False, "workload_identity": False, "network": "default"}
    assert compared({}, release_channel="UNSPECIFIED", authorized_networks=[], autoprovisioning={"enabled": False}, **given) == {}


@pytest.mark.parametrize(
    ("wanted", "same"),
    [("mine", True), ("projects/host/global/networks/mine", True), ("projects/prj/global/networks/mine", False), ("other", False)],
)
def test_a_network_by_name_or_path(wanted, same):
    found = {"network": "mine", "networkConfig": {"network": "projects/host/global/networks/mine"}}
    assert (compared(found, network=wanted) == {}) is same


def test_labels_of_others_stay():
    cluster = {"resourceLabels": {"mesh_id": "proj-1", "mesh": "istio", "team": "ml"}, "labelFingerprint": "f"}
    assert compared(cluster, labels={"mesh": "istio"}) == {}
    assert calls(cluster, labels={"team": "data"}) == [
        (
            "change labels",
            "container.projects.locations.clusters.setResourceLabels",
            {"resourceLabels": {"mesh_id": "proj-1", "mesh": "istio", "team": "data"}, "labelFingerprint": "f"},
        )
    ]


@pytest.mark.parametrize(
    ("given", "update"),
    [
        ({"release_channel": "RAPID"}, {"desiredReleaseChannel": {"channel": "RAPID"}}),
        ({"workload_identity": True}, {"desiredWorkloadIdentityConfig": {"workloadPool": "rehearsal-project.svc.id.goog"}}),
        ({"shielded_nodes": True}, {"desiredShieldedNodes": {"enabled": True}}),
        ({"private_nodes": True}, {"desiredDefaultEnablePrivateNodes": True}),
        ({"node_locations": ["z-b", "z-a"]}, {"desiredLocations": ["z-a", "z-b"]}),
        (
            {"authorized_networks": ["192.0.2.0/24"]},
            {"desiredMasterAuthorizedNetworksConfig": {"enabled": True, "cidrBlocks": [{"cidrBlock": "192.0.2.0/24"}]}},
        ),
        (
            {"autoprovisioning": {"limits": {"cpu": 4, "memory": 16}}},
            {
                "desiredClusterAutoscaling": {
                    "enableNodeAutoprovisioning": True,
                    "resourceLimits": [{"resourceType": "cpu", "maximum": "4"}, {"resourceType": "memory", "maximum": "16"}],
                    "autoprovisioningNodePoolDefaults": {
                        "management": {"autoRepair": True, "autoUpgrade": True},
                        "diskType": "pd-ssd",
                        "oauthScopes": [CLOUD_PLATFORM],
                    },
                    "autoscalingProfile": "OPTIMIZE_UTILIZATION",
                }
            },
        ),
    ],
)
def test_the_request_for_a_change(given, update):
    cluster = {"autoscaling": {"autoscalingProfile": "OPTIMIZE_UTILIZATION", "autoprovisioningNodePoolDefaults": {"diskType": "pd-ssd"}}}
    assert [(method, body) for _doing, method, body in calls(cluster, **given)] == [
        ("container.projects.locations.clusters.update", {"update": update})
    ]


# -- against the rehearsal


def test_made_once_and_never_again(rehearsal):
    predicted = ensure(rehearsal, check=True)
    assert predicted["changed"] and predicted["action"] == "created" and predicted["endpoint"] == ""
    assert predicted["diff"]["before"] == {} and predicted["diff"]["after"]["node_pools"]["main"]["autoscaling.max"] == 3
    assert verbs(rehearsal) == ["get"]
    made = ensure(rehearsal)
    assert made["changed"] and made["action"] == "created" and not made["warnings"], made
    assert made["status"] == "RUNNING" and made["endpoint"] and made["ca_certificate"] and made["version"]
    assert made["location"] == ZONE and made["workload_pool"] == "rehearsal-project.svc.id.goog"
    assert made["node_pools"] == ["main"]  # and no default-pool
    assert verbs(rehearsal) == ["get", "get", "create", "get"]
    again = ensure(rehearsal, subnetwork="", pods_range="")  # empty: not given
    assert not again["changed"] and again["endpoint"] == made["endpoint"] and again["diff"]["before"] == again["diff"]["after"]
    assert verbs(rehearsal)[4:] == ["get"]


def test_drift_is_shown_and_repaired_and_nothing_else_is_touched(rehearsal):
    ensure(rehearsal)
    untouched = copy.deepcopy(stored(rehearsal))
    stored(rehearsal)["shieldedNodes"] = {}
    stored(rehearsal)["autoscaling"]["resourceLimits"][0]["maximum"] = "64"
    stored(rehearsal)["resourceLabels"]["by"] = "hand"
    shown = ensure(rehearsal, check=True)
    assert shown["fields"] == ["shielded_nodes", "autoprovisioning.limits"]
    assert shown["diff"]["before"]["autoprovisioning.limits"]["cpu"] == 64
    repaired = ensure(rehearsal)
    assert repaired["changed"] and repaired["fields"] == shown["fields"] and not repaired["warnings"]
    assert [verb for verb in verbs(rehearsal) if verb not in ("get", "create")] == ["update", "update"]
    changed = stored(rehearsal)
    assert changed["resourceLabels"].pop("by") == "hand"
    assert {key: value for key, value in changed.items() if value != untouched.get(key)} == {}
    assert not ensure(rehearsal)["changed"]


def test_all_that_can_be_changed(rehearsal):
    ensure(rehearsal)
    new = {
        "release_channel": "RAPID",
        "authorized_networks": [],
        "private_nodes": False,
        "control_plane_cidr": None,
        "shielded_nodes": False,
        "workload_identity": False,
        "autoprovisioning": {"enabled": False},
        "labels": {"mesh": "none", "new": "1"},
        "node_locations": [ZONE, "asia-northeast3-a"],
    }
    result = ensure(rehearsal, **new)
    assert not result["failed"] and len(result["fields"]) == 8 and not result["warnings"], result
    assert not ensure(rehearsal, **new)["changed"]
    assert ensure(rehearsal)["changed"]
    assert stored(rehearsal)["resourceLabels"] == {"mesh": "istio", "new": "1"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"dataplane_v2": False}, "dataplane_v2 is true, wanted false"),
        ({"control_plane_cidr": "172.16.1.0/28"}, "control_plane_cidr is 172.16.0.0/28, wanted 172.16.1.0/28"),
        ({"network": "other"}, "network is default, wanted other"),
    ],
)
def test_what_cannot_be_changed_is_refused_before_anything_is(rehearsal, change, said):
    ensure(rehearsal)
    before = len(rehearsal.requests("container.*"))
    result = ensure(rehearsal, release_channel="RAPID", **change)
    assert result["failed"] and not result["changed"] and f"cluster kubeflow: {said}" in result["msg"]
    assert "another name" in result["remedy"]
    assert verbs(rehearsal, before) == ["get"]


def test_labels_that_somebody_changes_at_the_same_time(rehearsal):
    ensure(rehearsal)
    change = {"projects": {PROJECT: {"container": {"clusters": {f"{ZONE}/kubeflow": {"resourceLabels": {"by": "another"}}}}}}}
    rehearsal.faults({"kind": "change", "method": "*.setResourceLabels", "state": change})
    result = ensure(rehearsal, labels={"mesh": "none"})
    assert result["changed"] and not result["failed"], result
    assert stored(rehearsal)["resourceLabels"] == {"mesh": "none", "by": "another"}


def test_removal(rehearsal):
    assert not ensure(rehearsal, state="absent")["changed"]
    ensure(rehearsal)
    assert ensure(rehearsal, state="absent", check=True)["action"] == "deleted"
    removed = ensure(rehearsal, state="absent")
    assert removed["changed"] and removed["endpoint"] == "" and removed["diff"]["after"] == {"state": "absent"}
    assert rehearsal.state["projects"][PROJECT]["container"]["clusters"] == {}
    assert not ensure(rehearsal, state="absent")["changed"]


def test_without_node_pools_there_is_no_new_cluster(rehearsal):
    result = ensure(rehearsal, node_pools=[], check=True)
    assert result["failed"] and "node_pools names none" in result["msg"]
    ensure(rehearsal)
    assert not ensure(rehearsal, node_pools=None)["changed"]


def test_an_interrupted_run_is_taken_over(rehearsal):
    rehearsal.faults({"kind": "operation_slow", "method": "*clusters.create", "seconds": 3})
    cut = ensure(rehearsal, timeout=1)
    assert cut["failed"] and "still" in cut["msg"] and "run again later" in cut["msg"]
    assert stored(rehearsal)["status"] == "PROVISIONING"
    result = ensure(rehearsal)
    assert not result["changed"] and result["status"] == "RUNNING"
    assert verbs(rehearsal).count("create") == 1


def test_a_cut_connection_leaves_one_cluster(rehearsal):
    rehearsal.faults({"kind": "cut", "method": "*clusters.create", "when": "after"})
    result = ensure(rehearsal)
    assert not result["failed"] and result["status"] == "RUNNING", result
    assert not ensure(rehearsal)["changed"]


def test_the_network_and_the_token_fail_while_it_is_made(rehearsal):
    rehearsal.faults(
        {"kind": "operation_slow", "method": "*clusters.create", "seconds": 1},
        {"kind": "cut", "method": "*operations.get"},
        {"kind": "token_expired", "method": "*operations.get", "after": 2},
    )
    assert ensure(rehearsal)["status"] == "RUNNING"


def test_a_cluster_that_could_not_be_made_says_why_and_is_made_by_the_next_run(rehearsal):
    text = "Google Compute Engine: The zone does not have enough resources available to fulfill the request."
    rehearsal.faults({"kind": "operation_error", "method": "*clusters.create", "status": "RESOURCE_EXHAUSTED", "message": text})
    result = ensure(rehearsal)
    assert result["failed"] and "cluster kubeflow: create" in result["msg"] and text in result["msg"]
    predicted = ensure(rehearsal, check=True)
    assert predicted["action"] == "created" and stored(rehearsal)["status"] == "ERROR"
    result = ensure(rehearsal)
    assert result["action"] == "created" and result["status"] == "RUNNING"
    assert any("was never made: RESOURCE_EXHAUSTED: " + text in warning for warning in result["warnings"])
    assert not ensure(rehearsal)["changed"]


def test_a_cluster_with_nodes_that_is_broken_is_left_alone(rehearsal):
    ensure(rehearsal)
    stored(rehearsal).update(status="ERROR", conditions=[{"canonicalCode": "INTERNAL", "message": "it is broken"}])
    result = ensure(rehearsal)
    assert result["failed"] and "has the status ERROR: INTERNAL: it is broken" in result["msg"]
    assert "remove the cluster (state: absent) and make it again" in result["remedy"]
    assert ensure(rehearsal, state="absent")["changed"]
    assert ensure(rehearsal)["status"] == "RUNNING"


def test_conditions_come_with_what_to_do():
    cluster = {"conditions": [{"code": "GCE_QUOTA_EXCEEDED", "message": "Insufficient quota"}]}
    error = str(gke.broken("cluster kubeflow", cluster, "prj", "make it again"))
    assert "GCE_QUOTA_EXCEEDED: Insufficient quota" in error and "quotas?project=prj" in error and error.endswith("then make it again.")


def test_degraded_is_a_warning(rehearsal):
    ensure(rehearsal)
    stored(rehearsal).update(status="DEGRADED", conditions=[{"canonicalCode": "INTERNAL", "message": "one zone is down"}])
    result = ensure(rehearsal)
    assert not result["changed"] and "INTERNAL: one zone is down" in result["warnings"][0]


def test_quota_is_told_with_metric_limit_and_usage(rehearsal):
    rehearsal.state["projects"][PROJECT]["quotas"] = {"asia-northeast3": {"CPUS": 4}}
    result = ensure(rehearsal)
    assert result["failed"] and (result["metric"], result["limit"], result["usage"]) == ("CPUS", 4, 0)


def test_where_an_accelerator_is_offered_is_said(rehearsal):
    pool = {"name": "gpu", "machine_type": "g2-standard-4", "accelerator": {"type": "nvidia-l4"}, "count": 0}
    result = ensure(rehearsal, location="us-east4-b", node_pools=[*KUBEFLOW["node_pools"], pool])
    assert result["failed"] and "nvidia-l4 is offered in us-east4-a, us-east4-c; take" in result["remedy"], result


def test_the_api_is_off(rehearsal):
    rehearsal.state["projects"][PROJECT]["services"].remove("container.googleapis.com")
    predicted = ensure(rehearsal, check=True)
    assert predicted["action"] == "created" and "container.googleapis.com is not switched on" in predicted["warnings"][0]
    result = ensure(rehearsal)
    assert result["failed"] and result["service"] == "container.googleapis.com"

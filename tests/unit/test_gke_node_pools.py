"""Node pools: what is asked for, what counts as different, which requests follow, and what is said when something cannot be had."""

from __future__ import annotations

import copy
import threading
import time

import pytest
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator

from ansible_collections.mlops.platform.plugins.module_utils.gcp import api, gke
from ansible_collections.mlops.platform.plugins.modules import gke_cluster, gke_node_pools
from tests.unit.modules import run

ZONE = "asia-northeast3-b"
CLOUD_PLATFORM = "https://www.googleapis.com/auth/cloud-platform"
GPU_TAINT = {"key": "nvidia.com/gpu", "value": "present", "effect": "NO_SCHEDULE"}
MAIN = {"name": "main", "machine_type": "e2-standard-8", "autoscaling": {"min": 1, "max": 3}}
L4 = {
    "name": "l4",
    "machine_type": "g2-standard-8",
    "accelerator": {"type": "nvidia-l4", "driver_version": "latest", "sharing": {"max_clients": 4}},
    "autoscaling": {"min": 0, "max": 1, "location_policy": "ANY"},
    "spot": True,
    "labels": {"team": "ml"},
    "taints": [{"key": "gpu", "value": "yes"}],
    "management": {"auto_repair": True, "auto_upgrade": True},
}


def options(**pool):
    """A node pool's options as a module gets them, all of them, those that are not given as None."""
    result = ArgumentSpecValidator({"pools": gke.pools_spec()}).validate({"pools": [{"name": "p", **copy.deepcopy(pool)}]})
    assert not result.error_messages
    return result.validated_parameters["pools"][0]


def compared(pool, **given):
    wanted = gke.pool_wanted(options(**given))
    found = gke.pool_found(pool, wanted)
    return {name: (found[name], wanted[name]) for name in gke.different(wanted, found)}


def calls(pool, **given):
    given = options(**given)
    wanted = gke.pool_wanted(given)
    return gke.pool_calls(given, pool, gke.different(wanted, gke.pool_found(pool, wanted)))


# -- what is asked for


def test_a_gpu_pool_in_googles_words():
    body = gke.pool_body(options(**L4))
    assert body == {
        "name": "l4",
        "initialNodeCount": 0,
        "autoscaling": {"enabled": True, "minNodeCount": 0, "maxNodeCount": 1, "locationPolicy": "ANY"},
        "management": {"autoRepair": True, "autoUpgrade": True},
        "config": {
            "machineType": "g2-standard-8",
            "accelerators": [
                {
                    "acceleratorType": "nvidia-l4",
                    "acceleratorCount": "1",
                    "gpuDriverInstallationConfig": {"gpuDriverVersion": "LATEST"},
                    "gpuSharingConfig": {"gpuSharingStrategy": "TIME_SHARING", "maxSharedClientsPerGpu": "4"},
                }
            ],
            "spot": True,
            "labels": {"team": "ml"},
            "taints": [{"key": "gpu", "value": "yes", "effect": "NO_SCHEDULE"}],
            "oauthScopes": [CLOUD_PLATFORM],
        },
    }


@pytest.mark.parametrize(
    ("given", "nodes"),
    [
        ({}, 1),
        ({"count": 0}, 0),
        ({"autoscaling": {"min": 2, "max": 4}}, 2),
        ({"autoscaling": {"max": 4}}, 0),
        ({"autoscaling": {"total_max": 4}}, 1),
        ({"count": 3, "autoscaling": {"min": 2, "max": 4}}, 3),
        ({"autoscaling": {"enabled": False}}, 1),
    ],
)
def test_first_number_of_nodes(given, nodes):
    assert gke.pool_body(options(**given))["initialNodeCount"] == nodes


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"name": "Main"}, "'Main' is not a name"),
        ({"name": "a" * 41}, "at most 40"),
        ({"autoscaling": {"min": 3, "max": 2}}, "autoscaling.min 3 and autoscaling.max 2 are no range"),
        ({"autoscaling": {"min": 0, "max": 0}}, "are no range"),
        ({"autoscaling": {"min": 1}}, "autoscaling.max is missing"),
        ({"autoscaling": {"max": 1, "total_max": 2}}, "give one of both pairs"),
        ({"autoscaling": {"location_policy": "ANY"}}, "has no upper limit"),
        ({"count": -1}, "count is -1"),
        ({"accelerator": {"type": "nvidia-l4", "count": 0}}, "accelerator.count is 0"),
        ({"accelerator": {"type": "nvidia-l4", "sharing": {"max_clients": 49}}}, "2 to 48"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_asked(given, said):
    with pytest.raises(api.BadRequest, match=said.replace(".", r"\.")):
        gke.check_pools([options(**given)])


def test_a_name_twice():
    with pytest.raises(api.BadRequest, match="main is there twice"):
        gke.check_pools([options(name="main"), options(name="main")])


# -- what counts as different


def test_what_is_not_given_is_not_compared():
    assert compared({"config": {"machineType": "e2-medium", "labels": {"a": "b"}}, "initialNodeCount": 7}) == {}


def test_what_is_empty_is_not_given():
    given = gke.without_empty({"node_pools": [options(service_account="", labels={"a": ""}, taints=[{"key": "k"}], count=0)]})
    assert gke.pool_wanted(given["node_pools"][0]) == {"labels": {"a": ""}, "taints": ["k=:NoSchedule"], "count": 0}


def test_what_google_leaves_out_is_its_default():
    pool = {"config": {"oauthScopes": [CLOUD_PLATFORM]}, "autoscaling": {"enabled": True, "maxNodeCount": 3}}
    given = {"spot": False, "oauth_scopes": ["cloud-platform"], "autoscaling": {"min": 0, "max": 3, "location_policy": "BALANCED"}}
    assert compared(pool, labels={}, taints=[], tags=[], count=1, shielded={"secure_boot": False}, **given) == {}


def test_what_google_adds_is_no_difference():
    pool = {
        "config": {
            "labels": {"team": "ml", "cloud.google.com/gke-spot": "true"},
            "resourceLabels": {"goog-gke-node-pool-provisioning-model": "spot", "goog-gke-accelerator-type": "nvidia-l4"},
            "taints": [GPU_TAINT, {"key": "gpu", "value": "yes", "effect": "NO_SCHEDULE"}],
            "accelerators": [{"acceleratorCount": "1", "acceleratorType": "https://compute/projects/p/zones/z/acceleratorTypes/nvidia-l4"}],
        }
    }
    given = {"labels": {"team": "ml"}, "resource_labels": {}, "taints": L4["taints"], "accelerator": {"type": "nvidia-l4"}}
    assert compared(pool, **given) == {}
    # whoever names Google's taint has it compared
    assert compared(pool, taints=[*L4["taints"], {"key": "nvidia.com/gpu", "value": "present"}]) == {}


def test_what_somebody_added_is_a_difference():
    pool = {"config": {"labels": {"team": "ml", "by": "hand"}, "taints": [{"key": "x", "effect": "NO_EXECUTE"}]}}
    assert compared(pool, labels={"team": "ml"}, taints=[]) == {
        "labels": ({"team": "ml", "by": "hand"}, {"team": "ml"}),
        "taints": (["x=:NoExecute"], []),
    }


def test_the_autoscalers_number_of_nodes_is_no_difference():
    pool = {"initialNodeCount": 5, "autoscaling": {"enabled": True, "minNodeCount": 1, "maxNodeCount": 9}}
    assert compared(pool, count=1, autoscaling={"min": 1, "max": 9}) == {}
    assert compared(pool, count=1) == {"count": (5, 1)}


# -- which requests follow

POOL = {
    "name": "p",
    "version": "1.35.3-gke.1",
    "config": {
        "machineType": "g2-standard-8",
        "diskType": "pd-balanced",
        "diskSizeGb": 100,
        "labels": {"a": "b", "cloud.google.com/gke-spot": "true"},
        "taints": [GPU_TAINT],
        "accelerators": [
            {
                "acceleratorType": "nvidia-l4",
                "acceleratorCount": "1",
                "gpuDriverInstallationConfig": {"gpuDriverVersion": "DEFAULT"},
            }
        ],
        "resourceLabels": {"goog-gke-accelerator-type": "nvidia-l4", "old": "one"},
    },
    "autoscaling": {"enabled": True, "minNodeCount": 1, "maxNodeCount": 3, "locationPolicy": "ANY"},
    "management": {"autoRepair": True, "autoUpgrade": True, "upgradeOptions": {"description": "soon"}},
    "upgradeSettings": {"maxSurge": 1, "strategy": "SURGE"},
    "initialNodeCount": 1,
    "locations": [ZONE],
}


@pytest.mark.parametrize(
    ("given", "method", "body"),
    [
        ({"machine_type": "g2-standard-4"}, "update", {"machineType": "g2-standard-4", "diskType": "pd-balanced", "diskSizeGb": "100"}),
        ({"disk_size_gb": 200}, "update", {"machineType": "g2-standard-8", "diskType": "pd-balanced", "diskSizeGb": "200"}),
        ({"image_type": "ubuntu_containerd"}, "update", {"imageType": "ubuntu_containerd", "nodeVersion": "1.35.3-gke.1"}),
        ({"labels": {"c": "d"}}, "update", {"labels": {"labels": {"cloud.google.com/gke-spot": "true", "c": "d"}}}),
        (
            {"taints": [{"key": "k", "value": "v", "effect": "NoExecute"}]},
            "update",
            {"taints": {"taints": [GPU_TAINT, {"key": "k", "value": "v", "effect": "NO_EXECUTE"}]}},
        ),
        ({"tags": ["web"]}, "update", {"tags": {"tags": ["web"]}}),
        ({"resource_labels": {}}, "update", {"resourceLabels": {"labels": {"goog-gke-accelerator-type": "nvidia-l4"}}}),
        ({"workload_metadata": "GKE_METADATA"}, "update", {"workloadMetadataConfig": {"mode": "GKE_METADATA"}}),
        ({"locations": ["z-b", "z-a"]}, "update", {"locations": ["z-a", "z-b"]}),
        ({"upgrade": {"max_surge": 2}}, "update", {"upgradeSettings": {"maxSurge": 2, "strategy": "SURGE"}}),
        (
            {"accelerator": {"type": "nvidia-l4", "driver_version": "latest"}},
            "update",
            {
                "accelerators": [
                    {
                        "acceleratorType": "nvidia-l4",
                        "acceleratorCount": "1",
                        "gpuDriverInstallationConfig": {"gpuDriverVersion": "LATEST"},
                    }
                ]
            },
        ),
        (
            {"autoscaling": {"min": 0, "max": 5}},
            "setAutoscaling",
            {"autoscaling": {"enabled": True, "minNodeCount": 0, "maxNodeCount": 5, "locationPolicy": "ANY"}},
        ),
        (
            {"autoscaling": {"total_max": 5}},
            "setAutoscaling",
            {"autoscaling": {"enabled": True, "totalMinNodeCount": 0, "totalMaxNodeCount": 5, "locationPolicy": "ANY"}},
        ),
        ({"autoscaling": {"enabled": False}}, "setAutoscaling", {"autoscaling": {"enabled": False}}),
        ({"management": {"auto_upgrade": False}}, "setManagement", {"management": {"autoRepair": True, "autoUpgrade": False}}),
        ({"count": 2}, "setSize", {"nodeCount": 2}),
    ],
)
def test_the_request_for_a_change(given, method, body):
    assert [(name.rpartition(".")[2], sent) for _doing, name, sent in calls(POOL, **given)] == [(method, body)]


def test_each_kind_of_change_has_a_request_of_its_own():
    found = calls(POOL, labels={}, taints=[{"key": "k"}], machine_type="g2-standard-4", disk_type="pd-ssd", autoscaling={"max": 4})
    assert [doing for doing, *_rest in found] == [
        "change machine_type, disk_type",
        "change labels",
        "change taints",
        "change autoscaling.min, autoscaling.max",
    ]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"spot": True}, "spot is false, wanted true"),
        ({"service_account": "a@b"}, "service_account is default, wanted a@b"),
        ({"accelerator": {"type": "nvidia-l4", "count": 2}}, "accelerator.count is 1, wanted 2"),
        ({"accelerator": {"type": "nvidia-tesla-t4"}}, "accelerator.type is nvidia-l4, wanted nvidia-tesla-t4"),
        ({"shielded": {"secure_boot": True}}, "shielded.secure_boot is false, wanted true"),
        ({"oauth_scopes": ["cloud-platform"]}, f"oauth_scopes is empty, wanted {CLOUD_PLATFORM}"),
    ],
)
def test_what_google_cannot_change_is_named_with_the_way_out(given, said):
    wanted = gke.pool_wanted(options(**given))
    found = gke.pool_found(POOL, wanted)
    with pytest.raises(api.BadRequest) as error:
        gke.check_pool_changes("p", gke.different(wanted, found), wanted, found)
    assert said in str(error.value)
    assert "GKE cannot change it afterwards" in str(error.value)
    assert "give the node pool another name" in str(error.value) and "p removed after it (state: absent)" in str(error.value)


# -- against the rehearsal


@pytest.fixture(autouse=True)
def often(monkeypatch):
    """The rehearsal's operations take 50 ms."""
    monkeypatch.setattr(api, "POLL_FIRST", 0.03)


@pytest.fixture
def cluster(rehearsal):
    """A cluster with the node pool main."""
    made = run(gke_cluster, rehearsal, name="kubeflow", location=ZONE, node_pools=[MAIN])
    assert made["action"] == "created", made
    return rehearsal


def pools(rehearsal, *given, check=False, **more):
    return run(gke_node_pools, rehearsal, check=check, cluster="kubeflow", location=ZONE, node_pools=copy.deepcopy(list(given)), **more)


def stored(rehearsal, name="main"):
    return rehearsal.state["projects"][rehearsal.project]["container"]["clusters"][f"{ZONE}/kubeflow"]["nodePools"][name]


def mutations(rehearsal, since=0):
    asked = [entry["method"].rpartition(".")[2] for entry in rehearsal.requests("container.*")[since:]]
    return [verb for verb in asked if verb not in ("get", "list")]


def test_made_once_and_never_again(cluster):
    before = len(cluster.requests("container.*"))
    predicted = pools(cluster, MAIN, L4, check=True)
    assert predicted["changed"] and [pool["action"] for pool in predicted["node_pools"]] == ["unchanged", "created"]
    assert mutations(cluster, before) == []
    made = pools(cluster, MAIN, L4)
    assert made["changed"] and not made["warnings"]
    assert [(pool["action"], pool["status"]) for pool in made["node_pools"]] == [("unchanged", "RUNNING"), ("created", "RUNNING")]
    assert made["diff"] == predicted["diff"]
    assert GPU_TAINT in stored(cluster, "l4")["config"]["taints"]
    before = len(cluster.requests())
    again = pools(cluster, MAIN, L4)
    assert not again["changed"] and again["diff"] == {"before": {}, "after": {}}
    assert [entry["method"].rpartition(".")[2] for entry in cluster.requests()[before:] if "oauth2" not in entry["method"]] == ["get"]


def test_drift_is_shown_and_repaired_and_nothing_else_is_touched(cluster):
    pools(cluster, L4)
    stored(cluster)["autoscaling"]["maxNodeCount"] = 2
    untouched = copy.deepcopy(stored(cluster, "l4"))
    shown = pools(cluster, MAIN, L4, check=True)
    assert shown["node_pools"][0]["fields"] == ["autoscaling.max"]
    assert shown["diff"]["before"] == {
        "main": {"machine_type": "e2-standard-8", "autoscaling.enabled": True, "autoscaling.min": 1, "autoscaling.max": 2}
    }
    assert shown["diff"]["after"]["main"]["autoscaling.max"] == 3
    before = len(cluster.requests("container.*"))
    assert pools(cluster, MAIN, L4)["changed"]
    assert mutations(cluster, before) == ["setAutoscaling"]
    assert stored(cluster)["autoscaling"]["maxNodeCount"] == 3 and stored(cluster, "l4") == untouched
    assert not pools(cluster, MAIN, L4)["changed"]


def test_all_that_can_be_changed_is_changed_as_google_takes_it(cluster):
    pools(cluster, {"name": "work", "machine_type": "e2-standard-2", "count": 1})
    changed = {
        "name": "work",
        "machine_type": "e2-standard-4",
        "disk_size_gb": 50,
        "disk_type": "pd-ssd",
        "image_type": "UBUNTU_CONTAINERD",
        "count": 2,
        "labels": {"a": "b"},
        "taints": [{"key": "k", "value": "v"}],
        "tags": ["web"],
        "resource_labels": {"cost": "ml"},
        "workload_metadata": "GCE_METADATA",
        "upgrade": {"max_surge": 2, "max_unavailable": 1},
    }
    result = pools(cluster, changed)
    assert result["changed"] and not result["warnings"], result
    assert not pools(cluster, changed)["changed"]
    emptied = {**changed, "labels": {}, "taints": [], "tags": [], "resource_labels": {}}
    assert pools(cluster, emptied)["node_pools"][0]["fields"] == ["labels", "taints", "tags", "resource_labels"]
    assert not pools(cluster, emptied)["changed"]


def test_the_taint_of_gpus_survives_a_change_of_taints(cluster):
    pools(cluster, L4)
    pools(cluster, {**L4, "taints": []})
    assert stored(cluster, "l4")["config"]["taints"] == [GPU_TAINT]


def test_sharing_and_driver_of_gpus_change_in_place(cluster):
    pools(cluster, L4)
    new = {**L4, "accelerator": {"type": "nvidia-l4", "driver_version": "default", "sharing": {"strategy": "mps", "max_clients": 8}}}
    result = pools(cluster, new)
    assert result["node_pools"][0]["fields"] == [
        "accelerator.driver_version",
        "accelerator.sharing.strategy",
        "accelerator.sharing.max_clients",
    ]
    assert not pools(cluster, new)["changed"]


def test_what_cannot_be_changed_is_refused_before_anything_is(cluster):
    pools(cluster, {"name": "work"})
    before = len(cluster.requests("container.*"))
    result = pools(cluster, {**MAIN, "labels": {"x": "y"}}, {"name": "work", "spot": True})
    assert result["failed"] and not result["changed"]
    assert "node pool work: spot is false, wanted true" in result["msg"]
    assert mutations(cluster, before) == []


def test_a_new_one_is_there_before_the_old_one_goes(cluster):
    before = len(cluster.requests("container.*"))
    result = pools(cluster, {"name": "main", "state": "absent"}, {**MAIN, "name": "main2"})
    assert [pool["action"] for pool in result["node_pools"]] == ["deleted", "created"]
    assert mutations(cluster, before) == ["create", "delete"]
    again = pools(cluster, {"name": "main", "state": "absent"}, {**MAIN, "name": "main2"})
    assert not again["changed"]


def test_ten_node_pools_take_ten_requests_and_one_that_found_the_cluster_busy(cluster):
    ten = [{"name": f"pool-{number}", "machine_type": "e2-small", "count": 0, "labels": {"n": number}} for number in range(10)]
    before = len(cluster.requests("container.*"))
    result = pools(cluster, *ten)
    assert result["changed"] and not result["failed"], result
    sent = mutations(cluster, before)
    assert sent.count("create") <= 11 and set(sent) == {"create"}
    clusters = cluster.requests("container.projects.locations.clusters.get")
    assert len(clusters) <= 4  # two of the fixture, one before and one after
    before = len(cluster.requests("container.*"))
    assert not pools(cluster, *ten)["changed"]
    assert len(cluster.requests("container.*")) == before + 1
    stored(cluster, "pool-3")["config"]["labels"] = {}
    stored(cluster, "pool-7")["config"]["labels"] = {}
    before = len(cluster.requests("container.*"))
    assert [pool["name"] for pool in pools(cluster, *ten)["node_pools"] if pool["action"] == "changed"] == ["pool-3", "pool-7"]
    assert len(mutations(cluster, before)) <= 3


def test_several_at_once_where_google_takes_them(cluster):
    cluster.state["projects"][cluster.project]["container"]["parallelNodePools"] = 5
    cluster.faults({"kind": "operation_slow", "method": "*nodePools.create", "seconds": 3, "times": None})
    five = [{"name": f"pool-{number}", "machine_type": "e2-small", "count": 0} for number in range(5)]
    before = len(cluster.requests("container.*"))
    assert pools(cluster, *five)["changed"]
    assert mutations(cluster, before) == ["create"] * 5
    ends = [one["ends"] for one in cluster.state["operations"].values() if one["method"].endswith("nodePools.create")]
    assert len(ends) == 5 and max(ends) - min(ends) < 3  # the last began before the first had ended


class Busy:
    """A GKE that takes so many operations on a cluster at once."""

    project, timeout = "prj", 5

    def __init__(self, bears, foreign=0):
        self.bears, self.foreign, self.running, self.most, self.calls, self.waited = bears, foreign, [], 0, 0, []

    def call(self, method, body=None, *, retry=None, **parameters):
        self.calls += 1
        if self.foreign:
            text = "Cluster is running incompatible operation operation-9-foreign."
            raise api.BadRequest(text, status=400, code="FAILED_PRECONDITION")
        if len(self.running) >= self.bears:
            raise api.BadRequest(f"Operation {self.running[0]} is currently creating a node pool.", status=400, code="FAILED_PRECONDITION")
        self.running.append(f"operation-{self.calls}-own")
        self.most = max(self.most, len(self.running))
        return {"name": self.running[-1], "status": "RUNNING"}

    def wait(self, operation, what=""):
        self.waited.append(operation["name"])
        if operation["name"].endswith("foreign"):
            self.foreign -= 1
            raise api.OperationFailed("theirs failed", api.BadRequest("no"), operation)
        self.running.remove(operation["name"])

    def report(self, line):
        pass


def steps(count):
    return [gke.Step(f"node pool {number}", "create", f"{gke.POOLS}.create", {}, {"parent": "p"}, again=True) for number in range(count)]


@pytest.mark.parametrize(("bears", "most", "calls"), [(1, 1, 11), (3, 3, 11), (20, gke.PARALLEL, 10)])
def test_as_many_at_once_as_google_bears(bears, most, calls):
    gcp = Busy(bears)
    runner = gke.Runner(gcp, ZONE)
    runner.run(steps(10))
    assert (gcp.most, gcp.calls, len(runner.done), gcp.running) == (most, calls, 10, [])


def test_somebody_elses_operation_is_waited_for_and_its_failure_is_theirs():
    gcp = Busy(5, foreign=2)
    gke.Runner(gcp, ZONE).run(steps(1))
    assert gcp.waited == ["operation-9-foreign", "operation-9-foreign", "operation-3-own"]


def test_after_a_failure_the_running_ones_are_waited_for_and_no_more_begun(cluster):
    cluster.faults(
        {
            "kind": "operation_error",
            "method": "*nodePools.create",
            "after": 1,
            "seconds": 3,  # so that it still runs when the third is asked for, however slow this machine is
            "status": "RESOURCE_EXHAUSTED",
            "message": "Quota 'CPUS' exceeded. Limit: 24.0 in region asia-northeast3.",
        }
    )
    new = [{"name": name, "machine_type": "e2-small"} for name in ("one", "two", "three")]
    result = pools(cluster, *new)
    assert result["failed"] and result["changed"]
    assert "node pool two: create" in result["msg"] and "CPUS" in result["msg"] and "24" in result["msg"]
    assert "Done: node pool one: create" in result["msg"] and "Not begun: node pool three: create" in result["msg"]
    assert (result["metric"], result["limit"]) == ("CPUS", 24)
    broken = pools(cluster, *new)
    assert broken["failed"] and "node pool two has the status ERROR" in broken["msg"] and "state: absent" in broken["msg"]
    assert pools(cluster, {"name": "two", "state": "absent"})["changed"]
    assert not pools(cluster, *new)["failed"]
    assert not pools(cluster, *new)["changed"]


def test_quota_is_told_with_metric_limit_and_usage(cluster):
    cluster.state["projects"][cluster.project]["quotas"] = {"asia-northeast3": {"NVIDIA_L4_GPUS": 0, "PREEMPTIBLE_NVIDIA_L4_GPUS": 0}}
    result = pools(cluster, {**L4, "spot": False, "autoscaling": None, "count": 1})
    assert result["failed"] and not result["changed"]
    assert (result["metric"], result["limit"], result["usage"]) == ("NVIDIA_L4_GPUS", 0, 0)
    assert result["msg"].startswith("node pool l4: create: ") and "iam-admin/quotas" in result["msg"]


def test_where_an_accelerator_is_offered_is_said(cluster):
    h100 = {"name": "h100", "machine_type": "a3-highgpu-8g", "accelerator": {"type": "nvidia-h100-80gb", "count": 8}, "count": 0}
    result = pools(cluster, h100)
    assert result["failed"]
    assert 'Accelerator type "nvidia-h100-80gb" does not exist in zone asia-northeast3-b' in result["msg"]
    assert "nvidia-h100-80gb is offered in " in result["remedy"] and "us-central1-a" in result["remedy"]
    result = pools(cluster, {**h100, "accelerator": {"type": "nvidia-l5"}})
    assert "no zone offers nvidia-l5" in result["msg"]


def test_without_permission_the_principal_is_named(cluster):
    cluster.faults({"kind": "denied", "method": "*nodePools.create", "permission": "container.clusters.update"})
    result = pools(cluster, L4)
    assert result["failed"] and result["permission"] == "container.clusters.update" and "@" in result["principal"]


def test_no_cluster_and_no_api_are_errors_and_predictions(rehearsal):
    result = pools(rehearsal, MAIN)
    assert result["failed"] and "There is no cluster kubeflow in asia-northeast3-b" in result["msg"]
    predicted = pools(rehearsal, MAIN, check=True)
    assert predicted["changed"] and "There is no cluster kubeflow" in predicted["warnings"][0]
    rehearsal.state["projects"][rehearsal.project]["services"].remove("container.googleapis.com")
    predicted = pools(rehearsal, MAIN, {"name": "old", "state": "absent"}, check=True)
    assert [pool["action"] for pool in predicted["node_pools"]] == ["created", "unchanged"]
    assert "container.googleapis.com is not switched on" in predicted["warnings"][0]


def test_a_cut_connection_leaves_one_pool(cluster):
    cluster.faults({"kind": "cut", "method": "*nodePools.create", "when": "after"})
    result = pools(cluster, L4)
    assert not result["failed"] and result["node_pools"][0]["status"] == "RUNNING", result
    assert not pools(cluster, L4)["changed"]


def test_what_another_run_has_begun_is_taken_over(cluster):
    gcp = api.Gcp(cluster.project, endpoint=cluster.endpoint, credentials_file=cluster.credentials_file)
    cluster.faults({"kind": "operation_slow", "method": "*nodePools.create", "seconds": 1})
    gcp.call(f"{gke.POOLS}.create", {"nodePool": gke.pool_body(options(**L4))}, parent=gke.cluster_path(cluster.project, ZONE, "kubeflow"))
    assert stored(cluster, "l4")["status"] == "PROVISIONING"
    result = pools(cluster, L4)
    assert not result["changed"] and not result["failed"] and result["node_pools"][0]["status"] == "RUNNING"


def test_two_runs_at_once_agree(cluster):
    results = []
    threads = [threading.Thread(target=lambda name=name: results.append(direct(cluster, name))) for name in ("a", "b")]
    for thread in threads:
        thread.start()
        time.sleep(0.02)
    for thread in threads:
        thread.join()
    assert results == [None, None]
    assert {pool["status"] for pool in (stored(cluster, f"{run}-{n}") for run in "ab" for n in range(3))} == {"RUNNING"}


def direct(rehearsal, prefix):
    """The module's work without its output, which threads cannot capture."""
    gcp = api.Gcp(rehearsal.project, endpoint=rehearsal.endpoint, credentials_file=rehearsal.credentials_file)
    work = gke_node_pools.Work(gcp, ZONE, "kubeflow", [options(name=f"{prefix}-{n}", count=0) for n in range(3)])
    work.plan()
    work.do()


def test_an_operation_that_takes_too_long_goes_on_and_is_finished_by_the_next_run(cluster):
    cluster.faults({"kind": "operation_slow", "method": "*nodePools.create", "seconds": 3})
    result = pools(cluster, L4, timeout=1)
    assert result["failed"] and "still" in result["msg"] and "run again later" in result["msg"]
    result = pools(cluster, L4)
    assert not result["failed"] and not result["changed"]

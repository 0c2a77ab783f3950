"""Simulated GPUs, Knative's features and node pools through Config Connector, on a real API server."""

from __future__ import annotations

import pytest
import yaml

from ansible_collections.mlops.platform.plugins.module_utils import apply, gpu
from ansible_collections.mlops.platform.plugins.module_utils.client import Cluster
from ansible_collections.mlops.platform.plugins.modules import simulated_gpu
from rehearsal.state import PROJECT

from .conftest import ROOT
from .test_config_connector import CRDS, rehearsed, served  # noqa: F401 (fixtures)

NODE = "gpu-test"
FEATURES = yaml.safe_load((ROOT / "roles/gpu_nodes/vars/main.yml").read_text())["__gpu_nodes_features"]


@pytest.fixture
def node(cluster):
    """A node that nobody runs on; gives a function that reads it."""
    cluster.apply({"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE}}, "test")
    yield lambda: cluster.get("v1", "Node", NODE)
    cluster.delete("v1", "Node", NODE)


@pytest.fixture
def simulate(cluster):
    """Runs the module on that node."""

    def run(count, check_mode=False, accelerator=None):
        return simulated_gpu.run(cluster, {"count": count, "nodes": [NODE], "accelerator": accelerator}, check_mode)

    return run


def set_status(cluster, amount, name=NODE):
    path = cluster.resource("v1", "Node").path(None, name)
    body = {"status": {what: {gpu.RESOURCE: amount} for what in ("capacity", "allocatable")}}
    cluster.request("PATCH", f"{path}/status", body=body, content_type=gpu.MERGE_PATCH)


def action(result):
    return result["nodes"][0]["action"]


def test_gpus_are_simulated_once_and_taken_away_wholly(node, simulate):
    before = node()
    assert simulate(2, check_mode=True)["changed"] and node() == before
    result = simulate(2, accelerator="nvidia-l4")
    assert result["changed"] and action(result) == "simulated"
    assert (gpu.gpus(node()), gpu.gpus(node(), "capacity"), gpu.is_simulated(node())) == (2, 2, True)
    assert node()["metadata"]["labels"][gpu.ACCELERATOR] == "nvidia-l4"
    assert not simulate(2, accelerator="nvidia-l4")["changed"]
    assert simulate(1, accelerator="nvidia-l4")["changed"] and gpu.gpus(node()) == 1
    assert action(simulate(0)) == "removed"
    assert node()["status"] == before["status"] and not gpu.is_simulated(node())
    assert gpu.ACCELERATOR not in (node()["metadata"].get("labels") or {}) and gpu.OURS not in (node()["metadata"].get("annotations") or {})
    assert not simulate(0)["changed"]


@pytest.mark.parametrize("amount", [None, "0", "5"])
def test_drift_is_repaired(cluster, node, simulate, amount):
    simulate(2)
    set_status(cluster, amount)
    assert simulate(2, check_mode=True)["changed"]
    assert simulate(2)["changed"] and gpu.gpus(node()) == 2
    assert not simulate(2)["changed"]


def test_real_gpus_are_left_alone(cluster, node, simulate):
    set_status(cluster, "8")
    result = simulate(2)
    assert not result["changed"] and result["nodes"] == [{"name": NODE, "action": "left", "gpus": 8}]
    assert not simulate(0)["changed"] and gpu.gpus(node()) == 8


def test_gpus_of_a_rehearsal_are_left_alone(cluster, node, simulate):
    simulate(2)
    path = cluster.resource("v1", "Node").path(None, NODE)
    cluster.request("PATCH", path, body={"metadata": {"annotations": {gpu.OURS: None}}}, content_type=gpu.MERGE_PATCH)
    assert action(simulate(2)) == "unchanged"
    assert action(simulate(0)) == "left" and gpu.gpus(node()) == 2


def test_a_node_of_a_cloud_is_refused(cluster, simulate, node):
    path = cluster.resource("v1", "Node").path(None, NODE)
    cluster.request("PATCH", path, body={"spec": {"providerID": "gce://p/z/n"}}, content_type=gpu.MERGE_PATCH)
    with pytest.raises(gpu.Refused, match="test clusters only"):
        simulate(1)
    assert not gpu.is_simulated(node())


# -- Knative's features -------------------------------------------------------------------------------------------------


@pytest.fixture
def features(cluster):
    """config-features as the role knative applies it, beside what the role gpu_nodes sets."""
    cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "knative-serving"}}, "test")
    cluster.delete("v1", "ConfigMap", "config-features", "knative-serving")

    def run(manager, **data):
        doc = FEATURES if manager == "gpu-nodes" else {**FEATURES, "data": {"_example": "…", **data}}
        report = apply.apply(cluster, [doc], f"mlops-platform-{manager}")
        return report.changed

    yield run
    cluster.delete("v1", "ConfigMap", "config-features", "knative-serving")


def test_both_roles_keep_their_fields(features, cluster):
    assert features("knative") and features("gpu-nodes")
    assert not features("knative") and not features("gpu-nodes")
    assert features("knative", secure_pod_defaults="enabled")  # another setting of it changes, and nothing else
    assert not features("gpu-nodes")
    data = cluster.get("v1", "ConfigMap", "config-features", "knative-serving")["data"]
    assert set(data) == {"_example", "secure_pod_defaults", *FEATURES["data"]}


def test_both_may_say_the_same(features):
    name = "kubernetes.podspec-tolerations"
    assert features("knative", **{name: "enabled"}) and features("gpu-nodes")
    assert not features("knative", **{name: "enabled"}) and not features("gpu-nodes")


def test_what_both_say_differently_is_an_error(features):
    features("knative", **{"kubernetes.podspec-tolerations": "disabled"})
    with pytest.raises(apply.ApplyError, match="mlops-platform-knative owns .data.kubernetes.podspec-tolerations"):
        features("gpu-nodes")


# -- through Config Connector -------------------------------------------------------------------------------------------


@pytest.fixture
def role(play, tmp_path):
    """`role(rehearsal, kubeconfig, *arguments, **variables)` makes a cluster through Config Connector, then GPU nodes for it."""

    def run(server, kubeconfig, *arguments, roles=("mgmt_cluster", "gpu_nodes"), **variables):
        given = {
            "ansible_python_interpreter": "{{ ansible_playbook_python }}",
            "platform_gcp_project": PROJECT,
            "platform_gcp_endpoint": server.endpoint,
            "platform_gcp_credentials_file": server.credentials_file,
            "mgmt_cluster_backend": "config_controller",
            "mgmt_cluster_kubeconfig": str(server.state_dir / "kubeconfig"),
            "mgmt_cluster_join": False,
            "gpu_nodes_kubeconfig": kubeconfig,
            "gpu_nodes_smoke": "never",  # there is no kubelet
            "gpu_nodes_simulated": 0,
            "platform_gcp_timeout": 120,
            **variables,
        }
        tasks = {"hosts": "localhost", "connection": "local", "gather_facts": False, "vars": given}
        playbook = tmp_path / "role.yml"
        playbook.write_text(yaml.safe_dump([{**tasks, "roles": [f"mlops.platform.{name}" for name in roles]}]))
        return play(playbook, *arguments)

    return run


def pool(server, name):
    clusters = server.state["projects"][PROJECT]["container"]["clusters"]
    return next(found for found in clusters.values() if found["name"] == "kubeflow")["nodePools"].get(name)


@pytest.mark.skipif(not CRDS.is_dir(), reason="MLOPS_PLATFORM_UPSTREAM names no directory with Config Connector's CRDs")
def test_pools_are_made_through_config_connector(role, rehearsed, served):  # noqa: F811
    set_status(Cluster(served), "0", "node")  # as a kubelet would, for the rehearsal to advertise GPUs on it
    pools = [
        {"name": "l4", "accelerator": "nvidia-l4", "max": 2, "spot": True, "sharing": {"max_clients": 4}, "labels": {"team": "ml"},
         "taints": [{"key": "team", "value": "ml", "effect": "NoSchedule"}]},
        {"name": "old", "accelerator": "nvidia-l4", "driver_version": "latest"},
    ]  # fmt: skip
    run = role(rehearsed, served, gpu_nodes_pools=pools)
    assert run.code == 0, run.output
    made = pool(rehearsed, "l4")
    assert made["config"]["machineType"] == "g2-standard-8" and made["config"]["spot"]
    (card,) = made["config"]["accelerators"]
    assert card["acceleratorType"] == "nvidia-l4" and card["gpuSharingConfig"]["maxSharedClientsPerGpu"] == "4"
    assert made["autoscaling"] == {"enabled": True, "maxNodeCount": 2, "locationPolicy": "ANY"}
    assert pool(rehearsed, "old")["config"]["accelerators"][0]["gpuDriverInstallationConfig"] == {"gpuDriverVersion": "LATEST"}

    again = role(rehearsed, served, roles=["gpu_nodes"], gpu_nodes_pools=pools)
    assert (again.code, again.recap("changed")) == (0, 0), again.output

    pools[0]["max"], pools[1] = 3, {"name": "old", "state": "absent"}
    changed = role(rehearsed, served, roles=["gpu_nodes"], gpu_nodes_pools=pools)
    assert changed.code == 0, changed.output
    assert pool(rehearsed, "l4")["autoscaling"]["maxNodeCount"] == 3 and pool(rehearsed, "old") is None

    pools.append({"name": "big", "accelerator": "nvidia-h100-80gb", "count": 8})
    refused = role(rehearsed, served, roles=["gpu_nodes"], gpu_nodes_pools=pools)
    assert refused.code == 2 and "nvidia-h100-80gb" in refused.text and "offer" in refused.text, refused.output
    assert pool(rehearsed, "big") is None

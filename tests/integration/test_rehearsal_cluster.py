"""The rehearsal with a real cluster behind it: GKE's address, tokens that the cluster takes, and GPUs that pods are scheduled on."""

from __future__ import annotations

import base64
import time
import uuid

import pytest
import requests
from kubernetes import client, config

from rehearsal import cluster as stand_in
from rehearsal.server import Rehearsal
from rehearsal.state import PROJECT, seed

pytestmark = pytest.mark.cluster
SERVICES = ("cloudresourcemanager", "compute", "container", "iam", "serviceusage")
ZONE = "asia-northeast3-a"
OURS = ("cloud.google.com/gke-accelerator", "cloud.google.com/gke-nodepool", stand_in.SIMULATED)
CLUSTERS = f"projects/{PROJECT}/locations/{ZONE}/clusters"


@pytest.fixture(scope="module")
def core(kubeconfig) -> client.CoreV1Api:
    return client.CoreV1Api(config.new_client_from_config(kubeconfig))


@pytest.fixture(scope="module")
def rehearsal(kubeconfig, core, tmp_path_factory):
    """A rehearsal in front of the cluster, which afterwards is as it was: simulated GPUs on its node are put aside for the time."""
    node = stand_in._node(core)
    labels, annotations = node.metadata.labels, node.metadata.annotations or {}
    cards = node.status.capacity.get(stand_in.GPU)
    if cards not in (None, "0") and stand_in.SIMULATED not in labels:
        pytest.skip(f"node {node.metadata.name} has real GPUs")
    before = {namespace.metadata.name for namespace in core.list_namespace().items}
    _set_gpus(core, node.metadata.name, None, {label: None for label in labels if label in OURS}, None)
    server = Rehearsal(tmp_path_factory.mktemp("rehearsal"), operation_seconds=0.1, kubeconfig=kubeconfig).start()
    seed(server.state, {"projects": {PROJECT: {"services": [f"{name}.googleapis.com" for name in SERVICES]}}})
    yield server
    server.stop()
    stand_in.advertise(kubeconfig, "", [])
    _set_gpus(
        core, node.metadata.name, cards, {label: labels[label] for label in labels if label in OURS}, annotations.get(stand_in.LABELS)
    )
    if stand_in.NAMESPACE not in before:
        core.delete_namespace(stand_in.NAMESPACE)
        client.RbacAuthorizationV1Api(core.api_client).delete_cluster_role_binding(f"{stand_in.NAMESPACE}-{stand_in.ACCOUNT}")


def _set_gpus(core: client.CoreV1Api, node: str, cards: str | None, labels: dict, annotation: str | None) -> None:
    core.patch_node(node, {"metadata": {"labels": labels, "annotations": {stand_in.LABELS: annotation}}})
    core.patch_node_status(node, {"status": {"capacity": {stand_in.GPU: cards}, "allocatable": {stand_in.GPU: cards}}})


@pytest.fixture(scope="module")
def gke(rehearsal):
    """`gke(verb, path, body)` → answer; waits for an operation."""
    session = requests.Session()
    session.headers["Authorization"] = f"Bearer {rehearsal.token()}"

    def ask(verb: str, path: str, body: dict | None = None) -> dict:
        answer = session.request(verb, f"{rehearsal.endpoint}/container/v1/{path}", json=body)
        assert answer.status_code == 200, answer.text
        found = answer.json()
        deadline = time.monotonic() + 10
        while "operationType" in found and found["status"] != "DONE":
            assert time.monotonic() < deadline, found
            time.sleep(0.1)
            found = session.get(f"{rehearsal.endpoint}/container/v1/projects/{PROJECT}/locations/{ZONE}/operations/{found['name']}").json()
        assert "error" not in found, found
        return found

    return ask


@pytest.fixture(scope="module")
def made(gke) -> dict:
    """The cluster `kubeflow`."""
    gke("POST", CLUSTERS, {"cluster": {"name": "kubeflow", "nodePools": [{"name": "default", "initialNodeCount": 1}]}})
    return gke("GET", f"{CLUSTERS}/kubeflow")


def gpus(core) -> tuple[str | None, dict]:
    """What the node advertises, and its labels."""
    node = stand_in._node(core)
    return node.status.capacity.get(stand_in.GPU), node.metadata.labels


def test_the_token_opens_the_cluster_that_gke_names(rehearsal, made, tmp_path):
    ca = tmp_path / "ca.pem"
    ca.write_bytes(base64.b64decode(made["masterAuth"]["clusterCaCertificate"]))
    headers = {"Authorization": f"Bearer {rehearsal.token()}"}
    review = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
    url = f"https://{made['endpoint']}/apis/authentication.k8s.io/v1/selfsubjectreviews"
    answer = requests.post(url, json=review, headers=headers, verify=str(ca), timeout=10)
    assert answer.status_code == 201, answer.text
    assert answer.json()["status"]["userInfo"]["username"] == "system:serviceaccount:rehearsal:google"
    everything = requests.get(f"https://{made['endpoint']}/api/v1/secrets?limit=1", headers=headers, verify=str(ca), timeout=10)
    assert everything.status_code == 200, everything.text


def test_a_gpu_pool_makes_pods_with_gpus_schedulable(gke, made, core):
    assert gpus(core)[0] is None
    accelerator = {"acceleratorType": "nvidia-l4", "acceleratorCount": "1"}
    config = {"machineType": "g2-standard-8", "accelerators": [accelerator], "labels": {"rehearsal": "gpu"}}
    gke("POST", f"{CLUSTERS}/kubeflow/nodePools", {"nodePool": {"name": "l4", "initialNodeCount": 1, "config": config}})
    amount, labels = gpus(core)
    assert amount == "1" and labels["cloud.google.com/gke-accelerator"] == "nvidia-l4"
    assert labels["mlops.platform/simulated-gpu"] == "true" and labels["rehearsal"] == "gpu"
    gke("POST", f"{CLUSTERS}/kubeflow/nodePools/l4:setSize", {"nodeCount": 2})
    assert gpus(core)[0] == "2"
    _schedule(core)
    gke("DELETE", f"{CLUSTERS}/kubeflow/nodePools/l4")
    amount, labels = gpus(core)
    assert amount is None and not {*OURS, "rehearsal"} & set(labels)


def _schedule(core) -> None:
    """A pod that asks for a GPU finds its node; its image need not be there for that."""
    name = f"rehearsal-gpu-{uuid.uuid4().hex[:6]}"
    container = {"name": "gpu", "image": "none.invalid/none", "imagePullPolicy": "Never", "resources": {"limits": {stand_in.GPU: "2"}}}
    selector = {"cloud.google.com/gke-accelerator": "nvidia-l4"}
    spec = {"containers": [container], "nodeSelector": selector, "terminationGracePeriodSeconds": 0}
    core.create_namespaced_pod("default", {"metadata": {"name": name}, "spec": spec})
    try:
        deadline = time.monotonic() + 20
        while not core.read_namespaced_pod(name, "default").spec.node_name:
            assert time.monotonic() < deadline, core.read_namespaced_pod(name, "default").status.conditions
            time.sleep(0.5)
    finally:
        core.delete_namespaced_pod(name, "default")


def test_a_cluster_that_went_away_is_an_error_of_the_rehearsal(rehearsal, gke, made, tmp_path):
    rehearsal.kubeconfig, kept = str(tmp_path / "gone"), rehearsal.kubeconfig
    try:
        token = rehearsal.credentials.issue("someone@example.com", ["https://www.googleapis.com/auth/cloud-platform"])
        answer = requests.get(f"{rehearsal.endpoint}/container/v1/{CLUSTERS}/kubeflow", headers={"Authorization": f"Bearer {token}"})
        assert answer.status_code == 503 and "cannot be used" in answer.json()["error"]["message"]
    finally:
        rehearsal.kubeconfig = kept

"""Config Connector's resource types on a real API server, the stand-in that reconciles them, and the role on top of both."""

from __future__ import annotations

import copy
import os
import re
import time
from pathlib import Path

import pytest
import yaml

from ansible_collections.mlops.platform.plugins.module_utils.client import Cluster
from ansible_collections.mlops.platform.plugins.module_utils.gcp.api import Gcp
from rehearsal.faults import Faults
from rehearsal.server import Rehearsal
from rehearsal.state import PROJECT, seed

CRDS = Path(os.environ.get("MLOPS_PLATFORM_UPSTREAM") or "/nowhere") / "config-connector-1.155.1/crds"
pytestmark = pytest.mark.skipif(not CRDS.is_dir(), reason="MLOPS_PLATFORM_UPSTREAM names no directory with Config Connector's CRDs")

SERVICES = ("cloudresourcemanager", "cloudbilling", "compute", "container", "iam", "krmapihosting", "serviceusage")
HOME = "config-control"
IAM, CONTAINER = "iam.cnrm.cloud.google.com/v1beta1", "container.cnrm.cloud.google.com/v1beta1"
CONTEXT = "configconnectorcontext.core.cnrm.cloud.google.com"


@pytest.fixture(scope="module")
def served(api_server):
    """The API server with Config Connector's resource types."""
    cluster = Cluster(api_server)
    for path in CRDS.glob("*.yaml"):
        for document in yaml.safe_load_all(path.read_text()):
            cluster.apply(document, "test", strict=False)
    # a node, for the rehearsal to pass off as one of GKE's
    cluster.apply({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node"}}, "test")
    return api_server


@pytest.fixture
def rehearsed(served, tmp_path):
    """A rehearsal with the stand-in, and nothing left of the resources of an earlier test."""
    from rehearsal import config_connector

    server = Rehearsal(tmp_path / "rehearsal", operation_seconds=0.05, kubeconfig=served).start()
    with server.lock:
        seed(server.state, {"projects": {PROJECT: {"services": [f"{name}.googleapis.com" for name in SERVICES]}}})
    controller = config_connector.start(server)
    yield server
    controller.stop()
    server.stop()
    cluster = Cluster(served)
    for kind in (*config_connector.KINDS,):
        for item in cluster.list(kind.api_version, kind.__name__):
            path = cluster.resource(kind.api_version, kind.__name__).path(item["metadata"]["namespace"], item["metadata"]["name"])
            cluster.request("PATCH", path, body={"metadata": {"finalizers": None}}, content_type="application/merge-patch+json")
            cluster.delete(kind.api_version, kind.__name__, item["metadata"]["name"], item["metadata"]["namespace"])
    for item in cluster.list(*config_connector.CONTEXT):
        cluster.delete(*config_connector.CONTEXT, item["metadata"]["name"], item["metadata"]["namespace"])


@pytest.fixture
def controlled(rehearsed, served):
    """The same with a Config Controller that owns the project; gives (rehearsal, client of the cluster)."""
    project = rehearsed.state["projects"][PROJECT]
    account = f"service-{project['projectNumber']}@gcp-sa-yakima.iam.gserviceaccount.com"
    with rehearsed.lock:
        project["krmapihosting"] = {"hosts": {"asia-northeast3/mgt-cluster": {"state": "RUNNING"}}}
        project["identityPool"] = True
        project["iamPolicy"]["bindings"].append({"role": "roles/owner", "members": [f"serviceAccount:{account}"]})
    cluster = Cluster(served)
    until(lambda: cluster.get("core.cnrm.cloud.google.com/v1beta1", "ConfigConnectorContext", CONTEXT, HOME))
    return rehearsed, cluster


def until(look, seconds=20):
    """The first true answer."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if answer := look():
            return answer
        time.sleep(0.05)
    raise AssertionError("not within time")


def resource(api_version, kind, name, spec, namespace=HOME, **annotations):
    meta = {"name": name, "namespace": namespace, "annotations": {f"cnrm.cloud.google.com/{k}": v for k, v in annotations.items()}}
    return {"apiVersion": api_version, "kind": kind, "metadata": meta, "spec": spec}


def live(cluster, document):
    meta = document["metadata"]
    return cluster.get(document["apiVersion"], document["kind"], meta["name"], meta["namespace"])


def said(cluster, document, reason):
    """The message of the condition Ready, once its reason is this one and it is about the present generation."""

    def look():
        item = live(cluster, document)
        status = item.get("status") or {}
        found = (status.get("conditions") or [{}])[0]
        fits = found.get("reason") == reason and status.get("observedGeneration") == item["metadata"]["generation"]
        return (found["status"], found["message"]) if fits else None

    return until(look)


def an_account(name="analyst", **spec):
    return resource(IAM, "IAMServiceAccount", name, {"displayName": "Ann", **spec})


def a_policy(name="viewer", account="analyst", role="roles/viewer"):
    project = {"apiVersion": "resourcemanager.cnrm.cloud.google.com/v1beta1", "kind": "Project", "external": f"projects/{PROJECT}"}
    bindings = [{"role": role, "members": [{"memberFrom": {"serviceAccountRef": {"name": account}}}]}]
    return resource(IAM, "IAMPartialPolicy", name, {"resourceRef": project, "bindings": bindings})


def a_cluster(**spec):
    body = {
        "location": "asia-northeast3-a",
        "initialNodeCount": 1,
        "networkRef": {"external": "default"},
        "ipAllocationPolicy": {"stackType": "IPV4"},
    }
    return resource(CONTAINER, "ContainerCluster", "kubeflow", {**body, **spec})


# -- the stand-in ---------------------------------------------------------------------------------------------------------------


def test_a_resource_is_made_and_says_so(controlled):
    rehearsed, cluster = controlled
    cluster.apply(an_account(), "test")
    assert said(cluster, an_account(), "UpToDate") == ("True", "The resource is up to date")
    item = live(cluster, an_account())
    assert item["metadata"]["finalizers"] == ["cnrm.cloud.google.com/finalizer", "cnrm.cloud.google.com/deletion-defender"]
    email = f"analyst@{PROJECT}.iam.gserviceaccount.com"
    assert item["status"]["email"] == email
    assert rehearsed.state["projects"][PROJECT]["serviceAccounts"][email]["displayName"] == "Ann"
    assert {record["principal"] for record in rehearsed.log("iam.projects.serviceAccounts.*")} == {
        f"service-{rehearsed.state['projects'][PROJECT]['projectNumber']}@gcp-sa-yakima.iam.gserviceaccount.com"
    }


def test_a_change_is_applied_and_a_deletion_deletes(controlled):
    rehearsed, cluster = controlled
    cluster.apply(an_account(), "test")
    said(cluster, an_account(), "UpToDate")
    cluster.apply(an_account(displayName="Anna"), "test")
    said(cluster, an_account(), "UpToDate")
    accounts = rehearsed.state["projects"][PROJECT]["serviceAccounts"]
    assert [account["displayName"] for account in accounts.values()] == ["Anna"]
    cluster.delete(IAM, "IAMServiceAccount", "analyst", HOME)
    until(lambda: live(cluster, an_account()) is None)
    assert not accounts


def test_abandoned_resources_stay(controlled):
    rehearsed, cluster = controlled
    document = an_account()
    document["metadata"]["annotations"]["cnrm.cloud.google.com/deletion-policy"] = "abandon"
    cluster.apply(document, "test")
    said(cluster, document, "UpToDate")
    cluster.delete(IAM, "IAMServiceAccount", "analyst", HOME)
    until(lambda: live(cluster, document) is None)
    assert len(rehearsed.state["projects"][PROJECT]["serviceAccounts"]) == 1


def test_a_dependency_is_waited_for(controlled):
    rehearsed, cluster = controlled
    cluster.apply(a_policy(), "test")
    assert said(cluster, a_policy(), "DependencyNotFound") == ("False", f"reference IAMServiceAccount {HOME}/analyst is not found")
    with rehearsed.lock:
        Faults.add(
            rehearsed.state, {"kind": "denied", "method": "iam.projects.serviceAccounts.create", "permission": "iam.serviceAccounts.create"}
        )
    cluster.apply(an_account(), "test")
    assert said(cluster, a_policy(), "DependencyNotReady") == ("False", f"reference IAMServiceAccount {HOME}/analyst is not ready")
    said(cluster, a_policy(), "UpToDate")  # the fault was for one call only
    viewers = [each["members"] for each in rehearsed.state["projects"][PROJECT]["iamPolicy"]["bindings"] if each["role"] == "roles/viewer"]
    assert viewers == [[f"serviceAccount:analyst@{PROJECT}.iam.gserviceaccount.com"]]


def test_members_that_a_policy_no_longer_has_are_taken_out_and_others_stay(controlled):
    rehearsed, cluster = controlled
    bindings = rehearsed.state["projects"][PROJECT]["iamPolicy"]["bindings"]
    with rehearsed.lock:
        bindings.append({"role": "roles/viewer", "members": ["user:bob@example.com"]})
    cluster.apply(an_account(), "test")
    cluster.apply(a_policy(), "test")
    said(cluster, a_policy(), "UpToDate")
    cluster.apply(a_policy(role="roles/editor"), "test")
    said(cluster, a_policy(), "UpToDate")
    ann = f"serviceAccount:analyst@{PROJECT}.iam.gserviceaccount.com"
    found = {each["role"]: each["members"] for each in rehearsed.state["projects"][PROJECT]["iamPolicy"]["bindings"]}
    assert (found["roles/viewer"], found["roles/editor"]) == (["user:bob@example.com"], [ann])
    cluster.delete(IAM, "IAMPartialPolicy", "viewer", HOME)
    until(lambda: live(cluster, a_policy()) is None)
    assert "roles/editor" not in {each["role"] for each in rehearsed.state["projects"][PROJECT]["iamPolicy"]["bindings"]}


def test_a_refusal_is_quoted_in_googles_words(controlled):
    rehearsed, cluster = controlled
    fault = {
        "kind": "quota",
        "method": "container.projects.locations.clusters.create",
        "metric": "CPUS",
        "limit": 8,
        "usage": 8,
        "times": None,
    }
    with rehearsed.lock:
        Faults.add(rehearsed.state, {**fault, "region": "asia-northeast3"})
    cluster.apply(a_cluster(), "test")
    status, message = said(cluster, a_cluster(), "UpdateFailed")
    assert status == "False"
    assert message.startswith("Update call failed: error applying desired state: summary: googleapi: Error 403: ")
    assert "Quota 'CPUS' exceeded" in message


def test_an_immutable_field_is_refused(controlled):
    _rehearsed, cluster = controlled
    cluster.apply(a_cluster(datapathProvider="ADVANCED_DATAPATH"), "test")
    said(cluster, a_cluster(), "UpToDate")
    other = a_cluster(datapathProvider="ADVANCED_DATAPATH", networkRef={"external": "other"})
    cluster.apply(other, "test", force=True)
    assert "immutable field(s): [network]" in said(cluster, other, "UpdateFailed")[1]


def test_what_the_stand_in_does_not_know_is_not_passed_over(controlled):
    _rehearsed, cluster = controlled
    document = a_cluster(costManagementConfig={"enabled": True})
    cluster.apply(document, "test")
    assert said(cluster, document, "UpdateFailed")[1].endswith("does not know spec.costManagementConfig.enabled")


def test_drift_is_repaired_when_it_is_time(controlled):
    rehearsed, cluster = controlled
    document = an_account()
    document["metadata"]["annotations"]["cnrm.cloud.google.com/reconcile-interval-in-seconds"] = "1"
    cluster.apply(document, "test")
    said(cluster, document, "UpToDate")
    account = rehearsed.state["projects"][PROJECT]["serviceAccounts"][f"analyst@{PROJECT}.iam.gserviceaccount.com"]
    with rehearsed.lock:
        account["displayName"] = "Mallory"
    until(lambda: account["displayName"] == "Ann")


def test_a_namespace_without_a_context_is_managed_by_nobody(controlled):
    _rehearsed, cluster = controlled
    document = {**an_account(), "metadata": {"name": "analyst", "namespace": "default"}}
    cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "default"}}, "test")
    cluster.apply(document, "test")
    assert "ConfigConnectorContext exists for resource's namespace, 'default'" in said(cluster, document, "Unmanaged")[1]


def test_a_service_account_that_is_not_lent_to_the_namespace_is_refused(controlled):
    rehearsed, cluster = controlled
    email = f"worker@{PROJECT}.iam.gserviceaccount.com"
    cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": PROJECT}}, "test")
    context = resource("core.cnrm.cloud.google.com/v1beta1", "ConfigConnectorContext", CONTEXT, {"googleServiceAccount": email}, PROJECT)
    document = resource(IAM, "IAMServiceAccount", "analyst", {"displayName": "Ann"}, PROJECT)
    cluster.apply(context, "test")
    cluster.apply(document, "test")
    assert "iam.serviceAccounts.getAccessToken" in said(cluster, document, "UpdateFailed")[1]
    google = Gcp(PROJECT, access_token=rehearsed.token(), endpoint=rehearsed.endpoint)
    google.call("iam.projects.serviceAccounts.create", {"accountId": "worker"}, name=f"projects/{PROJECT}")
    member = f"serviceAccount:{PROJECT}.svc.id.goog[cnrm-system/cnrm-controller-manager-{PROJECT}]"
    policy = {"bindings": [{"role": "roles/iam.workloadIdentityUser", "members": [member]}]}
    with rehearsed.lock:
        project = rehearsed.state["projects"][PROJECT]
        project["serviceAccounts"][email]["iamPolicy"] = policy
    until(lambda: "'iam.serviceAccounts.get' denied" in said(cluster, document, "UpdateFailed")[1])
    with rehearsed.lock:
        project["iamPolicy"]["bindings"].append({"role": "roles/editor", "members": [f"serviceAccount:{email}"]})
    said(cluster, document, "UpToDate")


# -- the role -------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def role(play, tmp_path):
    """`role(rehearsal, **variables)` runs mgmt_cluster."""

    def run(server, *arguments, entry="main", **variables):
        playbook = tmp_path / "role.yml"
        given = {
            "ansible_python_interpreter": "{{ ansible_playbook_python }}",
            "platform_gcp_project": PROJECT,
            "platform_gcp_endpoint": server.endpoint,
            "platform_gcp_credentials_file": server.credentials_file,
            "mgmt_cluster_kubeconfig": str(server.state_dir / "kubeconfig"),
            **variables,
        }
        task = {"ansible.builtin.include_role": {"name": "mlops.platform.mgmt_cluster", "tasks_from": entry}}
        tasks = {"hosts": "localhost", "connection": "local", "gather_facts": False, "vars": given, "tasks": [task]}
        playbook.write_text(yaml.safe_dump([tasks]))
        return play(playbook, "-i", "localhost,", *arguments)

    return run


VOLATILE = re.compile(
    r"id|address|creat(e|ion)Time(stamp)?|etag|uniqueId|oauth2ClientId|.*[fF]ingerprint|(.*[eE])?ndpoint|clusterCaCertificate|podRange|resourceVersion"
)


def made(server):
    """What is in the project, without what differs from one making to the next."""
    with server.lock:
        project = copy.deepcopy(server.state["projects"][PROJECT])
    controller = "mgt-cluster"
    project["container"]["clusters"] = {key: value for key, value in project["container"]["clusters"].items() if controller not in key}
    for cluster in project["container"]["clusters"].values():
        cluster.get("resourceLabels", {}).pop("managed-by-cnrm", None)
    accounts = {email: account for email, account in project["serviceAccounts"].items() if controller not in email}
    bindings = [
        {"role": binding["role"], "members": members}
        for binding in project["iamPolicy"]["bindings"]
        if (members := sorted(each for each in binding["members"] if controller not in each and "yakima" not in each))
    ]
    found = {"clusters": project["container"]["clusters"], "compute": project["compute"], "accounts": accounts, "bindings": bindings}
    return dict(leaves(found, ""))


def leaves(value, path):
    """(path, value) of each, lists in a sorted order, without what is volatile."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if not VOLATILE.fullmatch(key):
                yield from leaves(inner, f"{path}/{key}")
    elif isinstance(value, list):
        for number, inner in enumerate(sorted(value, key=str)):
            yield from leaves(inner, f"{path}/{number}")
    else:
        yield path, value


def test_both_backends_make_the_same(role, rehearsed, tmp_path):
    direct = Rehearsal(tmp_path / "direct", operation_seconds=0.05).start()
    try:
        with direct.lock:
            seed(direct.state, {"projects": {PROJECT: {"services": [f"{name}.googleapis.com" for name in SERVICES]}}})
        run = role(direct, mgmt_cluster_backend="gke")
        assert run.code == 0, run.output
        run = role(rehearsed, "--check", mgmt_cluster_backend="config_controller")
        assert run.code == 0 and "create 14 objects in it" in run.text, run.output
        assert "cannot be predicted" in run.text
        assert not rehearsed.state["projects"][PROJECT]["krmapihosting"]["hosts"]
        run = role(rehearsed, mgmt_cluster_backend="config_controller")
        assert run.code == 0, run.output
        one, other = made(rehearsed), made(direct)
        assert len(other) > 150
        assert {path: (one.get(path), other.get(path)) for path in one.keys() | other.keys() if one.get(path) != other.get(path)} == {}
        # the context that was written works, without gcloud
        assert Cluster(str(rehearsed.state_dir / "kubeconfig"), "kubeflow").get("v1", "Node", "node")
        again = role(rehearsed, mgmt_cluster_backend="config_controller")
        assert (again.code, again.recap("changed")) == (0, 0), again.output
        run = role(rehearsed, entry="absent", mgmt_cluster_backend="config_controller", mgmt_cluster_delete="kubeflow")
        assert run.code == 0, run.output
        left = {key: value for key, value in rehearsed.state["projects"][PROJECT].items() if key != "krmapihosting"}
        assert [f"{path}: {value}" for path, value in leaves(left, "") if "kubeflow" in f"{path} {value}"] == []
    finally:
        direct.stop()


def test_the_role_ends_with_what_google_says(role, rehearsed):
    fault = {
        "kind": "quota",
        "method": "container.projects.locations.clusters.create",
        "metric": "CPUS",
        "limit": 8,
        "usage": 8,
        "times": None,
    }
    with rehearsed.lock:
        Faults.add(rehearsed.state, {**fault, "region": "asia-northeast3", "principal": "mgt-cluster-*"})
    run = role(rehearsed, "-e", "__mgmt_cluster_grace=3", mgmt_cluster_backend="config_controller")
    assert run.code == 2
    assert "containercluster/rehearsal-project/kubeflow: Ready is False (UpdateFailed)" in run.text
    assert "Quota 'CPUS' exceeded" in run.text

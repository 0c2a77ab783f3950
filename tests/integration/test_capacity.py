"""k8s_apply refuses what has no room on the nodes, on a real API server with nodes that are objects only."""

from __future__ import annotations

import json

import pytest
from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.testing import patch_module_args

from ansible_collections.mlops.platform.plugins.module_utils.client import Cluster
from ansible_collections.mlops.platform.plugins.modules import k8s_apply

NAMESPACE = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "room"}}
STATUS = ("allocatable", "capacity")
REMEDY = "choose the profile serving"


def workload(name, cpu="500m", replicas=1, kind="Deployment", **spec):
    labels = {"app": name}
    container = {"name": "main", "image": "web:1", "resources": {"requests": {"cpu": cpu, "memory": "64Mi"}}}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [container], **spec}}
    counted = {} if kind == "DaemonSet" or replicas is None else {"replicas": replicas}
    more = {"serviceName": name} if kind == "StatefulSet" else {}
    body = {"selector": {"matchLabels": labels}, "template": template, **counted, **more}
    return {"apiVersion": "apps/v1", "kind": kind, "metadata": {"name": name, "namespace": "room"}, "spec": body}


@pytest.fixture
def nodes(cluster):
    """`nodes(name, cpu, taints)` makes a node of 2 CPUs, or changes it; all of them are gone afterwards."""
    made = []

    def make(name="node-a", cpu="2", taints=(), pods="110"):
        cluster.apply({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}}, "test")
        path, amounts = cluster.resource("v1", "Node").path(None, name), {"cpu": cpu, "memory": "4Gi", "pods": pods}
        # a new node is tainted as not ready, which its kubelet would end
        for below, change in (("", {"spec": {"taints": list(taints)}}), ("/status", {"status": dict.fromkeys(STATUS, amounts)})):
            cluster.request("PATCH", path + below, body=change, content_type="application/merge-patch+json")
        made.append(name)

    yield make
    for name in made:
        cluster.delete("v1", "Node", name)


@pytest.fixture
def applied(api_server, cluster, capsys):
    """`applied(documents…, **options)` → the module's result, with the requests that it sent (method and path)."""
    cluster.apply(NAMESPACE, "test")

    def run(*docs, check=False, **options):
        args = {
            "kubeconfig": api_server, "set": "room", "set_namespace": "room", "prune": True, "documents": list(docs), "timeout": 10,
            "check_capacity": True, "capacity_remedy": REMEDY, **options,
        }  # fmt: skip
        sent, warned, send = [], [], Cluster.request

        def record(self, method, path, *rest, **more):
            sent.append((method, path.partition("?")[0]))
            return send(self, method, path, *rest, **more)

        with pytest.MonkeyPatch.context() as patched, patch_module_args({**args, "_ansible_check_mode": check}), pytest.raises(SystemExit):
            patched.setattr(Cluster, "request", record)
            patched.setattr(AnsibleModule, "warn", lambda self, text: warned.append(text))
            k8s_apply.main()
        return {"failed": False, **json.loads(capsys.readouterr().out.splitlines()[-1]), "sent": sent, "warned": warned}

    yield run
    run(state="absent", check_capacity=False)


def written(result):
    return [entry for entry in result["sent"] if entry[0] != "GET"]


def test_what_has_no_room_is_refused_with_the_sums_before_anything_is_written(nodes, applied):
    nodes()
    result = applied(workload("one"), workload("three", "600m", replicas=3))
    assert result["failed"]
    assert "cpu: 2300m needed, 2 free (2 allocatable on all nodes that take pods, 0 requested already)" in result["msg"]
    assert f"Nothing of it was applied. Remedy: {REMEDY}" in result["msg"]
    assert "memory" not in result["msg"]
    assert written(result) == [] and not result["changed"]


def test_a_prediction_says_so_too(nodes, applied):
    nodes(cpu="1")
    assert "cpu: 1500m needed, 1 free" in applied(workload("one", "1500m"), check=True)["msg"]
    assert not applied(workload("one", "900m"), check=True)["failed"]


def test_pods_of_others_count_and_what_runs_already_does_not_count_twice(nodes, applied, cluster):
    nodes()
    assert not applied(workload("one", "1"))["failed"]
    pod = workload("one", "1")["spec"]["template"]["spec"]
    for name, cpu in (("one-0", "1"), ("foreign", "700m")):
        container = {**pod["containers"][0], "resources": {"requests": {"cpu": cpu}}}
        body = {"metadata": {"name": name, "namespace": "room"}, "spec": {"containers": [container], "nodeName": "node-a"}}
        cluster.apply({"apiVersion": "v1", "kind": "Pod", **body}, "test")
    try:
        assert not applied(workload("one", "1"), workload("two", "300m"))["failed"]
        result = applied(workload("one", "1100m"), workload("two", "300m"), workload("three", "300m"))
        assert "cpu: 400m needed, 300m free (2 allocatable on all nodes that take pods, 1700m requested already)" in result["msg"]
        assert "cpu: 1 needed, 300m free" in applied(workload("one", "1", replicas=2), workload("two", "300m"))["msg"]
        # what this run takes away makes room
        assert not applied(workload("three", "1500m"))["failed"]
    finally:
        for name in ("one-0", "foreign"):
            cluster.request("DELETE", f"/api/v1/namespaces/room/pods/{name}", body={"gracePeriodSeconds": 0})


def test_a_run_that_changes_nothing_asks_for_no_nodes(nodes, applied):
    nodes()
    docs = [workload("one"), workload("two", kind="StatefulSet")]
    first = applied(*docs)
    assert ("GET", "/api/v1/nodes") in first["sent"]
    again, unchecked = applied(*docs), applied(*docs, check_capacity=False)
    assert not again["changed"]
    extra = [entry for entry in again["sent"] if entry not in unchecked["sent"]]
    assert sorted(extra) == [("GET", f"/apis/apps/v1/namespaces/room/{kind}") for kind in ("deployments", "statefulsets")]


def test_less_is_never_refused(nodes, applied):
    nodes()
    assert not applied(workload("one", "1"), workload("two", "1"))["failed"]
    nodes(cpu="1")  # the node was made smaller
    assert not applied(workload("one", "900m"), workload("two", "1"))["failed"]


def test_replicas_that_are_not_said_are_one_at_first_then_what_there_is(nodes, applied, cluster):
    nodes()
    assert not applied(workload("one", "1500m", replicas=None))["failed"]
    path = cluster.resource("apps/v1", "Deployment").path("room", "one")
    cluster.request("PATCH", path + "/scale", {"fieldManager": "hpa"}, {"spec": {"replicas": 3}}, "application/merge-patch+json")
    assert not applied(workload("one", "1500m", replicas=None))["failed"]
    assert "cpu: 300m needed" not in applied(workload("one", "1600m", replicas=None)).get("msg", "")
    assert "cpu: 1500m needed, 1 free" in (nodes(cpu="1") or applied(workload("one", "2100m", replicas=None)))["msg"]


def test_tainted_nodes_have_room_only_for_what_tolerates_them(nodes, applied):
    taint = {"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"}
    nodes(), nodes("node-gpu", "8", [taint])
    assert "cpu: 3 needed, 2 free" in applied(workload("one", "3"))["msg"]
    assert not applied(workload("one", "3", tolerations=[{"key": "nvidia.com/gpu", "operator": "Exists"}]))["failed"]


def test_a_daemon_set_runs_on_each_node_that_takes_it(nodes, applied):
    nodes(), nodes("node-b")
    result = applied(workload("one", "1500m", kind="DaemonSet"), workload("two", "1500m"))
    assert "cpu: 4500m needed, 4 free" in result["msg"]


def test_nodes_take_so_many_pods(nodes, applied):
    nodes(pods="3")
    assert "pods: 4 needed, 3 free" in applied(workload("one", "1m", replicas=4))["msg"]


def test_a_cluster_without_nodes_is_said_to_have_none(applied):
    assert "cpu: 500m needed, 0 free (0 allocatable" in applied(workload("one"))["msg"]


def test_what_is_no_quantity_is_named_with_its_object(nodes, applied):
    nodes()
    assert "Deployment room/one: cpu 'lots' is not a resource quantity" in applied(workload("one", "lots"))["msg"]


def test_who_may_not_list_nodes_is_told_that_it_is_not_checked(nodes, applied, monkeypatch):
    from ansible_collections.mlops.platform.plugins.module_utils.client import ApiError

    nodes(cpu="100m")
    listed = Cluster.list

    def refuse(self, api_version, kind, *rest, **more):
        if kind == "Node":
            raise ApiError(403, "Forbidden", 'nodes is forbidden: User "dev" cannot list resource "nodes"')
        return listed(self, api_version, kind, *rest, **more)

    monkeypatch.setattr(Cluster, "list", refuse)
    result = applied(workload("one"))
    assert not result["failed"]
    assert "whether the nodes have room is not checked: nodes is forbidden" in result["warned"][0]


# -- the role kubeflow ----------------------------------------------------------------------------------------------------------


def test_the_role_says_which_profiles_are_smaller(kubeflow_role, nodes, cluster):
    nodes(cpu="100m")
    run = kubeflow_role(kubeflow_check_capacity=True, kubeflow_profile="serving", kubeflow_resources={"requests": {"cpu": "30m"}})
    assert run.code == 2, run.output
    assert "cpu: 150m needed, 100m free" in run.text
    assert "Remedy: choose kubeflow_profile minimal, lower kubeflow_resources, or add nodes" in run.text
    assert cluster.get("v1", "Namespace", "kubeflow") is None


def test_the_role_goes_on_where_there_is_room_or_it_is_told_to(kubeflow_role, nodes):
    def run(profile, check=True):
        return kubeflow_role(
            kubeflow_profile=profile, kubeflow_check_capacity=check, kubeflow_resources={"requests": {"cpu": "30m"}}, kubeflow_timeout=10
        )

    nodes(cpu="1")
    first, again = run("minimal"), run("minimal")
    assert (first.code, again.code, again.recap("changed")) == (0, 0, 0), first.output + again.output
    nodes(cpu="10m")
    assert run("minimal").code == 0  # all of it is there
    refused = run("serving")
    assert refused.code == 2 and "set kubeflow_check_capacity to false" in refused.text
    assert run("serving", check=False).code == 0

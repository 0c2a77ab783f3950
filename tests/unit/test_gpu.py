import pytest

from ansible_collections.mlops.platform.plugins.module_utils import gpu

POOL = {"cloud.google.com/gke-nodepool": "gpu"}


def node(name="a", gpus=None, capacity=None, ready="True", labels=None, provider="kind://docker/kind/a", ours=False, **spec):
    status = {"conditions": [{"type": "Ready", "status": ready, "reason": "KubeletNotReady", "message": "starting"}]}
    for what, number in (("allocatable", gpus), ("capacity", gpus if capacity is None else capacity)):
        status[what] = {"cpu": "4", **({gpu.RESOURCE: str(number)} if number is not None else {})}
    meta = {"name": name, "labels": POOL if labels is None else labels, "annotations": {gpu.OURS: ""} if ours else {}}
    return {"kind": "Node", "apiVersion": "v1", "metadata": meta, "spec": {"providerID": provider, **spec}, "status": status}


def plugin(name="nvidia-gpu-device-plugin-x", on="a", ready=True, **container):
    status = {
        "phase": "Running",
        "conditions": [{"type": "PodScheduled", "status": "True"}, {"type": "Ready", "status": str(ready)}],
        "containerStatuses": [{"name": "plugin", "ready": ready, "restartCount": 0, "state": {"running": {}}, **container}],
    }
    spec = {"nodeName": on, "containers": [{"name": "plugin", "image": "gcr.io/plugin:1"}]}
    return {"kind": "Pod", "apiVersion": "v1", "metadata": {"name": name, "namespace": "kube-system"}, "spec": spec, "status": status}


class Cluster:
    """A cluster that shows another list of nodes at each look, the last one for ever."""

    def __init__(self, *nodes, pods=()):
        self.looks, self.pods, self.sent = [*nodes], list(pods), []

    def list(self, _api_version, kind, _namespace=None, **_):
        if kind == "Node":
            return self.looks.pop(0) if len(self.looks) > 1 else self.looks[0]
        return self.pods if kind == "Pod" else []

    def resource(self, api_version, kind):
        from ansible_collections.mlops.platform.plugins.module_utils.client import Resource

        return Resource(api_version, kind, "nodes", False)

    def request(self, method, path, body=None, content_type=None, **_):
        self.sent.append((method, path, body, content_type))


class Clock:
    now = 0.0

    def __call__(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


def wait(cluster, *pools, grace=30.0, timeout=600.0, slice_=None):
    clock = Clock()
    waiting = gpu.Wait(cluster, list(pools), grace, clock=clock, sleep=clock.sleep)
    return waiting.run(timeout, slice_), waiting


def pool(wanted=1, selector=POOL):
    return gpu.Pool("gpu", selector, wanted)


# -- waiting


def test_gpus_that_are_there_need_no_wait():
    message, waiting = wait(Cluster([node(gpus=2)]), pool(2))
    assert message == "" and waiting.elapsed == 0
    assert waiting.pools[0].result() == {
        "name": "gpu",
        "wanted": 2,
        "offered": 2,
        "nodes": [{"name": "a", "ready": True, "capacity": 2, "allocatable": 2, "accelerator": "", "simulated": False}],
    }


def test_nodes_add_up_and_only_those_of_the_pool_count():
    nodes = [node("a", 1), node("b", 1), node("c", 8, labels={}), node("d", 1, ready="False")]
    assert wait(Cluster(nodes), pool(2))[0] == ""
    message, _ = wait(Cluster(nodes), pool(3), timeout=5)
    assert "gpu: 2 of 3 nvidia.com/gpu can be given to pods, on 3 nodes" in message and "Node d: KubeletNotReady: starting" in message


def test_without_a_selector_all_nodes_with_a_gpu_count():
    _, waiting = wait(Cluster([node("a", 1, labels={}), node("b", labels={})]), pool(0, {}))
    assert [each["name"] for each in waiting.pools[0].result()["nodes"]] == ["a"]


def test_a_pool_at_zero_is_not_waited_for():
    assert wait(Cluster([]), pool(0))[0] == ""


def test_it_waits_until_the_device_plugin_has_started():
    cluster = Cluster([node(ready="False")], [node()], [node(gpus=0)], [node(gpus=1)], pods=[plugin(ready=False)])
    message, waiting = wait(cluster, pool())
    assert message == "" and waiting.elapsed > 2


def test_no_node_ends_the_wait_after_the_grace():
    message, waiting = wait(Cluster([node(labels={})]), pool(), grace=20)
    assert "waiting longer is in vain" in message and "NoNodes: no node has cloud.google.com/gke-nodepool=gpu" in message
    assert 20 <= waiting.elapsed < 30


@pytest.mark.parametrize(
    "found, pods, words",
    [
        (node(), [], "NoDevicePlugin"),
        (node(gpus=0, capacity=2), [plugin()], "Unhealthy: none of its 2"),
        (node(), [plugin()], "NotAdvertised: has no nvidia.com/gpu although kube-system/nvidia-gpu-device-plugin-x runs"),
        (node(gpus=1, unschedulable=True), [], "kubectl uncordon a"),
        (
            node(),
            [plugin(ready=False, state={"waiting": {"reason": "ErrImagePull", "message": "not found"}})],
            "gcr.io/plugin:1 cannot be pulled: not found",
        ),
        (node(), [plugin(on="another")], "NoDevicePlugin"),
        (node(), [{**plugin(), "metadata": {"name": "web", "namespace": "kube-system"}}], "NoDevicePlugin"),
    ],
)
def test_causes(found, pods, words):
    message, _ = wait(Cluster([found], pods=pods), pool(), timeout=3)
    assert words in message


def test_time_out():
    message, waiting = wait(Cluster([node(ready="False")]), pool(), timeout=7)
    assert "after 7 s (timeout)" in message and 7 <= waiting.elapsed < 9


def test_slices_continue():
    cluster = Cluster([node(ready="False")])
    message, waiting = wait(cluster, pool(), slice_=3)
    assert message is None and waiting.lines() == [
        "gpu: 0 of 1 nvidia.com/gpu can be given to pods, on 1 node (Node a: KubeletNotReady: starting)"
    ]
    again = gpu.Wait(cluster, [pool()], state=waiting.state, clock=lambda: 100.0)
    assert again.elapsed == 100.0


# -- simulating


def test_all_nodes_that_take_pods_are_candidates():
    tainted = node("b", taints=[{"key": "node-role.kubernetes.io/control-plane", "effect": "NoSchedule"}])
    preferred = node("c", taints=[{"key": "x", "effect": "PreferNoSchedule"}])
    assert gpu.candidates([node(), tainted, preferred], []) == [node(), preferred]
    assert gpu.candidates([node(), tainted], ["b"]) == [tainted]
    with pytest.raises(gpu.Refused, match="no node z. Remedy: name one of a, b"):
        gpu.candidates([node(), tainted], ["z", "a"])


MARKED = {gpu.SIMULATED: "true"}
TWO, NONE = {"capacity": "2", "allocatable": "2"}, {"capacity": None, "allocatable": None}
L4, ADD = {gpu.ACCELERATOR: "nvidia-l4"}, {gpu.OURS: ""}


@pytest.mark.parametrize(
    "found, count, accelerator, labels, annotations, resources",
    [
        (node(labels={}), 2, "", MARKED, ADD, TWO),
        (node(labels={}, gpus=0), 2, "nvidia-l4", {**MARKED, **L4}, ADD, TWO),
        (node(labels=MARKED, gpus=2, ours=True), 2, "", {}, {}, {}),
        (node(labels=MARKED, ours=True), 2, "", {}, {}, TWO),
        (node(labels=MARKED, gpus=0, capacity=2, ours=True), 2, "", {}, {}, {"allocatable": "2"}),
        (node(labels={}, gpus=8), 2, "", {}, {}, {}),  # real ones
        (node(labels={}, gpus=8), 0, "", {}, {}, {}),
        (node(labels={}), 0, "", {}, {}, {}),
        (node(labels={**MARKED, **L4}, gpus=2, ours=True), 0, "", {gpu.SIMULATED: None, gpu.ACCELERATOR: None}, {gpu.OURS: None}, NONE),
        (node(labels=MARKED, gpus=2), 2, "", {}, {}, {}),  # a rehearsal's
        (node(labels=MARKED, gpus=1), 2, "", {}, ADD, TWO),
        (node(labels=MARKED, gpus=2), 0, "", {}, {}, {}),
    ],
)
def test_what_is_changed(found, count, accelerator, labels, annotations, resources):
    change = gpu.simulation(found, count, accelerator)
    resources = {what: {gpu.RESOURCE: value} for what, value in resources.items()}
    assert change == {"labels": labels, "annotations": annotations, "resources": resources}


def test_the_mark_comes_first_and_goes_last():
    cluster, marked = Cluster([]), node(labels=MARKED, gpus=1, ours=True)
    gpu.simulate(cluster, node(labels={}), gpu.simulation(node(labels={}), 1, ""))
    gpu.simulate(cluster, marked, gpu.simulation(marked, 0, ""))
    assert [path for _, path, _, _ in cluster.sent] == [
        "/api/v1/nodes/a",
        "/api/v1/nodes/a/status",
        "/api/v1/nodes/a/status",
        "/api/v1/nodes/a",
    ]
    assert {kind for _, _, _, kind in cluster.sent} == {"application/merge-patch+json"}


@pytest.mark.parametrize("provider", ["gce://p/z/n", "aws:///z/n", "azure:///subscriptions/s"])
def test_nothing_is_simulated_in_a_cloud(provider):
    with pytest.raises(gpu.Refused, match="test clusters only"):
        gpu.check_simulation(node(provider=provider))


@pytest.mark.parametrize("provider", ["kind://docker/kind/a", "", "k3s://a"])
def test_test_clusters_may(provider):
    gpu.check_simulation(node(provider=provider))

from decimal import Decimal

import pytest

from ansible_collections.mlops.platform.plugins.module_utils import capacity


def container(cpu=None, memory=None, **more):
    return {"resources": {"requests": {name: amount for name, amount in {"cpu": cpu, "memory": memory}.items() if amount}}, **more}


def pod(*containers, node="a", phase="Running", **spec):
    return {"spec": {"containers": list(containers), "nodeName": node, **spec}, "status": {"phase": phase}}


def node(name="a", cpu="2", memory="4Gi", **spec):
    return {"metadata": {"name": name}, "spec": spec, "status": {"allocatable": {"cpu": cpu, "memory": memory}}}


@pytest.mark.parametrize("text, expected", [("v1.34.4", (1, 34)), ("1.29", (1, 29)), ("v1.33.5-gke.1080000", (1, 33))])
def test_minor_version(text, expected):
    assert capacity.minor(text) == expected


def test_minor_version_of_nonsense():
    with pytest.raises(ValueError, match="latest"):
        capacity.minor("latest")


def asked(*containers, **spec):
    """What is requested beside the pod itself."""
    amounts = capacity.requests(pod(*containers, **spec))
    assert amounts.pop("pods") == 1
    return amounts


def test_containers_and_sidecars_add_up():
    sidecar = container("50m", restartPolicy="Always")
    assert asked(container("100m"), container("200m"), initContainers=[sidecar]) == {"cpu": Decimal("0.35")}


def test_an_init_container_counts_where_it_asks_for_more():
    assert asked(container("100m", "1Gi"), initContainers=[container("1", "64Mi")]) == {"cpu": 1, "memory": 2**30}


def test_overhead_counts():
    assert asked(container("100m"), overhead={"cpu": "10m"}) == {"cpu": Decimal("0.11")}


def test_a_limit_is_a_request_where_there_is_none():
    limited = {"resources": {"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "100m"}}}
    assert asked(limited) == {"cpu": Decimal("0.1"), "memory": 2**30}


def test_free_is_what_nodes_that_take_pods_have_left():
    nodes = [node("a"), node("b", unschedulable=True)]
    pods = [pod(container("500m")), pod(container("1"), node="b"), pod(container("1"), phase="Succeeded"), pod(container("1"), node=None)]
    assert capacity.free(nodes, pods)["cpu"] == {"allocatable": 2, "requested": Decimal("0.5"), "free": Decimal("1.5")}


def test_nodes_that_none_of_the_pods_may_use_have_nothing_for_them():
    gpu = {"metadata": {"name": "gpu"}, "spec": {"taints": [{"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"}]}}
    nodes = [node("a"), {**node("gpu", "8"), **gpu}]
    assert capacity.free(nodes, [])["cpu"]["free"] == 10
    assert capacity.free(nodes, [], [pod()])["cpu"]["free"] == 2
    tolerant = pod(tolerations=[{"key": "nvidia.com/gpu", "operator": "Exists"}])
    assert capacity.free(nodes, [], [pod(), tolerant])["cpu"]["free"] == 10


@pytest.mark.parametrize(
    ("tolerations", "taken"),
    [
        ([], False),
        ([{"operator": "Exists"}], True),
        ([{"key": "k", "value": "v"}], True),
        ([{"key": "k", "value": "other"}], False),
        ([{"key": "k", "operator": "Exists", "effect": "NoExecute"}], False),
        ([{"key": "k", "operator": "Exists", "effect": "NoSchedule"}], True),
    ],
)
def test_tolerations(tolerations, taken):
    tainted = node(taints=[{"key": "k", "value": "v", "effect": "NoSchedule"}, {"key": "soft", "effect": "PreferNoSchedule"}])
    assert capacity.takes(tainted, pod(tolerations=tolerations)) is taken


def test_node_selectors():
    labelled = {**node(), "metadata": {"name": "a", "labels": {"pool": "cpu"}}}
    assert capacity.takes(labelled, pod(nodeSelector={"pool": "cpu"}))
    assert not capacity.takes(labelled, pod(nodeSelector={"pool": "gpu"}))


def test_what_is_no_quantity_is_named():
    with pytest.raises(ValueError, match="cpu 'lots' is not a resource quantity"):
        capacity.requests(pod(container("lots")))


def test_what_lacks_is_said_with_the_sums():
    (problem,) = capacity.lacking({"cpu": "4", "memory": "1Gi"}, capacity.free([node()], [pod(container("500m"))]))
    assert problem == "cpu: 4 needed, 1500m free (2 allocatable on all nodes that take pods, 500m requested already)"


def test_a_resource_that_no_node_has():
    (problem,) = capacity.lacking({"nvidia.com/gpu": 1}, capacity.free([node()], []))
    assert problem.startswith("nvidia.com/gpu: 1 needed, 0 free")


@pytest.mark.parametrize(
    "name, amount, text",
    [("cpu", "1.5", "1500m"), ("cpu", "20", "20"), ("memory", str(3 * 2**29), "1.5Gi"), ("memory", "1000", "1000"), ("pods", "110", "110")],
)
def test_amounts_as_people_write_them(name, amount, text):
    assert capacity.shown(name, Decimal(amount)) == text

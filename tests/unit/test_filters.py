"""The filters that turn a role's settings into patches."""

import pytest
from ansible.errors import AnsibleFilterError

from ansible_collections.mlops.platform.plugins.filter.configmap_patches import configmap_patches
from ansible_collections.mlops.platform.plugins.filter.workload_patches import workload_patches

WORKLOADS = [{"name": "web", "container": "server"}, {"name": "worker", "container": "main", "kind": "StatefulSet", "optional": True}]


def test_nothing_set_needs_no_patch():
    assert workload_patches({}, WORKLOADS) == []


def resources(container):
    return {"containers": [{"name": container, "resources": {"requests": {"cpu": "1m"}}}]}


def test_what_is_set_for_all_reaches_each_workload():
    patches = workload_patches({}, WORKLOADS, {"requests": {"cpu": "1m"}}, {"pool": "a"}, [{"key": "gpu"}])
    pod = {"nodeSelector": {"pool": "a"}, "tolerations": [{"key": "gpu"}]}
    assert patches == [
        {
            "target": {"kind": kind, "name": name},
            "merge": {"spec": {"template": {"spec": {**pod, **resources(container)}}}},
            "optional": optional,
        }
        for kind, name, container, optional in (("Deployment", "web", "server", False), ("StatefulSet", "worker", "main", True))
    ]


def test_all_containers_get_the_resources_where_all_are_named():
    [patch] = workload_patches({}, [{"name": "web", "containers": ["server", "proxy"]}], {"requests": {"cpu": "1m"}})
    containers = patch["merge"]["spec"]["template"]["spec"]["containers"]
    assert containers == [resources(name)["containers"][0] for name in ("server", "proxy")]


def test_one_workload_differs():
    patches = workload_patches({"web": {"replicas": 3, "node_selector": {"pool": "b"}}}, WORKLOADS, node_selector={"pool": "a"})
    assert patches[0]["merge"] == {"spec": {"replicas": 3, "template": {"spec": {"nodeSelector": {"pool": "b"}}}}}
    assert patches[1]["merge"] == {"spec": {"template": {"spec": {"nodeSelector": {"pool": "a"}}}}}


def test_no_replicas_are_zero_of_them():
    assert workload_patches({"web": {"replicas": 0}}, WORKLOADS)[0]["merge"] == {"spec": {"replicas": 0}}


def test_replicas_of_an_autoscaled_workload_are_its_autoscalers_minimum():
    patches = workload_patches({"web": {"replicas": 2}}, [{"name": "web", "container": "server", "autoscaled": True}])
    assert patches == [
        {"target": {"kind": "HorizontalPodAutoscaler", "name": "web"}, "merge": {"spec": {"minReplicas": 2}}, "optional": False}
    ]


def test_an_unknown_workload_is_named():
    with pytest.raises(AnsibleFilterError, match=r"no workload wbe \(there are: web, worker\)"):
        workload_patches({"wbe": {}}, WORKLOADS)


def test_configmaps_get_strings():
    assert configmap_patches({"config-gc": {"a": True, "b": 5, "c": "x"}, "empty": {}}) == [
        {"target": {"kind": "ConfigMap", "name": "config-gc"}, "merge": {"data": {"a": "true", "b": "5", "c": "x"}}}
    ]


def test_a_mapping_is_no_data_of_a_configmap():
    with pytest.raises(AnsibleFilterError, match="config-gc.a must be a string"):
        configmap_patches({"config-gc": {"a": {"b": 1}}})


def test_json_settings_stay_mappings():
    assert configmap_patches({"c": {"ingress": {"a": 1}}}, json=True) == [
        {"target": {"kind": "ConfigMap", "name": "c"}, "json_data": {"ingress": {"a": 1}}}
    ]

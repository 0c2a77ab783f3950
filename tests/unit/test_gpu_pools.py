import re

import pytest
from ansible.errors import AnsibleFilterError

from ansible_collections.mlops.platform.plugins.filter.gpu_node_pools import gpu_node_pools
from ansible_collections.mlops.platform.plugins.module_utils import inputs
from ansible_collections.mlops.platform.plugins.module_utils.gcp import gke, gpu_pools
from rehearsal import locations


def test_the_least_description_is_enough():
    assert gpu_pools.node_pool({"name": "gpu", "accelerator": "nvidia-l4"}) == {
        "name": "gpu",
        "state": "present",
        "machine_type": "g2-standard-8",
        "accelerator": {"type": "nvidia-l4", "count": 1, "driver_version": "default"},
        "autoscaling": {"min": 0, "max": 1},
        "spot": False,
    }


def test_everything_can_be_said():
    pool = {
        "name": "gpu", "accelerator": "nvidia-a100-80gb", "count": "4", "min": 1, "max": 3, "spot": True, "driver_version": "latest",
        "sharing": {"max_clients": 4, "strategy": None}, "locations": ["us-central1-a"], "disk_size_gb": 200, "disk_type": "pd-ssd",
        "labels": {"team": "ml"}, "taints": [{"key": "team", "value": "ml", "effect": "NoSchedule"}], "machine_type": None,
    }  # fmt: skip
    made = gpu_pools.node_pool(pool, "nodes@p.iam.gserviceaccount.com", ["us-central1-c"])
    assert made["machine_type"] == "a2-ultragpu-4g"
    assert made["accelerator"] == {
        "type": "nvidia-a100-80gb",
        "count": 4,
        "driver_version": "latest",
        "sharing": {"strategy": "time-sharing", "max_clients": 4},
    }
    assert made["autoscaling"] == {"min": 1, "max": 3, "location_policy": "ANY"}
    assert made["service_account"] == "nodes@p.iam.gserviceaccount.com"
    assert made["locations"] == ["us-central1-a"]
    assert (made["disk_size_gb"], made["labels"]) == (200, {"team": "ml"})


def test_zones_are_given_to_pools_that_name_none():
    first, second = gpu_node_pools([{"name": "a", "accelerator": "nvidia-l4"}, {"name": "b", "accelerator": "nvidia-l4"}], "", {"a": ["z"]})
    assert first["locations"] == ["z"] and "locations" not in second


def test_a_pool_to_remove_needs_no_more_than_its_name():
    assert gpu_pools.node_pool({"name": "old", "state": "absent"}) == {"name": "old", "state": "absent"}


@pytest.mark.parametrize("accelerator", sorted(set(gpu_pools.MACHINE_TYPES) & set(locations.ACCELERATORS)))
def test_machine_types_have_the_gpus(accelerator):
    for count, machine in gpu_pools.MACHINE_TYPES[accelerator].items():
        fixed = locations.fixed_accelerator(machine)
        assert fixed == (accelerator, count) if fixed else machine.startswith("n1-")
        assert count <= locations.ACCELERATORS[accelerator].maximum


@pytest.mark.parametrize(
    "change, what, instead",
    [
        ({"name": "GPU"}, "has the name 'GPU'", "small letters"),
        ({"accelerator": ""}, "has no accelerator", "nvidia-l4"),
        ({"accelerator": "nvidia-l5"}, "nvidia-l5, for which no machine type is known", "machine_type"),
        ({"count": 3}, "wants 3 × nvidia-l4 on a node", "1, 2, 4, 8"),
        ({"min": 2, "max": 1}, "has min 2 and max 1", "no less"),
        ({"max": 0}, "has min 0 and max 0", "at least 1"),
        ({"sharing": {"max_clients": 1}}, "sharing.max_clients 1", "2 to 48"),
        ({"sharing": {"strategy": "mps"}}, "sharing.max_clients not set", "2 to 48"),
    ],
)
def test_wrong_pools(change, what, instead):
    pool = {"name": "gpu", "accelerator": "nvidia-l4", **change}
    with pytest.raises(gpu_pools.PoolError) as error:
        gpu_pools.node_pool(pool)
    assert what in error.value.what and instead in error.value.remedy
    with pytest.raises(AnsibleFilterError, match=re.escape(what)):
        gpu_node_pools([pool])
    (problem,) = inputs.check([{"variable": "gpu_nodes_pools", "value": [pool], "type": "gpu_pool", "each": True}], {}.__getitem__)
    assert problem.startswith("gpu_nodes_pools[0]: ") and what in problem and instead in problem


def test_another_machine_type_may_be_named():
    assert gpu_pools.node_pool({"name": "gpu", "accelerator": "nvidia-l5", "machine_type": "g9-x"})["machine_type"] == "g9-x"


def test_pools_are_what_the_module_takes():
    spec = gke.pools_spec()["options"]
    pool = gpu_pools.node_pool(
        {"name": "gpu", "accelerator": "nvidia-l4", "sharing": {"max_clients": 2}, "spot": True, "disk_size_gb": 50, "locations": ["z"],
         "labels": {"a": "b"}, "taints": [{"key": "a"}], "disk_type": "pd-ssd"}, "nodes@example.com",
    )  # fmt: skip
    assert set(pool) <= set(spec)
    for part in ("accelerator", "autoscaling"):
        assert set(pool[part]) <= set(spec[part]["options"])
    assert set(pool["accelerator"]["sharing"]) == set(spec["accelerator"]["options"]["sharing"]["options"])


def test_demand_is_summed_by_location():
    pools = [
        gpu_pools.node_pool({"name": "a", "accelerator": "nvidia-l4"}),
        gpu_pools.node_pool({"name": "b", "accelerator": "nvidia-l4", "count": 2, "min": 2, "max": 4, "spot": True}),
        gpu_pools.node_pool({"name": "c", "accelerator": "nvidia-tesla-t4", "min": 1, "locations": ["us-central1-b", "us-central1-c"]}),
        {"name": "old", "state": "absent"},
    ]
    assert gpu_pools.demand(pools, "us-central1-a") == [
        {
            "location": "us-central1-a",
            "accelerators": [{"type": "nvidia-l4", "count": 1, "spot": False}, {"type": "nvidia-l4", "count": 4, "spot": True}],
        },
        {"location": "us-central1-b", "accelerators": [{"type": "nvidia-tesla-t4", "count": 2, "spot": False}]},
    ]

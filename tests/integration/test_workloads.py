"""What users do, and who they are, against a real API server with Kubeflow's own definitions. No controller runs beside it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ansible_collections.mlops.platform.plugins.filter.kubeflow_users import kubeflow_users, user_documents
from ansible_collections.mlops.platform.plugins.module_utils import apply as logic
from ansible_collections.mlops.platform.plugins.module_utils import documents

ISTIO = "istio-1.30.3/charts/base/files/crd-all.gen.yaml"
USERS = [{"email": "ada@example.com", "quota": {"cpu": "2"}, "contributors": [{"email": "grace@example.com", "role": "edit"}]}]


@pytest.fixture(scope="module")
def definitions(api_server, kubeflow_files):
    """A cluster with the definitions of Kubeflow 1.8 and of Istio."""
    from ansible_collections.mlops.platform.plugins.module_utils.client import Cluster

    cluster, istio = Cluster(api_server), Path(os.environ["MLOPS_PLATFORM_UPSTREAM"]) / ISTIO
    found = [doc for doc in documents.load([str(istio), *map(str, kubeflow_files.values())]) if documents.is_crd(doc)]
    logic.apply(cluster, found, "other-roles", timeout=60)
    return cluster


def test_profiles_and_bindings_are_accepted_and_the_namespace_is_as_the_controller_wants_it(definitions):
    docs = user_documents(kubeflow_users(USERS), user_id_header="x-user", user_id_prefix="accounts:", principals=["gateway"])
    logic.apply(definitions, docs, "users")
    assert not logic.apply(definitions, docs, "users").changed
    profile = definitions.get("kubeflow.org/v1", "Profile", "ada")
    namespace = definitions.get("v1", "Namespace", "ada")
    # it adopts a namespace only if this is so
    assert namespace["metadata"]["annotations"]["owner"] == profile["spec"]["owner"]["name"]
    # what it writes itself afterwards is left to it
    path = definitions.resource("kubeflow.org/v1", "Profile").path(None, "ada")
    change = {"metadata": {"finalizers": ["profile-finalizer"]}, "spec": {"plugins": [{"kind": "WorkloadIdentity"}]}}
    definitions.request("PATCH", path, {"fieldManager": "manager"}, change, "application/merge-patch+json")
    assert not logic.apply(definitions, docs, "users").changed
    definitions.request("PATCH", path, {}, {"metadata": {"finalizers": None}}, "application/merge-patch+json")


@pytest.fixture
def use(play, api_server, definitions):
    """`use(what, …)` runs the playbook of users on that cluster, which has nobody to wait for."""
    definitions.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "ada"}}, "test")

    def run(what, *arguments):
        where = ["-e", f"platform_kubeconfig={api_server}", "-e", "workloads_namespace=ada", "-e", "workloads_wait=false"]
        return play("playbooks/use.yml", "-i", "inventories/kind", *where, "-e", f"workloads_what={what}", *arguments)

    return run


def test_a_notebook_is_made_once_and_its_volume_stays(use, definitions):
    predicted = use("notebook", "--check")
    assert (predicted.code, predicted.recap("changed")) == (0, 1), predicted.output
    options = ["-e", "workloads_notebook_gpus=1", "-e", "workloads_notebook_cpu=4"]
    first, second = use("notebook", *options), use("notebook", *options)
    assert (first.code, first.recap("changed"), second.recap("changed")) == (0, 1, 0), first.output
    [container] = definitions.get("kubeflow.org/v1", "Notebook", "notebook", "ada")["spec"]["template"]["spec"]["containers"]
    assert container["resources"] == {"requests": {"cpu": "4", "memory": "256Mi"}, "limits": {"memory": "256Mi", "nvidia.com/gpu": "1"}}
    assert container["image"].startswith("docker.io/kubeflownotebookswg/jupyter-pytorch-cuda-full:")
    assert use("notebook", "-e", "workloads_state=absent").recap("changed") == 1
    assert definitions.get("kubeflow.org/v1", "Notebook", "notebook", "ada") is None
    assert definitions.get("v1", "PersistentVolumeClaim", "notebook", "ada")


def test_an_experiment_has_the_numbers_of_the_walk_through(use, definitions):
    first = use("experiment")
    assert (first.code, first.recap("changed"), use("experiment").recap("changed")) == (0, 1, 0), first.output
    spec = definitions.get("kubeflow.org/v1beta1", "Experiment", "random", "ada")["spec"]
    assert spec["objective"] == {"type": "minimize", "goal": 0.001, "objectiveMetricName": "loss"}
    assert (spec["parallelTrialCount"], spec["maxTrialCount"], spec["maxFailedTrialCount"]) == (3, 12, 3)
    assert spec["algorithm"]["algorithmName"] == "random"
    assert {item["name"]: (item["parameterType"], item["feasibleSpace"]) for item in spec["parameters"]} == {
        "lr": ("double", {"min": "0.01", "max": "0.05"}),
        "momentum": ("double", {"min": "0.5", "max": "0.9"}),
    }
    trial = spec["trialTemplate"]
    [container] = trial["trialSpec"]["spec"]["template"]["spec"]["containers"]
    assert container["command"][2:] == [
        "--epochs=1", "--batch-size=16", "--lr=${trialParameters.lr}", "--momentum=${trialParameters.momentum}",
    ]  # fmt: skip
    assert container["resources"] == {"limits": {"memory": "1Gi", "cpu": "0.5"}}
    assert trial["trialParameters"] == [{"name": name, "reference": name} for name in ("lr", "momentum")]
    assert use("experiment", "-e", "workloads_state=absent").recap("changed") == 1
    assert definitions.get("kubeflow.org/v1beta1", "Experiment", "random", "ada") is None


@pytest.mark.parametrize(
    ("what", "option", "said"),
    [
        ("sleep", "a=b", "workloads_what"),
        ("notebook", "workloads_namespace=Ada", "workloads_namespace: 'Ada' is not a Kubernetes name: it has capital letters"),
        ("notebook", "workloads_notebook_cpu=4cores", "workloads_notebook_cpu: '4cores' is not a resource quantity"),
        ("training_job", "workloads_training_job_script=/nowhere", "workloads_training_job_script: '/nowhere' does not exist"),
    ],
)
def test_wrong_inputs_are_named_before_anything_changes(use, what, option, said):
    run = use(what, "-e", option)
    assert run.code and said in run.text, run.output

"""The catalogs of Kubeflow's components: what they say, and, where the source trees are at hand, what these are built into."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest
import yaml

from ansible_collections.mlops.platform.plugins.filter.component_plan import component_plan
from ansible_collections.mlops.platform.plugins.filter.workload_patches import workload_patches
from ansible_collections.mlops.platform.plugins.module_utils import documents, releases
from ansible_collections.mlops.platform.plugins.module_utils.inputs import quantity

ROOT = Path(__file__).parents[2]


@pytest.fixture
def catalogs(kubeflow_components):
    return kubeflow_components["__kubeflow_catalogs"]


# -- the catalogs -------------------------------------------------------------------------------------------------------


def test_components_need_what_exists_and_trees_that_are_fetched(catalogs):
    trees = set(releases.load("serving-1.14"))
    for catalog in catalogs.values():
        for part in catalog.values():
            assert set(part.get("needs", [])) <= set(catalog)
            assert part.get("tree", "kubeflow") in trees
            assert set(part) <= {"tree", "paths", "kustomization", "needs", "workloads", "ready", "secrets"}


def test_profiles_have_all_that_their_components_need(catalogs, kubeflow_components):
    profiles = kubeflow_components["__kubeflow_profiles"]
    assert set(profiles) == set(catalogs)
    for name, catalog in catalogs.items():
        for profile in profiles[name].values():
            assert set(profile) <= set(catalog)
            assert component_plan(profile, catalog, "kubeflow")["problems"] == []


def test_layouts_are_those_of_the_release_sets(catalogs, kubeflow_components):
    for release in map(releases.load, releases.known()):
        if "kubeflow" in release:
            version = ".".join(release["kubeflow"]["version"].split(".")[:2])
            assert version in catalogs
            assert set(kubeflow_components["__kubeflow_archives"][version]) == set(release["kubeflow"]["artifacts"])


# -- the filter ---------------------------------------------------------------------------------------------------------

SMALL = {
    "profiles": {
        "tree": "kubeflow",
        "paths": ["apps/profiles"],
        "needs": ["config"],
        "workloads": [{"name": "profiles", "containers": ["manager", "kfam"]}],
    },
    "katib": {
        "tree": "kubeflow",
        "paths": ["a", "b"],
        "kustomization": {"namespace": "kubeflow"},
        "needs": ["profiles"],
        "workloads": [{"kind": "StatefulSet", "name": "katib", "containers": ["katib"]}],
        "ready": [{"kind": "ValidatingWebhookConfiguration", "name": "katib"}],
        "secrets": {"katib-mysql": {"user": "root", "password": None}},
    },
    "config": {"kustomization": {"configMapGenerator": []}},
}


def test_a_plan():
    plan = component_plan(list(SMALL), SMALL, "kubeflow", {"katib-mysql": {"user": "other", "password": "p"}})
    assert plan["trees"] == ["kubeflow"]
    assert plan["builds"]["katib"] == {
        "tree": "kubeflow",
        "kustomization": {
            "resources": ["tree/a", "tree/b"],
            "labels": [{"pairs": {"mlops.platform/component": "katib"}}],
            "namespace": "kubeflow",
        },
    }
    assert "tree" not in plan["builds"]["config"] and "resources" not in plan["builds"]["config"]["kustomization"]
    assert plan["ready"] == [
        {"kind": "Deployment", "namespace": "kubeflow", "name": "profiles"},
        {"kind": "StatefulSet", "namespace": "kubeflow", "name": "katib"},
        {"kind": "ValidatingWebhookConfiguration", "name": "katib"},
    ]
    [secret] = plan["secrets"]
    assert {key: base64.b64decode(value).decode() for key, value in secret["data"].items()} == {"user": "root", "password": "p"}
    assert plan["exclude"] == [{"kind": "Secret", "name": "katib-mysql"}]
    assert (plan["problems"], plan["missing_secrets"]) == ([], [])


def test_what_is_missing_is_named():
    plan = component_plan(["katib"], SMALL, "kubeflow", {"katib-mysql": None})
    assert plan["problems"] == ["katib needs profiles"]
    assert plan["lacking"] == ["profiles", "config"]
    assert plan["missing_secrets"] == ["katib-mysql.password (katib)"]


def test_what_does_not_exist_is_left_to_the_check_of_inputs():
    assert component_plan(["katb"], SMALL, "kubeflow")["builds"] == {}


# -- the source trees ---------------------------------------------------------------------------------------------------

# What runs at the end of the walk-through
WALK_THROUGH = {
    "admission-webhook-deployment", "cache-deployer-deployment", "cache-server", "centraldashboard", "cloudsqlproxy",
    "jupyter-web-app-deployment", "kserve-controller-manager", "kserve-models-web-app", "kubeflow-pipelines-profile-controller",
    "metadata-envoy-deployment", "metadata-grpc-deployment", "metadata-writer", "minio", "ml-pipeline", "ml-pipeline-persistenceagent",
    "ml-pipeline-scheduledworkflow", "ml-pipeline-ui", "ml-pipeline-viewer-crd", "ml-pipeline-visualizationserver",
    "notebook-controller-deployment", "profiles-deployment", "tensorboard-controller-deployment", "tensorboards-web-app-deployment",
    "training-operator", "volumes-web-app-deployment", "workflow-controller", "metacontroller",
}  # fmt: skip
# The way to Google's database, for which there is one in the cluster, and KServe, which has a role of its own
ELSEWHERE = {"cloudsqlproxy", "kserve-controller-manager"}


@pytest.fixture(scope="module")
def catalog(kubeflow_components):
    return kubeflow_components["__kubeflow_catalogs"]["1.8"]


@pytest.fixture(scope="module")
def built(kubeflow_files):
    """The documents of each component."""
    return {name: documents.load([file]) for name, file in kubeflow_files.items()}


def workloads(docs):
    return [doc for doc in docs if doc["kind"] in ("Deployment", "StatefulSet", "DaemonSet")]


def test_every_component_is_built_and_none_twice(built):
    assert {name for name, docs in built.items() if not docs} == set()
    seen = {}
    for name, docs in built.items():
        for doc in docs:
            assert seen.setdefault(documents.key(doc), name) == name, documents.label(doc)
            assert doc["metadata"]["labels"]["mlops.platform/component"] == name
    assert len(seen) > 250


def test_the_catalog_says_what_runs(built, catalog):
    for name, docs in built.items():
        said = [(item.get("kind", "Deployment"), item["name"], item["containers"]) for item in catalog[name].get("workloads", [])]
        runs = [
            (doc["kind"], doc["metadata"]["name"], [container["name"] for container in doc["spec"]["template"]["spec"]["containers"]])
            for doc in workloads(docs)
        ]
        assert sorted(said) == sorted(runs), name
        assert {doc["metadata"]["namespace"] for doc in workloads(docs)} <= {"kubeflow"}


def test_the_walk_through_runs(built):
    names = {doc["metadata"]["name"] for docs in built.values() for doc in workloads(docs)}
    assert WALK_THROUGH - names == ELSEWHERE


def test_the_catalog_says_which_webhooks_are_awaited(built, catalog):
    for name, docs in built.items():
        there = {(doc["kind"], doc["metadata"]["name"]) for doc in docs if doc["kind"] in documents.WEBHOOK_KINDS}
        assert there == {(item["kind"], item["name"]) for item in catalog[name].get("ready", [])}, name


def test_no_password_of_the_tree_is_used(built, catalog):
    for name, docs in built.items():
        there = {
            doc["metadata"]["name"]: set({**doc.get("data", {}), **doc.get("stringData", {})}) for doc in docs if doc["kind"] == "Secret"
        }
        assert {secret: keys for secret, keys in there.items() if keys} == {
            secret: set(keys) for secret, keys in catalog[name].get("secrets", {}).items()
        }
    kept = [documents.exclude(docs, component_plan([name], catalog, "kubeflow")["exclude"]) for name, docs in built.items()]
    text = json.dumps(kept)
    assert not any(secret in text for secret in ("minio123", "dGVzdA=="))
    mysql = next(doc for doc in workloads(built["pipelines"]) if doc["metadata"]["name"] == "mysql")
    [password] = mysql["spec"]["template"]["spec"]["containers"][0]["env"]
    assert password == {"name": "MYSQL_ROOT_PASSWORD", "valueFrom": {"secretKeyRef": {"name": "mysql-secret", "key": "password"}}}


def test_no_placeholder_of_the_distribution_is_left(built):
    for name, docs in built.items():
        text = json.dumps([doc for doc in docs if not documents.is_crd(doc)])
        found = [
            word
            for word in ("PROJECT.", "PROJECT:", "KUBEFLOW-NAME", "ASM-LABEL", "asm-", '"EMAIL"', "BUCKET-NAME", "CLOUDSQL-NAME")
            if word in text
        ]
        assert found == [], name


def test_options_reach_the_documents(built):
    def one(name, kind, which):
        return next(doc for doc in built[name] if doc["kind"] == kind and doc["metadata"]["name"].startswith(which))

    assert one("kubeflow-config", "ConfigMap", "kubeflow-config")["data"] == {"userid-header": "x-user", "userid-prefix": "prefix:"}
    assert one("kubeflow-istio-resources", "Gateway", "kubeflow-gateway")["spec"]["selector"] == {"istio": "ingress"}
    assert one("pipelines", "AuthorizationPolicy", "ml-pipeline")["spec"]["rules"][1]["when"][0]["key"] == "request.headers[x-user]"
    labels = json.loads(one("profiles", "ConfigMap", "namespace-labels-data")["data"]["namespace-labels.yaml"])
    assert labels["app.kubernetes.io/part-of"] == "kubeflow-profile"
    headers = [
        source["valueFrom"]["configMapKeyRef"]["name"]
        for docs in built.values()
        for doc in workloads(docs)
        for container in doc["spec"]["template"]["spec"]["containers"]
        for source in container.get("env", [])
        if source["name"].endswith("USERID_HEADER")
    ]
    assert len(headers) > 5 and set(headers) == {"kubeflow-config"}


def test_everything_fits_on_the_two_processors_of_the_kind_inventory(built, catalog):
    small = yaml.safe_load((ROOT / "inventories/kind/group_vars/all/kubeflow.yml").read_text())["kubeflow_resources"]
    plan = component_plan(catalog, catalog, "kubeflow")
    docs = documents.patch([doc for docs in built.values() for doc in docs], workload_patches({}, plan["workloads"], small))
    total = {"cpu": 0, "memory": 0}
    for doc in workloads(docs):
        for container in doc["spec"]["template"]["spec"]["containers"]:
            resources = container["resources"]
            for name, limit in (resources.get("limits") or {}).items():
                assert quantity(resources["requests"].get(name, 0)) <= quantity(limit), doc["metadata"]["name"]
            for name in total:
                total[name] += quantity(resources["requests"][name])
    assert total["cpu"] <= quantity("250m") and total["memory"] <= quantity("2Gi")

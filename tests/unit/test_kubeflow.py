"""The catalogs of Kubeflow's components: what they say, and, where the source trees are at hand, what these are built into."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path

import pytest
import yaml

from ansible_collections.mlops.platform.plugins.filter.component_plan import component_plan
from ansible_collections.mlops.platform.plugins.filter.workload_patches import workload_patches
from ansible_collections.mlops.platform.plugins.module_utils import documents, releases
from ansible_collections.mlops.platform.plugins.module_utils.inputs import quantity
from tests import kubeflow

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
            assert set(part) <= {"tree", "paths", "kustomization", "namespace", "needs", "workloads", "ready", "recreate", "secrets"}


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
    assert plan["exclude"] == [{"kind": "Secret", "namespace": "kubeflow", "name": "katib-mysql"}]
    assert (plan["problems"], plan["missing_secrets"]) == ([], [])


def test_a_component_in_a_namespace_of_its_own():
    catalog = {"dex": {"namespace": "auth", "workloads": [{"name": "dex", "containers": ["dex"]}], "secrets": {"client": {"key": None}}}}
    plan = component_plan(["dex"], catalog, "kubeflow", {"client": {"key": "k"}})
    assert plan["workloads"] == [{"kind": "Deployment", "name": "dex", "containers": ["dex"], "namespace": "auth"}]
    assert plan["ready"] == [{"kind": "Deployment", "namespace": "auth", "name": "dex"}]
    assert plan["exclude"] == [{"kind": "Secret", "namespace": "auth", "name": "client"}]
    assert plan["secrets"][0]["metadata"]["namespace"] == "auth"


def test_what_is_missing_is_named():
    plan = component_plan(["katib"], SMALL, "kubeflow", {"katib-mysql": None})
    assert plan["problems"] == ["katib needs profiles"]
    assert plan["lacking"] == ["profiles", "config"]
    assert plan["missing_secrets"] == ["katib-mysql.password (katib)"]


def test_what_does_not_exist_is_left_to_the_check_of_inputs():
    assert component_plan(["katb"], SMALL, "kubeflow")["builds"] == {}


# -- the source trees ---------------------------------------------------------------------------------------------------

# What runs at the end of the walk-through (1.8), and what the distribution's example has (26.03)
RUNS = {
    "1.8": {
        "admission-webhook-deployment", "cache-deployer-deployment", "cache-server", "centraldashboard", "cloudsqlproxy",
        "jupyter-web-app-deployment", "kserve-controller-manager", "kserve-models-web-app", "kubeflow-pipelines-profile-controller",
        "metadata-envoy-deployment", "metadata-grpc-deployment", "metadata-writer", "minio", "ml-pipeline", "ml-pipeline-persistenceagent",
        "ml-pipeline-scheduledworkflow", "ml-pipeline-ui", "ml-pipeline-viewer-crd", "ml-pipeline-visualizationserver",
        "notebook-controller-deployment", "profiles-deployment", "tensorboard-controller-deployment", "tensorboards-web-app-deployment",
        "training-operator", "volumes-web-app-deployment", "workflow-controller", "metacontroller",
    },
    "26.03": {
        "cache-server", "dashboard", "dex", "jobset-controller-manager", "jupyter-web-app-deployment", "katib-controller",
        "katib-db-manager", "katib-mysql", "katib-ui", "kserve-controller-manager", "kserve-models-web-application",
        "kubeflow-pipelines-profile-controller", "kubeflow-trainer-controller-manager", "metacontroller", "metadata-envoy-deployment",
        "metadata-grpc-deployment", "metadata-writer", "ml-pipeline", "ml-pipeline-persistenceagent", "ml-pipeline-scheduledworkflow",
        "ml-pipeline-ui", "ml-pipeline-viewer-crd", "ml-pipeline-visualizationserver", "model-catalog-postgres", "model-catalog-server",
        "model-registry-db", "model-registry-deployment", "model-registry-ui", "mysql", "notebook-controller-deployment", "oauth2-proxy",
        "poddefaults-webhook-deployment", "profiles-deployment", "pvcviewer-controller-manager", "seaweedfs", "spark-operator-controller",
        "spark-operator-webhook", "tensorboard-controller-deployment", "tensorboards-web-app-deployment", "volumes-web-app-deployment",
        "workflow-controller",
    },
}  # fmt: skip
# The way to Google's database, for which there is one in the cluster, and KServe, which has a role of its own
ELSEWHERE = {"1.8": {"cloudsqlproxy", "kserve-controller-manager"}, "26.03": {"kserve-controller-manager"}}
# Secrets that the controllers themselves make, beside those of cert-manager's Certificates
MADE_AT_RUNTIME = {
    "1.8": {"webhook-server-tls"},
    "26.03": {"training-operator-webhook-cert", "kubeflow-trainer-webhook-cert", "jobset-webhook-server-cert"},
}


@pytest.fixture(scope="module")
def catalog(kubeflow_components, kubeflow_version):
    return kubeflow_components["__kubeflow_catalogs"][kubeflow_version]


@pytest.fixture(scope="module")
def built(kubeflow_files):
    """The documents of each component."""
    return {name: documents.load([file]) for name, file in kubeflow_files.items()}


def one(docs, kind, which):
    return next(doc for doc in docs if doc["kind"] == kind and doc["metadata"]["name"].startswith(which))


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
        assert {doc["metadata"]["namespace"] for doc in workloads(docs)} <= {catalog[name].get("namespace", "kubeflow")}


def test_what_upstream_runs_is_there(built, kubeflow_version):
    names = {doc["metadata"]["name"] for docs in built.values() for doc in workloads(docs)}
    assert RUNS[kubeflow_version] - names == ELSEWHERE[kubeflow_version]


@pytest.mark.parametrize("kubeflow_version", ["26.03"], indirect=True, scope="session")
def test_images_are_those_of_the_tree(built, kubeflow_tree):
    """The trainer's overlay cannot be built, because it fetches; what it sets is in the catalog, too."""
    upstream = kubeflow_tree / "applications/trainer/upstream"
    said = [yaml.safe_load((upstream / path / "kustomization.yaml").read_text()) for path in ("overlays/manager", "third-party/jobset")]
    wanted = {f"{image.get('newName', image['name'])}:{image['newTag']}" for file in said for image in file["images"]}
    assert {doc["spec"]["template"]["spec"]["containers"][0]["image"] for doc in workloads(built["trainer"])} == wanted
    public = one(built["trainer"], "ConfigMap", "kubeflow-trainer-public")
    assert [f"{key}={value}" for key, value in public["data"].items()] == said[0]["configMapGenerator"][0]["literals"]


@pytest.mark.parametrize("kubeflow_version", ["26.03"], indirect=True, scope="session")
def test_nothing_is_fetched_that_has_another_version_in_the_tree(kubeflow_version, kubeflow_tree):
    """The archives have the versions of Argo and JobSet that the tree names by URL."""
    files = [*kubeflow_tree.glob("applications/pipeline/upstream/third-party/argo/[!u]*/**/kustomization.yaml"),
             kubeflow_tree / "applications/trainer/upstream/third-party/jobset/kustomization.yaml"]  # fmt: skip
    named = {
        tag for file in files for line in file.read_text().splitlines() if "https://" in line for tag in re.findall(r"v\d+\.\d+\.\d+", line)
    }
    artifacts = releases.load(kubeflow.RELEASES[kubeflow_version])["kubeflow"]["artifacts"]
    fetched = {name: artifacts[name]["url"].rpartition("/")[2].removesuffix(".tar.gz") for name in ("argo", "jobset")}
    assert set(fetched.values()) == named
    assert {name: module.rpartition("@")[2] for name, module in kubeflow.MODULES.items()} == fetched


def test_the_catalog_says_which_webhooks_are_awaited(built, catalog):
    for name, docs in built.items():
        there = {(doc["kind"], doc["metadata"]["name"]) for doc in docs if doc["kind"] in documents.WEBHOOK_KINDS}
        assert there == {(item["kind"], item["name"]) for item in catalog[name].get("ready", [])}, name


def filled(docs):
    """Secrets with their keys, without those that are empty."""
    found = {
        (doc["metadata"]["namespace"], doc["metadata"]["name"]): {**(doc.get("data") or {}), **(doc.get("stringData") or {})}
        for doc in docs
        if doc["kind"] == "Secret"
    }
    return {secret: keys for secret, keys in found.items() if keys}


def test_no_password_of_the_tree_is_used(built, catalog, kubeflow_tree):
    for name, docs in built.items():
        given = {
            (catalog[name].get("namespace", "kubeflow"), secret): set(keys) for secret, keys in catalog[name].get("secrets", {}).items()
        }
        there = filled(docs)
        assert {secret: set(keys) for secret, keys in there.items()} == {secret: given[secret] for secret in there}, name
    kept = [documents.exclude(docs, component_plan([name], catalog, "kubeflow")["exclude"]) for name, docs in built.items()]
    assert [filled(docs) for docs in kept] == [{}] * len(kept)
    text = json.dumps(kept)
    # MinIO's and SeaweedFS's, MySQL's and Postgres' (plain and encoded), Dex's client, its user, oauth2-proxy's cookies
    public = ("minio123", "dGVzdA==", "cG9zdGdyZXM=", "pUBnBOPY80Sn", "cFVCbkJPWTgw", "$2y$12$", "7d16fee92f8d", "N2QxNmZlZTky")
    assert [word for word in public if word in text] == []
    mysql = next(doc for doc in workloads(built["pipelines"]) if doc["metadata"]["name"] == "mysql")
    [password] = mysql["spec"]["template"]["spec"]["containers"][0]["env"]
    assert password == {"name": "MYSQL_ROOT_PASSWORD", "valueFrom": {"secretKeyRef": {"name": "mysql-secret", "key": "password"}}}


def wanted_secrets(spec):
    """Names of the Secrets without which a pod does not start."""
    sources = [volume["secret"] for volume in spec.get("volumes", []) if "secret" in volume]
    for container in [*spec.get("initContainers", []), *spec["containers"]]:
        sources += [item["secretRef"] for item in container.get("envFrom", []) if "secretRef" in item]
        sources += [item["valueFrom"]["secretKeyRef"] for item in container.get("env", []) if "secretKeyRef" in item.get("valueFrom", {})]
    return {source.get("secretName") or source["name"] for source in sources if not source.get("optional")}


def test_every_secret_comes_from_somewhere(built, catalog, kubeflow_version):
    left = set()
    for name, docs in built.items():
        wanted = set().union(*(wanted_secrets(doc["spec"]["template"]["spec"]) for doc in workloads(docs)))
        issued = {doc["spec"]["secretName"] for doc in docs if doc["kind"] == "Certificate"}
        left |= wanted - set(catalog[name].get("secrets", {})) - issued
    assert left == MADE_AT_RUNTIME[kubeflow_version]


def test_the_gateway_gets_through(built):
    """The trees mean a gateway in istio-system; whatever lets that one in lets the one of the options in."""
    docs = [doc for docs in built.values() for doc in docs]
    for doc in docs:
        rules = (
            [source for rule in doc["spec"].get("ingress", []) for source in rule.get("from", [])] if doc["kind"] == "NetworkPolicy" else []
        )
        text = json.dumps(rules)
        # nothing leads from a gateway to the object store
        assert "istio-system" not in text or '"gateways"' in text or doc["metadata"]["name"] == "seaweedfs", doc["metadata"]["name"]
    policies = json.dumps([doc for doc in docs if doc["kind"] in ("AuthorizationPolicy", "ConfigMap")])
    assert "istio-system" not in policies and policies.count("cluster.local/ns/gateways/sa/gateway") > 6


def test_no_placeholder_of_the_distribution_is_left(built):
    for name, docs in built.items():
        text = json.dumps([doc for doc in docs if not documents.is_crd(doc)])
        found = [
            word
            for word in ("PROJECT.", "PROJECT:", "KUBEFLOW-NAME", "ASM-LABEL", "asm-", '"EMAIL"', "BUCKET-NAME", "CLOUDSQL-NAME")
            if word in text
        ]
        assert found == [], name


def test_options_reach_the_documents(built, kubeflow_version):
    assert one(built["kubeflow-istio-resources"], "Gateway", "kubeflow-gateway")["spec"]["selector"] == {"istio": "ingress"}
    assert one(built["pipelines"], "AuthorizationPolicy", "ml-pipeline")["spec"]["rules"][1]["when"][0]["key"] == "request.headers[x-user]"
    labels = "namespace-labels-data" if kubeflow_version == "1.8" else "profiles-namespace-labels-data"
    labels = json.loads(one(built["profiles"], "ConfigMap", labels)["data"]["namespace-labels.yaml"])
    assert labels["app.kubernetes.io/part-of"] == "kubeflow-profile"


def test_everybody_recognizes_the_user_by_the_same_header(built, kubeflow_version):
    docs = [doc for docs in built.values() for doc in docs]
    sources = [
        source
        for doc in workloads(docs)
        for container in doc["spec"]["template"]["spec"]["containers"]
        for source in container.get("env", [])
        if source["name"].endswith("USERID_HEADER")
    ]
    if kubeflow_version == "1.8":
        assert one(docs, "ConfigMap", "kubeflow-config")["data"] == {"userid-header": "x-user", "userid-prefix": "prefix:"}
        headers = [source["valueFrom"]["configMapKeyRef"]["name"] for source in sources]
        assert len(headers) > 5 and set(headers) == {"kubeflow-config"}
        return
    assert len(sources) == 5 and {source["value"] for source in sources} == {"x-user"}
    configured = [doc["data"] for doc in docs if doc["kind"] == "ConfigMap" and "USERID_HEADER" in (doc.get("data") or {})]
    assert len(configured) == 3 and {(data["USERID_HEADER"], data["USERID_PREFIX"]) for data in configured} == {("x-user", "prefix:")}
    # what is left are parameters of the tree's kustomizations, which no pod reads
    left = {doc["metadata"]["name"].rpartition("-")[0] for doc in docs if "kubeflow-userid" in json.dumps(doc)}
    assert left == {"jupyter-web-app-parameters", "tensorboards-web-app-parameters", "volumes-web-app-parameters"}


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

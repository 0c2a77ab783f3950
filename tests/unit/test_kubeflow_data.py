"""Pipelines of Kubeflow 1.8 with their data on Google Cloud: what they are built into."""

from __future__ import annotations

import json

import pytest

from ansible_collections.mlops.platform.plugins.filter.component_plan import component_plan
from ansible_collections.mlops.platform.plugins.module_utils import documents
from ansible_collections.mlops.platform.plugins.module_utils.kustomize import Workshop
from tests import kubeflow

CHOICES = [("in_cluster", "in_cluster"), ("cloud_sql", "in_cluster"), ("in_cluster", "gcs"), ("cloud_sql", "gcs")]
ACCOUNT = "iam.gke.io/gcp-service-account"
USER, SQL = "platform-user@my-project.iam.gserviceaccount.com", "platform-sql@my-project.iam.gserviceaccount.com"


@pytest.fixture(scope="module")
def catalog(kubeflow_catalogs):
    """`catalog(database, store)`: that of Kubeflow 1.8."""
    return lambda *chosen: kubeflow_catalogs(**dict(zip(("kubeflow_database", "kubeflow_object_store"), chosen, strict=True)))[
        "__kubeflow_catalogs"
    ]["1.8"]


@pytest.fixture(scope="module")
def tree(kubeflow_components, tmp_path_factory):
    return kubeflow.lay_out("1.8", kubeflow_components["__kubeflow_archives"]["1.8"], tmp_path_factory.mktemp("kubeflow"))


@pytest.fixture(scope="module")
def built(catalog, tree, tmp_path_factory):
    """`built[database, store]`: the documents of pipelines, by kind and name."""
    found = {}
    for chosen in CHOICES:
        builds = component_plan(["pipelines"], catalog(*chosen), "kubeflow")["builds"]
        files = Workshop(tmp_path_factory.mktemp("cache"), kubeflow.kubectl()).build({"kubeflow": str(tree)}, builds)
        found[chosen] = {(doc["kind"], doc["metadata"]["name"]): doc for doc in documents.load([files["pipelines"]])}
    return found


def runs(docs):
    return {name for kind, name in docs if kind in ("Deployment", "StatefulSet")}


def annotations(docs, kind, name):
    meta = docs[kind, name]["spec"]["template"]["metadata"] if kind == "Deployment" else docs[kind, name]["metadata"]
    return meta.get("annotations", {})


@pytest.mark.parametrize("chosen", CHOICES, ids="-".join)
def test_the_catalog_says_what_runs(built, catalog, chosen):
    said = {item["name"]: item["containers"] for item in catalog(*chosen)["pipelines"]["workloads"]}
    docs = built[chosen]
    there = {name: [each["name"] for each in docs["Deployment", name]["spec"]["template"]["spec"]["containers"]] for name in runs(docs)}
    assert said == there
    assert "minio" in there  # the object store, or the gateway to Google's
    assert {"mysql", "cloudsqlproxy"} & set(there) == {"cloudsqlproxy" if chosen[0] == "cloud_sql" else "mysql"}


def test_with_both_all_of_the_walk_through_runs(built, catalog):
    from tests.unit.test_kubeflow import ELSEWHERE, RUNS

    names = {item["name"] for part in catalog("cloud_sql", "gcs").values() for item in part.get("workloads", [])}
    assert RUNS["1.8"] - names == ELSEWHERE["1.8"] - {"cloudsqlproxy"} == {"kserve-controller-manager"}
    assert "mysql" not in names


@pytest.mark.parametrize("chosen", CHOICES, ids="-".join)
def test_volumes_are_for_what_is_in_the_cluster(built, chosen):
    volumes = {name for kind, name in built[chosen] if kind == "PersistentVolumeClaim"}
    assert volumes == ({"mysql-pv-claim"} if chosen[0] == "in_cluster" else set()) | ({"minio-pvc"} if chosen[1] == "in_cluster" else set())


def test_the_proxy_knows_instance_and_account(built):
    docs = built["cloud_sql", "in_cluster"]
    assert docs["ConfigMap", "pipeline-install-config"]["data"]["gcsCloudSqlInstanceName"] == "my-project:asia-northeast3:platform-kfp"
    assert annotations(docs, "ServiceAccount", "kubeflow-pipelines-cloudsql-proxy") == {ACCOUNT: SQL}
    assert docs["Service", "mysql"]["spec"]["selector"]["app"] == "cloudsqlproxy"
    assert docs["ConfigMap", "pipeline-install-config"]["data"]["bucketName"] == "mlpipeline"
    assert not annotations(docs, "ServiceAccount", "ml-pipeline-ui")


def test_the_gateway_knows_bucket_and_account(built):
    docs = built["in_cluster", "gcs"]
    settings = docs["ConfigMap", "pipeline-install-config"]["data"]
    assert (settings["bucketName"], settings["gcsProjectId"]) == ("my-bucket", "my-project")
    assert settings["defaultPipelineRoot"] == "minio://my-bucket/v2/artifacts"
    for name in ("kubeflow-pipelines-minio-gcs-gateway", "ml-pipeline-ui", "ml-pipeline-visualizationserver"):
        assert annotations(docs, "ServiceAccount", name) == {ACCOUNT: USER}
    assert docs["Deployment", "minio"]["spec"]["template"]["spec"]["containers"][0]["args"][:2] == ["gateway", "gcs"]
    assert 'bucket: "my-bucket"' in docs["ConfigMap", "workflow-controller-configmap"]["data"]["artifactRepository"]


def test_pods_start_anew_when_their_data_are_elsewhere(built):
    same, sql, gcs, both = (built[chosen] for chosen in CHOICES)
    for name in runs(same) & runs(both):
        assert not any(key.startswith("mlops.platform/") for key in annotations(same, "Deployment", name))
        kept = annotations(same, "Deployment", name)
        database = {"mlops.platform/database": "my-project:asia-northeast3:platform-kfp"}
        store = {"mlops.platform/object-store": "gs://my-bucket"}
        for docs, added in ((sql, database), (gcs, store), (both, {**database, **store})):
            assert annotations(docs, "Deployment", name) == {**kept, **added}, name


def test_no_password_or_placeholder_of_the_tree_is_left(built, catalog):
    plan = component_plan(["pipelines"], catalog("cloud_sql", "gcs"), "kubeflow")
    text = json.dumps(documents.exclude(list(built["cloud_sql", "gcs"].values()), plan["exclude"]))
    words = ("minio123", "PROJECT.", "PROJECT:", '"PROJECT"', "KUBEFLOW-NAME", "BUCKET-NAME", "CLOUDSQL-NAME", "REGION")
    assert [word for word in words if word in text] == []
    secrets = {name for kind, name in built["cloud_sql", "gcs"] if kind == "Secret"}
    assert {"mysql-secret", "mlpipeline-minio-artifact"} <= secrets
    assert plan["missing_secrets"] == [
        "mlpipeline-minio-artifact.accesskey (pipelines)", "mlpipeline-minio-artifact.secretkey (pipelines)",
        "mysql-secret.password (pipelines)",
    ]  # fmt: skip


@pytest.mark.parametrize("location", ["asia-northeast3-a", "asia-northeast3"])
def test_a_zone_or_a_region(kubeflow_catalogs, location):
    catalogs = kubeflow_catalogs(kubeflow_database="cloud_sql", kubeflow_data_location=location)
    assert "my-project:asia-northeast3:platform-kfp" in json.dumps(catalogs["__kubeflow_catalogs"]["1.8"]["pipelines"])

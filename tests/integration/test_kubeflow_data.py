"""Pipelines with their data on Google Cloud: the role on a real API server with the resource types of Config Connector.

Nobody reconciles the resources here. `Google` says of each that it is ready, or what a test wants to be wrong, and notes what is
deleted how.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
import yaml

from ansible_collections.mlops.platform.plugins.module_utils.client import ApiError

CRDS = Path(os.environ.get("MLOPS_PLATFORM_UPSTREAM") or "/nowhere") / "config-connector-1.155.1/crds"
pytestmark = pytest.mark.skipif(not CRDS.is_dir(), reason="MLOPS_PLATFORM_UPSTREAM names no directory with Config Connector's CRDs")

PROJECT, PASSWORD = "my-project", "hunter2-of-the-database"
GROUPS = {
    "SQLInstance": "sql", "SQLUser": "sql", "StorageBucket": "storage", "IAMServiceAccount": "iam", "IAMPolicyMember": "iam",
    "ContainerCluster": "container",
}  # fmt: skip
MERGE_PATCH = "application/merge-patch+json"
FINALIZER, POLICY = "cnrm.cloud.google.com/finalizer", "cnrm.cloud.google.com/deletion-policy"
COMPONENTS = [
    "kubeflow-config", "kubeflow-roles", "kubeflow-istio-resources", "metacontroller", "profiles", "centraldashboard", "pipelines",
]  # fmt: skip
SECRETS = {"mlpipeline-minio-artifact": {"accesskey": "store-user", "secretkey": "store-key"}, "mysql-secret": {"password": PASSWORD}}


class Google:
    """Says that resources are ready, and lets them go."""

    def __init__(self, cluster):
        self.cluster, self.refused, self.deleted = cluster, {}, {}
        self._stop, self._thread = threading.Event(), threading.Thread(target=self._run, daemon=True)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join()

    def kinds(self):
        return {kind: f"{group}.cnrm.cloud.google.com/v1beta1" for kind, group in GROUPS.items()}

    def _run(self):
        while not self._stop.wait(0.3):
            for kind, version in self.kinds().items():
                for item in self.cluster.list(version, kind, PROJECT):
                    try:
                        self._look(item)
                    except ApiError as error:
                        if error.status not in (404, 409):  # gone meanwhile
                            raise

    def _look(self, item):
        meta = item["metadata"]
        path = self.cluster.resource(item["apiVersion"], item["kind"]).path(PROJECT, meta["name"])
        if meta.get("deletionTimestamp"):
            annotations = meta.get("annotations") or {}
            self.deleted[item["kind"], meta["name"]] = (annotations.get(POLICY), annotations.get("cnrm.cloud.google.com/force-destroy"))
            self.cluster.request("PATCH", path, None, {"metadata": {"finalizers": None}}, MERGE_PATCH)
            return
        if FINALIZER not in (meta.get("finalizers") or []):
            self.cluster.request("PATCH", path, None, {"metadata": {"finalizers": [FINALIZER]}}, MERGE_PATCH)
        said = self.refused.get(item["kind"])
        ready = {"status": "False", "reason": "UpdateFailed", "message": said} if said else {"status": "True", "reason": "UpToDate"}
        status = {"conditions": [{"type": "Ready", **ready}], "observedGeneration": meta["generation"]}
        if item.get("status") != status:
            self.cluster.request("PATCH", path + "/status", None, {"status": status}, MERGE_PATCH)


@pytest.fixture
def google(cluster):
    """The resource types, the project's namespace, and who acts on them; nothing is left of the resources afterwards."""
    for path in CRDS.glob("*.yaml"):
        for document in yaml.safe_load_all(path.read_text()):
            cluster.apply(document, "test", strict=False)
    cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": PROJECT}}, "test")
    with Google(cluster) as google:
        yield google
    for kind, version in google.kinds().items():
        for item in cluster.list(version, kind, PROJECT):
            path = cluster.resource(version, kind).path(PROJECT, item["metadata"]["name"])
            cluster.request("PATCH", path, None, {"metadata": {"finalizers": None}}, MERGE_PATCH)
            cluster.delete(version, kind, item["metadata"]["name"], PROJECT)
    for kind, name in (("ConfigMap", "mlops-platform-kubeflow-data-platform"), ("Secret", "platform-kfp-root")):
        cluster.delete("v1", kind, name, PROJECT)


@pytest.fixture
def role(kubeflow_role, api_server):
    """`role(database, store, **variables)`."""

    def run(database, store, *arguments, entry="main", **variables):
        given = {
            "kubeflow_components": COMPONENTS,
            "kubeflow_secrets": SECRETS,
            "kubeflow_database": database,
            "kubeflow_object_store": store,
            "kubeflow_data_project": PROJECT,
            "kubeflow_data_name": "platform",
            "kubeflow_data_location": "asia-northeast3-a",
            "kubeflow_data_kubeconfig": api_server,
            "kubeflow_data_context": "test",
            "kubeflow_data_timeout": 30,
            **variables,
        }
        return kubeflow_role(*arguments, entry=entry, **given)

    return run


def there(cluster, version="v1", kind="Deployment", namespace="kubeflow"):
    version = "apps/v1" if kind == "Deployment" else version
    return {item["metadata"]["name"]: item for item in cluster.list(version, kind, namespace)}


def made(google):
    """Kind and name of all resources."""
    return {
        (kind, item["metadata"]["name"]) for kind, version in google.kinds().items() for item in google.cluster.list(version, kind, PROJECT)
    }


BUCKET = {("StorageBucket", "my-project-kfp"), ("IAMPolicyMember", "platform-user-bucket"), ("IAMPolicyMember", "platform-user-gateway")}
DATABASE = {
    ("SQLInstance", "platform-kfp"), ("SQLUser", "platform-kfp-root"), ("IAMServiceAccount", "platform-sql"),
    ("IAMPolicyMember", "platform-sql-client"), ("IAMPolicyMember", "platform-sql-proxy"),
}  # fmt: skip


def test_made_awaited_used_left_and_deleted(role, google, cluster):
    run = role("cloud_sql", "gcs", "--check")
    assert run.code == 0, run.output
    assert made(google) == set()

    run = role("cloud_sql", "gcs", "-vvv", "--diff")
    assert run.code == 0, run.output
    assert made(google) == BUCKET | DATABASE
    assert PASSWORD not in run.output
    deployments = there(cluster)
    assert {"cloudsqlproxy", "minio", "ml-pipeline"} <= set(deployments) and "mysql" not in deployments
    instance = cluster.get("sql.cnrm.cloud.google.com/v1beta1", "SQLInstance", "platform-kfp", PROJECT)["spec"]
    assert (instance["databaseVersion"], instance["region"]) == ("MYSQL_8_0", "asia-northeast3")
    assert instance["settings"] == {
        "tier": "db-custom-1-3840", "availabilityType": "ZONAL", "backupConfiguration": {"enabled": True},
        "locationPreference": {"zone": "asia-northeast3-a"},
    }  # fmt: skip
    users = {
        name: cluster.get("v1", "Secret", name, space)["data"]["password"]
        for name, space in (("platform-kfp-root", PROJECT), ("mysql-secret", "kubeflow"))
    }
    assert len(set(users.values())) == 1

    again = role("cloud_sql", "gcs")
    assert (again.code, again.recap("changed")) == (0, 0), again.output

    # back into the cluster: the instance is let go of, not deleted
    run = role("in_cluster", "gcs")
    assert run.code == 0, run.output
    assert made(google) == BUCKET
    assert google.deleted["SQLInstance", "platform-kfp"] == ("abandon", None)
    assert google.deleted["SQLUser", "platform-kfp-root"] == ("abandon", None)
    assert "mysql" in there(cluster) and "cloudsqlproxy" not in there(cluster)

    # the platform goes, the bucket stays
    run = role("in_cluster", "gcs", entry="absent")
    assert run.code == 0, run.output
    assert "StorageBucket my-project-kfp stay in project my-project with all data" in run.text
    assert google.deleted["StorageBucket", "my-project-kfp"] == ("abandon", None)
    assert made(google) == set() and there(cluster) == {}


def test_data_are_deleted_by_name_only(role, google, cluster):
    assert role("cloud_sql", "gcs").code == 0
    refused = role("cloud_sql", "gcs", entry="absent", kubeflow_data_delete="kubeflow")
    assert refused.code == 2 and "set it to platform (kubeflow_data_name)" in refused.text
    assert made(google) == BUCKET | DATABASE and "ml-pipeline" in there(cluster)

    run = role("cloud_sql", "gcs", entry="absent", kubeflow_data_delete="platform")
    assert run.code == 0, run.output
    assert made(google) == set()
    assert google.deleted["SQLInstance", "platform-kfp"] == ("none", None)
    assert google.deleted["StorageBucket", "my-project-kfp"] == ("none", "true")
    assert cluster.get("v1", "Secret", "platform-kfp-root", PROJECT) is None

    google.deleted.clear()
    again = role("cloud_sql", "gcs", "--diff", entry="absent", kubeflow_data_delete="platform")
    assert (again.code, again.recap("changed")) == (0, 0), again.output
    assert google.deleted == {}


def test_what_google_refuses_ends_the_run_before_kubeflow_is_applied(role, google, cluster):
    google.refused["SQLInstance"] = "Update call failed: googleapi: Error 403: Quota exceeded for SQL instances"
    run = role("cloud_sql", "in_cluster", "-e", "__kubeflow_data_grace=2")
    assert run.code == 2
    assert "sqlinstance/my-project/platform-kfp: Ready is False (UpdateFailed)" in run.text
    assert "Quota exceeded for SQL instances" in run.text
    assert there(cluster) == {}


def test_the_location_is_where_the_cluster_is(role, google, cluster):
    spec = {"location": "europe-west4-b"}
    document = {"metadata": {"name": "platform", "namespace": PROJECT}, "spec": spec}
    cluster.apply({"apiVersion": "container.cnrm.cloud.google.com/v1beta1", "kind": "ContainerCluster", **document}, "test")
    run = role("cloud_sql", "in_cluster", kubeflow_data_location="")
    assert run.code == 0, run.output
    assert cluster.get("sql.cnrm.cloud.google.com/v1beta1", "SQLInstance", "platform-kfp", PROJECT)["spec"]["region"] == "europe-west4"
    settings = cluster.get("v1", "ConfigMap", "pipeline-install-config", "kubeflow")["data"]
    assert settings["gcsCloudSqlInstanceName"] == "my-project:europe-west4:platform-kfp"


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        (
            {"kubeflow_data_context": "", "mgmt_cluster_backend": "gke"},
            "there is none: mgmt_cluster_backend is gke. Set it to config_controller, or kubeflow_data_context",
        ),
        ({"kubeflow_release": "serving-1.15"}, "which only Kubeflow 1.8 can have, and this is 26.03"),
        ({"kubeflow_data_bucket": "My Bucket"}, "kubeflow_data_bucket: 'My Bucket'"),
        ({"kubeflow_data_location": "Seoul"}, "kubeflow_data_location: 'Seoul'"),
        ({"kubeflow_database": "mysql"}, "value of kubeflow_database must be one of: in_cluster, cloud_sql, got: mysql"),
        ({"kubeflow_secrets": {}}, "mysql-secret.password (pipelines)"),
    ],
)
def test_bad_input_is_named(role, google, cluster, variables, said):
    if variables.get("kubeflow_release"):
        variables = {**variables, "kubeflow_components": [], "kubeflow_profile": "minimal"}
    run = role("cloud_sql", "gcs", **variables)
    assert run.code == 2
    assert said in run.text, run.output
    assert made(google) == set() and there(cluster) == {}

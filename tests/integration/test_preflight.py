"""playbooks/preflight.yml with inventories/gke, against a rehearsal."""

from __future__ import annotations

import subprocess
from fnmatch import fnmatchcase

import pytest
import yaml

from rehearsal.faults import Faults
from rehearsal.server import Rehearsal
from rehearsal.state import PROJECT, seed

READING = (
    "*.get",
    "*.list",
    "*.aggregatedList",
    "*.batchGet",
    "*.getIamPolicy",
    "*.testIamPermissions",
    "*.getBillingInfo",
    "*.access",
    "accounts.*",
    "oauth2.*",
)
FRESH, NEEDED = (), ("cloudbilling", "cloudresourcemanager", "compute", "container", "iam", "krmapihosting")
CLIENT, SECRET = "123456789012-preflight.apps.googleusercontent.com", "not-a-secret-of-anybody"


@pytest.fixture
def server(tmp_path):
    """A project with billing and without APIs, and an OAuth client."""
    server = Rehearsal(tmp_path / "rehearsal", operation_seconds=0.05).start()
    redirect = f"https://iap.googleapis.com/v1/oauth/clientIds/{CLIENT}:handleRedirect"
    with server.lock:
        seed(server.state, {"oauthClients": {CLIENT: {"redirectUris": [redirect], "private:secret": SECRET}}})
    yield server
    server.stop()


@pytest.fixture
def preflight(play, server, tmp_path):
    """`preflight(**variables)` runs it."""

    def run(**variables):
        given = {
            "platform_gcp_project": PROJECT,
            "platform_gcp_endpoint": server.endpoint,
            "platform_gcp_credentials_file": server.credentials_file,
            "platform_admin_email": "ann@example.com",
            "platform_domain": "models.example.com",
            "oauth_iap_client_id": CLIENT,
            "oauth_iap_client_secret": SECRET,
            **variables,
        }
        (tmp_path / "variables.yml").write_text(yaml.safe_dump(given))
        return play(
            "playbooks/preflight.yml",
            "-i",
            "inventories/gke",
            "-e",
            f"@{tmp_path}/variables.yml",
            KUBECONFIG=str(tmp_path / "kubeconfig"),
            MLOPS_PLATFORM_CACHE=str(tmp_path / "cache"),
        )

    return run


@pytest.mark.parametrize("services", [FRESH, NEEDED], ids=["fresh", "apis-on"])
def test_a_project_that_is_ready(preflight, server, services):
    with server.lock:
        server.state["projects"][PROJECT]["services"] += [f"{name}.googleapis.com" for name in services]
    run = preflight()
    assert run.code == 0, run.output
    assert run.seconds < 60  # 20 on a machine that does nothing else
    assert ("permissions ok" in run.text) == ("cloudresourcemanager" in services)
    changing = [each["method"] for each in server.log() if not any(fnmatchcase(each["method"], glob) for glob in READING)]
    assert changing == []
    assert SECRET not in run.output


def test_all_problems_at_once(preflight, server):
    with server.lock:
        server.state["projects"][PROJECT]["billing"]["billingEnabled"] = False
        server.state["projects"][PROJECT]["services"] += ["cloudbilling.googleapis.com", "cloudresourcemanager.googleapis.com"]
        for permission in ("container.clusters.create", "iam.serviceAccounts.create"):
            Faults.add(server.state, {"kind": "denied", "permission": permission, "times": None})
    run = preflight(mgmt_cluster_backend="gke", oauth_iap_client_id="123456789012-unknown.apps.googleusercontent.com")
    assert run.code == 2
    for said in (
        "2 things are not ready",
        "lacks container.clusters.create, iam.serviceAccounts.create",
        "gcloud billing projects link",
        "oauth_iap: ",
    ):
        assert said in run.text
    assert SECRET not in run.output


def test_inputs_come_first(preflight, server):
    run = preflight(mgmt_cluster_name="a-name-that-is-too-long-for-what-follows", platform_gcp_project="My_Project")
    assert run.code == 2
    assert "mgmt_cluster_name: 'a-name-that-is-too-long-for-what-follows' has 40 characters; it may have 24" in run.text
    assert "'My_Project'" in run.text
    assert server.log() == []


def test_the_inventory_is_complete():
    listed = subprocess.run(["ansible-inventory", "-i", "inventories/gke", "--list"], capture_output=True, text=True, check=True)
    assert "mgmt_cluster_backend" in listed.stdout
    subprocess.run(["ansible-playbook", "site.yml", "-i", "inventories/gke", "--syntax-check"], capture_output=True, check=True)

"""inventories/gke as a platform engineer fills it in, against the rehearsal, whose GKE cluster answers as Molecule's kind cluster does.

kind has no controller of GKE's load balancers and not their resource types: stand-ins of tests/gke.py play their parts.
"""

import json
import subprocess
import sys
import urllib.request

import pytest
import yaml

from ansible_collections.mlops.platform.plugins.module_utils import apply
from ansible_collections.mlops.platform.plugins.module_utils.client import Cluster
from rehearsal.state import PROJECT
from tests.gke import BACKEND_CONFIGS, MANAGED_CERTIFICATES, LoadBalancers

from .conftest import ROOT

CLIENT = "123456789012-inventory.apps.googleusercontent.com"
SECRET = "GOCSPX-of-the-inventory-test"
# What fits on the kind node: requests, ports, and what its packages have
SMALL = [f"-e@inventories/kind/group_vars/all/{name}.yml" for name in ("cert_manager", "istio", "knative", "kserve")]


@pytest.fixture
def gke(play, kubeconfig, tmp_path, free_port):
    """`gke(playbook, *arguments)` runs a playbook with inventories/gke filled in; `.requests()` is what the rehearsal was asked."""
    state = tmp_path / "rehearsal"
    command = [sys.executable, "-m", "rehearsal"]
    arguments = ["--state-dir", state, "--port", str(free_port), "--kubeconfig", kubeconfig]
    subprocess.run([*command, "start", *arguments], cwd=ROOT, check=True, timeout=120, capture_output=True)
    endpoint = f"http://127.0.0.1:{free_port}"

    def ask(path, body=None):
        request = urllib.request.Request(f"{endpoint}/rehearsal/{path}", json.dumps(body).encode() if body else None)
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=30) as answer:
            return json.load(answer)

    redirect = f"https://iap.googleapis.com/v1/oauth/clientIds/{CLIENT}:handleRedirect"
    ask("seed", {"oauthClients": {CLIENT: {"redirectUris": [redirect], "private:secret": SECRET}}})
    filled_in = {
        "platform_gcp_project": "rehearsal-project",
        "platform_admin_email": "engineer@example.com",
        "platform_domain": "gke.example.com",
        "oauth_iap_client_id": CLIENT,
        "oauth_iap_client_secret": SECRET,
        # instead of Google, of upstream and of the walk-through's Config Controller, whose resource types are in no package
        "platform_gcp_endpoint": endpoint,
        "platform_gcp_credentials_file": str(state / "credentials.json"),
        "mgmt_cluster_backend": "gke",
        "mgmt_cluster_kubeconfig": str(tmp_path / "kubeconfig"),
        "platform_source": "packages",
        "platform_release": "serving-1.14",
        "gpu_nodes_simulated": 1,  # as Molecule left the node
        "kubeflow_resources": {"requests": {"cpu": "5m", "memory": "32Mi"}},
    }
    values = tmp_path / "values.yml"
    values.write_text(yaml.safe_dump(filled_in))

    def run(playbook, *more):
        return play(playbook, "-i", "inventories/gke", *SMALL, "-e", f"@{values}", *more, timeout=900)

    run.endpoint = endpoint
    run.number = ask("state")["projects"][PROJECT]["projectNumber"]
    run.kubeconfig = tmp_path / "kubeconfig"
    run.requests = lambda since=0: ask(f"requests?since={since}")
    yield run
    subprocess.run([*command, "stop", "--state-dir", state], cwd=ROOT, check=True, timeout=60, capture_output=True)


def test_inventory_is_readable(play):
    checked = play("site.yml", "-i", "inventories/gke", "--syntax-check")
    assert checked.code == 0, checked.output
    listed = subprocess.run(["ansible-inventory", "-i", "inventories/gke", "--list"], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert listed.returncode == 0, listed.stderr
    variables = json.loads(listed.stdout)["_meta"]["hostvars"]
    assert [host["platform_gcp_project"] for host in variables.values()] == ["my-project"]


@pytest.fixture
def balanced(gke, kubeconfig, kubectl):
    """The cluster with GKE's load balancing; afterwards without it and without a login, as Molecule left it."""
    cluster = Cluster(kubeconfig)
    apply.apply(cluster, [BACKEND_CONFIGS, MANAGED_CERTIFICATES], "gke")
    with LoadBalancers(kubeconfig, gke.endpoint, PROJECT, "istio-ingress") as balancers:
        yield balancers
        opened = gke(
            "site.yml",
            "--tags",
            "kubeflow",
            "-e",
            "kubeflow_access=none",
            "-e",
            f"platform_kubeconfig={kubeconfig}",
            "-e",
            "platform_context=",
        )
    kubectl("delete", "secret", "kubeflow-oauth", "--namespace=istio-ingress", "--ignore-not-found")
    apply.remove(cluster, [BACKEND_CONFIGS, MANAGED_CERTIFICATES], "gke")
    assert opened.code == 0, opened.output
    assert kubectl("get", "ingresses,authorizationpolicies", "--namespace=istio-ingress", "--output=name") == ""


@pytest.mark.cluster
def test_from_an_empty_project_to_the_platform(gke, balanced, kubectl):
    looked = gke("playbooks/preflight.yml")
    assert looked.code == 0, looked.output
    changing = [request for request in gke.requests() if request["verb"] in ("PUT", "PATCH", "DELETE")]
    assert changing == []

    predicted = gke("site.yml", "--check")
    assert predicted.code == 0, predicted.output
    methods = {request["method"].rpartition(".")[2] for request in gke.requests()}
    assert methods & {"create", "insert", "batchEnable", "setIamPolicy"} == set()

    first = gke("site.yml", "-e", "platform_smoke=false")
    assert first.code == 0, first.output
    assert "gcp_apis speaks to the rehearsal" in first.text
    assert gke.kubeconfig.stat().st_mode & 0o077 == 0
    # the login: the load balancer has the client, and the gateway accepts the tokens that are made out to it
    [backend] = balanced.made.values()
    [rule] = json.loads(kubectl("get", "requestauthentication", "kubeflow-login", "--namespace=istio-ingress", "--output=json"))["spec"][
        "jwtRules"
    ]
    assert rule["audiences"] == [f"/projects/{gke.number}/global/backendServices/{balanced.ids[backend]}"]
    again = gke("site.yml", "-vvv", "--diff", "-e", "platform_smoke=false")
    assert again.code == 0, again.output
    assert again.recap("changed") == 0, again.output
    assert SECRET not in first.output + again.output
